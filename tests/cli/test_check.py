"""The check command: default command, options, exit status, formats, and where output goes."""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tiecheck.config.options import Config
from tiecheck.records.report import TargetReport


def test_a_path_alone_is_check(tiecheck_cli, models: Path) -> None:
    path = str(models / "llama-healthy-tied")
    assert tiecheck_cli(path).exit_code == 0
    assert tiecheck_cli("check", path).exit_code == 0
    assert tiecheck_cli("--strict", path).exit_code == 0, "an option before the target means check too"


def test_several_targets_and_the_summary(tiecheck_cli, models: Path) -> None:
    result = tiecheck_cli(*(str(models / name) for name in ("llama-healthy-tied", "llama-flag-lost", "llama-untied")))
    assert result.exit_code == 1
    assert "3 targets: 2 pass, 1 fail. Findings: 1 error." in result.stdout


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ([], 1),
        (["--exit-zero"], 0),
        (["--ignore", "TIE102"], 0),
        (["--ignore", "TIE1"], 0),
        (["--select", "TIE106,TIE109"], 0),
        (["--fail-on", "error"], 1),
    ],
)
def test_options_that_decide_the_status(tiecheck_cli, models: Path, options: list[str], status: int) -> None:
    assert tiecheck_cli(str(models / "llama-flag-lost"), *options).exit_code == status


def test_fail_on_info_fails_a_note(tiecheck_cli, models: Path) -> None:
    path = str(models / "llama-redundant-copy")
    assert tiecheck_cli(path).exit_code == 0
    assert tiecheck_cli(path, "--fail-on", "info").exit_code == 1


def test_values_never_reads_no_byte_and_says_so(tiecheck_cli, models: Path) -> None:
    result = tiecheck_cli(str(models / "llama-diverged-head"), "--values", "never", "-f", "json")
    (target,) = json.loads(result.stdout)["targets"]
    assert target["findings"] == []
    assert target["ties"][0]["stored"] == "unknown"
    assert "--values never" in target["ties"][0]["reason"]


def test_values_never_with_strict_does_not_pass(tiecheck_cli, models: Path) -> None:
    assert tiecheck_cli(str(models / "llama-diverged-head"), "--values", "never", "--strict").exit_code == 1


def test_live_rules_without_the_live_layer_check_nothing(tiecheck_cli, models: Path) -> None:
    assert tiecheck_cli(str(models / "llama-healthy-tied"), "--select", "TIE3").exit_code == 2


def test_environment_twin(tiecheck_cli, models: Path, monkeypatch) -> None:
    monkeypatch.setenv("TIECHECK_CHECK_EXIT_ZERO", "1")
    assert tiecheck_cli(str(models / "llama-flag-lost")).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--select", "TIE999", "{model}"], "no rule's code begins with 'TIE999'"),
        (["-f", "xml", "{model}"], "there is no output format 'xml'"),
        (["-f", "json", "-f", "text", "{model}"], "only one format can go to standard output"),
        (["-o", "/nowhere/report.txt", "{model}"], "/nowhere/report.txt cannot be written"),
        (["--fail-on", "fatal", "{model}"], "'fatal' is not one of"),
        (["chekc"], "did you mean check"),
        (["check"], "Missing argument"),
    ],
)
def test_wrong_usage_is_one_sentence_and_status_2(tiecheck_cli, models: Path, arguments: list[str], says: str) -> None:
    result = tiecheck_cli(*(a.format(model=models / "llama-healthy-tied") for a in arguments))
    assert result.exit_code == 2
    assert says in result.stderr
    assert "Traceback" not in result.output


def test_an_error_hides_no_finding_and_gives_2(tiecheck_cli, models: Path, tmp_path: Path) -> None:
    result = tiecheck_cli(str(tmp_path / "missing"), str(models / "llama-flag-lost"), "-f", "json", "--exit-zero")
    report = json.loads(result.stdout)
    assert result.exit_code == 2
    assert [t["status"] for t in report["targets"]] == ["error", "fail"]
    assert report["summary"]["errors"] == 1


def test_formats_to_files(tiecheck_cli, models: Path, tmp_path: Path) -> None:
    written = tmp_path / "report.json"
    result = tiecheck_cli(str(models / "llama-flag-lost"), "-f", "text", "-f", f"json={written}")
    assert "TIE102" in result.stdout
    assert json.loads(written.read_text())["targets"][0]["findings"][0]["code"] == "TIE102"
    only = tmp_path / "report.txt"
    result = tiecheck_cli(str(models / "llama-flag-lost"), "-o", str(only))
    assert result.stdout == ""
    assert "TIE102" in only.read_text()


def test_quiet_leaves_out_what_passes(tiecheck_cli, models: Path) -> None:
    result = tiecheck_cli("-q", str(models / "llama-healthy-tied"), str(models / "llama-flag-lost"))
    assert "llama-healthy-tied" not in result.stdout
    assert "llama-flag-lost" in result.stdout


def test_rule_command(tiecheck_cli) -> None:
    one = tiecheck_cli("rule", "tie101")
    assert one.exit_code == 0
    assert "trained-head-discarded" in one.stdout
    assert "\nHow to fix it\n" in one.stdout
    assert "https://github.com/huggingface/transformers/issues/42612" in one.stdout
    every = tiecheck_cli("rule")
    assert every.stdout.count("TIE") >= 10
    wrong = tiecheck_cli("rule", "TIE100")
    assert wrong.exit_code == 2
    assert "nearest" in wrong.stderr


def test_version(tiecheck_cli) -> None:
    from tiecheck import __version__

    assert tiecheck_cli("--version").stdout.strip() == f"tiecheck {__version__}"


@pytest.mark.parametrize(
    "look", [(True, "xterm", False), (True, "xterm", True), (True, "dumb", False), (False, "", False)]
)
def test_a_long_run_tells_a_terminal_what_is_looked_at(models: Path, monkeypatch, capsys, look) -> None:
    terminal, word, quiet = look
    from tiecheck.cli import check
    from tiecheck.engine.run import check_target
    from tiecheck.render.reports import Style

    report = check_target(str(models / "bert-encoder"), Config())
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal)
    monkeypatch.setenv("TERM", word)
    monkeypatch.setattr(check, "TICK", 0.01)
    written = ""

    def slow() -> Iterator[TargetReport]:
        nonlocal written
        for last in (False, True):
            end = time.monotonic() + (5 if told else 0.1)
            while time.monotonic() < end and f"{1 + last}/2 " not in written:
                time.sleep(0.01)
                written += capsys.readouterr().err
            yield report

    told = terminal and word != "dumb" and not quiet
    assert list(check._told_progress(slow(), ("one", "two"), Style(quiet=quiet))) == [report] * 2
    written += capsys.readouterr().err
    assert ("1/2 one, 0 s" in written, "2/2 two, " in written) == (told, told)
    assert written.endswith("\r\x1b[K") == told, "nothing of it stays"


def test_a_tree_too_large_to_be_meant_is_refused_before_it_is_read(tiecheck_cli, tmp_path: Path, monkeypatch) -> None:
    from tiecheck.source import reading
    from tiecheck.targets import layouts

    drawn, most = random.Random(7), 40
    monkeypatch.setattr(reading, "FILES", most)
    monkeypatch.setattr(layouts, "FOLDERS", most)
    monkeypatch.setattr(reading, "source_bytes", lambda *_: pytest.fail("it was read"))
    for count in (drawn.randrange(2 * most, 3 * most) for _ in range(4)):
        for folders, named in ((True, "folders"), (False, "Python files")):
            root = tmp_path / f"{count}{named[:1]}"
            for number in range(count):
                place = root.joinpath(*(str(d) for d in range(number % 3)), f"x{number}" if folders else "")
                place.mkdir(parents=True, exist_ok=True)
                (place / f"{number}.py").touch() if not folders or number == 1 else None
            done = tiecheck_cli(str(root))
            assert (done.exit_code, "note:" in done.stderr) == (2, False)
            assert f"holds more than {most} {named}; name the folder of your sources" in " ".join(done.stdout.split())
            if folders:
                done = tiecheck_cli("--recursive", str(root))
                assert (done.exit_code, done.stdout) == (2, "")
                assert f"{root} holds more than {most} folders; name the folders of your models" in done.stderr


def test_models_below_sources_are_told(tiecheck_cli, tmp_path: Path, models: Path) -> None:
    (tmp_path / "a.py").write_text("import torch\n")
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "config.json").write_text('{"port": 80}')
    assert "note:" not in tiecheck_cli(str(tmp_path)).stderr, "a config.json alone may be anybody's"
    for count, told in ((1, "was"), (2, "were")):
        shutil.copytree(models / "llama-flag-lost", tmp_path / "sub" / f"m{count}")
        done = tiecheck_cli(str(tmp_path))
        assert done.exit_code == 0
        many = f"{count} model{'s' if count > 1 else ''}"
        assert f"note: {many} below {tmp_path} {told} not judged; --recursive judges them" in done.stderr
    shutil.rmtree(tmp_path / "web")
    done = tiecheck_cli("--recursive", str(tmp_path))
    assert (done.exit_code, "note:" in done.stderr) == (1, False)


def test_a_format_without_its_file_is_one_sentence(tiecheck_cli, models: Path) -> None:
    done = tiecheck_cli(str(models / "llama-untied"), "-f", "json=")
    assert done.exit_code == 2
    assert done.stderr.splitlines()[-1] == "Error: -f json= names no file after the ="
