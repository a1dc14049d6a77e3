"""The experts of a mixture, which transformers 5 joins into one tensor on load, and fails where one lacks a part."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tiecheck.records.stored import Checkpoint

if TYPE_CHECKING:  # it is made where something is wrong
    from tiecheck.records.files import BesideAdapter, LoadProblem

MARK, CONFIG = ".experts.", "adapter_config.json"

MOST = 20_000
"""Names that are looked at; of more, the look would take as long as the reading of the headers."""


def lacking_expert(checkpoint: Checkpoint) -> str | None:
    """Return the first name that a layer's other experts have and one of them lacks; None where each has all.

    Nothing is said of a checkpoint of more than `MOST` names.
    """
    if sum(len(shard.entries) for shard in checkpoint.shards) > MOST:
        return None
    held: dict[str, dict[str, set[int]]] = {}
    for name in checkpoint.names():
        if MARK not in name:
            continue
        before, _, rest = name.partition(MARK)
        number, _, last = rest.partition(".")
        if number.isdigit():
            held.setdefault(before, {}).setdefault(last, set()).add(int(number))
    for before, parts in held.items():
        every = set().union(*parts.values())
        for last, there in parts.items():
            if there != every:
                return f"{before}{MARK}{min(every - there)}.{last}"
    return None


def adapter_problems(adapter: BesideAdapter) -> Iterator[LoadProblem]:
    """Yield doubts of an adapter beside the model: its weights are not there, or it is for one expert of several.

    Transformers 5 has joined the experts when it loads the adapter.
    """
    from tiecheck.records.files import LoadProblem

    if adapter.files == (CONFIG,):
        why = f"{CONFIG} lies in the directory without weights of it: where peft is installed, the load raises"
        yield LoadProblem("open", ("4.57", "5"), "unknown", why, why, CONFIG, "", ())
    own = next((n for n in sorted(adapter.targets) if MARK in n and n.partition(MARK)[2][:1].isdigit()), None)
    if own is not None:
        why = f"the adapter in the directory is for {own}, and transformers 5 joins the experts of a layer"
        yield LoadProblem("open", ("5",), "unknown", why, why, CONFIG, "", ())
