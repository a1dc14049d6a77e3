"""Numbers that a class is built with by its config.json: sections, defaults, folded keys, as the library has them.

What the structure table does not tell is an `Unknown`, and so is all that hangs on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from threading import local
from typing import TYPE_CHECKING, Any

from tiecheck.records.declared import Architecture, ModelConfig
from tiecheck.records.record import Record
from tiecheck.records.words import Unknown
from tiecheck.tables.architectures import load_architecture, load_older
from tiecheck.tables.structure import class_of_word, class_structure, config_structure, refused_values

if TYPE_CHECKING:  # it is made where something is wrong
    from tiecheck.records.files import LoadProblem

DEEPEST = 4  # levels of sections, and of models inside models, that are followed

RAISES = "!"


class Section(Record):
    """A config, or a config inside one, as the library makes it."""

    kind: str
    """Its class, by the model type that leads to it, or else by its name."""
    data: Mapping[str, Any]
    """The part of config.json that is for it."""
    level: tuple[str, ...] = ()
    """The keys above it."""
    odd: Mapping[str, Any] = {}
    """Defaults that its owner gives it instead of those of its class."""
    dead: frozenset[str] = frozenset()
    """Fields that its owner writes over."""


def own_section(model: ModelConfig, kind: str) -> Section:
    """Return what a config class takes of a config: a section, where that is of another class around its own.

    The class is that of the model, which may have been saved with the config of all of it (`from_pretrained`, 5.23).
    """
    if kind != model.model_type:
        slots = (config_structure(model.model_type or "") or {}).get("s", {})
        for key, held in model.data.items():
            typed = slots.get(key, {}).get("typed", [None])[0]
            if isinstance(held, dict) and kind == held.get("model_type", typed):
                return Section(kind, held, (key,))
    return Section(kind, model.data)


class Refused(Record):
    """A section that the library does not accept."""

    why: str
    """Its state in words."""
    level: tuple[str, ...]
    """Where it is."""


class Unread(Record):
    """A field of which nobody asked what a line of transformers makes."""

    state: str
    """Its state, as the end of a sentence."""


def open_section(owner: Section, key: str, line: str) -> Section | Refused | Unknown:
    """Return the section of a config that stands under a key of its owner, as a line of the library makes it."""
    slot = (config_structure(owner.kind, line) or {}).get("s", {}).get(key)
    if slot is None or slot["typed"][0] == RAISES:  # it is never made by itself (4.57's encoder and decoder)
        return Unknown(f"{owner.kind} has no section {key} that is known")
    level = (*owner.level, key)
    held = owner.data.get(key, ...)
    given: Mapping[str, Any] = held if isinstance(held, Mapping) else {}
    word = "gone" if held is ... else "null" if held is None else "typed" if held else "empty"
    asked = given.get("model_type")
    if not (held is ... or held is None or isinstance(held, Mapping)):
        return Unknown(f"{'.'.join(level)} is no object")
    if word == "typed" and not isinstance(asked, str):
        word = "typeless" if "model_type" in given else "empty"
    kind, *odd = slot.get(word, slot["typed"])
    if kind == RAISES:
        return Refused(f"{'.'.join(level)} {_STATES.get(word, 'is refused')}", level)
    if word == "typed" and slot.get("any"):
        kind, odd = asked, odd if asked == kind else []
    elif word == "typed" and asked != kind and _takes_any(owner.kind, key):
        return Unknown(f"{'.'.join(level)} is a {asked}, which {line} was not asked for")
    if not kind or config_structure(kind, line) is None:
        return Unknown(f"{'.'.join(level)} has the model type {kind or 'of none'}, which is not known")
    folded, dead = slot.get(f"fold {word}", ()), frozenset(slot.get("dead", ()))
    data = {name: owner.data[name] for name in folded if name in owner.data} if folded else given
    # What the owner writes over, and is read at the top, has the owner's value (T5Gemma's vocabulary in 4.57).
    over = {name: owner.data[name] for name in dead.intersection(slot.get("fold gone", ())) if name in owner.data}
    return Section(kind, {**data, **over}, level, odd[0] if odd else {}, dead.difference(over))


def _takes_any(kind: str, key: str) -> bool:
    """Tell whether transformers 5 makes whatever model type a section names, as 4.57's composed configs do too."""
    return bool((config_structure(kind) or {}).get("s", {}).get(key, {}).get("any"))


_STATES = {
    "gone": "is not there",
    "null": "is null",
    "empty": "names no model type",
    "typeless": "has null for its model type",
}


def field_value(section: Section, name: str, line: str) -> Any:
    """Return the value that a field of a config has once it is made; Unknown where that is not told."""
    known = config_structure(section.kind, line) or {}
    if name in section.dead:
        return Unknown(f"{name} is written over by the config around it")
    name = _key_read(section, known, name)
    if not name:
        return Unread("a field that it does not have")
    if name == LABELS:
        return _labels(section, known, line)
    given = [section.data[key] for key in _spelled(known, name) if key in section.data]
    told = [value for value in given if value is not None]
    if told:  # a key that stands for another is set after it, unless it is a field too
        twice = len(told) > 1 and told[0] != told[-1]
        own = any(key in refused_values(section.kind) for key in _spelled(known, name)[1:] if key in section.data)
        return Unread("given under two keys, and not the same") if twice and (own or len(told) > 2) else told[-1]
    unknown = Unknown(f"the default of {name} hangs on other fields")
    usual = section.odd.get(name, known.get("d", {}).get(name, unknown))
    return Unread("null") if given and type(usual) is int else usual


LABELS = "num_labels"
"""A key that is no field: both lines count the map `id2label` for it, or write one of that many labels."""


def _labels(section: Section, known: dict[str, Any], line: str) -> Any:
    """Return the number of labels: of key and map 5 takes the key's, and 4.57 the map's (`PreTrainedConfig`)."""
    held, number = section.data.get("id2label"), section.data.get(LABELS, ...)
    if not isinstance(held, dict | None) or not (number is ... or type(number) is int):
        return Unread("no number of labels")
    counts = [number if type(number) is int else None, None if held is None else len(held)]
    made = (count for count in (counts if line == "5" else counts[::-1]) if count is not None)
    return next(made, known.get("d", {}).get(LABELS, 2))


def _key_read(section: Section, known: dict[str, Any], name: str) -> str:
    """Return the key that says a field in a line: another word, or one of two that it is made of."""
    name = known.get("u", {}).get(name, name)
    switch, on, off, usual = known.get("z", {}).get(name, ("", name, name, True))
    return str(on if section.data.get(switch, usual) else off)


def _spelled(known: dict[str, Any], name: str) -> tuple[str, ...]:
    others = known.get("a")
    return (name, *[alias for alias, target in others.items() if target == name]) if others else (name,)


def written_field(root: Section, dotted: str, line: str) -> str:
    """Return a dotted field under the key that the config has for it, or else that a line of the library reads."""
    section, last = _owner_of(root, dotted, line)
    known = config_structure(section.kind, line) or {}
    name = _key_read(section, known, last) or last
    taken = refused_values(section.kind)
    words = ("id2label", LABELS) if name == LABELS else _spelled(known, name)[::-1]
    there = [key for key in words if key in section.data]
    there += [key for key in _spelled(known, name) if key in taken]
    return ".".join((*root.level, *dotted.split(".")[:-1], next(iter(there), name)))


def _owner_of(section: Section, dotted: str, line: str) -> tuple[Section, str]:
    """Return the section that holds a dotted field, and its key there."""
    *path, last = dotted.split(".")
    for key in path:
        section = inner if isinstance(inner := open_section(section, key, line), Section) else section
    return section, last


def walk_field(root: Section, dotted: str, line: str) -> Any:
    """Return the value of a dotted field, sections and places in lists among its parts."""
    section, parts = root, dotted.split(".")
    while len(parts) > 1 and parts[0] in (config_structure(section.kind, line) or {}).get("s", {}):
        inner = open_section(section, parts.pop(0), line)
        if not isinstance(inner, Section):
            return inner if isinstance(inner, Unknown) else Unknown(inner.why)
        section = inner
    value = field_value(section, parts[0], line)
    if len(parts) == 2 and parts[1].isdigit():
        return value[int(parts[1])] if isinstance(value, list) and len(value) > int(parts[1]) else Unknown("no list")
    return value if len(parts) == 1 else Unknown(f"{dotted} is not known")


def said_otherwise(section: Section, dotted: str, size: int, line: str) -> bool:
    """Tell whether a field has its default, and a key of no other field the stored size: an older name (`n_embed`)."""
    section, last = _owner_of(section, dotted, line)
    known = (config_structure(section.kind, line) or {}).get("d", {}).keys() | refused_values(section.kind).keys()
    others = (value for key, value in section.data.items() if key not in known)
    return last not in section.data and any(type(value) is int and value == size for value in others)


def unmoved_rules(section: Section, rules: list[list[Any]], line: str) -> list[list[Any]]:
    """Return the rules of sizes whose tensors stand where they stood when the table was made.

    A list of another length has other modules at the numbers of its layers (Encodec's `upsampling_ratios`).
    """
    usual = (config_structure(section.kind, line) or {}).get("d", {})
    longer = {
        key
        for key in {d.partition(".")[0] for rule in rules for d in rule[3]}
        if isinstance(usual.get(key), list)
        and isinstance(found := section.data.get(key), list)
        and len(found) != len(usual[key])
    }
    moved = [rule for rule in rules if any(d.partition(".")[0] in longer for d in rule[3])] if longer else []
    stems = {_stem(rule[0]) for rule in moved} - {""}
    return [rule for rule in rules if rule not in moved and _stem(rule[0]) not in stems]


def _stem(name: str) -> str:
    """Return what stands before the first number in a name; empty where there is none."""
    parts = name.split(".")
    return next((".".join(parts[:i]) for i, part in enumerate(parts) if part.isdigit()), "")


_EITHER_HEAD = ("blip-2", "instructblip", "instructblipvideo")
"""Configs whose text model is causal or sequence to sequence, as its type is (their modeling files, 5.23 and 4.57)."""


class Spot(Record):
    """One class somewhere in a model."""

    section: Section
    names: str
    """Beginning of the names of its tensors."""
    row: dict[str, Any]
    foreign: bool
    """True if the class around it has a model of another type by default."""


def spots_of(
    section: Section, class_name: str, names: str, line: str, above: tuple[bool, ...] = ()
) -> Iterator[Spot | Refused | Unknown]:
    """Yield a class and the models inside it, each with its config; `above` says which of those around are foreign."""
    foreign = any(above[-1:])
    found = class_structure(class_name, section.kind)
    if found is None or len(above) > DEEPEST:
        yield Unknown(f"{class_name} is not in the structure table")
        return
    row = found[1]
    yield Spot(section, names, row, foreign)
    for prefix, dotted, kind in row.get("p", ()):
        inner: Section | Refused | Unknown = section
        other = foreign and not dotted
        for key in dotted.split(".") if dotted else ():
            slots = (config_structure(inner.kind, line) or {}).get("s", {}) if isinstance(inner, Section) else {}
            inner = open_section(inner, key, line) if isinstance(inner, Section) else inner
            other |= isinstance(inner, Section) and inner.kind != slots[key]["typed"][0]
        if not isinstance(inner, Section):
            yield inner
            continue
        name = class_of_word(inner.kind, kind)
        if name is None and kind == "*c" and section.kind in _EITHER_HEAD:
            name = class_of_word(inner.kind, "*s")
        if config_structure(inner.kind) is None:
            yield Unknown(f"{inner.kind} is a config of 4.57 alone")
        elif name is None:
            yield Refused(f"{dotted} has the model type {inner.kind}, of which there is no such model", inner.level)
        else:
            yield from spots_of(inner, name, f"{names}{prefix}.", line, (*above, other))


def told_problem(*values: Any) -> LoadProblem:
    """Return a problem; its record is imported where something is wrong."""
    from tiecheck.records.files import LoadProblem

    return LoadProblem(*values)


def architecture_of(config: ModelConfig, *, older: bool = False) -> Architecture:
    """Look up the class of a config, as transformers 4.57 has it for `older`; one check asks it several times."""
    if getattr(_last, "config", None) is not config:
        _last.config, _last.found = config, {}
    if older not in _last.found:
        load = load_older if older else load_architecture
        _last.found[older] = load(config.class_name, config.model_type, config=config.data)
    found: Architecture = _last.found[older]
    return found


_last = local()
"""The last config of each thread, and what is known of it: a fleet has as many configs as models."""
