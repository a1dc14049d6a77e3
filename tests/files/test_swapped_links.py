"""Files and folders that somebody swaps for links out of the target between the look at them and the open."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import pytest
from hostile_targets import LLAMA, archive, one_tensor, placed, with_entry
from pickles import text

import tiecheck

pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="by descriptor Linux alone tells the path")


def sharded(root: Path) -> None:
    index = {"metadata": {}, "weight_map": {"model.embed_tokens.weight": "part/m.safetensors"}}
    placed(root, "model", **{"model.safetensors.index.json": index})
    placed(root / "model", "part", **{"config.json": None, "m.safetensors": one_tensor()})


def cached(root: Path) -> None:
    """A snapshot of the hub's cache, whose files are links to blobs."""
    placed(root, "repo/blobs", **{"config.json": None, "1": LLAMA, "2": one_tensor()})
    snapshot = placed(root, "repo/snapshots/abc", **{"config.json": None})
    for name, blob in (("config.json", "1"), ("model.safetensors", "2")):
        (snapshot / name).symlink_to(f"../../blobs/{blob}")
    (root / "model").symlink_to(snapshot)


MODELS = {
    "safetensors": lambda root: placed(root, "model", **{"model.safetensors": one_tensor()}),
    "pickle": lambda root: placed(root, "model", **{"pytorch_model.bin": archive(with_entry([text("x")], [b"N"]))}),
    "state": lambda root: placed(
        root, "model", **{"model.safetensors": one_tensor(), "optimizer.bin": archive([b"}"])}
    ),
    "sharded": sharded,
    "cached": cached,
}


def swapped(path: Path, outside: Path) -> tuple[Path, Path]:
    """Put a link to what lies outside in the place of a file, or of its folder; return it and what was there."""
    place = path.parent if path.parent.name == "part" else path
    kept = place.with_name(f"{place.name}-kept")
    place.rename(kept)
    place.symlink_to(outside if place != path else outside / path.name)
    return place, kept


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", MODELS)
def test_no_byte_outside_is_read_whenever_a_link_is_swapped_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, seed: int
) -> None:
    draw = random.Random(f"{kind}{seed}")
    root, outside = tmp_path / "there", tmp_path / "outside"
    outside.mkdir()
    MODELS[kind](root)
    real_root = os.path.realpath(root)
    for file in root.rglob("*"):
        if file.is_file():
            shutil.copy(file, outside / file.name)
    before = tiecheck.check(root / "model")
    real_open, opened, read = os.open, [], []
    wanted: int | None = None

    def opening(path: str, *more: int, **named: int) -> int:
        mine = str(path).startswith((str(root), real_root)) and not os.path.isdir(path)
        opened.append(str(path)) if mine else None
        if not mine or len(opened) - 1 != wanted:
            return real_open(path, *more, **named)
        place, kept = swapped(Path(path), outside)
        try:
            return real_open(path, *more, **named)
        finally:
            if draw.random() < 0.5:  # and back again at once, as if nothing had been
                place.unlink()
                kept.rename(place)

    def noted(call):
        def reading(descriptor: int, *more: int) -> bytes:
            read.append(os.path.realpath(f"/proc/self/fd/{descriptor}"))
            return call(descriptor, *more)

        return reading

    monkeypatch.setattr(os, "open", opening)
    monkeypatch.setattr(os, "read", noted(os.read))
    monkeypatch.setattr(os, "pread", noted(os.pread))
    tiecheck.check(root / "model")
    count, opened[:] = len(opened), []
    assert count
    wanted = draw.randrange(count)
    report = tiecheck.check(root / "model")
    assert len(opened) > wanted
    assert not [path for path in read if path.startswith(str(outside))]
    (target,) = report.targets
    if target.status != before.targets[0].status:
        told = " ".join([*(e.message for e in target.errors), *(s.reason for s in target.skips), str(target.reason)])
        assert any(words in told for words in ("while it was read", "cannot be read", "outside the target directory"))
