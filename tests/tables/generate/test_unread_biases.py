"""The biases of tied groups that no forward pass reads are told by a pass of the real class."""

from __future__ import annotations

import copy

import pytest
from zoo import animal, by_name

import tiecheck
from tiecheck.tables.architectures import load_architecture
from tiecheck.tables.generate.build import build_on_meta, groups_of
from tiecheck.tables.generate.head_scale import unread_biases

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("quiet")]


@pytest.mark.parametrize(
    "name", ["AlbertForMaskedLM", "BertForPreTraining", "BlipForQuestionAnswering", "RobertaForCausalLM"]
)
def test_what_no_forward_pass_reads_is_in_the_table(name: str) -> None:
    one = animal(by_name(name))
    groups = [
        names
        for names in groups_of(build_on_meta(one.model_class, one.config_class, one.data))
        if names[0].endswith("bias")
    ]
    told = unread_biases(one.model_class, one.config_class, copy.deepcopy(one.data), groups)
    assert set(told) == load_architecture(name, one.config_class.model_type).unread
    apart = build_on_meta(one.model_class, one.config_class, one.data | {"tie_word_embeddings": False})
    members = {name for names in groups for name in names}
    seen = {name for use in tiecheck.uses(apart) if use.role == "unread" for name in use.names} & members
    assert seen == set(told)
    assert len(told) < len(members)
