"""The scale of the ties of a module on meta, whose values are those of its file."""

from __future__ import annotations

from tiecheck.live.build import Built
from tiecheck.records.scale import InitScale
from tiecheck.records.stored import Checkpoint, Group
from tiecheck.records.words import Unknown
from tiecheck.scale.live import live_scale
from tiecheck.scale.stored import stored_scale


def meta_scales(
    built: Built, checkpoint: Checkpoint | None, ties: list[tuple[str, ...]], groups: tuple[Group, ...]
) -> tuple[InitScale | Unknown, ...] | Unknown:
    """Return the scale of each tie of a module on meta, whose values its file has."""
    if ties and (checkpoint is None or checkpoint.format != "safetensors"):
        return Unknown("on meta there are no values, and there is no safetensors file to read them from; use --load")
    return tuple(_group_scale(built, checkpoint, names, groups) for names in ties) if checkpoint else ()


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
