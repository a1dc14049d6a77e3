"""A flag of a type that transformers 5 refuses, in classes with and without a row of sizes in the table."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

import tiecheck
from tiecheck.files.model_config import read_config
from tiecheck.stored.config_refusals import refused_problems

KINDS = sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.keys() & CONFIG_MAPPING_NAMES.keys())
DRAWN = [*random.Random(11).sample(KINDS, 12), "zaya", "zamba2", "xlm"]


@pytest.mark.parametrize("kind", DRAWN)
@pytest.mark.parametrize("value", [None, "false"])
def test_a_flag_that_the_config_refuses_is_told(tmp_path: Path, kind: str, value: object) -> None:
    name = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[kind]
    config = {"architectures": [name], "model_type": kind, "tie_word_embeddings": value}
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file({"x.weight": torch.zeros(2, dtype=torch.int8)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    try:
        AutoConfig.from_pretrained(tmp_path)
        raises = False
    except Exception as error:  # noqa: BLE001  # the library's own class of it is not public
        raises = "tie_word_embeddings" in str(error)
    model = read_config(str(tmp_path))
    assert model is not None
    told = list(refused_problems(model))
    assert not raises or [one.names for one in told] == [("tie_word_embeddings",)]
    (target,) = tiecheck.check(tmp_path).targets
    assert ("TIE112" in [finding.code for finding in target.findings]) == raises


def test_a_text_is_true_for_what_4_57_refuses(tmp_path: Path) -> None:
    """CSM raises there for a true flag, and takes any text for one but the empty."""
    config = {"architectures": ["CsmForConditionalGeneration"], "model_type": "csm"}
    save_file({"x.weight": torch.zeros(2)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    for value, refused in ((True, True), ("false", True), ("no", True), ("", False), (False, False)):
        (tmp_path / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": value}))
        (target,) = tiecheck.check(tmp_path).targets
        told = [f.message for f in target.findings if "4.57 does not build the class so" in f.message]
        assert bool(told) is refused, (value, told)
        assert all(json.dumps(value) in message for message in told)
