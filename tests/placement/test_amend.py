"""A given map with a few keys changed: which are, and where no few will do."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from tiecheck.placement.model import device_lookup
from tiecheck.placement.proposal.propose import amended_map

GROUP = ("encoder.wte.weight", "decoder.wte.weight", "lm_head.weight")
REST = {"encoder.h": "cpu"}


def amend(device_map: dict[str, Any], *groups: tuple[str, ...]) -> Any:
    return amended_map(device_map, groups or (GROUP,), partial(device_lookup, loader="transformers"))


def test_the_key_of_the_one_that_stands_apart_is_changed() -> None:
    given = {"encoder.wte": "cpu", "decoder.wte": "disk", "lm_head": "disk", **REST}
    assert amend(given) == {**given, "encoder.wte": "disk"}


def test_a_module_without_a_key_gets_one_behind_the_others() -> None:
    given = {"encoder": 1, "decoder": 0, "lm_head": 0}
    assert list(amend(given).items()) == [*given.items(), ("encoder.wte", 0)]


@pytest.mark.parametrize(
    "given",
    [
        {"encoder": "cpu", "decoder": "disk", "lm_head": "disk"},
        {"encoder": "disk", "decoder": "cpu", "lm_head": "cpu"},
        {"": "cpu", "decoder": "disk", "lm_head": "disk"},
        {"encoder": "cpu", "decoder": 0, "lm_head": 0},  # with a GPU the CPU's modules are offloaded too
    ],
    ids=str,
)
def test_no_part_of_a_module_is_offloaded_alone(given: dict[str, Any]) -> None:
    assert amend(given) is None


def test_a_move_that_parts_another_group_is_none() -> None:
    given = {"encoder.wte": "cpu", "decoder.wte": "disk", "lm_head": "disk", "other": "cpu"}
    assert amend(given) == {**given, "encoder.wte": "disk"}
    assert amend(given, GROUP, ("encoder.wte.bias", "other.bias")) is None  # the bias would go back to the CPU
