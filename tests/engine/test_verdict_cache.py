"""A verdict that is told from the cache is the one that the directory would get now."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest
from click.testing import CliRunner
from fleets import EMBEDDING, HEAD, NORM, drawn_fleet, floats, write_model

from tiecheck.cli.main import cli
from tiecheck.config.options import Config
from tiecheck.engine import run, verdict_cache
from tiecheck.records.report import TargetReport

CACHED = Config(cache=True)


@pytest.fixture(autouse=True)
def cache_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file, in a cache of this test's own, which takes the verdicts of files that were just written."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(verdict_cache, "RECENT", 0)
    return tmp_path / "cache" / "tiecheck" / "verdicts"


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The targets that were judged."""
    seen: list[str] = []
    whole = run.check_target

    def seeing(given, config, reporting=None, *, one_of_many=False, cache=None):
        looked = cache.look_at(given) if cache is not None else None
        if cache is not None and (looked is None or looked.report is None):
            seen.append(given)
        return whole(given, config, reporting, one_of_many=one_of_many, cache=cache)

    monkeypatch.setattr(run, "check_target", seeing)
    return seen


def judged(targets: Iterable[str], config: Config = CACHED) -> tuple[TargetReport, ...]:
    return tuple(run.run(tuple(targets), config))


def fresh(targets: Iterable[str]) -> tuple[TargetReport, ...]:
    return tuple(run.check_target(target, Config()) for target in targets)


def test_fixtures_are_told_again_word_for_word(models: Path, cache_file: Path, parsed: list[str]) -> None:
    folders = sorted(str(folder) for folder in models.iterdir() if folder.is_dir())
    first = judged(folders)
    assert parsed == folders
    parsed.clear()
    again = judged(folders)
    assert again == first == fresh(folders)
    assert [type(finding) for report in again for finding in report.findings] == [
        type(finding) for report in first for finding in report.findings
    ]
    assert len(parsed) <= len(folders) // 4  # those without weights are judged each time
    assert cache_file.stat().st_mode & 0o777 == 0o600


def test_two_directories_that_differ_in_one_row(tmp_path: Path) -> None:
    """Alike in names, headers, sizes and times: nothing but bytes tells which one has lost its head."""
    rows = floats(random.Random(1), 32)
    broken = rows[:48] + floats(random.Random(2), 4) + rows[64:]
    norm = floats(random.Random(3), 4)
    good = write_model(tmp_path / "a", {EMBEDDING: rows, HEAD: rows, NORM: norm}, tie_word_embeddings=True)
    bad = write_model(tmp_path / "b", {EMBEDDING: rows, HEAD: broken, NORM: norm}, tie_word_embeddings=True)
    for path in (*good.iterdir(), *bad.iterdir()):
        os.utime(path, ns=(10**18, 10**18))
    targets = [str(good), str(bad)]
    for _ in range(3):
        assert [[f.code for f in report.findings] for report in judged(targets)] == [["TIE106"], ["TIE101"]]
    good_weights, bad_weights = (folder / "model.safetensors" for folder in (good, bad))
    assert good_weights.stat().st_size == bad_weights.stat().st_size
    good_weights.write_bytes(bad_weights.read_bytes())  # the same size, and the time of the other bytes
    os.utime(good_weights, ns=(10**18, 10**18))
    assert [[f.code for f in report.findings] for report in judged(targets)] == [["TIE101"], ["TIE101"]]


def touch(folder: Path, draw: random.Random) -> None:
    """Change something of a directory as people and tools do; the time of the last write may be put back."""
    weights, config = folder / "model.safetensors", folder / "config.json"
    before = weights.stat()
    match draw.randrange(8):
        case 0:
            raw = bytearray(weights.read_bytes())
            raw[-draw.randrange(1, 60)] ^= 1 << draw.randrange(8)
            weights.write_bytes(raw)
        case 1:
            data = json.loads(config.read_text())
            config.write_text(json.dumps(data | {"tie_word_embeddings": draw.choice([True, False])}))
        case 2:
            (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": draw.randrange(3)}))
        case 3:
            (folder / "state").mkdir(exist_ok=True)
            (folder / "state" / ".metadata").write_bytes(b"")
        case 4:
            other = folder.parent / f"{folder.name}-elsewhere.safetensors"
            weights.rename(other)
            weights.symlink_to(other)
        case 5:
            weights.rename(folder / draw.choice(["other.safetensors", "model-00001-of-00002.safetensors"]))
            return
        case 6:
            stored = {EMBEDDING: floats(draw, 32), HEAD: floats(draw, 32), NORM: floats(draw, 4)}
            write_model(folder.parent / f"{folder.name}-new", stored)
            os.replace(folder.parent / f"{folder.name}-new" / "model.safetensors", weights)
            shutil.rmtree(folder.parent / f"{folder.name}-new")
        case 7:
            (folder / "modeling_own.py").write_text("class A:\n    pass\n")
    if draw.random() < 0.5 and not weights.is_symlink():
        os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("seed", [pytest.param(seed, marks=[pytest.mark.slow] * (seed > 0)) for seed in range(3)])
def test_drawn_changes_are_seen(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    folders = [Path(folder) for folder in drawn_fleet(tmp_path / "fleet", 40, seed)]
    targets = [str(folder) for folder in folders]
    judged(targets)
    for _ in range(4):
        for folder in draw.sample(folders, 6):
            if (folder / "model.safetensors").exists():
                touch(folder, draw)
        assert judged(targets) == fresh(targets)


def test_other_options_and_another_place_ask_anew(
    tmp_path: Path, parsed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    targets = [os.path.relpath(folder, tmp_path) for folder in drawn_fleet(tmp_path, 6, 3)]
    monkeypatch.chdir(tmp_path)
    judged(targets)
    for config in (Config(cache=True, values="never"), Config(cache=True, fail_on="error"), CACHED):
        parsed.clear()
        assert judged(targets, config) == tuple(run.check_target(target, config) for target in targets)
        assert bool(parsed) == (config != CACHED)


def test_another_installation_asks_anew(tmp_path: Path, parsed: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without numpy two types of one matrix are not compared; another version has other rules."""
    targets = list(drawn_fleet(tmp_path / "fleet", 5, 1))
    for change in ({}, {"find_spec": lambda _: None}, {"__version__": "9"}):
        for name, value in change.items():
            monkeypatch.setattr(verdict_cache, name, value)
        verdict_cache._build.cache_clear()
        parsed.clear()
        judged(targets)
        assert parsed == targets
        parsed.clear()
        judged(targets)
        assert not parsed
    verdict_cache._build.cache_clear()


@pytest.mark.parametrize("seed", [pytest.param(seed, marks=[pytest.mark.slow] * (seed > 1)) for seed in range(6)])
def test_a_damaged_file_is_as_if_it_were_not_there(tmp_path: Path, cache_file: Path, seed: int) -> None:
    draw = random.Random(seed)
    targets = list(drawn_fleet(tmp_path / "fleet", 10, seed))
    judged(targets)
    raw = cache_file.read_bytes()
    for _ in range(20):
        broken = bytearray(raw)
        match draw.randrange(4):
            case 0:
                broken = broken[: draw.randrange(len(raw))]
            case 1:
                for _ in range(draw.randrange(1, 40)):
                    broken[draw.randrange(len(raw))] = draw.randrange(256)
            case 2:
                broken = bytearray(draw.randbytes(draw.randrange(300)))
            case 3:  # lines that are whole, each with the key of another
                head, *lines = raw.split(b"\n")
                keys = [line[32:64] for line in lines if line]
                draw.shuffle(keys)
                changed = [line[:32] + key + line[64:] for line, key in zip(lines, keys, strict=False)]
                broken = bytearray(b"\n".join([head, *changed]))
        cache_file.write_bytes(broken)
        assert judged(targets) == fresh(targets)


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="whose a file is, and who may write to it, is Unix's to tell")
@pytest.mark.parametrize("kind", ["theirs to write", "another's", "pipe", "device", "loop", "folder's", "hole"])
def test_a_cache_that_others_have_prepared_is_not_believed(
    tmp_path: Path, cache_file: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """All findings of the lines are taken out, and their hashes are right: nothing but the file itself tells."""
    targets = list(drawn_fleet(tmp_path / "fleet", 10, 7))
    judged(targets)
    build, *lines = cache_file.read_bytes().split(b"\n")
    forged = [build]
    for line in lines[:-1]:
        text, *alike = line[3 * verdict_cache.DIGITS :].split(b"\0")
        report = json.loads(text)
        at = TargetReport._fields.index
        report[at("status")], report[at("findings")] = "pass", []
        rest = line[verdict_cache.DIGITS : 3 * verdict_cache.DIGITS] + b"\0".join([json.dumps(report).encode(), *alike])
        forged.append(verdict_cache._hash_bytes(rest).encode() + rest)
    cache_file.write_bytes(b"\n".join([*forged, b""]))
    assert {report.status for report in judged(targets)} == {"pass"}, "the user's own file is believed"
    cache_file.write_bytes(b"\n".join([*forged, b""]))
    match kind:
        case "theirs to write":
            cache_file.chmod(0o622)
        case "another's":
            monkeypatch.setattr(os, "getuid", lambda: 4242)
        case "hole":
            os.truncate(cache_file, 1 << 40)
        case _:
            cache_file.unlink()
            if kind == "pipe":
                os.mkfifo(cache_file)
            else:
                there = {"device": "/dev/zero", "loop": cache_file, "folder's": tmp_path}
                cache_file.symlink_to(there[kind])
    assert judged(targets) == fresh(targets)
    assert judged(targets) == fresh(targets)


@pytest.mark.parametrize("place", ["a file", "a folder", "nowhere", "no home", "another build"])
def test_a_place_that_takes_no_cache_is_no_matter(
    tmp_path: Path, cache_file: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    targets = list(drawn_fleet(tmp_path / "fleet", 4, 1))
    if place == "a file":
        (tmp_path / "cache").write_text("no folder")
    elif place == "a folder":
        cache_file.mkdir(parents=True)
    elif place == "nowhere":
        monkeypatch.setenv("XDG_CACHE_HOME", "relative")
        monkeypatch.setattr(os.path, "expanduser", lambda path: path)
        monkeypatch.chdir(tmp_path)
    elif place == "no home":
        monkeypatch.setenv("XDG_CACHE_HOME", "")
        monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
    else:
        judged(targets)
        raw = cache_file.read_bytes()
        cache_file.write_bytes(raw.replace(b" ", b" 0", 1))
    expected = fresh(targets)
    assert judged(targets) == expected
    assert judged(targets) == expected
    assert not (tmp_path / "relative").exists()
    assert not (tmp_path / "nobody").exists()


def test_the_file_has_a_bound(tmp_path: Path, cache_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    targets = list(drawn_fleet(tmp_path / "fleet", 30, 1))
    judged(targets)
    monkeypatch.setattr(verdict_cache, "LIMIT", cache_file.stat().st_size // 2)
    cache_file.unlink()
    judged(targets)
    assert cache_file.stat().st_size <= verdict_cache.LIMIT
    assert judged(targets) == fresh(targets)
    assert [path.name for path in cache_file.parent.iterdir()] == ["verdicts"]


def test_what_is_not_kept(tmp_path: Path, cache_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    targets = list(drawn_fleet(tmp_path / "fleet", 3, 1))
    judged(targets[:1])
    judged(targets, Config())
    for asked in ({"rehearse": True}, {"live": True}, {"trust_remote_code": True}, {"baseline": "b.json"}):
        assert verdict_cache.open_cache(Config(cache=True, **asked)) is None
    monkeypatch.setattr(verdict_cache, "RECENT", 10**12)  # a second write might have the same time
    judged(targets)
    assert not cache_file.exists()


def test_the_command_line_tells_from_it(tmp_path: Path, cache_file: Path) -> None:
    targets = list(drawn_fleet(tmp_path / "fleet", 12, 2))
    outputs = []
    for option in ("--no-cache", "--cache", "--cache"):
        done = CliRunner().invoke(cli, ["check", option, "-f", "concise", *targets])
        outputs.append((done.exit_code, done.stdout))
        assert cache_file.exists() == (option == "--cache")
    assert outputs[0] == outputs[1] == outputs[2]
