"""What is generated is up to date: docs, schema, README."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_generated_files_are_up_to_date() -> None:
    here = os.environ | {"PYTHONPATH": str(ROOT)}  # the package beside this test, whatever is installed
    done = subprocess.run(
        [sys.executable, "docs/generate.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False, env=here
    )
    assert done.returncode == 0, done.stdout + done.stderr
