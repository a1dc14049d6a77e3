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
from tiecheck.facts import Shard, StorageSlot

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
        import torch  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(f"Reading the pickle {os.path.basename(path)}", "live") from error
    data = _load(path)
    for key in WRAPPER_KEYS:
        inner = data.get(key) if isinstance(data, dict) else None
        if isinstance(inner, dict) and inner:
            data = inner
            break
    tensors = {k: v for k, v in data.items() if isinstance(k, str) and _is_tensor(v)} if isinstance(data, dict) else {}
    if not tensors:
        raise TargetError(f"{path} holds no named tensors", path)
    return tensors


def _is_tensor(value: object) -> bool:
    import torch

    return isinstance(value, torch.Tensor)


def _load(path: str) -> Any:
    import pickle

    import torch

    if os.path.getsize(path) == 0:
        raise TargetError(f"{path} is empty", path)
    try:
        # The form before torch 1.6 is no zip archive and cannot be mapped.
        with open(path, "rb") as file:
            zipped = file.read(4) == b"PK\x03\x04"
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        cause = " ".join(str(error).split())
        if "weights" in cause.lower() and "global" in cause.lower():
            raise TargetError(
                f"{path} is a pickle that wants code run when it is loaded, and was not loaded ({_unsafe_name(cause)})",
                path,
            ) from error
        raise TargetError(f"{path} is no pickle that torch can read safely: {cause[:200]}", path) from error
    except (RuntimeError, EOFError, ValueError, KeyError, OSError, AttributeError, IndexError, TypeError) as error:
        cause = " ".join(str(error).split())[:200] or type(error).__name__
        raise TargetError(f"{path} is broken or no file of torch's: {cause}", path) from error


def _unsafe_name(message: str) -> str:
    """The global that torch names as unsafe, out of its long message."""
    import re

    found = re.search(r"GLOBAL ([\w.]+)", message)
    return f"it asks for {found.group(1)}" if found else "torch refused it"


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
            pointer = tensor.untyped_storage().data_ptr()
            if pointer:
                number = numbers.setdefault(pointer, count + len(numbers))
                slots[name] = StorageSlot(number, int(tensor.storage_offset()), tuple(tensor.stride()))
        count += len(numbers)
        shards.append(Shard(label, 0, entries))
    return tuple(shards), slots
