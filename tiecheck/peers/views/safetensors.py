"""safetensors (0.8.0): `_find_shared_tensors`, and what `save_model` leaves out or refuses (`safetensors/torch.py`)."""

from __future__ import annotations

from collections.abc import Iterable

from tiecheck.peers.views.tool_functions import Groups, NotRun, ToolAnswer, ToolFunction, WalkedModule, ordered_groups


def _several(groups: Iterable[Iterable[str]]) -> Groups:
    return tuple(group for group in ordered_groups(groups) if len(group) > 1)


def _find(sight: WalkedModule) -> ToolAnswer:
    from safetensors.torch import _find_shared_tensors

    return ToolAnswer(_several(_find_shared_tensors(sight.state)))


def _save(sight: WalkedModule) -> ToolAnswer:
    """Run `save_model` up to the writing."""
    from safetensors import torch as library

    check = getattr(library, "_evaluate_tensors_for_save", None)
    if check is None:
        raise NotRun("this release checks what it saves only while it writes")
    removed = library._remove_duplicate_names(sight.state)
    gone = {name for names in removed.values() for name in names}
    # A tensor that is not contiguous is copied before it is written, and shares nothing.
    left = {name: tensor for name, tensor in sight.state.items() if name not in gone and tensor.is_contiguous()}
    check(left)
    for tensor in left.values():
        if tensor.is_meta:
            tensor.to("cpu")  # raises, as the writing does: the values of a tensor on meta cannot be written
    return ToolAnswer(_several([kept, *names] for kept, names in removed.items()), tuple(sorted(gone)))


PEERS = (
    ToolFunction("safetensors", "_find_shared_tensors", "0.8", run=_find),
    ToolFunction("safetensors", "save_model", "0.8", run=_save),
)
