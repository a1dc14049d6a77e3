"""Groups of ties that 4.57 makes and transformers 5 has lost: told where embedding and head are stored in part."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import transformers
from safetensors.torch import load_file, save_file

from tiecheck.files.checkpoint import read_checkpoint
from tiecheck.files.model_config import read_config
from tiecheck.stored.config_values import architecture_of
from tiecheck.stored.lost_ties import lost_tie_groups

SIZES = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


@pytest.mark.parametrize("stored", ["both", "embedding", "neither"])
def test_a_class_that_lost_its_declaration(stored: str, tmp_path: Path) -> None:
    config = transformers.LukeConfig(**SIZES, entity_vocab_size=8, entity_emb_size=8)
    transformers.LukeForMaskedLM(config).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    model = read_config(str(tmp_path))
    assert model is not None
    older, newest = architecture_of(model, older=True), architecture_of(model)
    gone = {"both": (), "embedding": (newest.head,), "neither": (newest.head, newest.embedding)}[stored]
    kept = {name: tensor for name, tensor in tensors.items() if name not in gone}
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    found = list(lost_tie_groups(older, newest, read_checkpoint(str(tmp_path)), "auto"))
    pairs = [group for group in found if group.source == newest.embedding]
    assert len(pairs) == (stored != "neither"), json.dumps(sorted(kept))
    for group in pairs:
        assert (group.declared, group.inert) == (False, True)
        assert set(group.names) == {newest.head, newest.embedding}
        assert len(group.stored_names) == {"both": 2, "embedding": 1}[stored]
