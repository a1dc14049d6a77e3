"""Directories that a fix leaves alone: shared, read-only, being written, full, or under another fix."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Mapping

from tiecheck.errors import TargetError
from tiecheck.files.checkpoint import read_checkpoint
from tiecheck.files.local import path_inside
from tiecheck.wording import size

SPARE = 16 * 1024 * 1024
"""Bytes that have to stay free."""


def refuse_unwritable(root: str) -> None:
    """Refuse to change a directory that is a link, holds links, or cannot be written, and tell the way out."""
    plain = os.path.abspath(root)
    links = [name for name in os.listdir(plain) if os.path.islink(os.path.join(plain, name))]
    for name in links:
        path_inside(plain, name)  # a copy would not follow it either
    if os.path.islink(plain) or links or (f"{os.sep}snapshots{os.sep}" in plain and "models--" in plain):
        what = f"{os.path.join(root, links[0])} is a link" if links else f"{root} is a link or lies in the hub's cache"
        raise TargetError(f"{what}, and others may share it; --to NEWDIR fixes a copy", root)
    stats = os.statvfs(plain)
    if not os.access(plain, os.W_OK) or not os.stat(plain).st_mode & 0o222 or stats.f_flag & os.ST_RDONLY:
        raise TargetError(f"{root} cannot be written; --to NEWDIR fixes a copy", root)


def refuse_partial(root: str) -> None:
    """Refuse a checkpoint of which a shard is missing: what it holds cannot be told, and no part is changed."""
    checkpoint = read_checkpoint(root)
    if checkpoint is not None and checkpoint.missing_files:
        missing = os.path.join(root, checkpoint.missing_files[0])
        raise TargetError(f"{missing} is not here, and a part of a model is not fixed", root)


def refuse_open(root: str, names: tuple[str, ...]) -> None:
    """Refuse files that another process has open for writing, where the system tells (Linux, by a lease)."""
    try:
        import fcntl

        lease, read, none = fcntl.F_SETLEASE, fcntl.F_RDLCK, fcntl.F_UNLCK
    except (ImportError, AttributeError):
        return
    for name in names:
        with open(os.path.join(root, name), "rb") as file:
            try:
                fcntl.fcntl(file, lease, read)
                fcntl.fcntl(file, lease, none)
            except OSError as error:
                if error.errno == errno.EAGAIN:
                    path = os.path.join(root, name)
                    raise TargetError(f"{path} is being written by another process; try again later", path) from error


def file_identities(root: str, names: tuple[str, ...]) -> dict[str, list[int]]:
    """Return what tells a file from a later one of the same name: inode, bytes and time of change."""
    found = {}
    for name in names:
        stats = os.stat(os.path.join(root, name))
        found[name] = [stats.st_ino, stats.st_size, stats.st_mtime_ns]
    return found


def refuse_changed(root: str, old: Mapping[str, list[int]]) -> None:
    """Refuse to replace files of a directory in which one is being written, or no longer what was judged (`old`)."""
    refuse_open(root, tuple(name for name in old if os.path.isfile(os.path.join(root, name))))
    try:
        same = file_identities(root, tuple(old)) == old
    except FileNotFoundError:
        same = False
    if not same:
        raise TargetError(f"{root} changed while it was fixed; nothing was written", root)


def check_space(folder: str, nbytes: int) -> None:
    """Refuse where a file system has no room, with the bytes that are missing."""
    stats = os.statvfs(folder)
    free = stats.f_bavail * stats.f_frsize
    if free < nbytes + SPARE:
        raise TargetError(f"{folder} has {size(free)} free, and {size(nbytes + SPARE)} are needed", folder)


@contextlib.contextmanager
def locked_folder(root: str) -> Iterator[None]:
    """Hold a directory against another fix at the same time, refused where there is one."""
    import fcntl

    descriptor = os.open(root, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise TargetError(f"{root} is being fixed by another process", root) from error
    else:
        yield
    finally:
        os.close(descriptor)
