"""Pythons that have older libraries, for the slow tests that ask these themselves."""

from __future__ import annotations

import functools
import hashlib
import os
import subprocess
import sys
import tempfile
import venv
from collections.abc import Sequence
from pathlib import Path

REQUIREMENT = "transformers==4.57.6"
NAMED = "TIECHECK_TRANSFORMERS_4"
"""The environment variable that names a Python to use instead."""

ROOT = Path(__file__).parents[1]


@functools.cache
def older_python() -> str:
    """The path of a Python that imports transformers 4.57.6 and torch.

    The one that `TIECHECK_TRANSFORMERS_4` names, or a virtual environment that is made once.

    Raises:
        subprocess.CalledProcessError: The package index cannot be reached.
    """
    return os.environ.get(NAMED) or python_with("transformers-4.57.6", (REQUIREMENT,))


@functools.cache
def python_with(label: str, *installs: Sequence[str]) -> str:
    """The path of a Python with other packages than this one.

    A virtual environment that is made once from the package index and kept in the user's cache. It has the torch of
    this environment: what it installs itself comes first.

    Args:
        label: What its folder is called.
        installs: The arguments of each `pip install`, one after the other.

    Raises:
        subprocess.CalledProcessError: The package index cannot be reached.
    """
    import torch

    site = Path(torch.__file__).parents[1]
    wanted = " ".join(word for words in installs for word in words)
    key = hashlib.sha256(f"{wanted} {sys.version} {site}".encode()).hexdigest()[:12]
    home = _cache() / f"{label}-{key}"
    if not home.exists():
        with tempfile.TemporaryDirectory(dir=_cache()) as folder:
            made = Path(folder) / "venv"
            _make(made, site, installs)
            _keep(made, home)
    return str(_python(home))


@functools.cache
def layer(requirement: str) -> str:
    """A folder with one package alone, without what it depends on, to be put on the path of any Python.

    Args:
        requirement: The package, pinned.

    Raises:
        subprocess.CalledProcessError: The package index cannot be reached.
    """
    home = _cache() / f"layer-{requirement}-{sys.version_info.major}.{sys.version_info.minor}"
    if not home.exists():
        with tempfile.TemporaryDirectory(dir=_cache()) as folder:
            made = Path(folder) / "layer"
            _install(sys.executable, "--no-deps", "--target", str(made), requirement)
            _keep(made, home)
    return str(home)


def _cache() -> Path:
    found = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tiecheck-tests"
    found.mkdir(parents=True, exist_ok=True)
    return found


def _keep(made: Path, home: Path) -> None:
    try:
        made.rename(home)
    except OSError:  # another test process was faster
        if not home.exists():
            raise


def _make(home: Path, site: Path, installs: Sequence[Sequence[str]]) -> None:
    venv.create(home, with_pip=True)
    python = str(_python(home))
    for words in installs:
        _install(python, *words)
    found = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True,
        capture_output=True,
        text=True,
    )
    # Only now: pip would take what it sees there for installed.
    (Path(found.stdout.strip()) / "torch-of-the-tests.pth").write_text(f"{site}\n", encoding="utf-8")


def _install(python: str, *words: str) -> None:
    subprocess.run([python, "-m", "pip", "install", "--quiet", *words], check=True)


def _python(home: Path) -> Path:
    return home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def run_older(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the Python of transformers 4.57.6 with this checkout's tiecheck, offline."""
    return run_with(older_python(), *arguments)


def run_with(python: str, *arguments: str, path: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    """Run a Python with this checkout's tiecheck, offline.

    Args:
        python: The Python.
        arguments: What it runs.
        path: Folders whose packages come first.
    """
    paths = os.pathsep.join([*path, str(ROOT), str(ROOT / "tests")])
    environment = {**os.environ, "PYTHONPATH": paths, "HF_HUB_OFFLINE": "1"}
    return subprocess.run([python, *arguments], capture_output=True, text=True, check=False, env=environment, cwd=ROOT)
