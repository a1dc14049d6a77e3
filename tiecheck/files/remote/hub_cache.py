"""The hub's local cache: `models--org--name/refs/REVISION` names a commit, `snapshots/COMMIT` links to its files."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from typing import TYPE_CHECKING, NamedTuple

from tiecheck.errors import TargetError
from tiecheck.files.checkpoint import INDEX_ENDING, parse_index, pick
from tiecheck.files.local import inside, read_bytes
from tiecheck.files.model_config import CONFIG_NAME

COMMIT = re.compile(r"[0-9a-f]{40}")

if TYPE_CHECKING:
    from tiecheck.files.remote.hub import HubAddress


class Snapshot(NamedTuple):
    """A model in the cache."""

    path: str
    """The directory or file."""
    lacks: str
    """Why it will not do, as the end of a sentence; empty where it has all that is needed."""


def snapshot_of(cache: str, address: HubAddress, revision: str, file: str, names: Collection[str] | None) -> Snapshot:
    """Look a model up in the cache.

    Args:
        cache: The cache's root.
        address: The model and the folder in it.
        revision: Branch, tag or commit.
        file: The one file that is wanted; empty for a model directory.
        names: The files of the folder, where the hub was asked; None to go by what the cache holds.
    """
    repo = os.path.join(cache, f"models--{address.repo.replace('/', '--')}")
    commit = revision
    try:
        with open(os.path.join(repo, "refs", revision), encoding="ascii") as ref:
            commit = ref.read(64).strip()
    except (OSError, ValueError):
        pass
    if not COMMIT.fullmatch(commit):
        return Snapshot("", f"revision {revision} is not in the hub's cache, {cache}")
    root = os.path.join(repo, "snapshots", commit, *filter(None, address.path.split("/")))
    if not os.path.isdir(root):
        return Snapshot(root, f"revision {revision} is not in the hub's cache, {cache}")
    missing = _missing(root, file, names)
    return Snapshot(os.path.join(root, file) if file else root, f"the hub's cache lacks {missing}" if missing else "")


def _missing(root: str, file: str, names: Collection[str] | None) -> str:
    """The first file that is needed and not there; empty where all are."""
    there = os.listdir(root)
    name = file or pick(names if names is not None else there, root)
    if names is not None and CONFIG_NAME in names and CONFIG_NAME not in there:
        return CONFIG_NAME
    if name is None:
        return "" if names is not None else "the weights"
    if not os.path.exists(os.path.join(root, name)):
        return name
    if not name.endswith(INDEX_ENDING):
        return ""
    path = inside(root, name)
    try:
        _, shards = parse_index(read_bytes(path, path), path)
    except TargetError:
        return ""  # told when the directory is read
    return next((shard for shard in shards if not os.path.exists(os.path.join(root, shard))), "")
