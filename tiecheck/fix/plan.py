"""From steps to files: the new texts, the new layouts of shards, and the lines that show them."""

from __future__ import annotations

import difflib
import json
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from tiecheck.errors import TargetError
from tiecheck.files.checkpoint import INDEX_ENDING, PICKLE_ENDINGS, parse_index, read_checkpoint
from tiecheck.files.local import path_inside, read_bytes
from tiecheck.fix.json_text import changed_object, read_json_text
from tiecheck.fix.tensors import ShardLayout, new_layout
from tiecheck.records.edits import CONFIG, Step, TensorChange
from tiecheck.records.record import Record
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


class FixPlan(Record):
    """The files that change, and how. Files are named as they were; `moves` has the new name of those that get one."""

    root: str
    texts: Mapping[str, tuple[str, str]]
    """JSON file -> its text before and after."""
    layouts: Mapping[str, ShardLayout]
    """Shard -> how it is written anew."""
    pickles: Mapping[str, TensorChange]
    """Pickle -> what changes in it; torch writes it."""
    moves: Mapping[str, str]
    """Old name -> new name."""
    removed: tuple[str, ...]
    """Files that go: shards in which nothing would be left, files that are not wanted, old names."""
    index_file: str | None
    """The index, which is replaced last."""
    lines: tuple[str, ...]
    """Changes of tensors and names of files, a line for each."""

    @property
    def changed(self) -> tuple[str, ...]:
        """The new files under their new names, in the order in which they are put in their places."""
        texts = sorted(self.texts, key=lambda name: (name == self.index_file, name))
        weights = sorted({*self.layouts, *self.pickles, *self.moves} - set(texts))
        return tuple(self.moves.get(name, name) for name in (*weights, *texts))

    @property
    def nbytes(self) -> int:
        """Bytes of all new files."""
        texts = sum(len(after.encode()) for _, after in self.texts.values())
        pickles = sum(os.path.getsize(path_inside(self.root, name)) for name in self.pickles)
        return texts + pickles + sum(layout.nbytes for layout in self.layouts.values())

    def diff(self) -> str:
        """Return the change for people: the config as a unified diff, tensors as lines."""
        parts: list[str] = []
        for name, (before, after) in self.texts.items():
            if name != self.index_file:
                lines = (before.splitlines(), after.splitlines(), f"a/{name}", f"b/{name}")
                parts += difflib.unified_diff(*lines, lineterm="", n=2)
        return "\n".join((*parts, *self.lines))


def make_plan(root: str, steps: Iterable[Step]) -> FixPlan:
    """Return what steps change in a model directory; a name that is not there, or twice, is a `TargetError`."""
    wanted = tuple(dict.fromkeys(steps))
    _refuse_conflicts(wanted)
    checkpoint = read_checkpoint(root)
    if checkpoint is None:
        raise TargetError(f"{root} holds no weights", root)
    changes = collect_changes(checkpoint, wanted)
    dropped = _with_shards(root, changes.dropped)
    gone = [*dropped, *changes.moves]
    pickled = {f: c for f, c in changes.shards.items() if f.endswith(PICKLE_ENDINGS) and f not in dropped}
    shards = {f: c for f, c in sorted(changes.shards.items()) if f not in pickled and f not in dropped}
    layouts = {f: new_layout(root, f, c) for f, c in shards.items()}
    empty = [f for f, layout in layouts.items() if not layout.names and checkpoint.index_file]
    texts = _flags(root, changes)
    if checkpoint.index_file and checkpoint.index_file not in dropped and changes.index_changes:
        texts[checkpoint.index_file] = _new_index(root, checkpoint.index_file, changes)
    lines = [*changes.lines, *(f"- {file}" for file in dropped), *(f"- {f}, in which nothing is left" for f in empty)]
    kept = {file: layout for file, layout in layouts.items() if file not in empty}
    removed = tuple(dict.fromkeys((*gone, *empty)))
    return FixPlan(root, texts, kept, pickled, changes.moves, removed, checkpoint.index_file, tuple(lines))


def _refuse_conflicts(steps: tuple[Step, ...]) -> None:
    values: dict[tuple[str | None, tuple[str, ...]], object] = {}
    for step in steps:
        if step.kind == "set-config" and values.setdefault((step.file, step.key), step.value) != step.value:
            raise TargetError(f"two findings want different values for {'.'.join(step.key)}; fix one with --select")
    gone = {step.names[0] for step in steps if step.kind == "drop-tensor" and step.file is None}
    used = [step.names[0] for step in steps if step.kind in {"rename-tensor", "copy-tensor"}]
    both = next((name for name in used if name in gone), None)
    if both:
        raise TargetError(f"two findings want different things of {both}; fix one with --select")


def _with_shards(root: str, files: list[str]) -> tuple[str, ...]:
    """Return files that are to go, an index with the shards that it names."""
    found: list[str] = []
    for file in files:
        path = path_inside(root, file)
        held = parse_index(read_bytes(path, path), path)[1] if file.endswith(INDEX_ENDING) else []
        found += [file, *(shard for shard in held if os.path.lexists(os.path.join(root, shard)))]
    return tuple(found)


def _flags(root: str, changes: Changes) -> dict[str, tuple[str, str]]:
    """Return the config before and after, where it changes."""
    if not changes.flags:
        return {}
    before = after = read_json_text(root, CONFIG)
    for level, values in changes.flags.items():
        after = _changed(root, CONFIG, after, level, put=values)
    return {CONFIG: (before, after)}


def _new_index(root: str, name: str, changes: Changes) -> tuple[str, str]:
    """Return an index before and after; the sum of bytes in its metadata follows."""
    before = read_json_text(root, name)
    put, drop, rename = changes.put, changes.drop, changes.rename
    after = _changed(root, name, before, ("weight_map",), put=put, drop=drop, rename=rename)
    return before, _with_total(after, changes.grown)


def _changed(root: str, name: str, text: str, level: tuple[str, ...], **changes: Any) -> str:
    """Return the changed text of a file, which an error names.

    Raises:
        TargetError: It cannot be changed.
    """
    try:
        return changed_object(text, level, **changes)
    except TargetError as error:
        path = os.path.join(root, name)
        raise TargetError(f"{path}: {error}", path) from error


def _with_total(text: str, grown: int) -> str:
    notes = json.loads(text).get("metadata")
    total = notes.get("total_size") if isinstance(notes, dict) else None
    if not isinstance(total, int) or not grown:
        return text
    return changed_object(text, ("metadata",), put={"total_size": total + grown})
