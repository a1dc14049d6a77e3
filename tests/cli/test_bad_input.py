"""Bad input through the command line: one sentence that names the file and the cause, status 2, and nothing else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

import tiecheck
from tiecheck.cli.check import command as check_command
from tiecheck.cli.fleet import command as fleet_command
from tiecheck.errors import UsageError

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


def text_header(text: str, data: bytes = b"") -> bytes:
    return len(text.encode()).to_bytes(8, "little") + text.encode() + data


def fields(offsets: str = "[0,4]", shape: str = "[1]") -> str:
    return f'{{"dtype":"F32","shape":{shape},"data_offsets":{offsets}}}'


def two(first: str, second: str) -> bytes:
    """A header of two tensors over eight bytes of data."""
    return text_header(f'{{"a":{first},"b":{second}}}', bytes(8))


def long_header(root: Path) -> None:
    """A header of a byte more than safetensors reads, all of it there."""
    weights(root, (100_000_001).to_bytes(8, "little") + b"{")
    os.truncate(root / "model.safetensors", 100_000_009)


def weights_loop(root: Path) -> None:
    config(root, json.dumps(GOOD).encode())
    (root / "model.safetensors").symlink_to("other.safetensors")
    (root / "other.safetensors").symlink_to("model.safetensors")


def weights_folder(root: Path) -> None:
    config(root, json.dumps(GOOD).encode())
    (root / "model.safetensors").mkdir()


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
    "weights: a folder": (weights_folder, "model.safetensors is a folder"),
    "weights: a loop": (weights_loop, "model.safetensors cannot be read: Too many levels"),
    "weights: a header of 100 MB": (long_header, "a header of 100,000,001 bytes; safetensors refuses more than"),
    "weights: a header of 9 EB": (lambda r: weights(r, b"\xff" * 7 + b"\x7f{}"), "safetensors refuses more than"),
    "weights: a name twice": (
        lambda r: weights(r, text_header(f'{{"a":{fields()},"a":{fields(shape="[1,1]")}}}', bytes(4))),
        "holds the key 'a' twice",
    ),
    "weights: metadata twice": (
        lambda r: weights(r, text_header(f'{{"__metadata__":{{}},"__metadata__":{{}},"a":{fields()}}}', bytes(4))),
        "holds the key '__metadata__' twice",
    ),
    "weights: overlap": (lambda r: weights(r, two(fields(), fields())), "allows no gap, no overlap"),
    "weights: gap": (lambda r: weights(r, two(fields(), fields("[8,12]"))), "model.safetensors is truncated"),
    "weights: out of range": (lambda r: weights(r, two(fields(), fields("[4,8000]", "[1999]"))), "is truncated"),
    "weights: reversed": (lambda r: weights(r, two(fields(), fields("[8,4]"))), "broken entry for 'b'"),
    "weights: negative": (lambda r: weights(r, two(fields("[-4,0]"), fields())), "broken entry for 'a'"),
    "weights: a float": (lambda r: weights(r, two(fields("[0.0,4.0]"), fields("[4,8]"))), "broken entry for 'a'"),
    "weights: an exponent": (lambda r: weights(r, two(fields("[0,4e0]"), fields("[4,8]"))), "broken entry for 'a'"),
    "weights: a huge number": (lambda r: weights(r, two(fields(f"[0,{10**30}]"), fields())), "broken entry for 'a'"),
    "weights: 5,000 digits": (
        lambda r: weights(r, two(fields(f"[0,{'9' * 5000}]"), fields())),
        "holds a number that cannot be read",
    ),
    "weights: half a character": (
        lambda r: weights(r, text_header(f'{{"\\ud800":{fields()}}}', bytes(4))),
        "holds half of a surrogate pair",
    ),
    "weights: deep": (lambda r: weights(r, text_header('{"a":' * 100_000)), "is nested too deeply"),
    "index: half a character": (
        lambda r: index(r, {"weight_map": {"\ud800": "x.safetensors"}}),
        "holds half of a surrogate pair",
    ),
    "index: deep": (
        lambda r: (index(r, {}), (r / "model.safetensors.index.json").write_text('{"a":' * 100_000)),
        "is nested too deeply",
    ),
    "config: 5,000 digits": (lambda r: config(r, b'{"a": ' + b"9" * 5000 + b"}"), "holds a number that cannot be"),
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
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index_map}))
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
        said = [error["message"] for error in target["errors"]]
        if value == 10**400:
            assert f"`{key}`" in said[0], said
            assert "no model can use" in said[0], said
        else:
            assert said == [], (key, value)


def test_no_traceback_and_nothing_on_standard_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b"[")
    result = subprocess.run(
        [sys.executable, "-m", "tiecheck", str(tmp_path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 2
    assert result.stderr == ""
    assert "is not valid JSON" in " ".join(result.stdout.split())


@pytest.mark.parametrize("depth", [100, 400])
def test_a_deep_config_is_read(tmp_path: Path, tiecheck_cli, models: Path, depth: int) -> None:
    for file in (models / "llama-healthy-tied").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    deep: dict[str, Any] = {"tie_word_embeddings": False}
    for _ in range(depth):
        deep = {"more": deep}
    data = json.loads((tmp_path / "config.json").read_text())
    config(tmp_path, json.dumps(data | {"extra": deep}).encode())
    result = tiecheck_cli(str(tmp_path), "-f", "json")
    (target,) = json.loads(result.stdout)["targets"]
    assert target["errors"] == []
    assert target["ties"][0]["declared"] is True


def test_repeated_keys_of_a_config_and_an_index_count_as_for_their_loaders(tmp_path: Path, tiecheck_cli) -> None:
    """The last one, as Python's json has it: every loader of these two files is written in Python."""
    text = json.dumps(GOOD)[:-1] + ', "tie_word_embeddings": false}'
    config(tmp_path, text.encode())
    (tmp_path / "b.safetensors").write_bytes(ONE)
    map_text = '{"weight_map": {"a": "a.safetensors", "a": "b.safetensors"}}'
    (tmp_path / "model.safetensors.index.json").write_text(map_text)
    result = tiecheck_cli(str(tmp_path), "-f", "json", "--select", "TIE201")
    (target,) = json.loads(result.stdout)["targets"]
    assert target["errors"] == []
    assert target["findings"] == []
    assert all(tie["declared"] is False for tie in target["ties"])


@pytest.mark.slow
@pytest.mark.parametrize("trick", ["", "escaped", "colons"])
def test_a_million_tensors_over_twenty_shards_take_seconds_and_bounded_memory(tmp_path: Path, trick: str) -> None:
    per_shard = 50_000
    config(tmp_path, json.dumps(GOOD | {"tie_word_embeddings": False}).encode())
    first = {"": "model.layers", "escaped": "model.l\\u0061yers", "colons": "model:layers"}[trick]
    names: list[str] = []
    for shard in range(20):
        mine = [f"{first}.{shard}.experts.{i}.w.weight" for i in range(per_shard)]
        if shard == 0:
            mine[:2] = ["model.embed_tokens.weight", "lm_head.weight"]
        entries = (
            f'"{name}":{{"dtype":"BF16","shape":[64,32],"data_offsets":[{4096 * i},{4096 * (i + 1)}]}}'
            for i, name in enumerate(mine)
        )
        text = "{" + ",".join(entries) + "}"
        path = tmp_path / f"m-{shard}.safetensors"
        path.write_bytes(text_header(text))
        os.truncate(path, 8 + len(text) + 4096 * per_shard)
        names += (f'"{name}":"{path.name}"' for name in mine)
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map":{' + ",".join(names) + "}}")
    program = (
        "import resource, sys; from tiecheck.cli.main import cli\n"
        "try: cli(sys.argv[1:])\n"
        "finally: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, file=sys.stderr)"
    )
    begin = time.perf_counter()
    command = [sys.executable, "-c", program, str(tmp_path), "-f", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - begin
    (target,) = json.loads(done.stdout)["targets"]
    assert target["errors"] == []
    assert target["ties"][0]["stored"] == "copy"  # holes are equal
    assert seconds < 60
    assert int(done.stderr.splitlines()[-1]) < 2000


@pytest.mark.slow
@pytest.mark.parametrize("class_name", ["LlamaForCausalLM", "OddForCausalLM"])
def test_index_of_a_million_names_and_no_shard_takes_seconds(tmp_path: Path, tiecheck_cli, class_name: str) -> None:
    config(tmp_path, json.dumps(GOOD | {"architectures": [class_name], "tie_word_embeddings": False}).encode())
    names = {f"model.layers.{i // 1000}.experts.{i % 1000}.w.weight": f"m-{i % 20}.safetensors" for i in range(10**6)}
    names |= {"model.embed_tokens.weight": "m-0.safetensors", "lm_head.weight": "m-1.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    begin = time.process_time()
    result = tiecheck_cli(str(tmp_path), "-f", "json")
    assert time.process_time() - begin < 20
    (target,) = json.loads(result.stdout)["targets"]
    assert [f["code"] for f in target["findings"]] == ["TIE201"]
    assert target["ties"][0]["stored"] == "unknown"


@pytest.mark.parametrize("option", ["--select", "--ignore", "--for"])
@pytest.mark.parametrize("word", ["", " ", ",", " , "])
def test_an_empty_code_is_refused_and_not_passed_over(option: str, word: str, models: Path) -> None:
    done = CliRunner().invoke(check_command, [str(models / "llama-healthy-tied"), "--isolated", option, word])
    assert done.exit_code == 2
    assert "an empty word names nothing" in done.output


@pytest.mark.parametrize("name", ["folder", "none.txt", "none.jsonl"])
def test_a_fleet_without_a_model_says_so(name: str, tmp_path: Path) -> None:
    place = tmp_path / name
    place.write_text("") if "." in name else place.mkdir()
    done = CliRunner().invoke(fleet_command, [str(place), "--isolated", "--quiet"])
    assert done.exit_code == 2
    assert f"there is no model in {place}" in done.output


@pytest.mark.parametrize("rows", [-1, -5, -96])
def test_a_negative_size_is_called_one(rows: int, models: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(models / "llama-healthy-tied", folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": rows}))
    (finding,) = [one for one in tiecheck.check(folder).targets[0].findings if one.code == "TIE207"]
    assert f"vocab_size {rows}" in finding.message
    assert "negative size" in finding.message
    assert "mismatch" not in finding.message
    with pytest.raises(RuntimeError, match="negative dimension"):
        torch.nn.Embedding(rows, 4)


@pytest.mark.parametrize("word", ["warm", "", None, 3])
def test_a_word_for_a_broken_tie_that_is_none_is_told(word: object) -> None:
    with pytest.raises(UsageError, match=f"must be one of raise, warn, retie, not {word!r}"):
        tiecheck.guard(torch.nn.Linear(2, 2), on_break=word)


@pytest.mark.parametrize("words", [("--timeout", "nan"), ("--timeout", "-0.5"), ("--timeout", "inf")])
def test_a_number_of_seconds_is_one(words: tuple[str, ...], models: Path) -> None:
    done = CliRunner().invoke(check_command, [str(models / "llama-healthy-tied"), *words])
    assert done.exit_code == 2
    assert "--timeout" in done.output
