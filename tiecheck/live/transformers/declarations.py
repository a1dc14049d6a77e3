"""The one place that knows what a live transformers model declares, and transformers' quirks (5.23.0, 4.57.6)."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

from tiecheck.live.module_graph import ModuleGraph
from tiecheck.live.transformers.tied_weights_keys import Keys, flag_of, read_keys
from tiecheck.live.wrappers import class_name
from tiecheck.records.live import Candidate, KeyProblem
from tiecheck.tables.architectures import FLAG
from tiecheck.union_find import joined_names


class DeclaredGroup(NamedTuple):
    """A group that the classes in a module declare."""

    names: tuple[str, ...]
    """The names, sorted."""
    source: str
    """The name the others are redirected to."""
    by: tuple[str, ...]
    """Attributes of classes that say so, and flags of configs."""


class PretrainedModel(NamedTuple):
    """One `PreTrainedModel` of a module."""

    number: int
    prefixes: tuple[str, ...]
    """Its paths, each with its final dot; capped."""
    model: Any
    keys: Keys
    """Declarations of its class, names counted from it."""


class Declarations(NamedTuple):
    """Ties that the `PreTrainedModel`s in a module speak of."""

    groups: tuple[DeclaredGroup, ...]
    """The groups declared under the configs as they are, by first name."""
    candidates: tuple[Candidate, ...]
    """The groups that would be declared if every flag were true, by first name."""
    flag: bool | None
    """`tie_word_embeddings` as the outermost model reads it: an absent one is false in 5.x. None without a model."""
    library: str | None
    """The library and its version."""
    reasons: tuple[str, ...]
    """Reasons for a model's declaration not being had."""
    problems: tuple[KeyProblem, ...]
    models: tuple[PretrainedModel, ...]
    """The models, outermost first."""


INSIDE = 4
"""Levels of configs in configs that are looked into."""

NOTHING = Declarations((), (), None, None, (), (), ())


class _Pair(NamedTuple):
    target: str
    source: str
    by: tuple[str, ...]
    flag: bool | None
    reloaded: bool | None


def read_declarations(graph: ModuleGraph, cap: int) -> Declarations:
    """Collect what the `PreTrainedModel`s in a module declare, each under its own config, `cap` paths of one looked at.

    The class's `_tied_weights_keys` expanded against real names, as transformers 5.23 `get_expanded_tied_weights_keys`
    does it. `all_tied_weights_keys` is never read: it is written once and kept, whatever becomes of the model. Where
    transformers' models are not loaded already, there is nothing and no import.
    """
    modeling = sys.modules.get("transformers.modeling_utils")
    base = getattr(modeling, "PreTrainedModel", None)
    if not isinstance(base, type):
        return NOTHING
    version = str(getattr(sys.modules.get("transformers"), "__version__", "?"))
    models = tuple(
        PretrainedModel(number, tuple(graph.prefixes(number, cap)), model, read_keys(model, version))
        for number, model in enumerate(graph.modules)
        if isinstance(model, base)
    )
    if not models:
        return NOTHING
    outer = models[0].model
    on = [pair for one in models for pair in _prefixed(one, one.keys.declared, outer)]
    possible = [pair for one in models for pair in _prefixed(one, one.keys.possible, outer)]
    return Declarations(
        groups=tuple(DeclaredGroup(one.names, one.source, one.by) for one in _groups(on)),
        candidates=tuple(_groups(possible)),
        flag=flag_of(models[0].model),
        library=f"transformers {version}",
        reasons=tuple(dict.fromkeys(one.keys.reason for one in models if one.keys.reason)),
        problems=tuple(_placed(models)),
        models=models,
    )


def fixed_flags(models: tuple[PretrainedModel, ...]) -> tuple[str, ...]:
    """Return the flags whose false does not last: a save and a load make them true (T5, 5.23)."""
    found = []
    for one in models:
        apart = copy.deepcopy(one.model.config) if one.keys.declared else None
        if apart is not None:
            setattr(apart, FLAG, False)
            found += [f"{prefix}config.{FLAG}" for prefix in one.prefixes if flag_reloaded(apart, apart)]
    return tuple(found)


def _placed(models: tuple[PretrainedModel, ...]) -> Iterator[KeyProblem]:
    """Yield the problems under the paths of the whole module; those of one class once, where it comes many times."""
    seen = set()
    for one in models:
        for problem in one.keys.problems:
            inner = problem.form == "uninitialised" and one is not models[0]  # nobody loads it by itself
            if problem not in seen and not inner:
                seen.add(problem)
                prefix = one.prefixes[0] if one.prefixes else ""
                names = tuple(prefix + name for name in problem.names) if problem.form != "list" else problem.names
                yield problem._replace(model=prefix.removesuffix("."), names=names)


def _prefixed(one: PretrainedModel, pairs: dict[str, str], outer: Any) -> Iterator[_Pair]:
    """Yield pairs under the names of the whole module, with who says so."""
    flag = flag_of(one.model)
    again = flag_reloaded(outer.config, one.model.config) if flag is False and pairs else flag
    for prefix in one.prefixes:
        by = (f"{class_name(one.model)}._tied_weights_keys", f"{prefix}config.tie_word_embeddings")
        for target, source in pairs.items():
            yield _Pair(prefix + target, prefix + source, by, flag, again)


def flag_reloaded(outer: Any, config: Any) -> bool | None:
    """Return the flag that a config has after the outermost one was saved and loaded; None where that fails."""
    path = _path_to(outer, config)
    saved = config if path is None else outer
    try:
        found = type(saved).from_dict(json.loads(saved.to_json_string()))
        for part in path or ():
            found = getattr(found, part)
        return bool(getattr(found, FLAG, False))
    except Exception:  # noqa: BLE001  # a config of the user's own
        return None


def _path_to(outer: Any, config: Any, depth: int = 0) -> tuple[str, ...] | None:
    """Return the attributes that lead from a config to one inside of it; None where it is not there."""
    if outer is config:
        return ()
    for key in getattr(outer, "sub_configs", None) or () if depth < INSIDE else ():
        below = getattr(outer, key, None)
        path = None if below is None or below is outer else _path_to(below, config, depth + 1)
        if path is not None:
            return (key, *path)
    return None


def _groups(pairs: list[_Pair]) -> list[Candidate]:
    """Join pairs to groups, with source, origins and flag: many targets of one source are a group, so is a chain."""
    groups = joined_names((pair.target, pair.source) for pair in pairs)
    number = {name: n for n, members in enumerate(groups) for name in members}
    by: dict[int, dict[str, None]] = {}
    flags: dict[int, list[bool | None]] = {}
    again: dict[int, list[bool | None]] = {}
    targets = {pair.target for pair in pairs if pair.target != pair.source}
    for pair in pairs:
        by.setdefault(number[pair.source], {}).update(dict.fromkeys(pair.by))
        flags.setdefault(number[pair.source], []).append(pair.flag)
        again.setdefault(number[pair.source], []).append(pair.reloaded)
    found = []
    for n, members in enumerate(groups):
        if len(members) > 1:
            sources = sorted(set(members) - targets) or sorted(members)
            flag, reloaded = (True if True in said[n] else said[n][0] for said in (flags, again))
            found.append(Candidate(tuple(sorted(members)), sources[0], tuple(by[n]), flag, reloaded))
    return sorted(found, key=lambda group: group.names)
