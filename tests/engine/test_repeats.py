"""A verdict that is used again is the one that the directory would get by itself."""

from __future__ import annotations

import json
import os
import random
import struct
from pathlib import Path
from typing import Any

import pytest
from fleets import EMBEDDING, HEAD, NORM, floats, write_model

from tiecheck.config.options import Config
from tiecheck.engine import repeats, run
from tiecheck.engine.run import check_target
from tiecheck.files import model_config
from tiecheck.files.compare import equality
from tiecheck.files.limits import Account, ByteQuestion, current, made_once, target_account
from tiecheck.files.local import read_bytes
from tiecheck.files.remote.repeated_headers import RecentItems
from tiecheck.files.safetensors import header
from tiecheck.stored import load_problems


@pytest.fixture(autouse=True)
def _nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeats, "_files", RecentItems(repeats.KINDS))
    monkeypatch.setattr(repeats, "_kinds", RecentItems(repeats.KINDS))


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The targets that were judged in full."""
    seen: list[str] = []
    whole = run.parse_target
    monkeypatch.setattr(run, "parse_target", lambda text: seen.append(text) or whole(text))
    return seen


def agree(folder: Path, **options: Any) -> None:
    """Judge a directory as one of many, and hold the report against that of a check by itself."""
    found = check_target(str(folder), Config(**options), one_of_many=True)
    assert found == check_target(str(folder), Config(**options))


NAN, OTHER_NAN, ZERO, MINUS = b"\0\0\xc0\x7f", b"\1\0\xc0\x7f", bytes(4), b"\0\0\0\x80"


def values(draw: random.Random) -> dict[str, bytes]:
    """Bytes of embedding, head and norm: few of each, so that they come again."""
    embedding = draw.choice(
        [floats(random.Random(draw.randrange(3)), 32), bytes(128), NAN * 32, ZERO + NAN + ZERO * 30]
    )
    other = floats(random.Random(9 + draw.randrange(3)), 32)
    head = draw.choice(
        [embedding, other, embedding[:-4] + MINUS, embedding.replace(NAN, OTHER_NAN), other[:64] + embedding[64:]]
    )
    norm = draw.choice([floats(random.Random(draw.randrange(2)), 4), struct.pack("<4f", *[1.0] * 4), bytes(16)])
    stored = {EMBEDDING: embedding, HEAD: head, NORM: norm}
    for name in (HEAD, EMBEDDING, NORM):
        if draw.random() < 0.15:
            del stored[name]
    return stored


def beside(folder: Path, draw: random.Random) -> None:
    """Put something beside the model, now and then."""
    match draw.randrange(9):
        case 0:
            (folder / "modeling_own.py").write_text(draw.choice(["", "self.a = self.b\nclass A:\n    pass\n"]))
        case 1:
            (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": draw.randrange(3)}))
        case 2:
            (folder / "optimizer.pt").write_bytes(draw.randbytes(5))
        case 3:
            (folder / "state").mkdir()
            (folder / "state" / ".metadata").write_bytes(b"")
        case 4:
            (folder / "original").mkdir()
        case 5:
            (folder / "config.json").rename(folder.parent / f"{folder.name}.json")
            (folder / "config.json").symlink_to(folder.parent / f"{folder.name}.json")
        case 6:
            write_model(folder / "other", values(draw))
            (folder / "other" / "model.safetensors").rename(folder / "consolidated.safetensors")
        case 7:
            (folder / "trainer_state.json").write_text("{}")
        case 8:
            (folder / "pytorch_model.bin").write_bytes(draw.randbytes(4))


@pytest.mark.parametrize("seed", [pytest.param(seed, marks=[pytest.mark.slow] * (seed > 1)) for seed in range(4)])
def test_drawn_directories(tmp_path: Path, seed: int, parsed: list[str]) -> None:
    draw = random.Random(seed)
    known = [(values(draw), draw.choice([True, True, False, None])) for _ in range(12)]
    for i in range(250):
        stored, flag = draw.choice(known)
        if draw.random() < 0.2:  # alike but for one tensor's bytes, or for the flag
            other = values(draw)
            stored = stored | {name: other[name] for name in sorted(other)[:1] if name in stored}
            flag = draw.choice([flag, True, False])
        folder = write_model(tmp_path / f"m{i}", stored, **({} if flag is None else {"tie_word_embeddings": flag}))
        if draw.random() < 0.3:
            beside(folder, draw)
        if draw.random() < 0.05:
            weights = folder / "model.safetensors"
            weights.write_bytes(weights.read_bytes()[: draw.randrange(200)])
        agree(folder, values=draw.choice(["auto"] * 8 + ["never", "always"]))
    assert len(parsed) < 420  # 250 of them by the check that it is held against


def test_a_verdict_is_used_once_two_directories_had_it(tmp_path: Path, parsed: list[str]) -> None:
    stored = {EMBEDDING: floats(random.Random(1), 32), NORM: floats(random.Random(2), 4)}
    folders = [write_model(tmp_path / name, stored, tie_word_embeddings=True) for name in "abcd"]
    for folder in folders:
        check_target(str(folder), Config(), one_of_many=True)
    assert parsed == [str(folder) for folder in folders[:2]]


def test_a_message_with_the_path_is_not_that_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run.judge_facts
    monkeypatch.setattr(run, "judge_facts", lambda target, *rest: whole(target, *rest)._replace(reason=target.text))
    stored = {EMBEDDING: floats(random.Random(1), 32)}
    for name in "abcd":
        agree(write_model(tmp_path / name, stored, tie_word_embeddings=True))


def test_heads_that_differ_in_another_way_each(tmp_path: Path, parsed: list[str]) -> None:
    for i in range(8):
        draw = random.Random(i)
        stored = {EMBEDDING: floats(draw, 32), HEAD: floats(draw, 32), NORM: floats(draw, 4)}
        agree(write_model(tmp_path / f"untied{i}", stored, tie_word_embeddings=False))
        agree(write_model(tmp_path / f"tied{i}", stored, tie_word_embeddings=True))
    assert sum("untied" in target for target in parsed) == 8 + 2  # whoever asks by how much is judged in full
    assert sum("/tied" in target for target in parsed) == 8 + 8


def test_members_are_compared_once_where_the_answer_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[object] = []
    whole = equality.compare_opened
    monkeypatch.setattr(
        equality, "compare_opened", lambda *given, **named: compared.append(given) or whole(*given, **named)
    )
    for i in range(5):
        draw = random.Random(i)
        stored = {EMBEDDING: floats(draw, 32), HEAD: floats(draw, 32), NORM: floats(draw, 4)}
        folder = write_model(tmp_path / f"m{i}", stored, tie_word_embeddings=True)
        check_target(str(folder), Config(), one_of_many=True)
    assert len(compared) == 5


def test_a_part_of_a_check_is_made_twice_unless_it_read_more(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"1")
    made: list[str] = []

    def texts() -> tuple[int, str]:
        made.append("texts")
        return 1, "two"

    def own() -> str:
        made.append("own")
        return f"{len(made)}"

    def opened() -> bytes:
        made.append("opened")
        return read_bytes(str(file), "file")

    def asked() -> object:
        made.append("asked")
        target_account().questions.append(ByteQuestion(len, (), (), 1))
        return 1

    parts: dict[Any, Any] = {}
    for number in range(6):
        account = Account()
        account.parts = parts if number else None
        token = current.set(account)
        for part in (texts, own, opened, asked):
            made_once(part.__name__, part)
        current.reset(token)
    assert {name: made.count(name) for name in set(made)} == {"texts": 3, "own": 6, "opened": 6, "asked": 6}


def test_what_follows_from_texts_alone_is_made_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = {"load": 0, "header": 0, "config": 0}

    def counting(module: Any, name: str, key: str) -> None:
        whole = getattr(module, name)

        def counted(*given: Any, **named: Any) -> Any:
            counts[key] += 1
            return whole(*given, **named)

        monkeypatch.setattr(module, name, counted)

    counting(load_problems, "load_problems", "load")
    counting(header, "shard_of_header", "header")
    counting(model_config, "parse_config", "config")
    for i in range(7):
        draw = random.Random(i)
        stored = {EMBEDDING: floats(draw, 32), HEAD: floats(draw, 32), NORM: floats(draw, 4)}
        folder = write_model(tmp_path / f"m{i}", stored, tie_word_embeddings=True)
        assert check_target(str(folder), Config(), one_of_many=True).status == "fail"
    assert counts == {"load": 3, "header": 3, "config": 3}  # the first makes the kind, then twice


def test_another_header_of_the_same_length_and_end(tmp_path: Path) -> None:
    names = ["model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight"]
    for i in range(6):
        stored = {names[i % 2]: floats(random.Random(1), 16), EMBEDDING: floats(random.Random(1), 32)}
        agree(write_model(tmp_path / f"m{i}", stored, tie_word_embeddings=True))


def test_a_directory_that_changes(tmp_path: Path) -> None:
    stored = {EMBEDDING: floats(random.Random(1), 32), NORM: floats(random.Random(2), 4)}
    for name in "abc":
        agree(write_model(tmp_path / name, stored, tie_word_embeddings=True))
    (tmp_path / "c" / "config.json").write_text("{")
    agree(tmp_path / "c")
    (tmp_path / "b" / "model.safetensors").unlink()
    agree(tmp_path / "b")


def test_names_of_an_older_list_are_not_kept_with_a_verdict(tmp_path: Path) -> None:
    stored = {EMBEDDING: floats(random.Random(1), 32), NORM: floats(random.Random(2), 4)}
    for name in "abcd":
        folder = write_model(tmp_path / name, stored, tie_word_embeddings=True)
        account = Account()
        account.listed = str(folder), frozenset(os.listdir(folder))
        if name in "ab":
            (folder / "consolidated.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
        found = check_target(str(folder), Config(), one_of_many=account)
        assert found == check_target(str(folder), Config())


def test_many_targets_of_a_check_are_judged_alike(tmp_path: Path, parsed: list[str]) -> None:
    stored = {EMBEDDING: floats(random.Random(1), 32), NORM: floats(random.Random(2), 4)}
    folders = [str(write_model(tmp_path / f"m{i}", stored, tie_word_embeddings=True)) for i in range(6)]
    reports = list(run.run(folders, Config()))
    assert len(parsed) == 3
    assert reports == [check_target(folder, Config()) for folder in folders]
