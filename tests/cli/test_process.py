"""The process as a shell sees it: interrupts, outputs that take nothing, odd files as configuration, raw characters."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from lanes import sampled

RUN = [sys.executable, "-m", "tiecheck"]
UNPRINTABLE = "\x1b[31m\u202e\x07"

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals, devices and pipes are Unix's")


def run(*arguments: str, **streams) -> subprocess.CompletedProcess[str]:
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams
    return subprocess.run([*RUN, *arguments], text=True, timeout=60, check=False, **streams)


def run_closed(*arguments: str, closed: str) -> subprocess.CompletedProcess[str]:
    """Run with descriptors closed, which subprocess cannot do."""
    line = ["/bin/sh", "-c", f'exec "$@" {closed}', "sh", *RUN, *arguments]
    return subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)


SLOW = """
import tempfile, time
from torch import nn

def build():
    with tempfile.TemporaryDirectory() as folder:
        open({ready!r}, "w").write(folder)
        {wait}
    return nn.Linear(1, 1)
"""
WAITS = {
    "asleep": "time.sleep(60)",
    "busy": "all(i == 0 for i in iter(int, 1))",
    "caught": "try: time.sleep(60)\n        except Exception: time.sleep(60)",
}
ENDS = ((signal.SIGINT, 130), (signal.SIGTERM, 143))


@pytest.mark.parametrize(
    ("number", "status", "wait"),
    sampled((*ENDS[(i + j) % 2], wait) for i, wait in enumerate(WAITS) for j in range(2)),
)
def test_signal_ends_it_within_a_second_and_cleanly(tmp_path: Path, number: int, status: int, wait: str) -> None:
    ready, report = tmp_path / "ready", tmp_path / "out.json"
    (tmp_path / "slow.py").write_text(SLOW.format(ready=str(ready), wait=WAITS[wait]))
    line = [*RUN, f"{tmp_path / 'slow.py'}:build", "-f", f"json={report}"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while not (ready.exists() and ready.read_text()):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(number)
        begin = time.perf_counter()
        try:
            output, errors = process.communicate(timeout=30)
        finally:
            process.kill()
    assert time.perf_counter() - begin < 3  # a second, on a machine with nothing else to do
    assert process.returncode == status
    assert output == ""
    assert errors.strip().splitlines() == [f"Error: {'terminated' if number == signal.SIGTERM else 'interrupted'}"]
    assert not Path(ready.read_text()).exists()
    assert not report.exists()


@pytest.mark.parametrize("wait", sampled(WAITS, 3))
def test_a_build_has_the_time_of_its_target_and_no_more(tmp_path: Path, wait: str) -> None:
    ready = tmp_path / "ready"
    (tmp_path / "slow.py").write_text(SLOW.format(ready=str(ready), wait=WAITS[wait]))
    target = f"{tmp_path / 'slow.py'}:build"
    begin = time.perf_counter()
    done = run(target, f"{target}2", "--timeout", "4", "-f", "json")
    assert time.perf_counter() - begin < 30
    assert (done.returncode, done.stderr) == (2, "")
    first, second = (report["errors"][0]["message"] for report in json.loads(done.stdout)["targets"])
    assert first == f"{target} takes more than 4 s (--timeout), and was stopped"
    assert "has no 'build2'" in second
    assert not ready.exists() or not Path(ready.read_text()).exists()


def test_interrupt_while_files_are_read(tmp_path: Path, make_model) -> None:
    rows = 2**24
    model = make_model({}, vocab_size=rows, hidden_size=64)
    entry = {"dtype": "F32", "shape": [rows, 64]}
    size = rows * 64 * 4
    names = ("lm_head.weight", "model.embed_tokens.weight")
    header = {name: entry | {"data_offsets": [i * size, (i + 1) * size]} for i, name in enumerate(names)}
    text = json.dumps({"__metadata__": {"format": "pt"}} | header).encode()
    file = model / "model.safetensors"
    file.write_bytes(len(text).to_bytes(8, "little") + text)
    os.truncate(file, 8 + len(text) + 2 * size)  # eight gigabytes of holes
    with subprocess.Popen([*RUN, str(model)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        begin = time.perf_counter()
        process.communicate(timeout=30)
    assert time.perf_counter() - begin < 3
    assert process.returncode in (130, 0, -signal.SIGINT)  # holes may be skipped, and the start be interrupted


@pytest.mark.parametrize("arguments", [["MODEL"], ["inspect", "MODEL"], ["-f", "json", "MODEL"], ["--help"], ["rule"]])
def test_output_that_takes_nothing_is_one_sentence_and_2(models: Path, arguments: list[str]) -> None:
    words = [str(models / "llama-healthy-tied") if word == "MODEL" else word for word in arguments]
    if os.path.exists("/dev/full"):
        with open("/dev/full", "w") as full:
            done = run(*words, stdout=full)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert "standard output cannot be used: No space left" in done.stderr
        with open("/dev/full", "w") as full:
            assert run(*words, stdout=full, stderr=full).returncode == 2
    done = run_closed(*words, closed=">&-")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "standard output cannot be used: it is closed" in done.stderr


def test_closed_output_is_no_matter_where_nothing_goes_there(models: Path, tmp_path: Path) -> None:
    report = tmp_path / "out.json"
    done = run_closed(str(models / "llama-healthy-tied"), "-f", f"json={report}", closed=">&- 2>&- <&-")
    assert done.returncode == 0
    assert report.read_text().startswith("{")


def test_a_reader_that_has_seen_enough_changes_nothing(models: Path) -> None:
    done = run_closed("-v", str(models / "llama-healthy-tied"), closed="| head -c 1; exit ${PIPESTATUS:-0}")
    assert "Error" not in done.stderr


def test_configuration_is_a_regular_file_of_reasonable_size(models: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large.toml").write_bytes(b"")
    os.truncate(tmp_path / "large.toml", 10**10)
    cases = {
        "/dev/zero": "is a pipe or a device",
        str(tmp_path / "pipe"): "is a pipe or a device",
        str(tmp_path / "large.toml"): "more than the 4,000,000 that are read",
        str(tmp_path): "Is a directory",
    }
    for file, words in cases.items():
        done = run(str(models / "llama-healthy-tied"), "--config", file)
        assert done.returncode == 2
        assert words in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [["--{}"], ["{}"], ["inspect", "--{}"], ["rule", "{}"], ["MODEL", "--config", "/{}"], ["-{}", "MODEL"]]
    + [["MODEL", f"--{name}", "{}"] for name in ("select", "fail-on", "output-format", "for", "values", "color")]
    + [["MODEL", f"--{name}", "{}"] for name in ("device-map", "max-memory", "hash-seeds")]
    + [["MODEL", "-o", "/{}/x"], ["{}/"], ["org/{}"], ["x.py:{}"]],
)
def test_control_characters_are_never_printed_raw(tiecheck_cli, models: Path, arguments: list[str]) -> None:
    words = [w.replace("MODEL", str(models / "llama-healthy-tied")).format(UNPRINTABLE) for w in arguments]
    result = tiecheck_cli(*words)
    assert result.exit_code == 2
    assert not set(UNPRINTABLE) & {"\x1b", "\u202e", "\x07"} & set(result.output)


@pytest.mark.parametrize("form", ["http://u:S3CR3T@h/p", "x::s3://k:S3CR3T@b/p", "HTTPS://u:S3 CR3T@[::1]/p?k=S3CR3T"])
@pytest.mark.parametrize(
    "arguments",
    [["--{}"], ["rule", "{}"], ["MODEL", "--config", "{}"], ["MODEL", "-o", "{}"], ["MODEL", "-f", "json={}"]]
    + [["MODEL", f"--{name}", "{}"] for name in ("select", "fail-on", "output-format", "for", "values", "color")]
    + [["MODEL", f"--{name}", "{}"] for name in ("device-map", "max-memory", "hash-seeds", "timeout", "python")]
    + [["MODEL", "{}"], ["inspect", "{}"], ["fix", "{}"], ["fix", "MODEL", "--to", "{}"]],
)
def test_secrets_of_an_address_are_printed_by_no_error(
    tiecheck_cli, models: Path, arguments: list[str], form: str
) -> None:
    words = [w.replace("MODEL", str(models / "llama-healthy-tied")).replace("{}", form) for w in arguments]
    result = tiecheck_cli(*words)
    assert "CR3T" not in result.output
    assert result.exit_code == 2 or arguments[-2] == "--to"  # where there is nothing to fix, nothing is written


def test_a_usage_error_is_cut(tiecheck_cli) -> None:
    result = tiecheck_cli("x" * 1_000_000)
    assert result.exit_code == 2
    assert len(result.output) < 3000


def test_environment_counts_as_the_command_line(models: Path) -> None:
    done = run(str(models / "llama-healthy-tied"), env=os.environ | {"TIECHECK_CHECK_FAIL_ON": UNPRINTABLE})
    assert done.returncode == 2
    assert "\x1b" not in done.stderr


def test_own_fault_is_a_sentence_and_2(tiecheck_cli, monkeypatch: pytest.MonkeyPatch) -> None:
    from tiecheck.cli import rule

    monkeypatch.setattr(rule.command, "callback", lambda **_: 1 / 0)
    result = tiecheck_cli("rule", "TIE101")
    assert result.exit_code == 2
    assert result.output == "Error: tiecheck itself failed, please report it: ZeroDivisionError: division by zero\n"


@pytest.mark.parametrize(
    ("words", "last"),
    [
        (["-m", "cProfile", "-m", "tiecheck"], "function calls"),
        (
            ["-c", "import atexit; atexit.register(print, 'bye'); import tiecheck.__main__ as m; m.run_process()"],
            "\nbye\n",
        ),
        (
            [
                "-c",
                "import threading as t, tiecheck.__main__ as m; t.Timer(1, print, ['late']).start(); m.run_process()",
            ],
            "\nlate\n",
        ),
    ],
)
def test_a_quick_end_loses_nothing(words: list[str], last: str, models: Path) -> None:
    command = [sys.executable, *words, str(models / "llama-diverged-head")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert last in done.stdout
    assert "TIE101 error" in done.stdout
    assert done.returncode == (0 if "cProfile" in words else 1)  # it drops the status
