"""The names of a checkpoint against the names of its class: a wrapper's prefix, and aliases that are not stored."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import takewhile
from typing import TYPE_CHECKING

from tiecheck.records.declared import Architecture
from tiecheck.records.stored import Checkpoint, Group
from tiecheck.records.words import Unknown
from tiecheck.stored.training_signs import may_be_wrapped

if TYPE_CHECKING:
    from tiecheck.records.files import StrictLoad


WRAPPING = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module"})
"""Parts of a name that DataParallel and its kin, `torch.compile` and FSDP put first (torch 2.13)."""


def fit_names(
    checkpoint: Checkpoint,
    architecture: Architecture,
    groups: tuple[Group, ...] | Unknown,
    built: Iterable[str],
    resumed: tuple[str, ...],
) -> StrictLoad | Unknown:
    """Hold the stored names against those of the class, by the table or where it was built; or say why that is unknown.

    A class that nobody knows may have any names. `resumed` are signs that a training is to be resumed from here.
    """
    from tiecheck.records.files import StrictLoad

    own = tuple(built) or tuple(name for spec in architecture.ties for name in spec.names)
    prefix, renamed = _prefix(checkpoint, own, architecture)
    if prefix is None and isinstance(groups, Unknown):
        return groups
    known = () if isinstance(groups, Unknown) else groups
    aliases = tuple((g.missing, g.stored_names) for g in known if g.declared and g.missing and g.stored_names)
    stored = sum(len(shard.entries) for shard in checkpoint.shards)
    doubled = prefix == f"{architecture.prefix}."
    return StrictLoad(prefix, renamed, stored, aliases if prefix is None or doubled else (), resumed, doubled)


def _prefix(
    checkpoint: Checkpoint, own: tuple[str, ...], architecture: Architecture
) -> tuple[str | None, tuple[str, str] | None]:
    """Return the text before every stored name, such that without it the class would find its own."""
    if checkpoint.by_mlx or not may_be_wrapped(checkpoint):
        return None, None
    if not own and architecture.known:
        return _wrapped(checkpoint)
    base = f"{architecture.prefix}."
    again = [name for name in own if name.startswith(base) and name not in checkpoint and base + name in checkpoint]
    if again and _everywhere(base, checkpoint):
        return base, (base + again[0], again[0])
    spelt = {other for spec in architecture.ties for others in spec.spellings.values() for other in others}
    if not own or any(name in checkpoint for name in {*own, *spelt}):
        return None, None
    endings = tuple(f".{member}" for member in own)
    for shard in checkpoint.shards:
        for name in shard.entries:
            if name.endswith(endings):
                member = next(m for m in sorted(own, key=len, reverse=True) if name.endswith(f".{m}"))
                prefix = name[: -len(member)]
                if prefix != base and _everywhere(prefix, checkpoint):
                    return prefix, (name, member)
    return None, None


def _wrapped(checkpoint: Checkpoint) -> tuple[str | None, tuple[str, str] | None]:
    """Return the prefix of a wrapper before every name of a class without ties, of which no name is known."""
    name = next((name for shard in checkpoint.shards for name in shard.entries), "")
    prefix = "".join(f"{part}." for part in takewhile(WRAPPING.__contains__, name.split(".")))
    return (prefix, (name, name.removeprefix(prefix))) if prefix and _everywhere(prefix, checkpoint) else (None, None)


def _everywhere(prefix: str, checkpoint: Checkpoint) -> bool:
    return all(name.startswith(prefix) for shard in checkpoint.shards for name in shard.entries)
