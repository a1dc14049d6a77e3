"""Sources as streams of models."""

from __future__ import annotations

import itertools
import json
import os
import random
from pathlib import Path

import pytest
from fleets import EMBEDDING, drawn_fleet, run_fleet, targets, write_model

from tiecheck.errors import TargetError, UsageError
from tiecheck.fleet import sources
from tiecheck.fleet.lines import count_lines
from tiecheck.fleet.sources import folder_mark, list_models

STORED = {EMBEDDING: bytes(128)}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Two models, one with a checkpoint of its own below, and what is no model."""
    write_model(tmp_path / "a" / "one", STORED)
    write_model(tmp_path / "a" / "one" / "checkpoint-5", STORED)
    write_model(tmp_path / "two", STORED)
    for path, name in (("a/one/1_Pooling", "config.json"), ("a/one/original", "consolidated.00.pth")):
        (tmp_path / path).mkdir()
        (tmp_path / path / name).write_text("{}")
    write_model(tmp_path / ".hidden" / "three", STORED)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "README.md").write_text("no model")
    return tmp_path


FOUND = ["a/one", "a/one/checkpoint-5", "two"]


def test_a_directory_is_searched(tree: Path) -> None:
    assert targets(list_models([str(tree)])) == [str(tree / name) for name in FOUND]


def test_names_are_told_of_a_folder_of_files_alone(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tree / "two" / ".git").mkdir()
    (tree / "linked").mkdir()
    (tree / "linked" / "config.json").symlink_to(tree / "two" / "config.json")
    plain = frozenset({"config.json", "model.safetensors"})
    told = dict.fromkeys((*FOUND, "linked")) | {"a/one/checkpoint-5": plain}
    assert {m.target: m.names for m in list_models([str(tree)])} == {str(tree / k): v for k, v in told.items()}
    monkeypatch.setattr(sources, "MANY", 1)
    assert not any(model.names for model in list_models([str(tree)]))


def test_one_of_more_folders_than_are_kept_too(tree: Path, monkeypatch) -> None:
    monkeypatch.setattr(sources, "MANY", 1)
    assert targets(list_models([str(tree)])) == [str(tree / name) for name in FOUND]


def test_adapters_and_gguf_files_are_models(tree: Path) -> None:
    for name, file in (("lora", "adapter_config.json"), ("ggufs", "a.gguf"), ("ggufs", "b-00001-of-00002.gguf")):
        (tree / name).mkdir(exist_ok=True)
        (tree / name / file).write_text("{}")
    (tree / "ggufs" / "b-00002-of-00002.gguf").write_text("")
    more = ["ggufs/a.gguf", "ggufs/b-00001-of-00002.gguf", "lora"]
    assert targets(list_models([str(tree)])) == sorted(str(tree / name) for name in (*FOUND, *more))


def test_a_form_that_is_not_read_is_a_row_that_says_so(tree: Path) -> None:
    odd = {
        "nemo": "m.nemo",
        "tf": "saved_model.pb",
        "dcp": "__0_0.distcp",
        "two/tf": "tf_model.h5",
        "a/v": "vocabulary.txt",
    }
    for folder, name in odd.items():
        (tree / folder).mkdir()
        (tree / folder / name).write_text("x")
    found = run_fleet(tree).summary
    assert found.run.listed == len(FOUND) + 3
    words = {"nemo": "a checkpoint of NeMo (m.nemo)", "tf": "a model of TensorFlow", "dcp": "a distributed checkpoint"}
    assert {target: why for target, why in found.errors if "which is not read" in why}.keys() == {
        str(tree / k) for k in words
    }
    assert all(words[Path(target).name] in why for target, why in found.errors)


def test_a_link_to_a_folder_is_not_followed(tree: Path) -> None:
    (tree / "loop").symlink_to(tree)
    assert targets(list_models([str(tree)])) == [str(tree / name) for name in FOUND]


def test_globs_and_single_models(tree: Path) -> None:
    assert targets(list_models([f"{tree}/t*", str(tree / "a" / "one")])) == [str(tree / name) for name in FOUND]
    assert targets(list_models([f"{tree}/two/*.safetensors"])) == [str(tree / "two" / "model.safetensors")]
    assert targets(list_models([str(tree / "missing")])) == [str(tree / "missing")]
    with pytest.raises(TargetError, match="nothing matches"):
        list(list_models([f"{tree}/zz*"]))


def test_two_stars_give_a_model_once_and_follow_no_link(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("b", "c"):
        (tree / "a" / name).symlink_to(tree)  # by two links in a loop there are more paths than can be counted
    for pattern in ("**", "**/", "**/*", "a/../**"):
        found = [Path(target).resolve() for target in targets(list_models([f"{tree}/{pattern}"]))]
        assert sorted(map(str, found)) == [str(tree / name) for name in FOUND], pattern
    weights = [str(tree / name / "model.safetensors") for name in FOUND]
    assert targets(list_models([f"{tree}/**/*.safetensors"])) == sorted(weights)
    assert targets(list_models([f"{tree}/**/checkpoint-*"])) == [str(tree / FOUND[1])]
    monkeypatch.chdir(tree)
    assert targets(list_models(["**/two", "a/**/one"])) == ["./two", "a/one", "a/one/checkpoint-5"]


def test_addresses_of_files_are_paths(tree: Path) -> None:
    found = [str(tree / name) for name in FOUND]
    assert targets(list_models([f"file://{tree}"])) == targets(list_models([f"file://localhost{tree}/**"])) == found


def test_a_table_that_is_its_own_source_ends(tmp_path: Path) -> None:
    truth = drawn_fleet(tmp_path / "fleet", 150, seed=61)
    table = tmp_path / "out.jsonl"
    run_fleet(tmp_path / "fleet", results=table)
    for target in truth:
        os.utime(Path(target) / "config.json", ns=(1, 1))
    run = run_fleet(table, results=table, resume=True).summary.run
    assert (run.listed, run.judged) == (150, 150)
    assert targets(list_models([str(table)])) == sorted(truth)


def test_manifests(tmp_path: Path) -> None:
    (tmp_path / "m.txt").write_text("# models\n\na/b\n org/name@main \nhttps://x/y\n")
    assert targets(list_models([str(tmp_path / "m.txt")])) == ["a/b", "https://x/y", "org/name@main"]
    lines = [{"target": "a"}, "b", {"row": "finding", "target": "a"}, {"row": "model", "target": "c"}]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"target": 5}\n{broken\n')
    found = list(list_models([str(tmp_path / "m.jsonl")]))
    assert targets(found[:3]) == ["a", "b", "c"]
    assert [model.target for model in found if model.error] == [f"{tmp_path}/m.jsonl:5", f"{tmp_path}/m.jsonl:6"]
    assert count_lines([str(tmp_path / "m.txt")]) == 5
    assert count_lines([str(tmp_path)]) is None


def test_a_list_is_a_stream(tmp_path: Path) -> None:
    endless = tmp_path / "m.txt"
    endless.write_text("a\n" * 100_000)
    models = list_models([str(endless), f"{tmp_path}/zz*"])  # what comes later is not looked at yet
    assert len(list(itertools.islice(models, 5))) == 5


def test_the_mark_of_a_folder_tells_a_change(tree: Path) -> None:
    before = folder_mark(str(tree / "two"))
    assert before == folder_mark(str(tree / "two"))
    (tree / "two" / "config.json").write_text("{}")
    assert folder_mark(str(tree / "two")) != before
    assert folder_mark(str(tree / "nowhere")) is None


def test_an_organisation_needs_the_hub(monkeypatch) -> None:
    with pytest.raises(UsageError):
        list(list_models(["hf://a b"]))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(TargetError, match="HF_HUB_OFFLINE"):
        list(list_models(["hf://org"]))


@pytest.mark.parametrize("seed", range(6))
def test_a_manifest_of_another_editor(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    names = ["a/b", "mod\u00e9l x", "\U0001f600", "a b#c", "'q'", "hf://o/n@main", "."]
    for ending in ("txt", "list", "jsonl"):
        wanted = [draw.choice(names) for _ in range(8)]
        lines: list[str] = []
        for name in wanted:
            lines += ["", "  "] * draw.randrange(2) + ["# note"] * (ending != "jsonl" and draw.random() < 0.5)
            object_ = json.dumps({"n": 1, "target": name}, ensure_ascii=draw.random() < 0.5)
            text = name if ending != "jsonl" else draw.choice([object_, json.dumps(name)])
            lines.append(draw.choice(["", " ", "\t"]) + text + draw.choice(["", " "]))
        raw = draw.choice(["\n", "\r\n"]).join(lines) + draw.choice(["", "\n", "\r\n"])
        manifest = tmp_path / f"m.{ending}"
        manifest.write_bytes(draw.choice([b"", b"\xef\xbb\xbf"]) + raw.encode())
        assert [model.target for model in list_models([str(manifest)])] == wanted
        assert not any(model.error for model in list_models([str(manifest)]))
        manifest.write_bytes(f"\ufeff{raw}".encode(draw.choice(["utf-16-le", "utf-16-be"])))
        with pytest.raises(TargetError, match="is UTF-16, and is read as UTF-8"):
            list(list_models([str(manifest)]))
