"""How the libraries look a name up in a device map, against their own functions."""

from __future__ import annotations

import pytest
from accelerate.utils.modeling import _get_param_device
from hypothesis import given
from hypothesis import strategies as st
from transformers.integrations.accelerate import get_device

from tiecheck.placement.map_lookup import by_accelerate, by_transformers, device_word

PARTS = ("model", "embed", "embed_tokens", "layers", "1", "10", "lm_head", "weight")
NAMES = st.lists(st.sampled_from(PARTS), min_size=1, max_size=4).map(".".join)
MAPS = st.dictionaries(st.one_of(st.just(""), NAMES), st.sampled_from(["cpu", "disk", 0, 1]), max_size=5)


@given(MAPS, NAMES)
def test_transformers_looks_up_as_we_do(device_map: dict[str, int | str], name: str) -> None:
    if device_map:  # an empty one is refused where it is read
        assert by_transformers(device_map, name) == device_word(get_device(device_map, name))


@given(MAPS, NAMES)
def test_accelerate_looks_up_as_we_do(device_map: dict[str, int | str], name: str) -> None:
    device = by_accelerate(device_map, name)
    if device is None:
        with pytest.raises(ValueError, match=r"does not contain the module \."):
            _get_param_device(name, device_map)
    else:
        assert device == device_word(_get_param_device(name, device_map))


def test_a_key_that_ends_within_a_word() -> None:
    device_map = {"model.embed": "disk", "model": "cpu"}
    assert by_transformers(device_map, "model.embed_tokens.weight") == "disk"
    assert by_accelerate(device_map, "model.embed_tokens.weight") == "cpu"


def test_a_name_that_no_key_has() -> None:
    assert by_transformers({"model": "disk"}, "lm_head.weight") == "cpu"
    assert by_accelerate({"model": "disk"}, "lm_head.weight") is None


def test_one_device_in_several_words() -> None:
    import torch

    assert {device_word(word) for word in (0, "cuda", "cuda:0", torch.device("cuda", 0))} == {"cuda:0"}
