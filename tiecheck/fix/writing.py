"""New files beside the old: staged, written to the disk, and moved to their places so that a kill loses nothing.

A fix in place works in `.tiecheck-fix` within the model's directory. Until the file `commit` stands there nothing else
was touched, and the old files are the model; from then on all new files are on the disk, and whoever comes next
finishes the moves. A fix of a copy is one new directory, which gets its name last.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable
from typing import Any

from tiecheck.errors import TargetError
from tiecheck.files.local import parse_json, path_inside, read_bytes
from tiecheck.fix.plan import FixPlan
from tiecheck.fix.refusals import check_space, file_identities
from tiecheck.fix.tensors import write_shard
from tiecheck.records.edits import COMMIT, WORK, TensorChange
from tiecheck.targets.layouts import folder_walk

DONE = "-done"
"""Ending that the folder gets once every file has its place."""

BACKUP = ".orig"
"""Ending of an original that is kept."""

WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf")
"""Endings of files that a copy shares with its original where it can."""

Hook = Callable[[str], None]
"""Called with a word between any two writes."""


def recover_interrupted(root: str) -> str | None:
    """Finish or clear away what an interrupted fix has left, and say which; None where there was none.

    A file that has changed since raises a `TargetError`: neither the old nor the new files are whole.
    """
    work = os.path.join(root, WORK)
    for folder in (work, work + DONE):
        if os.path.islink(folder):
            raise TargetError(f"{folder} is a link, which no fix has left; remove it", folder)
    if os.path.isdir(work + DONE):
        shutil.rmtree(work + DONE)
        return "the last fix was complete: the new files are in place"
    if not os.path.isdir(work):
        return None
    commit = os.path.join(work, COMMIT)
    if not os.path.exists(commit):
        shutil.rmtree(work)
        return "an interrupted fix had written nothing yet: the old files are in place, and its own are removed"
    told = _read_commit(root, commit)
    waiting = [name for name in told["order"] if os.path.exists(os.path.join(work, "new", name))]
    waiting += [name for name in told["removed"] if os.path.exists(os.path.join(root, name))]
    there = [name for name in waiting if os.path.lexists(os.path.join(root, name))]  # a new name is not, yet
    odd = next((n for n in there if file_identities(root, (n,))[n] != told["old"].get(n)), None)
    if odd:
        raise TargetError(
            f"{os.path.join(root, odd)} has changed since a fix was interrupted; the new files are in {work}/new: move "
            "them by hand, or remove that folder",
            root,
        )
    _move(root, told, lambda _: None)
    return "an interrupted fix is finished: the new files are in place"


def _read_commit(root: str, path: str) -> dict[str, Any]:
    """Return what an interrupted fix wrote down; what leads out of the directory, or is no such file, is refused.

    Whoever made the model may have put it there.
    """
    told = parse_json(read_bytes(path, path), path, path)
    kinds = {"order": list, "removed": list, "old": dict, "backup": bool}
    sound = isinstance(told, dict) and all(isinstance(told.get(key), kind) for key, kind in kinds.items())
    if not sound or not all(isinstance(name, str) and name for name in (*told["order"], *told["removed"])):
        raise TargetError(f"{path} is none that a fix has written; remove its folder", path)
    for name in (*told["order"], *told["removed"]):
        path_inside(root, name)
        path_inside(os.path.join(root, WORK), os.path.join("new", name))
    return dict(told)


def stage_in_place(plan: FixPlan, step: Hook) -> str:
    """Write the new files beside the old, in a folder that holds links to all others, and return it."""
    stage = os.path.join(plan.root, WORK, "new")
    paths = [os.path.join(plan.root, name) for name in (*plan.changed, *plan.removed)]
    for path in filter(os.path.exists, paths):
        if not os.stat(path).st_mode & 0o222:
            raise TargetError(f"{path} is read-only; --to NEWDIR fixes a copy", path)
    check_space(plan.root, plan.nbytes)
    os.makedirs(stage)
    step("folder made")
    for name in sorted(os.listdir(plan.root)):
        path = os.path.join(plan.root, name)
        if os.path.isfile(path) and not _new_file(plan, name, stage, step):
            _share(path, os.path.join(stage, name), link_first=True)
    _sync(stage)
    return stage


def stage_copy(plan: FixPlan, to: str, step: Hook) -> str:
    """Write a fixed copy under a name that is not its own yet, and return that.

    Weights that stay are shared with the original, by a reflink or a hard link where the file system has them. A
    directory that is there and not empty or cannot be made, too little room, or a link that leads elsewhere raise a
    `TargetError`.
    """
    parent, name = os.path.split(os.path.abspath(to))
    if os.path.realpath(to).startswith(os.path.join(os.path.realpath(plan.root), "")):
        raise TargetError(f"{to} lies within the model's own directory", to)
    if os.path.lexists(to) and (not os.path.isdir(to) or os.listdir(to)):
        raise TargetError(f"{to} is there already", to)
    try:
        os.makedirs(parent, exist_ok=True)
    except OSError as error:
        raise TargetError(f"{parent} cannot be made: {error.strerror}; {plan.root} is as it was", to) from error
    check_space(parent, plan.nbytes)
    stage = os.path.join(parent, f".{name}{WORK}")
    if os.path.isdir(stage):  # of a copy that was interrupted
        shutil.rmtree(stage)
    step("nothing yet")
    for folder, folders, files in folder_walk(plan.root):
        inner = os.path.relpath(folder, plan.root)
        folders[:] = [f for f in folders if f not in {WORK, WORK + DONE, ".git", ".cache"}]
        os.makedirs(os.path.join(stage, inner), exist_ok=True)
        for file in sorted(files):
            path = os.path.realpath(path_inside(plan.root, os.path.normpath(os.path.join(inner, file))))
            if inner != os.curdir or not _new_file(plan, file, stage, step):
                _share(path, os.path.join(stage, inner, file), link_first=False)
        _sync(os.path.join(stage, inner))
    return stage


def commit_copy(stage: str, to: str, step: Hook) -> None:
    """Give a copy its name."""
    step("copy written")
    if os.path.isdir(to):
        os.rmdir(to)
    os.rename(stage, to)
    _sync(os.path.dirname(os.path.abspath(to)))
    step("copy named")


def commit_in_place(plan: FixPlan, old: dict[str, list[int]], *, backup: bool, step: Hook) -> None:
    """Move staged files to their places: shards, config, the index last; then remove shards that nothing names.

    The files that go (`old`, with their identities from before anything was read) are kept as a backup if wanted; an
    older backup is never overwritten.
    """
    going = (*plan.changed, *plan.removed)
    kept = [name for name in going if backup and os.path.lexists(os.path.join(plan.root, name + BACKUP))]
    if kept:
        raise TargetError(f"{os.path.join(plan.root, kept[0] + BACKUP)} is there already", plan.root)
    told = {"order": plan.changed, "removed": plan.removed, "old": old, "backup": backup}
    work = os.path.join(plan.root, WORK)
    step("files written")
    write_text(os.path.join(work, "commit-new"), json.dumps(told))
    step("commit written")
    os.rename(os.path.join(work, "commit-new"), os.path.join(work, COMMIT))
    _sync(work)
    step("committed")
    _move(plan.root, told, step)


def _move(root: str, told: dict[str, Any], step: Hook) -> None:
    """Give all files their places; where the system refuses the first, the old ones stay, else the next fix goes on."""
    work = os.path.join(root, WORK)
    begun = not all(os.path.exists(os.path.join(work, "new", name)) for name in told["order"])
    try:
        for name in (*told["order"], *told["removed"]):
            _move_one(root, name, told, step)
            begun = True
    except OSError as error:
        if not begun:
            os.unlink(os.path.join(work, COMMIT))
            raise
        why = f"{error.filename or root}: {error.strerror or error}"
        raise TargetError(f"{why}; the new files are in {work}/new, and the next tiecheck fix goes on", root) from error
    _sync(root)
    os.rename(work, work + DONE)
    step("finished")
    shutil.rmtree(work + DONE)


def _move_one(root: str, name: str, told: dict[str, Any], step: Hook) -> None:
    """Give one file its place, or take one away, unless that was done before."""
    path, new = os.path.join(root, name), os.path.join(root, WORK, "new", name)
    waits = os.path.exists(new) if name in told["order"] else os.path.exists(path)
    if waits and told["backup"] and os.path.lexists(path) and not os.path.lexists(path + BACKUP):
        os.link(path, path + BACKUP)
        step(f"kept {name}")
    if waits and name in told["order"]:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.replace(new, path)
    elif waits:
        os.unlink(path)
    step(f"moved {name}")


def write_text(path: str, text: str, mode: int | None = None) -> None:
    """Write a small new file, down to the disk."""
    with open(path, "xb") as file:
        file.write(text.encode("utf-8"))
        file.flush()
        if mode is not None:
            os.fchmod(file.fileno(), mode)
        os.fsync(file.fileno())


def _new_file(plan: FixPlan, name: str, stage: str, step: Hook) -> bool:
    """Write a file that changes, or give it its new name; False where it stays as it is."""
    source, target = os.path.realpath(os.path.join(plan.root, name)), os.path.join(stage, plan.moves.get(name, name))
    mode = os.stat(source).st_mode & 0o7777
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if name in plan.layouts:
        write_shard(source, target, plan.layouts[name], step)
    elif name in plan.pickles:
        _write_pickle(source, target, plan.pickles[name], mode)
        step(f"written {target}")
    elif name in plan.texts:
        write_text(target, plan.texts[name][1], mode)
        step(f"written {name}")
    elif name in plan.moves:
        _share(source, target, link_first=True)
        step(f"named {plan.moves[name]}")
    return name in plan.removed or name in {*plan.layouts, *plan.pickles, *plan.texts}


def _write_pickle(source: str, target: str, change: TensorChange, mode: int) -> None:
    """Let torch write a pickle anew; where there is none, or it refuses the file, that is a `TargetError`."""
    try:
        from tiecheck.live.pickle_rewriting import rewrite_pickle
    except ImportError as error:
        raise TargetError(
            f"{source} is a pickle, which only torch writes: pip install 'tiecheck[live]', or save the model as "
            "safetensors first",
            source,
        ) from error
    rewrite_pickle(source, target, change)
    with open(target, "rb") as file:
        os.fchmod(file.fileno(), mode)
        os.fsync(file.fileno())


def _share(source: str, target: str, *, link_first: bool) -> None:
    """Make a file that stays stand in another folder too: shared where it can be, else copied."""
    large = source.endswith(WEIGHTS) or target.endswith(WEIGHTS)
    if not link_first and large and _reflinked(source, target):
        return
    if link_first or large:
        with contextlib.suppress(OSError):
            os.link(source, target)
            return
    check_space(os.path.dirname(target), os.path.getsize(source))
    shutil.copy2(source, target)


def _reflinked(source: str, target: str) -> bool:
    try:
        import fcntl

        with open(source, "rb") as old, open(target, "xb") as new:
            fcntl.ioctl(new, 0x40049409, old.fileno())  # FICLONE (linux/fs.h), for btrfs and xfs
    except (ImportError, OSError):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(target)
        return False
    return True


def _sync(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
