"""The reads of forward passes of a module: each parameter, plain tensors that it keeps, and parameters of elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from tiecheck.errors import OutOfTimeError
from tiecheck.files.local import paused_collector
from tiecheck.live.registrations import Registrations
from tiecheck.live.torch_adapter import memory_views
from tiecheck.live.wrappers import UserNames, without_wrappers
from tiecheck.records.uses import Held, Use, Uses
from tiecheck.records.words import Unknown
from tiecheck.trace.forward import floating, left_untouched
from tiecheck.trace.inputs import Inputs, made_inputs
from tiecheck.trace.reads import ReadTrace, watch_reads
from tiecheck.trace.trails import TensorRead, watched_names

PASSES = 3
"""Most passes on made-up inputs, made to see what the first did not read (a text tower, then a vision tower)."""

TRIES = 12
"""Most inputs that are tried."""


class _Seen(NamedTuple):
    uses: list[Use]
    logits: tuple[str, ...] | None


def trace_uses(module: nn.Module, inputs: Inputs | None = None) -> Uses | Unknown:
    """Run a module's forward on meta, or where that cannot be followed on its own weights, and return what it reads.

    Nothing of the module is written: modes, buffers, random state and its dictionaries are as before afterwards.
    Without inputs some are made up. Where no pass comes to its end, what kept it comes back.
    """
    module = without_wrappers(module)
    places = Registrations(module, buffers=False)
    if any(is_lazy(t) for t in places.tensors()):
        return Unknown("layers that are not initialised yet (lazy) read nothing; run the model once")
    meta = all(t.is_meta for t in places.tensors())
    seen: list[_Seen] = []
    words: list[str] = []
    stopped = ""
    for tried, given in enumerate((inputs,) if inputs is not None else made_inputs(module)):
        if tried >= TRIES or len(seen) >= PASSES:
            break
        found = _pass(module, places, given, to_meta=True)
        if isinstance(found, str):
            stopped = stopped or found
            continue
        seen.append(found)
        words.append(given.words())
        if not _left(places, seen):
            break
    ran, real = "meta", None
    if not seen and not meta and not any(t.is_meta for t in places.tensors()):
        ran = "real"
        for given in (inputs,) if inputs is not None else list(made_inputs(module))[:TRIES]:
            real = _pass(module, places, on_device(given, module), to_meta=False)
            if not isinstance(real, str):
                seen.append(real)
                words.append(given.words())
                break
    if not seen:
        return Unknown(stopped or "no inputs could be made up for its forward; give some (--inputs, inputs=)")
    user = UserNames(places.graph)
    every = _with_unread(places, [use for one in seen for use in one.uses])
    uses = tuple(use._replace(names=user.all_of(use.names), reached=user.all_of(use.reached)) for use in every)
    logits = next((user.all_of(one.logits) for one in seen if one.logits is not None), None)
    return Uses(uses, tuple(words), ran, logits, stopped if real is not None else None)  # type: ignore[arg-type]


def on_device(given: Inputs, module: nn.Module) -> Inputs:
    """Return inputs on the device of a module's first parameter."""
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    return Inputs(tuple(_moved(v, device) for v in given.args), {k: _moved(v, device) for k, v in given.kwargs.items()})


def _moved(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, Tensor) else value


def _pass(module: nn.Module, places: Registrations, given: Inputs, *, to_meta: bool) -> _Seen | str:
    """Run one forward pass; a string says what stopped it."""
    trace = ReadTrace(places.tensors(), to_meta=to_meta)
    kept = dict(_plain_tensors(places))
    trace.expect(module.buffers())
    trace.expect(v for v in (*given.args, *given.kwargs.values()) if isinstance(v, Tensor))
    trace.follow(tensor for tensor, _ in kept.values())
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    try:
        with (
            paused_collector(),
            left_untouched(module, device),
            _nonzero_everywhere(),
            watched_names(places) as names_of,
            watch_reads(module, trace),
        ):
            trace.name_of = names_of
            output = module(*given.args, **given.kwargs)
    except OutOfTimeError:
        raise
    except (Exception, SystemExit, GeneratorExit) as error:  # noqa: BLE001  # a forward pass may fail in any way
        line = str(error).strip().partition("\n")[0][:200]
        at = f" in {trace.failed}" if trace.failed else ""
        return f"forward on {given.words()} stopped{at}: {type(error).__name__}: {line}"
    return _Seen(list(_uses_of(places, trace, kept)), _logits(places, trace, output))


@contextmanager
def _nonzero_everywhere() -> Iterator[None]:
    """Let a mask on meta, which has no values, be true everywhere (`torch.fx.experimental._config`, torch 2.13)."""
    from torch.fx.experimental import _config

    before = _config.meta_nonzero_assume_all_nonzero
    _config.meta_nonzero_assume_all_nonzero = True
    try:
        yield
    finally:
        _config.meta_nonzero_assume_all_nonzero = before


def _uses_of(places: Registrations, trace: ReadTrace, kept: dict[int, tuple[Tensor, str]]) -> Iterator[Use]:
    """Yield each use once, in the order of the pass."""
    made: dict[Use, None] = {}
    for read in trace.all_reads():
        for number in read.sources:
            made[_use(places, kept, read, trace.sources[number])] = None
    yield from made


def _use(places: Registrations, kept: dict[int, tuple[Tensor, str]], read: TensorRead, tensor: Tensor) -> Use:
    names = places.names_of(tensor)
    held: Held = "parameter" if names else "attribute" if id(tensor) in kept else "nowhere"
    reached = tuple(sorted(read.reached)) if set(read.reached) <= set(names) else ()
    use = Use(names, read.role, read.op, read.turned, read.scale, reached or names[: len(names) == 1], held)
    if held == "attribute":
        of, shares = _copied_parameter(places, tensor)
        use = use._replace(names=(kept[id(tensor)][1],), reached=(kept[id(tensor)][1],), of=of, shares=shares)
    return use._replace(shape=tuple(tensor.shape))


def _copied_parameter(places: Registrations, tensor: Tensor) -> tuple[tuple[str, ...], bool]:
    """Return the names of the parameter whose values, or their transpose, a tensor holds, and whether it is a view."""
    for parameter in places.tensors():
        if parameter.numel() != tensor.numel() or parameter.dim() != tensor.dim() or tensor.numel() < 2:
            continue
        mine, theirs = memory_views(tensor), memory_views(parameter)
        if mine and theirs and mine[0][:2] == theirs[0][:2]:  # one space, one first byte
            return places.names_of(parameter), True
        if parameter.is_meta or tensor.is_meta or parameter.device != tensor.device:
            continue
        alike = (parameter.detach(), parameter.detach().mT) if tensor.dim() > 1 else (parameter.detach(),)
        if any(tensor.shape == one.shape and torch.equal(tensor.detach(), one) for one in alike):
            return places.names_of(parameter), False
    return (), False


def _left(places: Registrations, seen: list[_Seen]) -> bool:
    """Return True if some parameter was not read yet."""
    read = {name for one in seen for use in one.uses for name in use.names}
    return any(read.isdisjoint(places.names_of(t)) for t in places.tensors())


def _with_unread(places: Registrations, uses: Iterable[Use]) -> list[Use]:
    """Return the uses with each parameter that has none, by names; what one name comes first of stays in order."""
    distinct = list(dict.fromkeys(uses))
    read = {name for use in distinct for name in use.names}
    for tensor in places.tensors():
        names = places.names_of(tensor)
        if read.isdisjoint(names):
            distinct.append(Use(names, "unread", None, transposed=False, scale=None, shape=tuple(tensor.shape)))
    return sorted(distinct, key=lambda use: use.names)


def _plain_tensors(places: Registrations) -> Iterator[tuple[int, tuple[Tensor, str]]]:
    """Yield the floating tensors that modules keep as plain attributes, by identity, with their paths."""
    for number, module in enumerate(places.graph.modules):
        for key, value in module.__dict__.items():
            if key.startswith("_") or not isinstance(value, (Tensor, list, tuple)):
                continue
            for item in (value,) if isinstance(value, Tensor) else value:
                if isinstance(item, Tensor) and item.is_floating_point() and not places.names_of(item):
                    yield id(item), (item, places.graph.path(number, key))


def _logits(places: Registrations, trace: ReadTrace, output: Any) -> tuple[str, ...] | None:
    """Return the names of the matrix that the first output of its rows comes from."""
    for tensor in floating(output):
        found = trace.reached(tensor)
        if found is not None and found[0].role == "linear":
            return tuple(n for s in found[0].sources for n in places.names_of(trace.sources[s]))
    return None
