"""Reads what one `PreTrainedModel` class declares with `_tied_weights_keys`, and what is wrong with the declaration.

Expanded by transformers' own method, so that what it makes of a pattern is what we report (5.23.0,
`get_expanded_tied_weights_keys`). 4.x has lists of names and patterns without sources: there the input embedding is the
source of what has its shape (`_tie_or_clone_weights`, 4.57.6), and the rest is not known.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any, NamedTuple

from torch import nn

from tiecheck.live.member_lookup import look_up
from tiecheck.live.module_graph import ModuleGraph
from tiecheck.live.moved_members import in_wrappers
from tiecheck.live.transformers.rewritten_keys import declaration_text, head_pair, listed_pairs, method_problems
from tiecheck.patterns import takes_forever
from tiecheck.records.live import KeyForm, KeyProblem
from tiecheck.wording import with_article

NAMES = 1_000_000
"""A model with more names than this, or endless ones, is not handed to transformers' own expansion: it lists them."""

SHORTCUT = re.compile(r"^[A-Za-z0-9_\.]+(weight)|(bias)$")
"""Form of a key that 5.23 takes for a whole name, unanchored as it stands there: `a.weighted_head` has it too."""

BESIDE = {"mask": "orig", "u": "orig", "v": "orig", "g": "v"}
"""End of what torch's hooks (2.13) put beside the one they compute from: pruning, `spectral_norm`, `weight_norm`."""

INNER = re.compile(r"(^|\.)parametrizations\.\w+\.(?!original1?$)")
"""Name of what a parametrization (2.13) keeps beside its `original`, which in `weight_norm` is the second."""

PLAIN = re.compile(r"[A-Za-z0-9_.]+")
"""A word that is a name and no pattern."""

REASON = 300
"""Characters of a reason: 5.23 lists every name of the model in some."""

CAP = 8
"""Names a problem lists at most."""


class Keys(NamedTuple):
    """Ties that a model's class speaks of."""

    declared: dict[str, str]
    """{target: source} under the config as it is."""
    possible: dict[str, str]
    """The same as it would be with the flag true."""
    problems: tuple[KeyProblem, ...]
    reason: str | None
    """Reason for some of it not being read."""


class _View:
    """A model seen by its own method as if its flag were true, with some keys; neither it nor its config changes."""

    def __init__(self, model: Any, keys: Mapping[Any, Any]) -> None:
        self._model = model
        self._tied_weights_keys = keys
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


def flag_of(model: nn.Module) -> bool | None:
    """Read `tie_word_embeddings` as the model does: absent is false in transformers 5, true in 4.x."""
    config = getattr(model, "config", None)
    return None if config is None else bool(getattr(config, "tie_word_embeddings", False))


def read_keys(model: nn.Module, version: str) -> Keys:
    """Read what the class of a `PreTrainedModel` declares, names counted from the model, for one transformers."""
    older = (
        not version.startswith("5")
        and version.split(".", maxsplit=1)[0].isdecimal()
        and int(version.split(".", maxsplit=1)[0]) < 5
    )
    problems = [] if older else list(_class_problems(model))
    keys = getattr(model, "_tied_weights_keys", None)
    if not keys:
        return Keys({}, {}, tuple(problems), None)
    try:
        if older:
            return Keys(*_expand_older(model, keys), (), None)
        if not isinstance(keys, Mapping):
            form = with_article(type(keys).__name__)
            what = f"{type(model).__name__}: `_tied_weights_keys` is {form}, which names no sources"
            return Keys({}, {}, tuple(problems), what)
        names = _all_names(model, keys)
        problems += _pair_problems(model, keys, names)
        declared, possible, reason = _expand(model, keys, names, version)
        declared, possible = _members(declared, keys, names), _members(possible, keys, names)
        return Keys(declared, possible, tuple(problems), reason)
    except Exception as error:  # noqa: BLE001  # a class can declare what its own library cannot read
        what = _gone(model, keys, error) or f"{type(model).__name__}: {type(error).__name__}: {error}"
        return Keys({}, {}, tuple(problems), what if len(what) <= REASON else f"{what[:REASON]}...")


def _gone(model: nn.Module, keys: Any, error: Exception) -> str | None:
    """Return which declared members are no parameters any more, which is why 5.23 cannot expand the declaration."""
    whole = PLAIN.fullmatch if "tie_weights_keys" in str(error) else None
    words = sorted({word for word in chain(keys, keys.values()) if whole and whole(word) and "." in word})
    why = [member.why for member in (look_up(model, word) for word in words) if member.why and member.owner is not None]
    return f"{'; '.join(why)}: {type(model).__name__}.tie_weights() raises a ValueError over it" if why else None


def class_problems(model_class: Any) -> tuple[KeyProblem, ...]:
    """Return what is wrong with a class's declaration that shows without an instance: the forms of 4.x."""
    return tuple(_class_problems(model_class))


def _class_problems(model: Any) -> Iterator[KeyProblem]:
    """Yield what transformers 5 cannot read or call: a list of keys, no `post_init`, another `tie_weights`."""
    cls = model if isinstance(model, type) else type(model)
    flag = None if isinstance(model, type) else flag_of(model)

    def problem(form: KeyForm, key: str, raised: str | None, **more: Any) -> KeyProblem:
        return KeyProblem(form, "", cls.__name__, key, None, **({"names": ()} | more), flag=flag, raised=raised)

    keys = getattr(model, "_tied_weights_keys", None)
    if keys and not isinstance(keys, Mapping):
        word = type(keys).__name__
        listed = (
            tuple(sorted(str(getattr(key, "pattern", key)) for key in keys))[:CAP]
            if isinstance(keys, (list, tuple, set, frozenset))
            else ()
        )
        raised = f"AttributeError: '{word}' object has no attribute 'keys'"
        pairs = listed_pairs(model, keys) if listed and not isinstance(model, type) else None
        wanted = declaration_text(pairs) if pairs else None
        yield problem("list", word, raised, names=listed, written=declaration_text(keys), wanted=wanted)
    holds = not isinstance(model, type) and next(model.parameters(), None) is not None  # else an abstract class
    if holds and getattr(model, "all_tied_weights_keys", None) is None:
        raised = f"AttributeError: '{cls.__name__}' object has no attribute 'all_tied_weights_keys'"
        yield problem("uninitialised", "__init__", raised, wanted="self.post_init()")
    yield from method_problems(cls, problem)


def _all_names(model: Any, keys: Mapping[Any, Any]) -> frozenset[str]:
    """Return every name of a parameter or buffer, as transformers lists them to match the keys against.

    Too many, or a pattern that takes forever on them, raise a `ValueError`.
    """
    graph = ModuleGraph(model)
    counts = [graph.paths(number) for number in graph.aliased()]
    if any(count is None or count > NAMES for count in counts):
        raise ValueError("the model has too many names to match `_tied_weights_keys` against")
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    told = [word for word in (*keys, *keys.values()) if isinstance(word, str)]
    endless = takes_forever(told, lambda: iter(names))
    if endless is not None:
        raise ValueError(f"the pattern {endless!r} in `_tied_weights_keys` cannot be matched against the names in time")
    return frozenset(names).union(name for name, _ in model.named_buffers(remove_duplicate=False))


def _expand(
    model: Any, keys: Mapping[Any, Any], names: frozenset[str], version: str
) -> tuple[dict[str, str], dict[str, str], str | None]:
    """Return {target: source} as declared and as with the flag true, and why the first could not be had."""
    expand = getattr(type(model), "get_expanded_tied_weights_keys", None)
    if expand is None:
        return {}, {}, f"transformers {version} cannot expand `_tied_weights_keys`"
    declared = dict(model.get_expanded_tied_weights_keys(all_submodels=False))
    if declared or flag_of(model):
        return declared, declared, None
    fitting = {target: source for target, source in keys.items() if _matches(target, names) and _matches(source, names)}
    for some in (keys, fitting):
        try:
            return {}, dict(expand(_View(model, some), all_submodels=False)), None
        except ValueError:  # keys that fit nothing in this model, which nothing asks for: a note, and no reason
            continue
    return {}, {}, None


def _members(pairs: dict[str, str], keys: Mapping[Any, Any], names: frozenset[str]) -> dict[str, str]:
    """Return pairs without what pruning, norms and parametrizations keep beside a member that a key matches too."""
    parts = {name: name.rpartition("_") for name in chain(pairs, pairs.values()) if name not in (*keys, *keys.values())}
    hooked = {n for n, (stem, _, end) in parts.items() if f"{stem}_{BESIDE.get(end)}" in names and stem not in names}
    beside = hooked.union(filter(INNER.search, parts))
    return {target: source for target, source in pairs.items() if beside.isdisjoint((target, source))}


def _pair_problems(model: nn.Module, keys: Mapping[Any, Any], names: frozenset[str]) -> Iterator[KeyProblem]:
    """Yield pairs that name nothing, themselves, or more than was meant."""
    flag, cls = flag_of(model), type(model).__name__
    words = [(t, s) for t, s in keys.items() if isinstance(t, str) and isinstance(s, str)]
    whole = all(SHORTCUT.match(word) for pair in words for word in pair)
    written = declaration_text(keys)

    def problem(form: KeyForm, pair: tuple[str, str], there: tuple[str, ...], raised: str | None) -> KeyProblem:
        meant = _whole_pairs(model, words, names) if form == "beside" else _repaired(model, keys, pair)
        return KeyProblem(form, "", cls, *pair, there, flag, raised, written, declaration_text(meant))

    for pair in words:
        if pair[0] == pair[1]:
            yield problem("itself", pair, (), None)
            continue
        found = [_named(model, word, names) if whole else _matched(model, word, names) for word in pair]
        if not all(found):
            if all(m.tensor is not None for m in in_wrappers(model, [look_up(model, word) for word in pair])):
                continue  # a layer of anyone's keeps the tie, which a save speaks of
            there = tuple(sorted(name for hits in found for name in hits))[:CAP]
            yield problem("nothing", pair, there, _raised(model, whole, pair, found))
            continue
        beside = [] if whole else sorted(n for w, hits in zip(pair, found, strict=True) for n in _beside(w, hits))
        if beside:
            told = None if len(found[0]) % len(found[1]) == 0 else _raised(model, whole, pair, found)
            yield problem("beside", pair, tuple(beside[:CAP]), told)


def _repaired(model: nn.Module, keys: Mapping[Any, Any], pair: tuple[str, str]) -> dict[Any, Any]:
    """Return the keys with head and embedding in the place of a pair that is about one of them; empty for another."""
    meant = head_pair(model)
    about = set(pair) & {name for word in (*meant, *meant.values()) for name in (word, word.rpartition(".")[0])}
    return {k: v for k, v in keys.items() if k != pair[0]} | meant if about else {}


def _whole_pairs(model: nn.Module, words: list[tuple[str, str]], names: frozenset[str]) -> dict[str, str]:
    """Return pairs of words as pairs of whole names; empty where their numbers do not fit."""
    pairs: dict[str, str] = {}
    for pair in words:
        hits = [_matched(model, word, names) for word in pair]
        targets, sources = ([n for n in sorted(h) if n not in _beside(w, h)] for w, h in zip(pair, hits, strict=True))
        if len(targets) != len(sources):
            return {}
        pairs |= dict(zip(targets, sources, strict=True))
    return pairs


def _named(model: nn.Module, word: str, names: frozenset[str]) -> set[str]:
    """Return the parameter or buffer of that name, or what pruning, a parametrization or an adapter made of it."""
    if word in names:
        return {word}
    member = look_up(model, word)
    put = member.owner is not None and not member.owner._parameters and not member.owner._modules  # an `nn.Identity`
    return {word} if member.tensor is not None or member.computed or put else set()


def _matches(word: str, names: frozenset[str]) -> set[str]:
    """Return the names that 5.23 takes a key or a source for: `re.search` of it, anchored at the front alone."""
    pattern = re.compile("^" + word)
    return {name for name in names if pattern.search(name)}


def _matched(model: nn.Module, word: str, names: frozenset[str]) -> set[str]:
    """Return what a pattern matches; a plain name that something else now computes counts as there."""
    found = _matches(word, names)
    return found or (_named(model, word, names) if PLAIN.fullmatch(word) else set())


def _beside(word: str, hits: set[str]) -> list[str]:
    """Return what a plain word matches beside the parameter or module of that name, where there is one."""
    if not PLAIN.fullmatch(word):
        return []
    meant = {name for name in hits if name == word or name.startswith(f"{word}.")}
    return sorted(hits - meant) if meant else []


def _raised(model: nn.Module, whole: bool, pair: tuple[str, str], found: list[set[str]]) -> str | None:
    """Word what 5.23 raises for a pair that does not fit, for a sentence to quote; None where it makes the target."""
    if whole:
        if found[1] and look_up(model, pair[0]).owner is not None:  # a layer of anyone's around the head: unread there
            return None
        lacking = next(word for word, hits in zip(pair, found, strict=True) if not hits)
        return f"AttributeError: ... has no attribute `{lacking.rpartition('.')[0].rpartition('.')[2] or lacking}`"
    return f"ValueError: There is an issue with your definition of `tie_weights_keys` for ^{pair[1]}:^{pair[0]}."


def _expand_older(model: Any, keys: Any) -> tuple[dict[str, str], dict[str, str]]:
    """Return {target: source} by 4.x's list: what has the input embedding's shape is tied to it, or a ValueError."""
    embedding = model.get_input_embeddings()
    weight = getattr(embedding, "weight", None)
    named = dict(model.named_parameters(remove_duplicate=False))
    source = next((name for name, value in named.items() if value is weight), None)
    patterns = [str(getattr(key, "pattern", key)) for key in keys]
    targets = [name for name in named if name != source and any(re.search(p, name) for p in patterns)]
    pairs = {name: source for name in targets if source and named[name].shape == named[source].shape}
    rest = [name for name in targets if name not in pairs and named[name].dim() > 1]
    if rest:
        raise ValueError(f"`_tied_weights_keys` is a list, which does not tell what {rest[0]} is tied to")
    config = model.config
    return (pairs if getattr(config, "tie_word_embeddings", True) else {}), pairs
