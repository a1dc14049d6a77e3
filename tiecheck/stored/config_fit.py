"""Holds a config.json and stored tensors together: values that the library refuses, and sizes that do not fit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from tiecheck.records.declared import Architecture, ModelConfig, TieSpec
from tiecheck.records.record import Record
from tiecheck.records.stored import Checkpoint, StoredTensor
from tiecheck.records.words import Unknown
from tiecheck.stored.config_values import Refused, Section, architecture_of, open_section, walk_field
from tiecheck.tables.architectures import FLAG
from tiecheck.tables.structure import class_structure, config_structure, refused_values
from tiecheck.wording import listed

if TYPE_CHECKING:  # it is made where something is wrong
    from tiecheck.records.files import LoadProblem

LINES = ("4.57", "5")

DEEPEST = 4
"""Levels of models inside models that are followed."""

TYPES = ("null", "text", "a truth value", "a number", "a number", "a list", "an object")
"""Types of a value in words, in the order of the bits of the table."""


def size_problems(model: ModelConfig, checkpoint: Checkpoint) -> Iterator[LoadProblem]:
    """Yield what keeps each line of transformers from building a known class's config, or tensors from fitting it."""
    architecture = architecture_of(model)
    older, newest = (next(_misfits(model, architecture, checkpoint, line), None) for line in LINES)
    if newest is not None and older is not None and newest.why == older.why:
        yield newest._replace(versions=LINES)
        return
    yield from (problem for problem in (newest, older) if problem is not None)


class _Spot(Record):
    """One class somewhere in a model."""

    section: Section
    names: str
    """Beginning of the names of its tensors."""
    row: dict[str, Any]


def _spots(
    section: Section, class_name: str, names: str, line: str, depth: int = 0
) -> Iterator[_Spot | Refused | Unknown]:
    """Yield a class and the models inside it, each with its config."""
    found = class_structure(class_name, section.kind)
    if found is None or depth > DEEPEST:
        yield Unknown(f"{class_name} is not in the structure table")
        return
    row = found[1]
    yield _Spot(section, names, row)
    for prefix, dotted, kind in row.get("p", ()):
        inner: Section | Refused | Unknown = section
        for key in dotted.split(".") if dotted else ():
            inner = open_section(inner, key, line) if isinstance(inner, Section) else inner
        if not isinstance(inner, Section):
            yield inner
            continue
        name = _class_of(inner.kind, kind)
        if config_structure(inner.kind) is None:
            yield Unknown(f"{inner.kind} is a config of 4.57 alone")
        elif name is None:
            yield Refused(f"{dotted} has the model type {inner.kind}, of which there is no such model", inner.level)
        else:
            yield from _spots(inner, name, f"{names}{prefix}.", line, depth + 1)


def _class_of(kind: str, word: str) -> str | None:
    """Return the class that an auto class makes of a config, or the one that is named."""
    if not word.startswith("*"):
        return word
    found: str | None = (config_structure(kind) or {}).get("m", {}).get(word)
    return found


def _misfits(
    model: ModelConfig, architecture: Architecture, checkpoint: Checkpoint, line: str
) -> Iterator[LoadProblem]:
    found = class_structure(model.class_name or "", model.model_type)
    if found is None or config_structure(found[0], line) is None:
        return
    lookup = _Lookup(checkpoint, architecture, found[1].get("a", {}))
    for spot in _spots(Section(found[0], model.data), model.class_name or "", "", line):
        if isinstance(spot, Refused):
            yield _refused(spot, model, line)
        elif isinstance(spot, _Spot):
            yield from _doubts(spot, model, line)
            for rule in spot.row.get("w", ()):
                problem = _misfit(spot, rule, lookup, line)
                if problem is not None:
                    yield problem


def _refused(spot: Refused, model: ModelConfig, line: str) -> LoadProblem:
    dotted = ".".join(spot.level)
    mend = f"what {dotted} was the files do not tell; take it from the config that the model was saved with."
    message = "the config cannot be made"
    return _problem("field", (line,), "crash", message, spot.why, model.path, mend, (dotted,))


def _doubts(spot: _Spot, model: ModelConfig, line: str) -> Iterator[LoadProblem]:
    """Yield a truth value that the class refuses by itself, and a number of heads that does not divide its width."""
    for dotted, value, others in spot.row.get("r", ()):
        found = walk_field(spot.section, dotted, line)
        full = ".".join((*spot.section.level, dotted))
        if value == "%":
            whole = walk_field(spot.section, others[0][0], line)
            if type(found) is int and type(whole) is int and found > 0 and whole % found:
                why = f"{full} is {found}, which does not divide {others[0][0]} {whole}"
                yield _problem("field", (line,), "crash", "ValueError", why, model.path, _NUMBERS, (full,))
        elif found is value and all(walk_field(spot.section, other, line) is not allowed for other, allowed in others):
            why = f"{full} is {str(value).lower()}, which the class refuses where the rest of the config is its default"
            yield _problem("open", (line,), "unknown", why, why, model.path, "", (full,))


_NUMBERS = "which of the two is right the files do not tell; save the model again, with the config that it has."


def _misfit(spot: _Spot, rule: list[Any], lookup: _Lookup, line: str) -> LoadProblem | None:
    name, axis, factor, powers, *guards = rule
    tensor = lookup.find(f"{spot.names}{name}")
    if tensor is None or len(tensor.shape) <= axis:
        return None
    if any(walk_field(spot.section, dotted, line) != value for held in guards for dotted, value in held.items()):
        return None
    first, _, more = factor.partition("+")
    times = float(first)
    whole, parts, said, slack = times, 1.0, [], 0
    for dotted, exponent in powers.items():
        value = walk_field(spot.section, dotted, line)
        if type(value) not in (int, float) or not 0 < value < _LARGEST:
            return None
        slack = max(slack, int(isinstance(value, float)))
        if exponent > 0:
            whole *= value**exponent
        else:
            parts *= value**-exponent
        said.append(f"{'.'.join((*spot.section.level, dotted))} {value}")
    made = int(whole // parts) + int(more or 0)
    if abs(made - tensor.shape[axis]) <= slack or _said_otherwise(spot.section, powers, tensor.shape[axis]):
        return None
    layers = walk_field(spot.section, "num_hidden_layers", line)
    if times == _BUILT_LAYERS and type(layers) is int and made * layers == tensor.shape[axis] * _BUILT_LAYERS:
        return None  # Gemma 4 has columns for each layer
    where = ("rows", "columns")[axis] if len(tensor.shape) == 2 else f"as size of axis {axis}"
    found = f"{tensor.name} is stored with {tensor.shape[axis]} {where}"
    why = f"{found}, and config.json makes {made} of {listed(tuple(said))}"
    message = f"size mismatch for {tensor.name}"
    return _problem("shape", (line,), "crash", message, why, tensor.file, _NUMBERS, (tensor.name,))


def _said_otherwise(section: Section, fields: dict[str, Any], size: int) -> bool:
    """Tell whether a field has its default, and another key the stored size: an older name (Bloom's `n_embed`)."""
    if all(dotted.partition(".")[0] in section.data for dotted in fields):
        return False
    return any(type(value) is int and value == size for value in section.data.values())


_BUILT_LAYERS = 2
"""Layers of the classes that the table was made of: a factor of two may be their number."""

_LARGEST = 1 << 48
"""A number that no size is made of."""


def _pair(tie: TieSpec) -> bool:
    """Tell whether a stored member stands for the other: of more than two, one may have a size of its own."""
    return tie.exact and not tie.unlike and len(tie.names) == 2


class _Lookup:
    """Finds a tensor of a class under the names that a file may give it."""

    def __init__(self, checkpoint: Checkpoint, architecture: Architecture, aliases: dict[str, list[str]]) -> None:
        self.checkpoint, self.aliases = checkpoint, aliases
        self.prefix = f"{architecture.prefix}." if architecture.prefix else ""
        self.ties = {name: tie for tie in architecture.ties if _pair(tie) for name in tie.names}

    def find(self, name: str) -> StoredTensor | None:
        tie = self.ties.get(name)
        for member in (name, *(tie.names if tie else ())):
            spelled = [member, *(tie.spellings.get(member, ()) if tie else ())]
            for inside, others in self.aliases.items():
                if member.startswith(inside):
                    spelled += [other + member.removeprefix(inside) for other in others]
            if self.prefix and member.startswith(self.prefix):
                spelled.append(member.removeprefix(self.prefix))
            for one in spelled:
                tensor = self.checkpoint.tensor(one)
                if tensor is not None:
                    plain = tensor.dtype.startswith(("float", "bfloat")) and not tensor.dtype.startswith("float8")
                    return tensor if plain else None
        return None


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
