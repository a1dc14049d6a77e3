"""Models with the uses of their shared matrix written down by hand, as people and libraries write them.

A truth is a role, transposed, a scale and the names that lead to it, one a use. The matrix is `wte.weight`, 12 words of
width 4, unless a model says otherwise; `head.weight` is its other name where there is one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WORDS, WIDTH = 12, 4
ROOT = math.sqrt(WIDTH)

Truth = tuple[str, bool, float | None, tuple[str, ...]]

TABLE, HEAD = ("wte.weight",), ("head.weight",)
LOOKED: Truth = ("embedding", False, 1.0, TABLE)
PRODUCT: Truth = ("linear", False, 1.0, TABLE)
BY_HEAD: Truth = ("linear", False, 1.0, HEAD)


class Toy(nn.Module):
    """An embedding, a normalised body, and a forward pass that is given."""

    def __init__(self, way: Callable[[Any, Tensor], Any], *, head: bool = False, bias: bool = False) -> None:
        super().__init__()
        self.wte, self.body, self.norm = nn.Embedding(WORDS, WIDTH), nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH)
        if head:
            self.head = nn.Linear(WIDTH, WORDS, bias=bias)
            self.head.weight = self.wte.weight
        self.way = way

    def hidden(self, ids: Tensor, scale: Any = 1.0) -> Tensor:
        x = self.wte(ids) if scale == 1.0 else self.wte(ids) * scale
        return self.norm(x + self.body(x))

    def forward(self, ids: Tensor) -> Any:
        return self.way(self, ids)


class Known(NamedTuple):
    """A model, the names of the matrix that is asked about, and its uses."""

    name: str
    build: Callable[[], nn.Module]
    uses: tuple[Truth, ...]
    names: tuple[str, ...] = TABLE
    inputs: Any = None


MODELS: list[Known] = []


def add(
    name: str, build: Callable[[], nn.Module], *uses: Truth, names: tuple[str, ...] = TABLE, inputs: Any = None
) -> None:
    MODELS.append(Known(name, build, uses, names, inputs))


def toy(name: str, way: Callable[[Any, Tensor], Any], *uses: Truth, head: bool = False, **more: Any) -> None:
    names = HEAD + TABLE if head else TABLE
    add(name, partial(Toy, way, head=head, **more), *uses, names=names)


def scaled(use: Truth, scale: float | None, *, turned: bool = False) -> Truth:
    return use[0], turned, scale, use[3]


# Heads that are modules, functions, and products in forward
toy("an nn.Linear with the embedding's weight", lambda m, i: m.head(m.hidden(i)), LOOKED, BY_HEAD, head=True)
toy("the same with a bias", lambda m, i: m.head(m.hidden(i)), LOOKED, BY_HEAD, head=True, bias=True)
toy("F.linear, OLMo, fairseq", lambda m, i: F.linear(m.hidden(i), m.wte.weight), LOOKED, PRODUCT)
toy("@ weight.t(), x-transformers", lambda m, i: m.hidden(i) @ m.wte.weight.t(), LOOKED, PRODUCT)
toy("@ weight.T", lambda m, i: m.hidden(i) @ m.wte.weight.T, LOOKED, PRODUCT)
toy("@ weight.mT", lambda m, i: m.hidden(i) @ m.wte.weight.mT, LOOKED, PRODUCT)
toy("transpose(0, 1)", lambda m, i: torch.matmul(m.hidden(i), m.wte.weight.transpose(0, 1)), LOOKED, PRODUCT)
toy("permute(1, 0)", lambda m, i: torch.matmul(m.hidden(i), m.wte.weight.permute(1, 0)), LOOKED, PRODUCT)
toy("the weight on the left", lambda m, i: (m.wte.weight @ m.hidden(i).mT).mT, LOOKED, PRODUCT)
toy("einsum", lambda m, i: torch.einsum("bld,vd->blv", m.hidden(i), m.wte.weight), LOOKED, PRODUCT)
toy("addmm", lambda m, i: torch.addmm(torch.zeros(WORDS), m.hidden(i)[0], m.wte.weight.t()), LOOKED, PRODUCT)
toy("bmm", lambda m, i: torch.bmm(m.hidden(i), m.wte.weight.t().expand(1, -1, -1)), LOOKED, PRODUCT)
toy("a cast on the way", lambda m, i: F.linear(m.hidden(i).double(), m.wte.weight.double()), LOOKED, PRODUCT)
toy("a copy on the way", lambda m, i: F.linear(m.hidden(i), m.wte.weight.clone().contiguous()), LOOKED, PRODUCT)
toy("detached", lambda m, i: F.linear(m.hidden(i), m.wte.weight.detach()), LOOKED, PRODUCT)
toy("functional under two names", lambda m, i: F.linear(m.hidden(i), m.wte.weight), LOOKED, PRODUCT, head=True)


def closure(kind: str) -> nn.Module:
    """MPT's lambda, a bound weight, a partial, torchtune's TiedLinear."""
    model = Toy(lambda m, i: m.out(m.hidden(i)))
    weight = model.wte.weight
    outs: dict[str, Any] = {
        "lambda over the module": lambda x: F.linear(x, model.wte.weight),
        "lambda over the weight": lambda x: F.linear(x, weight),
        "partial": partial(F.linear, weight=weight),
        "bound transpose": partial(torch.matmul, other=weight.t()),
        "TiedLinear": TiedLinear(model.wte),
    }
    model.__dict__["out"] = outs[kind]
    return model


class TiedLinear:
    """As torchtune 0.6 has it: no module, so that nothing is registered twice."""

    def __init__(self, tied: nn.Module) -> None:
        self.tied = tied

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self.tied.weight)


for kind in ("lambda over the module", "lambda over the weight", "partial", "bound transpose", "TiedLinear"):
    add(kind, partial(closure, kind), LOOKED, PRODUCT)


# What scales them
toy("Gemma: times sqrt(d)", lambda m, i: F.linear(m.hidden(i, ROOT), m.wte.weight), scaled(LOOKED, ROOT), PRODUCT)
toy(
    "Gemma: a tensor made in forward",
    lambda m, i: F.linear(m.norm(m.wte(i) * torch.tensor(3.0)), m.wte.weight),
    scaled(LOOKED, 3.0),
    PRODUCT,
)
toy("T5: d ** -0.5 before", lambda m, i: F.linear(m.hidden(i) * 0.5, m.wte.weight), LOOKED, scaled(PRODUCT, 0.5))
toy("Cohere: after", lambda m, i: F.linear(m.hidden(i), m.wte.weight) * 0.0625, LOOKED, scaled(PRODUCT, 0.0625))
toy(
    "Granite: divided",
    lambda m, i: F.linear(m.hidden(i, 12.0), m.wte.weight) / 8,
    scaled(LOOKED, 12),
    scaled(PRODUCT, 0.125),
)
toy(
    "muP: all three",
    lambda m, i: F.linear(m.hidden(i, 10.0) / 4, m.wte.weight * 2) * 3,
    scaled(LOOKED, 10.0),
    scaled(PRODUCT, 1.5),
)
toy(
    "Gemma 2: a soft cap",
    lambda m, i: torch.tanh(F.linear(m.hidden(i), m.wte.weight) / 30) * 30,
    LOOKED,
    scaled(PRODUCT, 1 / 30),
)
toy("a cosine head", lambda m, i: F.linear(m.hidden(i), F.normalize(m.wte.weight)), LOOKED, scaled(PRODUCT, None))


class Learned(Toy):
    """CLIP's learned logit scale, and a buffer that scales the embedding (Gemma 3)."""

    def __init__(self) -> None:
        super().__init__(lambda m, i: F.linear(m.norm(m.wte(i) * m.embed_scale), m.wte.weight) * m.scale.exp())
        self.scale = nn.Parameter(torch.tensor(0.5))
        self.register_buffer("embed_scale", torch.tensor(2.0))


add("a buffer and a learned scale", Learned, scaled(LOOKED, 2.0), scaled(PRODUCT, None))


# Other ways to look up
toy("index_select", lambda m, i: m.wte.weight.index_select(0, i[0]), LOOKED)
toy("indexing", lambda m, i: m.norm(m.wte.weight[i]) @ m.wte.weight.t(), LOOKED, PRODUCT)
toy("embedding_bag", lambda m, i: F.embedding_bag(i, m.wte.weight, mode="sum"), LOOKED)
toy("one-hot", lambda m, i: F.one_hot(i, WORDS).float() @ m.wte.weight, scaled(PRODUCT, 1.0, turned=True))
toy("twice, in two passes", lambda m, i: m.hidden(i) + m.hidden(i + 1), LOOKED)
toy("the whole table is normalised", lambda m, i: m.norm(m.wte.weight), ("other", False, 1.0, TABLE))

# Parts, joined and factorised matrices
toy("a slice as head, CPM-Ant", lambda m, i: F.linear(m.hidden(i), m.wte.weight[:7]), LOOKED, PRODUCT)
toy(
    "added rows",
    lambda m, i: F.linear(m.hidden(i), torch.cat([m.wte.weight, torch.zeros(2, WIDTH)])),
    LOOKED,
    ("other", False, 1.0, TABLE),
)
toy(
    "adaptive: clusters",
    lambda m, i: torch.cat([F.linear(m.hidden(i), m.wte.weight[:5]), F.linear(m.hidden(i), m.wte.weight[5:])], -1),
    LOOKED,
    PRODUCT,
)


class Factorised(nn.Module):
    """ALBERT: a narrow table, and the projection used in both directions."""

    def __init__(self) -> None:
        super().__init__()
        self.wte, self.proj = nn.Embedding(WORDS, 2), nn.Linear(2, WIDTH, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = F.gelu(self.proj(self.wte(ids)))
        return F.linear(F.linear(x, self.proj.weight.t()), self.wte.weight)


add("factorised: the table", Factorised, LOOKED, PRODUCT)
add(
    "factorised: the projection, both ways",
    Factorised,
    ("linear", False, 1.0, ("proj.weight",)),
    ("linear", True, 1.0, ("proj.weight",)),
    names=("proj.weight",),
)


class Auto(nn.Module):
    """An autoencoder whose decoder is the transposed encoder."""

    def __init__(self, decode: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.enc, self.decode = nn.Linear(8, WIDTH, bias=False), decode

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(torch.relu(self.enc(x)), self.enc.weight)


ENC = ("enc.weight",)
for name, decode in (("F.linear with t()", lambda z, w: F.linear(z, w.t())), ("z @ w", lambda z, w: z @ w)):
    add(
        f"autoencoder: {name}",
        partial(Auto, decode),
        ("linear", False, 1.0, ENC),
        ("linear", True, 1.0, ENC),
        names=ENC,
    )


class Conv1D(nn.Module):
    """GPT-2's layer: input by output, the other way round than nn.Linear."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(WIDTH, 8)), nn.Parameter(torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x.view(-1, WIDTH), self.weight)


add("Conv1D", Conv1D, ("linear", True, 1.0, ("weight",)), names=("weight",), inputs=torch.randn(2, WIDTH))


# Slots, aliases, layers that stand several times
class Alias(Toy):
    """OLMo 0.2: the head's slot is the embedding itself, and forward does not use it."""

    def __init__(self) -> None:
        super().__init__(lambda m, i: F.linear(m.hidden(i), m.wte.weight))
        self.ff_out = self.wte


add("a module alias", Alias, LOOKED, PRODUCT, names=("ff_out.weight", "wte.weight"))


class Shared(Toy):
    """An encoder-decoder with one embedding under two paths, both called."""

    def __init__(self) -> None:
        super().__init__(lambda m, i: m.enc(i) + m.dec(i))
        self.enc, self.dec = nn.Embedding(WORDS, WIDTH), nn.Embedding(WORDS, WIDTH)
        self.enc.weight = self.dec.weight = self.wte.weight


add(
    "one weight in three modules",
    Shared,
    ("embedding", False, 1.0, ("enc.weight",)),
    ("embedding", False, 1.0, ("dec.weight",)),
    names=("dec.weight", "enc.weight", "wte.weight"),
)


class Repeated(nn.Module):
    """ALBERT, universal transformers: one layer object, several times in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(WIDTH, WIDTH)] * 3)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.relu(layer(x))
        return x


REPEATED = tuple(f"layers.{n}.weight" for n in range(3))
add("a repeated layer", Repeated, *(("linear", False, 1.0, (n,)) for n in REPEATED), names=REPEATED)


class Lists(nn.Module):
    """Weights in a ParameterList, a ParameterDict, and a learned table that is added."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.ParameterList([nn.Parameter(torch.randn(WORDS, WIDTH))])
        self.named = nn.ParameterDict({"pos": nn.Parameter(torch.randn(1, 16, WIDTH))})

    def forward(self, ids: Tensor) -> Tensor:
        x = F.embedding(ids, self.rows[0]) + self.named["pos"][:, : ids.shape[1]]
        return F.linear(F.layer_norm(x, (WIDTH,)), self.rows[0])


IDS = torch.tensor([[1, 2, 3]])
ROWS = ("rows.0",)
add("ParameterList", Lists, ("embedding", False, 1.0, ROWS), ("linear", False, 1.0, ROWS), names=ROWS, inputs=IDS)
add(
    "ParameterDict: a table that is added",
    Lists,
    ("other", False, 1.0, ("named.pos",)),
    names=("named.pos",),
    inputs=IDS,
)


class Checkpointed(Toy):
    """A body under activation checkpointing."""

    def hidden(self, ids: Tensor, scale: Any = 1.0) -> Tensor:
        from torch.utils.checkpoint import checkpoint

        return checkpoint(super().hidden, ids, scale, use_reentrant=False)


add("checkpointed", partial(Checkpointed, lambda m, i: F.linear(m.hidden(i), m.wte.weight)), LOOKED, PRODUCT)


class Function(torch.autograd.Function):
    """A fused head, as training kernels have it."""

    @staticmethod
    def forward(_ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        return x @ weight.t()


toy("a product in an autograd.Function", lambda m, i: Function.apply(m.hidden(i), m.wte.weight), LOOKED, PRODUCT)
toy("a head that nothing reads", lambda m, i: m.hidden(i), LOOKED)
add(
    "attention: one fused op",
    partial(nn.MultiheadAttention, WIDTH, 2),
    ("other", False, 1.0, ("in_proj_weight",)),
    names=("in_proj_weight",),
    inputs=(torch.randn(3, 1, WIDTH),) * 3,
)
