"""Saved optimizer states, however they were written: which entry holds which tensor, and where its bytes lie.

Forms: `torch.save` of a `state_dict()` keyed by numbers or names, a distributed checkpoint's `.metadata`, and
safetensors. Nothing is unpickled.
"""

from __future__ import annotations

import io
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from tiecheck.files.limits import PICKLE_BYTES
from tiecheck.files.local import open_regular, path_inside, read_bytes
from tiecheck.files.pickle.archive import read_torch_file
from tiecheck.files.pickle.machine import UnreadablePickleError
from tiecheck.files.pickle.records import ITEMSIZES, Made, PickledTensor, TorchFile
from tiecheck.files.pickle.unpickling import read_pickle
from tiecheck.records.stored import Comparison, read_entry
from tiecheck.records.words import Unknown
from tiecheck.stored.training_signs import METADATA, ZERO


class Part(NamedTuple):
    """Elements of one tensor that lie one after another on disk."""

    path: str
    start: int
    """Byte of the first element in the file."""
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the elements."""
        return math.prod(self.shape) * ITEMSIZES[self.dtype]


class Moment(NamedTuple):
    """One tensor of an optimizer state."""

    shape: tuple[int, ...]
    locate: Callable[[], tuple[Part, ...] | Unknown]
    """Where its elements lie, in one or more parts."""


class SavedState(NamedTuple):
    """A saved optimizer state."""

    file: str
    """The file, relative to the target."""
    named: Mapping[str, Moment]
    """Where parameters have names: `state.<parameter>.<field>`, or what the file calls it."""
    numbered: Mapping[int, Mapping[str, Moment]]
    """Where they have numbers: number -> field -> tensor."""


def read_state(root: str, file: str, wanted: Iterable[str]) -> SavedState | Unknown:
    """Return a saved optimizer state, as `find_states` gives it, by its headers.

    A distributed checkpoint that names less than two of the wanted parameters is not parsed.
    """
    if re.fullmatch(ZERO, file):
        return Unknown(f"{file} is a state that DeepSpeed has partitioned, which is not read")
    path = path_inside(root, file)
    if os.path.basename(file) == METADATA:
        return _distributed(path, file, tuple(wanted))
    if file.endswith(".safetensors"):
        return _safetensors(path, file)
    saved = read_torch_file(path)
    return saved if isinstance(saved, Unknown) else _torch(saved, file)


def compare_moments(moments: list[Moment], *, exact: bool) -> Comparison | Unknown:
    """Hold some tensors of a state, of one shape, against each other, until some part of them differs."""
    places: list[tuple[Part, ...]] = []
    for moment in moments:
        place = moment.locate()
        if isinstance(place, Unknown):
            return place
        places.append(place)
    layouts = {tuple((part.shape, part.dtype) for part in parts) for parts in places}
    if len(layouts) != 1 or not places[0]:
        return Unknown("the tensors lie in parts of different sizes or types")
    for parts in zip(*places, strict=True):
        comparison = _compare_parts(parts, exact=exact)
        if isinstance(comparison, Unknown) or not comparison.equal:
            break
    return comparison


def _compare_parts(parts: tuple[Part, ...], *, exact: bool) -> Comparison | Unknown:
    from tiecheck.files.compare.equality import compare_spans
    from tiecheck.files.compare.spans import Span

    fds: list[int] = []
    try:
        fds += [open_regular(part.path, part.path) for part in parts]
        spans = [Span(fd, part.start, part.nbytes) for fd, part in zip(fds, parts, strict=True)]
        return compare_spans(spans, parts[0].shape, parts[0].dtype, everywhere=True, exact=exact)
    except (OSError, EOFError) as error:
        return Unknown(f"the bytes cannot be read: {error}")
    finally:
        for fd in fds:
            os.close(fd)


def _moment(saved: TorchFile, tensor: PickledTensor) -> Moment:
    def locate() -> tuple[Part, ...] | Unknown:
        part = _locate(saved, tensor)
        return (part,) if part else Unknown("the bytes of an entry do not lie in one piece")

    return Moment(tensor.shape, locate)


def _locate(saved: TorchFile, tensor: PickledTensor) -> Part | None:
    """Return where a tensor's elements lie, where they lie one after another."""
    start = saved.first_byte(tensor) if tensor.dtype in ITEMSIZES and tensor.contiguous and not tensor.negated else None
    return None if start is None else Part(saved.path, start, tensor.dtype, tensor.shape)


def _torch(saved: TorchFile, file: str) -> SavedState | Unknown:
    """Return the `state_dict()` of an optimizer of torch's, at the top or under one key."""
    levels = [saved.tree, *(saved.tree.values() if isinstance(saved.tree, dict) else ())]
    data = next((d for d in levels if isinstance(d, dict) and {"state", "param_groups"} <= d.keys()), None)
    state = data["state"] if data else None
    if data is None or not isinstance(state, dict):
        return Unknown(f"{file} holds no state of an optimizer of torch's")
    names = _param_names(data["param_groups"])
    named: dict[str, Moment] = {}
    numbered: dict[int, Mapping[str, Moment]] = {}
    for key, fields in state.items():
        if not isinstance(fields, dict):
            continue
        tensors = {
            f: _moment(saved, t) for f, t in fields.items() if isinstance(f, str) and isinstance(t, PickledTensor)
        }
        name = names.get(key, key) if isinstance(key, int) else key
        if isinstance(name, str):
            named.update({f"state.{name}.{field}": moment for field, moment in tensors.items()})
        elif isinstance(name, int):
            numbered[name] = tensors
    if not named and not numbered:
        return Unknown(f"{file} holds no moments (no step was made, or the optimizer keeps none)")
    return SavedState(file, named, numbered)


def _param_names(groups: Any) -> dict[int, str]:
    """Number -> name, where the optimizer was given named parameters (torch 2.6 and later)."""
    names: dict[int, str] = {}
    for group in groups if isinstance(groups, list) else ():
        numbers, given = (group.get("params"), group.get("param_names")) if isinstance(group, dict) else (None, None)
        if isinstance(numbers, list) and isinstance(given, list) and len(numbers) == len(given):
            names.update({k: v for k, v in zip(numbers, given, strict=True) if type(k) is int and isinstance(v, str)})
    return names


def _safetensors(path: str, file: str) -> SavedState:
    from tiecheck.files.safetensors.header import read_shard

    shard = read_shard(path, file)
    named = {}
    for name, entry in shard.entries.items():
        dtype, shape, start, _ = read_entry(entry)
        place = Part(path, shard.data_start + start, dtype, shape) if dtype in ITEMSIZES else None
        answer = (place,) if place else Unknown(f"elements of {dtype} are not looked at")
        named[name] = Moment(shape, lambda answer=answer: answer)  # type: ignore[misc]  # bound now, since it is a loop
    return SavedState(file, named, {})


def _distributed(path: str, file: str, wanted: tuple[str, ...]) -> SavedState | Unknown:
    """Return a distributed checkpoint by its `.metadata`, a pickle of dataclasses (torch 2.13)."""
    raw = read_bytes(path, path, PICKLE_BYTES)
    if not raw.startswith(b"\x80"):
        return Unknown(f"{file} is no metadata of a distributed checkpoint: it is no pickle")
    if b"state." not in raw or sum(name.encode() in raw for name in wanted) < 2:
        return SavedState(file, {}, {})
    try:
        metadata = read_pickle(io.BytesIO(raw), label=path)
    except UnreadablePickleError as error:
        return Unknown(f"{file} was not read: {error}")
    fields = metadata.fields if isinstance(metadata, Made) else {}
    shapes, storage = fields.get("state_dict_metadata"), fields.get("storage_data")
    if not isinstance(shapes, dict) or not isinstance(storage, dict):
        return Unknown(f"{file} is no metadata of a distributed checkpoint that is known")
    parts: dict[str, list[tuple[tuple[int, ...], Made]]] = {}
    for index, place in storage.items():
        if isinstance(index, Made) and isinstance(place, Made):
            offset = index.fields.get("offset")
            begin = offset if isinstance(offset, tuple) and all(isinstance(n, int) for n in offset) else ()
            parts.setdefault(str(index.fields.get("fqn")), []).append((begin, place))
    folder = os.path.dirname(path)
    named = {}
    for key, about in shapes.items():
        size = about.fields.get("size") if isinstance(about, Made) else None
        if isinstance(key, str) and isinstance(size, tuple):
            named[key] = Moment(size, lambda key=key: _items(folder, parts.get(key, [])))  # type: ignore[misc]
    return SavedState(file, named, {})


def _items(folder: str, parts: list[tuple[tuple[int, ...], Made]]) -> tuple[Part, ...] | Unknown:
    """Where the parts of one tensor of a distributed checkpoint lie, each a `torch.save` within a larger file."""
    found = []
    for _, place in sorted(parts, key=lambda part: part[0]):
        match place.fields:
            case {"relative_path": str(name), "offset": int(start), "length": int(length)} if (
                name.isprintable() and not place.fields.get("transform_descriptors")
            ):
                item = read_torch_file(path_inside(folder, name), start, length)
            case _:
                return Unknown("the distributed checkpoint is compressed, or of another version")
        if isinstance(item, Unknown):
            return item
        stored = _locate(item, item.tree) if isinstance(item.tree, PickledTensor) else None
        if stored is None:
            return Unknown("the bytes of an entry do not lie in one piece")
        found.append(stored)
    return tuple(found) if found else Unknown("the distributed checkpoint does not say where the entry lies")
