"""The experts of a mixture, which transformers 5 joins into one tensor on load, and fails where one lacks a part."""

from __future__ import annotations

from tiecheck.records.stored import Checkpoint

MARK = ".experts."

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
