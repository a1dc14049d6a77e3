"""What people reported of 0.1.0, each by its kind: built by the real library, with a sibling of another class."""

from __future__ import annotations

from pathlib import Path

import pytest
import transformers
from click.testing import CliRunner
from reported import ROWS, Row, causal
from reported_classes import CLASS_ROWS

import tiecheck
from tiecheck.cli.main import cli
from tiecheck.records.report import TargetReport


def judged(row: Row, where: Path) -> TargetReport:
    row.make(where)
    (report,) = tiecheck.check(where).targets
    return report


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("row", [*ROWS, *CLASS_ROWS], ids=lambda row: row.ident)
def test_what_is_said_is_what_is_true(row: Row, tmp_path: Path) -> None:
    report = judged(row, tmp_path)
    assert report.status in row.status.split("|"), report.reason
    loud = [f"{f.code} {f.severity}" for f in report.findings if f.severity != "info"]
    assert " ".join(loud) == row.codes
    told = {f"{view.loader} {view.versions}".strip(): view.outcome for view in reversed(report.loaders)}
    assert {loader: told.get(loader) for loader in row.outcomes} == dict(row.outcomes)
    text = "\n".join(
        [report.reason or "", *(f"{f.message} {f.help}" for f in report.findings)]
        + [f"{view.outcome} {view.message}" for view in report.loaders if view.outcome != "tied"]
    )
    assert all(word in text for word in row.says)
    assert not any(word in text for word in row.never)


@pytest.mark.parametrize("name", ["LlamaForCausalLM", "Qwen2ForCausalLM"])
def test_a_shell_that_lists_the_shards_of_a_model_names_it_once(name: str, tmp_path: Path) -> None:
    causal(name)(tmp_path / "whole").save_pretrained(tmp_path / "parts", max_shard_size="20KB")
    shards = sorted(map(str, (tmp_path / "parts").glob("*.safetensors")))
    assert len(shards) > 2
    result = CliRunner().invoke(cli, shards)
    assert result.exit_code == 0, result.output
    assert result.output.count("pass\n") == 1
    assert "model.safetensors.index.json" in result.output


def test_a_pass_under_strict_says_why_it_is_no_success(tmp_path: Path) -> None:
    transformers.T5EncoderModel(
        transformers.T5Config(d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    ).save_pretrained(tmp_path)
    assert CliRunner().invoke(cli, ["--strict", str(tmp_path)]).exit_code == 0
    (tmp_path / "config.json").unlink()
    result = CliRunner().invoke(cli, ["--strict", str(tmp_path / "model.safetensors")])
    assert result.exit_code in (1, 2)
    assert "--strict: exit status 1" in result.output
