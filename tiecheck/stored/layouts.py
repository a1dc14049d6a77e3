"""Several weight layouts in one directory: what each says of each tie. Pickles are read without running them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Literal

from tiecheck.errors import TargetError
from tiecheck.files.checkpoint import STANDARD_NAMES, read_checkpoint
from tiecheck.records.declared import Architecture
from tiecheck.records.files import LayoutGroup, LayoutView
from tiecheck.records.stored import Checkpoint, Group, StorageSlot
from tiecheck.records.words import Kind, Unknown

Values = Literal["auto", "never", "always"]

SHARED = 64
"""Groups of names that share memory in a pickle which are looked at beside the known ties."""


def find_layouts(names: Iterable[str]) -> tuple[str, ...]:
    """Return the standard names in a directory, the one that `from_pretrained` takes first."""
    there = set(names)
    return tuple(name for name in STANDARD_NAMES if name in there)


def layout_groups(
    root: str, files: tuple[str, ...], groups: tuple[Group, ...], architecture: Architecture, values: Values
) -> tuple[LayoutGroup | Unknown, ...]:
    """Return each known tie, and each one that a pickle's shared memory makes, as every layout stores it."""
    layouts: list[tuple[str, Checkpoint]] = []
    answers: list[LayoutGroup | Unknown] = []
    for file in files:
        layout = _read(root, file)
        if isinstance(layout, Unknown):
            answers.append(layout)
        else:
            layouts.append((file, layout))
    if len(layouts) < 2:
        return tuple(answers)
    spellings = {name: other for spec in architecture.ties for name, other in spec.spellings.items()}
    known = [(group.names, group.declared) for group in groups]
    members = {name for group in groups for name in group.names}
    for names, declared in [*known, *_shared(layouts, members)]:
        views = tuple(_view(file, layout, names, spellings, values) for file, layout in layouts)
        answers.append(LayoutGroup(names, declared, views))
    return tuple(answers)


def _read(root: str, file: str) -> Checkpoint | Unknown:
    try:
        checkpoint = read_checkpoint(os.path.join(root, file))
    except TargetError as error:
        return Unknown(str(error).replace(os.path.join(root, ""), ""))  # a report names files relative to the target
    if checkpoint is None or checkpoint.missing_files:
        return Unknown(f"not all files of {file} are here")
    return checkpoint


def _shared(layouts: list[tuple[str, Checkpoint]], known: set[str]) -> list[tuple[tuple[str, ...], None]]:
    """Return the names that are one memory in some pickle and no known tie."""
    found: dict[tuple[str, ...], None] = {}
    for _, layout in layouts:
        places: dict[tuple[StorageSlot, object], list[str]] = {}
        for name, slot in layout.slots.items():
            tensor = layout.tensor(name) if name not in known else None
            if tensor is not None:
                places.setdefault((slot, (tensor.shape, tensor.dtype)), []).append(name)
        found.update({tuple(sorted(names)): None for names in places.values() if len(names) > 1})
    return [(names, None) for names in sorted(found)[:SHARED]]


def _view(
    file: str, layout: Checkpoint, names: tuple[str, ...], spellings: Mapping[str, tuple[str, ...]], values: Values
) -> LayoutView:
    found: dict[str, None] = {}
    for name in names:
        spelt = next((n for n in (name, *spellings.get(name, ())) if n in layout and n not in found), None)
        if spelt is not None:
            found[spelt] = None
    stored = tuple(sorted(found))
    if len(stored) < 2:
        return LayoutView(file, "absent", stored, None)
    kind, reason = _kind(layout, stored, values)
    return LayoutView(file, kind, stored, reason)


def _kind(layout: Checkpoint, names: tuple[str, ...], values: Values) -> tuple[Kind, str | None]:
    """Return how a layout stores some names, and the reason where that is not known."""
    tensors = tuple(t for t in map(layout.tensor, names) if t is not None)
    if len({(t.dtype, t.shape) for t in tensors}) != 1:
        return "separate", None
    slots = {layout.slots.get(name) for name in names}
    if len(slots) == 1 and None not in slots:
        return "storage", None
    if values == "never":
        return "unknown", "the bytes were not to be read (--values never)"
    from tiecheck.files.compare.equality import compare_bytes

    result = compare_bytes(layout, tensors)
    if isinstance(result, Unknown):
        return "unknown", result.reason
    return ("copy" if result.equal else "separate"), None
