"""What vLLM makes of a model or a draft: embedding and head as they stand once its own loader is done.

`TIECHECK_VLLM` names a Python with vLLM (0.32 on a CPU). One process of it loads what it is asked for, in turn. No
engine is built: `get_model` loads target and draft, and the proposer's own two methods share what it shares.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch

PROGRAM = """
import json, os, sys
told = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
os.environ |= {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_PLUGINS": "", "VLLM_NO_USAGE_STATS": "1"}
os.environ["VLLM_CPU_KVCACHE_SPACE"] = "1"
from types import SimpleNamespace
import torch
from vllm.config import set_current_vllm_config
from vllm.distributed import ensure_model_parallel_initialized, init_distributed_environment
from vllm.engine.arg_utils import EngineArgs
from vllm.model_executor.model_loader import get_model
from vllm.v1.spec_decode.llm_base_proposer import SpecDecodeBaseProposer as Proposer

torch.accelerator.empty_cache = lambda: None  # as its CPU worker does

def load(asked):
    some = {"skip_tokenizer_init": True, "enforce_eager": True, "max_model_len": 64, "max_num_seqs": 1}
    config = EngineArgs(**some | {"dtype": "float32"} | asked).create_engine_config()
    with set_current_vllm_config(config):
        if not torch.distributed.is_initialized():
            init_distributed_environment(1, 0, "file://" + sys.argv[1], 0, "gloo")
            ensure_model_parallel_initialized(1, 1)
        target = get_model(vllm_config=config)
        if not config.speculative_config:
            return target
        draft = get_model(vllm_config=config, model_config=config.speculative_config.draft_model_config)
        if config.speculative_config.method != "medusa":
            proposer = SimpleNamespace(model=draft, vllm_config=config, use_local_argmax_reduction=False)
            Proposer._maybe_share_embeddings(proposer, target)
            Proposer._maybe_share_lm_head(proposer, target)
        return draft

for line in sys.stdin:
    asked, out = json.loads(line)
    try:
        found = load(asked).named_parameters(remove_duplicate=False)
        torch.save({name: one.data.clone() for name, one in found}, out)
        answer = ""
    except Exception as error:
        answer = f"{type(error).__name__}: {error}"
    print(json.dumps(answer), file=told, flush=True)
"""


@cache
def _process() -> subprocess.Popen[str]:
    words = [os.environ["TIECHECK_VLLM"], "-W", "ignore", "-c", PROGRAM, tempfile.mktemp()]
    quiet = None if os.environ.get("TIECHECK_LOUD") else subprocess.DEVNULL
    return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=quiet, text=True)


def vllm_loads(model: Path, drafts: dict[str, Any] | None = None, **more: Any) -> dict[str, torch.Tensor]:
    """Load a model, or a draft beside it, by vLLM: its parameters, under every name; what it raises is raised."""
    asked = {"model": str(model), **more} | ({"speculative_config": drafts} if drafts else {})
    process = _process()
    assert process.stdin is not None
    assert process.stdout is not None
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps([asked, f"{folder}/made"]), file=process.stdin, flush=True)
        answer = json.loads(process.stdout.readline())
        if answer:
            raise RuntimeError(answer)
        return dict(torch.load(f"{folder}/made", weights_only=True))
