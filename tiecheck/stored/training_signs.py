"""Signs that a training left, by names alone: optimizer states beside a checkpoint, a wrapper's prefix in it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import cast

from tiecheck.records.stored import Checkpoint

STATES = r"(optimizer|optim)(_\d+)?\.(pt|bin|pth|safetensors)"
"""transformers' Trainer writes `optimizer.pt` and with FSDP `optimizer.bin`, accelerate `optimizer.bin`, then
`optimizer_1.bin` (transformers 5.23, accelerate 1.15); mlx and others a safetensors file."""

METADATA = ".metadata"
"""The file that makes a folder a distributed checkpoint (`torch.distributed.checkpoint`, torch 2.13)."""

ZERO = r"global_step\d+"
"""DeepSpeed's folder of partitioned states."""

TRAINER = "trainer_state.json"
"""File that transformers' Trainer leaves in each of its checkpoints."""


def find_states(root: str, names: Iterable[str]) -> tuple[str, ...]:
    """Return the optimizer states of a directory, relative to it: files, `.metadata` files, DeepSpeed's folders."""
    found = []
    for name in names:
        if name == METADATA or (
            name.startswith(("optim", "global_step")) and (re.fullmatch(STATES, name) or re.fullmatch(ZERO, name))
        ):
            found.append(name)
        elif "." not in name and os.path.isfile(os.path.join(root, name, METADATA)):
            found.append(f"{name}/{METADATA}")
    return tuple(sorted(found))


def may_be_wrapped(checkpoint: Checkpoint) -> bool:
    """Tell whether the first and the last name of each shard all begin with one part, as under a wrapper's prefix."""
    ends = {end for shard in checkpoint.shards for end in _ends(shard.entries)}
    return len({name.partition(".")[0] for name in ends}) == 1 and all("." in name for name in ends)


def _ends(entries: Mapping[str, object]) -> tuple[str, ...]:
    if not entries:
        return ()
    return next(iter(entries)), next(reversed(cast("dict[str, object]", entries)))
