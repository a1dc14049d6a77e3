"""Steps sorted by the file that they change."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from tiecheck.errors import TargetError
from tiecheck.records.edits import CONFIG, Step, TensorChange
from tiecheck.records.stored import Checkpoint


class Changes:
    """All that some steps change, and the lines that show it."""

    def __init__(self) -> None:
        self.shards: dict[str, TensorChange] = defaultdict(lambda: TensorChange(set(), {}, {}, {}, []))
        """Weights file -> what changes in it."""
        self.put: dict[str, str] = {}
        """Index: name -> file."""
        self.drop: set[str] = set()
        """Index: names that go."""
        self.rename: dict[str, str] = {}
        """Index: old name -> new name."""
        self.flags: dict[tuple[str, ...], dict[str, Any]] = defaultdict(dict)
        """Config: level -> key -> value."""
        self.moves: dict[str, str] = {}
        """File -> its new name."""
        self.dropped: list[str] = []
        """Files that go."""
        self.lines: list[str] = []
        """Changes of tensors and files, a line for each."""
        self.grown = 0
        """Bytes by which the weights grow."""

    @property
    def index_changes(self) -> bool:
        """True where the index has to follow."""
        return bool(self.put or self.drop or self.rename)


def collect_changes(checkpoint: Checkpoint, steps: tuple[Step, ...]) -> Changes:
    """Return what steps change, file by file; a step that cannot be done raises a `TargetError`."""
    changes = Changes()
    gone = {step.names[0] for step in steps if step.kind == "drop-tensor" and step.file is None}
    for step in steps:
        match step.kind:
            case "strip-prefix":
                _strip(step.names[0], checkpoint, changes)
            case "drop-tensor":
                _drop(step, checkpoint, changes)
            case "rename-tensor" | "copy-tensor":
                _rename_or_copy(step, checkpoint, changes, gone)
            case _:
                _file_step(step, changes)
    return changes


def _file_step(step: Step, changes: Changes) -> None:
    """Enter a step that is about a file as a whole."""
    file, lines = str(step.file), changes.lines
    match step.kind:
        case "set-config" if step.file == CONFIG:
            changes.flags[step.key[:-1]][step.key[-1]] = step.value
        case "set-config":
            changes.put[step.key[-1]] = str(step.value)
            lines.append(f"~ {step.key[-1]}: {step.value} in {file}")
        case "set-metadata":
            changes.shards[file].notes[step.key[-1]] = str(step.value)
            lines.append(f"~ {step.key[-1]}: {step.value} in the metadata of {file}")
        case "unwrap-tensors":
            changes.shards[file].below.append(step.names[0])
            lines.append(f"~ {step.names[0]!r} of {file} becomes the whole of it")
        case "move-file":
            changes.moves[step.names[0]] = step.names[1]
            lines += [f"- {step.names[0]}", f"+ {step.names[1]}"]
        case "drop-file":
            changes.dropped.append(step.names[0])


def _strip(prefix: str, checkpoint: Checkpoint, changes: Changes) -> None:
    """Enter the new name of every tensor."""
    total = 0
    for shard in checkpoint.shards:
        for name in shard.entries:
            if name.startswith(prefix):
                changes.shards[shard.path].rename[name] = name.removeprefix(prefix)
                total += 1
    changes.rename.update({n: n.removeprefix(prefix) for n in checkpoint.weight_map if n.startswith(prefix)})
    changes.lines.append(f"~ {prefix!r} goes from {total:,} names")


def _holding(name: str, checkpoint: Checkpoint) -> list[str]:
    return [shard.path for shard in checkpoint.shards if name in shard.entries]


def _drop(step: Step, checkpoint: Checkpoint, changes: Changes) -> None:
    """Enter a tensor that goes: from the one file that holds it, from one of several, or from the index alone."""
    name, holding = step.names[0], _holding(step.names[0], checkpoint)
    if not holding and name in checkpoint.weight_map:
        changes.drop.add(name)
        changes.lines.append(f"- {name} in {checkpoint.index_file}")
        return
    file = step.file or _only(name, holding, checkpoint)
    shard = next((shard for shard in checkpoint.shards if shard.path == file), None)
    if shard is None or name not in shard.entries:
        raise TargetError(f"{file} does not hold {name}", checkpoint.root)
    tensor = checkpoint._replace(shards=(shard,), weight_map={}, agrees=False).tensor(name)
    assert tensor is not None  # noqa: S101  # it is among the entries
    changes.shards[file].drop.add(name)
    changes.grown -= tensor.nbytes
    changes.lines.append(f"- {name}  {tensor.dtype} {list(tensor.shape)}  {file}")
    if step.file is None:
        changes.drop.add(name)


def _rename_or_copy(step: Step, checkpoint: Checkpoint, changes: Changes, gone: set[str]) -> None:
    name, new = step.names
    file = _only(name, _holding(name, checkpoint), checkpoint)
    tensor = checkpoint.tensor(name)
    assert tensor is not None  # noqa: S101  # a shard holds it
    if new in checkpoint and new not in gone:
        raise TargetError(f"{new} is stored already", checkpoint.root)
    form = f"{tensor.dtype} {list(tensor.shape)}  {file}"
    if step.kind == "rename-tensor":
        changes.shards[file].rename[name] = new
        if name in checkpoint.weight_map:
            changes.rename[name] = new
        else:
            changes.put[new] = file
        changes.lines += [f"- {name}  {form}", f"+ {new}  {form}"]
    else:
        changes.shards[file].copies[new] = name
        changes.put[new] = file
        changes.grown += tensor.nbytes
        changes.lines.append(f"+ {new}  {form}, a copy of {name}")


def _only(name: str, holding: list[str], checkpoint: Checkpoint) -> str:
    """Return the one file that holds a tensor, or raise a `TargetError`."""
    if len(holding) != 1:
        where = f"stands in {len(holding)} files" if holding else "is not stored"
        raise TargetError(f"{name} {where}, and is not changed", checkpoint.root)
    return holding[0]
