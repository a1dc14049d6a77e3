"""Finds values of a config.json whose type transformers refuses for their field."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from tiecheck.records.declared import ModelConfig
from tiecheck.stored.config_values import Section, open_section
from tiecheck.tables.architectures import FLAG
from tiecheck.tables.structure import class_structure, config_structure, refused_values

if TYPE_CHECKING:  # it is made where something is wrong
    from tiecheck.records.files import LoadProblem

DEEPEST = 4  # levels of sections that are followed

TYPES = ("null", "text", "a truth value", "a number", "a number", "a list", "an object")
"""Types of a value in words, in the order of the bits of the table."""


def refused_problems(model: ModelConfig) -> Iterator[LoadProblem]:
    """Yield each value whose type transformers 5 refuses for its field, in the config and in the sections it makes."""
    found = class_structure(model.class_name or "", model.model_type)
    kind = found[0] if found is not None else model.model_type or ""  # a class without a row has a config of its type
    left = [Section(kind, model.data)]
    while left:
        section = left.pop()
        known = refused_values(section.kind)
        for key in sorted(known.keys() & section.data.keys()):
            place = _type_of(section.data[key])
            if known[key][place] == "1":
                yield from _of_another_type(model, (*section.level, key), section.data[key], TYPES[place])
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
        yield _problem("flag", ("5",), "crash", message, why, model.path, mend, (dotted,))
        return
    why = f"{dotted} is {what}, which transformers 5 refuses for this field"
    mend = f"which value {dotted} had the files do not tell; without the key it has its default."
    yield _problem("field", ("5",), "crash", message, why, model.path, mend, (dotted,))
    open_why = f"{dotted} is {what}, and what 4.57 makes of that was not asked"
    yield _problem("open", ("4.57",), "unknown", open_why, open_why, model.path, "", (dotted,))


def _problem(*values: Any) -> LoadProblem:
    from tiecheck.records.files import LoadProblem

    return LoadProblem(*values)


def _type_of(value: Any) -> int:
    if value is None:
        return 0
    return next(i for i, kind in enumerate((str, bool, int, float, list, dict), 1) if isinstance(value, kind))
