"""The zoo: real classes of transformers, built tiny, and the ways in which their configs and files are edited."""

from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import transformers

from tiecheck.tables.architectures import load_architecture
from tiecheck.tables.generate.build import build_on_meta, config_of, groups_of
from tiecheck.tables.generate.classes import ClassCandidate, class_candidates, resolve_classes
from tiecheck.tables.generate.configs import (
    FLAG,
    Level,
    config_levels,
    config_objects,
    dict_at_level,
    filled_from_default,
    shrink_layers,
    silent_dict,
    with_flags,
)
from tiecheck.tables.generate.head_scale import tiny_config

LARGEST = 10_000_000
"""Parameters of the largest model that is worth building."""


VOCABULARY = re.compile(r"vocab_size$|_token_id$|_token_index$")


Names = tuple[str, ...]


Tensors = dict[str, torch.Tensor]


class Animal(NamedTuple):
    """A class with a config dict that builds it small."""

    model_class: Any
    config_class: Any
    data: dict[str, Any]
    levels: tuple[Level, ...]

    def model(self, value: bool | None = None) -> Any:
        """A model with its own draw; the flag as the class has it, or one value at every level."""
        torch.manual_seed(0)
        flags = {} if value is None else dict.fromkeys(self.levels, value)
        return self.model_class(config_of(self.model_class, self.config_class, with_flags(self.data, flags)))


def animal(candidate: ClassCandidate) -> Animal:
    """A class as small as its config lets it be; raises what the last try raised."""
    model_class, config_class = resolve_classes(candidate)
    config = config_class()
    full = silent_dict(config)
    why: Exception = RuntimeError("too large")
    tries: tuple[Callable[[dict[str, Any]], dict[str, Any]], ...] = (
        lambda data: tiny_config(data, config, 64, 4),
        lambda data: tiny_config(data, config, 256, 4),
        lambda data: few_words(data, config),
    )
    for data in (full, filled_from_default(full, config)):
        for smaller in tries:
            small = smaller(data)
            try:
                size = sum(p.numel() for p in build_on_meta(model_class, config_class, small).parameters())
            except Exception as error:  # noqa: BLE001 - a tiny config is a guess, and a class may refuse it in any way
                why = error
                continue
            if size <= LARGEST:
                return Animal(model_class, config_class, small, ((), *config_levels(config)))
            why = RuntimeError(f"{size:,} parameters")
    raise why


def few_words(data: dict[str, Any], config: Any) -> dict[str, Any]:
    """A config dict with few layers and few words, its widths kept."""
    small = shrink_layers(data, config, 2)
    for level, owner in config_objects(config):
        for name, value in owner.to_dict().items():
            if VOCABULARY.search(name) and type(value) is int and value > 160:
                dict_at_level(small, level)[name] = 160 if name.endswith("size") else 1
    return small


def tied_model(one: Animal) -> Any:
    """A model of the class with as many ties as its flags allow."""
    found = None
    for value in (None, True):
        model = one.model(value)
        if found is None or len(groups_of(model)) > len(groups_of(found)):
            found = model
    return found


def flag_edits(where: tuple[Level, ...]) -> Iterator[tuple[str, dict[Level, bool | None]]]:
    """Ways to write the flags anew; None takes one away."""
    gone: dict[Level, bool | None] = dict.fromkeys(where)
    yield "as saved", {}
    yield "true", {(): True}
    yield "false", {(): False}
    yield "gone", gone
    for level in where[1:]:
        name = ".".join(level)
        for value in (True, False):
            yield f"{name} {value}", gone | {level: value}
            yield f"{name} {value}, top {not value}", gone | {level: value, (): not value}


def tensor_edits(base: Tensors, groups: list[Names]) -> Iterator[tuple[str, Tensors]]:
    """Ways to write the members of tied groups anew; the names that are in the file show which member is stored."""
    yield "as saved", base
    stored = {group: next((name for name in group if name in base), None) for group in groups}
    there = {group: name for group, name in stored.items() if name is not None}
    others = {group: [n for n in group if n != name] for group, name in there.items()}
    yield (
        "source dropped",
        {k: v for k, v in base.items() if k not in there.values()}
        | {others[group][0]: base[name] for group, name in there.items()},
    )
    yield "equal copy", base | {n: base[name].clone() for group, name in there.items() for n in others[group]}
    yield "other copy", base | {n: base[name] + 0.1 for group, name in there.items() for n in others[group]}


def written(config: dict[str, Any], flags: dict[Level, bool | None]) -> dict[str, Any]:
    """A config with some flags written or taken away, where it has the level."""
    data = copy.deepcopy(config)
    for level, value in flags.items():
        inner: Any = data
        for key in level:
            inner = inner.get(key) if isinstance(inner, dict) else None
        if isinstance(inner, dict):
            inner.pop(FLAG, None)
            if value is not None:
                inner[FLAG] = value
    return data


def own(candidate: ClassCandidate) -> bool:
    """Whether a class is built from its own config; another's is what an auto class makes of it."""
    try:
        model_class, config_class = resolve_classes(candidate)
    except (AttributeError, ImportError):
        return False
    return bool(getattr(model_class.config_class, "model_type", None) == getattr(config_class, "model_type", ""))


def by_name(name: str) -> ClassCandidate:
    """The class of this name under its own config."""
    config_class = getattr(transformers, name).config_class
    return ClassCandidate(name, config_class.model_type, "")


def zoo() -> Iterator[tuple[ClassCandidate, Animal]]:
    """Every class the table has a group of, as far as it can be had small, and without a further library."""
    for candidate in class_candidates():
        if load_architecture(candidate.class_name, candidate.model_type).ties and own(candidate):
            with contextlib.suppress(Exception):
                yield candidate, animal(candidate)
