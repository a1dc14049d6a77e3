"""TIE306, TIE307 and TIE308: groups that grew apart, as transformers lets them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from live_failures import bart, bert, found, said, small_llama
from torch import nn
from transformers import (
    LlamaForCausalLM,
)

import tiecheck
from tiecheck.rules.live.groups import HalfTiedGroup, StaleTie, TiedBiasOutOfStep


def test_an_embedding_of_another_size_leaves_the_head_behind() -> None:
    model = small_llama()
    model.set_input_embeddings(nn.Embedding(40, 16))
    assert found(model) == {StaleTie.code: "error"}
    assert model(torch.tensor([[39]])).logits.shape[-1] == 32, "the new tokens cannot be predicted"
    resized = small_llama()
    resized.resize_token_embeddings(40)
    assert found(resized) == {}


class Swapped(LlamaForCausalLM):
    """Takes its words in by an embedding of its own, which the tie does not reach."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.new_tokens = nn.Embedding(config.vocab_size, config.hidden_size)

    def get_input_embeddings(self) -> nn.Module:
        return self.new_tokens


def test_the_getter_returns_an_embedding_beside_the_tie() -> None:
    model = small_llama(Swapped)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert found(model) == {StaleTie.code: "error"}
    assert "new_tokens.weight" in said(model, StaleTie.code)


@pytest.mark.parametrize("member", ["lm_head", "model.decoder.embed_tokens"])
def test_one_member_of_a_larger_group_leaves(member: str) -> None:
    model = bart()
    assert found(model) == {}
    owner = model.get_submodule(member)
    owner.weight = nn.Parameter(owner.weight.detach().clone())
    assert found(model) == {HalfTiedGroup.code: "error"}
    assert f"{member}.weight is not" in said(model, HalfTiedGroup.code)


def test_set_input_embeddings_leaves_the_head_of_a_bart_behind() -> None:
    model = bart()
    model.set_input_embeddings(nn.Embedding(32, 16, padding_idx=1))
    assert model.lm_head.weight is not model.model.shared.weight
    assert found(model) == {HalfTiedGroup.code: "error", "TIE303": "info"}, "the swap registers one module three times"


def test_a_second_bias_beside_a_tied_weight() -> None:
    model = bert()
    assert found(model) == {}
    head = model.cls.predictions
    head.decoder.bias = nn.Parameter(torch.ones(32))
    assert found(model) == {TiedBiasOutOfStep.code: "error"}


def test_a_tied_head_whose_bias_has_the_old_length() -> None:
    model = nn.ModuleDict({"emb": nn.Embedding(40, 16), "head": nn.Linear(16, 32)})
    model["head"].weight = model["emb"].weight
    with pytest.raises(RuntimeError, match="must match"):
        model["head"](torch.zeros(2, 16))
    assert found(model) == {TiedBiasOutOfStep.code: "error"}


LABELLED = [
    "BertForMaskedLM",
    "RobertaForMaskedLM",
    "CamembertForMaskedLM",
    "ElectraForMaskedLM",
    "LayoutLMForMaskedLM",
]
LABELLED += ["MegatronBertForMaskedLM", "Data2VecTextForMaskedLM", "XLMRobertaForMaskedLM", "ErnieForMaskedLM"]
"""Classes that declare two biases of their head as one."""


def loads_again(model: Any, where: Path) -> bool:
    model.save_pretrained(where)
    try:
        type(model).from_pretrained(where)
    except RuntimeError:
        return False
    return True


@pytest.mark.parametrize("name", ["Data2VecTextForMaskedLM", *random.Random(1212).sample(LABELLED, 3)])
def test_under_a_false_flag_one_of_two_biases_may_not_be_resized(name: str, tmp_path: Path) -> None:
    cls = getattr(transformers, name)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = cls(cls.config_class(**sizes, vocab_size=32, tie_word_embeddings=False))
    target = next(target for target in model._tied_weights_keys if target.endswith("bias"))
    model.get_submodule(target.rpartition(".")[0]).bias = nn.Parameter(torch.zeros(32))
    assert TiedBiasOutOfStep.code not in found(model)
    model.resize_token_embeddings(40, mean_resizing=False)
    sound = loads_again(model, tmp_path)
    assert (TiedBiasOutOfStep.code in found(model)) is not sound
    for finding in tiecheck.check(model).targets[0].findings:
        if finding.code == TiedBiasOutOfStep.code:
            exec(finding.edits[0].steps[0].code, {"model": model})
    assert TiedBiasOutOfStep.code not in found(model)
    assert loads_again(model, tmp_path)


def test_the_logits_bias_of_a_bart_that_was_grown_by_hand() -> None:
    model = bart()
    model.set_input_embeddings(nn.Embedding(40, 16, padding_idx=1))
    model.tie_weights()
    with pytest.raises(RuntimeError, match="must match"):
        model(torch.tensor([[3, 4]]))
    assert found(model) == {TiedBiasOutOfStep.code: "error", "TIE303": "info"}
    model = bart()
    model.resize_token_embeddings(40)
    assert found(model) == {"TIE303": "info"}


def test_a_head_that_is_a_view_of_the_embedding_is_not_tied(tmp_path: Path) -> None:
    model = small_llama()
    model.lm_head.weight = nn.Parameter(model.lm_head.weight[:20])
    assert found(model) == {StaleTie.code: "error", "TIE317": "error"}, "the tie is gone, and a step writes into both"
    with pytest.raises(RuntimeError, match="shared tensors"):
        model.save_pretrained(tmp_path)
