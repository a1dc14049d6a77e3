"""Entries of saved optimizer states for the ties of a checkpoint: one entry each, as it should be, or more.

With names an entry is found by its name. With numbers, as plain torch and Trainer write them, the shapes tell: a state
with one more entry of the embedding's shape than the checkpoint has tensors, and otherwise the same shapes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Literal

from tiecheck.errors import TargetError
from tiecheck.records.files import TiedMoments
from tiecheck.records.stored import Checkpoint, Group, read_entry
from tiecheck.records.words import Unknown
from tiecheck.stored.optimizer_state import Moment, SavedState, compare_moments, read_state

Shape = tuple[int, ...]


def tied_moments(
    root: str,
    files: tuple[str, ...],
    groups: tuple[Group, ...] | Unknown,
    checkpoint: Checkpoint | None,
    values: Literal["auto", "never", "always"],
) -> tuple[TiedMoments | Unknown, ...] | Unknown:
    """Return the groups that have more than one entry in a saved optimizer state, and states that cannot tell.

    The entries of a state without names are counted against the weights.
    """
    if isinstance(groups, Unknown):
        return groups
    declared = [group for group in groups if group.declared and len(group.names) > 1]
    wanted = sorted({name for group in declared for name in group.names})
    found: list[TiedMoments | Unknown] = []
    for file in files if declared else ():
        try:
            state = read_state(root, file, wanted)
        except TargetError as error:
            state = Unknown(str(error))
        if isinstance(state, Unknown):
            found.append(state)
            continue
        for group in declared:
            if state.numbered:
                answer = _by_number(state, group, declared, checkpoint, values)
            else:
                answer = _compared(state.file, group, _by_name(state, group), 1, values)
            if answer is not None:
                found.append(answer)
    return tuple(found)


def _by_name(state: SavedState, group: Group) -> dict[str, dict[str, Moment]]:
    """Field -> parameter, by the state's own name -> tensor, for the fields that several members have."""
    fields: dict[tuple[str, str], dict[str, Moment]] = {}
    for key, moment in state.named.items():
        for member in group.names:
            at = f".{key}.".find(f".{member}.")
            if at < 0 or not moment.shape:
                continue
            before, after = key[:at], key[at + len(member) :]
            if _is_field(before, after, state.file):
                fields.setdefault((before, after), {})[member] = moment
    return {(after or before).strip("."): entries for (before, after), entries in fields.items() if len(entries) > 1}


def _is_field(before: str, after: str, file: str) -> bool:
    """Tell whether the text around a parameter's name makes it a moment, not the parameter or its options."""
    around = before.split(".")
    if "param_groups" in around:
        return False
    return ("state" in around and bool(after)) or (file.endswith(".safetensors") and bool(before or after))


def _by_number(
    state: SavedState,
    group: Group,
    declared: list[Group],
    checkpoint: Checkpoint | None,
    values: Literal["auto", "never", "always"],
) -> TiedMoments | Unknown | None:
    """Return a group whose shape more entries have than the checkpoint has parameters of it."""
    if checkpoint is None or checkpoint.missing_files or not group.tensors:
        return Unknown(f"{state.file} numbers its entries, and not all weights are here to count them against")
    shape = group.tensors[0].shape
    shapes = {number: _parameter_shape(fields) for number, fields in state.numbered.items()}
    numbers = sorted(number for number, size in shapes.items() if size == shape)
    stored = _stored_shapes(checkpoint, declared)
    room, extra = stored[shape], len(numbers) - stored[shape]
    if extra <= 0:
        return None
    others = Counter(size for size in shapes.values() if size is not None and len(size) > 1 and size != shape)
    theirs = Counter({size: count for size, count in stored.items() if len(size) > 1 and size != shape})
    if extra >= len(group.names) or others != theirs:
        return Unknown(
            f"{state.file} holds {len(numbers)} entries of shape {list(shape)} and the checkpoint {room}, but its "
            "numbers name no parameter, and its other shapes are not those of the checkpoint"
        )
    common = set.intersection(*(set(state.numbered[n]) for n in numbers))
    fields = {f: {str(n): state.numbered[n][f] for n in numbers} for f in sorted(common)}
    answer = _compared(state.file, group, fields, room, values)
    return answer._replace(shape=shape, named=False) if isinstance(answer, TiedMoments) else answer


def _parameter_shape(fields: Mapping[str, Moment]) -> Shape | None:
    """Return the shape of the parameter behind an entry; Adafactor keeps one vector for rows, one for columns."""
    row, column = fields.get("exp_avg_sq_row"), fields.get("exp_avg_sq_col")
    if row and column and column.shape:
        return (*row.shape, column.shape[-1])
    return max((m.shape for m in fields.values() if m.shape), key=len, default=None)


def _stored_shapes(checkpoint: Checkpoint, declared: list[Group]) -> Counter[Shape]:
    """Count the parameters of each shape that the checkpoint stands for, each tie once."""
    members = {name for group in declared for name in group.stored_names}
    counts = Counter(group.tensors[0].shape for group in declared if group.tensors)
    for shard in checkpoint.shards:
        counts.update(read_entry(entry)[1] for name, entry in shard.entries.items() if name not in members)
    return counts


def _compared(
    file: str,
    group: Group,
    fields: Mapping[str, Mapping[str, Moment]],
    room: int,
    values: Literal["auto", "never", "always"],
) -> TiedMoments | Unknown | None:
    """Return the first field in which the entries differ; None where all are equal: then it is one tensor."""
    reasons: Iterable[str] = ()
    for field, entries in sorted(fields.items()):
        moments = list(entries.values())
        if moments[0].shape in ((), (1,)):
            continue
        keys = tuple(sorted(entries, key=lambda k: (len(k), k)))
        fact = TiedMoments(group, file, keys, field, moments[0].shape, None, named=True, room=room)
        if any(moment.shape != moments[0].shape for moment in moments):
            return fact
        if values == "never":
            return Unknown(f"{file}: the moments were not to be read (--values never)")
        comparison = compare_moments(moments, exact=values == "always")
        if isinstance(comparison, Unknown):
            reasons = (*reasons, comparison.reason)
        elif not comparison.equal:
            return fact._replace(comparison=comparison)
    return Unknown(f"{file}: {next(iter(reasons))}") if reasons else None
