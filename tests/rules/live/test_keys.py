"""TIE309, TIE310 and TIE311: declared keys that tie nothing, too much, or in a form of 4.x."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from live_failures import EMBEDDING, HEAD, config, found, gpt, reloaded, said, small_llama
from lives import Lora
from mend_subjects import dropped_by_a_key
from torch import nn
from transformers import (
    BartConfig,
    BartModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

import tiecheck
from tiecheck.rules.live.keys import DeclaredKeyMatchesNothing, DeclaredKeyMatchesTooMuch, ListFormTiedKeys


def keyed(keys: Any, **methods: Any) -> type[Any]:
    return type("Keyed", (LlamaForCausalLM,), {"_tied_weights_keys": keys, **methods})


def test_a_key_that_names_itself_ties_nothing_in_silence() -> None:
    model = small_llama(keyed({HEAD: HEAD}))
    assert model.lm_head.weight is not model.model.embed_tokens.weight
    assert found(model)[DeclaredKeyMatchesNothing.code] == "error"


@pytest.mark.parametrize(
    ("keys", "raised"),
    [
        ({HEAD: "model.embed_token.weight"}, AttributeError),
        ({"lm_haed.weight": EMBEDDING}, AttributeError),
        ({"lm_hea(d|t).weight": "model.embed.weight"}, ValueError),
        ({HEAD: EMBEDDING, "layers.*head": EMBEDDING}, ValueError),
    ],
)
def test_a_key_that_names_nothing_keeps_the_model_from_being_built(keys: Any, raised: type[Exception]) -> None:
    with pytest.raises(raised):
        small_llama(keyed(keys))
    assert found(small_llama(keyed(keys), tie_word_embeddings=False)) == {DeclaredKeyMatchesNothing.code: "info"}
    model = small_llama(keyed(keys), tie_word_embeddings=False)
    model.config.tie_word_embeddings = True
    (report,) = tiecheck.check(model).targets
    assert DeclaredKeyMatchesNothing.code in {f.code for f in report.findings if f.severity == "error"}


class Weighted(PreTrainedModel):
    """A module whose name holds "weight": 5.23 takes its key for a parameter's."""

    config_class = LlamaConfig
    _tied_weights_keys = {"a.weighted_head": "a.b_weight_"}  # noqa: RUF012  # as transformers has it

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.a = nn.ModuleDict({"weighted_head": nn.Linear(4, 4), "b_weight_": nn.Linear(4, 4)})
        self.post_init()


@pytest.mark.parametrize(
    "around", [Lora, lambda head: nn.Sequential(nn.Dropout(0.0), head), lambda _: None], ids=["own", "list", "none"]
)
@pytest.mark.parametrize("copied", [True, False])
def test_what_is_raised_for_a_wrapped_head_is_what_tie_weights_does(around: Any, copied: bool) -> None:
    model: Any = small_llama()
    model.lm_head = around(copy.deepcopy(model.lm_head) if copied else model.lm_head)
    told = [one.message for one in tiecheck.check(model, select=[DeclaredKeyMatchesNothing.code]).findings]
    raised = model.lm_head is None
    assert bool(told) is (copied or raised), "a layer of anyone's keeps the tie, or has a copy in it"
    assert all(("transformers raises AttributeError" in text) is raised for text in told)
    try:
        model.tie_weights()
    except AttributeError:
        assert raised
    else:
        assert not raised
        assert model.lm_head.weight is model.model.embed_tokens.weight, "set where no pass reads it"


def test_a_module_whose_name_holds_weight_is_taken_for_a_parameter() -> None:
    with pytest.raises(AttributeError):
        Weighted(config())
    assert found(Weighted(config(tie_word_embeddings=False))) == {DeclaredKeyMatchesNothing.code: "info"}


class Beside(PreTrainedModel):
    """`lin` as a pattern matches `lin2` too."""

    config_class = LlamaConfig
    _tied_weights_keys = {"lin": "emb"}  # noqa: RUF012  # as transformers has it

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.emb = nn.Linear(4, 4, bias=False)
        self.lin = nn.Linear(4, 4, bias=False)
        self.lin2 = nn.Linear(4, 4, bias=False)
        self.post_init()


def test_a_key_matches_a_name_that_begins_like_the_one_meant() -> None:
    model = Beside(config())
    assert model.lin2.weight is model.emb.weight, "transformers ties it too"
    assert found(model) == {DeclaredKeyMatchesTooMuch.code: "warning"}
    assert "lin2.weight" in said(model, DeclaredKeyMatchesTooMuch.code)


def test_a_key_drops_another_tie_that_nobody_declares(tmp_path: Path) -> None:
    model = dropped_by_a_key()
    assert found(model) == {DeclaredKeyMatchesTooMuch.code: "warning"}
    _, missing = reloaded(model, tmp_path)
    assert missing == {"aux.lm_head.weight"}


@pytest.mark.parametrize("keys", [[HEAD], (HEAD,), {HEAD}])
def test_a_list_of_keys_is_of_the_4x_line(keys: Any, tmp_path: Path) -> None:
    with pytest.raises(AttributeError, match="has no attribute 'keys'"):
        small_llama(keyed(keys))
    model = small_llama(keyed(keys), tie_word_embeddings=False)
    assert found(model)[ListFormTiedKeys.code] == "error"
    with pytest.raises(AttributeError, match="has no attribute 'keys'"):
        model.save_pretrained(tmp_path)


def test_a_tie_weights_of_the_4x_line_is_called_with_what_it_does_not_take() -> None:
    def tie_weights(self: Any) -> None: ...

    with pytest.raises(TypeError, match="recompute_mapping"):
        small_llama(keyed({HEAD: EMBEDDING}, tie_weights=tie_weights))
    model = small_llama()
    model.__class__ = keyed({HEAD: EMBEDDING}, tie_weights=tie_weights)
    assert found(model) == {ListFormTiedKeys.code: "error"}

    def open_ended(self: Any, **kwargs: Any) -> None: ...

    model.__class__ = keyed({HEAD: EMBEDDING}, tie_weights=open_ended)
    assert found(model) == {}


OLD_CODE = """
from transformers import LlamaConfig, LlamaForCausalLM

class OldConfig(LlamaConfig):
    model_type = "old-llama"

class OldForCausalLM(LlamaForCausalLM):
    config_class = OldConfig
    {body}
"""


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ('_tied_weights_keys = ["lm_head.weight"]', ListFormTiedKeys.code),
        ("def tie_weights(self): pass", ListFormTiedKeys.code),
        ('_tied_weights_keys = {"lm_head.weight": "model.embed.weight"}', DeclaredKeyMatchesNothing.code),
    ],
)
def test_a_directory_whose_own_code_cannot_be_built(tmp_path: Path, body: str, code: str) -> None:
    small_llama().save_pretrained(tmp_path)
    (tmp_path / "modeling_old.py").write_text(OLD_CODE.format(body=body))
    text = (tmp_path / "config.json").read_text()
    text = text.replace('"LlamaForCausalLM"', '"OldForCausalLM"').replace(
        '"model_type": "llama"', '"model_type": "old-llama"'
    )
    auto = '{"AutoConfig": "modeling_old.OldConfig", "AutoModelForCausalLM": "modeling_old.OldForCausalLM"}'
    (tmp_path / "config.json").write_text(text.replace("{", f'{{"auto_map": {auto},', 1))
    (report,) = tiecheck.check(tmp_path, trust_remote_code=True).targets
    assert {f.code: f.severity for f in report.findings if f.code.startswith("TIE3")} == {code: "error"}
    assert report.status == "error", "the layer that was asked for could not be had"


def test_a_contract_that_names_what_is_not_there_is_no_pass() -> None:
    for ties in ([["lm_head.weigth", "wte.weight"]], [["head.weight", "lm_head.weight", "wte.weight"]]):
        (report,) = tiecheck.check(gpt(tied=True), ties=ties).targets
        assert report.status == "error"
        assert DeclaredKeyMatchesNothing.code in [finding.code for finding in report.findings]
        assert "name what the model lacks" in report.errors[0].message


def test_a_factory_that_cannot_be_built_says_which_line_its_class_is_of(tmp_path: Path) -> None:
    source = OLD_CODE.format(body='_tied_weights_keys = ["lm_head.weight"]')
    source += """
def build():
    return OldForCausalLM(OldConfig(vocab_size=8, hidden_size=4, intermediate_size=4, num_hidden_layers=1,
                                    num_attention_heads=1, tie_word_embeddings=True))
"""
    (tmp_path / "old.py").write_text(source)
    (error,) = tiecheck.check(f"{tmp_path / 'old.py'}:build").targets[0].errors
    assert "OldForCausalLM's `_tied_weights_keys` is of the transformers 4 line (tiecheck rule TIE311)" in error.message


def test_an_abstract_class_that_holds_nothing_has_nothing_to_post_init() -> None:
    abstract = [LlamaForCausalLM.__mro__[1], *BartModel.__mro__[1:-1]]
    for cls in (one for one in abstract if issubclass(one, PreTrainedModel) and one is not PreTrainedModel):
        assert found(cls(BartConfig() if "Bart" in cls.__name__ else LlamaConfig())) == {}, cls.__name__
