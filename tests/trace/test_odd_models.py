"""Models that tie in odd ways: the uses of their table, and what is said of them, both written down by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parametrize
from torch.optim.swa_utils import AveragedModel
from torch.utils.checkpoint import checkpoint
from used_models import WIDTH, WORDS, Toy

import tiecheck

IDS = torch.tensor([[1, 2, 3]])
BOTH = ("embedding", "linear")
JUDGED = {"TIE406", "TIE704", "TIE705", "TIE706"}


class Odd(NamedTuple):
    """A model, the roles of `wte.weight` in it, and the codes that it earns."""

    name: str
    build: Callable[[], nn.Module]
    roles: tuple[str, ...] = BOTH
    codes: tuple[str, ...] = ()


ODD: list[Odd] = []


def odd(name: str, way: Callable[[Any, Tensor], Any], *roles: str, codes: str = "", **more: Any) -> None:
    ODD.append(Odd(name, partial(Toy, way, **more), roles or BOTH, tuple(codes.split())))


def changed(name: str, change: Callable[[Any], nn.Module], *roles: str, codes: str = "", head: bool = True) -> None:
    """Add a model that was changed after it was tied."""

    def build() -> nn.Module:
        by_table = lambda m, i: m.out(m.hidden(i))  # noqa: E731  # said where it is read
        return change(Toy((lambda m, i: m.head(m.hidden(i))) if head else by_table, head=head))

    ODD.append(Odd(name, build, roles or BOTH, tuple(codes.split())))


def apart(name: str, way: Callable[[Any, Tensor], Any], codes: str) -> None:
    """Add a model with a head of its own."""

    def build() -> nn.Module:
        model = Toy(way, head=True)
        model.head.weight = nn.Parameter(torch.randn(WORDS, WIDTH))
        return model

    ODD.append(Odd(name, build, BOTH, tuple(codes.split())))


# The weight is reached, cut and joined in odd ways
odd("chunks of the table", lambda m, i: torch.cat([F.linear(m.hidden(i), w) for w in m.wte.weight.chunk(3)], -1))
odd("chunks of positions", lambda m, i: torch.cat([F.linear(h, m.wte.weight) for h in m.hidden(i).chunk(3, 1)], 1))
odd("looked up twice", lambda m, i: F.linear(F.embedding(i, m.wte.weight) + m.wte(i + 1), m.wte.weight))
odd("a list of rows", lambda m, i: F.linear(m.norm(m.wte.weight[[1, 2, 3]]), m.wte.weight))
odd("gathered", lambda m, i: m.norm(torch.gather(m.wte.weight, 0, i[0][:, None].expand(-1, 4))), "other")
odd("rows as classes", lambda m, i: m.hidden(i) @ F.embedding(IDS[0], m.wte.weight).t(), "embedding")
odd("mv", lambda m, i: torch.mv(m.wte.weight, m.hidden(i)[0, -1]))
odd("tensordot", lambda m, i: torch.tensordot(m.hidden(i), m.wte.weight, dims=([2], [1])))
odd("tensordot with the transpose", lambda m, i: torch.tensordot(m.hidden(i), m.wte.weight.t(), dims=1))
odd("inner", lambda m, i: torch.inner(m.hidden(i), m.wte.weight))
odd("a sum of products", lambda m, i: (m.hidden(i).unsqueeze(-2) * m.wte.weight).sum(-1), "embedding", "other")
odd("vmap over positions", lambda m, i: torch.vmap(lambda h: F.linear(h, m.wte.weight))(m.hidden(i)))
odd(
    "vmap over the rows",
    lambda m, i: torch.vmap(lambda w: (m.hidden(i) * w).sum(-1))(m.wte.weight),
    *("embedding", "other"),
)
odd("checkpointed", lambda m, i: checkpoint(F.linear, m.hidden(i), m.wte.weight, use_reentrant=False))
odd("dropout on it", lambda m, i: F.linear(m.hidden(i), F.dropout(m.wte.weight, 0.5, m.training)))
odd("noise on it", lambda m, i: F.linear(m.hidden(i), m.wte.weight + torch.randn(WORDS, WIDTH)), "embedding", "other")


# What forward makes itself is of no other model
def made_in_forward(m: Any, i: Tensor, *, tie: bool) -> Tensor:
    head = nn.Linear(WIDTH, WORDS, bias=False)
    if tie:
        head.weight = m.wte.weight
    return head(m.hidden(i))


odd("a layer made in forward, tied", partial(made_in_forward, tie=True))
odd("a random layer made in forward", partial(made_in_forward, tie=False), "embedding")
odd("a Parameter over it, made in forward", lambda m, i: F.linear(m.hidden(i), nn.Parameter(m.wte.weight)))
odd(
    "the same of a copy, which is another tensor",
    lambda m, i: F.linear(m.wte(i), nn.Parameter(m.wte.weight * 1)),
    "embedding",
)
odd("functional_call", lambda m, i: functional_call(m.body, {"weight": m.wte.weight[:4]}, (m.hidden(i),)))

# Half of the gradient
odd("detached", lambda m, i: F.linear(m.hidden(i), m.wte.weight.detach()), codes="TIE706")
odd(".data", lambda m, i: F.linear(m.hidden(i), m.wte.weight.data), codes="TIE706")
odd("both ways", lambda m, i: F.linear(m.hidden(i), m.wte.weight.detach()) + F.linear(m.hidden(i), m.wte.weight))
odd("a damped hidden state", lambda m, i: F.linear(m.hidden(i) * 0.1 + m.hidden(i).detach(), m.wte.weight))
odd("a damped weight", lambda m, i: F.linear(m.hidden(i), m.wte.weight * 0.1 + m.wte.weight.detach() * 0.9))

# A head of its own that is not what makes the logits
apart("a head that nobody calls", lambda m, i: F.linear(m.hidden(i), m.wte.weight), "TIE705")
apart(
    "the same in chunks",
    lambda m, i: torch.cat([F.linear(m.hidden(i), w) for w in m.wte.weight.split(5)], -1),
    "TIE705",
)
apart(
    "its module with the table", lambda m, i: functional_call(m.head, {"weight": m.wte.weight}, m.hidden(i)), "TIE705"
)
apart("the mean of two heads", lambda m, i: m.head(m.hidden(i)) + F.linear(m.hidden(i), m.wte.weight), "")


# Changed after tying
class Halved(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight * 0.5


class LowRank(nn.Module):
    """An adapter around a head."""

    def __init__(self, base: Any) -> None:
        super().__init__()
        self.base, self.a, self.b = base, nn.Linear(WIDTH, 2, bias=False), nn.Linear(2, WORDS, bias=False)

    def forward(self, x: Tensor) -> Any:
        return self.base(x) + self.b(self.a(x))


def with_part(name: str, of: Callable[[Any], Any], model: Any) -> nn.Module:
    setattr(model, name, of(getattr(model, name)))
    return model


def parametrized(model: Any) -> nn.Module:
    parametrize.register_parametrization(model.head, "weight", Halved())
    return model


def closed_over(model: Any) -> nn.Module:
    weight = model.wte.weight
    model.out = lambda x: F.linear(x, weight)
    return model


def over_an_object(model: Any) -> nn.Module:
    model.out = TiedHead(model.wte)
    return model


class TiedHead:
    def __init__(self, table: nn.Module) -> None:
        self.table = table

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self.table.weight)


changed("a compiled body", partial(with_part, "body", partial(torch.compile, backend="eager")))
changed("a compiled head", partial(with_part, "head", partial(torch.compile, backend="eager")))
changed("a compiled method", partial(with_part, "hidden", partial(torch.compile, backend="eager")))
changed("an adapter around the head", partial(with_part, "head", LowRank))
changed("a parametrized head", parametrized)
changed("a head over a closure", closed_over, head=False)
changed("its copy", lambda m: copy.deepcopy(closed_over(m)), "embedding", codes="TIE406", head=False)
changed("its average", lambda m: AveragedModel(closed_over(m)), "embedding", codes="TIE406", head=False)
changed("a copy of a head that is an object", lambda m: copy.deepcopy(over_an_object(m)), head=False)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("known", ODD, ids=lambda known: known.name)
def test_odd_ties_have_their_uses_and_their_verdict(known: Odd) -> None:
    torch.manual_seed(0)
    model = known.build().eval()
    report = tiecheck.check(model, uses=True, inputs=IDS)
    (target,) = report.targets
    uses = [u for u in tiecheck.uses(model, IDS) if any("wte" in n or "head.param" in n for n in u.names)]
    assert tuple(u.role for u in uses if u.held == "parameter") == known.roles
    assert {f.code for f in target.findings} & JUDGED == set(known.codes)
    assert any(u.held == "nowhere" for u in tiecheck.uses(model, IDS)) == ("TIE406" in known.codes)
