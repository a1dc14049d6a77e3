"""Perturbs every field of a class's config, one at a time, and looks at what the class builds then."""

from __future__ import annotations

import contextlib
import copy
import re
import signal
import time
import typing
from collections.abc import Iterator, Mapping
from dataclasses import fields as fields_of
from typing import Any, NamedTuple

from tiecheck.tables.generate.build import Groups, build_on_meta, groups_of
from tiecheck.tables.generate.configs import LAYERS, TIE_KEY, Level, config_objects, dict_at_level, with_flags
from tiecheck.tables.generate.probe import Probe

SECONDS = 8
"""CPU time after which a build is given up (a number may ask for millions of modules), however busy a machine is."""

BUDGET = 60.0
"""Seconds that all builds of a class may take; one that takes more is told of by its parts alone."""

LONGEST = 4
"""Numbers of a list (one a stage) that are perturbed one by one; longer lists go by layers."""

SKIPPED = re.compile(
    r"kernel|stride|padding|dilation|_id$|_ids$|_index$|_idx$|^transformers_version$|^torchscript$|^chunk_size|dropout|_prob$|_eps$|_std$|_range$|theta|^id2label"
)
"""Fields that no shape, name or group hangs on in any class; they are left alone to save builds."""

COUNTS = re.compile(r"layers?$|depths?$|groups$|blocks?$|stages$|codebooks|quantizers|period|interval|offset|every")
"""Fields that count modules or say which of them there are: names hang on them, and sizes do not."""

Shapes = dict[str, tuple[int, ...]]


class SlowClassError(Exception):
    """The builds of a class take more time than one class is worth."""


class Field(NamedTuple):
    """One number, truth value or open field of a config, as the default build of a class has it."""

    level: Level
    """The levels above it."""
    key: str
    """Its key."""
    place: int
    """Its place where the value is a list of numbers; -1 for a plain value."""
    value: Any
    """The value that the default config has."""

    @property
    def dotted(self) -> str:
        """The field with its levels; a place in a list comes last."""
        return ".".join((*self.level, self.key, *((str(self.place),) if self.place >= 0 else ())))

    def put(self, data: dict[str, Any], value: Any) -> dict[str, Any]:
        """Return a config dict with another value in the field."""
        changed = copy.deepcopy(data)
        holder = dict_at_level(changed, self.level)
        if self.place < 0:
            holder[self.key] = value
        else:
            holder[self.key][self.place] = value
        return changed


class Variant(NamedTuple):
    """Names, shapes and groups that a class builds under one config."""

    shapes: Shapes
    groups: Groups


class Perturber:
    """One class with a config dict that builds it, every number of which is written out."""

    def __init__(self, asked: Probe) -> None:
        """Take the small build of a class, and its owners of config levels."""
        self.model_class, self.config_class = asked.model_class, asked.config_class
        self.data, self.model = asked.small, asked.model
        self.config = self.config_class.from_dict(copy.deepcopy(asked.small))
        self.owners = dict(config_objects(self.config))
        self.levels = list(self.owners)
        self.base = _built(self.model)
        self.until = time.process_time() + BUDGET

    def write_out(self) -> None:
        """Write out what the config derives from other fields, and every flag as true, as far as the class allows."""
        whole = copy.deepcopy(self.data)
        for level, owner in self.owners.items():
            for key, value in owner.to_dict().items():
                if key not in dict_at_level(whole, level) and _plain(key, value):
                    dict_at_level(whole, level)[key] = value
        flagged_whole = with_flags(whole, dict.fromkeys(self.levels, True))
        for data in (flagged_whole, with_flags(self.data, dict.fromkeys(self.levels, True)), whole):
            with contextlib.suppress(Exception):  # a field may be refused where it is written out, and so may a flag
                model = self._model(data)
                if _built(model).shapes == self.base.shapes:
                    self.data, self.model, self.base = data, model, _built(model)
                    return

    def _model(self, data: dict[str, Any]) -> Any:
        if time.process_time() > self.until:
            raise SlowClassError
        with limited_time():
            return build_on_meta(self.model_class, self.config_class, data)

    def built(self, changes: Mapping[Field, Any]) -> Variant | str:
        """Return what the class builds with other values in some fields; the words of the error where it raises."""
        data = self.data
        for field, value in changes.items():
            data = field.put(data, value)
        try:
            return _built(self._model(data))
        except SlowClassError:
            raise
        except Exception as error:  # noqa: BLE001 - a class may refuse a value in any words
            return f"{type(error).__name__}: {error}"

    def numbers(self, level: Level) -> Iterator[Field]:
        """Yield every positive number of a level that counts no modules, those of short lists one by one."""
        for key, value in sorted(dict_at_level(self.data, level).items()):
            if SKIPPED.search(key) or TIE_KEY.fullmatch(key) or COUNTS.search(key):
                continue
            if type(value) in (int, float) and value > 0:
                yield Field(level, key, -1, value)
            elif isinstance(value, list) and 0 < len(value) <= LONGEST and all(type(v) is int and v > 0 for v in value):
                yield from (Field(level, key, i, v) for i, v in enumerate(value))

    def counts(self, level: Level) -> Iterator[Field]:
        """Yield every number of a level that counts modules, layers left out."""
        for key, value in sorted(dict_at_level(self.data, level).items()):
            if COUNTS.search(key) and not LAYERS.search(key) and type(value) is int and value > 0:
                yield Field(level, key, -1, value)

    def switches(self, level: Level) -> Iterator[tuple[Field, Any]]:
        """Yield every field of a level that is no number, with each other value that its type has."""
        owner = self.owners[level]
        known = owner.to_dict()
        choices = _choices(type(owner))
        for key in sorted(known):
            if SKIPPED.search(key) or TIE_KEY.fullmatch(key):
                continue
            value = known[key]
            others: list[Any] = [not value] if type(value) is bool else []
            if type(value) in (str, type(None)):
                others += choices.get(key, ())
            for other in others:
                if other != value:
                    yield Field(level, key, -1, value), other


def _plain(key: str, value: Any) -> bool:
    listed = isinstance(value, list) and 0 < len(value) <= LONGEST and all(type(v) is int for v in value)
    return (type(value) in (int, float, bool) or listed) and not TIE_KEY.fullmatch(key)


def _choices(config_class: Any) -> dict[str, list[Any]]:
    """Return other values by the annotation of a field: the words of a `Literal`, both truths, a number for an int."""
    found: dict[str, list[Any]] = {}
    with contextlib.suppress(Exception):  # 4.57 has no annotations
        hints = typing.get_type_hints(config_class)
        for field in fields_of(config_class):
            found[field.name] = list(_values(hints.get(field.name)))
    return found


def _values(hint: Any) -> Iterator[Any]:
    if typing.get_origin(hint) is typing.Literal:
        yield from typing.get_args(hint)
    elif hint is bool:
        yield from (True, False)
    elif hint is int:
        yield 48
    else:
        parts = typing.get_args(hint)
        if str(typing.get_origin(hint)) in ("typing.Union", "<class 'types.UnionType'>"):
            for part in parts:
                yield from _values(part)


def _built(model: Any) -> Variant:
    return Variant({name: tuple(value.shape) for name, value in model.state_dict().items()}, groups_of(model))


@contextlib.contextmanager
def limited_time() -> Iterator[None]:
    """Raise TimeoutError in a block that takes too long."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"not built in {SECONDS} s")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
