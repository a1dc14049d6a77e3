"""`--rehearse` and `--python`: the loader's own word in the matrix, and what stands there if it cannot be had."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lanes import sampled
from safetensors.torch import load_file, save_file
from servers import Files
from zoo import animal, by_name

import tiecheck
from tiecheck.live.rehearsal import Rehearser
from tiecheck.peers.loaders import rehearsed
from tiecheck.records.loaders import Held, Rehearsal

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("quiet")]

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


@pytest.fixture
def differing(tmp_path: Path) -> Path:
    """A tied Llama with a trained head of its own."""
    animal(by_name("LlamaForCausalLM")).model(True).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors[HEAD] = tensors[EMBEDDING] + 1
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    return tmp_path


def five(report: Any) -> Any:
    """The entry of transformers 5."""
    (entry,) = (e for e in report.targets[0].loaders if (e.loader, e.versions) == ("transformers", "5"))
    return entry


@pytest.mark.parametrize("options", sampled([{"rehearse": True}, {"python": sys.executable}]))
def test_the_matrix_says_what_was_rehearsed(differing: Path, options: dict[str, Any]) -> None:
    told = five(tiecheck.check(differing, **options))
    assert (told.outcome, told.checked) == ("kept-apart", "rehearsed")
    assert five(tiecheck.check(differing)).checked == "run"


def test_the_rehearsal_wins_over_the_table(differing: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = Rehearsal("5.23.0", "L", held=(Held((HEAD,), (), "random"), Held((EMBEDDING,), (EMBEDDING,), "loaded")))
    monkeypatch.setattr(
        "tiecheck.live.rehearsal.rehearse", lambda *_, **__: lost._replace(head=HEAD, embedding=EMBEDDING)
    )
    told = five(tiecheck.check(differing, rehearse=True))
    assert told.outcome == "head-random"
    assert "where tiecheck's table says kept-apart: please report that" in told.message


def test_a_rehearsal_that_cannot_be_had_is_an_error(differing: Path, tiecheck_cli: Any) -> None:
    done = tiecheck_cli("--python", str(differing / "none"), str(differing))
    assert done.exit_code == 2
    assert "no load could be rehearsed" in done.output


def test_one_version_that_the_matrix_lacks_has_its_own_column() -> None:
    held = (Held((EMBEDDING, HEAD), (EMBEDDING,), "loaded"),)
    told = Rehearsal("4.53.3", "L", held=held, head=HEAD, embedding=EMBEDDING)
    from tiecheck.rules.cases import llama_group

    (view,) = rehearsed.rehearsed_views((), (llama_group(),), told)
    assert (view.versions, view.outcome, view.checked) == ("4.53.3", "tied", "rehearsed")


@pytest.fixture
def served(differing: Path) -> Iterator[Files]:
    """The model on a loopback server, with a hundred times as many words."""
    config = json.loads((differing / "config.json").read_text())
    tensors = load_file(differing / "model.safetensors")
    config["vocab_size"] *= 1000
    for name in (HEAD, EMBEDDING):
        tensors[name] = torch.zeros(config["vocab_size"], tensors[name].shape[1])
    save_file(tensors, differing / "model.safetensors", metadata={"format": "pt"})
    files = {f"/m/{n}": (differing / n).read_bytes() for n in ("model.safetensors",)}
    server = Files({**files, "/m/config.json": json.dumps(config).encode()})
    yield server
    server.close()


def test_a_remote_model_is_rehearsed_by_config_and_header(served: Files) -> None:
    report = tiecheck.check(f"{served.url}/m", rehearse=True)
    told = five(report)
    assert report.targets[0].errors == ()
    assert told.outcome == "unknown" or told.checked == "rehearsed"
    assert served.sent < 300_000 < len(served.files["/m/model.safetensors"])


def test_closing_twice_is_nothing() -> None:
    other = Rehearser(sys.executable)
    other.close()
    other.close()


def test_a_load_that_raises_for_another_cause_is_no_matter_of_the_tie(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "llama-healthy-tied", tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    config.write_text(re.sub(r'"vocab_size": (\d+)', r'"vocab_size": "\1"', config.read_text()))
    (report,) = tiecheck.check(tmp_path / "model", rehearse=True).targets
    assert report.status == "fail"
    assert [finding.code for finding in report.findings if finding.severity == "error"] in (["TIE207"], ["TIE112"])
    assert "TIE107" not in [finding.code for finding in report.findings if "transformers 5" in (finding.hurts or ())]


def broken_width(where: Path, name: str) -> Path:
    """A saved model whose config has another width than its tensors, so that the load raises."""
    animal(by_name(name)).model().save_pretrained(where)
    config = json.loads((where / "config.json").read_text())
    config["intermediate_size"] += 8
    (where / "config.json").write_text(json.dumps(config))
    return where


def test_a_load_that_raises_where_no_group_is_has_an_error(tmp_path: Path) -> None:
    where = broken_width(tmp_path, "ViTModel")
    assert tiecheck.check(where).targets[0].status == "pass"
    for options in ({"rehearse": True}, {"live": True}):
        (report,) = tiecheck.check(where, **options).targets  # type: ignore[arg-type]  # two words of it
        assert report.status == "error"
        assert "raises when it loads this" in report.errors[0].message


def test_a_load_that_raises_for_what_no_finding_tells_has_an_error(models: Path, tmp_path: Path) -> None:
    where = Path(shutil.copytree(models / "llama-healthy-tied", tmp_path / "model"))
    config = json.loads((where / "config.json").read_text())
    (where / "config.json").write_text(json.dumps(config | {"attn_implementation": "no such word"}))
    assert tiecheck.check(where).targets[0].status == "pass"
    (report,) = tiecheck.check(where, rehearse=True).targets
    assert report.status == "error"
    assert "raises when it loads this" in report.errors[0].message


def test_the_live_layer_of_a_directory_rehearses_its_load(differing: Path) -> None:
    assert five(tiecheck.check(differing, live=True)).checked == "rehearsed"


def test_the_gate_hears_the_loader(tmp_path: Path) -> None:
    where = broken_width(tmp_path, "LlamaForCausalLM")
    with pytest.raises(tiecheck.TiecheckError, match="raises when it loads this"):
        tiecheck.gate(where, device_map="cpu")


def test_the_seconds_of_a_target_are_those_of_the_child(differing: Path, tmp_path_factory: Any) -> None:
    slow = tmp_path_factory.mktemp("slow") / "python"
    slow.write_text("#!/bin/sh\nsleep 30\n")
    slow.chmod(0o755)
    (report,) = tiecheck.check(differing, python=str(slow), timeout=1.5).targets
    assert "not done in" in report.errors[0].message or "takes more than 1.5 s" in report.errors[0].message
