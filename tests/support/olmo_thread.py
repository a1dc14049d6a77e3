"""Run in an environment of hf_olmo's time: makes a small OLMo, loads it as its user does, and asks everybody.

Prints one JSON object: what was imported, what accelerate finds and logs, and what tiecheck says of the same object.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
from importlib.metadata import version
from typing import Any

import hf_olmo
import torch
from accelerate import infer_auto_device_map
from accelerate.utils import modeling

import tiecheck
from tiecheck.peers.views.registry import would_warn
from tiecheck.render.json import as_plain_data, json_document

WARNING = "The model weights are not tied"


class Kept(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


def loaded() -> Any:
    """A tied OLMo with its own draw, saved and loaded again: `from_pretrained` calls `tie_weights`."""
    torch.manual_seed(0)
    config = hf_olmo.OLMoConfig(
        d_model=16,
        n_heads=2,
        n_layers=2,
        mlp_ratio=4,
        vocab_size=96,
        embedding_size=96,
        max_sequence_length=16,
        rope=True,
        weight_tying=True,
        init_device="cpu",
    )
    model = hf_olmo.OLMoForCausalLM(config, init_params=True)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return hf_olmo.OLMoForCausalLM.from_pretrained(folder)


def main() -> None:
    """Print what everybody says."""
    torch.set_num_threads(1)
    model = loaded()
    kept = Kept()
    modeling.logger.addHandler(kept)
    infer_auto_device_map(model, max_memory={0: 10**9, "cpu": 10**9})
    transformer = model.model.transformer
    views = tiecheck.views(model)
    said = {
        "versions": {name: version(name) for name in ("ai2-olmo", "accelerate", "transformers", "torch")},
        "from": [hf_olmo.__file__, modeling.__file__, tiecheck.__file__],
        "alias": getattr(transformer, "ff_out", None) is transformer.wte,
        "names": len(list(model.named_parameters(remove_duplicate=False))),
        "parameters": len(list(model.parameters())),
        "found": [sorted(group) for group in modeling.find_tied_parameters(model)],
        "warned": [text for text in kept.texts if WARNING in text],
        "report": json_document(tiecheck.check(model))["targets"][0],
        "counts": as_plain_data(tiecheck.count_parameters(model)),
        "elements": [sum(p.numel() for p in model.parameters()), model.num_parameters()],
        "views": [as_plain_data(view) for view in views],
        "would_warn": list(would_warn(views)),
    }
    json.dump(said, sys.stdout)


if __name__ == "__main__":
    main()
