"""Building what the user named: whatever that code does, the report is whole and the cause is one sentence."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tiecheck.config.options import Config
from tiecheck.errors import TargetError
from tiecheck.files.model_config import read_config
from tiecheck.live.build import build_attribute, build_directory
from tiecheck.records.words import Unknown
from tiecheck.targets.parse import parse_target

TIED = """
import os, sys
from torch import nn

class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.wte = nn.Embedding(8, 4)
        self.head = nn.Linear(4, 8, bias=False)
        self.head.weight = self.wte.weight
"""

FAILING = {
    "raises": ("def make():\n    raise ValueError('no GPU\\n  here')", "calling it raised ValueError: no GPU here"),
    "raises without words": ("def make():\n    raise KeyError", "calling it raised KeyError$"),
    "raises what cannot be printed": (
        "class E(Exception):\n    def __str__(self):\n        raise self\ndef make():\n    raise E",
        "calling it raised E$",
    ),
    "leaves with 0": ("import sys\ndef make():\n    sys.exit(0)", "calling it raised SystemExit: 0"),
    "leaves while imported": ("import sys\nsys.exit(0)\nmake = None", r"importing .*m\.py raised SystemExit: 0"),
    "raises while imported": ("1 / 0", r"importing .*m\.py raised ZeroDivisionError: division by zero"),
    "does not compile": ("def make(:\n    pass", r"importing .*m\.py raised SyntaxError: .*\(m\.py, line 1\)"),
    "is no text": ("\0", r"importing .*m\.py raised (SyntaxError|ValueError)"),
    "imports what is not there": ("import not_there_at_all", "raised ModuleNotFoundError: No module named 'not_there_"),
    "returns a number": ("def make():\n    return 3", "gives an object of type int, not a torch.nn.Module"),
    "returns nothing": ("def make():\n    pass", "gives an object of type NoneType, not a torch.nn.Module"),
    "is a number": ("make = 3", "gives an object of type int, not a torch.nn.Module"),
    "is not there": ("maker = 3", r"m\.py has no 'make'; did you mean maker\?"),
    "needs arguments": (
        "from torch import nn\nclass make(nn.Module):\n    def __init__(self, width):\n        super().__init__()",
        "raised TypeError: .*'width'; name a function that needs no arguments and returns the model",
    ),
    "fails when looked up": (
        "def __getattr__(name):\n    raise RuntimeError('lazy')",
        r"looking make up in .*m\.py raised RuntimeError: lazy",
    ),
    "raises more than an Exception": (
        "class Stop(BaseException):\n    pass\ndef make():\n    raise Stop('now')",
        "calling it raised Stop: now",
    ),
    "talks much": ("def make():\n    raise ValueError('x' * 10_000)", "raised ValueError: x{300}$"),
}


@pytest.mark.parametrize("case", FAILING)
def test_failure_of_the_users_code_is_one_sentence(tmp_path: Path, case: str) -> None:
    source, says = FAILING[case]
    (tmp_path / "m.py").write_text(source)
    path = list(sys.path)
    with pytest.raises(TargetError, match=says) as caught:
        build_attribute(parse_target(f"{tmp_path}/m.py:make"))
    assert "m.py" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sys.path == path


def test_interrupt_is_not_swallowed(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text("def make():\n    raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        build_attribute(parse_target(f"{tmp_path}/m.py:make"))


@pytest.mark.parametrize("attribute", ["Tied", "make", "model", "Box.inner", "box.model"])
def test_class_function_and_module_are_built(tmp_path: Path, attribute: str) -> None:
    more = """
def make():
    return Tied()

model = Tied()

class Box:
    inner = Tied

box = Box()
box.model = model
"""
    (tmp_path / "m.py").write_text(TIED + more)
    module = build_attribute(parse_target(f"{tmp_path}/m.py:{attribute}"))
    assert type(module).__name__ == "Tied"


def test_package_is_imported_from_the_working_directory(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "tiecheck_test_package").mkdir()
    (tmp_path / "tiecheck_test_package" / "__init__.py").write_text("")
    (tmp_path / "tiecheck_test_package" / "models.py").write_text(TIED)
    monkeypatch.chdir(tmp_path)
    module = build_attribute(parse_target("tiecheck_test_package.models:Tied"))
    assert type(module).__module__ == "tiecheck_test_package.models"


def test_package_that_is_not_there_is_told() -> None:
    with pytest.raises(TargetError, match=r"importing not_there\.at_all raised ModuleNotFoundError"):
        build_attribute(parse_target("not_there.at_all:make"))


def test_file_finds_its_neighbours_when_it_is_called(tmp_path: Path) -> None:
    (tmp_path / "tiecheck_test_neighbour.py").write_text(TIED)
    (tmp_path / "m.py").write_text("def make():\n    from tiecheck_test_neighbour import Tied\n    return Tied()")
    assert type(build_attribute(parse_target(f"{tmp_path}/m.py:make"))).__name__ == "Tied"


NOISY = """
print("while imported")
os.write(1, b"past sys.stdout\\n")
os.system("echo from a child")

def make():
    print("while called")
    sys.__stdout__.write("around the redirection\\n")
    sys.__stdout__.flush()
    return Tied()
"""


def run(*args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tiecheck", *args], cwd=cwd, capture_output=True, text=True, timeout=120, check=False
    )


def test_standard_output_carries_the_report_alone(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text(TIED + NOISY)
    result = run("m.py:make", "-f", "json", cwd=tmp_path)
    report = json.loads(result.stdout)
    assert report["targets"][0]["ties"][0]["kind"] == "parameter"
    for line in ("while imported", "past sys.stdout", "from a child", "while called", "around the redirection"):
        assert line in result.stderr


def test_exit_of_the_users_code_is_no_pass(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text("import sys\ndef make():\n    sys.exit(0)")
    result = run("m.py:make", cwd=tmp_path)
    assert result.returncode == 2
    assert "raised SystemExit: 0" in " ".join(result.stdout.split())
    assert "Traceback" not in result.stderr


class TestDirectory:
    """Classes that `config.json` names: only a model's class is built, and remote code may not end the run."""

    def build(self, root: Path, **options: bool) -> Unknown:
        config = read_config(str(root))
        found = build_directory(str(root), config, None, Config(**options))
        assert isinstance(found, Unknown)
        return found

    @pytest.mark.parametrize("name", ["pipeline", "logging", "AutoConfig", "__name__", "utils", "LlamaConfig"])
    def test_name_that_is_no_models_class_is_not_called(self, tmp_path: Path, name: str) -> None:
        (tmp_path / "config.json").write_text(json.dumps({"architectures": [name], "model_type": "llama"}))
        assert "is no model class" in self.build(tmp_path, live=True).reason

    @pytest.mark.parametrize(
        ("source", "says"),
        [
            ("import sys\nsys.exit(0)", "raised SystemExit: 0"),
            ("raise ValueError('no\\nway')", "raised ValueError: no way$"),
            ("Odd = 3", "raised|is no model class"),
        ],
    )
    def test_remote_code_that_fails_is_unknown_with_the_reason(
        self, tmp_path: Path, monkeypatch, source: str, says: str
    ) -> None:
        import transformers.dynamic_module_utils as dynamic

        monkeypatch.setattr(dynamic, "HF_MODULES_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(sys, "path", [*sys.path])
        root = tmp_path / f"odd{len(source)}"
        root.mkdir()
        (root / "odd.py").write_text(source)
        names = {"architectures": ["Odd"], "model_type": "odd", "auto_map": {"AutoModel": "odd.Odd"}}
        (root / "config.json").write_text(json.dumps(names))
        assert "--trust-remote-code runs it" in self.build(root, live=True).reason
        assert re.search(says, self.build(root, live=True, trust_remote_code=True).reason)
