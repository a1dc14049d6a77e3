"""The registry of operations: the tables of the modules beside it, and the entry point group `tiecheck.operations`.

An entry point names an `Operation`. Its function gets a `Trial`, does to its model what people do, and returns the
model that came of it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from functools import cached_property
from importlib import import_module
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tiecheck.errors import TargetError, UsageError, did_you_mean, exception_line
from tiecheck.live.registrations import Registrations, plain_references
from tiecheck.live.torch_adapter import PLAIN
from tiecheck.records.life import Family
from tiecheck.trace.forward import random_tokens
from tiecheck.wording import with_article

MODULES = ("on_modules", "on_state", "by_libraries", "in_training")
GROUP = "tiecheck.operations"


class NotHereError(Exception):
    """An operation does not go with this model, or its library is not installed; the message says why."""


class Trial:
    """A fresh instance of the model, and what an operation may want beside it."""

    def __init__(self, original: nn.Module, names: tuple[tuple[str, ...], ...], folder: str) -> None:
        self._original = original
        self.names = names
        """The registered names of each tie of parameters."""
        self.folder = folder
        """A directory of its own, which goes when the operation is over."""

    @cached_property
    def model(self) -> Any:
        """The model that the operation may do with as it likes."""
        return faithful_copy(self._original)

    def blank(self) -> Any:
        """Return another instance, tied alike, full of zeros: what a load goes into."""
        return faithful_copy(self._original, blank=True)

    def on_meta(self) -> Any:
        """Return another instance, tied alike, as if it had been built on the meta device."""
        return faithful_copy(self._original, meta=True)

    def built_again(self) -> Any:
        """Return a new model of the same class, by its config or without arguments, or raise `NotHereError`."""
        cls, config = type(self._original), getattr(self._original, "config", None)
        try:
            return cls(config) if hasattr(cls, "config_class") else cls()
        except TypeError as error:
            raise NotHereError("its class is not built by a config, nor without arguments") from error

    def pretrained(self) -> Any:
        """Return the model, where it is one of transformers, or raise `NotHereError`."""
        if not hasattr(self.model, "save_pretrained") or not hasattr(self.model, "config"):
            raise NotHereError("it is no model of transformers")
        return self.model

    def layer(self) -> tuple[nn.Module, str]:
        """Return a module whose weight is tied, a linear layer first, and the attribute, or raise `NotHereError`."""
        found = []
        for group in self.names:
            for name in group:
                path, _, attribute = name.rpartition(".")
                owner = self.model.get_submodule(path)
                if attribute in owner._parameters and owner._parameters[attribute].dim() == 2:
                    found.append((not isinstance(owner, nn.Linear), name, owner, attribute))
        if not found:
            raise NotHereError("no matrix of it is tied")
        _, _, owner, attribute = min(found, key=lambda one: one[:2])
        return owner, attribute

    def tokens(self) -> torch.Tensor:
        """Return four tokens, shape (1, 4), that the first tied matrix lets in, or raise `NotHereError`."""
        tied = next((self.model.get_parameter(group[0]) for group in self.names), None)
        if tied is None or tied.dim() != 2:
            raise NotHereError("no matrix of it is tied, so that there is no vocabulary to run it with")
        return random_tokens(tied.shape[0], (1, 4), tied.device, seed=0)


def library(name: str) -> Any:
    """Import a library, or raise `NotHereError`."""
    try:
        return import_module(name)
    except ImportError as error:
        raise NotHereError(f"{name.partition('.')[0]} is not installed") from error


class Operation(NamedTuple):
    """One operation."""

    name: str
    """Its name, in words with hyphens."""
    words: str
    """Code of it, for a reader."""
    family: Family
    """The sort of operation."""
    do: Callable[[Trial], Any]
    """Does it, and returns the model that came of it."""
    by_nature: bool = False
    """True where it is made to part or empty tensors."""
    saves: bool = False
    """True where values are to come back from a file as they were."""


def all_operations() -> tuple[Operation, ...]:
    """Return every operation, ours by module, then those of other packages by name.

    An entry point that gives no `Operation` is a `UsageError`.
    """
    from importlib.metadata import entry_points

    modules = [import_module(f"tiecheck.guard.operations.{module}") for module in MODULES]
    found = {one.name: one for module in modules for one in module.OPERATIONS}
    for entry in sorted(entry_points(group=GROUP), key=lambda one: one.name):
        made = entry.load()
        if not isinstance(made, Operation):
            raise UsageError(
                f"the entry point {entry.name} of {GROUP} gives {with_article(type(made).__name__)}, no Operation"
            )
        found.setdefault(made.name, made)
    return tuple(found.values())


def chosen_operations(names: Iterable[str]) -> tuple[Operation, ...]:
    """Return the operations of some names, or of families; all where none is given, an error for a name of nothing."""
    every = all_operations()
    wanted = tuple(names)
    known = {one.name for one in every} | {one.family for one in every}
    for name in wanted:
        if name not in known:
            raise UsageError(f"there is no operation {name!r}{did_you_mean(name, sorted(known))}")
    return tuple(one for one in every if not wanted or one.name in wanted or one.family in wanted)


LIMIT = 4 << 30
"""Bytes of tensors that a model may have to be copied."""


def faithful_copy(model: nn.Module, *, meta: bool = False, blank: bool = False) -> Any:
    """Return a copy of a model with all of its ties, plain lists of tensors included.

    Args:
        model: The model; it is read, and nothing of it is changed.
        meta: Put every tensor on the meta device, as if the class had been built there.
        blank: Fill with zeros what a state dict holds; other buffers are what the class computes.

    Raises:
        TargetError: It cannot be copied, or takes more than `LIMIT`.
    """
    places = Registrations(model, buffers=True)
    tensors = {id(t): t for t in [*places.tensors(), *(one.tensor for one in plain_references(places))]}
    plain = [t for t in tensors.values() if type(t) in PLAIN and t.layout is torch.strided]
    storages: dict[int, torch.UntypedStorage] = {}
    total = sum({t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in plain if not t.is_meta}.values())
    if total > LIMIT and not meta:
        raise TargetError(f"the model takes {total:,} bytes; survive copies it, and stops at {LIMIT:,}")
    memo: dict[int, Any] = {}
    try:
        state = model.state_dict().values() if blank else ()
        loaded = {t.untyped_storage()._cdata for t in state if type(t) in PLAIN}
        for tensor in plain:
            held = tensor.untyped_storage()._cdata
            memo[id(tensor)] = _copied(tensor, storages, meta=meta, blank=held in loaded)
        return copy.deepcopy(model, memo)
    except Exception as error:
        raise TargetError(f"the {type(model).__name__} cannot be copied: {exception_line(error)}") from error


def _copied(tensor: Tensor, storages: dict[int, torch.UntypedStorage], *, meta: bool, blank: bool) -> Tensor:
    with torch.no_grad():
        storage = tensor.untyped_storage()
        if storage._cdata not in storages:
            device = torch.device("meta") if meta or tensor.is_meta else storage.device
            make = torch.zeros if blank else torch.empty
            made = make(storage.nbytes(), dtype=torch.uint8, device=device).untyped_storage()
            if not blank and device.type != "meta":
                made.copy_(storage)
            storages[storage._cdata] = made
        held = storages[storage._cdata]
        empty = torch.empty(0, dtype=tensor.dtype, device=held.device)
        new = empty.set_(held, tensor.storage_offset(), tensor.shape, tensor.stride())
    if isinstance(tensor, nn.Parameter):
        new = nn.Parameter(new, requires_grad=tensor.requires_grad)
    return new
