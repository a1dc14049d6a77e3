"""Watches what happens while a guard is open: registrations by torch's own hooks, and a few calls by a thin wrapper.

Nothing here is in place while no guard is open. torch 2.13 calls its global registration hooks before it assigns, so
that the assignment is made for the look and taken back. A wrapper is taken off only where it is still the one that
stands there: another library may have put its own over it, and then ours stays and passes everything on.
"""

from __future__ import annotations

import contextlib
import functools
import linecache
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib import import_module
from types import FrameType
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn.modules import module as hooks
from torch.optim.optimizer import register_optimizer_step_pre_hook

from tiecheck.records.life import UserLine

CALLS: tuple[tuple[Any, ...], ...] = (
    (nn.Module, "_apply", "load_state_dict", "__setstate__"),
    (torch.utils, "swap_tensors"),
    (import_module("torch.nn.utils.weight_norm").WeightNorm, "apply"),  # these two write into the dicts of a module
    (import_module("torch.ao.quantization.quantize"), "_convert"),
)
"""Calls after which the ties are looked at."""

SHARDED = "torch.distributed.fsdp._fully_shard._fsdp_param_group", "FSDPParamGroup", "__init__"
"""What FSDP2 calls for each group of parameters that it shards, past `nn.Module` (2.13); where it is imported."""

OFTEN = ("deletion", "__setstate__")
"""Those that a copy or a wrapper calls for every module: looked at in the modules of a tie alone."""

DRAWS: tuple[tuple[Any, ...], ...] = (
    (nn.Module, "apply"),
    (nn.init, *(name for name in dir(nn.init) if name.endswith("_") and not name.startswith("_"))),
)
"""Calls after which the values of the tied tensors are looked at too: initialisers, and what runs one over modules."""


class Watcher(Protocol):
    """An open guard."""

    modules: set[int]
    """Identities of the modules in which a registration may concern a tie."""
    tensors: set[int]
    """Identities of the tied tensors, as they were at the last look."""

    def before(self) -> None:
        """Look before something is done."""

    def after(self, did: str) -> None:
        """Look after it was done."""

    def steps(self) -> None:
        """Look before the step of an optimizer."""

    def before_draw(self) -> object:
        """Return the values that an initialiser may overwrite."""

    def after_draw(self, values: Any, did: str) -> None:
        """Compare them with those of now."""


_lock = threading.RLock()
_open: list[Watcher] = []
_put_back: list[Callable[[], object]] = []
_deleting: set[type] = set()
_inside = threading.local()


def start_watching(watcher: Watcher) -> None:
    """Tell a watcher of what happens from now on."""
    with _lock:
        if not _open:
            _install()
        if watcher not in _open:
            _open.append(watcher)


def stop_watching(watcher: Watcher) -> None:
    """Tell it nothing more; the last one takes everything back."""
    with _lock:
        if watcher in _open:
            _open.remove(watcher)
        if not _open:
            while _put_back:
                _put_back.pop()()


def watch_deletions(modules: Iterable[nn.Module]) -> None:
    """Watch `del module.name` of the classes of some modules; of all classes it would take half a millisecond."""
    with _lock:
        for cls in set(map(type, modules)) - _deleting if _open else ():
            _deleting.add(cls)
            _wrap(cls, ("__delattr__",), _event)
            _put_back.append(functools.partial(_deleting.discard, cls))


def watch_data_assignments() -> None:
    """Watch `parameter.data = ...` as well, which matters to shared memory alone; until the last guard closes."""
    with _lock:
        if "data" in vars(nn.Parameter):
            return
        plain: Any = torch.Tensor.data  # of the C base; a class attribute goes before it

        def write(tensor: Any, value: Any) -> None:
            with _event(None, "`.data =`"):
                plain.__set__(tensor, value)

        nn.Parameter.data = property(plain.__get__, write)  # type: ignore[assignment]
        _put_back.append(lambda: delattr(nn.Parameter, "data"))


def _install() -> None:
    for register, kind in (
        (hooks.register_module_parameter_registration_hook, "_parameters"),
        (hooks.register_module_buffer_registration_hook, "_buffers"),
        (hooks.register_module_module_registration_hook, "_modules"),
    ):
        _put_back.append(register(functools.partial(_registered, kind)).remove)
    _put_back.append(register_optimizer_step_pre_hook(_stepping).remove)
    for owner, *names in CALLS:
        _wrap(owner, names, _event)
    if SHARDED[0] in sys.modules:
        _wrap(getattr(sys.modules[SHARDED[0]], SHARDED[1]), SHARDED[2:], _event)
    for owner, *names in DRAWS:
        _wrap(owner, names, _draw)


def _wrap(owner: Any, names: Iterable[str], watching: Callable[..., Any]) -> None:
    held = [(name, vars(owner).get(name)) for name in names]  # a static method is put back as one; None if inherited
    calls = [_watched(getattr(owner, name), name, watching) for name in names]

    def put_back() -> None:
        for (name, before), call in zip(held, calls, strict=True):
            if getattr(owner, name) is call:
                if before is None:
                    delattr(owner, name)
                else:
                    setattr(owner, name, before)

    for (name, before), call in zip(held, calls, strict=True):
        setattr(owner, name, staticmethod(call) if isinstance(before, staticmethod) else call)
    _put_back.append(put_back)


@lru_cache(64)
def _watched(original: Callable[..., Any], name: str, watching: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that calls another one, watched."""

    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        if watching is _draw:  # a load comes here for every layer that it builds
            first = id(args[0] if args else kwargs.get("tensor"))
            for watcher in _open:
                if first in watcher.tensors or first in watcher.modules:
                    break
            else:
                return original(*args, **kwargs)
        did = f"deletion of {args[1]}" if name == "__delattr__" and len(args) > 1 else name
        with watching(args[0] if args and isinstance(args[0], nn.Module) else None, did):
            return original(*args, **kwargs)

    return call


def _registered(kind: str, module: nn.Module, name: str, value: Any) -> None:
    """Look at the ties as they will be when torch has made an assignment that it is about to make."""
    for watcher in _open:  # a loop, since a load comes here for everything that it registers
        if id(module) in watcher.modules:
            break
    else:
        return
    if getattr(_inside, "depth", 0):
        return
    for watcher in tuple(_open):
        watcher.before()
    held = vars(module)[kind]
    there, old = name in held, held.get(name)
    held[name] = value
    try:
        for watcher in tuple(_open):
            watcher.after(f"assignment of {name}")
    finally:
        if there:
            held[name] = old
        else:
            del held[name]


def _stepping(*_: Any) -> None:
    """Look before the step of an optimizer: a loop may touch nothing else that is watched."""
    for watcher in tuple(_open):
        watcher.steps()


@contextmanager
def _event(module: nn.Module | None, name: str) -> Iterator[None]:
    """Look before and after a call, the outermost of those that call each other."""
    depth = getattr(_inside, "depth", 0)
    lone = name.startswith(OFTEN) and not any(id(module) in watcher.modules for watcher in _open)
    if depth or lone:
        yield
        return
    for watcher in tuple(_open):
        watcher.before()
    _inside.depth = 1
    try:
        yield
    finally:
        _inside.depth = 0
        for watcher in tuple(_open):
            watcher.after(name)


@contextmanager
def _draw(module: nn.Module | None, name: str) -> Iterator[None]:  # noqa: ARG001  # as `_event`
    """Look at the values of tied tensors before and after an initialiser."""
    if getattr(_inside, "drawing", False):
        yield
        return
    values = [(watcher, watcher.before_draw()) for watcher in tuple(_open)]
    _inside.drawing = True
    try:
        yield
    finally:
        _inside.drawing = False
        for watcher, before in values:
            watcher.after_draw(before, name)


OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
LIBRARY = os.path.dirname(os.__file__) + os.sep
"""Where Python's own modules lie; `sysconfig` takes a millisecond to say so."""


@lru_cache(4096)
def _rank(path: str) -> int:
    """Return 0 for a file of the user's, 1 for an installed package, 2 for torch, for us, and for no file at all."""
    if path.startswith(("<frozen", "<eval_with_key", OURS + os.sep)):
        return 2
    folders = path.split(os.sep)
    if "site-packages" in folders or "dist-packages" in folders:
        return 2 if "torch" in folders else 1
    return 1 if path.startswith(LIBRARY) else 0


def user_line(frame: FrameType | None = None, *, did: str = "") -> UserLine:
    """Return the nearest line of the user's code above a frame, by default the caller's; or the nearest not torch's.

    `did` tells what was done there, in case the user's line did it without a call: an assignment.
    """
    called = ""
    best: tuple[int, FrameType, str] | None = None
    at: FrameType | None = frame if frame is not None else sys._getframe(1)
    while at is not None:
        rank = _rank(at.f_code.co_filename)
        if best is None or rank < best[0]:
            best = rank, at, called
        if rank == 0:
            break
        name = at.f_code.co_qualname
        if at.f_code.co_filename != contextlib.__file__ and (rank < 2 or _is_torch(at)) and "<locals>.wrap" not in name:
            called = name
        at = at.f_back
    assert best is not None  # noqa: S101  # a frame was given
    _, found, operation = best
    path, line = found.f_code.co_filename, found.f_lineno
    assigned = operation.rpartition(".")[2] in ("__setattr__", "register_parameter", "__setitem__", "")
    code = linecache.getline(path, line).strip()
    return UserLine(
        path, line, code, did if assigned and did else operation or did, bool(code) and os.path.isfile(path)
    )


def _is_torch(frame: FrameType) -> bool:
    """Return True if a frame is code of torch's, our own wrappers around it left out."""
    return not frame.f_code.co_filename.startswith((OURS, "<"))
