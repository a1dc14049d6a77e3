"""Several weight layouts in one directory, a vendor's own among them: what each says of each tie.

Pickles are read without running them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

from tiecheck.errors import TargetError
from tiecheck.files.checkpoint import STANDARD_NAMES, read_checkpoint
from tiecheck.files.compare.equality import compare_bytes, compare_opened
from tiecheck.files.compare.spans import OpaqueError, opened_members
from tiecheck.files.local import path_inside
from tiecheck.files.model_config import VENDOR_NAME
from tiecheck.records.declared import VENDOR_FLAG, Architecture, ModelConfig, TieSpec
from tiecheck.records.files import LayoutGroup, LayoutView, LoadProblem
from tiecheck.records.stored import Checkpoint, Group, StorageSlot, StoredTensor
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
    result = compare_bytes(layout, tensors)
    if isinstance(result, Unknown):
        return "unknown", result.reason
    return ("copy" if result.equal else "separate"), None


EMBEDDING, HEAD = "tok_embeddings.weight", "output.weight"
"""Names of embedding and head in the files of Meta and Mistral (`consolidated.safetensors`, `consolidated.00.pth`)."""

OURS = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight")
"""Ends of the names that transformers has for it."""


def vendor_architecture(config: ModelConfig) -> Architecture | None:
    """Return what `params.json` declares of embedding and head, by vLLM's reader; None where it says nothing."""
    if config.path != VENDOR_NAME or not isinstance(config.data.get(VENDOR_FLAG), bool):
        return None
    tie = TieSpec((HEAD, EMBEDDING), EMBEDDING, "parameter", False, True, False, (), True, {}, VENDOR_FLAG)
    origin = "vllm 0.33 (transformers_utils/configs/mistral.py)"
    return Architecture(None, True, (tie,), origin, None, embedding=EMBEDDING, head=HEAD)


def vendor_problems(directory: str, names: list[str], checkpoint: Checkpoint) -> Iterator[LoadProblem]:
    """Yield each file of a vendor's format that holds another token embedding than the weights that were read."""
    if checkpoint.format != "safetensors":
        return
    for file in sorted(
        name for name in names if name.startswith("consolidated") and name.endswith((".safetensors", ".pth"))
    ):
        if any(shard.path == file for shard in checkpoint.shards):
            continue
        try:
            other = read_checkpoint(path_inside(directory, file))
        except TargetError:
            continue
        theirs = other.tensor(EMBEDDING) if other is not None else None
        ours = _embedding(checkpoint, theirs) if theirs is not None else None
        if other is None or theirs is None or ours is None:
            continue
        if not _alike(checkpoint, ours, other, theirs):
            yield LoadProblem(
                kind="vendor",
                versions=(),
                outcome="kept-apart",
                message="another embedding than the one that transformers loads",
                why=f"{file} holds {EMBEDDING} with other values than {ours.name} in {ours.file}: who reads the "
                "vendor's format gets another model than transformers gives",
                file=file,
                no_mend="which of the two is right is not written in them; write the stale one anew, or take it away.",
                names=(ours.name, EMBEDDING),
            )


def _alike(ours: Checkpoint, tensor: StoredTensor, theirs: Checkpoint, other: StoredTensor) -> bool:
    """Return False where the bytes of two tensors differ, each in a format of its own; True where they are not told."""
    try:
        with opened_members(ours, (tensor,)) as first, opened_members(theirs, (other,)) as second:
            return compare_opened([*first, *second], tensor, exact=False).alike
    except (OpaqueError, OSError, EOFError):
        return True


def _embedding(checkpoint: Checkpoint, like: StoredTensor) -> StoredTensor | None:
    """Return the token embedding of the weights that were read, where it has the shape and type of another."""
    found = (checkpoint.tensor(name) for name in checkpoint.names() if name.endswith(OURS))
    return next((t for t in found if t is not None and (t.shape, t.dtype) == (like.shape, like.dtype)), None)
