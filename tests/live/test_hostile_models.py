"""Modules whose own code raises wherever it is asked: one error of ours from every public function, and no other."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import torch
from torch import nn

import tiecheck
from tiecheck.errors import TiecheckError


class Base(nn.Module):
    """A tied model."""

    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Embedding(8, 4)
        self.head = nn.Linear(4, 8, bias=False)
        self.head.weight = self.emb.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.emb(tokens))


class OddError(BaseException):
    """What `except Exception` lets through."""


def raising(error: Callable[[], BaseException]) -> Any:
    def method(*_: Any, **__: Any) -> Any:
        raise error()

    return method


def with_methods(
    *names: str, error: Callable[[], BaseException] = RuntimeError, as_property: bool = False
) -> nn.Module:
    method = property(raising(error)) if as_property else raising(error)
    return type("Odd", (Base,), dict.fromkeys(names, method))()


def getattr_raising() -> nn.Module:
    def look(self: nn.Module, name: str) -> Any:
        if name.startswith("_") or name in ("emb", "head"):
            return nn.Module.__getattr__(self, name)
        raise RuntimeError(f"side effect {name}")

    return type("Odd", (Base,), {"__getattr__": look})()


def endless_getattr() -> nn.Module:
    def look(self: nn.Module, name: str) -> Any:
        try:
            return nn.Module.__getattr__(self, name)
        except AttributeError:
            return getattr(self, name + "x")

    return type("Odd", (Base,), {"__getattr__": look})()


def nameless_class() -> nn.Module:
    meta = type("Meta", (type,), {"__repr__": raising(RuntimeError), "__name__": property(raising(RuntimeError))})
    return meta("Odd", (Base,), {})()


def never_initialised() -> nn.Module:
    return type("Odd", (nn.Module,), {"__init__": lambda self: None})()


def holds_one_never_initialised() -> nn.Module:
    found = Base()
    found._modules["odd"] = never_initialised()
    return found


def with_dicts(**attributes: Any) -> nn.Module:
    found = Base()
    found.__dict__.update(attributes)
    return found


def with_entries(place: str, **entries: Any) -> nn.Module:
    found = Base()
    getattr(found, place).update(entries)
    return found


def numbered() -> nn.Module:
    found = Base()
    found._parameters[5] = found.emb.weight  # type: ignore[index]
    return found


def freed() -> nn.Module:
    found = Base()
    found.emb.weight.untyped_storage().resize_(0)
    return found


def odd_dict(error: Callable[[], BaseException]) -> nn.Module:
    methods = dict.fromkeys(("items", "values", "__iter__"), raising(error))
    return with_dicts(_parameters=type("Odd", (dict,), methods)())


def late(name: str, after: int, error: Callable[[], BaseException]) -> nn.Module:
    """A sound model of which an attribute raises from some look on, and not while it is made."""
    left = [1 << 30]

    def look(self: nn.Module) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise error()
        return type(self) if name == "__class__" else self.__dict__[name]

    odd = type("Odd", (Base,), {"__class__": property(look)} if name == "__class__" else {})()
    if name != "__class__":
        setattr(type(odd), name, property(look))
    left[0] = after
    return odd


class RaisingTensor(torch.Tensor):
    """A tensor that refuses every function."""

    @classmethod
    def __torch_function__(cls, function: Any, *_: Any, **__: Any) -> Any:
        raise RuntimeError(f"refused {function}")


def refusing_tensor() -> nn.Module:
    found = Base()
    found._parameters["odd"] = torch.ones(8, 4).as_subclass(RaisingTensor)  # type: ignore[assignment]
    return found


WALKS = ("parameters", "named_parameters", "modules", "named_modules", "children", "buffers")
MODELS: dict[str, Callable[[], nn.Module]] = {
    "config": lambda: with_methods("config", as_property=True),
    "config-base": lambda: with_methods("config", as_property=True, error=OddError),
    "config-exit": lambda: with_methods("config", as_property=True, error=SystemExit),
    "getters-exit": lambda: with_methods("get_input_embeddings", "get_output_embeddings", error=SystemExit),
    "walks": lambda: with_methods(*WALKS, error=OSError),
    "forward-exit": lambda: with_methods("forward", error=SystemExit),
    "forward-base": lambda: with_methods("forward", error=OddError),
    "copy-exit": lambda: with_methods("__deepcopy__", "__reduce_ex__", "to", "half", error=SystemExit),
    "state-exit": lambda: with_methods("state_dict", error=SystemExit),
    "repr": lambda: with_methods("__repr__", "__str__", "extra_repr"),
    "hash": lambda: with_methods("__hash__", "__eq__"),
    "bool": lambda: with_methods("__bool__", "__len__", "__iter__", "__contains__", "__getitem__"),
    "getattr": getattr_raising,
    "endless": endless_getattr,
    "class": nameless_class,
    "uninit": never_initialised,
    "uninit-inside": holds_one_never_initialised,
    "number": numbered,
    "freed": freed,
    "odd-parameter": lambda: with_entries("_parameters", odd=5),
    "odd-module": lambda: with_entries("_modules", odd="x"),
    "odd-buffer": lambda: with_entries("_buffers", odd="s"),
    "no-dict": lambda: with_dicts(_parameters=None, _modules=[]),
    "dict": lambda: odd_dict(OSError),
    "tensor": refusing_tensor,
    "class-lies": type("Odd", (Base,), {"__class__": property(lambda _: int)}),
} | {
    f"late-{name}-{after}": lambda name=name, after=after, error=error: late(name, after, error)
    for draw in [random.Random(14)]
    for name in ("__class__", "_modules", "_parameters")
    for after, error in zip(draw.sample(range(40), 3), (RuntimeError, SystemExit, OddError), strict=True)
}


def watched(model: nn.Module) -> None:
    with tiecheck.guard(model) as guard:
        guard.watch(model)


NAMES = ("head.weight", "emb.weight")
CALLS: dict[str, Callable[[Any], Any]] = {
    "find_ties": tiecheck.find_ties,
    "find_ties-buffers": lambda model: tiecheck.find_ties(model, buffers=True),
    "count_parameters": tiecheck.count_parameters,
    "views": tiecheck.views,
    "assert_tied": lambda model: tiecheck.assert_tied(model, *NAMES),
    "assert_not_tied": lambda model: tiecheck.assert_not_tied(model, *NAMES),
    "assert_ties_match": lambda model: tiecheck.assert_ties_match(model, [NAMES]),
    "assert_ties_match-none": lambda model: tiecheck.assert_ties_match(model, []),
    "contract": lambda model: tiecheck.check(model, ties=[NAMES]),
    "gate": lambda model: tiecheck.gate(model, device_map="cpu", check=False).verify(model),
    "check": tiecheck.check,
    "inspect": tiecheck.inspect,
    "uses": tiecheck.uses,
    "survive": lambda model: tiecheck.survive(model, operations=("deepcopy", "half", "load-state-dict")),
    "compare": lambda model: tiecheck.compare(model, Base()),
    "compare-after": lambda model: tiecheck.compare(Base(), model),
    "beside": lambda model: tiecheck.check(Base(), beside=model),
    "optimizer": lambda model: tiecheck.check(model, optimizer=torch.optim.SGD([torch.ones(1)], lr=0.1)),
    "guard": watched,
}


@pytest.fixture(scope="module", autouse=True)
def libraries() -> None:
    """Everything is imported once, with nothing odd about."""
    for call in CALLS.values():
        try:
            call(Base())
        except AssertionError:
            continue


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.filterwarnings("ignore")
def test_foreign_failure_is_ours_to_tell(model: str, call: str) -> None:
    odd = MODELS[model]()
    try:
        report = CALLS[call](odd)
    except AssertionError:
        assert call.startswith("assert_")
        return
    except AttributeError:  # the name is not there
        assert call in {"assert_tied", "assert_not_tied"}
        return
    except TiecheckError:
        assert call not in {"check", "inspect"}
        return
    if call in {"check", "inspect", "contract"}:
        (target,) = report.targets
        assert all("please report" not in error.message for error in target.errors)
        assert all(error.code is None for error in target.errors)


@pytest.mark.parametrize("seed", range(60))
def test_a_look_that_raises_leaves_the_block_alone(seed: int) -> None:
    draw = random.Random(seed)
    name, error = (
        draw.choice(("__class__", "_modules", "_parameters")),
        draw.choice((RuntimeError, SystemExit, OddError)),
    )
    odd, other, entered, left = late(name, draw.randrange(300), error), Base(), False, False
    with suppress(TiecheckError), tiecheck.guard(odd):
        entered = True
        other.load_state_dict(Base().state_dict())
        nn.init.zeros_(other.emb.weight)
        other.apply(lambda _: None).double()
        other.emb.weight = nn.Parameter(other.emb.weight * 2)
        left = True
    assert entered == left


def test_sentence_names_the_class_and_what_it_raised() -> None:
    with pytest.raises(TiecheckError, match=r"^the Odd was never initialised: its __init__ does not call super"):
        tiecheck.find_ties(never_initialised())
    with pytest.raises(TiecheckError, match=r"^looking at the Base raised KeyError: '_parameters'"):
        tiecheck.find_ties(holds_one_never_initialised())
    (target,) = tiecheck.check(freed()).targets
    assert target.status == "error"
    assert target.errors[0].message.startswith("looking at the Base raised RuntimeError: ")


def test_interrupt_is_none_of_a_models_failures() -> None:
    for call in ("check", "inspect", "find_ties"):
        with pytest.raises(KeyboardInterrupt):
            CALLS[call](odd_dict(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        tiecheck.views(with_methods("state_dict", error=KeyboardInterrupt))


def test_wrong_arguments_stay_wrong_arguments() -> None:
    for call in CALLS.values():
        with pytest.raises((TypeError, TiecheckError)):
            call(5)
    with pytest.raises(ValueError, match="cap must be at least 2"):
        tiecheck.find_ties(Base(), cap=1)
    with pytest.raises(ValueError, match="two or more"):
        tiecheck.assert_tied(Base(), "emb.weight")
    with pytest.raises(AttributeError, match="did you mean"):
        tiecheck.assert_tied(Base(), "emb.weight", "head.weigth")
