"""How a strategy turns the memory that is given into what each device may take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch

from tiecheck.placement.planners.sizes import Bytes, Sizes
from tiecheck.placement.planners.tree import Tree

Memory = dict[int | str, Bytes]


def in_order(memory: Mapping[int | str, Bytes]) -> Memory:
    """The memory in the order in which devices are filled (`get_max_memory`, accelerate 1.15).

    Raises:
        ValueError: For a key that is no device of theirs.
    """
    gpus = sorted(key for key in memory if isinstance(key, int))
    order: list[int | str] = [*gpus, *[key for key in ("mps", "cpu", "disk") if key in memory]]
    for key in memory:
        if key not in order:
            raise ValueError(
                f"Device {key} is not recognized, available devices are integers(for GPU/XPU), 'mps', 'cpu' and 'disk'"
            )
    return {key: memory[key] for key in order}


def balanced(  # noqa: PLR0913  # what the tools' own function takes
    tool: Literal["accelerate", "transformers"],
    tree: Tree,
    sizes: Sizes,
    memory: Mapping[int | str, Bytes],
    no_split: tuple[str, ...],
    *,
    low_zero: bool,
) -> Memory:
    """What `get_balanced_memory` makes of a memory (accelerate 1.15, transformers 5.23).

    Every GPU but the last is held to its share and a buffer: a quarter more than the largest whole block, or than the
    mean of the last modules (accelerate) or the largest of them (transformers).

    Raises:
        Exception: What the tool raises: accelerate's own `torch.device("disk")` on a memory that names the disk
            (1.15), transformers' `max()` of nothing where no module has a class that must stay whole, a KeyError where
            GPUs are not numbered from 0 under `balanced_low_0`.
    """
    left = in_order(memory)
    count = _accelerators(left) if tool == "accelerate" else _not_host(left)
    if count == 0:
        return left
    low_zero = low_zero and count > 1
    total = sizes.of[""]
    share = total // (count - 1 if low_zero else count)
    share += _blocks(tree, sizes, no_split) if tool == "accelerate" else _largest(tree, sizes, no_split)
    gpus = sorted(key for key, nbytes in left.items() if isinstance(key, int) and nbytes > 0)
    for gpu in gpus[:-1]:
        left[gpu] = min(left[0] if low_zero and gpu == 0 else share, left[gpu])
    if low_zero:
        least = max(0, total - sum([left[gpu] for gpu in range(1, count)]))
        left[0] = min(least, left[0])
    return left


def _accelerators(memory: Memory) -> int:
    """Devices that accelerate counts: the numbered ones, and what torch has for its kind of accelerator."""
    from accelerate.utils import is_mps_available

    kind = "mps" if is_mps_available() else "cuda"
    return sum([(isinstance(key, int) or torch.device(key).type == kind) and memory[key] > 0 for key in memory])


def _not_host(memory: Memory) -> int:
    return sum([nbytes > 0 for key, nbytes in memory.items() if key not in ("cpu", "disk")])


def _blocks(tree: Tree, sizes: Sizes, no_split: tuple[str, ...]) -> int:
    """Accelerate's buffer: of each class that stays whole the first module counts, the largest or not."""
    block: Bytes = 0
    if no_split:
        classes = dict(zip(tree.paths, tree.classes, strict=True))
        found: dict[str, Bytes] = {}
        for name, nbytes in sizes.of.items():
            kind = classes.get(name, "")
            if name and kind in no_split:
                found.setdefault(kind, nbytes)
                if len(found) == len(set(no_split)):
                    break
        block = max(found.values(), default=0)
    tensors = _leaves(sizes.of)
    modules = {name: nbytes for name, nbytes in sizes.of.items() if name not in tensors}
    last = _leaves(modules)
    mean = int(sum([modules[name] for name in last]) / max(len(last), 1))
    return int(1.25 * max(block, mean))


def _leaves(of: dict[str, Any]) -> set[str]:
    """Names under which no other stands; one without a dot counts for nothing above it."""
    above = {name.rpartition(".")[0] for name in of if "." in name}
    return {name for name in of if name and name not in above}


def _largest(tree: Tree, sizes: Sizes, no_split: tuple[str, ...]) -> int:
    """Transformers' buffer: the largest module that stays whole, or that holds tensors."""
    block: Bytes = 0
    if no_split:
        block = max(
            sizes.of.get(path, 0) for path, kind in zip(tree.paths, tree.classes, strict=True) if kind in no_split
        )
    return int(1.25 * max(block, max(sizes.holders.values(), default=0)))
