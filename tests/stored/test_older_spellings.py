"""A config under an older spelling of a size is no contradiction of the tensors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import BloomConfig, BloomForCausalLM

import tiecheck


@pytest.mark.parametrize(("width", "judged"), [(48, "pass"), (47, "fail")])
def test_an_older_name_of_a_size_is_heard(tmp_path: Path, width: int, judged: str) -> None:
    made = BloomForCausalLM(BloomConfig(hidden_size=48, n_layer=1, n_head=2, vocab_size=60))
    made.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    del config["hidden_size"]
    path.write_text(json.dumps(config | {"n_embed": width}))
    (target,) = tiecheck.check(tmp_path).targets
    assert target.status == judged
    if judged == "pass":
        assert BloomForCausalLM.from_pretrained(tmp_path).config.hidden_size == 48
    else:
        with pytest.raises((RuntimeError, ValueError)):
            BloomForCausalLM.from_pretrained(tmp_path)
