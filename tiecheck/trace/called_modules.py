"""Tells on meta which modules a forward pass on tokens calls."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from tiecheck.live.transformers.loading import silent
from tiecheck.trace.forward import arguments, untouched

SHAPE = (1, 4)
"""Tokens of the pass: none has a value on meta, and a class that looks at values is not told."""


def called_modules(module: nn.Module) -> tuple[str, ...] | None:
    """Return the modules that a forward pass calls, by their first paths, in the order of their first calls.

    A pass that is given other inputs (images, entities) may call more; one that is given fewer, less. A weight that is
    read without a call of its module (`F.linear(x, embedding.weight)`) is not seen.

    Args:
        module: A model on meta; left as it was.

    Returns:
        The paths; None where it is not on meta, or no pass on tokens comes through.
    """
    if not all(parameter.is_meta for parameter in module.parameters()):
        return None
    seen: dict[str, None] = {}

    def note(path: str, *_: object) -> None:
        seen.setdefault(path)

    hooks = [one.register_forward_pre_hook(partial(note, path)) for path, one in module.named_modules()]
    try:
        for masked in (False, True):  # transformers 5.23 looks at the values of a mask, which are none on meta
            seen.clear()
            if _passes(module, masked=masked):
                return tuple(seen)
    finally:
        for hook in hooks:
            hook.remove()
    return None


def _passes(module: nn.Module, *, masked: bool) -> bool:
    call = arguments(module, torch.zeros(SHAPE, dtype=torch.long, device="meta"), masked=masked)
    if isinstance(call, str):
        return False
    try:
        with silent(), untouched(module, torch.device("meta")):
            module(*call[0], **call[1])
    except (Exception, SystemExit):  # noqa: BLE001  # a forward pass may fail in any way, on meta above all
        return False
    return True
