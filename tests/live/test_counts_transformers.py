"""Parameter counts of transformers' classes: against its own counts, and with declared ties broken."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import nn

import tiecheck
from tiecheck.records.counts import Tally

pytestmark = pytest.mark.filterwarnings("ignore")

LAYERS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers", "encoder_layers", "decoder_layers")

CLASSES = (
    "AlbertForMaskedLM",
    "BartForConditionalGeneration",
    "BertForMaskedLM",
    "BloomForCausalLM",
    "DistilBertForMaskedLM",
    "ElectraForMaskedLM",
    "FalconForCausalLM",
    "Gemma2ForCausalLM",
    "GPT2LMHeadModel",
    "GPTNeoXForCausalLM",
    "LlamaForCausalLM",
    "MarianMTModel",
    "MistralForCausalLM",
    "OPTForCausalLM",
    "Olmo2ForCausalLM",
    "PegasusForConditionalGeneration",
    "Phi3ForCausalLM",
    "Qwen2ForCausalLM",
    "RobertaForMaskedLM",
    "T5ForConditionalGeneration",
    "ViTForImageClassification",
    "XLNetLMHeadModel",
)


def built(name: str, **changes: Any) -> Any:
    """A class on meta with one layer, its own widths kept."""
    cls = getattr(transformers, name)
    config = cls.config_class()
    for key in LAYERS:
        if isinstance(getattr(config, key, None), int):
            setattr(config, key, 1)
    for key, value in changes.items():
        setattr(config, key, value)
    with torch.device("meta"):
        return cls(config)


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_counts_as_transformers_counts_it(name: str) -> None:
    model = built(name)
    counts = tiecheck.count_parameters(model)
    assert counts.unique.elements == counts.objects.elements == counts.expected.elements == model.num_parameters()
    assert counts.unique.trainable == model.num_parameters(only_trainable=True)
    assert counts.unique.nbytes == sum(p.nbytes for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "duplicates"),
    [
        ("GPT2LMHeadModel", ("lm_head.weight",)),
        ("LlamaForCausalLM", ("lm_head.weight",)),
        ("T5ForConditionalGeneration", ("lm_head.weight", "encoder.embed_tokens.weight")),
        ("BartForConditionalGeneration", ("lm_head.weight", "model.decoder.embed_tokens.weight")),
    ],
)
def test_expected_is_what_it_would_be_if_the_declared_ties_held(name: str, duplicates: tuple[str, ...]) -> None:
    model = built(name, tie_word_embeddings=True)
    model.tie_weights()
    whole = tiecheck.count_parameters(model)
    assert whole.unique == whole.expected
    for duplicate in duplicates:
        owner, _, attribute = duplicate.rpartition(".")
        old = model.get_parameter(duplicate)
        setattr(model.get_submodule(owner), attribute, nn.Parameter(torch.empty_like(old)))
    broken = tiecheck.count_parameters(model)
    assert broken.unique.elements == whole.unique.elements + len(duplicates) * old.numel()
    assert broken.expected == whole.unique


def test_a_storage_tie_of_a_declared_group_is_no_duplicate() -> None:
    model = built("GPT2LMHeadModel")
    whole = tiecheck.count_parameters(model)
    model.lm_head.weight = nn.Parameter(model.transformer.wte.weight)
    counts = tiecheck.count_parameters(model)
    assert counts.unique == counts.expected == whole.unique
    assert counts.objects.elements == whole.unique.elements + model.lm_head.weight.numel()


def test_a_member_that_a_third_module_holds_is_not_saved_by_the_tie() -> None:
    model = built("GPT2LMHeadModel")
    model.lm_head.weight = nn.Parameter(torch.empty_like(model.lm_head.weight))
    model.kept = model.lm_head.weight
    counts = tiecheck.count_parameters(model)
    assert counts.expected == counts.unique


def test_untied_by_the_flag_is_expected_as_it_is() -> None:
    model = built("LlamaForCausalLM", tie_word_embeddings=False)
    counts = tiecheck.count_parameters(model)
    assert counts.expected == counts.unique
    assert counts.unique.elements == model.num_parameters()


def test_a_declaration_that_cannot_be_read_leaves_expected_unknown() -> None:
    model = built("GPT2LMHeadModel")
    model._tied_weights_keys = ["lm_head.weight"]
    counts = tiecheck.count_parameters(model)
    assert counts.expected == Tally(None, None, None)
    assert counts.unique.elements == model.num_parameters()
    assert any(reason.startswith("what is expected cannot be told: ") for reason in counts.reasons)


def test_a_parametrized_head_leaves_expected_unknown() -> None:
    model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=16, n_positions=8)
    )
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    nn.utils.parametrizations.weight_norm(model.lm_head)
    counts = tiecheck.count_parameters(model)
    assert counts.expected.elements is None
    assert any("parametrization" in reason for reason in counts.reasons)


def small() -> Any:
    config = transformers.GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=16, n_positions=8)
    return transformers.GPT2LMHeadModel(config)


def test_a_wrapper_changes_no_count() -> None:
    model = small()
    whole = tiecheck.count_parameters(model)
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    for wrapped in (nn.DataParallel(model), torch.compile(model)):
        counts = tiecheck.count_parameters(wrapped)
        assert counts.expected == whole.unique
        assert counts.objects.elements == model.num_parameters()


def test_a_contract_of_the_users_own_is_a_declaration() -> None:
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    (target,) = tiecheck.inspect(model, ties=[["0.weight", "1.weight"]]).targets
    assert (target.counts.unique.elements, target.counts.expected.elements) == (32, 16)
