"""The wheel as users get it: it holds no generator, and judges every fixture in an environment without torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODELS = sorted(file.parent for file in (ROOT / "fixtures" / "models").glob("*/expect.toml"))


def run(*words: object, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*map(str, words)], capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("wheel")
    done = run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", where, ROOT)
    assert done.returncode == 0, done.stderr
    (made,) = where.glob("*.whl")
    return made


@pytest.mark.slow
def test_the_wheel_holds_the_package_without_its_generators(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {"tiecheck/__init__.py", "tiecheck/py.typed", "tiecheck/render/report.schema.json"} <= {*names}
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"tiecheck"}
    assert [name for name in names if "generate" in name] == []


@pytest.mark.slow
def test_without_torch_the_wheel_judges_every_fixture(wheel: Path, tmp_path: Path) -> None:
    run(sys.executable, "-m", "venv", tmp_path / "env")
    python = tmp_path / "env" / "bin" / "python"
    plain = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = run(python, "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt", wheel, env=plain)
    assert done.returncode == 0, done.stderr
    assert run(python, "-c", "import torch", env=plain).returncode != 0
    done = run(python, "-m", "tiecheck", *MODELS, "-f", "json", cwd=tmp_path, env=plain)
    assert done.returncode == 1, done.stderr
    for directory, target in zip(MODELS, json.loads(done.stdout)["targets"], strict=True):
        expect = tomllib.loads((directory / "expect.toml").read_text())["check"]
        assert target["errors"] == [], directory
        assert target["status"] == expect["status"], directory
        assert sorted(f"{f['code']} {f['severity']}" for f in target["findings"]) == expect["findings"], directory
