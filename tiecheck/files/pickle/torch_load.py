"""Pickled checkpoints (`pytorch_model.bin`), which keep what safetensors cannot: which tensors share memory.

Only through `torch.load(weights_only=True)`, which refuses any pickle that wants code run, and with
`mmap=True`, which keeps the aliasing and reads no tensor byte. `map_location="meta"` would lose it: every
storage is new there and every pointer 0 (torch 2.13).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tiecheck.errors import MissingExtraError, TargetError
from tiecheck.files.local import LFS_POINTER, inside, open_regular, refuse_pointer
from tiecheck.records.stored import Checkpoint, Comparison, Shard, StorageSlot, StoredTensor
from tiecheck.records.words import Unknown

if TYPE_CHECKING:
    import torch

WRAPPER_KEYS = ("state_dict", "model_state_dict", "model", "module")
"""Keys under which trainers keep the model's tensors (Lightning, torch examples, DeepSpeed)."""


def load_tensors(path: str) -> dict[str, torch.Tensor]:
    """The tensors of one pickled state dict, mapped and not read.

    Args:
        path: A file written by `torch.save`, in the zip form or the older one.

    Returns:
        Name -> tensor, on the CPU, aliasing as it was saved.

    Raises:
        MissingExtraError: torch is not installed.
        TargetError: The pickle wants code run, is broken, or holds no tensors.
    """
    try:
        import torch
    except ImportError as error:
        raise MissingExtraError(f"Reading the pickle {os.path.basename(path)}", "live") from error
    data = _load(path)
    for key in WRAPPER_KEYS:
        inner = data.get(key) if isinstance(data, dict) else None
        if isinstance(inner, dict) and inner:
            data = inner
            break
    named = data.items() if isinstance(data, dict) else ()
    tensors = {k: v for k, v in named if isinstance(k, str) and isinstance(v, torch.Tensor)}
    if not tensors:
        raise TargetError(f"{path} holds no named tensors", path)
    return tensors


def _load(path: str) -> Any:
    """What a pickle holds. Whatever torch makes of a broken file, it ends in one sentence."""
    import pickle
    import warnings

    import torch

    with os.fdopen(open_regular(path, path), "rb") as file:
        first = file.read(len(LFS_POINTER))
    if not first:
        raise TargetError(f"{path} is empty", path)
    refuse_pointer(first, path)
    # The form before torch 1.6 is no zip archive and cannot be mapped.
    zipped = first.startswith(b"PK\x03\x04")
    if not zipped and not first.startswith(b"\x80"):
        raise TargetError(f"{path} is no file of torch's: it begins with {first[:8]!r}, as no pickle or zip does", path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        raise TargetError(_refused(path, " ".join(str(error).split())), path) from error
    except Exception as error:
        cause = _short(error)
        if "TorchScript" in cause:
            raise TargetError(f"{path} is a TorchScript program, not a state dict", path) from error
        raise TargetError(f"{path} is broken or no file of torch's: {cause}", path) from error


def _refused(path: str, message: str) -> str:
    """What torch's safe loader has against a pickle, out of its long message."""
    import re

    name = re.search(r"GLOBAL ([\w.]+)", message)
    if name:
        return (
            f"{path} was not loaded: it is a pickle that asks for {name[1]}, which is no tensor, and such a name can "
            "run any code; if you trust it, save its state_dict alone, or name a function that builds the model "
            "(file.py:function)"
        )
    cause = message.rpartition("WeightsUnpickler error:")[2].partition("Check the documentation")[0]
    return f"{path} was not loaded: it is no pickle that torch can read safely ({_short(cause)})"


def _short(error: object) -> str:
    """The beginning of a message of torch's, which may hold a stack trace or advice."""
    text = str(error).split(" Exception raised from")[0].split(" This is an internal miniz error")[0]
    return " ".join(text.split())[:200].rstrip(". ") or type(error).__name__


def read_pickles(paths: list[tuple[str, str]]) -> tuple[tuple[Shard, ...], Mapping[str, StorageSlot]]:
    """Header facts of some pickles, and each tensor's place in its storage.

    Args:
        paths: Pairs of a path and the name the report uses for it.
    """
    shards = []
    slots: dict[str, StorageSlot] = {}
    count = 0
    for path, label in paths:
        tensors = load_tensors(path)
        numbers: dict[int, int] = {}
        entries = {}
        for name, tensor in tensors.items():
            nbytes = tensor.numel() * tensor.element_size()
            word = str(tensor.dtype).removeprefix("torch.")
            entries[name] = {"dtype": word, "shape": list(tensor.shape), "data_offsets": (0, nbytes)}
            if _why_unreadable(tensor) or not nbytes:
                continue
            number = numbers.setdefault(tensor.untyped_storage().data_ptr(), count + len(numbers))
            slots[name] = StorageSlot(number, int(tensor.storage_offset()), tuple(tensor.stride()))
        count += len(numbers)
        shards.append(Shard(label, 0, entries))
    return tuple(shards), slots


def _why_unreadable(tensor: torch.Tensor) -> str | None:
    """Why the bytes of a pickled tensor cannot be looked at one by one."""
    import torch

    if tensor.layout != torch.strided or tensor.is_quantized:
        return "is sparse or quantised"
    if tensor.device.type == "meta":
        return "was saved from the meta device, without values"
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter):
        return f"is a {type(tensor).__name__}"
    return None


def compare_pickled(checkpoint: Checkpoint, tensors: tuple[StoredTensor, ...], *, exact: bool) -> Comparison | Unknown:
    """Compare stored members of pickles, whose elements torch has to find; bytes keep NaN comparable.

    Args:
        checkpoint: Where they are stored.
        tensors: Two or more, alike in dtype and shape.
        exact: Whether to count every row that differs.
    """
    from tiecheck.files.compare.equality import compare_pieces

    files = {file: load_tensors(inside(checkpoint.root, file)) for file in sorted({t.file for t in tensors})}
    members = []
    for tensor in tensors:
        member = files[tensor.file][tensor.name].detach()
        why = _why_unreadable(member)
        if why is None and tensor.nbytes > member.untyped_storage().nbytes():
            why = "is an expanded view, larger than its memory"
        if why:
            return Unknown(f"the bytes of {tensor.name} cannot be compared: it {why}")
        members.append(member)
    return compare_pieces(
        tensors[0].shape,
        tensors[0].nbytes,
        lambda piece: [_read(member, piece.offset, piece.nbytes) for member in members],
        dtype=tensors[0].dtype,
        everywhere=False,
        exact=exact,
    )


def _read(tensor: torch.Tensor, offset: int, count: int) -> bytes:
    """Some bytes of a tensor, as if it were contiguous."""
    import ctypes

    import torch

    start, end = offset // tensor.element_size(), (offset + count) // tensor.element_size()
    if tensor.is_contiguous():
        part = tensor.reshape(-1)[start:end]
    else:
        part = tensor[torch.unravel_index(torch.arange(start, end), tensor.shape)]
    part = part.resolve_conj().resolve_neg().contiguous()
    return ctypes.string_at(part.data_ptr(), count)
