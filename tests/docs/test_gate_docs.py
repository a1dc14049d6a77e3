"""What the page on the gate shows: its workflow is one, its commands parse, its sample is what is printed."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from tiecheck.cli.check import command
from tiecheck.config.options import PLACING
from tiecheck.placement.asked.memory import parse_memories
from tiecheck.placement.asked.options import STRATEGIES, read_map
from tiecheck.render.reports import parse_outputs

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "gate.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(language: str) -> list[str]:
    """The code blocks of the page in one language."""
    return [text for word, text in BLOCK.findall(PAGE) if word == language]


def parsed(line: str) -> dict:
    """A command line as click takes it apart, its values read."""
    program, *arguments = shlex.split(line)
    assert program == "tiecheck"
    options = command.make_context("tiecheck", arguments).params
    assert read_map(options["device_map"], text=True)[0] in STRATEGIES
    assert parse_memories(options["max_memory"]) == {0: 10 * 2**30, "cpu": 30 * 2**30}
    assert parse_outputs(options["formats"], None)
    return options


def commands() -> list[str]:
    """Every line of the page and of the README that runs the gate."""
    texts = [*blocks("bash"), *(t for word, t in BLOCK.findall((ROOT / "README.md").read_text()) if word == "bash")]
    return [line for text in texts for line in text.splitlines() if "--device-map" in line]


def test_the_commands_parse() -> None:
    lines = commands()
    assert len(lines) == 3
    for line in lines:
        assert parsed(line)["targets"] == ("path/to/model",)


def test_the_workflow_is_one_and_its_command_parses() -> None:
    yaml = pytest.importorskip("yaml")
    (text,) = blocks("yaml")
    workflow = yaml.safe_load(text)
    assert set(workflow) == {"name", True, "jobs"}, "YAML 1.1 takes `on` for a truth, and GitHub does not"
    steps = workflow["jobs"]["gate"]["steps"]
    assert all(("uses" in step) != ("run" in step) for step in steps)
    (line,) = (step["run"] for step in steps if step.get("run", "").startswith("tiecheck "))
    options = parsed(line)
    assert options["formats"] == ("text", "json=placement.json")
    (kept,) = (step for step in steps if "upload-artifact" in step.get("uses", ""))
    assert kept["with"]["path"] == "placement.json"
    assert kept["if"] == "always()", "the report is wanted most where the gate is shut"


def test_the_file_of_the_page_is_a_map(tmp_path: Path) -> None:
    (text,) = blocks("json")
    (tmp_path / "map.json").write_text(text)
    assert read_map(str(tmp_path / "map.json"))[0] == json.loads(text)


def test_every_option_is_on_the_page() -> None:
    rows = re.findall(r"^\| `(--[\w-]+)", PAGE, re.MULTILINE)
    assert rows == [f"--{field.replace('_', '-')}" for field in PLACING[:-1]]


def test_the_sample_is_what_is_printed(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch, tiecheck_cli
) -> None:
    shutil.copytree(models / "llama-healthy-tied", tmp_path / "path" / "to" / "model")
    (tmp_path / "map.json").write_text('{"model": "cpu", "lm_head": "disk"}')
    monkeypatch.chdir(tmp_path)
    (shown,) = blocks("text")
    first, _, rest = shown.partition("\n")
    printed = tiecheck_cli(*shlex.split(first)[2:]).stdout
    assert unnumbered(rest) == unnumbered(printed)


def unnumbered(text: str) -> str:
    """A report without versions, seconds and the breaks of lines that hang on them."""
    return " ".join(re.sub(r"\b\d+\.\d+(\.\d+)?\b", "N", text).split())


def test_the_python_of_the_page_compiles() -> None:
    for text in blocks("python"):
        compile(text, "gate.md", "exec")


def test_every_page_that_is_linked_is_there() -> None:
    for target in re.findall(r"\]\(([\w.-]+\.md)", PAGE):
        assert (ROOT / "docs" / target).exists()
