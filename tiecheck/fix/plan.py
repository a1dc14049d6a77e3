"""From steps to files: the new texts, the new layouts of shards, and the lines that show them."""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from tiecheck.errors import TargetError
from tiecheck.files.checkpoint import read_checkpoint
from tiecheck.files.local import parse_json, path_inside, read_bytes
from tiecheck.fix.json_text import changed_object
from tiecheck.fix.tensors import Layout, new_layout
from tiecheck.records.edits import CONFIG, Step
from tiecheck.records.record import Record
from tiecheck.records.stored import Checkpoint


class FixPlan(Record):
    """The files that change, and how."""

    root: str
    """The directory."""
    texts: Mapping[str, tuple[str, str]]
    """JSON file -> its text before and after."""
    layouts: Mapping[str, Layout]
    """Shard -> how it is written anew."""
    removed: tuple[str, ...]
    """Shards in which nothing would be left."""
    index_file: str | None
    """The index, which is replaced last."""
    lines: tuple[str, ...]
    """Changes of tensors, a line for each."""

    @property
    def changed(self) -> tuple[str, ...]:
        """The files that are replaced, in the order of their replacement."""
        texts = sorted(self.texts, key=lambda name: (name == self.index_file, name))
        return (*sorted(self.layouts), *texts)

    @property
    def nbytes(self) -> int:
        """Bytes of all new files."""
        texts = sum(len(after.encode()) for _, after in self.texts.values())
        return texts + sum(layout.nbytes for layout in self.layouts.values())

    def diff(self) -> str:
        """Return the change for people: the config as a unified diff, tensors as lines."""
        parts: list[str] = []
        for name, (before, after) in self.texts.items():
            if name != self.index_file:
                lines = (before.splitlines(), after.splitlines(), f"a/{name}", f"b/{name}")
                parts += difflib.unified_diff(*lines, lineterm="", n=2)
        return "\n".join((*parts, *self.lines))


class _Tensors(Record):
    """The changes of one shard."""

    drop: set[str]
    rename: dict[str, str]
    copies: dict[str, str]


def make_plan(root: str, steps: Iterable[Step]) -> FixPlan:
    """Return what some steps change in a model directory.

    Raises:
        TargetError: A step cannot be done: a pickle, a shard that is not there, a name that stands twice.
    """
    wanted = tuple(dict.fromkeys(steps))
    _refuse_conflicts(wanted)
    checkpoint = read_checkpoint(root)
    if checkpoint is None:
        raise TargetError(f"{root} holds no weights", root)
    if checkpoint.missing_files:
        raise TargetError(f"{checkpoint.missing_files[0]} is not here, and a part of a model is not changed", root)
    index: dict[str, Any] = {"put": {}, "drop": set(), "rename": {}}
    shards: dict[str, _Tensors] = defaultdict(lambda: _Tensors(set(), {}, {}))
    lines: list[str] = []
    flags: dict[tuple[str, ...], dict[str, Any]] = defaultdict(dict)
    grown = 0
    for step in wanted:
        if step.kind != "set-config":
            grown += _tensor_step(step, checkpoint, shards, index, lines)
        elif step.file == CONFIG:
            flags[step.key[:-1]][step.key[-1]] = step.value
        else:
            index["put"][step.key[-1]] = step.value
            lines.append(f"~ {step.key[-1]}: {step.value} in {step.file}")
    texts = {}
    if flags:
        before = after = _text(root, CONFIG)
        for level, values in flags.items():
            after = changed_object(after, level, put=values)
        texts[CONFIG] = (before, after)
    layouts = {f: new_layout(root, f, frozenset(c.drop), c.rename, c.copies) for f, c in sorted(shards.items())}
    removed = tuple(file for file, layout in layouts.items() if not layout.names and checkpoint.index_file)
    if checkpoint.index_file and any(index.values()):
        texts[checkpoint.index_file] = _new_index(root, checkpoint.index_file, index, grown)
    lines += [f"- {file}, in which nothing is left" for file in removed]
    kept = {file: layout for file, layout in layouts.items() if file not in removed}
    return FixPlan(root, texts, kept, removed, checkpoint.index_file, tuple(lines))


def _refuse_conflicts(steps: tuple[Step, ...]) -> None:
    values: dict[tuple[str | None, tuple[str, ...]], object] = {}
    for step in steps:
        if step.kind == "set-config" and values.setdefault((step.file, step.key), step.value) != step.value:
            raise TargetError(f"two findings want different values for {'.'.join(step.key)}; fix one with --select")
    gone = {step.names[0] for step in steps if step.kind == "drop-tensor"}
    used = [step.names[0] for step in steps if step.kind in {"rename-tensor", "copy-tensor"}]
    both = next((name for name in used if name in gone), None)
    if both:
        raise TargetError(f"two findings want different things of {both}; fix one with --select")


def _tensor_step(
    step: Step, checkpoint: Checkpoint, shards: Mapping[str, _Tensors], index: dict[str, Any], lines: list[str]
) -> int:
    """Enter a step on tensors, and return by how many bytes the weights grow."""
    name = step.names[0]
    holding = [shard.path for shard in checkpoint.shards if name in shard.entries]
    tensor = checkpoint.tensor(name)
    if step.kind == "drop-tensor" and not holding and name in checkpoint.weight_map:
        index["drop"].add(name)
        lines.append(f"- {name} in {checkpoint.index_file}")
        return 0
    if checkpoint.format == "pickle":
        raise TargetError(
            f"{holding[0] if holding else 'the checkpoint'} is a pickle, which only torch writes; save the model as "
            "safetensors first",
            checkpoint.root,
        )
    if len(holding) != 1 or tensor is None:
        where = f"stands in {len(holding)} files" if holding else "is not stored"
        raise TargetError(f"{name} {where}, and is not changed", checkpoint.root)
    shard, form = shards[holding[0]], f"{tensor.dtype} {list(tensor.shape)}  {tensor.file}"
    if step.kind == "drop-tensor":
        shard.drop.add(name)
        index["drop"].add(name)
        lines.append(f"- {name}  {form}")
        return -tensor.nbytes
    new = step.names[1]
    if new in checkpoint:
        raise TargetError(f"{new} is stored already", checkpoint.root)
    if step.kind == "rename-tensor":
        shard.rename[name] = index["rename"][name] = new
        lines += [f"- {name}  {form}", f"+ {new}  {form}"]
        return 0
    shard.copies[new] = name
    index["put"][new] = tensor.file
    lines.append(f"+ {new}  {form}, a copy of {name}")
    return tensor.nbytes


def _text(root: str, name: str) -> str:
    path = path_inside(root, name)
    raw = read_bytes(path, path)
    parse_json(raw, path, path)
    return raw.decode("utf-8")


def _new_index(root: str, name: str, changes: dict[str, Any], grown: int) -> tuple[str, str]:
    """Return an index before and after; the sum of bytes in its metadata follows."""
    before = _text(root, name)
    after = changed_object(before, ("weight_map",), **changes)
    notes = parse_json(before.encode(), name, name).get("metadata")
    total = notes.get("total_size") if isinstance(notes, dict) else None
    if isinstance(total, int) and grown:
        after = changed_object(after, ("metadata",), put={"total_size": total + grown})
    return before, after
