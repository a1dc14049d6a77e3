"""Every kind of hostile input that was reported, as whole processes: its own case, and a sibling in another shape.

`test_every_kind_has_its_case_and_a_sibling` fails where one of them has none.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fleets import drawn_fleet
from heavy_targets import HEAVY
from hostile_siblings import SIBLINGS
from hostile_targets import LIGHT, Due, Kind, one_tensor, placed
from whole_processes import exit_of, judged, wrong_in

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="pipes, devices and the memory of a process are Unix's")

REPORTED = """cfg-huge-width fs-special-files http-server live-config live-models load-outside mem-many-dicts
mem-shard-aliases nul-in-path opt-dcp-regex pickle-many-ops pkl-attr pkl-build pkl-hash-bomb pkl-odd pkl-record-short
pkl-zip-bomb scale-odd-values signals sparse-large toctou"""
"""The kinds, each by the name of its report."""

OWN = {
    "cfg-huge-width": LIGHT["huge_widths"], "fs-special-files": LIGHT["special_files"],
    "nul-in-path": LIGHT["names_with_a_nul"], "pkl-attr": LIGHT["shadowed_methods"],
    "pkl-build": LIGHT["shadowed_methods"], "pkl-hash-bomb": LIGHT["keys_that_hash_for_ever"],
    "pkl-odd": LIGHT["memory_that_is_asked_for"], "pkl-record-short": LIGHT["records_that_are_short"],
    "scale-odd-values": LIGHT["odd_values"], "sparse-large": LIGHT["holes"],
    "mem-many-dicts": HEAVY["dense_json"], "mem-shard-aliases": HEAVY["one_file_under_many_names"],
    "pickle-many-ops": HEAVY["many_operations"], "opt-dcp-regex": HEAVY["nested_or_inflated"],
    "pkl-zip-bomb": HEAVY["nested_or_inflated"], "live-config": HEAVY["configs_that_ask_for_much"],
}  # fmt: skip
"""Kind -> what makes its own cases, which `test_hostile_targets.py` runs."""

BUILDING = {"live-config", "load-outside"}
LONG = BUILDING | {"mem-many-dicts", "mem-shard-aliases"}
"""Kinds whose siblings take ten seconds and more."""
SECONDS, MEBIBYTES, LIBRARIES = 12.0, 600, 1200
"""Processor seconds and memory of one process over all siblings of a kind, and what torch and transformers take."""


@pytest.mark.parametrize("kind", [pytest.param(k, marks=[pytest.mark.slow] * (k in LONG)) for k in SIBLINGS])
def test_siblings_of_a_kind_are_told(tmp_path: Path, kind: str) -> None:
    due = dict(SIBLINGS[kind](tmp_path))
    options = next(iter(due.values())).options
    reports, status, seconds, mebibytes = judged(tmp_path, *options, *due)
    assert len(reports) == len(due) > 1
    assert {r["target"]: found for r in reports if (found := wrong_in(r, due[r["target"].split("/")[0]]))} == {}
    assert status == exit_of(reports)
    assert seconds < SECONDS + 20 * bool(options)
    assert mebibytes < MEBIBYTES + LIBRARIES * bool(options)


Answer = Callable[[socket.socket, str], None]


def _sent(connection: socket.socket, head: bytes, *bodies: bytes, pause: float = 0.0) -> None:
    connection.sendall(b"HTTP/1.1 " + head + b"\r\n\r\n")
    for body in bodies:
        connection.sendall(body)
        time.sleep(pause)


ODD_CLASSES = """
import torch
from torch import nn
class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb, self.head = nn.Embedding(8, 4), nn.Linear(4, 8, bias=False)
        self.head.weight = self.emb.weight
def odd(**members):
    return lambda: type("Odd", (Base,), members)()
def raising(error):
    def call(*_, **__):
        raise error
    return call
config = odd(config=property(raising(RuntimeError("boom"))))
leaves = odd(config=property(raising(SystemExit(0))))
walks = odd(parameters=raising(OSError()), named_parameters=raising(OSError()), modules=raising(OSError()))
words = odd(__repr__=raising(RuntimeError()), __str__=raising(RuntimeError()))
equal = odd(__eq__=raising(RuntimeError()), __hash__=raising(RuntimeError()))
state = odd(state_dict=raising(SystemExit(3)))
class _Late(Base):
    looks = 0
    @property
    def __class__(self):
        _Late.looks += 1
        if _Late.looks > 9:
            raise RuntimeError("late")
        return _Late
late = _Late
def many():
    found, weight = nn.Module(), nn.Parameter(torch.ones(2))
    for i in range(20_000):
        found.register_parameter(f"p{i}", weight)
    return found
def chain():
    found = nn.Linear(2, 2)
    for _ in range(60):
        outer = nn.Module()
        outer.a = outer.b = found
        found = outer
    return found
def freed():
    found = Base()
    found.emb.weight.untyped_storage().resize_(0)
    return found
def printing():
    print("x" * 100_000)
    raise BaseException("\\x1b[31m" * 1000)
"""
MODULES = {"live-models": "config leaves walks words equal state many freed", "sibling": "late chain printing"}


@pytest.mark.slow
@pytest.mark.parametrize("group", MODULES)
def test_modules_that_raise_are_told(tmp_path: Path, group: str) -> None:
    (tmp_path / "odd.py").write_text(ODD_CLASSES)
    names = [f"odd.py:{name}" for name in MODULES[group].split()]
    reports, status, seconds, mebibytes = judged(tmp_path, *names, prints=True)
    assert [r["target"] for r in reports] == names
    assert {r["target"]: found for r in reports if (found := wrong_in(r, Due("pass|fail|unknown|error")))} == {}
    assert status == exit_of(reports)
    assert (seconds < 40, mebibytes < MEBIBYTES + LIBRARIES) == (True, True)


SERVED: dict[str, dict[str, Answer]] = {
    "http-server": {
        "busy": lambda c, _: _sent(c, b"429 x\r\nretry-after: " + b"9" * 5000),
        "digits": lambda c, _: _sent(c, b"200 OK\r\ncontent-length: \xb2", b"x" * 1000),
        "garbage": lambda c, _: c.sendall(bytes(range(256)) * 4),
        "drips": lambda c, _: _sent(c, b"200 OK\r\ncontent-length: 99999", *[b" "] * 90, pause=0.1),
        "endless": lambda c, _: _sent(c, b"200 OK", b"{", *[b" " * 65536] * 9000),
        "loops": lambda c, path: _sent(c, b"302 x\r\ncontent-length: 0\r\nlocation: " + path.encode()),
    },
    "sibling": {
        "longer": lambda c, _: _sent(c, b"200 OK\r\ncontent-length: 2", b"{}" + b"x" * 100_000),
        "shorter": lambda c, _: _sent(c, b"200 OK\r\ncontent-length: 100000", b"{}"),
        "chunks": lambda c, _: _sent(c, b"200 OK\r\ntransfer-encoding: chunked", *[CHUNK] * 9000),
        "inflates": lambda c, _: _sent(c, b"200 OK\r\ncontent-encoding: gzip\r\nconnection: close", bomb()),
        "file": lambda c, _: _sent(c, b"302 x\r\ncontent-length: 0\r\nlocation: file:///etc/hostname"),
        "elsewhere": lambda c, _: _sent(c, b"302 x\r\ncontent-length: 0\r\nlocation: http://127.0.0.2:1/?token=secret"),
        "headers": lambda c, _: _sent(c, b"200 OK\r\n" + b"\r\n".join(b"x%d: " % i + b"a" * 900 for i in range(9000))),
        "drips-headers": lambda c, _: _sent(c, b"200 OK\r\nx: ", *[b"a"] * 90, pause=0.1),
        "continues": lambda c, _: c.sendall(b"HTTP/1.1 100 Continue\r\n\r\n" * 50_000),
        "silent": lambda c, _: time.sleep(8),
    },
}  # fmt: skip
CHUNK = b"10000\r\n" + b" " * 65536 + b"\r\n"


def bomb() -> bytes:
    """Return 400 MiB of zeros under gzip: 100 times the same block."""
    packed, zeros = zlib.compressobj(wbits=-15), bytes(4 << 20)
    block = packed.compress(zeros) + packed.flush(zlib.Z_FULL_FLUSH)
    checksum = functools.reduce(lambda found, _: zlib.crc32(zeros, found), range(100), 0)
    return HEAD_OF_GZIP + block * 100 + packed.flush() + struct.pack("<II", checksum, 400 << 20)


HEAD_OF_GZIP = b"\x1f\x8b\x08" + bytes(6) + b"\xff"


@contextlib.contextmanager
def serving(answers: dict[str, Answer]) -> Iterator[str]:
    """Serve each way of answering below a folder of its name."""

    def serve(connection: socket.socket) -> None:
        with contextlib.suppress(OSError, IndexError), connection:
            path = connection.recv(65536).split(b" ")[1].decode()
            answers[path.split("/")[1]](connection, path)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listening.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0), backlog=64) as listening:
        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        with contextlib.suppress(OSError):
            listening.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("group", SERVED)
def test_servers_that_lie_are_told(tmp_path: Path, group: str) -> None:
    with serving(SERVED[group]) as url:
        targets = [f"{url}/{name}/m" for name in SERVED[group]]
        reports, status, seconds, mebibytes = judged(tmp_path, *targets, "--timeout", "3")
    assert [r["target"] for r in reports] == targets
    assert {r["target"]: found for r in reports if (found := wrong_in(r, Due("error")))} == {}
    assert status == 2
    assert "secret" not in json.dumps(reports)
    assert seconds < SECONDS
    assert mebibytes < MEBIBYTES


def hard_work(root: Path) -> list[str]:
    for _ in HEAVY["many_operations"](root):
        pass
    return ["one", "parts", "sixty", "-f", "json=report.json"]


def a_fleet(root: Path) -> list[str]:
    drawn_fleet(root / "fleet", 300, seed=14)
    return ["fleet", "fleet", "--results", "rows.jsonl"]


def a_fix(root: Path) -> list[str]:
    shutil.copytree(Path(__file__).parents[2] / "fixtures" / "models" / "llama-diverged-head", root / "model")
    return ["fix", "model", "--apply", "--choose", "tied"]


def a_module(words: str) -> Callable[[Path], list[str]]:
    def make(root: Path) -> list[str]:
        (root / "odd.py").write_text(ODD_CLASSES)
        return words.split()

    return make


WORK: dict[str, Any] = {"check": hard_work, "fleet": a_fleet, "fix": a_fix}
BUILT = {"survive": a_module("survive odd.py:Base"), "live": a_module("odd.py:Base -f json=report.json"),
         "pytest": a_module("-m pytest -q --tiecheck=odd.py:Base -p no:cacheprovider")}  # fmt: skip
SIGNALS = {"SIGINT": {130}, "SIGTERM": {143}, "SIGHUP": {-signal.SIGHUP}, "SIGPIPE": set()}
"""Signal -> exit statuses of a process that it ends; a process may also be done before."""


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("work", [*WORK, *(pytest.param(name, marks=pytest.mark.slow) for name in BUILT)])
def test_a_signal_at_a_drawn_moment_is_heard(tmp_path: Path, work: str, seed: int) -> None:
    draw = random.Random(f"{work}{seed}")
    words = (WORK | BUILT)[work](tmp_path)
    name = list(SIGNALS)[seed]
    line = [sys.executable, *([] if work == "pytest" else ["-m", "tiecheck"]), *words]
    with subprocess.Popen(line, cwd=tmp_path, stdout=-1, stderr=-1, text=True) as process:
        time.sleep(draw.uniform(0.25, 1.2 if work in WORK else 5))
        process.send_signal(getattr(signal, name))
        begin = time.monotonic()
        _, errors = process.communicate(timeout=60)
    early = process.returncode == -getattr(signal, name)  # before the interpreter had begun with us
    assert process.returncode in SIGNALS[name] | {0, 1, 2} or early
    assert time.monotonic() - begin < 10 or not SIGNALS[name]  # a second, where there is nothing else to do
    assert "Traceback" not in errors or work == "pytest" or early
    for path in tmp_path.glob("*.json"):
        assert json.loads(path.read_text())["targets"]
    if (tmp_path / "model").exists():
        done = subprocess.run([*line[:3], "model"], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode in (0, 1)


def _grown(file: Path) -> None:
    with file.open("ab") as stream:
        stream.write(b"x")


def _replaced(make: Callable[[Path], Any]) -> Callable[[Path], None]:
    def change(file: Path) -> None:
        file.unlink()
        make(file)

    return change


CHANGES: dict[str, Callable[[Path], Any]] = {
    "cut": lambda file: os.truncate(file, 4096),
    "grown": _grown,
    "deleted": Path.unlink,
    "folder": _replaced(Path.mkdir),
    "pipe": _replaced(os.mkfifo),
    "link": _replaced(lambda file: file.symlink_to("/etc/hostname")),
    "rewritten": _replaced(lambda file: file.write_bytes(one_tensor())),
    "index": lambda file: (file.parent / "model.safetensors.index.json").write_text('{"weight_map": {"a": "b.bin"}}'),
}


SAMPLE = {"cut", "deleted", "pipe", "index"}


@pytest.fixture(scope="module")
def two_large_shards(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Of 256 MiB each, without holes; what changes one copies it before."""
    from hostile_targets import EMBED, HEAD, safetensors

    folder, size = tmp_path_factory.mktemp("shards"), 1 << 28
    for name, tensor in (("a", EMBED), ("b", HEAD)):
        entry = {"dtype": "F32", "shape": [ROWS, 64], "data_offsets": [0, size]}
        (folder / f"{name}.safetensors").write_bytes(safetensors({tensor: entry}))
        with (folder / f"{name}.safetensors").open("ab") as stream:
            for _ in range(16):
                stream.write(b"\1" * (size // 16))
    yield folder
    shutil.rmtree(folder)


ROWS = 1 << 20


@pytest.mark.parametrize("change", [pytest.param(c, marks=[pytest.mark.slow] * (c not in SAMPLE)) for c in CHANGES])
def test_a_file_that_changes_while_it_is_read_is_told(tmp_path: Path, two_large_shards: Path, change: str) -> None:
    """Two shards, of which the second keeps the reader for a while: meanwhile the first one changes."""
    from hostile_targets import EMBED, HEAD, LLAMA

    placed(tmp_path, "model", **{"config.json": LLAMA | {"vocab_size": ROWS, "hidden_size": 64}})
    for name in ("a.safetensors", "b.safetensors"):
        own = name == "a.safetensors" and change in {"cut", "grown"}
        (shutil.copy if own else os.link)(two_large_shards / name, tmp_path / "model" / name)
    index = {"metadata": {}, "weight_map": {EMBED: "a.safetensors", HEAD: "b.safetensors"}}
    (tmp_path / "model" / "model.safetensors.index.json").write_text(json.dumps(index))

    def when_open(process: int) -> None:
        end = time.monotonic() + 20
        while time.monotonic() < end:
            with contextlib.suppress(OSError):
                held = [os.readlink(f"/proc/{process}/fd/{number}") for number in os.listdir(f"/proc/{process}/fd")]
                if any(path.endswith("b.safetensors") for path in held):
                    break
        CHANGES[change](tmp_path / "model" / "a.safetensors")

    (report,), status, seconds, mebibytes = judged(tmp_path, "model", "--values", "always", during=when_open)
    assert wrong_in(report, Due("error", "changed while it was read|cannot be read|became|is a folder|a pipe")) == []
    assert status == 2
    assert (seconds < SECONDS, mebibytes < MEBIBYTES) == (True, True)


def test_every_kind_has_its_case_and_a_sibling() -> None:
    """The kinds beside those of directories: servers, modules, signals, files that change, and loads."""
    others: dict[str, tuple[Any, Any]] = {
        "http-server": (SERVED["http-server"], SERVED["sibling"]),
        "live-models": (MODULES["live-models"], MODULES["sibling"]),
        "signals": (WORK, BUILT),
        "toctou": (CHANGES["cut"], CHANGES["pipe"]),
        "load-outside": (SIBLINGS["load-outside"], SIBLINGS["load-outside"]),
    }
    kinds: dict[str, tuple[Kind | None, Kind | None]] = {k: (OWN.get(k), SIBLINGS.get(k)) for k in REPORTED.split()}
    kinds |= others
    assert len(kinds) == len(REPORTED.split())
    assert [kind for kind, (own, beside) in kinds.items() if not own or not beside] == []
