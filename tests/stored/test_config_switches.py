"""A size that a switch decides, and the models that a config builds inside each other."""

from __future__ import annotations

import pytest

from tiecheck.records.stored import StoredTensor
from tiecheck.stored.config_fit import switch_doubt
from tiecheck.stored.config_values import Section, Spot, spots_of

PACKED = ["c_attn.weight", 0, ["multi_query"], [[[True], [[1, {"n_embd": 1}], [2, {"n_embd": 1, "n_head": -1}]]]]]
PACKED[3].append([[False], [[3, {"n_embd": 1}]]])  # type: ignore[attr-defined]


@pytest.mark.parametrize(("switch", "size", "told"), [(True, 80, False), (True, 192, True), (False, 80, True)])
def test_a_size_of_another_state_is_a_doubt(switch: bool, size: int, told: bool) -> None:
    section = Section("gpt_bigcode", {"n_embd": 64, "n_head": 8, "multi_query": switch})
    tensor = StoredTensor("c_attn.weight", "float32", (size, 64), 0, "model.safetensors", None)
    assert (switch_doubt(section, PACKED, tensor, "5") is not None) is told


def test_a_section_of_another_type_makes_a_foreign_spot() -> None:
    data = {"text_config": {"model_type": "llama"}, "vision_config": {"model_type": "siglip_vision_model"}}
    spots = [
        one for one in spots_of(Section("modernvbert", data), "ModernVBertModel", "", "5") if isinstance(one, Spot)
    ]
    assert {spot.section.kind: spot.foreign for spot in spots} == {
        "modernvbert": False,
        "siglip_vision_model": False,
        "llama": True,
    }
