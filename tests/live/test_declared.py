"""What the class of a live model declares, and how the declared members really hang together."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import nn
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    RobertaConfig,
    RobertaForMaskedLM,
    T5Config,
    T5ForConditionalGeneration,
)

from tiecheck.live import torch_adapter
from tiecheck.live.group_kind import judge_members
from tiecheck.live.live_facts import collect_live
from tiecheck.live.member_lookup import look_up
from tiecheck.live.module_graph import ModuleGraph
from tiecheck.live.transformers.declarations import read_declarations


def llama(tie=True):
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=16,
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            tie_word_embeddings=tie,
        )
    )


def gpt2(tie=True):
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=16, n_embd=8, n_layer=1, n_head=2, n_positions=8, tie_word_embeddings=tie)
    )


def t5(tie=True):
    return T5ForConditionalGeneration(
        T5Config(vocab_size=16, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, tie_word_embeddings=tie)
    )


def bart(tie=True):
    return BartForConditionalGeneration(
        BartConfig(
            vocab_size=16,
            d_model=8,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=8,
            decoder_ffn_dim=8,
            max_position_embeddings=8,
            tie_word_embeddings=tie,
        )
    )


HEADS = {llama: "model.embed_tokens.weight", gpt2: "transformer.wte.weight", t5: "shared.weight"}
HEADS[bart] = "model.shared.weight"


@pytest.mark.parametrize("build", HEADS)
def test_tied_as_declared(build):
    model = build()
    config = json.dumps(model.config.to_dict(), default=str)
    live = collect_live(model, origin="given")
    expected = model.get_expanded_tied_weights_keys(all_submodels=True)
    (declared,) = live.declared
    assert set(declared.names) == expected.keys() | set(expected.values())
    assert declared.source == HEADS[build]
    assert declared.by[:2] == (f"{type(model).__name__}._tied_weights_keys", "config.tie_word_embeddings")
    assert (declared.kind, declared.reason, declared.parts) == ("parameter", None, (declared.names,))
    assert [candidate.names for candidate in live.candidates] == [declared.names]
    assert live.flag is True
    assert live.library is not None
    assert live.library.startswith("transformers ")
    assert [tie.names for tie in live.ties] == [declared.names]
    assert json.dumps(model.config.to_dict(), default=str) == config


@pytest.mark.parametrize("build", [llama, gpt2, bart])  # transformers 5.23 T5Config sets the flag to true itself
def test_untied_by_config(build):
    live = collect_live(build(tie=False), origin="given")
    tied = collect_live(build(), origin="given")
    assert live.declared == ()
    assert live.flag is False
    assert [c.names for c in live.candidates] == [c.names for c in tied.candidates]
    assert {c.flag for c in live.candidates} == {False}


def broken_by_clone(head, weight):
    head.weight = nn.Parameter(weight.detach().clone())


def broken_by_new_values(head, weight):
    head.weight = nn.Parameter(torch.randn_like(weight))


def broken_by_parameter(head, weight):
    head.weight = nn.Parameter(weight)


def broken_by_data(head, weight):
    head.weight = nn.Parameter(torch.empty_like(weight))
    head.weight.data = weight.data


def broken_by_view(head, weight):
    head.weight = nn.Parameter(weight.detach()[1:])


def broken_by_size(head, weight):
    head.weight = nn.Parameter(weight.detach()[1:].clone())


@pytest.mark.parametrize("build", HEADS)
@pytest.mark.parametrize(
    ("break_it", "kind"),
    [
        (broken_by_clone, "copy"),
        (broken_by_new_values, "separate"),
        (broken_by_parameter, "storage"),
        (broken_by_data, "storage"),
        (broken_by_view, "overlap"),
        (broken_by_size, "separate"),
    ],
)
def test_broken_after_loading(build, break_it, kind):
    model = build()
    break_it(model.lm_head, model.get_parameter(HEADS[build]))
    assert model.all_tied_weights_keys  # still says tied: it is no evidence
    (declared,) = collect_live(model, origin="given").declared
    assert (declared.kind, declared.reason) == (kind, None)
    rest = tuple(name for name in declared.names if name != "lm_head.weight")
    assert declared.parts == tuple(sorted([rest, ("lm_head.weight",)], key=lambda part: (-len(part), part)))


def test_on_meta_separate_objects_are_separate():
    with torch.device("meta"):
        model = llama(tie=False)
    model.config.tie_word_embeddings = True
    (declared,) = collect_live(model, origin="built on meta").declared
    assert declared.kind == "separate"
    assert declared.reason == "on meta: the bytes cannot be read, identity is decisive"
    model.tie_weights()
    assert collect_live(model, origin="built on meta").declared[0].kind == "parameter"


def test_an_aliased_head_is_of_kind_module():
    model = llama(tie=False)
    model.config.tie_word_embeddings = True
    model.lm_head = model.model.embed_tokens
    (declared,) = collect_live(model, origin="given").declared
    assert declared.kind == "module"


def test_a_member_that_is_computed_or_gone_is_absent():
    model = llama()
    nn.utils.parametrizations.weight_norm(model.lm_head)
    (declared,) = collect_live(model, origin="given").declared
    assert (declared.kind, declared.reason) == ("absent", "`lm_head.weight` is computed by a parametrization")
    assert declared.parts == (("model.embed_tokens.weight",),)
    del model.lm_head
    (declared,) = collect_live(model, origin="given").declared
    assert (declared.kind, declared.reason) == ("absent", "`lm_head.weight` does not exist")


def test_a_wrapped_head_passes_its_weight_on():
    class Adapter(nn.Module):
        def __init__(self, base):
            super().__init__()
            self.base_layer = base

        @property
        def weight(self):
            return self.base_layer.weight

    model = llama()
    model.lm_head = Adapter(model.lm_head)
    assert collect_live(model, origin="given").declared[0].kind == "parameter"


def test_models_inside_a_plain_module_count_under_their_paths():
    model = nn.Module()
    model.parts = nn.ModuleList([llama(), gpt2(tie=False)])
    live = collect_live(model, origin="given")
    (declared,) = live.declared
    assert declared.names == ("parts.0.lm_head.weight", "parts.0.model.embed_tokens.weight")
    assert declared.by == ("LlamaForCausalLM._tied_weights_keys", "parts.0.config.tie_word_embeddings")
    assert declared.kind == "parameter"
    found = {candidate.names: candidate.flag for candidate in live.candidates}
    assert found == {declared.names: True, ("parts.1.lm_head.weight", "parts.1.transformer.wte.weight"): False}


def test_a_model_under_two_paths_declares_under_both():
    inner = llama()
    live = collect_live(nn.ModuleList([inner, inner]), origin="given")
    assert [declared.names[0] for declared in live.declared] == ["0.lm_head.weight", "1.lm_head.weight"]


class Custom(PreTrainedModel):
    """A model with regex keys, whose declaration each test sets."""

    config_class = LlamaConfig
    _tied_weights_keys = {r"heads\.(?!0)\d+": "heads.0", "out.weight": "emb.weight"}  # noqa: RUF012

    def __init__(self, config):
        super().__init__(config)
        self.emb = nn.Embedding(8, 4)
        self.out = nn.Linear(4, 8, bias=False)
        self.heads = nn.ModuleList([nn.Linear(2, 2) for _ in range(3)])
        self.post_init()

    def _init_weights(self, module):
        pass


def custom(tie=True):
    return Custom(LlamaConfig(tie_word_embeddings=tie))


def test_patterns_are_expanded_as_transformers_does_it():
    model = custom()
    model.tie_weights()
    live = collect_live(model, origin="given")
    assert [(declared.names, declared.source, declared.kind) for declared in live.declared] == [
        (("emb.weight", "out.weight"), "emb.weight", "parameter"),
        (("heads.0.bias", "heads.1.bias", "heads.2.bias"), "heads.0.bias", "parameter"),
        (("heads.0.weight", "heads.1.weight", "heads.2.weight"), "heads.0.weight", "parameter"),
    ]
    untied = collect_live(custom(tie=False), origin="given").candidates
    assert [c.names for c in untied] == [c.names for c in live.candidates]


def test_half_tied_groups_show_their_parts():
    model = custom()
    model.tie_weights()
    model.heads[2].weight = nn.Parameter(torch.ones(2, 2))
    declared = collect_live(model, origin="given").declared[2]
    assert declared.kind == "separate"
    assert declared.parts == (("heads.0.weight", "heads.1.weight"), ("heads.2.weight",))
    model.heads[2].weight = nn.Parameter(model.heads[0].weight.detach().clone())
    assert collect_live(model, origin="given").declared[2].kind == "copy"


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        (["out.weight"], "is a list, which names no sources"),
        ({"nowhere": "emb"}, "There is an issue with your definition"),
        ({"(": "emb"}, ""),
        (7, "is an int"),
    ],
)
@pytest.mark.parametrize("tie", [True, False])
def test_a_declaration_that_cannot_be_read_is_none_with_a_reason(keys, reason, tie):
    model = custom()
    model.config.tie_word_embeddings = tie
    model._tied_weights_keys = keys
    live = collect_live(model, origin="given")
    assert (live.declared, live.candidates) == ((), ())
    found = read_declarations(ModuleGraph(model), 32)
    if keys == {"nowhere": "emb"} and not tie:  # nothing reads them: what is wrong is told, and nothing is unknown
        assert found.reasons == ()
        assert [(p.form, p.flag) for p in found.problems] == [("nothing", False)]
        return
    (said,) = found.reasons
    assert said.startswith("Custom: ")
    assert reason in said


def test_a_declaration_is_not_expanded_over_endless_names():
    model = custom()
    model.heads[0].up = model
    live = collect_live(model, origin="given")
    assert live.declared == ()
    (said,) = read_declarations(ModuleGraph(model), 32).reasons
    assert "too many names" in said


def test_looking_changes_nothing():
    model = custom()
    before = copy.deepcopy({key: value for key, value in vars(model.config).items() if key != "_attn_implementation"})
    names = [(name, id(parameter)) for name, parameter in model.named_parameters(remove_duplicate=False)]
    attributes = set(vars(model))
    collect_live(model, origin="given")
    assert {key: value for key, value in vars(model.config).items() if key != "_attn_implementation"} == before
    assert [(name, id(parameter)) for name, parameter in model.named_parameters(remove_duplicate=False)] == names
    assert set(vars(model)) == attributes


def holding(*tensors):
    return nn.ParameterList([nn.Parameter(tensor, requires_grad=False) for tensor in tensors])


def kind_of(*tensors):
    model = holding(*tensors)
    verdict = judge_members([look_up(model, str(i)) for i in range(len(tensors))])
    return verdict.kind, verdict.reason


@pytest.mark.parametrize(
    ("a", "b", "kind"),
    [
        (torch.ones(3), torch.ones(3), "copy"),
        (torch.ones(3), torch.zeros(3), "separate"),
        (torch.ones(3), torch.ones(3, dtype=torch.float64), "separate"),
        (torch.ones(3), torch.ones(3, 1), "separate"),
        (torch.zeros(2), -torch.zeros(2), "separate"),
        (torch.full((2,), torch.nan), torch.full((2,), torch.nan), "copy"),
        (torch.arange(6.0).reshape(2, 3).t(), torch.arange(6.0).reshape(2, 3).t().contiguous(), "copy"),
        (torch.ones(3, dtype=torch.bool), torch.ones(3, dtype=torch.bool), "copy"),
        (torch.tensor(1.0), torch.tensor(1.0), "copy"),
        (torch.ones(2, dtype=torch.complex64), torch.ones(2, dtype=torch.complex64), "copy"),
    ],
)
def test_bytes_decide_between_copy_and_separate(a, b, kind):
    assert kind_of(a, b) == (kind, None)


@pytest.mark.parametrize("shape", [(40,), (7, 9), (3, 4, 5), (1, 60), (60, 1)])
@pytest.mark.parametrize("transposed", [False, True])
def test_comparing_goes_by_chunks_to_the_last_byte(shape, transposed, monkeypatch):
    monkeypatch.setattr(torch_adapter, "CHUNK", 16)
    a = torch.randn(shape)
    b = a.clone()
    if transposed:
        a, b = a.transpose(0, -1), b.transpose(0, -1)
    assert torch_adapter.equal_bytes(a, b)
    b.view(b.shape)[(-1,) * b.dim()] += 1
    assert not torch_adapter.equal_bytes(a, b)


def test_what_cannot_be_read_is_unknown():
    kind, reason = kind_of(torch.empty(0), torch.empty(0))
    assert (kind, reason) == ("unknown", "the members have no elements")
    kind, reason = kind_of(torch.eye(2).to_sparse(), torch.eye(2).to_sparse())
    assert kind == "unknown"
    assert "cannot be told" in reason
    model = holding(torch.ones(2), torch.ones(2))
    model[0].ds_id = 1
    verdict = judge_members([look_up(model, "0"), look_up(model, "1")])
    assert (verdict.kind, verdict.reason) == ("unknown", "the parameter is partitioned by DeepSpeed ZeRO-3")


def test_lazy_members_are_separate_by_identity():
    model = nn.Sequential(nn.LazyLinear(2), nn.LazyLinear(2))
    verdict = judge_members([look_up(model, "0.weight"), look_up(model, "1.weight")])
    assert (verdict.kind, verdict.reason) == ("separate", "not initialised yet: identity is decisive")


def test_half_on_meta_is_separate():
    kind, reason = kind_of(torch.ones(2), torch.ones(2, device="meta"))
    assert kind == "separate"
    assert reason.startswith("on meta")


@pytest.mark.parametrize("operation", ["int8", "plain", "normed"])
def test_a_member_that_is_no_parameter_any_more_is_the_reason_and_not_the_librarys_list_of_names(
    operation: str,
) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = RobertaForMaskedLM(RobertaConfig(**sizes, vocab_size=32))
    decoder = model.lm_head.decoder
    if operation == "int8":
        model.lm_head.decoder = nn.Module()
    elif operation == "plain":
        value = decoder._parameters.pop("weight").detach()
        decoder.weight = value
    else:
        nn.utils.parametrizations.weight_norm(decoder)
    with pytest.raises(ValueError, match="tie_weights_keys"):
        model.tie_weights()
    (said,) = collect_live(model, origin="given").reasons
    assert said.endswith("RobertaForMaskedLM.tie_weights() raises a ValueError over it")
    assert "`lm_head.decoder.weight`" in said


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_under_a_false_flag_a_key_that_fits_nothing_leaves_the_other_groups_possible(lost: int) -> None:
    model = custom(tie=False)
    keys = [("out.weight", "emb.weight"), ("heads.1.weight", "heads.0.weight"), ("heads.2.bias", "heads.0.bias")]
    model._tied_weights_keys = dict(keys)
    whole = {one.names for one in collect_live(model, origin="given").candidates}
    assert whole == {tuple(sorted(pair)) for pair in keys}
    path, _, attribute = keys[lost][0].rpartition(".")
    delattr(model.get_submodule(path), attribute)
    left = {one.names for one in collect_live(model, origin="given").candidates}
    assert left == whole - {tuple(sorted(keys[lost]))}
