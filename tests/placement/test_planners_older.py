"""The planners of other releases, out of their wheels, against the reproduction of each."""

from __future__ import annotations

import ast
import inspect
import random
import re
import typing
import warnings
from collections import OrderedDict, defaultdict
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from older import layer
from planner_models import random_ask, random_model, random_pretrained

from tiecheck.placement.planners.plans import reproduce, sizes_of
from tiecheck.placement.planners.running import captured

pytestmark = pytest.mark.slow

ACCELERATE = ("0.25.0", "0.26.1", "0.27.2", "0.28.0", "0.33.0", "0.34.2", "1.1.1", "1.2.1", "1.3.0", "1.6.0", "1.14.0")
TRANSFORMERS = ("5.0.0", "5.12.0", "5.13.0", "5.15.0", "5.16.0")
NEEDED = {
    "FindTiedParametersResult",
    "_get_named_modules",
    "_get_named_parameters",
    "_get_param_device",
    "_get_proper_dtype",
    "_init_infer_auto_device_map",
    "check_tied_parameters_on_same_device",
    "clean_device_map",
    "compute_module_sizes",
    "compute_module_total_buffer_size",
    "fallback_allocate",
    "find_tied_parameters",
    "get_max_layer_size",
    "get_module_size_with_ties",
    "infer_auto_device_map",
    "named_module_tensors",
}
"""What their planners are made of, as far as a release has it; what asks the machine is the installed one's."""


@cache
def planner(package: str, release: str) -> Any:
    """`infer_auto_device_map` of a release, executed without the rest of it: the whole package no longer imports."""
    import torch
    from accelerate.utils import modeling
    from torch import nn

    place = "utils/modeling.py" if package == "accelerate" else "integrations/accelerate.py"
    text = (Path(layer(f"{package}=={release}")) / package / place).read_text(encoding="utf-8")
    tree = ast.parse("from __future__ import annotations\n" + text)
    kept = [node for node in tree.body if getattr(node, "name", None) in NEEDED]
    tree.body = [tree.body[0], *kept]
    names: dict[str, Any] = {**vars(typing), "torch": torch, "nn": nn, "inspect": inspect, "re": re}
    names |= {"OrderedDict": OrderedDict, "defaultdict": defaultdict, "warnings": warnings, "logger": modeling.logger}
    names |= {name: vars(modeling)[name] for name in ("get_max_memory", "dtype_byte_size", "clean_device_map")}
    names = {
        "get_max_layer_size": modeling.get_max_layer_size,
        "get_module_size_with_ties": modeling.get_module_size_with_ties,
    } | names
    names |= {"check_tied_parameters_in_config": lambda model: False}
    exec(compile(tree, f"{package}-{release}", "exec"), names)
    return names["infer_auto_device_map"]


def given(work: Any) -> tuple[dict[str, Any], str | None]:
    """A map, or what is raised."""
    with captured([]):
        try:
            return dict(work()), None
        except (IndexError, ValueError, AttributeError, KeyError) as error:
            return {}, f"{type(error).__name__}: {error}"


@pytest.mark.parametrize("release", ACCELERATE)
def test_an_older_accelerate(release):
    infer, crashes, maps = planner("accelerate", release), 0, 0
    for seed in range(1500):
        draw = random.Random(seed)
        model = random_model(draw)
        ask = random_ask(draw, max(8, sum(one.nbytes for one in sizes_of(model))))
        ask = ask._replace(strategy="sequential")  # how older ones balance is not reproduced
        words = {"no_split_module_classes": list(ask.no_split or ()), "dtype": ask.dtype}
        real, error = given(lambda m=model, a=ask, w=words: infer(m, max_memory=dict(a.memory), **w))
        ours = reproduce(model, "accelerate", release, ask)
        assert (ours.crash and ours.crash.error) == error, (seed, ours, real)
        assert dict(ours.device_map) == real, (seed, ours, real)
        if error is not None and error.startswith("IndexError"):
            assert any(_covers(versions, release) for versions in ours.crash.versions), (seed, ours.crash)
        crashes += error is not None
        maps += error is None
    assert crashes > 100
    assert maps > 500


@pytest.mark.parametrize("release", TRANSFORMERS)
def test_an_older_transformers(release):
    infer, crashes, maps = planner("transformers", release), 0, 0
    for seed in range(1000):
        draw = random.Random(seed)
        model = random_pretrained(draw)
        ask = random_ask(draw, max(8, sum(one.nbytes for one in sizes_of(model))))
        ask = ask._replace(strategy="sequential")
        words: dict[str, Any] = {"no_split_module_classes": sorted(model._no_split_modules or ())}
        if "no_placement_params" in inspect.signature(infer).parameters:
            words["no_placement_params"] = getattr(model, "_no_placement_params", None)
        real, error = given(lambda m=model, a=ask, w=words: infer(m, max_memory=dict(a.memory), **w))
        ours = reproduce(model, "transformers", release, ask)
        assert (ours.crash and ours.crash.error) == error, (seed, ours, real)
        assert dict(ours.device_map) == real, (seed, ours, real)
        crashes += error is not None
        maps += error is None
    assert crashes > 100
    assert maps > 300


def _covers(versions: str, release: str) -> bool:
    """Whether a range like `0.26-1.1` holds a release."""
    first, dash, last = versions.partition("-")
    number = tuple(map(int, release.split(".")[:2]))
    begin, end = tuple(map(int, first.split("."))), tuple(map(int, last.split("."))) if last else (99, 0)
    return begin <= number <= (end if dash else begin)
