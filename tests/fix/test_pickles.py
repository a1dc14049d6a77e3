"""Weights in pickles: torch writes them anew, loads nothing but tensors, and where it is not there, that is said."""

from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path

import pytest
import torch

from tiecheck.errors import TargetError
from tiecheck.files.checkpoint import read_checkpoint
from tiecheck.fix import writing
from tiecheck.fix.plan import collect_changes, make_plan
from tiecheck.live.pickle_rewriting import rewrite_pickle
from tiecheck.records.edits import Step, TensorChange, copy_steps, drop_steps

STEPS = (*drop_steps(["gone"]), Step("rename-tensor", ("old", "new")), *copy_steps("new.base", ["again"]))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Weights of which two names are one memory, and of which one is a view."""
    base = torch.arange(12.0).reshape(3, 4)
    state = {"gone": torch.ones(2), "old": base, "new.base": base, "view": base[1:], "half": torch.ones(3).bfloat16()}
    torch.save(state, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text("{}")
    return tmp_path


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_what_shares_memory_shares_it_afterwards(directory: Path, zipped: bool) -> None:
    path = directory / "pytorch_model.bin"
    before = torch.load(path)
    torch.save(before, path, _use_new_zipfile_serialization=zipped)
    path.chmod(0o640)
    plan = make_plan(str(directory), STEPS)
    stage = Path(writing.stage_in_place(plan, lambda _: None))
    after = torch.load(stage / path.name)
    assert list(after) == ["new", "new.base", "view", "half", "again"]
    assert torch.equal(after["again"], before["new.base"])
    assert after["half"].dtype == torch.bfloat16
    held = {name: value.untyped_storage().data_ptr() for name, value in after.items()}
    assert held["new"] == held["new.base"] == held["view"] != held["again"]
    assert (stage / path.name).stat().st_mode & 0o777 == 0o640
    assert torch.load(path).keys() == before.keys(), "the old file is as it was"


def test_the_lines_name_every_tensor_that_changes(directory: Path) -> None:
    checkpoint = read_checkpoint(str(directory))
    assert checkpoint is not None
    changes = collect_changes(checkpoint, STEPS)
    assert [line.partition("  ")[0] for line in changes.lines] == ["- gone", "- old", "+ new", "+ again"]
    assert changes.grown == 12 * 4 - 2 * 4
    with pytest.raises(TargetError, match="is stored already"):
        collect_changes(checkpoint, (Step("rename-tensor", ("old", "view")),))
    with pytest.raises(TargetError, match="is not stored"):
        collect_changes(checkpoint, (Step("copy-tensor", ("nobody", "x")),))
    with pytest.raises(TargetError, match="does not hold"):
        collect_changes(checkpoint, (Step("drop-tensor", ("old",), "other.bin"),))


def test_without_torch_it_is_refused_in_a_sentence(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "tiecheck.live.pickle_rewriting", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    plan = make_plan(str(directory), STEPS)
    with pytest.raises(TargetError, match=r"is a pickle, which only torch writes: pip install 'tiecheck\[live\]'"):
        writing.stage_in_place(plan, lambda _: None)


def test_code_in_a_pickle_is_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(tmp_path / "pwned"),)

    (tmp_path / "a.bin").write_bytes(pickle.dumps({"w": Evil()}))
    with pytest.raises(TargetError, match="torch does not load"):
        rewrite_pickle(str(tmp_path / "a.bin"), str(tmp_path / "b.bin"), TensorChange(set(), {}, {}, {}, []))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.bin"]
