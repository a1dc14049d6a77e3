"""The names on which an index and the headers of its shards do not agree, and what comes of it."""

from __future__ import annotations

from tiecheck.records.files import Gap, IndexGap
from tiecheck.records.loaders import LoaderView
from tiecheck.records.stored import Checkpoint, Group


def find_gaps(checkpoint: Checkpoint, groups: tuple[Group, ...], views: tuple[LoaderView, ...]) -> tuple[IndexGap, ...]:
    """Return the names that index or headers alone have, or in another file; by file, and by what comes of it."""
    tied = {name for group in groups if group.declared and group.tensors for name in group.missing}
    found: dict[tuple[str, Gap], list[str]] = {}
    by_path = {shard.path: shard for shard in checkpoint.shards}
    for name, file in checkpoint.weight_map.items():
        shard = by_path.get(file)
        if shard is not None and name not in shard.entries:
            gap: Gap = "elsewhere" if checkpoint.shard_of(name) else "tied" if name in tied else "nowhere"
            found.setdefault((file, gap), []).append(name)
    for shard in checkpoint.shards:
        for name in shard.entries:
            if name not in checkpoint.weight_map:
                found.setdefault((shard.path, "unindexed"), []).append(name)
    return tuple(
        IndexGap(file, gap, tuple(sorted(names)), _hurts(names, groups, views) if gap == "unindexed" else ())
        for (file, gap), names in sorted(found.items())
    )


def _hurts(names: list[str], groups: tuple[Group, ...], views: tuple[LoaderView, ...]) -> tuple[LoaderView, ...]:
    """Return the lines of transformers that read the index's names alone, and lose a group for it."""
    unseen = set(names)
    lost = {group.names for group in groups if unseen & set(group.stored_names)}
    of_index = (view for view in views if (view.loader, view.versions) == ("transformers", "4.57"))
    return tuple(view for view in of_index if view.names in lost and view.hurts and not view.stopped)
