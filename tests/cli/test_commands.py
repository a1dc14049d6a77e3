"""Each command's own object: what click calls, and how it exits."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from tiecheck.cli import check, inspect, main, rule
from tiecheck.cli.placement import settle_placing
from tiecheck.cli.settings import settle_options
from tiecheck.cli.streams import PlainCommand


def test_a_rule_is_explained_by_its_code_and_all_are_listed() -> None:
    one = CliRunner().invoke(rule.command, ["tie101"])
    assert one.exit_code == 0
    assert one.stdout.startswith("TIE101 trained-head-discarded\nSeverity error")
    assert "TIE701" in CliRunner().invoke(rule.command, []).stdout


OPTIONS = [option for option in check.command.params if isinstance(option, click.Option)]


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.opts[0])
@pytest.mark.parametrize("name", main.COMMANDS)
def test_options_stand_before_the_command_word_as_well(option: click.Option, name: str, monkeypatch) -> None:
    """Every option of check, in every spelling, its value a command's word where it takes one."""
    asked: list[list[str]] = []
    group = main.LazyGroup(callback=lambda: None)
    monkeypatch.setattr(PlainCommand, "parse_args", lambda _self, _ctx, args: asked.append(args) or [])
    value = "HEAD" if isinstance(option.flag_value, str) else "rule"
    for flag in (*option.opts, *option.secondary_opts):
        joined = f"{flag}={value}" if flag.startswith("--") else f"-q{flag[1:]}{value}"
        spellings = [[flag], ["-qv", flag, "-v"]] if option.is_flag else [[flag, value], [joined], ["-q", joined, "-v"]]
        for ahead in spellings:
            main.LazyGroup.parse_args(group, click.Context(group), [*ahead, name, "DIR"])
            assert asked.pop() == [name, *ahead, "DIR"]


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["-v", "chekc", "."], "did you mean check?"),
        (["--jsn", "."], "No such option: --jsn; did you mean -f json?"),
        (["-v", "list-rules"], "did you mean rule?"),
        ([".", "fix", "--apply"], "'fix' is a command and comes first: tiecheck fix ..."),
        (["check", ".", "--apply"], "No such option: --apply; it is an option of `tiecheck fix`"),
        (["rule", "--strict", "TIE101"], "No such option: --strict; it is an option of `tiecheck check`"),
        (["check", ".", "--verbos"], "did you mean --verbose?"),
    ],
)
def test_a_word_in_the_wrong_place_is_told_where_it_goes(typed: list[str], said: str, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main.cli, typed, prog_name="tiecheck")
    assert (done.exit_code, said in " ".join(done.stderr.split())) == (2, True), done.stderr


def test_a_value_that_may_be_left_out_is_left_out_before_a_command() -> None:
    seen: list[str] = ["--changed-only", "check", "DIR"]
    assert main.LazyGroup()._first_word(click.Context(main.cli), seen) == 1
    assert seen[0] == "--changed-only=HEAD"


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
