"""`tiecheck fix`: what it prints, and its exit status."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from tiecheck.cli import fix
from tiecheck.cli.main import cli
from tiecheck.records.report import Finding

ROOT = Path(__file__).parents[2]


def run(*words: object, code: int, answer: str | None = None) -> str:
    result = CliRunner().invoke(cli, ["fix", *map(str, words), "--isolated"], input=answer)
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture
def broken(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tiecheck.fix.run.find_spec", lambda _: None)  # the rehearsal has a test of its own
    return Path(shutil.copytree(models / "llama-diverged-head", tmp_path / "model"))


def test_the_page_shows_what_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    page = (ROOT / "docs/fix.md").read_text()
    command, shown = re.findall(r"^\$ tiecheck fix (.*?)\n(.*?)^```", page, re.MULTILINE | re.DOTALL)[0]
    assert run(*command.split(), code=1) == shown


def test_a_decision_is_asked_for_and_told(broken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = run(broken, code=1)
    assert "left, the decision is yours: --choose tied, if" in told
    assert "nothing is changed" in told
    assert "--unsafe lets it" in run(broken, "--choose", "tied", code=1)
    told = run(broken, "--choose", "tied", "--unsafe", "--apply", "--backup", code=0)
    assert "- lm_head.weight  float32 [96, 16]  model.safetensors" in told
    assert "judged again: pass; rehearsed: transformers is not installed" in told
    assert run(broken, code=0) == "nothing to fix\n"
    assert (broken / "model.safetensors.orig").exists()


def test_a_copy_is_fixed(broken: Path, tmp_path: Path) -> None:
    run(broken, "--to", tmp_path / "new", "--choose", "untied", code=0)
    assert json.loads((tmp_path / "new" / "config.json").read_text())["tie_word_embeddings"] is False
    assert json.loads((broken / "config.json").read_text())["tie_word_embeddings"] is True


def test_the_question(broken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tiecheck

    finding: Finding = tiecheck.check(broken).findings[0]
    monkeypatch.setattr("click.prompt", lambda *_, **__: "untied")
    assert fix.ask_user(finding) == finding.edits[1]
    monkeypatch.setattr("click.prompt", lambda *_, **__: "neither")
    assert fix.ask_user(finding) is None


def test_what_cannot_be_done_is_a_sentence(broken: Path, tmp_path: Path) -> None:
    assert "give one of them" in run(broken, "--apply", "--to", tmp_path / "x", code=2)
    assert "no rule's code begins with" in run(broken, "--select", "TIE9", code=2)
    assert run(tmp_path / "nowhere", code=2).count("\n") == 1
    assert run(broken / "config.json", code=2).startswith("error: ")


def test_no_torch_is_needed(broken: Path) -> None:
    program = (
        "import sys; from tiecheck.config.options import Config; from tiecheck.fix.run import *;"
        "o = fix_target(sys.argv[1], Config(), FixOptions('tied', unsafe=True, apply=True, rehearse=False));"
        "assert o.written and not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program, str(broken)], check=True, timeout=60)
