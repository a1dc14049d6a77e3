"""The scale of the ties of a module that was built or given; on meta its values are those of its file."""

from __future__ import annotations

from collections.abc import Iterable

from tiecheck.live.build import Built
from tiecheck.live.wrappers import without_wrappers
from tiecheck.records.live import Tie
from tiecheck.records.scale import InitScale
from tiecheck.records.stored import Checkpoint, Group
from tiecheck.records.words import TIED, Unknown
from tiecheck.scale.live import live_scale
from tiecheck.scale.stored import is_matrix, stored_scale


def built_scales(
    built: Built, ties: Iterable[Tie], checkpoint: Checkpoint | None, groups: tuple[Group, ...], *, measure: bool
) -> tuple[InitScale | Unknown, ...] | Unknown:
    """Return the scale of each tie of a module that may be embedding and head; on meta the file has the values."""
    names = [tie.names for tie in ties if _may_be_head(tie)]
    if built.origin != "built on meta":
        module = without_wrappers(built.module) if built.origin == "given" else built.module
        return tuple(live_scale(module, group, measure=measure) for group in names)
    if names and (checkpoint is None or checkpoint.format != "safetensors"):
        return Unknown("on meta there are no values, and there is no safetensors file to read them from; use --load")
    return tuple(_group_scale(built, checkpoint, group, groups) for group in names) if checkpoint else ()


def _may_be_head(tie: Tie) -> bool:
    """Tell whether a real tie can be embedding and head: a matrix that an embedding of some kind registers."""
    by_embedding = any("embedding" in place.owner.lower() for place in tie.registrations)
    return tie.kind in TIED and is_matrix(tie.shape) and by_embedding


def _group_scale(
    built: Built, checkpoint: Checkpoint, names: tuple[str, ...], groups: tuple[Group, ...]
) -> InitScale | Unknown:
    """Return the deviation from the file, with the way from head to logits from the module on meta."""
    spelled = (n for group in groups if not set(names).isdisjoint(group.names) for n in group.stored_names)
    stored = next((name for name in (*names, *spelled) if name in checkpoint), None)
    if stored is None:
        return Unknown(f"none of {', '.join(names)} is stored under a name that is known")
    from_file = stored_scale(checkpoint, names, stored, None)
    if isinstance(from_file, Unknown) or not from_file.untrained:
        return from_file
    traced = live_scale(built.module, names, std=from_file.std)
    if isinstance(traced, Unknown):
        return traced
    return traced._replace(untrained=from_file.untrained, evidence=from_file.evidence)
