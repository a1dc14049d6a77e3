"""What many tests need: a runner for the command line, and tiny checkpoints written byte by byte."""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

pytest_plugins = "pytester"

os.environ["TIECHECK_CHECK_CACHE"] = "0"  # no test is told what another run found, or writes into the user's cache
# Read when torch is imported, by children too: threads of several workers burn the time in which they wait.
os.environ.setdefault("OMP_NUM_THREADS", "1")

if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):  # a job in the background: what a test starts could not be interrupted
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Leave the collector alone while tests are collected: all that is made then stays."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


IMPORTED = pytest.StashKey[int]()
"""How many modules there were when the collector last looked at what they hold."""


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Put what imports have made out of the collector's sight, as the fuzzer and our own command do.

    Libraries ask for a whole collection at each load, which else goes through all that a worker has imported.
    """
    if len(sys.modules) > item.config.stash.get(IMPORTED, 0) + 200:
        item.config.stash[IMPORTED] = len(sys.modules)
        gc.collect()
        gc.freeze()


FIXTURES = Path(__file__).parent.parent / "fixtures" / "models"


@pytest.fixture
def models() -> Path:
    """The directory of the fixture models."""
    return FIXTURES


@pytest.fixture
def tiecheck_cli():
    """Run the command line in this process."""
    from tiecheck.cli.main import cli

    def invoke(*args: str) -> Result:
        return CliRunner().invoke(cli, list(args), prog_name="tiecheck")

    return invoke


def safetensors_bytes(
    tensors: dict[str, tuple[str, list[int], bytes]], metadata: dict[str, str] | None = None
) -> bytes:
    """A safetensors file: name -> dtype word, shape, bytes."""
    header: dict[str, Any] = {"__metadata__": metadata or {"format": "pt"}}
    data = b""
    for name, (dtype, shape, raw) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


SIZES = {
    "vocab_size": 4,
    "hidden_size": 2,
    "num_attention_heads": 1,
}  # 32 heads do not divide 2, and the library refuses it
LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", **SIZES}


@pytest.fixture
def make_model(tmp_path: Path):
    """Write a model directory: a config, and one safetensors file of the given tensors."""

    def make(tensors: dict[str, tuple[str, list[int], bytes]] | None = None, **config: Any) -> Path:
        (tmp_path / "config.json").write_text(json.dumps(LLAMA | config, indent=2))
        if tensors is not None:
            (tmp_path / "model.safetensors").write_bytes(safetensors_bytes(tensors))
        return tmp_path

    return make


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory):
    """Make something once for all workers of a run: the first that asks makes it, and it is kept as JSON."""
    import fcntl

    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def found(name: str, make: Callable[[], Any]) -> Any:
        kept = shared / f"{name}.json"
        with (shared / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not kept.exists():
                kept.write_text(json.dumps(make()))
        return json.loads(kept.read_text())

    return found


@pytest.fixture
def two_seeds(once) -> list[dict[str, Any]]:
    """What the parts of `seeded` say under two hash seeds."""
    from seeded import under_seed

    return once("two-seeds", lambda: [under_seed(seed) for seed in (0, 1)])


@pytest.fixture
def quiet():
    """One thread, and none of the reports and warnings that classes of transformers make."""
    from subjects import quiet as hushed

    with hushed():
        yield


@pytest.fixture
def built(request, tmp_path):
    """The model of a row."""
    row = request.param
    if not row.group:
        yield row, row.build()
        return
    from torch import distributed

    distributed.init_process_group("gloo", rank=0, world_size=1, init_method=f"file://{tmp_path}/rendezvous")
    yield row, row.build()
    distributed.destroy_process_group()
