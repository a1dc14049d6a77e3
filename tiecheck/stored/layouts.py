"""Several weight layouts in one directory: what each says of each tie. Pickles are read without running them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

from tiecheck.errors import TargetError
from tiecheck.files.checkpoint import INDEX_ENDING, STANDARD_NAMES, read_checkpoint
from tiecheck.files.local import inside, parse_json, read_bytes
from tiecheck.files.pickle.archive import TorchFile, compare_stored, read_torch_file
from tiecheck.files.pickle.records import PickledTensor
from tiecheck.records.declared import Architecture
from tiecheck.records.files import LayoutGroup, LayoutView
from tiecheck.records.stored import Checkpoint, Group
from tiecheck.records.words import Kind, Unknown

Values = Literal["auto", "never", "always"]

SHARED = 64
"""Groups of names that share memory in a pickle which are looked at beside the known ties."""


class _Pickled(NamedTuple):
    """A pickled layout: name -> the file that holds it and its tensor."""

    file: str
    tensors: Mapping[str, tuple[TorchFile, PickledTensor]]


_Layout = Checkpoint | _Pickled


def find_layouts(names: Iterable[str]) -> tuple[str, ...]:
    """The standard names in a directory, the one that `from_pretrained` takes first."""
    there = set(names)
    return tuple(name for name in STANDARD_NAMES if name in there)


def layout_groups(
    root: str, files: tuple[str, ...], groups: tuple[Group, ...], architecture: Architecture, values: Values
) -> tuple[LayoutGroup | Unknown, ...]:
    """Each known tie, and each one that a pickle's shared memory makes, as every layout stores it.

    Args:
        root: The directory.
        files: The layouts, as `find_layouts` gives them.
        groups: The ties that are known.
        architecture: Says under which other names the class finds a member.
        values: Whether bytes may be read.
    """
    layouts: list[tuple[str, _Layout]] = []
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


def _read(root: str, file: str) -> _Layout | Unknown:
    try:
        if ".safetensors" not in file:
            return _pickled(root, file)
        checkpoint = read_checkpoint(os.path.join(root, file))
    except TargetError as error:
        return Unknown(str(error))
    if checkpoint is None or checkpoint.missing_files:
        return Unknown(f"not all files of {file} are here")
    return checkpoint


def _pickled(root: str, file: str) -> _Pickled | Unknown:
    """A pickled state dict, or the shards that its index names."""
    files = [file]
    if file.endswith(INDEX_ENDING):
        path = inside(root, file)
        data = parse_json(read_bytes(path, path), file, path)
        weight_map = data.get("weight_map") if isinstance(data, dict) else None
        if not isinstance(weight_map, dict) or not all(isinstance(v, str) for v in weight_map.values()):
            return Unknown(f"{file} is no index")
        files = sorted(set(weight_map.values()))
    tensors = {}
    for name in files:
        saved = read_torch_file(inside(root, name))
        if isinstance(saved, Unknown):
            return saved
        named = saved.tree.items() if isinstance(saved.tree, dict) else ()
        tensors.update({k: (saved, v) for k, v in named if isinstance(k, str) and isinstance(v, PickledTensor)})
    return _Pickled(file, tensors) if tensors else Unknown(f"{file} holds no named tensors that can be read")


def _shared(layouts: list[tuple[str, _Layout]], known: set[str]) -> list[tuple[tuple[str, ...], None]]:
    """Names that are one memory in some pickle and no known tie."""
    found: dict[tuple[str, ...], None] = {}
    for _, layout in layouts:
        slots: dict[tuple[object, ...], list[str]] = {}
        for name, (saved, tensor) in layout.tensors.items() if isinstance(layout, _Pickled) else ():
            if name not in known:
                slots.setdefault((saved.path, *tensor.slot), []).append(name)
        found.update({tuple(sorted(names)): None for names in slots.values() if len(names) > 1})
    return [(names, None) for names in sorted(found)[:SHARED]]


def _view(
    file: str, layout: _Layout, names: tuple[str, ...], spellings: Mapping[str, tuple[str, ...]], values: Values
) -> LayoutView:
    there = layout if isinstance(layout, Checkpoint) else layout.tensors
    found: dict[str, None] = {}
    for name in names:
        spelt = next((n for n in (name, *spellings.get(name, ())) if n in there and n not in found), None)
        if spelt is not None:
            found[spelt] = None
    stored = tuple(sorted(found))
    if len(stored) < 2:
        return LayoutView(file, "absent", stored, None)
    if isinstance(layout, Checkpoint):
        kind, reason = _safetensors_kind(layout, stored, values)
    else:
        kind, reason = _pickled_kind([layout.tensors[name] for name in stored], values)
    return LayoutView(file, kind, stored, reason)


def _safetensors_kind(checkpoint: Checkpoint, names: tuple[str, ...], values: Values) -> tuple[Kind, str | None]:
    tensors = tuple(t for t in map(checkpoint.tensor, names) if t is not None)
    if len({(t.dtype, t.shape) for t in tensors}) != 1:
        return "separate", None
    if values == "never":
        return "unknown", "the bytes were not to be read (--values never)"
    from tiecheck.files.compare.equality import compare

    result = compare(checkpoint, tensors)
    return ("unknown", result.reason) if isinstance(result, Unknown) else _word(equal=result.equal)


def _pickled_kind(members: list[tuple[TorchFile, PickledTensor]], values: Values) -> tuple[Kind, str | None]:
    if len({(saved.path, *tensor.slot) for saved, tensor in members}) == 1:
        return "storage", None
    if len({(tensor.dtype, tensor.shape) for _, tensor in members}) != 1:
        return "separate", None
    if values == "never":
        return "unknown", "the bytes were not to be read (--values never)"
    places = [saved.locate(tensor) for saved, tensor in members]
    found = [(place,) for place in places if place is not None]
    if len(found) < len(places):
        return "unknown", "the bytes of a pickled member do not lie in one piece"
    result = compare_stored(found, exact=False)
    return ("unknown", result.reason) if isinstance(result, Unknown) else _word(equal=result.equal)


def _word(*, equal: bool) -> tuple[Kind, str | None]:
    return ("copy" if equal else "separate"), None
