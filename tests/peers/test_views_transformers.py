"""transformers' and PEFT's views, and accelerate's config check, on real `PreTrainedModel`s in each of their states."""

from __future__ import annotations

import pytest
import torch
from declared_models import (
    EMB_LIN,
    STATES,
    Config,
    Declared,
    Undeclared,
    aliased,
    equal,
    llama,
    one,
    tied,
    tied_elsewhere,
)
from torch import nn
from transformers import (
    PretrainedConfig,
    T5Config,
    T5ForConditionalGeneration,
)

from tiecheck.peers.views.registry import ask_tools, would_warn
from tiecheck.records.report import View


@pytest.mark.parametrize(("change", "outcome", "plain"), STATES, ids=[state[0].__name__ for state in STATES])
def test_declared(change, outcome, plain, tmp_path):
    model = Declared(Config())
    change(model)
    views = ask_tools(model, run=True)
    assert one(views, "all_tied_weights_keys").groups == (EMB_LIN,)  # whatever was done
    saved = one(views, "save_pretrained", ran=True)
    check_saving(model, saved, outcome, tmp_path)


@pytest.mark.parametrize(("change", "outcome", "plain"), STATES, ids=[state[0].__name__ for state in STATES])
def test_undeclared(change, outcome, plain, tmp_path):
    model = Undeclared(Config())
    change(model)
    views = ask_tools(model, run=True)
    assert one(views, "all_tied_weights_keys").groups == ()
    saved = one(views, "save_pretrained", ran=True)
    assert (saved.error is None) == plain
    check_saving(model, saved, None, tmp_path)


def check_saving(model: Declared, saved: View, outcome: tuple[str, ...] | str | None, folder) -> None:
    """Hold a view against what `save_pretrained` really does."""
    from safetensors import safe_open

    names = set(model.state_dict())
    if isinstance(outcome, str):
        assert saved.error is not None
        assert saved.error.startswith(outcome)
    elif outcome is not None:
        assert (saved.error, saved.dropped) == (None, outcome)
    if saved.error is not None:
        with pytest.raises(Exception) as raised:
            model.save_pretrained(folder)
        assert type(raised.value).__name__ == saved.error.split(":")[0]
        return
    if any(parameter.is_meta for parameter in model.parameters()):
        return  # nothing to write
    model.save_pretrained(folder)
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert names - set(file.keys()) == set(saved.dropped)


def test_models_inside_a_module_are_seen_under_its_names():
    module = nn.Module()
    module.first, module.second = Declared(Config()), Declared(Config())
    module.second.lin.weight = nn.Parameter(torch.zeros(8, 4))
    module.again = module.first
    views = ask_tools(module, run=True)
    groups = (("first.emb.weight", "first.lin.weight"), ("second.emb.weight", "second.lin.weight"))
    assert one(views, "all_tied_weights_keys").groups == groups
    saved = one(views, "save_pretrained", ran=True)
    assert (saved.groups, saved.dropped) == (groups[:1], ("first.lin.weight",))


def test_no_view_of_transformers_without_a_model_of_its():
    assert not [view for view in ask_tools(nn.Linear(2, 2), run=True) if view.tool in {"transformers", "peft"}]


def test_a_sound_tie_warns_in_no_version():
    assert would_warn(ask_tools(llama(tie_word_embeddings=True))) == ()


def test_a_model_that_is_not_to_be_tied_warns_in_no_version():
    views = ask_tools(llama(tie_word_embeddings=False), run=True)
    assert [view.says for view in views if view.function == "check_tied_parameters_in_config"] == [False] * 3
    assert would_warn(views) == ()


def test_a_broken_tie_warns_in_every_version():
    model = llama(tie_word_embeddings=True)
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    assert would_warn(ask_tools(model)) == ("0.21-0.33", "0.34-1.6", "1.7-")


def test_an_alias_among_siblings_warns_where_the_walk_cannot_see_it():
    model = Declared(Config())
    aliased(model)
    assert would_warn(ask_tools(model)) == ("0.21-0.33",)


def test_any_other_tie_silences_the_warning():
    model = Declared(Config())
    tied_elsewhere(model)
    assert would_warn(ask_tools(model)) == ()


def test_a_nested_flag_is_read_from_1_7_on():
    class Outer(PretrainedConfig):
        model_type = "views-of-nested-ties"
        sub_configs = {"text_config": Config}  # noqa: RUF012  # as transformers declares it

        def __init__(self, text_config: Config | None = None, **options: object) -> None:
            self.text_config = text_config or Config()
            super().__init__(**options)

    model = Undeclared(Config())
    model.config = Outer(tie_word_embeddings=False)
    assert model.config.get_text_config(decoder=True).tie_word_embeddings is True
    assert would_warn(ask_tools(model, run=True)) == ("1.7-",)
    answers = [v.says for v in ask_tools(model, run=True) if v.function == "check_tied_parameters_in_config"]
    assert answers == [False, True, True]


def test_t5_with_three_names():
    small = {"vocab_size": 8, "d_model": 4, "d_kv": 4, "d_ff": 4, "num_layers": 1, "num_heads": 1}
    model = T5ForConditionalGeneration(T5Config(**small, tie_word_embeddings=True))
    views = ask_tools(model, run=True)
    group = ("decoder.embed_tokens.weight", "encoder.embed_tokens.weight", "lm_head.weight", "shared.weight")
    assert one(views, "all_tied_weights_keys").groups == (group,)
    saved = one(views, "save_pretrained", ran=True)
    assert saved.dropped == group[:3]
    (peft,) = [view for view in views if view.tool == "peft"]
    assert peft.groups == (group,)


def test_peft_goes_by_config_and_declaration():
    name = "_get_module_names_tied_with_embedding"
    model = Declared(Config())
    assert one(ask_tools(model, run=True), name, ran=True).groups == (EMB_LIN,)
    equal(model)
    assert one(ask_tools(model, run=True), name, ran=True).groups == (EMB_LIN,)  # not tied any more
    tied(model)
    model.config.tie_word_embeddings = False
    assert one(ask_tools(model, run=True), name, ran=True).groups == ()  # tied, and the config says not
    plain = Undeclared(Config())
    tied(plain)
    assert one(ask_tools(plain, run=True), name, ran=True).groups == ()


def test_a_list_of_tied_keys_raises_in_5_and_is_trusted_by_peft():
    model = Declared(Config())
    model._tied_weights_keys = ["lin.weight"]
    views = ask_tools(model, run=True)
    saved = one(views, "save_pretrained", ran=True)
    assert saved.error == "AttributeError: 'list' object has no attribute 'keys'"
    assert one(views, "_get_module_names_tied_with_embedding", ran=True).groups == (EMB_LIN,)


def test_a_pattern_that_explodes_is_not_matched(monkeypatch):
    from tiecheck import patterns

    monkeypatch.setattr(patterns, "SECONDS", 1.0)
    model = Declared(Config())
    model.long = nn.ParameterDict({"a" * 40: nn.Parameter(torch.zeros(1))})
    model.long.again = model.long["a" * 40]
    model._tied_weights_keys = {r"long\.(a+)+b": "emb.weight"}
    views = ask_tools(model, run=True)
    reason = r"would match the pattern 'long\\.(a+)+b' for longer than anybody waits"
    assert one(views, "save_pretrained", ran=True).error == f"not run: {reason}"


@pytest.mark.filterwarnings("ignore")
def test_a_sharded_model_is_not_asked_what_it_would_save(tmp_path):
    from torch import distributed
    from torch.distributed.fsdp import fully_shard

    distributed.init_process_group("gloo", rank=0, world_size=1, init_method=f"file://{tmp_path}/rendezvous")
    try:
        views = ask_tools(fully_shard(Declared(Config())), run=True)
    finally:
        distributed.destroy_process_group()
    reason = "not run: save_pretrained gathers the shards of every rank first"
    assert one(views, "save_pretrained", ran=True).error == reason
