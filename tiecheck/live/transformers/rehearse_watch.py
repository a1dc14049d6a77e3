"""Watch one `from_pretrained` of transformers on meta: what it hands out, loads, makes anew and compares.

Like `rehearse_child.py`, which it is the other half of, it imports nothing else of tiecheck and runs under Python 3.9.
"""

from __future__ import annotations

import os
import zipfile
from typing import Any

if __name__ == "rehearse_watch":  # beside a child that is run by its path
    from rehearse_bounds import OutsideError, real_inside  # type: ignore[import-not-found]
else:
    from tiecheck.live.transformers.rehearse_bounds import OutsideError, real_inside

CHUNK = 1 << 24
"""Bytes of a tensor that are compared at a time."""


class MetaFile:
    """A safetensors file whose header the library reads as always, and whose tensors come out on meta."""

    def __init__(self, watch: Watch, path: Any) -> None:
        self._watch, self._path = watch, watch.inside(path)
        self._file = watch.safe_open(path, framework="pt")

    def __enter__(self) -> MetaFile:  # noqa: PYI034 - Python 3.9 has no Self
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def get_slice(self, name: str) -> MetaSlice:
        """Return a tensor that is not read, and note that it was handed out."""
        self._watch.files[name] = self._path
        return MetaSlice(self._file.get_slice(name), self._watch.dtypes)

    def get_tensor(self, name: str) -> Any:
        """Return a whole tensor on meta."""
        return self.get_slice(name)[...]


class MetaSlice:
    """A stored tensor by its header: dtype and shape as the file says, elements never read."""

    def __init__(self, stored: Any, dtypes: Any) -> None:
        self._stored, self._dtypes = stored, dtypes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stored, name)

    def __getitem__(self, key: Any) -> Any:
        import torch

        word = self._stored.get_dtype()
        if word not in self._dtypes:
            raise ValueError(f"Cannot load safetensors of unknown dtype {word}")
        return torch.empty(self._stored.get_shape(), dtype=self._dtypes[word], device="meta")[key]


class Watch:
    """One load, watched: what was handed out, what came to hold it, what was made anew."""

    def __init__(self, directory: str, values: bool, modeling: Any) -> None:
        self.root, self.values = os.path.realpath(directory), values
        self.safe_open, self.dtypes = modeling.safe_open, modeling.str_to_torch_dtype
        self.files: dict[str, str] = {}
        self.origin: dict[int, tuple[list[str], bool]] = {}
        self.at_load: dict[str, int] = {}
        self.memory: dict[int, int] = {}
        self.moved: set[int] = set()
        self.undecided: list[tuple[int, int]] = []
        self.current: tuple[list[str], bool] = ([], False)
        self._kept: dict[int, Any] = {}  # an id is a name only while its object lives
        self._compared: dict[tuple[int, int], bool | None] = {}
        self._pickles: dict[str, Any] = {}

    def inside(self, path: Any) -> str:
        """Return the real path of a weights file; the hub cache's links from `snapshots` to `blobs` are inside."""
        real: str | None = real_inside(self.root, path)
        if real is None:
            raise OutsideError(f"{path} lies outside of the directory, and is not read")
        return real

    def open(self, path: Any) -> MetaFile:
        """Open a safetensors file whose tensors come out on meta."""
        return MetaFile(self, path)

    def loaded(self, name: str, value: Any, origin: tuple[list[str], bool]) -> None:
        """Note that a parameter came to hold stored tensors."""
        self._kept[id(value)] = value
        self.origin[id(value)], self.at_load[name] = origin, id(value)
        self.memory[id(value)] = 0 if value.is_meta else value.data_ptr()

    def made_anew(self, value: Any) -> None:
        """Note that a parameter was not stored and is initialised."""
        self._kept[id(value)] = value
        self.moved.add(id(value))

    def equal(self, one: int, other: int, exactly: bool = True) -> bool | None:
        """Compare two loaded parameters by the bytes they stand for, cast as they are; None where that was not read."""
        pair = min(one, other), max(one, other)
        if self._compared.get(pair):
            return True
        one_stored, other_stored = (self._stored(number) if self.values else None for number in pair)
        told = None
        if one_stored is not None and other_stored is not None:
            told = same_values(one_stored, other_stored, exactly)
        self._compared[pair] = told
        return told

    def _stored(self, number: int) -> tuple[Any, Any] | None:
        """Return a stored tensor that can be sliced, and the dtype it is loaded in."""
        names, exact = self.origin.get(number, ([], False))
        if not exact or names[0] not in self.files:
            return None
        path, value = self.files[names[0]], self._kept[number]
        if not path.endswith(".safetensors"):
            import torch

            if path not in self._pickles:
                whole = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
                self._pickles = {path: whole}
            return self._pickles[path][names[0]], value.dtype
        return self.safe_open(path, framework="pt").get_slice(names[0]), value.dtype


def same_values(one: tuple[Any, Any], other: tuple[Any, Any], exactly: bool) -> bool:
    """Compare two stored tensors after the cast, as `torch.equal` does; else with NaN alike: nothing is lost then."""
    shapes = [tuple(t.get_shape() if hasattr(t, "get_shape") else t.shape) for t, _ in (one, other)]
    if shapes[0] != shapes[1]:
        return False
    width = 8
    for size in shapes[0][1:]:
        width *= size
    step = max(1, CHUNK // max(1, width))
    keys = [slice(i, i + step) for i in range(0, shapes[0][0], step)] if shapes[0] else [...]
    for key in keys:
        a, b = (tensor[key].to(dtype) for tensor, dtype in (one, other))
        alike = a == b
        if not exactly:
            alike = alike | (a.isnan() & b.isnan())
        if not bool(alike.all()):
            return False
    return True
