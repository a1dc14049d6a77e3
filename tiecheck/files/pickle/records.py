"""Plain records of what a pickle of `torch.save` holds, and torch's own names in one: nothing is imported or called."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any, NamedTuple

from tiecheck.files.safetensors.soundness import BITS
from tiecheck.records.stored import TORCH_DTYPES


class Global(NamedTuple):
    """A name that the pickle asks for, and that is not imported."""

    module: str
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
    nbytes: int
    old: bool = False
    """True where its id has a sixth value, as in the form before torch 1.6."""


class OrderedState(dict[Any, Any]):
    """An `OrderedDict` of the pickle; a plain dict otherwise, but that it may be built."""


class PickledTensor(NamedTuple):
    """A tensor of `torch.save`, by what the pickle says of it."""

    storage: Storage | None
    """Its memory; None for one that is not laid out by offset and stride."""
    dtype: str
    """Element type, torch's word."""
    shape: tuple[int, ...]
    offset: int = 0
    """Elements from the storage's beginning."""
    stride: tuple[int, ...] = ()
    """Stride in elements."""
    negated: frozenset[str] = frozenset()
    """Parts whose sign is the other one than the memory has: `conj` (the imaginary part), `neg` (all of it)."""
    opaque: str = ""
    """Reason why its bytes cannot be looked at one by one, as the end of "it ..."; else empty."""

    @property
    def nbytes(self) -> int:
        """Bytes of the elements, each index counted."""
        return prod(self.shape) * ITEMSIZES.get(self.dtype, 0)

    @property
    def contiguous(self) -> bool:
        """True where the elements lie one after another, row-major."""
        step = 1
        if self.opaque:
            return False
        for size, stride in zip(reversed(self.shape), reversed(self.stride), strict=True):
            if size != 1 and stride != step:
                return False
            step *= size
        return True

    @property
    def end(self) -> int:
        """Byte of its storage behind the last element; 0 where there is no element."""
        if not prod(self.shape):
            return 0
        last = self.offset + sum((size - 1) * stride for size, stride in zip(self.shape, self.stride, strict=True))
        return (last + 1) * ITEMSIZES.get(self.dtype, 0)


class StoragePlace(NamedTuple):
    """Where a storage lies."""

    start: int | None
    """Byte of the file; None where the archive holds it compressed."""
    nbytes: int
    """Its bytes there."""


class TorchFile(NamedTuple):
    """The content of a file of `torch.save`."""

    path: str
    tree: Any
    """The pickled object, as plain data with `PickledTensor` and `Made` in it."""
    storages: Mapping[str, Storage]
    """Key -> storage, each that the pickle mentions."""
    places: Mapping[str, StoragePlace]
    """Key of a storage -> where it lies."""

    def first_byte(self, tensor: PickledTensor) -> int | None:
        """Return the byte of the file at which a tensor's first element lies; None where it is not there as it is."""
        place = self.places.get(tensor.storage.key) if tensor.storage else None
        if place is None or place.start is None or tensor.end > place.nbytes:
            return None
        return place.start + tensor.offset * ITEMSIZES.get(tensor.dtype, 0)


STORAGES = {
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
    "QInt8Storage": "qint8",
    "QInt32Storage": "qint32",
    "QUInt8Storage": "quint8",
    "QUInt4x2Storage": "quint4x2",
    "QUInt2x4Storage": "quint2x4",
}
"""torch's legacy storage classes, which torch 2.13 still writes, -> the dtype of their elements."""

_RARE = {"complex128": 16, "complex32": 4, "qint32": 4, "bits16": 2} | dict.fromkeys(
    ("qint8", "quint8", "quint4x2", "quint2x4", "float4_e2m1fn_x2", "bits8", "bits1x8", "bits2x4", "bits4x2"), 1
)

ITEMSIZES = {TORCH_DTYPES[word]: bits // 8 for word, bits in BITS.items() if word in TORCH_DTYPES} | _RARE
"""Bytes of an element of each dtype of torch 2.13 that a tensor can have."""

_PLAIN = [word.removesuffix("Storage") for word, dtype in STORAGES.items() if not dtype.startswith("q")]
_REAL = [word for word in _PLAIN if "Complex" not in word]

FIELDS = frozenset(
    (
        *("H", "T", "mH", "mT", "real", "imag", "data", "grad", "name", "shape", "ndim", "dtype", "device", "layout"),
        *("nbytes", "itemsize", "output_nr", "volatile", "requires_grad", "retains_grad", "grad_fn", "grad_dtype"),
        *(
            "is_cpu",
            "is_cuda",
            "is_ipu",
            "is_leaf",
            "is_maia",
            "is_meta",
            "is_mkldnn",
            "is_mps",
            "is_mtia",
            "is_nested",
        ),
        *("is_quantized", "is_sparse", "is_sparse_csr", "is_vulkan", "is_xla", "is_xpu", "__class__", "__dict__"),
        *("__weakref__", "__cuda_array_interface__", "_backward_hooks", "_base", "_cdata", "_grad", "_grad_fn"),
        *("_has_symbolic_sizes_strides", "_post_accumulate_grad_hooks", "_python_dispatch", "_version"),
    )
)
"""Fields of a tensor of torch 2.13 that are no plain attributes: a state that sets one is refused, or changes it."""

ARITIES: Mapping[str, tuple[int, ...]] = {
    "_rebuild_tensor": (4,),
    "_rebuild_tensor_v2": (6, 7),
    "_rebuild_tensor_v3": (7, 8),
    "_rebuild_parameter": (3,),
    "_rebuild_parameter_with_state": (4,),
    "_rebuild_qtensor": (6, 7),
    "_rebuild_sparse_tensor": (2,),
    "_rebuild_meta_tensor_no_storage": (4,),
    "_rebuild_nested_tensor": (4,),
    "_rebuild_device_tensor_from_numpy": (4,),
    "_rebuild_device_tensor_from_cpu_tensor": (4,),
}
"""Function of `torch._utils` -> the numbers of arguments it takes (torch 2.13)."""

ALLOWED = frozenset(
    (
        *("collections.OrderedDict", "collections.Counter", "_codecs.encode"),
        *("builtins.bytearray", "builtins.set", "builtins.complex"),
        *("torch.nn.parameter.Parameter", "torch.serialization._get_layout", "torch.Size", "torch.Tensor"),
        *("torch.device", "torch.storage.TypedStorage", "torch.storage.UntypedStorage"),
        *("torch._tensor._rebuild_from_type_v2", "torch._utils._rebuild_wrapper_subclass"),
        *(f"torch._utils.{name}" for name in ARITIES),
        *(f"torch.{word}" for word in ITEMSIZES),
        *(f"torch.{sign}int{bits}" for sign in ("", "u") for bits in range(1, 8)),
        *(f"torch.{word}" for word in STORAGES),
        *(f"torch.cuda.{word}Storage" for word in _PLAIN),
        *(f"torch.{device}{word}Tensor" for device in ("", "cuda.") for word in _REAL),
        *(f"torch.{device}sparse.{word}Tensor" for device in ("", "cuda.") for word in _REAL if word != "Bool"),
        *(f"torch.per_{what}" for what in ("tensor_affine", "tensor_symmetric", "channel_affine")),
        *("torch.per_channel_symmetric", "torch.per_channel_affine_float_qparams"),
    )
)
"""Names that `torch.load(weights_only=True)` lets a pickle ask for (torch 2.13, `_get_allowed_globals`)."""

SAFE_OPERATIONS = frozenset(
    (
        *("GLOBAL", "NEWOBJ", "REDUCE", "BUILD", "APPEND", "APPENDS", "SETITEM", "SETITEMS", "MARK", "TUPLE"),
        *("TUPLE1", "TUPLE2", "TUPLE3", "NONE", "NEWFALSE", "NEWTRUE", "EMPTY_TUPLE", "EMPTY_LIST", "EMPTY_DICT"),
        *("EMPTY_SET", "BININT", "BININT1", "BININT2", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING", "BINPERSID"),
        *("BINGET", "LONG_BINGET", "BINPUT", "LONG_BINPUT", "LONG1", "PROTO", "STOP"),
    )
)
"""Operations that `torch.load(weights_only=True)` follows (torch 2.13, `_weights_only_unpickler`)."""
