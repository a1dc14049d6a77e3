"""Asks one class which groups it ties, and which flag at which config level decides."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

from tiecheck.tables.generate.build import (
    Groups,
    build_on_meta,
    declares_patterns,
    groups_of,
    is_older_line,
    model_declarations,
    parameter_of,
    tied_in,
)
from tiecheck.tables.generate.configs import (
    FLAG,
    Flags,
    Level,
    config_levels,
    default_config,
    filled_from_default,
    other_keys,
    shrink_layers,
    silent_dict,
    with_flags,
)

SMALL = 2
"""Layers of the small build: enough for a group of names to show, few enough to be fast."""


class Other(NamedTuple):
    """A further level whose flag matters for a group."""

    level: Level
    """The level."""
    bits: str
    """Tied, as 0 and 1: this level true, this level false, this true under a false top, this false under a true top."""


class FlagAlias(NamedTuple):
    """Another key that says the same as the flag, and wins where both are written (lfm2's `tie_embedding`)."""

    key: str
    """The key."""
    level: Level
    """Its level."""
    bits: str
    """Tied, as 0 and 1: the key true, the key false."""


class ProbedGroup(NamedTuple):
    """One group of names, and the flags under which a class ties it."""

    names: tuple[str, ...]
    """Sorted names."""
    source: str
    """The name the others are redirected to."""
    kind: str
    """`module` or `parameter`."""
    bits: str
    """Tied, as 0 and 1: silent, flag true, flag false."""
    level: Level
    """The level of that flag."""
    exact: bool
    """False where the names hang on the config."""
    others: tuple[Other, ...]
    """Further levels that matter."""
    joint: tuple[Level, ...]
    """Levels that must all be false to untie it, where the one level does not (blip, hunyuan_vl)."""
    key: str = FLAG
    """The key of the flag that decides."""
    aliases: tuple[FlagAlias, ...] = ()
    """Further keys for it."""
    unlike: bool = False
    """True where the members have different shapes while not tied, so that a copy of one does not fit another."""


class Probe:
    """One class under one config class; every build is made once."""

    def __init__(self, model_class: Any, config_class: Any, given: dict[str, Any]) -> None:
        self.model_class, self.config_class = model_class, config_class
        self.config = config_class.from_dict(given) if given else default_config(config_class)
        self.full = silent_dict(self.config)
        self.small = self.full
        self.nested = config_levels(self.config)
        self.cache: dict[
            tuple[bool, tuple[tuple[Level, bool], ...], tuple[str, Level, bool] | None], Groups | None
        ] = {}
        self.model = self._first()

    def _first(self) -> Any:
        """The first build that works: small, as it is, with open sizes filled; the last of these may raise."""
        whole = filled_from_default(self.full, self.config)
        for full in (self.full, whole):
            for small in (shrink_layers(full, self.config, SMALL), full):
                with contextlib.suppress(Exception):  # a default config may fail in any way
                    model = build_on_meta(self.model_class, self.config_class, small)
                    self.full, self.small = full, small
                    return model
        return build_on_meta(self.model_class, self.config_class, self.full)

    def groups(
        self, flags: Flags, *, small: bool = True, alias: tuple[str, Level, bool] | None = None
    ) -> Groups | None:
        """The groups under some flags, and a value of another key; None where the config or the class refuses them."""
        small = small or self.small == self.full
        key = (small, tuple(sorted(flags.items())), alias)
        if key not in self.cache:
            data = with_flags(self.small if small else self.full, flags)
            if alias:
                data = with_flags(data, {alias[1]: alias[2]}, alias[0])
            try:
                model = build_on_meta(self.model_class, self.config_class, data)
            except Exception:  # noqa: BLE001 - a class may refuse a flag in any words (dbrx, csm)
                self.cache[key] = None
            else:
                self.cache[key] = groups_of(model)
        return self.cache[key]

    def apart(self) -> dict[str, tuple[int, ...]]:
        """The shapes of all parameters with every flag false; empty where the class refuses that."""
        data = with_flags(self.small, dict.fromkeys([(), *self.nested], False))
        try:
            model = build_on_meta(self.model_class, self.config_class, data)
        except Exception:  # noqa: BLE001 - as in `groups`
            return {}
        return {name: tuple(p.shape) for name, p in model.named_parameters(remove_duplicate=False)}

    def everything(self, *, small: bool) -> Groups | None:
        """The groups with every flag true, or as far as the class allows it."""
        variants: tuple[Flags, ...] = (dict.fromkeys([(), *self.nested], True), {(): True}, {})
        for flags in variants:
            found = self.groups(flags, small=small)
            if found is not None:
                return found
        return None


def mentions_tying(model_class: Any) -> bool:
    """Return True where a class's modeling file speaks of the flag itself."""
    try:
        return "tie_word_embeddings" in inspect.getsource(inspect.getmodule(model_class) or model_class)
    except (OSError, TypeError):
        return True


def could_tie(model: Any) -> bool:
    """Return True where `tie_weights` of 4.57 finds something to do: a head, or a module with a tie of its own."""
    return any(hasattr(m, "_tie_weights") or parameter_of(m, "get_output_embeddings") for m in model.modules())


def probe_class(
    model_class: Any, config_class: Any, given: dict[str, Any] | None = None
) -> tuple[list[ProbedGroup], Probe]:
    """Every group a class can tie, sorted by names; raises what the default build, or the one `given`, raises."""
    asked = Probe(model_class, config_class, given or {})
    could = (
        could_tie(asked.model)
        if is_older_line()
        else bool(model_declarations(asked.model)) or mentions_tying(model_class)
    )
    if not could and not groups_of(asked.model):
        return [], asked
    by_pattern = declares_patterns(asked.model)
    full, small = asked.everything(small=False), asked.everything(small=True)
    hangs = full is not None and small is not None and full.keys() != small.keys()
    if hangs:
        asked.small = asked.full
        asked.model = build_on_meta(model_class, config_class, asked.full)
        asked.cache = {(True, *key[1:]): value for key, value in asked.cache.items() if not key[0]}
    tables = _tables(asked)
    union: Groups = {}
    for groups in tables.values():
        union |= {names: found for names, found in groups.items() if names not in union}
    result = []
    shapes = asked.apart()
    keys = [(key, at) for key, at in other_keys(asked.config) if _matters(asked, key, at)]
    for names, found in union.items():
        numbered = any(part.isdigit() for name in names for part in name.split("."))
        exact = not (hangs and (numbered or names not in (small or {}))) and not (by_pattern and numbered)
        bits, level, others = _control(tables, lambda g, names=names: tied_in(names, g))  # type: ignore[misc]
        joint = _joint(asked, names) if bits[2] == "1" else ()
        group = ProbedGroup(names, found.source, found.kind, bits, level, exact, others, joint)
        unlike = len({shapes[name] for name in names if name in shapes}) > 1
        result.append(_with_keys(asked, group, keys)._replace(unlike=unlike))
    return _without_parts(sorted(result)), asked


def _tables(asked: Probe) -> dict[str, Groups]:
    """The groups of every variant that matters, by a key such as `silent`, `T`, `F text_config`."""
    silent = asked.groups({}) or {}
    variants: dict[str, Flags] = {"T": {(): True}, "F": {(): False}}
    everywhere = [asked.groups(dict.fromkeys(asked.nested, value)) for value in (True, False)] if asked.nested else []
    if any(groups is None or groups.keys() != silent.keys() for groups in everywhere):
        for level in asked.nested:
            word = ".".join(level)
            variants |= {f"T {word}": {level: True}, f"F {word}": {level: False}}
            variants |= {f"FT {word}": {(): False, level: True}, f"TF {word}": {(): True, level: False}}
    tables = {"silent": silent}
    for key, flags in variants.items():
        found = asked.groups(flags)
        if found is not None:
            tables[key] = found
    return tables


def _control(tables: dict[str, Groups], tied: Callable[[Groups], bool]) -> tuple[str, Level, tuple[Other, ...]]:
    """The bits and level of the flag that decides, and the further levels that matter."""
    seen = {key: tied(groups) for key, groups in tables.items()}
    silent = seen["silent"]
    # A variant that the class refuses counts as silent: nobody can load such a config.
    top = (seen.get("T", silent), seen.get("F", silent))
    nested = {key[2:]: (seen[key], seen.get(f"F {key[2:]}", silent)) for key in seen if key.startswith("T ")}
    others = []
    for word, (on, off) in nested.items():
        both = (seen.get(f"FT {word}", top[1]), seen.get(f"TF {word}", top[0]))
        if on != off or both != (top[1], top[0]):
            bits = "".join("01"[b] for b in (on, off, *both))
            others.append(Other(tuple(word.split(".")), bits))
    level: Level = ()
    if top[0] == top[1] and others:
        (level, bits), *others = others
        if bits[2:] != bits[:2]:  # the top alone decides nothing, and against the nested flag it does (shieldgemma2)
            others.append(Other((), "".join("01"[b] for b in top) + bits[:1:-1]))
        top = nested[".".join(level)]
    return "".join("01"[b] for b in (silent, *top)), level, tuple(others)


def _matters(asked: Probe, key: str, level: Level) -> bool:
    """Return True where another key changes what is tied at all; most words that look like one do not."""
    true, false = (asked.groups({}, alias=(key, level, value)) for value in (True, False))
    return true is not None and false is not None and true.keys() != false.keys()


def _with_keys(asked: Probe, group: ProbedGroup, keys: list[tuple[str, Level]]) -> ProbedGroup:
    """The group with the other keys that decide it: in the flag's place where the flag itself does nothing (csm)."""
    aliases = []
    for key, level in keys:
        bits, wins = "", True
        for value in (True, False):
            alone, against = (
                asked.groups(flags, alias=(key, level, value)) for flags in ({}, {group.level: not value})
            )
            bits += "01"[tied_in(group.names, alone or {})]
            wins = wins and (against is None or tied_in(group.names, against) == (bits[-1] == "1"))
        if bits[0] != bits[1] and wins:
            aliases.append(FlagAlias(key, level, bits))
    if aliases and group.bits[1] == group.bits[2]:
        key, level, bits = aliases[0]
        return group._replace(key=key, level=level, bits=group.bits[0] + bits, others=(), joint=())
    return group._replace(aliases=tuple(aliases))


def _joint(asked: Probe, names: tuple[str, ...]) -> tuple[Level, ...]:
    """The fewest levels whose flags, all false, untie a group; empty where nothing unties it."""

    def untied(held: list[Level]) -> bool:
        groups = asked.groups(dict.fromkeys(held, False))
        return groups is not None and not tied_in(names, groups)

    held: list[Level] = [(), *asked.nested]
    if not untied(held):
        return ()
    for level in held[::-1]:
        fewer = [other for other in held if other != level]
        held = fewer if untied(fewer) else held
    return tuple(held)


def _without_parts(groups: list[ProbedGroup]) -> list[ProbedGroup]:
    """Groups less those that are a part of another group and behave as it does."""
    return [g for g in groups if not any(set(g.names) < set(o.names) and _alike(g, o) for o in groups)]


def _alike(a: ProbedGroup, b: ProbedGroup) -> bool:
    return a[3:5] + a[6:] == b[3:5] + b[6:]
