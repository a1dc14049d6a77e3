"""From steps to files: the new texts, the new layouts of shards, and the lines that show them."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Iterable, Mapping
from typing import Any

from tiecheck.errors import TargetError
from tiecheck.files.checkpoint import INDEX_ENDING, PICKLE_ENDINGS, parse_index, read_checkpoint
from tiecheck.files.local import path_inside, read_bytes
from tiecheck.fix.changes import Changes, collect_changes
from tiecheck.fix.json_text import changed_object, read_json_text
from tiecheck.fix.tensors import ShardLayout, new_layout
from tiecheck.records.edits import CONFIG, Step, TensorChange
from tiecheck.records.record import Record


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
