"""Pythons that have other packages than this one, for the slow tests that ask the other libraries themselves."""

from __future__ import annotations

import functools
import hashlib
import os
import re
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable, Sequence
from pathlib import Path

REQUIREMENT = "transformers==4.57.6"
NAMED = "TIECHECK_TRANSFORMERS_4"
"""The environment variable that names a Python to use instead."""

ROOT = Path(__file__).parents[2]


class NotOnIndexError(Exception):
    """The package index answers, and no longer has a release that was asked for."""


def _install(python: str, *words: str) -> None:
    """Install with pip; what an index has lost is told apart from an index that cannot be reached."""
    done = subprocess.run(
        [python, "-m", "pip", "install", "--quiet", *words], check=False, capture_output=True, text=True
    )
    lost = re.search(r"No matching distribution found for (\S+)", done.stderr)
    if lost and "(from versions: none)" not in done.stderr:  # which is what pip says where it reached nothing
        raise NotOnIndexError(lost[1])
    if done.returncode:
        raise subprocess.CalledProcessError(done.returncode, done.args, done.stdout, done.stderr)


@functools.cache
def older_python() -> str:
    """The path of a Python that imports transformers 4.57.6 and torch.

    The one that `TIECHECK_TRANSFORMERS_4` names, or a virtual environment that is made once from the package index
    and kept in the user's cache. It has the torch of this environment: what it installs itself comes first.

    Raises:
        subprocess.CalledProcessError: The package index cannot be reached.
    """
    return os.environ.get(NAMED) or python_with("transformers-4.57.6", REQUIREMENT)


@functools.cache
def python_with(name: str, *requirements: str) -> str:
    """The path of a Python that imports some packages beside everything that this environment has.

    A virtual environment that is made once from the package index and kept in the user's cache. It has the packages of
    this environment: what it installs itself comes first.

    Args:
        name: What to call it.
        requirements: What to install, as pip takes it; options too.

    Raises:
        NotOnIndexError: The package index has lost one of them.
        subprocess.CalledProcessError: The package index cannot be reached.
    """
    import torch

    site = Path(torch.__file__).parents[1]
    key = hashlib.sha256(f"{' '.join(requirements)} {sys.version} {site}".encode()).hexdigest()[:12]
    home = _kept(f"{name}-{key}", lambda made: _make(made, site, requirements))
    return str(_python(home))


@functools.cache
def layer(requirement: str) -> str:
    """A folder with one package alone, without what it depends on, to be put on the path of any Python.

    Args:
        requirement: The package, pinned.

    Raises:
        NotOnIndexError: The package index has lost it.
        subprocess.CalledProcessError: The package index cannot be reached.
    """

    def make(made: Path) -> None:
        _install(sys.executable, "--no-deps", "--target", str(made), requirement)

    return str(_kept(f"layer-{requirement}", make))


def _kept(name: str, make: Callable[[Path], None]) -> Path:
    """A folder of the user's cache, made once."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tiecheck-tests"
    home = cache / name
    if not home.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            made = Path(folder) / "made"
            make(made)
            try:
                made.rename(home)
            except OSError:  # another test process was faster
                if not home.exists():
                    raise
    return home


def _make(home: Path, site: Path, requirements: tuple[str, ...]) -> None:
    venv.create(home, with_pip=True)
    python = str(_python(home))
    _install(python, *requirements)
    found = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True,
        capture_output=True,
        text=True,
    )
    # Only now: pip would take what it sees there for installed.
    (Path(found.stdout.strip()) / "torch-of-the-tests.pth").write_text(f"{site}\n", encoding="utf-8")


def _python(home: Path) -> Path:
    return home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def run_older(*arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run the Python of transformers 4.57.6 with this checkout's tiecheck, offline."""
    return run_with(older_python(), *arguments, stdin=stdin)


def run_with(
    python: str, *arguments: str, path: Sequence[str] = (), stdin: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a Python with this checkout's tiecheck, offline.

    Args:
        python: The Python.
        arguments: What it runs.
        path: Folders whose packages come first.
        stdin: What it reads.
    """
    paths = os.pathsep.join([*path, str(ROOT), str(ROOT / "tests")])
    environment = {**os.environ, "PYTHONPATH": paths, "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [python, *arguments], capture_output=True, text=True, check=False, env=environment, cwd=ROOT, input=stdin
    )
