"""What many tests need: a runner for the command line, and tiny checkpoints written byte by byte."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

pytest_plugins = "pytester"

os.environ["TIECHECK_CHECK_CACHE"] = "0"  # no test is told what another run found, or writes into the user's cache

if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):  # a job in the background: what a test starts could not be interrupted
    signal.signal(signal.SIGINT, signal.default_int_handler)

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
