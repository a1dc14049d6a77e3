"""The one place that knows what a live transformers model declares, and transformers' quirks (5.23.0, 4.57.6)."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from tiecheck.live.member_lookup import look_up
from tiecheck.live.module_graph import ModuleGraph
from tiecheck.live.registrations import Registrations
from tiecheck.live.transformers.rewritten_keys import weight_of
from tiecheck.live.transformers.tied_weights_keys import Keys, flag_of, read_keys
from tiecheck.live.wrappers import class_name
from tiecheck.records.live import Candidate, Head, KeyProblem
from tiecheck.tables.architectures import FLAG, load_architecture, load_older, newer_names
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


CAP = 8
"""Names a record lists at most."""


def heads_of(models: Sequence[PretrainedModel], places: Registrations) -> tuple[Head, ...]:
    """Return the embeddings of each model, outermost first; one without a head where 4.57 ties more of it."""
    found: list[Head] = []
    told: set[tuple[str, ...]] = set()
    for head in (_head(one, places) for one in models if one.prefixes):
        if head is not None:
            older = tuple(group for group in head.older if group not in told)
            told.update(older)
            found.append(head._replace(older=older))
    return tuple(head for head in found if (head.embedding and head.head) or head.older)


def _head(one: PretrainedModel, places: Registrations) -> Head | None:
    """Return one model's embeddings; None where it has neither both nor a group that only 4.57 ties."""
    embedding, head = (weight_of(one.model, getter) for getter in ("get_input_embeddings", "get_output_embeddings"))
    prefix = one.prefixes[0]
    usual, older = _by_table(one, prefix)
    if (embedding is None or head is None) and not older:
        return None
    both = [tensor for tensor in (embedding, head) if tensor is not None]
    shapes = [tuple(tensor.shape) for tensor in both] if not _lazy(*both) else []
    return Head(
        class_name=type(one.model).__name__,
        embedding=places.names_of(embedding)[:CAP],
        head=places.names_of(head)[:CAP],
        same=embedding is head and head is not None,
        alike=len(shapes) == 2 and shapes[0] == shapes[1] and len(shapes[0]) == 2,
        flags=tuple(_flags(one.model.config)),
        usual=usual,
        older=older,
        encoder_decoder=bool(getattr(one.model.config, "is_encoder_decoder", False)),
    )


def _lazy(*tensors: Tensor) -> bool:
    from torch.nn.parameter import is_lazy

    return any(is_lazy(tensor) for tensor in tensors)


def _flags(config: Any, path: str = "config", depth: int = 0) -> Iterator[tuple[str, bool]]:
    """Yield every flag of a config and of its inner configs that is true or false, dotted."""
    value = getattr(config, FLAG, None)
    if isinstance(value, bool):
        yield f"{path}.{FLAG}", value
    inner = getattr(config, "sub_configs", None)
    if isinstance(inner, dict) and depth < 4:
        for key in inner:
            below = getattr(config, key, None)
            if below is not None and below is not config:
                yield from _flags(below, f"{path}.{key}", depth + 1)


def _by_table(one: PretrainedModel, prefix: str) -> tuple[str | None, tuple[tuple[str, ...], ...]]:
    """Return the class's usual embedding, and the groups that 4.57 ties though the flag is false, by the tie tables."""
    cls = type(one.model)
    if not cls.__module__.startswith("transformers."):
        return None, ()
    model_type = getattr(one.model.config, "model_type", None)
    known = load_architecture(cls.__name__, model_type)
    usual = prefix + known.embedding if known.embedding else None
    if getattr(one.model.config, FLAG, False):
        return usual, ()
    here = {tie.names for tie in known.ties if tie.off}
    older = [tie for tie in load_older(cls.__name__, model_type).ties if tie.off and not tie.level]
    groups = (newer_names(tie) for tie in older)
    apart = (group for group in groups if group not in here and _apart(one.model, group))
    return usual, tuple(tuple(prefix + name for name in group) for group in apart)


def _apart(model: Any, names: tuple[str, ...]) -> bool:
    """Return True if some names are all there, in one shape, and are not one parameter."""
    tensors = [look_up(model, name).tensor for name in names]
    there = [tensor for tensor in tensors if tensor is not None and not _lazy(tensor)]
    alike = len({tuple(tensor.shape) for tensor in there}) == 1
    return len(there) == len(names) and alike and len(set(map(id, there))) > 1
