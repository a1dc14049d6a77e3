"""PEFT's view held against PEFT itself: on plain models in each of their states, and under adapters."""

from __future__ import annotations

import peft
import pytest
from declared_models import STATES, Config, Declared, Undeclared, llama, one

from tiecheck.peers.views.registry import ask_tools
from tiecheck.records.report import View

pytestmark = pytest.mark.filterwarnings("ignore")

NAME = "_get_module_names_tied_with_embedding"


def seen(model) -> View:
    """The view of PEFT, which was run."""
    view = one(ask_tools(model, run=True), NAME, ran=True)
    assert view.ran
    return view


@pytest.mark.parametrize("model_class", [Declared, Undeclared])
@pytest.mark.parametrize("change", [state[0] for state in STATES])
def test_every_state(change, model_class):
    model = model_class(Config())
    change(model)
    seen(model)


def test_a_list_of_keys():
    model = Declared(Config())
    model._tied_weights_keys = ["lin.weight"]
    assert seen(model).groups == (("emb.weight", "lin.weight"),)


def test_under_an_adapter():
    model = llama(tie_word_embeddings=True)
    names = {"lm_head.weight", "model.embed_tokens.weight"}
    assert seen(model).groups == (tuple(sorted(names)),)
    wrapped = peft.get_peft_model(model, peft.LoraConfig(target_modules=["embed_tokens", "q_proj"], r=2))
    (group,) = seen(wrapped).groups
    assert any("embed_tokens" in name for name in group)
    assert any("lm_head" in name for name in group)


def test_under_modules_to_save():
    model = llama(tie_word_embeddings=True)
    wrapped = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"], modules_to_save=["lm_head"], r=2))
    seen(wrapped)
