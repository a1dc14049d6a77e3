"""The bytes of a live tensor, read as those of a stored one are."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor, nn

from tiecheck.files.compare.spans import OpaqueError, Span
from tiecheck.live.member_lookup import look_up
from tiecheck.live.torch_adapter import PLAIN, TensorDescriber, why_values_are_elsewhere, without_torch_functions
from tiecheck.records.stored import StoredTensor


class MemorySpan(Span):
    """The bytes of a tensor in memory, its elements as if they lay one after another."""

    def __init__(self, tensor: Tensor) -> None:
        """Keep the tensor; only one that is elsewhere, or lies strided, is copied."""
        self._kept = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
        self.nbytes = self._kept.nbytes
        self.sparse = False
        whole = (ctypes.c_char * self.nbytes).from_address(self._kept.data_ptr()) if self.nbytes else b""
        self._view = memoryview(whole).cast("B")

    @property
    def place(self) -> tuple[object, ...]:
        """The address: two spans of one memory are the same bytes."""
        return "memory", self._kept.data_ptr(), self.nbytes

    def read(self, offset: int, count: int) -> bytes:
        """Return some bytes, counted from the tensor's beginning."""
        return self._view[offset : offset + count].tobytes()


def open_tensor(module: nn.Module, name: str) -> tuple[StoredTensor, Span]:
    """Return dtype, shape and bytes of a parameter or buffer.

    Raises:
        OpaqueError: It has no bytes that could be looked at.
    """
    tensor = look_up(module, name).tensor
    if tensor is None:
        raise OpaqueError(f"{name} is no tensor of the module")
    with torch.no_grad(), without_torch_functions():
        shape, dtype, nbytes, device = TensorDescriber().of(tensor)
        why = f"{name} is on meta, without values" if device == "meta" else why_values_are_elsewhere(tensor)
        if why is None and (type(tensor) not in PLAIN or nbytes is None):
            why = f"the values of {name} ({type(tensor).__name__}) are not looked at one by one"
        if why is not None:
            raise OpaqueError(why)
        return StoredTensor(name, dtype, shape or (), nbytes or 0, "", None), MemorySpan(tensor)
