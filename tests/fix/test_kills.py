"""A fix that is killed between any two writes leaves the old files or the new ones, and the next run says which."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tiecheck.config.options import Config
from tiecheck.fix.run import FixOptions, fix_target

CHILD = """
import os, signal, sys
from tiecheck.config.options import Config
from tiecheck.fix.run import FixOptions, fix_target

target, number, to, backup = sys.argv[1], int(sys.argv[2]), sys.argv[3] or None, sys.argv[4] == "backup"
seen = 0

def step(word):
    global seen
    seen += 1
    if seen == number:
        os.kill(os.getpid(), signal.SIGKILL)

options = FixOptions("tied", unsafe=True, apply=to is None, to=to, backup=backup, rehearse=False)
print(fix_target(target, Config(), options, step=step).written)
"""


def content(directory: Path) -> dict[str, bytes]:
    """Every file by its bytes, what a fix itself leaves included."""
    return {str(p.relative_to(directory)): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}


def run_child(target: Path, number: int, to: str = "", backup: str = "") -> int:
    return subprocess.run(
        [sys.executable, "-c", CHILD, str(target), str(number), to, backup],
        capture_output=True,
        timeout=60,
        check=False,
    ).returncode


@pytest.fixture
def broken(tmp_path: Path, models: Path) -> Path:
    """A sharded model that stores a stale head in a shard of its own beside another in its place."""
    import torch
    from cases_hf import made
    from casework import draw
    from fix_subjects import CLASSES, edit_weights

    where = tmp_path / "model"
    made("GPT2LMHeadModel", 3, tie_word_embeddings=True, **CLASSES["GPT2LMHeadModel"]).save_pretrained(
        where, max_shard_size="7KB"
    )
    source = "transformer.wte.weight"
    edit_weights(where, lambda t: t.update({"lm_head.weight": draw(t[source].shape, torch.Generator().manual_seed(5))}))
    return where


@pytest.mark.parametrize("backup", ["", "backup"])
def test_a_kill_in_place(broken: Path, backup: str) -> None:
    old = content(broken)
    whole = broken.with_name("whole")
    shutil.copytree(broken, whole)
    assert run_child(whole, 0, backup=backup) == 0
    new = content(whole)
    assert new != old
    assert len(new) == len(old) + (2 if backup else 0)
    ended = []
    for number in range(1, 100):
        there = broken.with_name(f"killed-{number}")
        shutil.copytree(broken, there)
        killed = run_child(there, number, backup=backup) == -signal.SIGKILL
        names = {name for name in content(there) if not name.startswith(".tiecheck-fix")}
        assert set(old) <= names, "no name of the model is ever gone"
        outcome = fix_target(str(there), Config(select=("TIE1",)), FixOptions())
        now = content(there)
        assert now in (old, new)
        said = outcome.recovered or ""
        if killed and said:
            assert ("the new files are in place" in said) == (now == new)
        ended.append(now == new)
        if not killed:
            break
        shutil.rmtree(there)
    assert ended == sorted(ended), "first the old files, from some step on the new ones"
    assert {False, True} <= set(ended)
    assert len(ended) > 8


def test_a_kill_while_a_copy_is_made(broken: Path, tmp_path: Path) -> None:
    old = content(broken)
    to = tmp_path / "copy"
    number = 0
    while True:
        number += 1
        killed = run_child(broken, number, str(to)) == -signal.SIGKILL
        assert content(broken) == old
        if not killed:
            break
        if to.exists():  # it has its name: then it is whole
            assert (number, len(content(to))) == (number, len(old))
            shutil.rmtree(to)
    assert number > 4
    assert sorted(os.listdir(tmp_path)) == ["copy", "model"], "what the killed runs left was cleared away"


def test_a_file_that_changed_after_a_kill_is_not_overwritten(broken: Path) -> None:
    for number in range(1, 100):
        there = broken.with_name(f"killed-{number}")
        shutil.copytree(broken, there)
        run_child(there, number)
        if (there / ".tiecheck-fix" / "commit").exists():
            break
        shutil.rmtree(there)
    index = there / "model.safetensors.index.json"
    index.write_text(index.read_text() + "\n")
    with pytest.raises(Exception, match="has changed since a fix was interrupted"):
        fix_target(str(there), Config(), FixOptions())
    assert index.read_text().endswith("\n\n")
