"""Flags, environment, configuration file, defaults: in that order."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tiecheck.cli import check
from tiecheck.engine.run import run

FAILS = "llama-flag-lost"
"""Has one finding, TIE102, an error."""


@pytest.fixture
def lost(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A model that fails, seen from an empty working directory."""
    monkeypatch.chdir(tmp_path)
    return str(models / FAILS)


def write(text: str) -> None:
    Path("pyproject.toml").write_text("[tool.tiecheck]\n" + text)


def test_the_file_counts_where_nothing_is_given(tiecheck_cli, lost: str) -> None:
    assert tiecheck_cli(lost).exit_code == 1
    write('ignore = ["TIE102"]')
    assert tiecheck_cli(lost).exit_code == 0
    assert tiecheck_cli("--isolated", lost).exit_code == 1


def test_a_flag_goes_before_the_environment_before_the_file(tiecheck_cli, lost: str, monkeypatch) -> None:
    write('ignore = ["TIE102"]')
    monkeypatch.setenv("TIECHECK_CHECK_IGNORE", "TIE109")
    assert tiecheck_cli(lost).exit_code == 1
    assert tiecheck_cli(lost, "--ignore", "TIE102").exit_code == 0
    monkeypatch.delenv("TIECHECK_CHECK_IGNORE")
    assert tiecheck_cli(lost, "--ignore", "TIE109").exit_code == 1


def test_a_switch_of_the_file_can_be_turned_off(tiecheck_cli, models: Path, lost: str) -> None:
    write('strict = true\nvalues = "never"')
    model = str(models / "llama-diverged-head")
    assert tiecheck_cli(model).exit_code == 1
    assert tiecheck_cli(model, "--no-strict").exit_code == 0, "what was not read was skipped"
    assert tiecheck_cli(model, "--no-strict", "--values", "auto").exit_code == 1


def test_a_default_that_is_given_goes_before_the_file(tiecheck_cli, lost: str, models: Path) -> None:
    write('fail-on = "info"')
    noted = str(models / "llama-redundant-copy")
    assert tiecheck_cli(noted).exit_code == 1
    assert tiecheck_cli(noted, "--fail-on", "warning").exit_code == 0


def test_for_comes_from_the_file(tiecheck_cli, models: Path, lost: str) -> None:
    write('for = ["vllm"]')
    (target,) = json.loads(tiecheck_cli(lost, "-f", "json").stdout)["targets"]
    assert target["judged_for"] == ["vllm"]


def test_the_contract_reaches_the_engine(tiecheck_cli, lost: str, monkeypatch) -> None:
    seen = []
    monkeypatch.setattr(check, "run", lambda targets, config: seen.append(config) or run(targets, config))
    write('[tool.tiecheck.ties]\nMyGPT = [["lm_head.weight", "wte.weight"]]')
    tiecheck_cli(lost)
    assert seen[0].ties == {"MyGPT": (("lm_head.weight", "wte.weight"),)}
    assert seen[0].ties_from == "pyproject.toml [tool.tiecheck.ties]"
    Path("deep").mkdir()
    monkeypatch.chdir("deep")
    tiecheck_cli(lost)
    assert seen[1].ties_from == f"{Path('../pyproject.toml')} [tool.tiecheck.ties]"


def test_config_names_a_file(tiecheck_cli, lost: str, monkeypatch) -> None:
    Path("other.toml").write_text('ignore = ["TIE102"]')
    write("strict = 3")
    assert tiecheck_cli(lost, "--config", "other.toml").exit_code == 0
    monkeypatch.setenv("TIECHECK_CHECK_CONFIG", "other.toml")
    assert tiecheck_cli(lost).exit_code == 0


@pytest.mark.parametrize(
    ("text", "arguments", "says"),
    [
        ("selct = []", [], "pyproject.toml [tool.tiecheck]: there is no key 'selct'; did you mean 'select'?"),
        ("strict = 3", [], "strict must be true or false, not 3"),
        ("strict", [], "pyproject.toml is no valid TOML"),
        ("", ["--config", "none.toml"], "none.toml cannot be read"),
        ("", ["--config", "pyproject.toml", "--isolated"], "--isolated looks for no configuration file"),
    ],
)
def test_a_slip_is_one_sentence_and_status_2(tiecheck_cli, lost: str, text: str, arguments: list, says: str) -> None:
    write(text)
    result = tiecheck_cli(lost, *arguments)
    assert result.exit_code == 2
    assert says in result.stderr.replace("\n", " ")
    assert result.stdout == ""
    assert "Traceback" not in result.output


def test_a_file_in_the_models_folder_is_passed_over_and_named(tiecheck_cli, make_model, monkeypatch) -> None:
    model = make_model({"model.embed_tokens.weight": ("F32", [4, 2], bytes(32))}, tie_word_embeddings=False)
    monkeypatch.chdir(model)
    before = tiecheck_cli(".")
    Path("tiecheck.toml").write_text('ignore = ["TIE"]')
    result = tiecheck_cli(".")
    assert result.exit_code == before.exit_code == 1
    assert "lies in the model's own folder and configures nothing" in result.stderr
    assert tiecheck_cli(".", "--config", "tiecheck.toml").exit_code != 1
