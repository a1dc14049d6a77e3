"""The one place that knows torch's private names and quirks. Each says the version that showed it (2.13.0)."""

from __future__ import annotations

import sys
from collections.abc import Hashable, Iterator, Sequence
from contextlib import AbstractContextManager
from operator import attrgetter
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from tiecheck.files.strided_views import ByteView, dims_of
from tiecheck.live.module_graph import repeated_numbers
from tiecheck.wording import with_article

ADDRESSED = frozenset({"cpu", "cuda", "xpu"})
"""Devices whose `data_ptr()` is an address. On mps it is an object's address plus an offset, on meta and xla 0."""

ADDRESS = "address"
"""The one space of real addresses: CPU and GPU share it (unified addressing)."""

PLAIN: frozenset[type] = frozenset({Tensor, nn.Parameter})
"""Types without code of their own: anything else may answer `data_ptr()` with an error, a warning or 0."""

CHUNK = 1 << 22
"""Bytes that are compared at once, at most."""

_nbytes = attrgetter("nbytes")
is_meta = attrgetter("is_meta")
_cdata = attrgetter("_cdata")


class Spans(NamedTuple):
    """Where the dense plain tensors among some tensors lie."""

    positions: list[int]
    """Position of each such tensor."""
    starts: list[int]
    """Address of its first byte."""
    ends: list[int]
    """Address after its last byte."""


def is_scripted(module: nn.Module) -> bool:
    """Return True if a module, or one inside of it, was scripted or traced: it has no `_parameters` of its own."""
    left, seen = [module], {id(module)}  # not by `modules()`, which recurses
    while left:
        one = left.pop()
        if isinstance(one, torch.jit.ScriptModule):
            return True
        inside = [m for m in one.__dict__.get("_modules", {}).values() if m is not None and id(m) not in seen]
        seen.update(map(id, inside))
        left += inside
    return False


def without_torch_functions() -> AbstractContextManager[object]:
    """Return a context in which no `__torch_function__`, of a subclass or a mode, sees what we ask of tensors."""
    context: AbstractContextManager[object] = torch._C.DisableTorchFunction()
    return context


def plain_spans(tensors: Sequence[Tensor]) -> tuple[Spans, list[int]]:
    """Return the byte ranges of tensors that need no closer look, by C loops, and the positions of the rest.

    A FakeTensor says `is_cpu` over a meta storage and a wrapper says it over none (torch 2.13), hence `PLAIN`. A sparse
    tensor raises from `nbytes`, so that one of these sends all to the closer look.
    """
    everything = list(range(len(tensors)))
    positions, chosen = everything, tensors
    if tensors and tensors[0].is_meta and all(map(is_meta, tensors)):
        return Spans([], [], []), _of_shared_storages(tensors, everything)
    try:
        if not PLAIN.issuperset(map(type, tensors)):
            positions = [i for i in positions if type(tensors[i]) in PLAIN]
        if _foreign_accelerator():
            positions = [i for i in positions if tensors[i].device.type in ADDRESSED]
        if positions is not everything:
            chosen = [tensors[i] for i in positions]
        if not all(map(Tensor.is_contiguous, chosen)):
            positions = [i for i in positions if tensors[i].is_contiguous()]
            chosen = [tensors[i] for i in positions]
        starts = list(map(Tensor.data_ptr, chosen))
        sizes = list(map(_nbytes, chosen))
    except (RuntimeError, NotImplementedError):  # a wrapper subclass without storage: each is looked at by itself
        return Spans([], [], []), everything
    if 0 in starts or 0 in sizes:  # address 0: on meta, and where there is no element
        keep = [k for k in range(len(starts)) if starts[k] and sizes[k]]
        positions, starts, sizes = ([column[k] for k in keep] for column in (positions, starts, sizes))
    inside = None if len(positions) == len(tensors) else set(positions)
    rest = [] if inside is None else [i for i in everything if i not in inside]
    return Spans(positions, starts, list(map(int.__add__, starts, sizes))), rest


def _foreign_accelerator() -> bool:
    """Return True if this build of torch has an accelerator whose `data_ptr()` may be no address."""
    found = torch.accelerator.current_accelerator() if hasattr(torch, "accelerator") else torch.device("mps")
    return found is not None and found.type not in ADDRESSED


def without_lone(tensors: Sequence[Tensor], positions: list[int]) -> list[int]:
    """Return some positions without the plain meta tensors whose storage no other of them has: they share nothing."""
    chosen = [tensors[i] for i in positions]
    return _of_shared_storages(chosen, positions) if all(map(is_meta, chosen)) else positions


def _of_shared_storages(tensors: Sequence[Tensor], positions: list[int]) -> list[int]:
    """Return the positions of those meta tensors whose storage another of them has; all where one is not plain."""
    if not PLAIN.issuperset(map(type, tensors)):
        return positions
    try:
        # The storage objects live until all are read; `_cdata` is the address of the StorageImpl.
        keys = list(map(_cdata, list(map(Tensor.untyped_storage, tensors))))
    except (RuntimeError, NotImplementedError):  # a sparse one
        return positions
    shared = repeated_numbers(keys)
    return [i for i, key in zip(positions, keys, strict=True) if key in shared] if shared else []


def memory_views(tensor: Tensor) -> tuple[ByteView, ...] | None:
    """Return the memory a tensor stands on: one view, several for a wrapper, none for an empty or lazy tensor.

    None where it cannot be told: a sparse tensor, a wrapper that does not say what it wraps.
    """
    try:
        return tuple(_views(tensor, depth=0))
    except Exception:  # noqa: BLE001  # a subclass runs code of its own and may raise whatever it likes
        return None


def _views(tensor: Tensor, depth: int) -> Iterator[ByteView]:
    if is_lazy(tensor):
        return
    inner = wrapped_tensors(tensor)
    if inner and depth < 8:  # wrappers of wrappers end; one that wraps itself does not
        for part in inner:
            yield from _views(part, depth + 1)
        return
    if tensor.numel() == 0:
        return
    storage = tensor.untyped_storage()
    dims = dims_of(tensor.shape, tensor.stride(), tensor.element_size())
    space, base = _base(tensor, storage)
    yield ByteView(space, base + int(tensor.storage_offset()) * tensor.element_size(), dims)


def _base(tensor: Tensor, storage: torch.UntypedStorage) -> tuple[Hashable, int]:
    """Return the space a storage's addresses count in, and its first address there.

    Two `torch.from_numpy` of one array share memory under two StorageImpl, so real memory goes by address;
    without addresses the StorageImpl (`_cdata`, private; right on meta, FakeTensor and DTensor in 2.13) has to do.
    """
    kind = storage.device.type
    if kind in ADDRESSED and (type(tensor) in PLAIN or not _is_fake(tensor)):
        try:
            address = storage.data_ptr()
        except RuntimeError:  # "invalid python storage": a `_make_wrapper_subclass` tensor
            address = 0
        if address:
            return ADDRESS, address
    return ("storage", storage._cdata), 0


def _is_fake(tensor: Tensor) -> bool:
    """Return True if a tensor is a FakeTensor: asking one for its address warns."""
    return any(base.__name__ == "FakeTensor" for base in type(tensor).__mro__)


def wrapped_tensors(tensor: Tensor) -> list[Tensor]:
    """Return what a wrapper subclass wraps, by `torch.compile`'s protocol (DTensor, torchao); else []."""
    if type(tensor) in PLAIN or not hasattr(tensor, "__tensor_flatten__"):
        return []
    names, _ = tensor.__tensor_flatten__()
    return [part for part in (getattr(tensor, name) for name in names) if isinstance(part, Tensor)]


def why_memory_is_hidden(tensor: Tensor) -> str | None:
    """Say why the memory of a tensor does not tell what it shares with another; None where it does.

    A wrapper made by `_make_wrapper_subclass` has a storage without memory: one and the same storage means
    shared, two do not mean separate.
    """
    if memory_views(tensor) is None:
        return f"the memory of a {tensor.layout} {type(tensor).__name__} cannot be told".replace("torch.", "")
    if type(tensor) in PLAIN or is_lazy(tensor) or wrapped_tensors(tensor) or _is_fake(tensor):
        return None
    try:
        if tensor.device.type != "meta" and tensor.numel():
            tensor.untyped_storage().data_ptr()
    except Exception:  # noqa: BLE001  # see `memory_views`
        return f"what {with_article(type(tensor).__name__)} wraps cannot be told"
    return None


def why_values_are_elsewhere(tensor: Tensor) -> str | None:
    """Say why a tensor stands for values that are elsewhere; None where it holds its own.

    DeepSpeed ZeRO-3 leaves an empty tensor with `ds_id` in place of each partitioned parameter.
    """
    if hasattr(tensor, "ds_id"):
        return "the parameter is partitioned by DeepSpeed ZeRO-3"
    if not is_lazy(tensor) and tensor.layout is torch.strided and tensor.numel() == 0:
        return "the members have no elements"
    return None


class TensorDescriber:
    """Describes tensors, with the words for element types and devices kept."""

    def __init__(self) -> None:
        self._dtypes: dict[torch.dtype, str] = {}
        self._devices: dict[torch.device, str] = {}

    def of(self, tensor: Tensor) -> tuple[tuple[int, ...] | None, str, int | None, str]:
        """Return shape, element type, bytes and device of a tensor; no shape if it is lazy, no bytes if sparse."""
        shape, nbytes = _size(tensor)
        dtype, device = tensor.dtype, tensor.device
        if dtype not in self._dtypes:
            self._dtypes[dtype] = str(dtype).removeprefix("torch.")
        if device not in self._devices:
            self._devices[device] = str(device)
        return shape, self._dtypes[dtype], nbytes, self._devices[device]


def _size(tensor: Tensor) -> tuple[tuple[int, ...] | None, int | None]:
    """Return shape and bytes of a tensor that may not have them: a lazy one says 0 bytes, a sparse one raises."""
    if type(tensor) not in PLAIN and is_lazy(tensor):
        return None, None
    try:
        return tuple(tensor.shape), tensor.nbytes
    except Exception:  # noqa: BLE001  # see `memory_views`
        return tuple(tensor.shape), None


def plain_sizes(tensors: Sequence[Tensor]) -> tuple[list[int], list[int]] | None:
    """Return elements and bytes of tensors that are all plain and dense, by C loops as for most models; else None."""
    if not PLAIN.issuperset(map(type, tensors)):
        return None
    try:
        if not all(map(Tensor.is_contiguous, tensors)):
            return None
        elements, nbytes = list(map(Tensor.numel, tensors)), list(map(_nbytes, tensors))
    except (RuntimeError, NotImplementedError):  # a sparse one
        return None
    flat = "torch.distributed.fsdp._flat_param" in sys.modules  # FSDP's flat parameters look plain
    return None if flat or 0 in elements else (elements, nbytes)


def elements_of(tensor: Tensor) -> int | str:
    """Count the elements that a tensor stands for, or say why that cannot be told.

    A bitsandbytes 4-bit weight (`Params4bit`, 0.49) packs two elements a byte and keeps its shape aside.
    """
    if is_lazy(tensor):
        return "not initialised yet (a lazy module)"
    if hasattr(tensor, "ds_id"):
        return "partitioned by DeepSpeed ZeRO-3"
    if hasattr(tensor, "_is_flat_param"):  # torch 2.13 `torch.distributed.fsdp._flat_param`
        return "flattened and sharded by FSDP, which leaves their own sizes to its handles"
    if type(tensor).__name__ == "Params4bit" and tensor.dtype == torch.uint8:
        shape = getattr(getattr(tensor, "quant_state", None), "shape", None)
        return "packed, with its own shape nowhere" if shape is None else int(torch.Size(shape).numel())
    return tensor.numel()


def equal_bytes(a: Tensor, b: Tensor) -> bool:
    """Return True if two tensors of one shape, element type and device hold the same bytes, in bounded memory.

    Stricter than `torch.equal` for +0 and -0, looser for NaN. A tensor that cannot be read raises what it raises.
    """
    with torch.no_grad(), without_torch_functions():
        return _equal_bytes(a.detach(), b.detach())


def _equal_bytes(a: Tensor, b: Tensor) -> bool:
    inner_a, inner_b = wrapped_tensors(a), wrapped_tensors(b)
    if inner_a or inner_b:
        return len(inner_a) == len(inner_b) and all(map(_equal_bytes, inner_a, inner_b))
    if (a.shape, a.dtype, a.device) != (b.shape, b.dtype, b.device):
        return False
    if a.is_contiguous() and b.is_contiguous():
        flat_a, flat_b = (t.reshape(-1).view(torch.uint8) for t in (a, b))
        return all(torch.equal(flat_a[i : i + CHUNK], flat_b[i : i + CHUNK]) for i in range(0, len(flat_a), CHUNK))
    if a.nbytes <= CHUNK or a.dim() == 0:
        return _equal_bytes(a.contiguous(), b.contiguous())
    rows = max(1, CHUNK * len(a) // a.nbytes)
    if rows == 1 and a.nbytes // len(a) > CHUNK:
        return all(_equal_bytes(a[i], b[i]) for i in range(len(a)))
    return all(_equal_bytes(a[i : i + rows], b[i : i + rows]) for i in range(0, len(a), rows))
