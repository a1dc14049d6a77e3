"""safetensors (0.8.0): `_find_shared_tensors`, and what `save_model` leaves out or refuses (`safetensors/torch.py`)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from tiecheck.peers.views.tool_functions import Groups, NotRun, ToolAnswer, ToolFunction, WalkedModule, ordered_groups

NONE_WHOLE = (
    "Error while trying to find names to remove to save state dict, but found no suitable name to keep for saving"
    " amongst: {names}. None is covering the entire storage.Refusing to save/load the model since you could be storing"
    " much more memory than needed. Please refer to https://huggingface.co/docs/safetensors/torch_shared_tensors for"
    " more information. Or open an issue."
)

STILL_SHARED = """
            Some tensors share memory, this will lead to duplicate memory on disk and potential differences when loading them again: {names}.
            A potential way to correctly save your model is to use `save_model`.
            More information at https://huggingface.co/docs/safetensors/torch_shared_tensors
            """  # noqa: E501  # as safetensors has it


def storage_address(tensor: Any) -> int:
    """Return `safetensors.torch.storage_ptr` (0.8.0), 0 on meta; raises what torch raises without memory."""
    try:
        return int(tensor.untyped_storage().data_ptr())
    except Exception:  # noqa: BLE001  # as safetensors has it
        try:
            return int(tensor.storage().data_ptr())
        except NotImplementedError:  # as safetensors has it, for a tensor without a storage
            return 0


def end_address(tensor: Any) -> int:
    """Return `_end_ptr` (safetensors 0.8.0, transformers 5.23.0); raises for a tensor that is not contiguous."""
    if tensor.nelement():
        return int(tensor.view(-1)[-1].data_ptr()) + int(tensor.element_size())
    return int(tensor.data_ptr())


def split_by_range(groups: Iterable[list[str]], state: dict[str, Any], *, furthest: bool) -> list[list[str]]:
    """Return groups of one storage, split into runs of ranges that meet; a single name is not measured.

    The end of a run is its furthest end (transformers 5.23.0), or without `furthest` that of its last member, so that a
    short range within a long one cuts the run off (safetensors 0.8.0).
    """
    found = []
    for names in groups:
        if len(names) < 2:
            found.append(names)
            continue
        areas = sorted((int(state[name].data_ptr()), end_address(state[name]), name) for name in names)
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


def _by_storage(state: dict[str, Any]) -> list[list[str]]:
    """Return the names of every tensor with memory, those of one storage together."""
    held: dict[Any, list[str]] = {}
    meta = torch.device("meta")
    for name, tensor in state.items():
        if tensor.device == meta:
            continue
        address = storage_address(tensor)
        size = tensor.untyped_storage().nbytes() if address else 0
        if size:
            held.setdefault((tensor.device, address, size), []).append(name)
    return list(held.values())


def _whole(tensor: Any) -> bool:
    """Return True if a tensor covers all of its storage."""
    size = tensor.nelement() * tensor.element_size()
    return bool(tensor.data_ptr() == storage_address(tensor) and size == tensor.untyped_storage().nbytes())


def _several(groups: Iterable[Iterable[str]]) -> Groups:
    return tuple(group for group in ordered_groups(groups) if len(group) > 1)


def _find(sight: WalkedModule) -> ToolAnswer:
    return ToolAnswer(_several(split_by_range(_by_storage(sight.state), sight.state, furthest=False)))


def _run_find(sight: WalkedModule) -> ToolAnswer:
    from safetensors.torch import _find_shared_tensors

    return ToolAnswer(_several(_find_shared_tensors(sight.state)))


def _save(sight: WalkedModule) -> ToolAnswer:
    """Keep of each group the first name, in order, that covers the storage; refuse where none does."""
    state = sight.state
    stored = _by_storage(state)
    dropped: list[str] = []
    groups = split_by_range(stored, state, furthest=False)
    for names in groups:
        whole = sorted(name for name in names if _whole(state[name]))
        if not whole:
            raise RuntimeError(NONE_WHOLE.format(names=set(names)))
        dropped += [name for name in names if name != whole[0]]
    left = _left(state, dropped)
    beside = [[name for name in names if name in left] for names in stored if len(names) > 1]
    still = [set(names) for names in split_by_range(filter(None, beside), state, furthest=False) if len(names) > 1]
    if still:
        raise RuntimeError(STILL_SHARED.format(names=still))
    return _written(left, ToolAnswer(_several(groups), tuple(sorted(dropped))))


def _run_save(sight: WalkedModule) -> ToolAnswer:
    """Run `save_model` up to the writing."""
    from safetensors import torch as library

    check = getattr(library, "_evaluate_tensors_for_save", None)
    if check is None:
        raise NotRun("this release checks what it saves only while it writes")
    removed = library._remove_duplicate_names(sight.state)
    dropped = sorted(name for names in removed.values() for name in names)
    left = _left(sight.state, dropped)
    check(left)
    return _written(left, ToolAnswer(_several([kept, *names] for kept, names in removed.items()), tuple(dropped)))


def _left(state: dict[str, Any], dropped: Iterable[str]) -> dict[str, Any]:
    """Return what is left to be written; a tensor that is not contiguous is copied before that, and shares nothing."""
    gone = set(dropped)
    return {name: tensor for name, tensor in state.items() if name not in gone and tensor.is_contiguous()}


def _written(left: dict[str, Any], seen: ToolAnswer) -> ToolAnswer:
    """Return what is seen, if it can be written: the values of a tensor on meta cannot."""
    for tensor in left.values():
        if tensor.is_meta:
            tensor.to("cpu")
    return seen


PEERS = (
    ToolFunction("safetensors", "_find_shared_tensors", "0.8", _find, _run_find),
    ToolFunction("safetensors", "save_model", "0.8", _save, _run_save),
)
