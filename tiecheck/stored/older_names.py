"""The stored names that transformers 4.57 reads: it knows those of the index alone, and one prefix for the whole file.

Held against 4.57.6, `_load_pretrained_model` and `_get_key_renaming_mapping`: whether any name begins with the base
model's prefix decides for all of them whether it is added, stripped or left. Transformers 5 asks each name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from tiecheck.records.declared import Architecture, ModelConfig, TieSpec
from tiecheck.records.stored import Checkpoint
from tiecheck.stored.config_values import told_problem
from tiecheck.tables.architectures import newer_names, older_has
from tiecheck.tables.structure import class_structure, config_structure

if TYPE_CHECKING:  # it is made where something is wrong
    from tiecheck.records.files import LoadProblem


def as_older_reads(checkpoint: Checkpoint, older: Architecture) -> Checkpoint:
    """Return a checkpoint without the names that 4.57 loads into nothing of the class, as it has that."""
    hidden = set(_unindexed(checkpoint))
    prefix = f"{older.prefix}."
    if older.prefix and begins_with(checkpoint, older.prefix):
        if _inside(older):
            bare = {name.removeprefix(prefix) for name in _own_names(older)} - _own_names(older)
            hidden |= {name for name in bare if name in checkpoint}
        elif any(f"{prefix}{name}" in checkpoint for name in _own_names(older)):  # FLAVA's ties are all its heads' own
            hidden |= {name for name in checkpoint.names() if not name.startswith(prefix)}
    if not hidden:
        return checkpoint
    shards = tuple(
        shard._replace(entries={name: entry for name, entry in shard.entries.items() if name not in hidden})
        for shard in checkpoint.shards
    )
    held = {name: file for name, file in checkpoint.weight_map.items() if name not in hidden}
    return checkpoint._replace(shards=shards, weight_map=held)


def lost_ties(older: Architecture, newest: Architecture) -> Iterator[TieSpec]:
    """Yield the ties of 4.57 that transformers 5 does not make: of embedding and head where it has both, first."""
    pair = {newest.head, newest.embedding}
    if None not in pair and len(pair) == 2 and not any(pair <= set(tie.names) for tie in newest.ties):
        yield from [tie for tie in older.ties if pair <= set(newer_names(tie))][:1]
    taken = {newest.head, *(name for tie in newest.ties for name in tie.names)}
    yield from (tie for tie in older.ties if taken.isdisjoint(newer_names(tie)))


def name_among_bare(checkpoint: Checkpoint, older: Architecture, prefix: str, task: Iterable[str]) -> str | None:
    """Return a stored name of the task's own in a file whose other names lack the base model's prefix.

    4.57 takes such a file for the base model's, and refuses it for the name. The task's own are known by the modules of
    its members: a head's bias beside its weight; and by those that stand beside the base model.
    """
    task = frozenset(task)
    beside = bool(task) and all(name.partition(".")[0] in task for name in _own_names(older))  # Voxtral's are not
    if not prefix or not (beside or _inside(older)) or begins_with(checkpoint, prefix):
        return None
    own = {name.rpartition(".")[0] for name in _own_names(older) if not name.startswith(f"{prefix}.")} - {""}
    names = (n for n in _known_names(checkpoint) if n.rpartition(".")[0] in own or n.partition(".")[0] in task)
    return min(names, default=None)


def tied_by_flags(model: ModelConfig, tie: TieSpec) -> bool:
    """Tell whether a class ties a group under the flags of a config."""
    said = next((f.value for f in model.flags if (f.key, f.level) == (tie.key, tie.level)), None)
    return tie.on if said is True else tie.off if said is False else tie.silent


def shaped_by_source(model: ModelConfig, older: Architecture) -> Iterator[str]:
    """Yield members that have the shape of what 4.57 ties them to, and untied another one (ImageGPT's head)."""
    for tie in older.ties:
        if tie.unlike and tied_by_flags(model, tie):
            yield from (name for name in tie.names if name != tie.source)


def written_in_five(data: Mapping[str, Any]) -> bool:
    """Tell whether 5 wrote a config: it says so, or has a key that 5 alone writes and 4.57 did not write again."""
    inner = (held for held in data.values() if isinstance(held, Mapping))
    version = str(data.get("transformers_version", ""))
    if version.startswith(("4.57", "5")):
        return version.startswith("5")
    return "rope_parameters" in data or any(written_in_five(held) for held in inner)


def moved_names(model: ModelConfig, checkpoint: Checkpoint) -> Iterator[LoadProblem]:
    """Yield a name under which transformers 5 stores what 4.57 looks for under another, and makes at random."""
    if not older_has(model.class_name, model.model_type):
        return
    found = class_structure(model.class_name or "", model.model_type)
    known = config_structure(found[0] if found else model.model_type or "", "4.57") or {}
    name = known.get("v", {}).get(model.class_name)
    if name is not None and name in checkpoint:
        why = f"{name} is a name of transformers 5, which 4.57 loads into nothing, as it does those beside it"
        mend = "save it with 4.57, which writes what it reads."
        message = "what it looks for in their place is made at random, with a warning"
        file = tensor.file if (tensor := checkpoint.tensor(name)) is not None else ""
        yield told_problem("moved", ("4.57",), "member-random", message, why, file, mend, (name,))


def _own_names(older: Architecture) -> set[str]:
    names = {name for tie in older.ties for name in tie.names}
    return names | {name for name in (older.embedding, older.head) if name}


def _inside(older: Architecture) -> bool:
    """Tell whether the class holds the base model under its prefix, and is not that model itself."""
    return any(name.startswith(f"{older.prefix}.") for name in _own_names(older))


def begins_with(checkpoint: Checkpoint, prefix: str) -> bool:
    """Tell whether a stored name begins with a prefix; 4.57 asks for no dot behind it."""
    return any(name.startswith(prefix) for name in _known_names(checkpoint))


def _known_names(checkpoint: Checkpoint) -> Iterable[str]:
    """Return the names that 4.57 knows: those of the index, where there is one."""
    return checkpoint.names() if checkpoint.index_file is None else checkpoint.weight_map


def _unindexed(checkpoint: Checkpoint) -> Iterator[str]:
    if checkpoint.index_file is None or checkpoint.agrees:
        return
    yield from (name for name in checkpoint.names() if name not in checkpoint.weight_map)
