"""What transformers refuses in a config.json: a type, a value, two numbers that do not go together, a section."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from tiecheck.records.declared import ModelConfig
from tiecheck.stored.config_values import (
    DEEPEST,
    Refused,
    Section,
    Spot,
    open_section,
    own_section,
    told_problem,
    walk_field,
)
from tiecheck.tables.architectures import FLAG
from tiecheck.tables.structure import class_structure, config_structure, known_words, refused_values, rope_needs
from tiecheck.wording import listed

if TYPE_CHECKING:  # it is made where something is wrong
    from tiecheck.records.files import LoadProblem

TYPES = ("null", "text", "a truth value", "a number", "a number", "a list", "an object")
"""Types of a value in words, in the order of the bits of the table."""


def refused_problems(model: ModelConfig) -> Iterator[LoadProblem]:
    """Yield each value whose type transformers 5 refuses for its field, in the config and in the sections it makes."""
    for section in made_sections(model):
        known = refused_values(section.kind)
        for key in sorted(known.keys() & section.data.keys()):
            place = _type_of(section.data[key])
            if known[key][place] == "1":
                yield from _of_another_type(model, (*section.level, key), section.data[key], TYPES[place])


def made_sections(model: ModelConfig) -> Iterator[Section]:
    """Yield a config, and each section that transformers 5 makes a config of."""
    found = class_structure(model.class_name or "", model.model_type)
    kind = found[0] if found is not None else model.model_type or ""  # a class without a row has a config of its type
    left = [own_section(model, kind)]
    while left:
        yield (section := left.pop())
        for key in (config_structure(section.kind) or {}).get("s", {}):
            inner = open_section(section, key, "5")
            if isinstance(inner, Section) and len(inner.level) <= DEEPEST:
                left.append(inner)


def _of_another_type(model: ModelConfig, level: tuple[str, ...], value: Any, what: str) -> Iterator[LoadProblem]:
    dotted, key = ".".join(level), level[-1]
    message = f"StrictDataclassFieldValidationError: Validation error for field '{key}'"
    if key == FLAG:
        taken = str(bool(value)).lower()
        why = f"{dotted} is {what}, not true or false: transformers 5 refuses it, 4.57 takes it for {taken}"
        mend = "which value is right the checkpoint does not tell; the flag has to be true or false, without quotes."
        yield told_problem("flag", ("5",), "crash", message, why, model.path, mend, (dotted,))
        return
    why = f"{dotted} is {what}, which transformers 5 refuses for this field"
    mend = f"which value {dotted} had the files do not tell; without the key it has its default."
    yield told_problem("field", ("5",), "crash", message, why, model.path, mend, (dotted,))
    yield open_problem(f"{dotted} is {what}, and what 4.57 makes of that was not asked", "4.57", model.path, dotted)


def _type_of(value: Any) -> int:
    kinds = (type(None), str, bool, int, float, list, dict)
    return next(i for i, kind in enumerate(kinds) if isinstance(value, kind))


def refused_section(spot: Refused, model: ModelConfig, line: str) -> LoadProblem:
    """Return the problem of a section that the library does not accept."""
    dotted = ".".join(spot.level)
    mend = f"what {dotted} was the files do not tell; take it from the config that the model was saved with."
    message = "the config cannot be made"
    return told_problem("field", (line,), "crash", message, spot.why, model.path, mend, (dotted,))


def class_refusals(
    spot: Spot, model: ModelConfig, line: str, settled: set[str], read: bool
) -> Iterator[tuple[str, LoadProblem]]:
    """Yield what the class refuses: a value, a number that does not go with another, what 5 alone takes.

    4.57 may make a width that heads do not divide, which no tensor then fits: where none is `read`, that it raises is
    not known.
    """
    for problem in _written_by_five(spot.section, model, line):
        yield "", problem
    yield from _refused_words(spot.section, model, line, settled)
    yield from _rope_gaps(spot.section, model, line)
    known = config_structure(spot.section.kind, line) if line == "4.57" else None
    if known is not None:  # whose sources read no `rope_parameters`, and those of some classes no rope at all
        unread = ("rope_parameters", *(["rope_scaling"] if known.get("q") == {} else []))
        settled.update(".".join((*spot.section.level, key, "rope_type")) for key in unread)
    yield from _empty_fields(spot.section, model, line)
    for dotted, value, others in spot.row.get("r", ()):
        full = ".".join((*spot.section.level, dotted))
        if value in _NOT_SO:
            why = _unfitting_number(spot, dotted, value, others[0][0], line)
            sure = line == "5" or (_refuses_pointer(spot, dotted, others[0][0]) if value == "<" else read)
            if why and sure:
                yield full, class_problem(why, line, model.path, NUMBERS, full)
            elif why:
                yield full, open_problem(why, line, model.path, full)
            elif why is not None:
                settled.add(full)
        elif _taken_for(walk_field(spot.section, dotted, line), line) is value and all(
            walk_field(spot.section, other, line) is not allowed for other, allowed in others
        ):
            why = f"{full} is {str(value).lower()}, which the class refuses where the rest of the config is its default"
            yield full, open_problem(why, line, model.path, full)


def _taken_for(held: Any, line: str) -> Any:
    """Return a value as a line takes it: 4.57 has a text for true, be it "false", and 5 checks types before."""
    return bool(held) if isinstance(held, str) and line != "5" else held


def _refused_words(
    section: Section, model: ModelConfig, line: str, settled: set[str]
) -> Iterator[tuple[str, LoadProblem]]:
    """Yield each field that has to hold a word of the library, and holds another."""
    for field, known, whole in known_words(section.kind, line):
        full, texts, _ = _held_words(section, field, line)
        if not texts or known.intersection(texts):
            settled.add(full)
            continue
        why = f"{full} is {listed(tuple(map(json.dumps, texts)))}, which transformers does not know"
        if not whole:
            yield full, open_problem(why, line, model.path, full)
            continue
        mend = f"which word {full} had the files do not tell; take it from the config that it was trained with."
        yield full, class_problem(why, line, model.path, mend, full)


def _empty_fields(section: Section, model: ModelConfig, line: str) -> Iterator[tuple[str, LoadProblem]]:
    """Yield each field that has no value, neither here nor by default, and with which no class is built so."""
    for key in (config_structure(section.kind, line) or {}).get("h", ()):
        if section.data.get(key) is None:
            full = ".".join((*section.level, key))
            why = f"{full} has no value, and none by default, with which the class is not built"
            mend = f"which value {full} had the files do not tell; take it from the config that it was trained with."
            yield full, class_problem(why, line, model.path, mend, full)


def _rope_gaps(section: Section, model: ModelConfig, line: str) -> Iterator[tuple[str, LoadProblem]]:
    """Yield each rope type without a key that it wants beside it, or with which no class was seen to build."""
    seen = set[str]()
    for field, needs in sorted(rope_needs(section.kind, line), reverse=True):
        full, texts, holder = _held_words(section, field, line)
        if full in seen or not texts:
            continue
        seen.add(full)
        wanted = needs.get(texts[0], needs.get("*", []))
        if wanted is None or any(key[0] == "@" and key[1:] in section.data for key in wanted):
            why = f"{full} is {json.dumps(texts[0])}, and this class was not seen to build with that"
            yield full, open_problem(why, line, model.path, full)
            continue
        gone = [key for key in wanted if not {key.rstrip("?")} & {*holder, *section.data}]
        if not gone:
            continue
        absent = listed(tuple(key.strip("@?") for key in gone))
        why = f"{full} is {json.dumps(texts[0])}, and {absent} beside it is not there"
        last = section.data.keys() >= {"rope_scaling", "rope_parameters"} and "rope_parameters" not in refused_values(
            section.kind
        )  # a config without ropes takes that which stands last for both
        if last or all(key.endswith("?") for key in gone):
            if last or not {key for keys in needs.values() for key in keys or ()} & section.data.keys():
                yield full, open_problem(why, line, model.path, full)
        else:
            mend = "what stood there the files do not tell; take it from the config that it was trained with."
            yield full, class_problem(why, line, model.path, mend, full)


def _held_words(section: Section, field: str, line: str) -> tuple[str, list[str], dict[str, Any]]:
    """Return the whole name of a field, the words in it, and what stands beside it in a plain dict.

    `rope_scaling` is what 5 too reads first, and says its type under two names, of which 5 takes the first
    (`convert_rope_params_to_dict`, 5.23).
    """
    top, *inside = field.split(".")
    held, beside = [walk_field(section, field, line)], {}
    if inside:
        top = "rope_scaling" if top == "rope_parameters" and section.data.get("rope_scaling") else top
        inner: Any = section.data.get(top)
        for key in inside[:-1]:
            inner = inner.get(key) if isinstance(inner, dict) else None
        beside = inner if isinstance(inner, dict) else {}
        names = ("rope_type", "type") if inside[-1] == "rope_type" else inside[-1:]
        held = [beside[name] for name in names if name in beside]
    texts = list(dict.fromkeys(word for word in held if isinstance(word, str) and word))
    return ".".join((*section.level, top, *inside)), texts[:1] if line == "5" else texts, beside


_NOT_SO = {"%": "does not divide", "=": "has to be", "<": "points at no row of"}
"""Relation of two numbers that a class wants -> how the first then stands to the second."""


def _unfitting_number(spot: Spot, dotted: str, relation: str, other: str, line: str) -> str | None:
    """Return why a number does not go with another, empty where it does; None where one is not known."""
    found, whole = (walk_field(spot.section, key, line) for key in (dotted, other))
    if type(found) is not int or type(whole) is not int or (relation != "<" and found <= 0):
        return None
    fits = {"%": lambda: whole % found == 0, "=": lambda: whole == found, "<": lambda: -whole <= found < whole}
    full = ".".join((*spot.section.level, dotted))
    return "" if fits[relation]() else f"{full} is {found}, which {_NOT_SO[relation]} {other} {whole}"


def _refuses_pointer(spot: Spot, dotted: str, rows: str) -> bool:
    """Tell whether 4.57 too was seen to refuse a number that points beyond the rows."""
    return [dotted, rows] in (config_structure(spot.section.kind, "4.57") or {}).get("b", ())


def _written_by_five(section: Section, model: ModelConfig, line: str) -> Iterator[LoadProblem]:
    """Yield what 4.57 refused when it was asked for the configs that transformers 5 writes."""
    known = (config_structure(section.kind, line) or {}) if line == "4.57" else {}
    for key, refused in known.get("n", ()):
        said = section.data.get(key)
        held = _taken_for(said, line) if isinstance(refused, bool) else said
        if held == refused or (isinstance(held, list) and isinstance(refused, list) and set(refused) & set(held)):
            full = ".".join((*section.level, key))
            state = "not there" if refused is None else json.dumps(refused)
            state = state if held is said else f"{json.dumps(said)}, which is {state} for 4.57"
            why = f"{full} is {state}, as transformers 5 writes it, and 4.57 does not build the class so"
            mend = "save it with 4.57, which writes what it reads."
            told = ("the model cannot be made", why, model.path, mend, (full,))
            yield told_problem("newer", (line,), "crash", *told)


NUMBERS = "which of the two is right the files do not tell; save the model again, with the config that it has."


def open_problem(why: str, line: str, path: str, *names: str) -> LoadProblem:
    """Return what nobody asked a line."""
    return told_problem("open", (line,), "unknown", why, why, path, "", names)


def class_problem(why: str, line: str, path: str, mend: str, name: str) -> LoadProblem:
    """Return a field that the class refuses."""
    return told_problem("field", (line,), "crash", "an error of the class", why, path, mend, (name,))
