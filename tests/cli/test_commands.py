"""Each command's own object: what click calls, and how it exits."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from tiecheck.cli import inspect, main, rule
from tiecheck.cli.placement import settle_placing
from tiecheck.cli.settings import settle_options
from tiecheck.cli.streams import PlainCommand


def test_a_rule_is_explained_by_its_code_and_all_are_listed() -> None:
    one = CliRunner().invoke(rule.command, ["tie101"])
    assert one.exit_code == 0
    assert one.stdout.startswith("TIE101 trained-head-discarded: ")
    assert "TIE701" in CliRunner().invoke(rule.command, []).stdout


def test_a_bare_call_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main.cli.main(args=[], prog_name="tiecheck")
    captured = capsys.readouterr()
    assert (captured.out + captured.err).startswith("Usage: tiecheck [OPTIONS] COMMAND [ARGS]...\n\n  Find broken")
    assert ended.value.code in {0, 2}, "click before 8.2 takes it for a question, later ones for a mistake"


@pytest.mark.parametrize("name", main.COMMANDS)
def test_each_command_has_our_help_and_names_it_in_an_error(name: str) -> None:
    asked, wrong = (CliRunner().invoke(main.cli, [name, word], prog_name="tiecheck") for word in ("-h", "--nonsense"))
    assert asked.exit_code == 0
    assert "-h, --help" in asked.stdout
    assert f"Try 'tiecheck {name} " in wrong.stderr
    assert isinstance(main.cli.get_command(None, name), PlainCommand)


def test_facts_are_shown_and_nothing_is_judged(models: Path) -> None:
    done = CliRunner().invoke(inspect.command, [str(models / "llama-diverged-head")])
    assert done.exit_code == 0
    assert "lm_head.weight = model.embed_tokens.weight" in done.stdout
    assert "TIE101" not in done.stdout


@pytest.mark.parametrize("read", [lambda: settle_options({}, ()), lambda: settle_placing({})], ids=["all", "placement"])
def test_options_are_read_within_a_command_alone(read) -> None:
    with pytest.raises(RuntimeError, match="no active click context"):
        read()
