"""The rules on sources against what the code does when torch or transformers runs it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, PreTrainedModel

from tiecheck.rules.base import Rule
from tiecheck.rules.source.draws import EmbeddingInitialisesTiedHead
from tiecheck.rules.source.keys import ListTiedWeightsKeys, MisspeltTieDeclaration, SelfMappedTieKey
from tiecheck.rules.source.modules import ModuleTimesN
from tiecheck.rules.source.overrides import EmptyTieWeights, PostInitMissing
from tiecheck.rules.source.sharing import CopyInsteadOfShare, ModuleAliasAssignment
from tiecheck.rules.source.sightings import source_facts

DECLARED_RULES = (ListTiedWeightsKeys, MisspeltTieDeclaration, SelfMappedTieKey, PostInitMissing, EmptyTieWeights)

PLAIN = """
import copy
from torch import nn

class Model(nn.Module):
    def __init__(self, v=12, d=8):
        super().__init__()
        self.wte = nn.Embedding(v, d)
        self.head = nn.Linear(d, v, bias=False)
        {line}
"""
FORMS = {
    "self.head.weight = self.wte.weight": None,
    "self.wte.weight = self.head.weight": None,
    "w = self.wte.weight; self.head.weight = w": None,
    "setattr(self.head, 'weight', self.wte.weight)": None,
    "self.head.weight = getattr(self, 'wte').weight": None,
    "self.head.weight.data = self.wte.weight.data": "TIE802",
    "self.head.weight.data = self.wte.weight": "TIE802",
    "self.head.weight = nn.Parameter(self.wte.weight)": "TIE802",
    "self.head.weight = nn.Parameter(self.wte.weight.data)": "TIE802",
    "self.head.weight = nn.Parameter(self.wte.weight.clone())": "TIE802",
    "self.head.weight = nn.Parameter(self.wte.weight.detach().clone())": "TIE802",
    "self.head.weight = copy.deepcopy(self.wte.weight)": "TIE802",
    "emb = self.wte.weight.clone(); self.head.weight = nn.Parameter(emb)": "TIE802",
    "self.head = self.wte": "TIE801",
}
"""Statement -> the rule that must find it; None where the two are one parameter."""


def found(text: str, *rules: type[Rule]) -> list[str]:
    facts = source_facts(text)
    return [rule.code for rule in rules for _ in rule().check(facts["sources"])]


@pytest.mark.parametrize("line", FORMS)
def test_a_statement_is_judged_by_what_it_does(line: str) -> None:
    text = PLAIN.format(line=line)
    space: dict[str, Any] = {}
    exec(text, space)
    model = space["Model"]()
    expected = FORMS[line]
    assert found(text, ModuleAliasAssignment, CopyInsteadOfShare) == ([expected] if expected else [])
    shares = model.head.weight is model.wte.weight
    assert shares == (expected != "TIE802")
    if expected == "TIE801":
        with pytest.raises((IndexError, RuntimeError)):
            model.head(torch.randn(3, 8))


THEIRS = """
from transformers import LlamaForCausalLM, LlamaModel, PreTrainedModel
from torch import nn

class Model({base}):
    {body}
"""
INIT = """
    def __init__(self, config):
        super().__init__(config)
        self.model = LlamaModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
"""
DECLARED = """config_class = LlamaModel.config_class
    {name} = {{"lm_head.weight": "model.embed_tokens.weight"}}
"""
BEGUN = "        self.post_init()\n"
CLASSES = {
    "as it is": ("LlamaForCausalLM", "pass", None),
    "a list": ("LlamaForCausalLM", '_tied_weights_keys = ["lm_head.weight"]', "TIE803"),
    "an empty list": ("LlamaForCausalLM", "_tied_weights_keys = []", "TIE803"),
    "itself": ("LlamaForCausalLM", '_tied_weights_keys = {"lm_head.weight": "lm_head.weight"}', "TIE805"),
    "turned round": ("LlamaForCausalLM", '_tied_weights_keys = {"model.embed_tokens.weight": "lm_head.weight"}', None),
    "nothing": ("LlamaForCausalLM", "def tie_weights(self, **kwargs): pass", "TIE815"),
    "no arguments": ("LlamaForCausalLM", "def tie_weights(self): super().tie_weights()", "TIE815"),
    "passed on": ("LlamaForCausalLM", "def tie_weights(self, **kwargs): super().tie_weights(**kwargs)", None),
    "misspelt": ("PreTrainedModel", DECLARED.format(name="tied_weights_keys") + INIT + BEGUN, "TIE804"),
    "no post_init": ("PreTrainedModel", DECLARED.format(name="_tied_weights_keys") + INIT, "TIE814"),
    "post_init": ("PreTrainedModel", DECLARED.format(name="_tied_weights_keys") + INIT + BEGUN, None),
}


@pytest.mark.parametrize("kind", CLASSES)
def test_a_class_of_transformers_is_judged_by_what_it_does(kind: str) -> None:
    base, body, expected = CLASSES[kind]
    text = THEIRS.format(base=base, body=body)
    assert found(text, *DECLARED_RULES) == ([expected] if expected else [])
    space: dict[str, Any] = {}
    exec(text, space)
    assert is_tied(space["Model"]) == (expected is None)


def is_tied(model_class: type[PreTrainedModel]) -> bool:
    """Tell whether a class comes out tied when it is built with the flag true."""
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    try:
        model = model_class(LlamaConfig(**size, vocab_size=24, tie_word_embeddings=True))
    except (AttributeError, TypeError):
        return False
    return model.lm_head.weight is model.model.embed_tokens.weight


def test_one_object_many_times_is_one_module() -> None:
    layers = nn.ModuleList([nn.Linear(4, 4)] * 3)
    assert len(list(layers.parameters())) == 2
    assert found("x = nn.ModuleList([nn.Linear(4, 4)] * 3)\n", ModuleTimesN) == ["TIE813"]


@pytest.mark.parametrize(
    ("line", "wide"),
    [
        ("self.head.weight = self.wte.weight", True),
        ("self.wte.weight = self.head.weight", False),
        ("self.head.weight = self.wte.weight; nn.init.normal_(self.wte.weight, std=0.02)", False),
        ("self.head.weight = self.wte.weight; self.wte.weight.data.uniform_(-0.1, 0.1)", False),
    ],
)
def test_the_draw_that_a_tie_keeps(line: str, wide: bool) -> None:
    text = PLAIN.format(line=line).replace("v=12, d=8", "v=4000, d=64")
    space: dict[str, Any] = {}
    exec(text, space)
    assert found(text, EmbeddingInitialisesTiedHead) == ["TIE807"] * wide
    assert (space["Model"]().head.weight.std().item() > 0.5) == wide
