"""TIE601 to TIE604 and TIE607 over PEFT's kinds of adapters and several classes: PEFT loads and merges."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from peft import PeftModel, get_peft_model
from peft_refusals import skip_what_peft_refuses

import tiecheck

pytestmark = pytest.mark.filterwarnings("ignore")

WIDE: dict[str, Any] = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
                        "num_attention_heads": 2}  # fmt: skip
BASES: dict[str, tuple[dict[str, Any], str, str, str]] = {
    "LlamaForCausalLM": (WIDE | {"num_key_value_heads": 2}, "embed_tokens", "lm_head", "q_proj"),
    "Gemma2ForCausalLM": (WIDE | {"num_key_value_heads": 2, "head_dim": 8}, "embed_tokens", "lm_head", "q_proj"),
    "GPT2LMHeadModel": ({"vocab_size": 64, "n_embd": 16, "n_layer": 1, "n_head": 2}, "wte", "lm_head", "c_attn"),
    "GPTNeoXForCausalLM": (WIDE, "embed_in", "embed_out", "query_key_value"),
    "BertForMaskedLM": (WIDE, "word_embeddings", "decoder", "query"),
    "T5ForConditionalGeneration": (
        {"vocab_size": 64, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2},
        "shared", "lm_head", "q"),
}  # fmt: skip
"""Class -> sizes, and the last names of its embedding, its head and another layer."""

KINDS: dict[str, dict[str, Any]] = {
    "LoraConfig": {"r": 2}, "AdaLoraConfig": {"init_r": 2, "target_r": 1, "total_step": 10},
    "IA3Config": {"feedforward_modules": []}, "LoHaConfig": {"r": 2}, "LoKrConfig": {"r": 2}, "MissConfig": {"r": 2},
    "OFTConfig": {"r": 0, "oft_block_size": 4}, "BOFTConfig": {"boft_block_size": 4}, "VeraConfig": {"r": 2},
    "FourierFTConfig": {"n_frequency": 200}, "HRAConfig": {"r": 2}, "RandLoraConfig": {"r": 2}, "ShiraConfig": {"r": 2},
    "VBLoRAConfig": {"r": 2, "num_vectors": 8, "vector_length": 8, "topk": 2}, "C3AConfig": {"block_size": 4},
    "WaveFTConfig": {"n_frequency": 200}, "LNTuningConfig": {},
}  # fmt: skip
LORA = ({}, {"use_rslora": True}, {"use_dora": True}, {"init_lora_weights": "pissa"}, {"bias": "lora_only"},
        {"bias": "all"})  # fmt: skip
IDS = torch.arange(3, 63)[None]


def base(name: str, *, tied: bool = True) -> Any:
    torch.manual_seed(0)
    made = getattr(transformers, name)
    model = made(made.config_class(**BASES[name][0], tie_word_embeddings=tied))
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            if not path.endswith("predictions.bias"):  # PEFT applies trained tokens to a head without its bias
                parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def logits(model: Any) -> torch.Tensor:
    more = {"decoder_input_ids": IDS} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        return model(input_ids=IDS, **more).logits


def drawn(draw: random.Random) -> tuple[str, str, dict[str, Any]]:
    """Class, kind and options of an adapter that may meet the tie in any way."""
    name, kind = draw.choice(list(BASES)), draw.choice(["LoraConfig", *KINDS])
    _, embedding, head, other = BASES[name]
    options: dict[str, Any] = {**KINDS[kind], **(draw.choice(LORA) if kind == "LoraConfig" else {})}
    options["target_modules"] = [other, *(m for m in (embedding, head) if draw.random() < 0.4)]
    if kind == "LoraConfig" and draw.random() < 0.15:
        options["target_modules"] = "all-linear"
    free = [m for m in (embedding, head) if m not in options["target_modules"]]
    saved = [m for m in free if draw.random() < 0.4]
    if saved:
        options["modules_to_save"] = saved
    elif free and kind == "LoraConfig" and draw.random() < 0.5:
        options["trainable_token_indices"] = draw.choice(([1, 2], {m: [1, 2] for m in free}))
    if kind == "LoraConfig" and draw.random() < 0.3:
        options["ensure_weight_tying"] = True
    return name, kind, options


def trained(model: Any, config: Any, where: Path) -> None:
    """Save an adapter of a model, every weight of it moved."""
    applied = get_peft_model(model, config)
    torch.manual_seed(1)
    for parameter in {id(p): p for p in applied.parameters() if p.requires_grad}.values():
        parameter.data += torch.randn_like(parameter) * 0.3
    applied.save_pretrained(where)


@pytest.mark.parametrize("seed", [*range(20), *(pytest.param(n, marks=pytest.mark.slow) for n in range(20, 600))])
def test_what_is_said_is_what_peft_does(seed: int, tmp_path: Path) -> None:
    name, kind, options = drawn(random.Random(seed))
    model = base(name)
    model.save_pretrained(tmp_path / "base")
    load = type(model).from_pretrained
    try:
        trained(load(tmp_path / "base"), getattr(peft, kind)(**options), tmp_path / "adapter")
        applied = PeftModel.from_pretrained(load(tmp_path / "base"), tmp_path / "adapter").eval()
        before = logits(applied)
        merged = applied.merge_and_unload()
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        skip_what_peft_refuses(error)
    exact = torch.allclose(before, logits(merged), atol=2e-4 * max(1.0, float(before.abs().max())))
    (report,) = tiecheck.check(tmp_path / "adapter", base=str(tmp_path / "base")).targets
    assert report.status in ("pass", "fail"), report.reason
    found = {f.code: f.severity for f in report.findings}
    loses = "TIE603" in found or found.get("TIE601") == "error"
    assert loses is not exact, (name, kind, options, found)
    one = merged.get_output_embeddings().weight is merged.get_input_embeddings().weight
    if not loses:
        assert one is not ("TIE602" in found or "TIE601" in found), (name, kind, options, found)
        if kind != "LNTuningConfig":
            assert merged.config.tie_word_embeddings is one
        elif not one:  # its merge does not look at the flag
            assert merged.config.tie_word_embeddings
            assert {found.get("TIE601"), found.get("TIE602")} & {"warning"}


GROWN: tuple[dict[str, Any], ...] = (
    {"modules_to_save": ["EMBEDDING"]}, {"modules_to_save": ["HEAD"]}, {"target_modules": ["OTHER", "HEAD"]},
    {"target_modules": ["OTHER", "EMBEDDING"]}, {}, {"modules_to_save": ["EMBEDDING", "HEAD"]},
)  # fmt: skip


@pytest.mark.parametrize("rows", [64, 70, 60])
@pytest.mark.parametrize("number", range(len(GROWN)))
@pytest.mark.parametrize("name", ["LlamaForCausalLM", "GPT2LMHeadModel"])
def test_an_adapter_of_a_resized_base_is_told_where_peft_raises(
    name: str, number: int, rows: int, tmp_path: Path
) -> None:
    _, embedding, head, other = BASES[name]
    words = {"EMBEDDING": embedding, "HEAD": head, "OTHER": other}
    options = {key: [words[word] for word in value] for key, value in GROWN[number].items()}
    model = base(name)
    model.save_pretrained(tmp_path / "base")
    resized = type(model).from_pretrained(tmp_path / "base")
    resized.resize_token_embeddings(rows)
    trained(resized, peft.LoraConfig(r=2, **({"target_modules": [other]} | options)), tmp_path / "adapter")
    try:
        PeftModel.from_pretrained(type(model).from_pretrained(tmp_path / "base"), tmp_path / "adapter")
        raised = False
    except RuntimeError as error:
        raised = "size mismatch" in str(error)
        assert raised
    found = [
        f for f in tiecheck.check(tmp_path / "adapter", base=str(tmp_path / "base")).findings if f.code == "TIE607"
    ]
    assert bool(found) is raised
    if found:
        assert f"has {rows} rows" in found[0].message
        assert "stores 64" in found[0].message
        resized = type(model).from_pretrained(tmp_path / "base")
        resized.resize_token_embeddings(rows)
        resized.save_pretrained(tmp_path / "resized")
        PeftModel.from_pretrained(resized, tmp_path / "adapter")
        again = tiecheck.check(tmp_path / "adapter", base=str(tmp_path / "resized"))
        assert "TIE607" not in {f.code for f in again.findings}
