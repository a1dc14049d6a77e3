"""The rules on sources against what the code does when torch or transformers runs it."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, PreTrainedModel

from tiecheck.rules.base import Rule
from tiecheck.rules.source.bypasses import ForwardBypassesHead
from tiecheck.rules.source.copies import ClonedWithSharedChild, CloneInsteadOfShare
from tiecheck.rules.source.draws import EmbeddingInitialisesTiedHead
from tiecheck.rules.source.keys import ListTiedWeightsKeys, MisspeltTieDeclaration, SelfMappedTieKey
from tiecheck.rules.source.modules import (
    AssignLoadWithoutRetie,
    HeadInClosure,
    MaterialiseWithoutRetie,
    ModuleTimesN,
    WeightKeptAsPlainTensor,
)
from tiecheck.rules.source.overrides import EmptyTieWeights, PostInitMissing, UnguardedTie
from tiecheck.rules.source.rebinds import TieReboundLater
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
        ("self.wte.weight.data *= 0.02; self.head.weight = self.wte.weight", False),
    ],
)
def test_the_draw_that_a_tie_keeps(line: str, wide: bool) -> None:
    text = PLAIN.format(line=line).replace("v=12, d=8", "v=4000, d=64")
    space: dict[str, Any] = {}
    exec(text, space)
    assert found(text, EmbeddingInitialisesTiedHead) == ["TIE807"] * wide
    assert (space["Model"]().head.weight.std().item() > 0.5) == wide


TIED = PLAIN.format(line="self.head.weight = self.wte.weight")


@pytest.mark.parametrize("tie", ["self.head.weight = self.wte.weight", "self.wte.weight = self.head.weight"])
@pytest.mark.parametrize(
    "later",
    [
        "self.wte = nn.Embedding(v, d)",
        "self.head = nn.Linear(d, v, bias=False)",
        "self.head.weight = nn.Parameter(copy.deepcopy(self.wte.weight.data))",
        "nn.init.normal_(self.wte.weight, std=0.02)",
        "self.norm = nn.LayerNorm(d)",
        "self.head = nn.Linear(d, v, bias=False); self.head.weight = self.wte.weight",
    ],
)
def test_what_comes_after_the_tie_in_the_constructor(tie: str, later: str) -> None:
    text = PLAIN.format(line=f"{tie}\n        {later}")
    space: dict[str, Any] = {}
    exec(text, space)
    assert found(text, TieReboundLater) == ([] if is_one(space["Model"]()) else ["TIE806"])


TAKEN = """
nn.utils.weight_norm({}) | nn.utils.spectral_norm({}) | nn.utils.parametrizations.weight_norm({}) | torch.compile({})
wrap({}, 3) | wrap(inner={}) | checkpoint_wrapper(wrap({})) | wrap([{}])[0] | nn.utils.fuse_conv_bn_eval({}, norm)
nn.Sequential({}) | Low({}) | Low({}.weight) | {}.eval() | {}.to(torch.float64) | {}.half() | {}.apply(print) | {}
"""
CALLS = ("parametrize.register_parametrization({}, 'weight', norm)", "prune.random_unstructured({}, 'weight', 1)")
NEW = ("wrap({}.in_features, v)", "wrap({}.weight.size(1), v)", "wrap(nn.Linear(d, v))")


@pytest.mark.parametrize("member", ["self.head", "self.wte"])
def test_a_member_that_is_given_to_what_takes_its_place_may_be_there_still(member: str) -> None:
    ways = ("{member} = {value}", "x = {value}; {member} = x", "x = {member}; {member} = {local}")
    ways = (*ways, "x = {value}; x = wrap(x); {member} = x", "setattr(self, '{name}', {value})")
    for way in ways:
        for value in (*(one.strip() for one in re.split(r"[|\n]", TAKEN.strip())), *NEW):
            told = {"member": member, "name": member[5:], "value": value.format(member), "local": value.format("x")}
            text = TIED + f"        {way.format(**told)}\n"
            assert found(text, TieReboundLater) == ["TIE806"] * (value in NEW), text
    for call in CALLS:
        assert not found(f"{TIED}        {call.format(member)}\n", TieReboundLater)


@pytest.mark.parametrize(
    ("head", "mapped"),
    [
        ("lm_head = nn.Linear(16, 24, bias=False)", True),
        ("lm_head = nn.ModuleList([nn.Linear(16, 24) for _ in range(2)])", False),
        ("codec_head = nn.Linear(16, 24, bias=False)", False),
    ],
)
def test_a_list_is_mapped_where_the_library_takes_the_mapping(head: str, mapped: bool) -> None:
    """Qwen-TTS lists a head that is a list of heads, and one that has another name: a mapping of them ties nothing."""
    getters = "".join(
        f"    def get_{side}_embeddings(self): return self.{path}\n"
        for side, path in (("input", "model.embed_tokens"), ("output", "lm_head"))
    )
    begun = INIT.replace("lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)", head) + BEGUN
    keys = "config_class = LlamaModel.config_class\n    _tied_weights_keys = "
    text = THEIRS.format(base="PreTrainedModel", body=f'{keys}["lm_head.weight"]\n{begun}{getters}')
    (draft,) = ListTiedWeightsKeys().check(source_facts(text)["sources"])
    assert bool(draft.edits) == mapped
    space: dict[str, Any] = {}
    exec(text.replace('["lm_head.weight"]', "None"), space)
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    assert ("lm_head.weight" in space["Model"](LlamaConfig(**size, vocab_size=24)).state_dict()) == mapped


TIE = "self.lm_head.weight = self.model.embed_tokens.weight"
LOST = f"{TIE}; self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)"
OWN = f"\n    def tie_weights(self, **kwargs): {TIE}\n"


@pytest.mark.parametrize("keys", ["_tied_weights_keys", "_others"])
@pytest.mark.parametrize("method", ["", OWN])
@pytest.mark.parametrize(
    "end",
    [
        f"{LOST}; self.post_init()",
        f"self.post_init(); {LOST}",
        f"self.post_init(); {LOST}; self.tie_weights()",
        f"self.post_init(); {LOST}; super().tie_weights()",
        f"self.post_init(); {LOST}; tie(self.lm_head, self.model.embed_tokens)",
        f"self.post_init(); {LOST}; self.lm_head = self.model.embed_tokens",
        f"{LOST}; self.model.post_init(); self.post_init()",
    ],
)
def test_what_the_library_ties_again(keys: str, method: str, end: str) -> None:
    body = DECLARED.format(name=keys) + INIT + f"        {end}\n" + method
    text = THEIRS.format(base="PreTrainedModel", body=body) + "\ndef tie(one, other): one.weight = other.weight\n"
    space: dict[str, Any] = {}
    exec(text, space)
    assert found(text, TieReboundLater) == ([] if is_tied(space["Model"]) else ["TIE806"])


def is_one(model: Any) -> bool:
    return model.head.weight is model.wte.weight


@pytest.mark.parametrize(
    ("call", "device", "code"),
    [
        (
            "load_state_dict({k: v.clone() for k, v in model.state_dict().items()}, assign=True)",
            "cpu",
            "TIE810",
        ),
        ("load_state_dict(model.state_dict())", "cpu", None),
        ("to_empty(device='cpu')", "meta", "TIE811"),
        ("to_empty(device='cpu')", "cpu", None),
        ("to('cpu')", "cpu", None),
    ],
)
@pytest.mark.parametrize("again", [False, True])
def test_a_call_that_takes_a_tie_apart(call: str, device: str, code: str | None, again: bool) -> None:
    tie = "\n    model.head.weight = model.wte.weight" if again else ""
    built = f"with torch.device('{device}'):\n        model = Model()"
    text = f"import torch\n{TIED}\ndef make():\n    {built}\n    model.{call}{tie}\n    return model\n"
    space: dict[str, Any] = {}
    exec(text, space)
    lost = not is_one(space["make"]())
    assert lost == (code is not None and not again)
    assert found(text, AssignLoadWithoutRetie, MaterialiseWithoutRetie) == ([code] if code and lost else [])


@pytest.mark.parametrize(
    ("line", "left_behind"),
    [
        ("self.w = self.wte.weight.t()", True),
        ("self.w = self.wte.weight.detach()", True),
        ("self.w = self.wte.weight.clone()", True),
        ("self.w = self.wte.weight", False),
        ("self.register_buffer('w', self.wte.weight.detach().clone())", False),
    ],
)
def test_a_tensor_that_is_kept_beside_the_parameter(line: str, left_behind: bool) -> None:
    text = f"{PLAIN.format(line=line)}\n    def forward(self, x):\n        return x @ self.w\n"
    space: dict[str, Any] = {}
    exec(text, space)
    model = space["Model"]().double()
    assert (model.w.dtype != torch.float64) == left_behind
    assert found(text, WeightKeptAsPlainTensor) == ["TIE816"] * left_behind


@pytest.mark.parametrize(
    ("head", "reads_the_original"),
    [
        ("self.out = lambda x: x @ self.wte.weight.t()", True),
        ("self.out = functools.partial(nn.functional.linear, weight=self.wte.weight)", None),
        ("self.out = self.head", False),
    ],
)
def test_a_copy_of_a_model_with_a_closure(head: str, reads_the_original: bool | None) -> None:
    text = f"import functools\n{PLAIN.format(line=head)}"
    space: dict[str, Any] = {}
    exec(text, space)
    model = space["Model"]()
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.wte.weight.zero_()
        twin.head.weight.zero_()
    if reads_the_original is not None:
        assert bool(twin.out(torch.ones(1, 8)).any()) == reads_the_original
    assert found(text, HeadInClosure) == ["TIE817"] * (reads_the_original is not False)


@pytest.mark.parametrize("guard", [False, True])
def test_a_tie_that_asks_no_config(guard: bool) -> None:
    tie = "self.lm_head.weight = self.embed.weight"
    line = f"if config.tie_word_embeddings:\n            {tie}" if guard else tie
    body = f"""config_class = LlamaModel.config_class

    def __init__(self, config):
        super().__init__(config)
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        {line}
        self.post_init()
"""
    text = THEIRS.format(base="PreTrainedModel", body=body)
    space: dict[str, Any] = {}
    exec(text, space)
    model = space["Model"](LlamaConfig(hidden_size=16, num_attention_heads=2, vocab_size=24, tie_word_embeddings=False))
    assert (model.lm_head.weight is model.embed.weight) == (not guard)
    assert found(text, UnguardedTie) == ["TIE808"] * (not guard)


BYPASS = THEIRS.format(
    base="PreTrainedModel",
    body="""config_class = LlamaModel.config_class
    _tied_weights_keys = {{"lm_head.weight": "model.embed_tokens.weight"}}

    def __init__(self, config):
        super().__init__(config)
        self.model = LlamaModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def forward(self, ids):
        hidden = self.model(ids).last_hidden_state
        return {logits}
""",
)


@pytest.mark.parametrize(
    ("logits", "around"),
    [
        ("nn.functional.linear(hidden, self.model.embed_tokens.weight)", True),
        ("hidden @ self.model.embed_tokens.weight.T", True),
        ("torch.matmul(hidden, self.model.embed_tokens.weight.t())", True),
        ("self.lm_head(hidden)", False),
        ("nn.functional.linear(hidden, self.lm_head.weight)", False),
    ],
)
def test_a_head_that_forward_goes_around(logits: str, around: bool) -> None:
    text = f"import torch\n{BYPASS.format(logits=logits)}"
    space: dict[str, Any] = {}
    exec(text, space)
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = space["Model"](LlamaConfig(**size, vocab_size=24, tie_word_embeddings=False))
    model(torch.arange(6)[None]).square().sum().backward()
    assert (model.lm_head.weight.grad is None) == around, "untied, and the head is not trained"
    assert found(text, ForwardBypassesHead) == ["TIE809"] * around


SHARING = """
import copy
from torch import nn

def _get_clones(module, n):
    return nn.ModuleList([copy.deepcopy(module) for _ in range(n)])

class Net(nn.Module):
    def __init__(self, share):
        super().__init__()
        self.bbox_embed = nn.Linear(4, 4)
        if {test}:
            self.heads = {one}
        else:
            self.heads = nn.ModuleList([self.bbox_embed])
"""


@pytest.mark.parametrize("test", ["share", "not share"])
@pytest.mark.parametrize(
    "one",
    [
        "_get_clones(self.bbox_embed, 3)",
        "nn.ModuleList([copy.deepcopy(self.bbox_embed) for _ in range(3)])",
        "nn.ModuleList([self.bbox_embed for _ in range(3)])",
    ],
)
def test_a_flag_that_asks_for_sharing(test: str, one: str) -> None:
    text = SHARING.format(test=test, one=one)
    space: dict[str, Any] = {}
    exec(text, space)
    model = space["Net"](share=True)
    apart = any(head is not model.bbox_embed for head in model.heads)
    assert found(text, CloneInsteadOfShare) == ["TIE812"] * apart


COPYING = """
import copy
import torch
from torch import nn

def _get_clones(module, n):
    return nn.ModuleList([copy.deepcopy(module) for _ in range(n)])

class Attn(nn.Module):
    def __init__(self, table):
        super().__init__()
        self.q = nn.Linear(6, 6)
        self.rel_bias = table

    def forward(self, x):
        return self.q(x) + self.rel_bias.weight.sum()

class Encoder(nn.Module):
    def __init__(self, layer, n):
        super().__init__()
        self.layers = {clones}

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.pos = nn.Embedding(6, 6)
        self.layers = {layers}

def build():
    table = nn.Embedding(6, 6)
    return Encoder(Attn(table), 3)
"""


@pytest.mark.parametrize(
    "layers", ["_get_clones(Attn(self.pos), 3)", "nn.ModuleList(Attn(self.pos) for _ in range(3))"]
)
@pytest.mark.parametrize(
    "clones", ["nn.ModuleList([copy.deepcopy(layer) for _ in range(n)])", "nn.ModuleList([layer])"]
)
def test_a_layer_that_is_copied_with_what_it_shares(layers: str, clones: str) -> None:
    text = COPYING.format(layers=layers, clones=clones)
    space: dict[str, Any] = {}
    exec(text, space)
    model, encoder = space["Model"](), space["build"]()
    apart = [model.layers[0].rel_bias is not model.pos, len({id(a.rel_bias) for a in encoder.layers}) > 1]
    assert found(text, ClonedWithSharedChild) == ["TIE818"] * sum(apart)
