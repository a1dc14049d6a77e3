"""Finds fields of a config that hold a word of the library, as `hidden_act`: a class is not built with another word."""

from __future__ import annotations

import ast
import contextlib
import copy
import hashlib
import inspect
import json
import re
import sys
import time
from collections.abc import Container, Iterator, Mapping
from types import ModuleType
from typing import Any

from tiecheck.tables.generate.bounds import each_class
from tiecheck.tables.generate.config_states import config_kind
from tiecheck.tables.generate.perturb import Perturber, SlowClassError
from tiecheck.tables.structure import class_structure

NONSENSE = "no_such_word"

OTHERS = re.compile(r"^(model_type|architectures|_name_or_path|name_or_path|problem_type|(torch_)?dtype|.*_version)$")
"""Fields that say what a config is of."""

ROPE = "rope_scaling"
"""The field of 4.57 that holds a word inside, and is None by default (`modeling_rope_utils`, 4.57.6)."""

BUDGET = 40.0
"""CPU seconds in which a class is asked; what it did not come to is not told."""

WORD = re.compile(r"[\w.+/-]+")

Words = dict[str, tuple[frozenset[str], bool]]
"""Fields with the words that they take, and whether those are a table of names, to which no package adds others."""

KnownWords = dict[str, tuple[list[str], bool]]
"""The same of a kind, in order; a field that some of its classes take any word in has no table."""


def words_of_kinds() -> dict[str, KnownWords]:
    """Return by config class the fields that a class built with it wants a known word in, with those words.

    A class with a model inside that is built with the same config says what that one says, and is asked where
    no class of the kind has none; else it is asked for the fields of its head.
    """
    found = dict[str, list[Words]]()
    for kind, asked in classes_with_words():
        found.setdefault(kind, []).append(words_of_class(asked))
    told = {}
    for kind, all_of in found.items():
        held = {field: [one[field] for one in all_of if field in one] for field in sorted(set().union(*all_of))}
        told[kind] = {
            field: (
                sorted(frozenset().union(*(words for words, _ in those))),
                len(those) == len(all_of) and all(table for _, table in those),
            )
            for field, those in held.items()
        }
    for _, kind, asked in each_class(lambda name, kind: not _without_base(name, kind)):
        for field, (words, _) in words_of_class(asked, told.get(kind, {}).keys()).items():
            told.setdefault(kind, {}).setdefault(field, (sorted(words), False))
    return {kind: fields for kind, fields in told.items() if fields}


def classes_with_words() -> Iterator[tuple[str, Perturber]]:
    """Yield the classes that are asked, with their config class: those without a model of their kind inside, or all."""
    plain = set[str]()
    for _, kind, asked in each_class(_without_base):
        if asked.base.shapes:  # some mapped classes hold nothing
            plain.add(kind)
            yield kind, asked
    for _, kind, asked in each_class(lambda _, kind: kind not in plain):
        if kind not in plain and asked.base.shapes:
            yield kind, asked


def fields_without_default() -> dict[str, list[str]]:
    """Return by config class the fields that are none by default, and with which no class of it is built so."""
    found = dict[str, list[set[str]]]()
    for kind, asked in classes_with_words():
        asked.until = time.process_time() + BUDGET
        default = asked.config_class()
        held = [key for key, value in asked.data.items() if type(value) in (int, float, list)]
        with contextlib.suppress(Exception):  # some configs have no value for the whole of a field
            unset = [key for key in held if getattr(default, key, 0) is None]
            found.setdefault(kind, []).append({key for key in unset if raised_by(asked, {(key,): None})})
    return {kind: sorted(set.intersection(*fields)) for kind, fields in found.items() if set.intersection(*fields)}


def by_sets(words: KnownWords, needs: Mapping[str, Any], sets: dict[str, Any]) -> dict[str, dict[str, list[str]]]:
    """Return the fields by the keys of their words, as the table has them: `e` of whole tables of names, else `c`.

    The words themselves go to the sets, and so do the keys that rope types want, under `q`.
    """
    found: dict[str, dict[str, list[str]]] = {}

    def put(letter: str, text: str, field: str, value: Any) -> None:
        key = hashlib.sha256(text.encode()).hexdigest()[:7]
        sets[key] = value
        found.setdefault(letter, {}).setdefault(key, []).append(field)

    for field, (taken, table) in sorted(words.items()):
        put("ce"[table], " ".join(taken), field, taken)
    for field, wanted in sorted(needs.items()):
        put("q", json.dumps(wanted, sort_keys=True), field, wanted)
    return found


def _without_base(name: str, kind: str) -> bool:
    found = class_structure(name, kind)
    return found is None or all(level for _, level, _ in found[1].get("p", ()))


def words_of_class(asked: Perturber, known: Container[str] = ()) -> Words:
    """Return the fields with which a class is not built where they hold nonsense, and the words that they take.

    Fields that are `known` are not asked.
    """
    found: Words = {}
    asked.until = time.process_time() + BUDGET
    with contextlib.suppress(SlowClassError):
        candidates = _words_in_reach(asked)
        for field in _refused(asked, [field for field in _fields(asked) if ".".join(field) not in known]):
            usual: Any = asked.owners[()].to_dict()
            for key in field:
                usual = (usual or {}).get(key, "default")
            plain = [["default"]] if field[-1] == "rope_type" else []  # which no table of 5 has, and classes may take
            taken = list(_taken(asked, field, usual, candidates + plain))
            words = frozenset(word for names in taken for word in names)
            if usual in words:  # else what it takes is no word that is written anywhere
                found[".".join(field)] = words, any(len(names) > 1 for names in taken)
    return found


def _taken(asked: Perturber, field: tuple[str, ...], usual: Any, candidates: list[list[str]]) -> Iterator[list[str]]:
    """Yield the words that a field takes; of a table of which it takes the first, the last and the usual one, all."""
    raised = _error(asked, field, NONSENSE)
    for names in candidates:
        asked_for = {names[0], names[-1], *({usual} & set(names) if isinstance(usual, str) else ())}
        taken = [word for word in sorted(asked_for) if _error(asked, field, word) != raised]
        if taken and len(taken) < len(asked_for):
            yield from ([word] for word in names if _error(asked, field, word) != raised)
        elif taken:
            yield names


def _fields(asked: Perturber) -> Iterator[tuple[str, ...]]:
    """Yield the fields of the outermost config that hold a word, those in plain dicts too.

    So are those of sections of which no model inside is made, and of which nobody else tells (SAM's prompt encoder).
    """
    data = asked.owners[()].to_dict()
    if ROPE in data and not data[ROPE]:
        yield ROPE, "rope_type"
    row = (class_structure(asked.model_class.__name__, config_kind(asked.config_class)) or ("", {}))[1]
    apart = [tuple(dotted.split(".")) for _, dotted, _ in row.get("p", ()) if dotted]
    based = any(not dotted for _, dotted, _ in row.get("p", ()))  # whose sections are the base model's matter
    for level, owner in asked.owners.items():
        if not (based and level) and not any(level[: len(one)] == one for one in apart):
            held = owner.to_dict().items()
            yield from _texts({key: value for key, value in held if (*level, key) not in asked.owners}, level)


def _texts(data: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in sorted(data.items()):
        if isinstance(value, str) and not OTHERS.search(key):
            yield *above, key
        elif isinstance(value, dict) and all(isinstance(name, str) for name in value):
            yield from _texts(value, (*above, key))


def _refused(asked: Perturber, fields: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Return the fields with which a class does not build where they hold no word of the library."""
    if not fields or not raised_by(asked, dict.fromkeys(fields, NONSENSE)):
        return []
    if len(fields) == 1:
        return fields
    half = len(fields) // 2
    return [*_refused(asked, fields[:half]), *_refused(asked, fields[half:])]


def _error(asked: Perturber, field: tuple[str, ...], word: str) -> str:
    """Return the error of a word without it: another one than that of nonsense means that the word was known."""
    kind, _, message = raised_by(asked, {field: word}).partition(": ")
    return f"{kind}: {message.replace(word, '')}"


def raised_by(asked: Perturber, words: Mapping[tuple[str, ...], Any]) -> str:
    """Return the error of a class that is built with other values at some places of its config; empty where none is."""
    before, asked.data = asked.data, copy.deepcopy(asked.data)
    known = asked.owners[()].to_dict()
    try:
        for (top, *inside), word in words.items():
            if not inside:
                asked.data[top] = word
                continue
            usual = known[top] or {"factor": 2.0}
            holder = asked.data[top] = copy.deepcopy(asked.data.get(top) or usual)
            for key in inside[:-1]:
                usual = usual.get(key) or {}
                holder[key] = holder.get(key) or copy.deepcopy(usual)
                holder = holder[key]
            holder[inside[-1]] = word
        built = asked.built({})
    finally:
        asked.data = before
    return built if isinstance(built, str) else ""


def _words_in_reach(asked: Perturber) -> list[list[str]]:
    """Return the tables of names that the modules of a class and its config see, and each word they compare with."""
    tables = []
    own = [sys.modules[one.__module__] for one in (asked.model_class, asked.config_class)]
    seen = {name for module in own for name in (getattr(v, "__module__", "") for v in vars(module).values())}
    near = [sys.modules[name] for name in sorted(map(str, seen)) if name.startswith("transformers.")]
    for module in {id(module): module for module in (*own, *near)}.values():
        for name, value in vars(module).items():
            keys = value if isinstance(value, Mapping) else ()
            texts = [key for key in keys if type(key) is str and WORD.fullmatch(key)]
            if texts and texts not in tables and not name.startswith("__"):
                tables.append(texts)
    words = set[str]().union(*map(compared_words, own))
    return [*tables, *([word] for word in sorted(words - {name for table in tables for name in table}))]


def compared_words(module: ModuleType) -> set[str]:
    """Return the words that a module compares with, has as keys or in lists, or annotates with."""
    words = set[str]()
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        inner = [node.left, *node.comparators] if isinstance(node, ast.Compare) else []
        inner += [key for key in node.keys if key] if isinstance(node, ast.Dict) else []
        inner += [node.annotation] if isinstance(node, ast.AnnAssign) else []
        inner += node.elts if isinstance(node, ast.List | ast.Tuple | ast.Set) else []
        leaves = (leaf for part in inner for leaf in ast.walk(part) if isinstance(leaf, ast.Constant))
        words |= {leaf.value for leaf in leaves if isinstance(leaf.value, str) and WORD.fullmatch(leaf.value)}
    return words
