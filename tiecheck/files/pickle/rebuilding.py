"""Tensors and storages out of the calls by which `torch.save` writes them: what torch 2.13 would make of each."""

from __future__ import annotations

from typing import Any

from tiecheck.files.pickle.records import (
    FIELDS,
    ITEMSIZES,
    STORAGES,
    Global,
    Made,
    OrderedState,
    PickledTensor,
    Storage,
)

ARGUMENTS = 8
"""Arguments of a call that are looked at; torch 2.13 writes seven."""

DIMENSIONS = 64
"""Dimensions of a tensor that are looked at; torch 2.13 allows 64."""

META = "was saved from the meta device, without values"
SPARSE = "is sparse or quantised"

_SIGNS = frozenset(("conj", "neg"))
"""Keys of a tensor's metadata (torch 2.13, `get_tensor_metadata`)."""


def persistent_storage(identifier: tuple[Any, ...]) -> Storage | None:
    """Return the storage behind a persistent id: ("storage", type, key, device, elements), and None in old files.

    A sixth value is the view of another storage that torch before 0.4 wrote; such a storage is not read.
    """
    match identifier:
        case ("storage", Global(_, kind), str(key), str(), int(numel), *view) if 0 <= numel < 1 << 63:
            dtype = STORAGES.get(kind)
            if (dtype is not None or kind == "UntypedStorage") and view in ([], [None]):
                return Storage(key, dtype, numel * ITEMSIZES[dtype] if dtype else numel, bool(view))
    return None


def _rebuilt_tensor(name: str, args: tuple[Any, ...]) -> PickledTensor | None:
    """Return the tensor that a function of `torch._utils` or `torch._tensor` would make; None for one not known."""
    match name, args:
        case "_rebuild_parameter", (PickledTensor() as tensor, grad, _) if _may_learn(tensor, grad):
            return tensor
        case "_rebuild_parameter_with_state", (PickledTensor() as tensor, grad, _, state) if _may_learn(
            tensor, grad
        ) and _attributes(state):
            return tensor
        case "_rebuild_from_type_v2", (
            Global("torch._utils", function),
            Global(_, "Tensor" | "Parameter"),
            tuple(inner),
            state,
        ) if function != "_rebuild_from_type_v2" and _attributes(state):
            return _rebuilt_tensor(function, inner)
        case (
            ("_rebuild_tensor_v2" | "_rebuild_tensor"),
            (Storage(_, str(dtype)) as storage, int(offset), tuple(shape), tuple(stride), *rest),
        ) if len(rest) in ((0,) if name == "_rebuild_tensor" else (2, 3)):
            tensor = PickledTensor(storage, dtype, shape, offset, stride)
            return _strided(tensor, rest[2:]) if not rest or _may_learn(tensor, rest[0]) else None
        case "_rebuild_tensor_v3", (
            Storage() as storage,
            int(offset),
            tuple(shape),
            tuple(stride),
            needs_grad,
            _,
            Global("torch", dtype),
            *rest,
        ) if dtype in ITEMSIZES and needs_grad is False and len(rest) < 2:  # True torch 2.13 writes and fails to read
            return _strided(PickledTensor(storage, dtype, shape, offset, stride), rest)
    return _valueless(name, args)


def _strided(tensor: PickledTensor, metadata: list[Any]) -> PickledTensor | None:
    """Return a tensor over a storage, where its numbers belong together and nothing unknown is said of it."""
    if not _sizes(tensor.offset, *tensor.shape, *tensor.stride) or len(tensor.shape) != len(tensor.stride):
        return None
    said = metadata[0] if metadata and metadata[0] else {}
    if not isinstance(said, dict) or not said.keys() <= _SIGNS:
        return None
    return tensor._replace(negated=frozenset(key for key, value in said.items() if value)) if said else tensor


def _valueless(name: str, args: tuple[Any, ...]) -> PickledTensor | None:
    """Return a tensor that is no plain memory, by dtype and shape alone."""
    match name, args:
        case "_rebuild_meta_tensor_no_storage", (Global("torch", dtype), tuple(shape), tuple(), _) if _sizes(*shape):
            return PickledTensor(None, dtype, shape, opaque=META) if dtype in ITEMSIZES else None
        case "_rebuild_qtensor", (Storage(_, str(dtype)), int(), tuple(shape), *_) if _sizes(*shape):
            return PickledTensor(None, dtype, shape, opaque=SPARSE)
        case "_rebuild_sparse_tensor", (Made() as layout, tuple(data)):
            match layout.args, data:
                case ("torch.sparse_coo",), (_, PickledTensor() as values, tuple(shape), *_) if _sizes(*shape):
                    return PickledTensor(None, values.dtype, shape, opaque=SPARSE)
                case (str(),), (_, _, PickledTensor() as values, tuple(shape)) if _sizes(*shape):
                    return PickledTensor(None, values.dtype, shape, opaque=SPARSE)
    return None


def _may_learn(tensor: PickledTensor, grad: Any) -> bool:
    """Tell whether a tensor may have that `requires_grad`: only floating point and complex tensors may learn."""
    return grad is False or (grad is True and tensor.dtype.startswith(("float", "bfloat", "complex")))


def _attributes(state: Any) -> bool:
    """Tell whether torch can set a state's attributes on a tensor: a dict of names that are none of its own fields."""
    states = state if isinstance(state, tuple) and len(state) == 2 else (state,)
    return all(
        not one or (isinstance(one, dict) and all(isinstance(k, str) and k not in FIELDS for k in one))
        for one in states
    )


def _sizes(*numbers: Any) -> bool:
    """Return whether these are so many whole numbers as a tensor can have, none negative."""
    return len(numbers) <= 2 * DIMENSIONS + 1 and all(type(n) is int and 0 <= n < 1 << 63 for n in numbers)


def call_result(function: Any, args: Any) -> Any:
    """Return what the few functions of a state dict's pickle would give; for any other, a note of the call.

    No work here may grow with the arguments: a pickle can make the same call on the same long list a million times.
    """
    if isinstance(function, Global) and isinstance(args, tuple) and len(args) <= ARGUMENTS:
        if function.module in ("torch._utils", "torch._tensor"):
            return _rebuilt_tensor(function.name, args) or Made(function, args)
        match function, args:
            case Global("collections", "OrderedDict"), ():
                return OrderedState()
            case Global("collections", "defaultdict"), _:
                return {}
            case Global("torch", "Size"), (tuple(sizes),):
                return sizes
    return Made(function, args)
