"""Small fleets for tests: folders of models of known truth, and runs over them in this process."""

from __future__ import annotations

import json
import random
import struct
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from tiecheck.config.options import Config
from tiecheck.fleet.results import Results
from tiecheck.fleet.rows import options_mark
from tiecheck.fleet.run import EnginePlace, Fleet, Outcome

EMBEDDING, HEAD, NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"


def write_model(folder: Path, stored: dict[str, bytes], **config: Any) -> Path:
    """Write a Llama of 8 rows of 4 float32, of which only the named tensors are stored."""
    folder.mkdir(parents=True)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, raw in stored.items():
        shape = [len(raw) // 4] if "norm" in name else [len(raw) // 16, 4]
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    settings = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 8, "hidden_size": 4}
    (folder / "config.json").write_text(
        json.dumps(settings | {"num_hidden_layers": 0, "num_attention_heads": 1} | config)
    )
    return folder


def floats(draw: random.Random, count: int) -> bytes:
    """Draw some float32."""
    return struct.pack(f"<{count}f", *(draw.gauss(0, 1) for _ in range(count)))


def drawn_fleet(root: Path, count: int, seed: int) -> dict[str, set[str]]:
    """Write a fleet of drawn models.

    Returns:
        Path of each -> the codes that have to be found, of warnings and errors.
    """
    draw = random.Random(seed)
    truth: dict[str, set[str]] = {}
    for i in range(count):
        kind = draw.choice(["tied", "untied", "copy", "diverged", "lost"])
        first, other = floats(draw, 32), floats(draw, 32)
        stored = {EMBEDDING: first, NORM: floats(draw, 4)}
        if kind not in {"tied", "lost"}:
            stored[HEAD] = first if kind == "copy" else other
        folder = root / f"{i % 7}" / f"m{i}"
        truth[str(write_model(folder, stored, tie_word_embeddings=kind in {"tied", "copy", "diverged"}))] = (
            {"TIE101"} if kind == "diverged" else {"TIE102"} if kind == "lost" else set()
        )
    return truth


def run_fleet(
    *sources: str | Path,
    results: Path | None = None,
    resume: bool = False,
    config: Config | None = None,
    place: EnginePlace | None = None,
    seen: Any = lambda *_: None,
) -> Outcome:
    """Run a fleet here."""
    config = config or Config()
    table = Results(str(results), options_mark(config), resume=resume) if results else None
    return Fleet(tuple(map(str, sources)), config, place or EnginePlace(), table, seen).run()


def rows_of(path: Path, kind: str = "model") -> list[dict[str, Any]]:
    """The rows of a table in JSON lines."""
    return [row for row in map(json.loads, path.read_text().splitlines()) if row["row"] == kind]


def start_fleet(fleet: Path, table: Path, *more: str, **options: Any) -> subprocess.Popen[str]:
    """Start the command in a process of its own."""
    command = [sys.executable, "-m", "tiecheck", "fleet", str(fleet), "--results", str(table), *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def wait_for_rows(table: Path, process: subprocess.Popen[str]) -> None:
    """Wait until a run has written something."""
    end = time.monotonic() + 300  # a cluster takes minutes to start on a busy machine
    while not (table.exists() and table.stat().st_size):
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.01)


def grave_codes(path: Path) -> dict[str, set[str]]:
    """Target -> the codes of its warnings and errors, by a table."""
    found: dict[str, set[str]] = {row["target"]: set() for row in rows_of(path)}
    for row in rows_of(path, "finding"):
        if row["severity"] != "info":
            found[row["target"]].add(row["code"])
    return found


def targets(models: Iterable[Any]) -> list[str]:
    """The targets of some listed models, sorted."""
    return sorted(model.target for model in models)


POISON = """
import os, signal, sys
from tiecheck.fleet import rows
whole = rows.check_target
def check_target(given, *rest, **named):
    name = os.path.basename(given)
    if name == "poison" or (name == "once" and not os.path.exists(given + ".dead")):
        open(given + ".dead", "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(given, *rest, **named)
rows.check_target = check_target
"""
"""What makes the model of a name deadly to a worker, each time or the first."""


def deadly_workers(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every worker process that starts from now on be killed by a model named `poison`, and once by `once`."""
    (root / "deadly").mkdir()
    (root / "deadly" / "sitecustomize.py").write_text(POISON)
    monkeypatch.setenv("PYTHONPATH", str(root / "deadly"))
