"""Without torch or transformers: what needs them says so in a sentence with the install line; the rest works."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys
for name in {missing!r}:
    sys.modules[name] = None  # importing it raises ModuleNotFoundError, as where it is not installed
sys.argv = ["tiecheck", *{arguments!r}]
from tiecheck.__main__ import main
main()
"""


def run(missing: list[str], *arguments: str) -> subprocess.CompletedProcess[str]:
    program = PROGRAM.format(missing=missing, arguments=list(arguments))
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("missing", "case", "options"),
    [
        (["torch", "transformers"], "llama-healthy-tied", ["--live"]),
        (["transformers"], "llama-healthy-tied", ["--live"]),
    ],
    ids=["live", "live-with-torch-alone"],
)
def test_a_missing_extra_is_one_sentence_and_status_2(
    models: Path, missing: list[str], case: str, options: list[str]
) -> None:
    done = run(missing, str(models / case), *options)
    assert done.returncode == 2
    assert "pip install 'tiecheck[live]'" in " ".join(done.stdout.split())
    assert "Traceback" not in done.stdout + done.stderr


def test_building_an_attribute_needs_torch(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text("def make(): return 1\n")
    done = run(["torch", "transformers"], f"{tmp_path / 'model.py'}:make")
    assert done.returncode == 2
    assert "pip install 'tiecheck[live]'" in " ".join(done.stdout.split())


@pytest.mark.parametrize("case", ["llama-healthy-tied", "llama-pickle-tied"])
def test_weights_need_neither(models: Path, case: str) -> None:
    done = run(["torch", "transformers", "accelerate", "numpy", "safetensors"], str(models / case))
    assert (done.returncode, done.stderr) == (0, "")
    with_them = run([], str(models / case)).stdout
    assert re.sub(r"[\d.]+ s$", "", done.stdout.strip()) == re.sub(r"[\d.]+ s$", "", with_them.strip())
