"""The version stands in one file, and everybody who tells it reads it there."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys

import tiecheck
from tiecheck._version import __version__


def test_the_package_and_what_is_installed_tell_one_version() -> None:
    assert tiecheck.__version__ == __version__ == importlib.metadata.version("tiecheck")


def test_reading_it_imports_nothing_else_of_ours() -> None:
    told = "import sys, tiecheck._version; print(*sorted(n for n in sys.modules if n.startswith('tiecheck')))"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["tiecheck", "tiecheck._version"]
