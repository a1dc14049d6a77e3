"""Holds a config.json and stored tensors together: values that the library refuses, and sizes that do not fit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from tiecheck.records.declared import Architecture, ModelConfig
from tiecheck.records.stored import Checkpoint, StoredTensor
from tiecheck.records.words import Unknown
from tiecheck.stored.config_refusals import NUMBERS, class_refusals, open_problem, refused_section
from tiecheck.stored.config_values import (
    Refused,
    Section,
    Spot,
    Unread,
    architecture_of,
    own_section,
    said_otherwise,
    spots_of,
    told_problem,
    unmoved_rules,
    walk_field,
    written_field,
)
from tiecheck.stored.members import TensorFinder
from tiecheck.stored.older_names import begins_with, shaped_by_source, written_in_five
from tiecheck.tables.architectures import older_has
from tiecheck.tables.structure import base_prefix, class_structure, config_structure
from tiecheck.wording import listed

if TYPE_CHECKING:  # it is made where something is wrong
    from tiecheck.records.files import LoadProblem

LINES = ("4.57", "5")


def size_problems(model: ModelConfig, checkpoint: Checkpoint) -> Iterator[LoadProblem]:
    """Yield what keeps each line of transformers from building a config, or tensors from fitting it."""
    architecture = architecture_of(model)
    settled: set[str] = set()
    older = _first_met(_misfits(model, architecture, checkpoint, "4.57", settled), checkpoint)
    if older is not None and older.kind == "shape" and not _read_by_older(older.names[0], model, architecture):
        older = open_problem(f"{older.names[0]} may be no name of 4.57's, and its size is another", "4.57", model.path)
    found = tuple(_misfits(model, architecture, checkpoint, "5", set()))
    newest = _first_met(found, checkpoint)
    if newest is not None and older is not None and (newest.why, newest.kind) == (older.why, older.kind):
        yield newest._replace(versions=LINES)
        return
    if older is None and older_has(model.class_name, model.model_type):
        unsettled = next((told for key, told in found if key not in settled), None)
        if unsettled is not None:
            older = open_problem(f"{unsettled.why}, and what 4.57 makes of that was not asked", "4.57", model.path)
    yield from (problem for problem in (newest, older) if problem is not None)


def _first_met(found: Iterable[tuple[str, LoadProblem]], checkpoint: Checkpoint) -> LoadProblem | None:
    """Return what a load meets first: a refused config comes before any tensor, and of a nested file none is read."""
    nested = any(shard.nested for shard in checkpoint.shards)
    met = (told for _, told in found if not (nested and told.kind == "shape"))
    return min(met, key=lambda told: told.kind != "field", default=None)


def _read_by_older(name: str, model: ModelConfig, architecture: Architecture) -> bool:
    """Tell whether 4.57 reads a tensor of a tie that 5 has under its stored name, as far as its table tells."""
    older = architecture_of(model, older=True)
    theirs, ours = (
        {s for tie in known.ties for member in tie.names for s in (member, *tie.spellings.get(member, ()))}
        for known in (older, architecture)
    )
    return name in {*theirs, older.embedding} if name in ours else bool(theirs or older.head or not ours)


def _misfits(
    model: ModelConfig, architecture: Architecture, checkpoint: Checkpoint, line: str, settled: set[str]
) -> Iterator[tuple[str, LoadProblem]]:
    """Yield each problem with a key of what was asked; the keys of what was asked and is none go to `settled`."""
    found = class_structure(model.class_name or "", model.model_type)
    if found is None:
        return
    lookup = TensorFinder(
        checkpoint, architecture, found[1].get("a", {}), base_prefix(model.class_name or "", found[0])
    )
    lookup.doubled = line == "5"
    lookup.prefix = lookup.prefix or next((f"{p}." for p, level, _ in found[1].get("p", ()) if not level), "")
    lookup.bare = line == "5" or not begins_with(checkpoint, lookup.prefix[:-1])
    older = architecture_of(model, older=True) if line == "4.57" else None
    shaped, nested = (
        set(shaped_by_source(model, older) if older else ()),
        any(shard.nested for shard in checkpoint.shards),
    )
    known = config_structure(found[0], line) is not None
    spots = list(spots_of(own_section(model, found[0]), model.class_name or "", "", line)) if known else []
    lookup.spoken = {(f"{s.names}{r[0]}", r[1]) for s in spots if isinstance(s, Spot) for r in _rules(s, line)}
    for spot in spots:
        if isinstance(spot, Refused):
            yield ".".join(spot.level), refused_section(spot, model, line)
        elif isinstance(spot, Spot):
            settled.add(".".join(spot.section.level))
            rules = [rule for rule in _rules(spot, line) if f"{spot.names}{rule[0]}" not in shaped]
            read = line == "5" or (not nested and any(lookup.find(f"{spot.names}{r[0]}", r[1]) for r in rules))
            yield from class_refusals(spot, model, line, settled, read)
            for rule in unmoved_rules(spot.section, rules, line):
                key, other = f"{spot.names}{rule[0]} {rule[1]}", _other_axes(spot, rule, lookup, line)
                problem = other or _misfit(spot, rule, lookup, line, model.path)
                if problem is None:  # 4.57 may have a name by a conversion of its own (Qwen2-VL's `visual`)
                    settled |= {key} if lookup.find(f"{spot.names}{rule[0]}", rule[1]) is not None else set()
                elif not isinstance(problem, Unknown):
                    yield key, problem
            yield from _structure_doubts(spot, rules, lookup, line, model.path)
    for problem in _unlike_five(found[0], model, checkpoint, line):
        yield "", problem


def _structure_doubts(
    spot: Spot, rules: list[list[Any]], lookup: TensorFinder, line: str, path: str
) -> Iterator[tuple[str, LoadProblem]]:
    """Yield switches that may have had another value, and a model of which next to nothing is stored as it names it."""
    for row in spot.row.get("s", ()):
        doubt = switch_doubt(spot.section, row, lookup.find(f"{spot.names}{row[0]}", row[1]), line)
        if doubt is not None:
            yield row[0], open_problem(doubt, line, path)
    alone = spot.foreign and all(level for _, level, _ in spot.row.get("p", ()))  # a base model inside has more to say
    if rules and (alone or not spot.section.data):
        lost = [rule[0] for rule in rules if lookup.find(f"{spot.names}{rule[0]}", rule[1]) is None]
        words = any("embed" in name for name in lost)
        if len(lost) == len(rules) or (alone and (words or 2 * len(lost) > len(rules))):
            where = ".".join(spot.section.level)
            state = f"a {spot.section.kind}" if spot.section.data else "all by default"
            yield where, open_problem(f"{where} is {state}, and no tensor tells whether it builds so", line, path)


def _rules(spot: Spot, line: str) -> list[list[Any]]:
    """Return the rules of sizes; in 4.57 what stands around a model inside was not asked for that model's numbers."""
    rules: list[list[Any]] = spot.row.get("w", [])
    inside = tuple(f"{level}." for _, level, _ in spot.row.get("p", ()) if level)
    return rules if line == "5" or not inside else [r for r in rules if not any(d.startswith(inside) for d in r[3])]


def _unlike_five(kind: str, model: ModelConfig, checkpoint: Checkpoint, line: str) -> Iterator[LoadProblem]:
    """Yield a doubt where 4.57 builds something else from what 5 writes, has no such config, or lacks a module."""
    known = config_structure(kind, line) if line == "4.57" else {}
    if line == "5" or not older_has(model.class_name, model.model_type):
        return
    if (known is None or "x" in known) and written_in_five(model.data):
        yield open_problem(f"4.57 builds {kind} otherwise from what transformers 5 writes", line, model.path)
    layers = any(map(str.isdecimal, (part for name in checkpoint.names() for part in name.split("."))))
    for word in (known or {}).get("k", ()) if layers else ():
        if not any(f".{word}." in f".{name}." for name in checkpoint.names()):
            why = f"4.57 refuses the class without a module {word}, and no name of one is stored"
            yield open_problem(why, line, model.path)


def _other_axes(spot: Spot, rule: list[Any], lookup: TensorFinder, line: str) -> LoadProblem | None:
    name, axis, _, _, *guards = rule
    tensor = lookup.find(f"{spot.names}{name}", axis)
    if tensor is None or guards or not other_dims(name, axis, tensor):
        return None
    why = f"{tensor.name} is stored in the shape {list(tensor.shape)}, and the class has another number of axes"
    mend = "which numbers belong in it the file does not tell; save the model again."
    told = (f"size mismatch for {tensor.name}", why, tensor.file, mend, (tensor.name,))
    return told_problem("shape", (line,), "crash", *told)


def _misfit(spot: Spot, rule: list[Any], lookup: TensorFinder, line: str, path: str) -> LoadProblem | Unknown | None:
    """Return what a config makes of one size that is stored, where that is another; Unknown where it is not told."""
    name, axis, factor, powers, *guards = rule
    tensor = lookup.find(f"{spot.names}{name}", axis)
    made = _made(spot.section, factor, powers, line)
    if tensor is None or len(tensor.shape) <= axis:
        why = _unsized(spot, name, made, lookup)
        return open_problem(why, line, path) if why else None
    size = tensor.shape[axis]
    wants = ((d, value) for held in guards for d, value in held.items())
    changed = [(d, found) for d, value in wants if (found := walk_field(spot.section, d, line)) != value]
    if made is None or len(changed) > 1 or any(type(found) not in (bool, str) for _, found in changed):
        return Unknown("it hangs on what is not known")
    if isinstance(made, Unread):
        return (
            Unknown(made.state)
            if changed
            else open_problem(f"{made.state}, and the size of {tensor.name} hangs on it", line, path)
        )
    wanted, slack = made
    layers = walk_field(spot.section, "num_hidden_layers", line)
    # Gemma 4 has columns for each layer
    each = float(factor.partition("+")[0]) == _BUILT_LAYERS and type(layers) is int
    fits = abs(wanted - size) <= slack or (each and wanted * layers == size * _BUILT_LAYERS)
    fits |= slack > 0 and size % 8 == 0 and abs(wanted - size) < 8  # channels that a float scales go by eights
    why = f"{tensor.name} has {size} in axis {axis}, where no config was seen to make another number than {wanted}"
    if changed and fits:
        ((dotted, found),) = changed
        where = ".".join((*spot.section.level, dotted))
        why = f"{where} is {str(found).lower()}, and {tensor.name} has the size of another value"
    # Another key that says the size makes it as likely (Marian's `decoder_vocab_size`).
    beside = any(type(value) is int and value == size for key, value in spot.section.data.items() if key not in powers)
    if (changed and fits and not beside) or not (powers or fits):
        return open_problem(why, line, path)
    silent = changed or fits or listed_apart(spot.section, name)
    if silent or any(said_otherwise(spot.section, dotted, size, line) for dotted in powers):
        return None
    where = ("rows", "columns")[axis] if len(tensor.shape) == 2 else f"as size of axis {axis}"
    said = (f"{written_field(spot.section, d, line)} {walk_field(spot.section, d, line)}" for d in powers)
    why = f"{tensor.name} is stored with {size} {where}, and config.json makes {wanted} of {listed(tuple(said))}"
    told = (f"size mismatch for {tensor.name}", why, tensor.file, NUMBERS, (tensor.name,))
    return told_problem("shape", (line,), "crash", *told)


def _unsized(spot: Spot, name: str, made: Any, lookup: TensorFinder) -> str:
    """Return the doubt about a tensor that has no one size: several are stored for it, or its config may raise."""
    several = lookup.unlike(f"{spot.names}{name}")
    if several:
        return f"{listed(several)} are one tensor, and are stored with unlike shapes"
    unread = isinstance(made, Unread) and (made.state.endswith(" null") or lookup.elsewhere(name))
    return f"{made.state}, and the size of {name} hangs on it" if unread else ""


def _made(section: Section, factor: str, powers: dict[str, int], line: str) -> tuple[int, int] | Unread | None:
    """Return a size that a config makes, and the distance that rounding can make."""
    times, _, more = factor.partition("+")
    whole, parts, slack = float(times), 1.0, 0
    pad = section.data.get("pad_token_id") if more and section.kind == "fsmt" else None
    more = str(pad + 1) if type(pad) is int else more  # its positions begin after the padding (5.23, 4.57)
    for dotted, exponent in powers.items():
        value = walk_field(section, dotted, line)
        if isinstance(value, Unread) or (type(value) is int and value == 0):
            state = value.state if isinstance(value, Unread) else value
            return Unread(f"{written_field(section, dotted, line)} is {state}")
        if type(value) not in (int, float) or not 0 < value < _LARGEST:
            return None
        slack = max(slack, int(isinstance(value, float)))
        if exponent > 0:
            whole *= value**exponent
        else:
            parts *= value**-exponent
    return int(whole // parts) + int(more or 0), slack


_BUILT_LAYERS = 2
"""Layers of the classes that the table was made of: a factor of two may be their number."""

_LARGEST = 1 << 48  # a number that no size is made of


def switch_doubt(section: Section, row: list[Any], tensor: StoredTensor | None, line: str) -> str | None:
    """Return why a config may build another size than is stored, by one row of switches; None where it does not."""
    _, axis, switches, states = row
    if tensor is None or len(tensor.shape) <= axis:
        return None
    held, size = [walk_field(section, dotted, line) for dotted in switches], tensor.shape[axis]
    made = [(state, _total(section, terms, line)) for state, terms in states]
    mine = next((total for state, total in made if state == held), None)
    usual = held == states[0][0] or any(isinstance(value, Unknown) for value in held)
    if mine == size or (mine is None and usual and all(total != size for _, total in made)):
        return None
    where = listed(tuple(".".join((*section.level, dotted)) for dotted in switches))
    return f"the size of {tensor.name} hangs on {where}, and {size} in axis {axis} may be that of another value"


def _total(section: Section, terms: list[tuple[int, dict[str, int]]] | None, line: str) -> int | None:
    """Return the sum of products that a size is under one state; None where it, or a number in it, is not known."""
    from fractions import Fraction  # few classes have such rows, and it brings decimal along

    total = Fraction(0)
    for factor, powers in terms or ():
        product = Fraction(factor)
        for dotted, exponent in powers.items():
            value = walk_field(section, dotted, line)
            if type(value) is not int or value <= 0:
                return None
            product *= Fraction(value) ** exponent
        total += product
    return int(total) if terms and total.denominator == 1 else None


def listed_apart(section: Section, name: str) -> bool:
    """Tell whether a list of the config names the layer of a tensor, which may then be built as no other (SAM)."""
    numbers = {int(part) for part in name.split(".") if part.isdigit()}
    lists = (value for key, value in section.data.items() if key.endswith(_OF_LAYERS) and isinstance(value, list))
    return any(type(held) is int and held in numbers for value in lists for held in value)


_OF_LAYERS = ("_indexes", "_attn_indices", "_layers", "_layer_indices")
"""Ends of the keys whose numbers are layers of another kind, not sizes, tokens or outputs."""


def other_dims(name: str, axis: int, tensor: StoredTensor) -> bool:
    """Tell whether a stored tensor lacks the axis that a config makes, or has several where a class has a bias of one.

    Of the library's biases one alone is made with more axes, and its size is asked for in the last of them.
    """
    return 0 not in tensor.shape and (
        len(tensor.shape) <= axis or (len(tensor.shape) > 1 and axis == 0 and name.rpartition(".")[2] == "bias")
    )
