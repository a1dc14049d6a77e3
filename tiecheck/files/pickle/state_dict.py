"""Weights in pickles (`pytorch_model.bin`), which keep what safetensors cannot: which tensors share memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tiecheck.errors import TargetError
from tiecheck.files.pickle.archive import read_weights_file
from tiecheck.files.pickle.records import Global, Made, PickledTensor, TorchFile
from tiecheck.records.stored import Shard, StorageSlot

WRAPPER_KEYS = ("state_dict", "model_state_dict", "model", "module")
"""Keys under which trainers keep the model's tensors (Lightning, torch examples, DeepSpeed)."""

EXPANDED = "is an expanded view, larger than its memory"
COMPRESSED = "lies compressed in its archive"


def read_state_dict(path: str) -> tuple[TorchFile, dict[str, PickledTensor], str | None]:
    """Return the file of one pickled state dict, its named tensors, and the key that they stand below, if any.

    Files of `torch.save` are read in the zip form and the older one.
    """
    saved = read_weights_file(path)
    data = _as_mapping(saved.tree)
    nested = next((key for key in WRAPPER_KEYS if _as_mapping(data.get(key))), None)
    data = _as_mapping(data[nested]) if nested else data
    tensors: dict[str, PickledTensor] = {}
    for name, value in data.items():
        if isinstance(name, str) and isinstance(value, PickledTensor):
            if value.storage is not None and value.end > value.storage.nbytes:
                raise TargetError(f"{path} is broken: {name!r} reaches beyond the memory it lies in", path)
            tensors[name] = value
        elif isinstance(name, str) and _makes_tensor(value):
            made = f"{value.function.module}.{value.function.name}"
            raise TargetError(f"{path} was not read: {name!r} is made by {made}, in a way that is not known", path)
    if not tensors:
        raise TargetError(f"{path} holds no named tensors", path)
    return saved, tensors, nested


def _as_mapping(value: Any) -> Mapping[Any, Any]:
    """Return a pickled dict; of anything else an empty one."""
    if isinstance(value, Made) and value.function == ("collections", "OrderedDict"):  # as Python 2 wrote it
        pairs = value.args[0] if value.args else ()
        if isinstance(pairs, (list, tuple)) and all(isinstance(p, (list, tuple)) and len(p) == 2 for p in pairs):
            return {key: item for key, item in pairs if isinstance(key, str)}
    return value if isinstance(value, dict) else {}


def _makes_tensor(value: Any) -> bool:
    """Return True for a call that gives a tensor, of a form that the machine does not follow."""
    if not isinstance(value, Made) or not isinstance(value.function, Global):
        return False
    module, name = value.function
    return module in {"torch._utils", "torch._tensor"} or name.endswith(("Tensor", "Parameter"))


def read_pickles(paths: list[tuple[str, str]]) -> tuple[tuple[Shard, ...], Mapping[str, StorageSlot]]:
    """Return the header facts of some pickles (path, name in the report), and each tensor's place in its storage.

    An entry has `data_offsets` from the first element's byte of the file on, as many bytes as the elements have; beside
    that `stride` where they do not lie one after another, `negated`, and `opaque` where they cannot be read.
    """
    shards = []
    slots: dict[str, StorageSlot] = {}
    count = 0
    for path, label in paths:
        saved, tensors, nested = read_state_dict(path)
        numbers: dict[str, int] = {}
        entries = {}
        for name, tensor in tensors.items():
            entries[name] = _entry(saved, tensor)
            if tensor.storage is not None and tensor.nbytes and not tensor.negated:
                number = numbers.setdefault(tensor.storage.key, count + len(numbers))
                slots[name] = StorageSlot(number, tensor.offset, tensor.stride)
        count += len(numbers)
        shards.append(Shard(label, 0, entries, nested=nested))
    return tuple(shards), slots


def _entry(saved: TorchFile, tensor: PickledTensor) -> dict[str, Any]:
    start = saved.first_byte(tensor)
    entry: dict[str, Any] = {
        "dtype": tensor.dtype,
        "shape": tensor.shape,
        "data_offsets": (start or 0, (start or 0) + tensor.nbytes),
    }
    opaque = tensor.opaque or (COMPRESSED if start is None else "")
    if not opaque and tensor.storage is not None and tensor.nbytes > tensor.storage.nbytes:
        opaque = EXPANDED
    if opaque:
        entry["opaque"] = opaque
    elif not tensor.contiguous:
        entry["stride"] = tensor.stride
    if tensor.negated:
        entry["negated"] = tensor.negated
    return entry
