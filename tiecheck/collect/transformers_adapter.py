"""The one place that knows what a live transformers model declares, and transformers' quirks (5.23.0)."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import nn

from tiecheck.collect.alias_graph import ModuleGraph
from tiecheck.collect.patterns import takes_forever

NAMES = 1_000_000
"""A model with more names than this, or endless ones, is not handed to transformers' own expansion: it lists them."""


class DeclaredGroup(NamedTuple):
    """A group that the classes in a module declare."""

    names: tuple[str, ...]
    """The names, sorted."""
    source: str
    """The name the others are redirected to."""
    by: tuple[str, ...]
    """Which classes' attribute says so, and which config's flag."""


class Declarations(NamedTuple):
    """What the `PreTrainedModel`s in a module say about ties."""

    groups: tuple[DeclaredGroup, ...]
    """The groups declared under the configs as they are, by first name."""
    candidates: tuple[tuple[str, ...], ...]
    """The groups that would be declared if every flag were true, by first name."""
    flag: bool | None
    """`tie_word_embeddings` as the outermost model reads it: an absent one is false in 5.x. None without a model."""
    library: str | None
    """The library and its version."""
    reasons: tuple[str, ...]
    """Why a model's declaration could not be had."""


class _Pair(NamedTuple):
    target: str
    source: str
    by: tuple[str, ...]


class _View:
    """A model seen by its own method as if its flag were true; neither model nor config is touched."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.config = _Config(model.config)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


class _Config:
    """A config with the flag true."""

    tie_word_embeddings = True

    def __init__(self, config: Any) -> None:
        self._config = config

    def __getattr__(self, name: str) -> Any:
        return getattr(self._config, name)


def declarations(graph: ModuleGraph, cap: int) -> Declarations:
    """What the `PreTrainedModel`s in a module declare, each under its own config.

    The class's `_tied_weights_keys` expanded against real names, as transformers 5.23
    `get_expanded_tied_weights_keys` does it. `all_tied_weights_keys` is never read: it is written once and kept,
    whatever becomes of the model.

    Args:
        graph: The modules.
        cap: Paths of one model that are looked at.

    Returns:
        The declarations; nothing of them, and no import, where transformers' models are not loaded already.
    """
    modeling = sys.modules.get("transformers.modeling_utils")
    base = getattr(modeling, "PreTrainedModel", None)
    if not isinstance(base, type):
        return Declarations((), (), None, None, ())
    version = getattr(sys.modules.get("transformers"), "__version__", "?")
    on: list[_Pair] = []
    possible: list[_Pair] = []
    reasons: list[str] = []
    flag: bool | None = None
    library = None
    for number, model in enumerate(graph.modules):
        if not isinstance(model, base):
            continue
        if library is None:
            library = f"transformers {version}"
            flag = _flag(model)
        try:
            declared, pairs = _expand(model, str(version))
        except Exception as error:  # noqa: BLE001  # a class can declare what its own library cannot read
            reasons.append(f"{type(model).__name__}: {type(error).__name__}: {error}")
            continue
        if pairs or declared:
            for prefix in graph.prefixes(number, cap):
                on += _prefixed(model, declared, prefix)
                possible += _prefixed(model, pairs, prefix)
    groups = tuple(_groups(on))
    return Declarations(groups, tuple(group.names for group in _groups(possible)), flag, library, tuple(reasons))


def _flag(model: nn.Module) -> bool | None:
    """`tie_word_embeddings` as the model reads it."""
    config = getattr(model, "config", None)
    return None if config is None else bool(getattr(config, "tie_word_embeddings", False))


def _expand(model: Any, version: str) -> tuple[dict[str, str], dict[str, str]]:
    """{target: source} as declared, and as it would be with the flag true.

    Raises:
        Exception: Whatever the class's own code raises; ValueError for a form without sources.
    """
    keys = model._tied_weights_keys
    if not keys:
        return {}, {}
    if not isinstance(keys, dict):
        raise ValueError(f"`_tied_weights_keys` is a {type(keys).__name__}, which names no sources")  # noqa: TRY004
    expand = getattr(type(model), "get_expanded_tied_weights_keys", None)
    if expand is None:
        raise ValueError(f"transformers {version} cannot expand `_tied_weights_keys`")
    graph = ModuleGraph(model)
    counts = [graph.paths(number) for number in graph.aliased()]
    if any(count is None or count > NAMES for count in counts):
        raise ValueError("the model has too many names to match `_tied_weights_keys` against")
    told = [word for word in (*keys, *keys.values()) if isinstance(word, str)]
    endless = takes_forever(told, lambda: (name for name, _ in model.named_parameters(remove_duplicate=False)))
    if endless is not None:
        raise ValueError(f"the pattern {endless!r} in `_tied_weights_keys` cannot be matched against the names in time")
    declared = dict(model.get_expanded_tied_weights_keys(all_submodels=False))
    return declared, declared or dict(expand(_View(model), all_submodels=False))


def _prefixed(model: nn.Module, pairs: dict[str, str], prefix: str) -> Iterator[_Pair]:
    """Pairs under the names of the whole module, with who says so."""
    by = (f"{type(model).__name__}._tied_weights_keys", f"{prefix}config.tie_word_embeddings")
    for target, source in pairs.items():
        yield _Pair(prefix + target, prefix + source, by)


def _groups(pairs: list[_Pair]) -> list[DeclaredGroup]:
    """Groups of names from pairs: a source with many targets is one group, and so is a chain."""
    up: dict[str, str] = {}

    def find(name: str) -> str:
        while up.setdefault(name, name) != name:
            up[name] = up[up[name]]
            name = up[name]
        return name

    for pair in pairs:
        up[find(pair.target)] = find(pair.source)
    names: dict[str, set[str]] = {}
    by: dict[str, dict[str, None]] = {}
    for name in up:
        names.setdefault(find(name), set()).add(name)
    targets = {pair.target for pair in pairs if pair.target != pair.source}
    for pair in pairs:
        by.setdefault(find(pair.source), {}).update(dict.fromkeys(pair.by))
    found = []
    for root, members in names.items():
        if len(members) > 1:
            sources = sorted(members - targets) or sorted(members)
            found.append(DeclaredGroup(tuple(sorted(members)), sources[0], tuple(by[root])))
    return sorted(found)
