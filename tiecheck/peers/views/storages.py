"""What safetensors and transformers share: tensors of one storage, split where their byte ranges do not meet."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def storage_address(tensor: Any) -> int:
    """`safetensors.torch.storage_ptr` (0.8.0); 0 on meta. Raises what torch raises for a tensor without memory."""
    try:
        return int(tensor.untyped_storage().data_ptr())
    except Exception:  # noqa: BLE001  # as safetensors has it
        try:
            return int(tensor.storage().data_ptr())
        except NotImplementedError:  # as safetensors has it, for a tensor without a storage
            return 0


def end(tensor: Any) -> int:
    """`_end_ptr` (safetensors 0.8.0, transformers 5.23.0): raises for a tensor that is not contiguous."""
    if tensor.nelement():
        return int(tensor.view(-1)[-1].data_ptr()) + int(tensor.element_size())
    return int(tensor.data_ptr())


def split(groups: Iterable[list[str]], state: dict[str, Any], *, furthest: bool) -> list[list[str]]:
    """Groups of one storage, split into runs of ranges that meet.

    Args:
        groups: Names by storage; a single name stays as it is and is not measured.
        state: The tensors.
        furthest: Whether the end of a run is its furthest end (transformers 5.23.0), or that of its last member, so
            that a short range within a long one cuts the run off (safetensors 0.8.0).
    """
    found = []
    for names in groups:
        if len(names) < 2:
            found.append(names)
            continue
        areas = sorted((int(state[name].data_ptr()), end(state[name]), name) for name in names)
        run = [areas[0][2]]
        last = areas[0][1]
        for start, stop, name in areas[1:]:
            if start >= last:
                found.append(run)
                run = []
            run.append(name)
            last = max(last, stop) if furthest else stop
        found.append(run)
    return found
