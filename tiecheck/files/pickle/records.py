"""What pickles of `torch.save` are made of, as plain records: nothing of it is a tensor, and nothing was called."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from tiecheck.files.safetensors.soundness import BITS
from tiecheck.records.stored import TORCH_DTYPES


class Global(NamedTuple):
    """A name that the pickle asks for, and that is not imported."""

    module: str
    """The module."""
    name: str
    """The attribute in it."""


class Made:
    """An object that unpickling would have made by a call."""

    __slots__ = ("args", "function", "state")

    def __init__(self, function: Any, args: Any) -> None:
        self.function = function
        self.args = args
        self.state: Any = None

    @property
    def fields(self) -> Mapping[Any, Any]:
        """The attributes the object would have got, as the pickle of a dataclass gives them."""
        return self.state if isinstance(self.state, dict) else {}


class Storage(NamedTuple):
    """The memory a pickled tensor lies in."""

    key: str
    """Its name in the file: one key, one memory."""
    dtype: str | None
    """Element type, torch's word; None for an untyped storage, whose tensors say it."""
    numel: int
    """Elements; bytes for an untyped storage."""


class PickledTensor(NamedTuple):
    """A tensor of `torch.save`, by what the pickle says of it."""

    storage: Storage
    """Its memory."""
    dtype: str
    """Element type, torch's word."""
    shape: tuple[int, ...]
    """Shape."""
    offset: int
    """Elements from the storage's beginning."""
    stride: tuple[int, ...]
    """Stride in elements."""

    @property
    def slot(self) -> tuple[object, ...]:
        """Equal for two tensors exactly when they are the same elements of one memory."""
        return (self.storage.key, self.offset, self.shape, self.stride, self.dtype)

    @property
    def contiguous(self) -> bool:
        """Whether the elements lie one after another, row-major."""
        step = 1
        for size, stride in zip(reversed(self.shape), reversed(self.stride), strict=True):
            if size != 1 and stride != step:
                return False
            step *= size
        return True


DTYPES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
}
"""torch's legacy storage classes, which torch 2.13 still writes, -> the dtype of their elements."""

ITEMSIZES = {TORCH_DTYPES[word]: bits // 8 for word, bits in BITS.items() if word in TORCH_DTYPES} | {"complex128": 16}
"""Bytes of an element; the bytes of a tensor of another type are not looked at."""
