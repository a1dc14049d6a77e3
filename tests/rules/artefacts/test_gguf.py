"""TIE621 and TIE622 on files that the gguf library wrote, over architectures of the engine table.

What llama.cpp's loader does is read in its source (`tests/peers/test_engine_tables.py`); it is not run here.
"""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
from click.testing import CliRunner

import tiecheck
from tiecheck.cli.main import cli
from tiecheck.files.gguf import read_gguf
from tiecheck.records.artefacts import GgufTie
from tiecheck.records.report import TargetReport
from tiecheck.records.words import Unknown
from tiecheck.rules.artefacts.gguf import GgufHeadRedundant
from tiecheck.stored.gguf_ties import read_gguf_tie

ROWS = np.random.default_rng(0).standard_normal((64, 32)).astype(np.float32)


def write(path: Path, architecture: str, kind: str = "model", **tensors: np.ndarray) -> TargetReport:
    """Write a file of an architecture, with tensors by their names without `.weight`, and judge it."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_type(kind)
    for name, array in tensors.items():
        writer.add_tensor(f"{name}.weight", array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tiecheck.check(path).targets[0]


def told(report: TargetReport) -> list[tuple[str, str]]:
    """Codes and severities of what was found."""
    return [(f.code, f.severity) for f in report.findings]


@pytest.mark.parametrize(
    ("architecture", "lone", "copied", "apart"),
    [
        ("llama", [], [("TIE622", "info")], []),
        ("gemma3", [], [("TIE622", "info")], []),
        ("qwen2moe", [("TIE621", "error")], [("TIE622", "info")], []),
        ("gemma2", [], [("TIE622", "error")], [("TIE622", "error")]),
        ("bert", [], [("TIE622", "error")], [("TIE622", "error")]),
    ],
)
def test_the_loader_of_the_architecture_decides(
    architecture: str, lone: list, copied: list, apart: list, tmp_path: Path
) -> None:
    path = tmp_path / "model.gguf"
    assert told(one := write(path, architecture, token_embd=ROWS)) == lone
    assert (one.type, one.status) == ("gguf", "fail" if lone else "pass")
    assert told(write(path, architecture, token_embd=ROWS, output=ROWS)) == copied
    other = write(path, architecture, token_embd=ROWS, output=ROWS + 1)
    assert told(other) == apart
    assert [tie.stored for tie in other.ties] == ["separate"]


def test_a_head_of_another_type_is_not_taken_for_a_difference(tmp_path: Path) -> None:
    report = write(tmp_path / "a.gguf", "llama", token_embd=ROWS, output=ROWS.astype(np.float16))
    assert (report.status, told(report)) == ("pass", [])
    assert [skip.code for skip in report.skips] == [GgufHeadRedundant.code]
    assert report.ties[0].stored == "unknown"


@pytest.mark.parametrize(("architecture", "kind"), [("nobody", "model"), ("llama", "adapter"), ("bitnet", "model")])
def test_what_is_not_known_is_no_pass(architecture: str, kind: str, tmp_path: Path) -> None:
    report = write(tmp_path / "a.gguf", architecture, kind, token_embd=ROWS)
    assert (report.status, told(report)) == ("unknown", [])
    assert report.reason


def test_an_architecture_that_nobody_has_is_no_pass_with_a_head_either(tmp_path: Path) -> None:
    for tensors in ({"token_embd": ROWS}, {"token_embd": ROWS, "output": ROWS}, {"token_embd": ROWS, "output": -ROWS}):
        report = write(tmp_path / "m.gguf", "nosucharch", **tensors)
        assert report.status == "unknown"
        assert report.reason is not None
        assert report.reason.endswith("has no architecture 'nosucharch'")


def test_a_directory_of_files_is_as_many_targets(tmp_path: Path) -> None:
    write(tmp_path / "tied.gguf", "llama", token_embd=ROWS)
    write(tmp_path / "lost.gguf", "qwen2moe", token_embd=ROWS)
    report = CliRunner().invoke(cli, [str(tmp_path)])
    assert report.exit_code == 1
    assert "lost.gguf" in report.output
    assert "2 targets: 1 pass, 1 fail" in report.output


def test_a_broken_file_is_an_error_and_the_others_are_judged(tmp_path: Path) -> None:
    write(tmp_path / "tied.gguf", "llama", token_embd=ROWS)
    (tmp_path / "broken.gguf").write_bytes(b"GGUF")
    report = CliRunner().invoke(cli, [str(tmp_path)])
    assert report.exit_code == 2
    assert "broken.gguf is broken" in " ".join(report.output.split())


@pytest.mark.parametrize("head", [None, ROWS, ROWS + 1])
def test_a_tie_of_a_file_is_absent_a_copy_or_separate(head: np.ndarray | None, tmp_path: Path) -> None:
    tensors = {"token_embd": ROWS} if head is None else {"token_embd": ROWS, "output": head}
    write(tmp_path / "a.gguf", "llama", **tensors)
    held = read_gguf(str(tmp_path / "a.gguf"))
    tie = read_gguf_tie(held, "fallback", values=True)
    assert isinstance(tie, GgufTie)
    assert tie.group.stored == ("absent" if head is None else "copy" if head is ROWS else "separate")
    assert (tie.use, tie.comparison is None) == ("fallback", head is None)
    unread = read_gguf_tie(held, "fallback", values=False)
    assert isinstance(unread, GgufTie)
    assert isinstance(unread.comparison, Unknown) is (head is not None)
    assert (read_gguf_tie(held, "none", values=True) is None) is (head is None)
