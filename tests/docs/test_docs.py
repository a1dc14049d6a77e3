"""What the pages for users show is what happens: their code is run, and what they print is compared."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from torch import nn

import tiecheck
from tiecheck.config.file import KEYS
from tiecheck.engine.options import read_settings
from tiecheck.testing.checks import MARK_WORDS

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
PAGE = (DOCS / "pytest.md").read_text(encoding="utf-8")


def blocks(page: str, language: str) -> list[str]:
    """The code blocks of a page in one language."""
    return [text for word, text in BLOCK.findall(page) if word == language]


@pytest.fixture
def project(pytester: pytest.Pytester, models: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A directory with the models that the page speaks of."""
    tiecheck.check(nn.Linear(1, 1))  # what a run in this process imports first, it forgets
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    for name in set(re.findall(r"models/([\w-]+)", PAGE)):
        shutil.copytree(models / name, pytester.path / "models" / name)
    return pytester


@pytest.mark.parametrize("number", range(len(blocks(PAGE, "python"))))
def test_the_tests_of_the_page_pass(project: pytest.Pytester, number: int) -> None:
    text = blocks(PAGE, "python")[number]
    project.makepyfile(text)
    result = project.runpytest_inprocess("-p", "tiecheck.testing.plugin", "-W", "error", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=text.count("def test_"))


def test_the_failure_is_the_one_shown() -> None:
    (shown,) = blocks(PAGE, "text")
    program = blocks(PAGE, "python")[1]
    scope: dict = {}
    exec(compile(program, "pytest.md", "exec"), scope)
    model = scope["Pair"]()
    model.head.weight = nn.Parameter(model.emb.weight.detach().clone())
    with pytest.raises(AssertionError) as raised:
        tiecheck.assert_ties_match(model, [["emb.weight", "head.weight"]])
    assert str(raised.value) == shown.strip()


def test_the_commands_of_the_page_print_what_is_shown(project: pytest.Pytester) -> None:
    (shown,) = blocks(PAGE, "console")
    command, *expected = shown.splitlines()
    result = project.runpytest_inprocess("-p", "tiecheck.testing.plugin", *command.split()[2:])
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    printed = re.sub(r" \d+\.\d\d s$", "", result.stdout.str(), flags=re.MULTILINE)
    assert "\n".join(expected) in printed


def test_the_ini_file_of_the_page_is_one(project: pytest.Pytester) -> None:
    (text,) = blocks(PAGE, "toml")
    (project.path / "pyproject.toml").write_text(text)
    project.runpytest_inprocess("-p", "tiecheck.testing.plugin").assert_outcomes(passed=2)


def test_every_option_and_word_is_on_the_page(project: pytest.Pytester) -> None:
    listed = project.runpytest_inprocess("-p", "tiecheck.testing.plugin", "--help").stdout.str()
    options = set(re.findall(r"^  (--tiecheck[\w-]*)", listed, re.MULTILINE))
    inis = set(re.findall(r"^  (tiecheck_\w+)", listed, re.MULTILINE))
    assert len(options) == len(inis) == 7
    rows = re.findall(r"^\| `(--tiecheck[\w-]*)[^`]*` \| `(\w+)` \|", PAGE, re.MULTILINE)
    assert ({option for option, _ in rows}, {ini for _, ini in rows}) == (options, inis)
    assert ", ".join(f"`{word}`" for word in MARK_WORDS[:-1]) + f" and `{MARK_WORDS[-1]}`" in PAGE


def test_the_configuration_shown_is_read_and_complete(tmp_path: Path) -> None:
    (text,) = blocks((DOCS / "configuration.md").read_text(encoding="utf-8"), "toml")
    (tmp_path / "pyproject.toml").write_text(text)
    settings = read_settings(str(tmp_path / "pyproject.toml"))
    assert settings.fields.keys() - {"ties_from", "device_map_from"} == set(KEYS.values())
