"""What is generated is up to date (docs, schema, README, CONTRIBUTING), also where the `live` extra is missing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HERE = os.environ | {"PYTHONPATH": str(ROOT)}
"""The package beside this test, whatever is installed."""
WITHOUT = """
import runpy, sys
missing = sys.argv[1:]
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in missing:
            raise ModuleNotFoundError(name)
from importlib import util
found = util.find_spec
util.find_spec = lambda name: None if name in missing else found(name)
sys.meta_path.insert(0, Missing())
sys.argv = ["docs/generate.py", "--check"]
runpy.run_path("docs/generate.py", run_name="__main__")
"""


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False, env=HERE)


@pytest.mark.slow
def test_generated_files_are_up_to_date() -> None:
    """In every run of `.ci/run` by the same command."""
    done = python("docs/generate.py", "--check")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == "everything generated is up to date\n", "every block was looked at"


@pytest.mark.parametrize(
    ("missing", "told"),
    [
        (
            "torch transformers accelerate",
            "accelerate, transformers and torch: fixed, gpt2, inspect, lanes, olmo, tree",
        ),
        pytest.param("lightning", "lightning: inspect", marks=pytest.mark.slow),
    ],
)
def test_without_the_live_extra_or_a_tool_all_but_a_few_are_looked_at(missing: str, told: str) -> None:
    done = python("-c", WITHOUT, *missing.split())
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[1:] == [f"not looked at without {told}"]
