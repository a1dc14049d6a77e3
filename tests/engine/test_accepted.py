"""What a baseline has accepted keeps no target from its pass, whatever findings name: a tensor, a key or a prefix."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from reported import ROWS
from safetensors.numpy import load_file, save_file

from tiecheck.config.options import Config
from tiecheck.engine.run import assemble_report, run
from tiecheck.engine.suppressions import baseline_text

HEALTHY = Path(__file__).parents[2] / "fixtures" / "models" / "llama-healthy-tied"


def unknown_word(where: Path) -> None:
    shutil.copytree(HEALTHY, where, dirs_exist_ok=True)
    config = json.loads((where / "config.json").read_text())
    (where / "config.json").write_text(json.dumps({**config, "hidden_act": "geluu"}))


def wrapped(where: Path) -> None:
    shutil.copytree(HEALTHY, where, dirs_exist_ok=True)
    held = load_file(where / "model.safetensors")
    save_file({f"module.{k}": v for k, v in held.items()}, where / "model.safetensors", metadata={"format": "pt"})


WAYS: dict[str, Callable[[Path], object]] = {
    **{row.codes: row.make for row in reversed(ROWS) if row.status == "fail"},
    "a key of the config": unknown_word,
    "a prefix": wrapped,
}
"""The first report of each set of findings, and findings that name no member of a tie."""


@pytest.mark.parametrize("way", WAYS)
def test_what_is_accepted_is_said(way: str, tmp_path: Path) -> None:
    (model := tmp_path / "model").mkdir()
    WAYS[way](model)
    before = assemble_report(run([str(model)], Config()))
    assert before.targets[0].status == "fail"
    (tmp_path / "base.json").write_text(baseline_text(before, Config()))
    (after,) = run([str(model)], Config(baseline=str(tmp_path / "base.json")))
    assert not [finding for finding in after.findings if finding.suppressed is None and finding.severity != "info"]
    assert "no finding tells it" not in (after.reason or ""), after.reason
