"""Finds what a rope type wants beside it in a config: a class is not built without that."""

from __future__ import annotations

import ast
import contextlib
import importlib
import inspect
import re
import sys
import time
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import transformers

from tiecheck.tables.generate.perturb import Perturber, SlowClassError
from tiecheck.tables.generate.words import (
    BUDGET,
    NONSENSE,
    ROPE,
    KnownWords,
    by_sets,
    classes_with_words,
    compared_words,
    fields_without_default,
    raised_by,
    words_of_kinds,
)

ROPES = "transformers.modeling_rope_utils"

OTHER = "*"
"""Stands for each word that a class was not asked for."""

ROUNDS = 6
"""Times that keys are put beside a rope type."""

Needs = dict[str, list[str] | None]
"""Rope types with the keys that each wants beside it; None where no class was seen to build with it."""


def words_and_needs(sets: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return by config class what its fields have to hold, as the table has it; fill the sets of words."""
    needs, told = needs_of_kinds(words := words_of_kinds()), dict[str, dict[str, Any]]()
    for kind in words.keys() | needs.keys():
        told[kind] = by_sets(words.get(kind, {}), needs.get(kind, {}), sets)
    for kind, fields in fields_without_default().items():
        told.setdefault(kind, {})["h"] = fields
    for kind in kinds_without_ropes():
        told.setdefault(kind, {}).setdefault("q", {})
    return told


def kinds_without_ropes() -> set[str]:
    """Return the config classes of 4.57 without sections that take any rope: no source of theirs speaks of one.

    5 checks it in configs of every class.
    """
    if int(transformers.__version__.split(".")[0]) >= 5:
        return set()
    spoken, found = set[str](), set[str]()
    for kind, asked in classes_with_words():
        modules = [sys.modules[one.__module__] for one in (asked.model_class, asked.config_class)]
        said = len(asked.owners) > 1 or any("rope_" in inspect.getsource(module) for module in modules)
        (spoken if said else found).add(kind)
    return found - spoken


def needs_of_kinds(words: Mapping[str, KnownWords]) -> dict[str, dict[str, Needs]]:
    """Return by config class and field of a rope type what every class wants beside a type, where it wants anything.

    Known are the fields of each config class that hold words, and those.
    """
    found = dict[str, list[dict[str, Needs]]]()
    for kind, asked in classes_with_words():
        asked.until = time.process_time() + BUDGET
        with contextlib.suppress(SlowClassError):
            needs = dict(_needs_of_class(asked, words.get(kind, {})))
            found.setdefault(kind, []).append(needs)
    told = {kind: {field: wants for field, wants in alike(all_of).items() if wants} for kind, all_of in found.items()}
    return {kind: fields for kind, fields in told.items() if fields}


def alike(told: list[dict[str, Needs]]) -> dict[str, Needs]:
    """Return what all classes of a kind say of the same field and type."""
    first, *others = told
    for one in others:
        fields = {field: needs.items() for field, needs in one.items()}
        first = {
            field: {word: keys for word, keys in needs.items() if (word, keys) in fields.get(field, ())}
            for field, needs in first.items()
        }
    return first


def _needs_of_class(asked: Perturber, words: KnownWords) -> Iterator[tuple[str, Needs]]:
    """Yield the fields of rope types with the keys that each type wants beside it.

    5 checks the types that it knows in configs of every class; some classes of 4.57 have a check of their own.
    """
    known = {field: taken for field, (taken, _) in words.items() if field.endswith("rope_type")}
    flat = any(field.count(".") == 1 for field in known)  # else there may be one holder a type of layer
    for field, taken in known.items():
        needs = {word: wanted_beside(asked, tuple(field.split(".")[:-1]), word) for word in taken}
        yield field, {word: keys for word, keys in needs.items() if keys or (keys is None and word in rope_types())}
    for key in () if flat else (ROPE, "rope_parameters"):
        own = set(rope_types())
        closed = bool(raised_by(asked, {(key,): {"rope_type": NONSENSE, "factor": 2.0}}))
        if not closed and not raised_by(asked, {(key,): {"rope_type": "linear"}}):
            continue
        if closed:
            usual = (asked.owners[()].to_dict().get(key) or {}).get("rope_type", "default")
            own |= {usual, *compared_words(sys.modules[asked.config_class.__module__])}
        needs = {word: wanted_beside(asked, (key,), word) for word in sorted(own)}
        needs = {word: keys for word, keys in needs.items() if keys is not None or word in rope_types()}
        yield (
            f"{key}.rope_type",
            needs | {OTHER: None} if closed else {word: keys for word, keys in needs.items() if keys != []},
        )


def wanted_beside(asked: Perturber, holder: tuple[str, ...], word: str) -> list[str] | None:
    """Return the keys without which a class does not build with a rope type; None where it was seen to build with none.

    What errors name is put in, with a number or as many numbers as they want, until the class builds. A key for which
    one beside the holder may be enough has a question mark; `@` stands before a field that the config class has not,
    and that the check of the type reads whatever is put in.
    """
    held: dict[str, Any] = {"rope_type": word}
    for _ in range(ROUNDS):
        raised = raised_by(asked, {holder: held}).partition(", got {")[0]
        if not raised:
            break
        named = sorted(
            {*re.findall(r"(?<=[`'])\w+(?=[`'])|\w+(?= field must)", raised)} - {*holder, ROPE, "rope_type", word}
        )
        if "must be a dictionary with" in raised:
            held = {key: _usual(key) for key in named} | {"type": word}
        elif (lacking := _lacked(asked, raised)) and held.keys() >= set(rope_keys()):
            return [f"@{lacking}"]
        elif length := re.search(r"length (\d+)", raised):
            held = {k: v[:1] * int(length[1]) if isinstance(v, list) else v for k, v in held.items()}
        else:
            held = {key: _usual(key) for key in (rope_keys() if held.keys() >= set(named) else named)} | held
    else:
        return None
    wanted = []
    for key in sorted(held.keys() - {"rope_type"}):
        less = {holder: {other: value for other, value in held.items() if other != key}}
        outside = {(other,): 2 for other in rope_keys() if other != key}
        if raised_by(asked, less):
            wanted.append(key if raised_by(asked, outside | less) else f"{key}?")
    older = {"type": word} | {key: value for key, value in held.items() if key != "rope_type"}
    return [*wanted, *(["rope_type"] if raised_by(asked, {holder: older}) else [])]  # Cohere2's, of 4.57


def _lacked(asked: Perturber, raised: str) -> str:
    """Return the field that an error asks the config for, and that its class has not."""
    found = re.search(rf"'{asked.config_class.__name__}' object has no attribute '(\w+)'", raised)
    return found[1] if found else ""


def _usual(key: str) -> Any:
    return [2.0] if key.endswith(("short_factor", "long_factor")) else 2.0


@cache
def rope_keys() -> tuple[str, ...]:
    """Return every key that a rope type wants in a line of transformers, as its checks name them (`required_keys`)."""
    text = inspect.getsource(importlib.import_module(ROPES))
    sets = re.findall(r"required_keys = (\{[^}]*\})", text)
    return tuple(sorted(set().union(*map(ast.literal_eval, sets)) - {"rope_type"}))


def rope_types() -> list[str]:
    """Return the rope types of the library; 5 has no function for the plain one."""
    return sorted({"default", *importlib.import_module(ROPES).ROPE_INIT_FUNCTIONS})
