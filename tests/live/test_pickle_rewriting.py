"""A pickle that is written anew: what changes does, shared memory stays shared, and code is never run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from tiecheck.errors import TargetError
from tiecheck.live.pickle_rewriting import rewrite_pickle
from tiecheck.records.edits import TensorChange

NO_CHANGE = TensorChange(set(), {}, {}, {}, [])


def state() -> dict[str, Any]:
    shared = torch.arange(6.0).reshape(3, 2)
    return {"emb": shared, "head": shared, "norm": torch.ones(2)}


def rewritten(where: Path, held: Any, change: TensorChange, **options: Any) -> Any:
    torch.save(held, where / "old.bin", **options)
    rewrite_pickle(str(where / "old.bin"), str(where / "new.bin"), change)
    return torch.load(where / "new.bin", weights_only=True)


@pytest.mark.parametrize("zipped", [True, False])
def test_names_go_change_and_are_copied_and_the_rest_is_as_it_was(zipped: bool, tmp_path: Path) -> None:
    change = NO_CHANGE._replace(drop={"norm"}, rename={"head": "lm_head"}, copies={"again": "emb"})
    found = rewritten(tmp_path, state(), change, _use_new_zipfile_serialization=zipped)
    assert list(found) == ["emb", "lm_head", "again"]
    assert all(torch.equal(value, state()["emb"]) for value in found.values())
    assert found["emb"].data_ptr() == found["lm_head"].data_ptr() != found["again"].data_ptr()


def test_what_stands_below_a_key_comes_to_the_top(tmp_path: Path) -> None:
    found = rewritten(tmp_path, {"model": {"inner": state()}, "epoch": 3}, NO_CHANGE._replace(below=["model", "inner"]))
    assert list(found) == list(state())


def test_the_metadata_of_a_state_dict_is_kept(tmp_path: Path) -> None:
    held = torch.nn.BatchNorm1d(2).state_dict()
    found = rewritten(tmp_path, held, NO_CHANGE)
    assert found._metadata == held._metadata


def test_a_pickle_that_would_run_code_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "pwned"),)

    with pytest.raises(TargetError, match="torch does not load"):
        rewritten(tmp_path, {"x": Evil()}, NO_CHANGE)
    assert {path.name for path in tmp_path.iterdir()} == {"old.bin"}
