"""Files that git says changed: against a revision, in the working tree, and those that it does not know yet."""

from __future__ import annotations

import os
import subprocess

from tiecheck.errors import TargetError

QUIET = ("-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null")
"""Settings that keep a repository's own programs from being run."""

FILTERS = r"^filter\..*\.(clean|process)$"
"""Settings of the programs that a comparison with the working tree runs over files that `.gitattributes` names."""


def changed_paths(path: str, revision: str) -> frozenset[str]:
    """Return the real paths of the files under a path that changed since a branch left a revision.

    `HEAD` is for what is not committed. Without git, a repository or such a revision there is a `TargetError`.
    """
    folder = path if os.path.isdir(path) else os.path.dirname(path) or os.curdir
    asked = ("config", "--show-scope", "--name-only", "-z", "--get-regexp", FILTERS)
    told = _asked(folder, *asked).stdout.split("\0")  # the user's own, as of git-lfs, are not the repository's
    ours = [name for scope, name in zip(told[::2], told[1::2], strict=False) if scope in {"local", "worktree"}]
    if any("=" in name for name in ours):
        raise TargetError(f"the repository of {path} runs a program of its own on its files, and is not asked", path)
    quiet = tuple(word for name in ours for word in ("-c", f"{name}="))
    top = _told(folder, path, "rev-parse", "--show-toplevel").removesuffix("\n")
    given = ("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    commit = _told(folder, f"{revision} is no revision of {top}", *given).strip()
    diff = ("diff", "--name-only", "-z", "--no-ext-diff", "--no-textconv", "--ignore-submodules", "--diff-filter=d")
    known = _told(folder, path, *quiet, *diff, "--merge-base", commit, "--", ".")
    new = _told(folder, path, "ls-files", "-z", "--others", "--exclude-standard", "--full-name", "--", ".")
    names = (*known.split("\0"), *new.split("\0"))
    return frozenset(os.path.realpath(os.path.join(top, name)) for name in names if name)


def _told(folder: str, what: str, *words: str) -> str:
    """Return what git prints, or raise a `TargetError`."""
    done = _asked(folder, *words)
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise TargetError(f"{what}: {said[-1]}" if said else what, folder)
    return done.stdout


def _asked(folder: str, *words: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(  # noqa: S603  # words of ours, and a revision that git is told to be one
            ["git", "-C", folder, *QUIET, *words],  # noqa: S607  # the user's git
            capture_output=True,
            check=False,
            encoding="utf-8",
            errors="surrogateescape",
        )
    except OSError as error:
        raise TargetError(f"--changed-only asks git, which cannot be run: {error.strerror or error}", folder) from error
