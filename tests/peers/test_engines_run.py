"""mlx-lm and mergekit, run on tiny checkpoints in every cell, against what the matrix says of them."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from situations import EMBEDDING, HEAD, STORED, situation

from tiecheck.peers.loaders import mergekit, mlx_lm
from tiecheck.peers.loaders.registry import loaders_of

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
CLASSES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "olmo2": "Olmo2ForCausalLM",
    "starcoder2": "Starcoder2ForCausalLM",
}
FLAGS: tuple[dict[str, Any], ...] = ({"tie_word_embeddings": True}, {"tie_word_embeddings": False}, {})
CELLS = [cell for cell in STORED if cell != "not compared"]

MLX = """
import json, sys
from pathlib import Path
import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.utils import load_model
for path in map(Path, json.load(open(sys.argv[1]))):
    try:
        model, _ = load_model(path)
        held = dict(tree_flatten(model.parameters()))
        print(json.dumps(["own" if "lm_head.weight" in held else "tied", ""]))
    except Exception as error:
        print(json.dumps(["crash", " ".join(str(error).split())]))
"""
MERGEKIT = """
import json, logging, sys
from pathlib import Path
from safetensors import safe_open
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
logging.disable(logging.CRITICAL)
for number, path in enumerate(json.load(open(sys.argv[1]))):
    out = Path(sys.argv[1]).with_name(f"out{number}")
    models = [{"model": path, "parameters": {"weight": 1.0}}]
    config = MergeConfiguration.model_validate({"models": models, "merge_method": "linear", "dtype": "float32"})
    try:
        run_merge(config, str(out), MergeOptions(copy_tokenizer=False, quiet=True))
        names = sorted(n for f in out.glob("*.safetensors") for n in safe_open(f, "pt").keys())
        print(json.dumps(["written", [n for n in names if n in ("lm_head.weight", "model.embed_tokens.weight")]]))
    except Exception as error:
        print(json.dumps(["crash", " ".join(str(error).split())]))
"""


def checkpoints(root: Path, model_types: list[str]) -> dict[tuple[str, str, int], Path]:
    """A directory for each model type, cell and flag."""
    import torch
    import transformers
    from safetensors.torch import save_file

    torch.manual_seed(0)
    made: dict[tuple[str, str, int], Path] = {}
    for model_type in model_types:
        model_class = getattr(transformers, CLASSES[model_type])
        model = model_class(model_class.config_class(**SMALL, tie_word_embeddings=False))
        state = {name: value.clone() for name, value in model.state_dict().items()}
        for cell in CELLS:
            kept = state | {HEAD: state[EMBEDDING].clone() if cell == "equal" else torch.randn(64, 32)}
            for name in {EMBEDDING, HEAD} - set(STORED[cell][0]):
                del kept[name]
            for number, flag in enumerate(FLAGS):
                path = root / f"{model_type}-{cell.replace(' ', '-')}-{number}"
                path.mkdir()
                config = {k: v for k, v in model.config.to_dict().items() if k != "tie_word_embeddings"} | flag
                config["architectures"] = [CLASSES[model_type]]
                (path / "config.json").write_text(json.dumps(config, default=str))
                save_file(kept, path / "model.safetensors", metadata={"format": "pt"})
                made[model_type, cell, number] = path
    return made


def answers(python: str, script: str, paths: list[Path], folder: Path, **environment: str) -> list[list[Any]]:
    """What a script prints of each checkpoint."""
    (folder / "cells.json").write_text(json.dumps([str(path) for path in paths]))
    (folder / "run.py").write_text(script)
    command = [python, str(folder / "run.py"), str(folder / "cells.json")]
    env = os.environ | {"HF_HUB_OFFLINE": "1"} | environment
    found = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    lines = [json.loads(line) for line in found.stdout.splitlines() if line.startswith("[")]
    assert len(lines) == len(paths), found.stderr[-2000:]
    return lines


def install(command: list[str]) -> None:
    """Runs pip; the test is skipped where the index has nothing for this machine, and fails where pip does."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "No matching distribution" in done.stderr:  # mlx has wheels for some platforms only
        pytest.skip(f"cannot be installed here: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr[-2000:]


def said(loader: str, model_type: str, cell: str, number: int) -> tuple[str, str]:
    """Outcome and message of the matrix."""
    default = importlib.import_module("transformers").CONFIG_MAPPING[model_type]().tie_word_embeddings
    asked = situation(CLASSES[model_type], cell, {"model_type": model_type} | FLAGS[number], default=default)
    made = [found for entry in loaders_of((loader,)) if entry.checked == "run" and (found := entry.decide(asked))]
    return (made[0].outcome, made[0].message or "") if made else ("", "")


def test_mlx_lm_loads_what_the_matrix_says(tmp_path: Path) -> None:
    assert set(CLASSES) == mlx_lm.RAN
    python = tmp_path / "env/bin/python"
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "env")], check=True)
    install([str(python), "-m", "pip", "install", "-q", f"mlx-lm=={mlx_lm.VERSION}", "mlx[cpu]"])
    made = checkpoints(tmp_path, list(CLASSES))
    wrong = []
    for key, (result, message) in zip(made, answers(str(python), MLX, list(made.values()), tmp_path), strict=True):
        outcome, text = said("mlx-lm", *key)
        expected = {"tied": "tied", "head-discarded": "tied", "kept-apart": "own"}.get(outcome, outcome)
        if (expected, text if outcome == "crash" else "") != (result, message):
            wrong.append((key, outcome, text, result, message))
        if outcome in {"tied", "head-discarded"}:
            assert (outcome == "head-discarded") == (key[1] == "differ"), key
    assert not wrong, wrong


def test_mergekit_writes_what_the_matrix_says(tmp_path: Path) -> None:
    packages = ("immutables", "pydantic", "pydantic-core", "annotated-types", "typing-inspection", "typing-extensions")
    others = ("peft", "sentencepiece", "scipy", "datasets", "dill", "pandas", "pyarrow", "multiprocess", "xxhash")
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(tmp_path / "packages")]
    install([*command, f"mergekit=={mergekit.VERSION}", *packages, *others])
    types = [model_type for model_type, name in CLASSES.items() if name in mergekit.RAN]
    assert len(types) == len(mergekit.RAN)
    made = checkpoints(tmp_path, types)
    found = answers(sys.executable, MERGEKIT, list(made.values()), tmp_path, PYTHONPATH=str(tmp_path / "packages"))
    for key, (result, detail) in zip(made, found, strict=True):
        outcome, text = said("mergekit", *key)
        if result == "crash":
            assert outcome == "crash", (key, outcome, detail)
            assert detail.startswith(text.removesuffix("...")), (key, text, detail)
        elif detail == sorted((EMBEDDING, HEAD)):
            assert outcome == "kept-apart", (key, outcome)
        else:
            assert detail == [EMBEDDING], (key, detail)
            assert outcome in {"tied", ""}, (key, outcome)
