"""Bad input through the command line: one sentence that names the file and the cause, status 2, and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

GOOD = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "tie_word_embeddings": True}
EVIL_NAME = "lm_head\n\x1b[31m\u202e\u200b\ud7ff\x07.weight"


def header(entries: dict[str, Any], data: bytes) -> bytes:
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text + data


ONE = header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, bytes(4))


class Evil:
    """Leaves a file behind where it is unpickled without care."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


def config(root: Path, raw: bytes) -> None:
    (root / "config.json").write_bytes(raw)


def index(root: Path, data: object) -> None:
    config(root, json.dumps(GOOD).encode())
    (root / "model.safetensors.index.json").write_text(json.dumps(data))


def weights(root: Path, raw: bytes, name: str = "model.safetensors") -> None:
    config(root, json.dumps(GOOD).encode())
    (root / name).write_bytes(raw)


def link_outside(root: Path) -> None:
    (root.parent / "secret.json").write_text('{"password": "hunter2"}')
    (root / "config.json").symlink_to(root.parent / "secret.json")


def loop(root: Path) -> None:
    (root / "config.json").symlink_to("config.json")


def pipe(name: str) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        config(root, json.dumps(GOOD).encode())
        (root / name).unlink(missing_ok=True)
        os.mkfifo(root / name)

    return make


def evil_pickle(root: Path) -> None:
    config(root, json.dumps(GOOD).encode())
    torch.save({"a": torch.zeros(1), "b": Evil(root.parent / "sentinel")}, root / "pytorch_model.bin")


CASES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "empty directory": (lambda _: None, "is an empty directory"),
    "directory of models": (lambda r: ((r / "a").mkdir(), config(r / "a", b"{}")), "holds models in folders"),
    "config: a list": (lambda r: config(r, b"[]"), "config.json holds a list"),
    "config: empty": (lambda r: config(r, b""), "config.json is not valid JSON"),
    "config: null": (lambda r: config(r, b"null"), "config.json holds null"),
    "config: deep": (lambda r: config(r, b'{"a":' * 100_000), "config.json is nested too deeply"),
    "config: byte order mark": (lambda r: config(r, b"\xef\xbb\xbf{}"), "config.json begins with a byte order mark"),
    "config: UTF-16": (lambda r: config(r, "{}".encode("utf-16")), "config.json is not UTF-8 text"),
    "config: half a character": (
        lambda r: config(r, rb'{"architectures": ["\ud800"]}'),
        "config.json holds half of a surrogate pair",
    ),
    "config: LFS pointer": (
        lambda r: config(r, b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
        "config.json is a Git LFS pointer",
    ),
    "config: a folder": (lambda r: (r / "config.json").mkdir(), "config.json is a folder"),
    "config: a pipe": (pipe("config.json"), "config.json is a pipe"),
    "config: a link outside": (link_outside, "outside the target directory, and is not read"),
    "config: a loop": (loop, "config.json cannot be read: Too many levels"),
    "weights: empty": (lambda r: weights(r, b""), "model.safetensors is truncated: it has 0 bytes"),
    "weights: short": (lambda r: weights(r, b"abc"), "model.safetensors is truncated: it has 3 bytes"),
    "weights: header cut": (lambda r: weights(r, ONE[:20]), "model.safetensors announces a header of"),
    "weights: data cut": (lambda r: weights(r, ONE[:-1]), "model.safetensors is truncated: its header describes 4"),
    "weights: a longer file": (lambda r: weights(r, ONE + b"x"), "nothing behind the last tensor"),
    "weights: LFS pointer": (
        lambda r: weights(r, b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
        "model.safetensors is a Git LFS pointer, not the weights",
    ),
    "weights: a web page": (lambda r: weights(r, b"<!DOCTYPE html>" * 20), "this is no safetensors file or a broken"),
    "weights: a pipe": (pipe("model.safetensors"), "model.safetensors is a pipe"),
    "index: a pipe": (pipe("model.safetensors.index.json"), "index.json is a pipe"),
    "index: a list": (lambda r: index(r, []), "index.json is no index"),
    "index: no names": (lambda r: index(r, {"weight_map": {}}), "names no tensor at all"),
    "index: a number": (lambda r: index(r, {"weight_map": {"a": 1}}), "the file of 'a' is no file name"),
    "index: outside": (lambda r: index(r, {"weight_map": {"a": "../x.safetensors"}}), "outside its own directory"),
    "pickle: empty": (lambda r: weights(r, b"", "pytorch_model.bin"), "pytorch_model.bin is empty"),
    "pickle: text": (lambda r: weights(r, b"hello", "pytorch_model.bin"), "pytorch_model.bin is no file of torch's"),
    "pickle: code": (evil_pickle, "a pickle that asks for posix.system"),
}


@pytest.mark.parametrize("case", CASES)
def test_is_one_sentence_and_status_2(tmp_path: Path, tiecheck_cli, case: str) -> None:
    make, says = CASES[case]
    root = tmp_path / "model"
    root.mkdir()
    make(root)
    before = sorted(p.name for p in tmp_path.rglob("*"))
    begin = time.perf_counter()  # by the clock on the wall: waiting for a pipe takes no processor
    result = tiecheck_cli(str(root), "-f", "json")
    assert time.perf_counter() - begin < 10
    assert result.exit_code == 2
    (target,) = json.loads(result.stdout)["targets"]
    assert target["status"] == "error"
    (error,) = target["errors"]
    assert says in error["message"]
    assert str(root) in error["message"]
    assert "tiecheck itself failed" not in error["message"]
    assert "\n" not in error["message"]
    assert "hunter2" not in result.output
    assert sorted(p.name for p in tmp_path.rglob("*")) == before, "something was written or run"
    for option in ("--exit-zero", "--strict"):
        assert tiecheck_cli(str(root), option).exit_code == 2
    text = tiecheck_cli(str(root))
    assert says in " ".join(text.output.split())
    assert text.exit_code == 2


def test_missing_path_and_its_neighbour(tmp_path: Path, tiecheck_cli) -> None:
    (tmp_path / "llama").mkdir()
    result = tiecheck_cli(str(tmp_path / "lama"))
    assert result.exit_code == 2
    assert f"did you mean {tmp_path}/llama?" in " ".join(result.output.split())


def test_one_bad_target_does_not_hide_the_others(tmp_path: Path, tiecheck_cli, models: Path) -> None:
    result = tiecheck_cli(str(tmp_path), str(models / "llama-healthy-tied"), "-f", "json")
    assert [t["status"] for t in json.loads(result.stdout)["targets"]] == ["error", "pass"]
    assert result.exit_code == 2


def test_name_of_control_characters_is_never_printed_raw(tmp_path: Path, tiecheck_cli) -> None:
    entries = {}
    for i, name in enumerate((EVIL_NAME, "model.embed_tokens.weight", f"x.{EVIL_NAME}")):
        entries[name] = {"dtype": "F32", "shape": [1], "data_offsets": [4 * i, 4 * i + 4]}
    broken = entries | {f"y.{EVIL_NAME}": {"dtype": "F32", "shape": [1]}}
    for value in (entries, broken):
        weights(tmp_path, header(value, bytes(12)))
        index_map = dict.fromkeys(value, "model.safetensors") | {f"z{EVIL_NAME}": "model.safetensors"}
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index_map}))
        for target in (tmp_path, tmp_path / "model.safetensors.index.json"):
            for options in ((), ("-f", "json"), ("-v",)):
                output = tiecheck_cli(str(target), *options).output
                assert not set(EVIL_NAME) & set("\x1b\u202e\u200b\x07") & set(output)


def test_names_in_a_config_are_never_printed_raw(tmp_path: Path, tiecheck_cli) -> None:
    config(tmp_path, json.dumps({"architectures": [f"A\x1b[31m{EVIL_NAME}"], "model_type": "x\x1by\u202e"}).encode())
    (tmp_path / "model.safetensors").write_bytes(ONE)
    for options in ((), ("-f", "json"), ("-v",), ("--color", "always")):
        output = tiecheck_cli(str(tmp_path), *options).output
        assert not {"\u202e", "\u200b", "\x07"} & set(output)
        assert "\x1b[31mlm" not in output


@pytest.mark.parametrize("word", ["=", "\n", "\t", "#", "=8b65f14", "LlamaForCausalLM\t", "A\nB", " ", "x" * 100_000])
@pytest.mark.parametrize("key", ["architectures", "model_type"])
def test_odd_class_is_an_unknown_class(tmp_path: Path, tiecheck_cli, word: str, key: str) -> None:
    data = GOOD | {key: [word] if key == "architectures" else word}
    config(tmp_path, json.dumps(data).encode())
    (tmp_path / "model.safetensors").write_bytes(ONE)
    result = tiecheck_cli(str(tmp_path), "-f", "json")
    (target,) = json.loads(result.stdout)["targets"]
    assert target["errors"] == []
    assert target["status"] == "unknown"


ODD = [None, True, 0, -1, 1.5, 10**400, "", "x", [], [None], [1], [[]], {}, {"a": {"b": []}}]


@pytest.mark.parametrize(
    "key",
    ["architectures", "model_type", "auto_map", "vocab_size", "hidden_size", "tie_word_embeddings", "text_config"],
)
def test_odd_values_in_a_config_crash_nothing(tmp_path: Path, tiecheck_cli, key: str) -> None:
    (tmp_path / "model.safetensors").write_bytes(ONE)
    for value in ODD:
        config(tmp_path, json.dumps(GOOD | {key: value}).encode())
        result = tiecheck_cli(str(tmp_path), "-f", "json")
        (target,) = json.loads(result.stdout)["targets"]
        assert target["errors"] == [], (key, value)


def test_no_traceback_and_nothing_on_standard_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b"[")
    result = subprocess.run(
        [sys.executable, "-m", "tiecheck", str(tmp_path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 2
    assert result.stderr == ""
    assert "is not valid JSON" in " ".join(result.stdout.split())


@pytest.mark.slow
@pytest.mark.parametrize("class_name", ["LlamaForCausalLM", "OddForCausalLM"])
def test_index_of_a_million_names_and_no_shard_takes_seconds(tmp_path: Path, tiecheck_cli, class_name: str) -> None:
    config(tmp_path, json.dumps(GOOD | {"architectures": [class_name], "tie_word_embeddings": False}).encode())
    names = {f"model.layers.{i // 1000}.experts.{i % 1000}.w.weight": f"m-{i % 20}.safetensors" for i in range(10**6)}
    names |= {"model.embed_tokens.weight": "m-0.safetensors", "lm_head.weight": "m-1.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    begin = time.process_time()
    result = tiecheck_cli(str(tmp_path), "-f", "json")
    assert time.process_time() - begin < 20
    (target,) = json.loads(result.stdout)["targets"]
    assert [f["code"] for f in target["findings"]] == ["TIE201"]
    assert target["ties"][0]["stored"] == "unknown"
