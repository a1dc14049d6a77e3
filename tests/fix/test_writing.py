"""What is written: texts changed in place, shards by ranges, and what is refused before anything is."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import resource
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tiecheck.config.options import Config
from tiecheck.errors import TargetError
from tiecheck.fix import refusals, run
from tiecheck.fix.json_text import changed_object
from tiecheck.fix.plan import make_plan
from tiecheck.fix.run import FixOptions, fix_target
from tiecheck.fix.tensors import new_layout, write_shard
from tiecheck.fix.verdicts import Verdict
from tiecheck.fix.writing import DONE, WORK, recover_interrupted, stage_copy, write_text
from tiecheck.records.edits import Edit, Step, TensorChange, copy_steps, drop_steps, set_flags

KEYS = st.text(max_size=4)
OBJECTS = st.dictionaries(KEYS, st.one_of(st.booleans(), st.integers(), KEYS, st.dictionaries(KEYS, st.integers())))
APPLY = FixOptions("tied", unsafe=True, apply=True, rehearse=False)


@given(OBJECTS, OBJECTS, st.sampled_from([None, 0, 2, "\t"]), st.randoms())
def test_a_changed_text_is_the_changed_object(old, put, indent, random) -> None:
    text = json.dumps({"level": old, "after": 1}, indent=indent, ensure_ascii=random.random() < 0.5)
    gone = [key for key in old if key not in put and random.random() < 0.3]
    names = [key for key in old if key not in put and key not in gone]
    rename = {names[0]: "a new name"} if names and "a new name" not in put else {}
    changed = json.loads(changed_object(text, ("level",), put=put, drop=gone, rename=rename))
    kept = {rename.get(k, k): v for k, v in old.items() if k not in gone}
    assert changed == {"level": {**kept, **put}, "after": 1}


def test_formatting_stays() -> None:
    text = '{\n    "b" : 1,\n\n    "d": [1,2 ,3],  "tie": true\n}\n'
    assert changed_object(text, (), put={"tie": False}) == text.replace("true", "false")
    assert (
        changed_object(text, (), put={"c": None})
        == '{\n    "b" : 1,  "c": null,\n\n    "d": [1,2 ,3],  "tie": true\n}\n'
    )
    assert changed_object('{"a": {"x": 1, "y": 2}}', ("a",), drop=["x"]) == '{"a": {"y": 2}}'
    assert changed_object('{\n  "a": 1,\n  "z": 2\n}', (), put={"c": 3}) == '{\n  "a": 1,\n  "c": 3,\n  "z": 2\n}'
    with pytest.raises(TargetError, match="twice"):
        changed_object('{"a": 1, "a": 2}', (), put={"a": 3})


def test_a_shard_keeps_dtypes_metadata_and_alignment(tmp_path: Path) -> None:
    tensors = {
        "wide": torch.arange(6, dtype=torch.float64),
        "head": torch.arange(3, dtype=torch.float32),
        "half": torch.arange(5, dtype=torch.bfloat16),
        "odd": torch.arange(3, dtype=torch.int8),
        "none": torch.zeros(0, 4),
        "scalar": torch.tensor(2.0),
    }
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt", "a": "ü"})
    (tmp_path / "config.json").write_text("{}")
    steps = (*drop_steps(["head"]), Step("rename-tensor", ("half", "other")), *copy_steps("odd", ["again"]))
    plan = make_plan(str(tmp_path), steps)
    layout = plan.layouts["model.safetensors"]
    new = tmp_path / "new.safetensors"
    write_shard(str(tmp_path / "model.safetensors"), str(new), layout, lambda _: None)
    assert new.stat().st_size == layout.nbytes
    written = load_file(new)
    meant = {k: v for k, v in tensors.items() if k not in {"head", "half"}}
    meant |= {"other": tensors["half"], "again": tensors["odd"]}
    assert written.keys() == meant.keys()
    assert all(
        torch.equal(written[name], value) and written[name].dtype == value.dtype for name, value in meant.items()
    )
    with safe_open(new, "pt") as file:
        assert file.metadata() == {"format": "pt", "a": "ü"}
    header = json.loads(layout.header[8:])
    for entry in (e for n, e in header.items() if n != "__metadata__"):
        width = {"F64": 8, "F32": 4, "BF16": 2}.get(entry["dtype"], 1)
        assert entry["data_offsets"][0] % width == 0
    assert len(layout.header) % 8 == 0


def test_holes_stay_holes_and_memory_is_bounded(tmp_path: Path) -> None:
    size = 1 << 30
    entries = {"a": (0, size), "b": (size, size + 8)}
    header = {n: {"dtype": "U8", "shape": [e - b], "data_offsets": [b, e]} for n, (b, e) in entries.items()}
    text = json.dumps(header).encode()
    old, new = tmp_path / "model.safetensors", tmp_path / "new"
    with old.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.seek(8 + len(text) + size)
        file.write(b"12345678")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    write_shard(
        str(old),
        str(new),
        new_layout(str(tmp_path), old.name, TensorChange(set(), {"b": "c"}, {}, {}, [])),
        lambda _: None,
    )
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024
    assert new.stat().st_blocks * 512 < 1 << 20
    with new.open("rb") as file:
        file.seek(-8, os.SEEK_END)
        assert file.read() == b"12345678"


@pytest.fixture
def broken(models: Path, tmp_path: Path) -> Path:
    """A directory whose fix writes its weights anew."""
    return Path(shutil.copytree(models / "llama-diverged-head", tmp_path / "model"))


def content(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}


def refused(directory: Path, match: str, options: FixOptions = APPLY, step=lambda _: None) -> None:
    """A fix is refused in one sentence, and every byte is as it was."""
    old = content(directory)
    with pytest.raises(TargetError, match=match):
        fix_target(str(directory), Config(), options, step=step)
    assert content(directory) == old


def test_what_is_shared_or_read_only_is_refused(broken: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(broken)
    refused(tmp_path / "link", "is a link")
    cache = tmp_path / "models--a--b" / "snapshots" / "1"
    shutil.copytree(broken, cache)
    refused(cache, "in the hub's cache")
    blobs = tmp_path / "models--a--b" / "blobs"
    blobs.mkdir()
    (cache / "model.safetensors").rename(blobs / "1")
    (cache / "model.safetensors").symlink_to("../../blobs/1")
    refused(cache, "is a link")
    broken.chmod(0o555)
    refused(broken, "cannot be written")
    broken.chmod(0o755)
    before = (blobs / "1").read_bytes()
    outcome = fix_target(str(cache), Config(), APPLY._replace(apply=False, to=str(tmp_path / "fixed")))
    assert outcome.written
    assert (blobs / "1").read_bytes() == before
    assert not any(path.is_symlink() for path in (tmp_path / "fixed").iterdir())


def test_bad_input_is_refused(broken: Path, models: Path, tmp_path: Path) -> None:
    config = broken / "config.json"
    text = config.read_bytes()
    config.write_bytes(text.replace(b'"silu"', b'"\xff"'))
    refused(broken, "not UTF-8")
    config.write_bytes(text)
    with (broken / "model.safetensors").open("r+b"):
        refused(broken, "is being written")
    refused(broken, "changed while it was fixed", step=lambda word: word == "folder made" and os.utime(config, (1, 1)))
    sharded = Path(shutil.copytree(models / "gpt2-healthy-sharded", tmp_path / "sharded"))
    min(sharded.glob("*.safetensors")).unlink()
    refused(sharded, "is not here, and a part of a model is not fixed")
    with pytest.raises(TargetError, match="is no directory"):
        fix_target(str(broken / "model.safetensors"), Config(), APPLY)
    with pytest.raises(TargetError, match="is there already"):
        fix_target(str(broken), Config(), APPLY._replace(to=str(sharded)))
    with pytest.raises(TargetError, match="own directory"):
        fix_target(str(broken), Config(), APPLY._replace(to=str(broken / "fixed")))


def test_a_full_disk(broken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(word: str) -> None:
        if word.startswith("data of"):
            raise OSError(errno.ENOSPC, "No space left on device")

    refused(broken, "No space left on device; it is as it was", step=full)
    monkeypatch.setattr(refusals, "SPARE", 1 << 60)
    refused(broken, "are needed")


@pytest.mark.parametrize("at", [0, 1])
def test_a_place_that_the_system_refuses_leaves_the_old_files_or_is_gone_on_with(
    at: int, broken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a folder with the sticky bit, where nobody replaces another's file."""
    options = FixOptions("untied", apply=True, backup=True, rehearse=False)
    text = (broken / "model.safetensors").read_bytes()
    both = Edit(
        "untied",
        None,
        True,
        (*set_flags(["tie_word_embeddings"], value=False), Step("copy-tensor", ("lm_head.weight", "spare.weight"))),
    )
    replace, calls = os.replace, iter(range(9))

    def refuse(*paths: str) -> None:
        if next(calls) == at:
            raise PermissionError(errno.EPERM, "Operation not permitted", paths[1])
        replace(*paths)

    with monkeypatch.context() as patch:
        patch.setattr(run, "_choice", lambda *_: both)
        patch.setattr(os, "replace", refuse)
        patch.setattr(run, "hold_against", lambda *_: Verdict((), ()))
        with pytest.raises(
            TargetError, match=r"Operation not permitted; (it is as it was|the new files are in)"
        ) as told:
            fix_target(str(broken), Config(), options)
    assert (broken / WORK).exists() == bool(at) == ("the next tiecheck fix goes on" in str(told.value))
    assert ((broken / "model.safetensors").read_bytes() == text) == (not at)
    outcome = fix_target(str(broken), Config(), options._replace(backup=False))
    assert outcome.recovered == ("an interrupted fix is finished: the new files are in place" if at else None)
    assert not (broken / WORK).exists()


@pytest.mark.parametrize("name", ["config.json", ".tiecheck-fix"])
def test_what_stands_in_the_way_is_named(name: str, broken: Path) -> None:
    (broken / name).touch()
    (broken / name).chmod(0o444)
    refused(
        broken, rf"{name}(/new)?: (is read-only|Not a directory)|{name} is read-only", FixOptions("untied", apply=True)
    )


def test_a_fix_that_does_not_help_is_not_kept(broken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    useless = Edit("tied", None, True, (Step("set-config", (), "config.json", ("unrelated",), True),))
    monkeypatch.setattr(run, "_choice", lambda *_: useless)
    old = content(broken)
    outcome = fix_target(str(broken), Config(), APPLY)
    assert outcome.undone[0].startswith("TIE101 would still be there")
    assert not outcome.written
    assert content(broken) == old


def test_a_fix_that_brings_another_finding_is_not_kept(broken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    harmful = Edit("tied", None, True, drop_steps(["lm_head.weight", "model.embed_tokens.weight"]))
    monkeypatch.setattr(run, "_choice", lambda *_: harmful)
    old = content(broken)
    outcome = fix_target(str(broken), Config(), APPLY)
    assert outcome.undone[0].startswith("TIE110 would come")
    assert content(broken) == old


def test_originals_are_kept(broken: Path) -> None:
    old = content(broken)
    fix_target(str(broken), Config(), APPLY._replace(backup=True))
    new = content(broken)
    assert new["model.safetensors.orig"] == old["model.safetensors"]
    assert new.keys() == {*old, "model.safetensors.orig"}


def test_a_copy_shares_what_stays(broken: Path, tmp_path: Path) -> None:
    to = tmp_path / "copy"
    options = FixOptions("untied", to=str(to), rehearse=False)
    assert fix_target(str(broken), Config(), options).written
    assert (to / "model.safetensors").read_bytes() == (broken / "model.safetensors").read_bytes()
    assert json.loads((to / "config.json").read_text())["tie_word_embeddings"] is False
    shared = (to / "model.safetensors").stat().st_ino == (broken / "model.safetensors").stat().st_ino
    assert shared or (to / "model.safetensors").stat().st_nlink == 1
    assert (to / "config.json").stat().st_ino != (broken / "config.json").stat().st_ino


@pytest.mark.parametrize("state", ["nothing", "staged", "committed", "done", "changed"])
def test_what_an_interrupted_fix_left_is_finished_or_cleared_away(state: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("old")
    (tmp_path / "gone.bin").write_text("old")
    old = refusals.file_identities(str(tmp_path), ("config.json", "gone.bin"))
    work = tmp_path / (WORK + DONE if state == "done" else WORK)
    if state != "nothing":
        (work / "new").mkdir(parents=True)
        write_text(str(work / "new" / "config.json"), "new")
    if state in {"committed", "changed"}:
        told = {"order": ["config.json"], "removed": ["gone.bin"], "old": old, "backup": False}
        write_text(str(work / "commit"), json.dumps(told))
    if state == "changed":
        (tmp_path / "config.json").write_text("somebody else's")
        with pytest.raises(TargetError, match="has changed since a fix was interrupted"):
            recover_interrupted(str(tmp_path))
        return
    told = recover_interrupted(str(tmp_path))
    assert (told is None) == (state == "nothing")
    assert (tmp_path / "config.json").read_text() == ("new" if state == "committed" else "old")
    assert (tmp_path / "gone.bin").exists() == (state != "committed")
    assert not work.exists()
    assert recover_interrupted(str(tmp_path)) is None


ODD = ("../victim", "../../victim", "a/../../victim", "/etc/hostname", "", ".", "..", 1, None, ["x"], "link/x", "x\0y")


@pytest.mark.parametrize("seed", range(40))
def test_what_the_model_says_of_an_interrupted_fix_leads_nowhere_else(seed: int, tmp_path: Path) -> None:
    """A `.tiecheck-fix` may have come with the model: it creates, moves and removes nothing outside."""
    draw = random.Random(seed)
    root, outside = tmp_path / "in" / "model", tmp_path / "outside"
    (root / WORK / "new").mkdir(parents=True)
    outside.mkdir()
    for place in (outside, tmp_path, root.parent, root, root / WORK, root / WORK / "new"):
        (place / "x").write_text("kept")
    (root / WORK / "victim").write_text("planted")
    (root / "link").symlink_to(outside)
    (root / WORK / "new" / "link").symlink_to(outside)
    told = {key: draw.choices((*ODD, "x"), k=draw.randint(0, 2)) for key in ("order", "removed")}
    told |= {"old": draw.choice(({}, {}, None, 3)), "backup": draw.choice((True, False, False, "x"))}
    raw = json.dumps(draw.choice((told, told, told, [told], {}))).encode()
    if seed % 8 == 7:
        os.mkfifo(root / WORK / "commit")
    else:
        (root / WORK / "commit").write_bytes(raw if seed % 8 else raw[:-3] + b"\xff")
    if seed % 10 == 9:
        (root / WORK).rename(outside / WORK)
        (root / WORK).symlink_to(outside / WORK)

    def kept() -> dict[Path, bytes]:
        return {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file() and root not in p.parents}

    before = kept()
    with contextlib.suppress(TargetError):
        recover_interrupted(str(root))
    assert kept() == before


def test_a_small_file_is_new_has_its_mode_and_takes_no_ones_place(tmp_path: Path) -> None:
    write_text(str(tmp_path / "a"), "\u00e9", 0o640)
    assert ((tmp_path / "a").read_bytes(), (tmp_path / "a").stat().st_mode & 0o777) == ("\u00e9".encode(), 0o640)
    with pytest.raises(FileExistsError):
        write_text(str(tmp_path / "a"), "other")


def test_a_copy_goes_neither_into_the_model_nor_over_something(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "llama-diverged-head", tmp_path / "model")
    plan = make_plan(str(tmp_path / "model"), drop_steps(["lm_head.weight"]))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    for to, told in ((tmp_path / "model" / "in", "lies within"), (tmp_path / "full", "is there already")):
        with pytest.raises(TargetError, match=told):
            stage_copy(plan, str(to), lambda _: None)
