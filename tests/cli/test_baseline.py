"""`tiecheck baseline`: what it accepts passes afterwards, and of what cannot be read nothing is written."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest
from click.testing import CliRunner

from tiecheck.cli.baseline import command
from tiecheck.cli.check import command as check

BROKEN = ("llama-flag-lost", "llama-diverged-head", "llama-redundant-copy", "bert-untied-bias")


@pytest.mark.parametrize("seed", range(4))
def test_what_was_accepted_passes_and_the_rest_fails(seed: int, models: Path, tmp_path: Path) -> None:
    """Drawn: which of some broken models are accepted; the others are new."""
    accepted = random.Random(seed).sample(BROKEN, 2)
    others = [name for name in BROKEN if name not in accepted]
    file = tmp_path / "accepted.json"
    done = CliRunner().invoke(command, [*(str(models / name) for name in accepted), "-o", str(file), "--isolated"])
    assert done.exit_code == 0, done.output
    entries = json.loads(file.read_text())["findings"]
    assert done.stdout == f"{file}: {len(entries)} finding{'' if len(entries) == 1 else 's'} accepted, of 2 targets\n"
    assert done.stderr == f"check with --baseline {file}, and only what is new fails\n"
    status = {}
    for name in BROKEN:
        words = [str(models / name), "--baseline", str(file), "--isolated", "-f", "json"]
        found = json.loads(CliRunner().invoke(check, words).stdout)["targets"][0]["findings"]
        status[name] = [f["code"] for f in found if f["severity"] != "info" and not f["suppressed"]]
    assert all(status[name] in ([], ["TIE901"]) for name in accepted), status
    plain = {n: CliRunner().invoke(check, [str(models / n), "--isolated"]).exit_code for n in others}
    assert all(bool(set(status[name]) - {"TIE901"}) == (plain[name] == 1) for name in others), (status, plain)


@pytest.mark.parametrize("reason", ["no such target", "no such folder"])
def test_nothing_is_written_where_something_is_wrong(reason: str, models: Path, tmp_path: Path) -> None:
    target = "not-there" if reason == "no such target" else BROKEN[0]
    file = tmp_path / "accepted.json" if reason == "no such target" else tmp_path / "nowhere" / "accepted.json"
    done = CliRunner().invoke(command, [str(models / target), "-o", str(file), "--isolated"])
    assert done.exit_code == 2
    assert "Traceback" not in done.output
    assert list(tmp_path.iterdir()) == []


def test_a_baseline_of_a_device_or_a_pipe_is_refused(models: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for file in ("/dev/zero", tmp_path / "pipe"):
        done = CliRunner().invoke(check, [str(models / BROKEN[0]), "--baseline", str(file), "--isolated"])
        assert done.exit_code == 2
        assert "is a pipe or a device" in done.output
