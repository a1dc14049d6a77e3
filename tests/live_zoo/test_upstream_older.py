"""The control of `test_upstream.py`: transformers 4.57.6 loads the same checkpoint and ties what 5.23 leaves random."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from older import run_older
from safetensors.torch import load_file
from test_upstream import FSMT, GATED, INERT_BY_DEFAULT, name_of, saved_without, with_text_flag
from test_zoo import animal, by_name

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

SCRIPT = Path(__file__).parents[1] / "support" / "loading.py"

Pair = tuple[str, str]


def head_pair(model: Any) -> Pair:
    """The names of head and embedding."""
    return name_of(model, model.get_output_embeddings().weight), name_of(model, model.get_input_embeddings().weight)


def loaded_by_older(model: Any, where: Path, dropped: str, kept: str) -> list[str]:
    """What 4.57.6 makes of a checkpoint that holds one member of a pair: the outcome and its detail."""
    saved_without(model, where, dropped)
    value = model.get_parameter(kept)
    stored = load_file(where / "model.safetensors")
    name = next(key for key, tensor in stored.items() if tensor.shape == value.shape and torch.equal(tensor, value))
    group = {"names": [dropped, kept], "source": kept, "stored": {kept: name}}
    (where / "cells.json").write_text(json.dumps([{"path": str(where), "groups": [group]}]))
    run = run_older(str(SCRIPT), str(where / "cells.json"))
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.strip().splitlines()[-1])["outcomes"][0]


CASES: dict[str, Callable[[], tuple[Any, Pair]]] = {}


def of(model: Any, pair: Pair | None = None) -> tuple[Any, Pair]:
    """A model with the member to drop and the one to keep."""
    return model, pair or head_pair(model)


for _name in INERT_BY_DEFAULT:
    CASES[f"u3-{_name}"] = lambda name=_name: of(animal(by_name(name)).model())
CASES["u4-FSMT"] = lambda: of(animal(by_name("FSMTForConditionalGeneration")).model(), FSMT)
for _name, _pair in GATED:
    CASES[f"u5-{_name}"] = lambda name=_name, pair=_pair: of(animal(by_name(name)).model(value=False), pair)
for _name in ("LlavaNextForConditionalGeneration", "VipLlavaForConditionalGeneration"):
    CASES[f"u6-{_name}"] = lambda name=_name: of(with_text_flag(animal(by_name(name))))


@pytest.mark.parametrize("case", CASES)
def test_4_57_ties_what_5_leaves_random(tmp_path: Path, case: str) -> None:
    model, (dropped, kept) = CASES[case]()
    assert loaded_by_older(model, tmp_path, dropped, kept) == ["tied", ""]
