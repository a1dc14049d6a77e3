"""Sources with one fault each, the fix to take, and what is true of the class that the fixed text defines."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import LlamaConfig

PLAIN = """
import copy
import torch
from torch import nn

class Model(nn.Module):
    def __init__(self, v=600, d=8, tie=True):
        super().__init__()
        self.wte = nn.Embedding(v, d)  # the table
        self.head = nn.Linear(d, v, bias=False)
        # weight tying
        {line}
        nn.init.normal_(self.wte.weight, std=0.02)

    def forward(self, x):
        return self.head(self.wte(x))
"""
UNDRAWN = PLAIN.replace("        nn.init.normal_(self.wte.weight, std=0.02)\n", "")

THEIRS = """
from torch import nn
from transformers import LlamaConfig, LlamaModel, PreTrainedModel

class Decoder(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)

class Model(PreTrainedModel):
    config_class = LlamaConfig
    {keys}

    def __init__(self, config):
        super().__init__(config)
        self.model = {inner}(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)  # the head
        {end}

    def get_input_embeddings(self):
        return self.model.embed_tokens
"""
TABLE = "self.model.embed_tokens"
KEYS = '_tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}'
BERT = """
from torch import nn
from transformers import LlamaConfig, PreTrainedModel

class Predictions(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size)
        self.bias = nn.Parameter(nn.init.zeros_(self.decoder.bias.clone()))
        self.decoder.bias = self.bias

class Head(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.predictions = Predictions(config)

class Model(PreTrainedModel):
    config_class = LlamaConfig
    _tied_weights_keys = [r"predictions.decoder.bias", 'cls.predictions.decoder.weight']

    def __init__(self, config):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.cls = Head(config)
        self.post_init()

    def get_output_embeddings(self):
        return self.cls.predictions.decoder
"""


class Subject(NamedTuple):
    """A source, and what is true of the one that is fixed: by default that two parameters are one."""

    text: str
    codes: tuple[str, ...]
    options: tuple[str, ...] = ()
    pair: tuple[str, str] = ("head.weight", "wte.weight")
    right: Callable[[dict[str, Any]], bool] | None = None
    """Tells of the names that a text defines whether they are right."""

    def is_right(self, text: str) -> bool:
        """Tell whether a text does what was meant."""
        if self.right is None:
            return is_whole(text, self.pair)
        space: dict[str, Any] = {"__name__": "built"}
        exec(compile(text, "built.py", "exec"), space)
        return self.right(space)


def theirs(keys: str = KEYS, inner: str = "LlamaModel", end: str = "self.post_init()") -> str:
    return THEIRS.format(keys=keys, inner=inner, end=end)


HEADS = ("lm_head.weight", "model.embed_tokens.weight")


def built(text: str) -> nn.Module:
    space: dict[str, Any] = {"__name__": "built"}
    exec(compile(text, "built.py", "exec"), space)
    if "PreTrainedModel" not in text:
        return space["Model"]()
    return space["Model"](small_config())


def small_config(*, tie_word_embeddings: bool = True) -> LlamaConfig:
    """A config with 600 words."""
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaConfig(**size, vocab_size=600, tie_word_embeddings=tie_word_embeddings)


def is_whole(text: str, pair: tuple[str, str]) -> bool:
    """Tell whether a source builds a model with one narrow parameter under two names, which is not one module."""
    try:
        model = built(text)
    except (AttributeError, TypeError):  # transformers 5 refuses a list
        return False
    one, other = map(model.get_parameter, pair)
    modules = [model.get_submodule(name.rpartition(".")[0]) for name in pair]
    return one is other and modules[0] is not modules[1] and one.std().item() < 0.5


TIED = PLAIN.format(line="self.head.weight = self.wte.weight")
LOADED = f"""{TIED}
def make(state):
    with torch.device("meta"):
        net = Model()
    net.CALL  # taken apart
    return net
"""
BY_ASSIGNMENT = LOADED.replace("CALL", "load_state_dict(state, assign=True)")
CLONED = """
import copy
from torch import nn

def _get_clones(module, n):
    return nn.ModuleList([copy.deepcopy(module) for _ in range(n)])

class Model(nn.Module):
    def __init__(self, n=3, share=True):
        super().__init__()
        self.box = nn.Linear(4, 4)
        if share:
            self.heads = {made}  # one head
"""
OLMO = """
from types import SimpleNamespace
from torch import nn

def body():
    model = nn.Module()
    model.transformer = nn.ModuleDict(dict(wte=nn.Embedding(600, 8), ff_out=nn.Linear(8, 600, bias=False)))
    return model

class Wrapper(nn.Module):
    def __init__(self):
        super().__init__()
        self.config, self.model = SimpleNamespace(weight_tying=True), body()

    def tie_weights(self):
        if self.config.weight_tying:
            # as it was
            self.model.transformer.ff_out = self.model.transformer.wte
"""


def follows_its_flag(space: dict[str, Any]) -> bool:
    """Tell whether a class of transformers is tied where its flag says so, and nowhere else."""
    models = [space["Model"](small_config(tie_word_embeddings=flag)) for flag in (True, False)]
    return [model.lm_head.weight is model.model.embed_tokens.weight for model in models] == [True, False]


def shares_memory(space: dict[str, Any]) -> bool:
    """Tell whether two parameters lie over one memory where the flag is false."""
    model = space["Model"](small_config(tie_word_embeddings=False))
    return bool(model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr())


def stays_tied(space: dict[str, Any]) -> bool:
    """Tell whether what a function makes of saved values is tied."""
    net = space["make"](space["Model"]().state_dict())
    return net.head.weight is net.wte.weight


def shares(space: dict[str, Any]) -> bool:
    """Tell whether three heads are one module."""
    model = space["Model"]()
    return [*model.heads] == [model.box] * 3


def copies_read_their_own(space: dict[str, Any]) -> bool:
    """Tell whether the head of a deep copy multiplies by the copy's weight."""
    model = space["Model"]()
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.wte.weight.zero_()
    ones = torch.ones(1, 8)
    return not twin.out(ones).any() and torch.equal(model.out(ones), model.head(ones))


def sees_another(space: dict[str, Any]) -> bool:
    """Tell whether the head multiplies by a parameter that took the place of the one that was there."""
    model = space["Model"]()
    model.wte.weight = nn.Parameter(torch.zeros(600, 8))
    return not model.out(torch.ones(1, 8)).any()


def ends_as(*, shared: bool) -> Callable[[dict[str, Any]], bool]:
    """Return what tells whether OLMo's method leaves a head of its own, over the embedding's weight or over its own."""

    def right(space: dict[str, Any]) -> bool:
        model = space["Wrapper"]()
        model.tie_weights()
        held = model.model.transformer
        return held.ff_out is not held.wte and (held.ff_out.weight is held.wte.weight) == shared

    return right


SUBJECTS = {
    "data": Subject(PLAIN.format(line="self.head.weight.data = self.wte.weight.data"), ("TIE802",)),
    "parameter": Subject(PLAIN.format(line="self.head.weight = nn.Parameter(self.wte.weight)"), ("TIE802",)),
    "a local name": Subject(
        PLAIN.format(line="w = self.wte.weight; self.head.weight = nn.Parameter(w.data)  # tie"), ("TIE802",)
    ),
    "a clone": Subject(
        PLAIN.format(line="self.head.weight = nn.Parameter(self.wte.weight.clone())"),
        ("TIE802",),
        ("--unsafe", "--select", "TIE802"),
    ),
    "a clone where a flag asks": Subject(
        PLAIN.format(line="if tie:\n            self.head.weight = nn.Parameter(self.wte.weight.clone())"),
        ("TIE802",),
        ("--unsafe",),
    ),
    "a module": Subject(PLAIN.format(line="self.head = self.wte"), ("TIE801",)),
    "a module in a branch": Subject(
        PLAIN.format(line="if tie:\n            self.head = self.wte  # as OLMo has it"), ("TIE801",)
    ),
    "the draw": Subject(UNDRAWN.format(line="self.head.weight = self.wte.weight"), ("TIE807",)),
    "data, undrawn": Subject(UNDRAWN.format(line="self.head.weight.data = self.wte.weight.data"), ("TIE802",)),
    "the draw, by a local name": Subject(UNDRAWN.format(line="w = self.wte.weight; self.head.weight = w"), ("TIE807",)),
    "a list": Subject(theirs('_tied_weights_keys = ["lm_head.weight"]'), ("TIE803",), pair=HEADS),
    "a list over lines": Subject(
        theirs("_tied_weights_keys = [\n        'lm_head.weight',  # the head\n    ]"), ("TIE803",), pair=HEADS
    ),
    "a list, and a part of the file": Subject(
        theirs('_tied_weights_keys = ["lm_head.weight"]', "Decoder"), ("TIE803",), pair=HEADS
    ),
    "a list, and the inner model's getter": Subject(
        theirs('_tied_weights_keys = ["lm_head.weight"]', "Decoder")
        .replace("embed_tokens", "wte")
        .replace("\n    def get_input_embeddings(self):\n        return self.model.wte\n", "")
        .replace("\nclass Model(", "\n    def get_input_embeddings(self):\n        return self.wte\n\nclass Model("),
        ("TIE803",),
        pair=("lm_head.weight", "model.wte.weight"),
    ),
    "a list of parts": Subject(BERT, ("TIE803",), pair=("cls.predictions.decoder.weight", "embed_tokens.weight")),
    "misspelt": Subject(theirs(KEYS[1:]), ("TIE804",), pair=HEADS),
    "a misspelt list": Subject(theirs('tied_weights_keys = ["lm_head.weight"]'), ("TIE804",), pair=HEADS),
    "no post_init": Subject(theirs(end="pass"), ("TIE814",), pair=HEADS),
    "a list and no post_init": Subject(
        theirs('_tied_weights_keys = ["lm_head.weight"]', end=""), ("TIE803", "TIE814"), pair=HEADS
    ),
    "mapped to itself": Subject(
        theirs('_tied_weights_keys = {\n        "lm_head.weight": "lm_head.weight",  # as 4.x had it\n    }'),
        ("TIE805",),
        pair=HEADS,
    ),
    "replaced later": Subject(
        PLAIN.format(line="self.head.weight = self.wte.weight  # tied\n        self.head = nn.Linear(d, v)  # again"),
        ("TIE806",),
    ),
    "made later": Subject(
        PLAIN.replace("        self.head = nn.Linear(d, v, bias=False)\n", "").format(
            line="self.head.weight = self.wte.weight\n        self.head = nn.Linear(d, v, bias=False)"
        ),
        ("TIE806",),
    ),
    "replaced behind post_init": Subject(
        theirs(
            end=f"self.post_init()\n        self.lm_head.weight = {TABLE}.weight\n"
            "        self.lm_head = nn.Linear(16, 600)"
        ),
        ("TIE806",),
        pair=HEADS,
        right=follows_its_flag,
    ),
    "a tie that asks nobody": Subject(
        theirs(end="self.lm_head.weight = self.model.embed_tokens.weight  # tied\n        self.post_init()"),
        ("TIE808",),
        ("--choose", "declared"),
        right=follows_its_flag,
    ),
    "data, though it is declared": Subject(
        theirs(end=f"self.lm_head.weight.data = {TABLE}.weight.data  # tied\n        self.post_init()"),
        ("TIE802",),
        right=lambda space: follows_its_flag(space) and not shares_memory(space),
    ),
    "a deep copy, though it is declared": Subject(
        "import copy\n"
        + theirs(end=f"self.lm_head.weight = copy.deepcopy({TABLE}.weight)  # tied\n        self.post_init()"),
        ("TIE802",),
        ("--unsafe",),
        right=lambda space: follows_its_flag(space) and "copy" not in space,
    ),
    "a module, though it is declared": Subject(
        theirs(end=f"self.lm_head = {TABLE}  # tied\n        self.post_init()"), ("TIE801",), right=follows_its_flag
    ),
    "loaded by assignment": Subject(BY_ASSIGNMENT, ("TIE810",), right=stays_tied),
    "loaded, and told of": Subject(BY_ASSIGNMENT.replace("net.load", "lost = net.load"), ("TIE810",), right=stays_tied),
    "loaded where it may be tied": Subject(
        BY_ASSIGNMENT.replace("self.head.weight = self.wte", "if tie: self.head.weight = self.wte"),
        ("TIE810",),
        ("--choose", "tied"),
        right=stays_tied,
    ),
    "made of nothing": Subject(LOADED.replace("CALL", "to_empty(device='cpu')"), ("TIE811",), right=stays_tied),
    "clones": Subject(
        CLONED.format(made="_get_clones(self.box, n)"), ("TIE812",), ("--unsafe", "--select", "TIE812"), right=shares
    ),
    "copies": Subject(
        CLONED.format(made="nn.ModuleList([copy.deepcopy(self.box) for _ in range(n)])"),
        ("TIE812",),
        ("--unsafe", "--select", "TIE812"),
        right=shares,
    ),
    "one many times": Subject(
        "from torch import nn\n\ndef build(n=3):\n    return nn.ModuleList([nn.Linear(8, 8)] * n)  # layers\n",
        ("TIE813",),
        ("--unsafe",),
        right=lambda space: len({id(layer) for layer in space["build"]()}) == 3,
    ),
    "nothing ties": Subject(
        theirs(end='self.post_init()\n\n    def tie_weights(self, **kwargs):\n        """Tie by hand."""'),
        ("TIE815",),
        pair=HEADS,
    ),
    "nothing can call it": Subject(
        theirs(end="self.post_init()\n\n    def tie_weights(self):  # ours\n        super().tie_weights()  # theirs"),
        ("TIE815",),
        pair=HEADS,
    ),
    "a lambda": Subject(
        TIED.replace(
            "\n    def forward", "        self.out = lambda x: x @ self.wte.weight.t()  # the head\n\n    def forward"
        ),
        ("TIE817",),
        right=copies_read_their_own,
    ),
    "a partial": Subject(
        "from functools import partial\n"
        + TIED.replace(
            "\n    def f", "        self.out = partial(nn.functional.linear, weight=self.wte.weight)\n\n    def f"
        ),
        ("TIE817",),
        right=sees_another,
    ),
    "OLMo's, removed": Subject(OLMO, ("TIE801",), ("--choose", "removed"), right=ends_as(shared=False)),
    "OLMo's, by its weight": Subject(OLMO, ("TIE801",), ("--choose", "weight"), right=ends_as(shared=True)),
}
"""Each with its fault; the tests fix it, and a second time in vain."""
