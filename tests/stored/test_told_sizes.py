"""A width or a vocabulary that is not what was saved is no pass, whichever tensor of the class speaks of it."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import pytest
import transformers
from safetensors.torch import load_file, save_file
from zoo import animal, by_name

import tiecheck
from tiecheck.live.rehearsal import rehearse
from tiecheck.tables.generate.build import config_of
from tiecheck.tables.generate.config_states import widths_of

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("quiet")]

SEVERAL = (
    "CanaryForConditionalGeneration",  # its model has the vocabulary, and its decoder another
    "FuyuForCausalLM",  # what embeds the picture follows the width of the text
    "HubertForCTC",  # a head that no tie speaks of
    "SamHQModel",
    "VideoMAEForPreTraining",  # heads that have to divide a width
)


def saved(name: str, where: Path) -> Any:
    one = animal(by_name(name))
    model = one.model_class(config_of(one.model_class, one.config_class, copy.deepcopy(one.data)))
    model.save_pretrained(where)
    return model


def status(where: Path) -> str:
    return str(tiecheck.check(where, judge_for=("transformers==5",), ignore=["TIE701"]).targets[0].status)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", SEVERAL)
def test_a_size_that_the_library_refuses_is_no_pass(name: str, seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    model = saved(name, tmp_path)
    if seed == 0:
        assert status(tmp_path) == "pass"
    data = json.loads((tmp_path / "config.json").read_text())
    *path, key = rng.choice(sorted(set(widths_of(model.config)))).split(".")
    section = data
    for part in path:
        section = section[part]
    section[key] = section.get(key, getattr(model.config, key, 1)) + rng.choice((-1, 1))
    (tmp_path / "config.json").write_text(json.dumps(data))
    if rehearse(str(tmp_path)).raised:
        assert status(tmp_path) in ("fail", "unknown")


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("seed", range(2))
def test_of_two_vocabularies_each_has_its_tensors(seed: int, shared: bool, tmp_path: Path) -> None:
    rng = random.Random(seed)
    ours, theirs = rng.sample(range(40, 60), 2)
    sizes = {"d_model": 16, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "max_position_embeddings": 32}
    layers = {f"{side}_{what}": 1 for side in ("encoder", "decoder") for what in ("layers", "attention_heads")}
    words = {"vocab_size": ours, "decoder_vocab_size": theirs, "share_encoder_decoder_embeddings": shared}
    special = {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}
    config = transformers.MarianConfig(**sizes, **layers, **words, **special)
    transformers.MarianMTModel(config).save_pretrained(tmp_path)
    assert rehearse(str(tmp_path)).raised is None
    assert status(tmp_path) == "pass"
    data = json.loads((tmp_path / "config.json").read_text())
    data["vocab_size"] += 1
    (tmp_path / "config.json").write_text(json.dumps(data))
    assert rehearse(str(tmp_path)).raised
    assert status(tmp_path) == "fail"


def test_a_tied_matrix_that_was_cut_is_told_by_its_own_size(tmp_path: Path) -> None:
    saved("SamHQModel", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    axis = random.Random(1).choice((0, 1))
    for name in [name for name in tensors if name.endswith("positional_embedding")]:
        tensors[name] = tensors[name].narrow(axis, 0, tensors[name].shape[axis] - 1).contiguous()
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert rehearse(str(tmp_path)).raised
    assert status(tmp_path) in ("fail", "unknown")


@pytest.mark.parametrize("name", ["BartPretrainedModel", "PretrainedFSMTModel", "DPRPretrainedReader"])
def test_a_class_that_nobody_can_load_is_no_pass(name: str, tmp_path: Path) -> None:
    one = {"B": "BartForConditionalGeneration", "P": "FSMTForConditionalGeneration", "D": "DPRReader"}[name[0]]
    saved(one, tmp_path)
    data = json.loads((tmp_path / "config.json").read_text()) | {"architectures": [name]}
    (tmp_path / "config.json").write_text(json.dumps(data))
    assert rehearse(str(tmp_path)).raised
    assert status(tmp_path) == "unknown"


@pytest.mark.parametrize("named", ["AutoModel", None])
@pytest.mark.parametrize("task", ["JambaForCausalLM", "BertForMaskedLM", "ViTForImageClassification"])
def test_a_base_class_is_held_to_a_file_of_its_task(task: str, named: str | None, tmp_path: Path) -> None:
    base = f"{task.partition('For')[0]}Model"
    saved(task, tmp_path)
    data = json.loads((tmp_path / "config.json").read_text()) | {"architectures": [named or base]}
    data["hidden_size"] *= 2
    (tmp_path / "config.json").write_text(json.dumps(data))
    assert rehearse(str(tmp_path)).raised
    assert status(tmp_path) == "fail"
