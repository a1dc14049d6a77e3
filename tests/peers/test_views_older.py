"""The tools of other times: accelerate's old functions out of their wheels."""

from __future__ import annotations

import ast
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from declared_models import STATES, Config, Declared, Undeclared
from zoo_of_ties import by_column, every_row

from tiecheck.peers.views.registry import ask_tools

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

FINDERS: dict[str, str] = {"0.33.0": "0.18-0.33", "0.34.2": "0.34-", "1.2.1": "0.34-"}
CHECKS: dict[str, str] = {"0.33.0": "0.21-1.6", "1.2.1": "0.21-1.6", "1.6.0": "0.21-1.6"}
NEEDED = {
    "FindTiedParametersResult",
    "_get_named_modules",
    "_get_named_parameters",
    "check_tied_parameters_in_config",
    "find_tied_parameters",
}
"""What they are made of, as far as a release has it."""


@pytest.fixture(scope="session")
def wheels(tmp_path_factory) -> Path:
    """The wheels of accelerate, from the package index; nothing of them is installed."""
    folder = tmp_path_factory.mktemp("wheels")
    for release in FINDERS | CHECKS:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        subprocess.run([*command, f"accelerate=={release}", "--dest", str(folder)], check=True)
    return folder


def functions(folder: Path, release: str) -> dict[str, Callable[[Any], Any]]:
    """The functions of a release that look for ties, executed alone: the whole file no longer imports."""
    import inspect
    import typing

    import torch
    from torch import nn

    (wheel,) = folder.glob(f"accelerate-{release}-*.whl")
    with zipfile.ZipFile(wheel) as file:
        tree = ast.parse(file.read("accelerate/utils/modeling.py"))
    tree.body = [node for node in tree.body if getattr(node, "name", None) in NEEDED]
    names = {**vars(typing), "torch": torch, "nn": nn, "inspect": inspect}
    exec(compile(tree, f"accelerate-{release}", "exec"), names)
    return names


@every_row
@pytest.mark.parametrize("release", FINDERS)
def test_the_old_finders(built, wheels, release):
    _, model = built
    find = functions(wheels, release)["find_tied_parameters"]
    view = by_column(ask_tools(model))["accelerate", "find_tied_parameters", FINDERS[release]]
    try:
        found = find(model)
    except RecursionError:
        assert view.error == "RecursionError: maximum recursion depth exceeded"
        return
    pairs = found.items() if isinstance(found, dict) else found
    assert view.error is None
    assert view.groups == tuple(sorted(tuple(sorted(group)) for group in pairs))


@pytest.mark.parametrize("model_class", [Declared, Undeclared])
@pytest.mark.parametrize("flag", [True, False])
@pytest.mark.parametrize("release", CHECKS)
def test_the_old_config_checks(wheels, release, flag, model_class):
    check = functions(wheels, release)["check_tied_parameters_in_config"]
    for change in [None, *(state[0] for state in STATES)]:
        model = model_class(Config(tie_word_embeddings=flag))
        if change is not None:
            change(model)
        view = by_column(ask_tools(model))["accelerate", "check_tied_parameters_in_config", CHECKS[release]]
        assert view.says == bool(check(model))
