"""One backward pass in which each use of a tensor has a gradient of its own, held against the one that the tensor gets.

Every time an op is given a followed parameter, it gets a view of it instead, so that autograd keeps the uses apart.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from tiecheck.live.registrations import Registrations
from tiecheck.live.wrappers import UserNames, without_wrappers
from tiecheck.records.uses import TensorGradient, UseGradient
from tiecheck.records.words import Unknown
from tiecheck.trace.forward import floating, left_untouched
from tiecheck.trace.inputs import Inputs, made_inputs
from tiecheck.trace.operations import kind_of
from tiecheck.trace.reads import ReadTrace
from tiecheck.trace.trails import watched_names
from tiecheck.trace.uses import TRIES, on_device

LARGEST = 200_000_000
"""Elements of the largest module that a backward pass is made of without being asked for it by loading the weights."""


class _Apart(ReadTrace):
    """Gives each op a view of its own of every parameter."""

    def __init__(self, parameters: list[Tensor]) -> None:
        super().__init__(parameters)
        self._own = {id(p): p for p in parameters}
        self.views: dict[int, Tensor] = {}
        """Number of each view -> its parameter."""
        self.names: Callable[[Tensor], tuple[str, ...]] = self.name_of
        """Returns the names by which the pass came to a parameter last."""
        self.name_of = self._names_of_view

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the call with views in the place of parameters."""
        if kind_of(func).getter and kind_of(func).name not in {"data", "T", "mT"}:
            return func(*args, **(kwargs or {}))
        named = {key: self._viewed(value) for key, value in (kwargs or {}).items()}
        return super().__torch_function__(func, types, self._viewed(tuple(args)), named)

    def _names_of_view(self, view: Tensor) -> tuple[str, ...]:
        """Return the names by which the pass came to the parameter that a view is one of."""
        return self.names(next((of for number, of in self.views.items() if self.sources[number] is view), view))

    def _viewed(self, value: Any) -> Any:
        if isinstance(value, Tensor) and id(value) in self._own:
            with torch._C.DisableTorchFunction():
                view = value.view_as(value)
            self.views[len(self.sources)] = value
            self.follow((view,))
            return view
        return type(value)(map(self._viewed, value)) if type(value) in {tuple, list} else value


def compare_gradients(module: nn.Module, inputs: Inputs | None = None) -> tuple[TensorGradient, ...] | Unknown:
    """Run one backward pass and return the gradients of every tensor that is looked up or multiplied with repeatedly.

    The loss is a fixed random sum over all that the module gives out. No `.grad` is touched, modes, buffers and random
    state are as before afterwards; hooks of the tensors run. A small module on meta is made anew from its config;
    without inputs some are made up. Unknown where there is nothing to run, or no pass came to its end.
    """
    real = _with_values(without_wrappers(module))
    if isinstance(real, Unknown):
        return real
    places = Registrations(real, buffers=False)
    stopped = "no inputs could be made up for its forward; give some (--inputs, inputs=)"
    for tried in (inputs,) if inputs is not None else list(made_inputs(real))[:TRIES]:
        given = on_device(tried, real)
        trace = _Apart([p for p in places.tensors() if p.requires_grad])
        try:
            with left_untouched(real, trace.sources[0].device, grad=True), watched_names(places) as names_of:
                trace.names = names_of
                with trace:
                    output = real(*given.args, **given.kwargs)
                return tuple(_gradients(places, trace, output))
        except (Exception, SystemExit, GeneratorExit) as error:  # noqa: BLE001  # a pass may fail in any way
            stopped = f"forward on {given.words()} stopped: {type(error).__name__}: {str(error).partition(chr(10))[0]}"
    return Unknown(stopped[:300])


def _with_values(module: nn.Module) -> nn.Module | Unknown:
    """Return a module that has weights: itself, or one of its class and config."""
    size = sum(p.numel() for p in module.parameters())
    if size > LARGEST:
        return Unknown(
            f"a backward pass over {size:,} elements was not made; --load, and a smaller model, show the same"
        )
    if not any(t.is_meta for t in (*module.parameters(), *module.buffers())):
        return module
    config = getattr(module, "config", None)
    if config is None:
        return Unknown("the module is on meta, where there are no gradients")
    try:
        return type(module)(copy.deepcopy(config)).eval()
    except (Exception, SystemExit, GeneratorExit) as error:  # noqa: BLE001  # a class may refuse its own config
        return Unknown(f"{type(module).__name__} could not be made with weights: {type(error).__name__}: {error}")


def _gradients(places: Registrations, trace: _Apart, output: Any) -> Iterator[TensorGradient]:
    """Yield the gradients of the tensors with several uses."""
    generator = torch.Generator().manual_seed(0)
    outs = [o for o in floating(output) if o.requires_grad]
    if not outs:
        return
    loss = torch.stack([(o.float() * torch.randn(o.shape, generator=generator).to(o.device)).sum() for o in outs]).sum()
    user = UserNames(places.graph)
    for parameter in places.tensors():
        reads = [(r, v) for r in trace.reads for v in r.sources if trace.views.get(v) is parameter]
        reads = [(r, v) for r, v in reads if r.role in {"embedding", "linear"}]
        if len(reads) < 2:  # one use, one gradient
            continue
        kept = [v for n, of in trace.views.items() if of is parameter and (v := trace.sources[n]).requires_grad]
        found: list[Tensor | None] = []  # torch types them as if none could be missing
        found += torch.autograd.grad(loss, [parameter, *kept], retain_graph=True, allow_unused=True)
        whole, *parts = found
        given = [g for g in parts if g is not None]
        norms = {id(v): float(g.norm()) for v, g in zip(kept, parts, strict=True) if g is not None}
        total = torch.zeros_like(parameter) if whole is None else whole
        off = total - sum(given, torch.zeros_like(parameter))
        uses = tuple(
            UseGradient(
                r.role,
                r.op,
                user.all_of(r.reached),
                norms.get(id(trace.sources[v])) if r.learns else None,
                detached=not r.learns,
            )
            for r, v in reads
        )
        norm = float(total.norm())
        hooked = bool(parameter._backward_hooks)
        yield TensorGradient(
            user.all_of(places.names_of(parameter)), uses, norm, float(off.norm()) / max(norm, 1e-30), hooked
        )
