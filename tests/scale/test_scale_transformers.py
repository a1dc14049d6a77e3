"""TIE701's fact on transformers' own classes: no default initialisation may look like a finding."""

from __future__ import annotations

import pytest
import torch
import transformers

import tiecheck
from tiecheck.files.checkpoint import read_checkpoint
from tiecheck.records.scale import InitScale
from tiecheck.records.words import Unknown
from tiecheck.scale.live import live_scale
from tiecheck.scale.stored import stored_scale

SIZES = {
    "vocab_size": 512,
    **dict.fromkeys(("hidden_size", "n_embd", "d_model"), 64),
    **dict.fromkeys(("intermediate_size", "d_ff", "encoder_ffn_dim", "decoder_ffn_dim"), 128),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "num_layers", "encoder_layers", "decoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "encoder_attention_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"), 0),
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "tie_word_embeddings": True,
}
CLASSES = [
    "BartForConditionalGeneration",
    "BloomForCausalLM",
    "CohereForCausalLM",
    "CTRLLMHeadModel",
    "Gemma2ForCausalLM",
    "Gemma3ForCausalLM",
    "GemmaForCausalLM",
    "GPT2LMHeadModel",
    "GPTBigCodeForCausalLM",
    "GPTNeoXForCausalLM",
    "GraniteForCausalLM",
    "LlamaForCausalLM",
    "MambaForCausalLM",
    "MistralForCausalLM",
    "MptForCausalLM",
    "OPTForCausalLM",
    "OpenAIGPTLMHeadModel",
    "PhiForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
    "RobertaForMaskedLM",
    "StableLmForCausalLM",
    "T5ForConditionalGeneration",
    "XGLMForCausalLM",
]


@pytest.fixture(autouse=True)
def _quiet():
    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)


def build(name, device="cpu"):
    cls = getattr(transformers, name)
    defaults = cls.config_class()
    sizes = {key: value for key, value in SIZES.items() if hasattr(defaults, key)}
    if name.startswith(("Gemma", "Mistral", "Qwen3")):
        sizes["head_dim"] = 16
    with torch.device(device):
        model = cls(cls.config_class(**sizes))
    shared = model.get_input_embeddings().weight
    names = tuple(sorted(n for n, p in model.named_parameters(remove_duplicate=False) if p is shared))
    assert len(names) > 1
    return model, names


@pytest.mark.parametrize("name", CLASSES)
def test_no_default_draw_is_a_finding(name, tmp_path):
    model, names = build(name)
    found = live_scale(model, names)
    assert isinstance(found, InitScale), found
    assert found.untrained, found.evidence
    assert found.predicted < 1.5
    model.save_pretrained(tmp_path)
    checkpoint = read_checkpoint(str(tmp_path))
    stored = stored_scale(checkpoint, names, next(n for n in names if n in checkpoint), found.head_scale)
    assert isinstance(stored, Unknown) or stored.untrained or stored.predicted < 1.5, stored
    if isinstance(stored, InitScale) and stored.predicted is not None:
        assert stored.predicted == pytest.approx(found.predicted, rel=0.05)


@pytest.mark.parametrize("name", CLASSES)
def test_an_embeddings_draw_is_measured_as_predicted(name):
    model, names = build(name)
    weight = model.get_parameter(names[0])
    with torch.no_grad():
        weight.normal_()
    found = live_scale(model, names)
    scale = {"CohereForCausalLM": 0.0625, "T5ForConditionalGeneration": 0.125}.get(name, 1.0)
    if name == "Gemma2ForCausalLM":
        assert found.predicted is None
        assert "`tanh`" in found.reason
        return
    assert found.head_scale == pytest.approx(scale)
    assert found.predicted == pytest.approx(8.0 * scale, rel=0.03)
    assert found.measured == pytest.approx(found.predicted, rel=0.05)


@pytest.mark.parametrize("name", CLASSES)
def test_the_same_is_seen_on_meta(name):
    found = live_scale(*build(name, "meta"), std=1.0)
    scale = {"CohereForCausalLM": 0.0625, "T5ForConditionalGeneration": 0.125}.get(name, 1.0)
    if name == "Gemma2ForCausalLM":
        assert "`tanh`" in found.reason
    else:
        assert (found.head_scale, found.predicted) == (pytest.approx(scale), pytest.approx(8.0 * scale))


def test_t5_with_its_own_draw_of_one_is_no_finding():
    model, names = build("T5ForConditionalGeneration")
    found = live_scale(model, names)
    assert found.std == pytest.approx(1.0, rel=0.02)
    assert found.head_scale == pytest.approx(64**-0.5)
    assert found.predicted == pytest.approx(1.0, rel=0.02)
    assert found.measured == pytest.approx(1.0, rel=0.05)


def test_embeddings_scaled_on_the_way_in_count_for_nothing():
    model, names = build("GemmaForCausalLM")
    with torch.no_grad():
        model.get_parameter(names[0]).normal_(std=64**-0.5)
    assert live_scale(model, names).predicted == pytest.approx(1.0, rel=0.02)


@pytest.mark.parametrize(
    ("name", "more", "severity"),
    [
        ("MT5ForConditionalGeneration", {"d_kv": 16, "num_heads": 4}, "info"),
        ("FunnelForMaskedLM", {"block_sizes": [1, 1], "d_head": 16}, "info"),
        ("FunnelForMaskedLM", {"block_sizes": [1, 1], "d_head": 16, "initializer_std": 0.02}, "error"),
    ],
)
def test_a_class_whose_own_draw_is_large_is_a_note_and_the_users_draw_an_error(name, more, severity, tmp_path):
    """What the library does itself wants no mend: MT5 by a factor in its config, Funnel by a deviation that is null."""
    cls = getattr(transformers, name)
    sizes = {key: value for key, value in SIZES.items() if key in cls.config_class().to_dict()}
    model = cls(cls.config_class(**sizes | more)).eval()
    if severity == "error":
        torch.nn.init.normal_(model.get_input_embeddings().weight)
    ids = torch.randint(512, (4, 32))
    assert model(input_ids=ids, labels=ids).logits.std() > 6
    model.save_pretrained(tmp_path)
    for target in (model, str(tmp_path)):
        assert [(f.code, f.severity) for f in tiecheck.check(target).findings] == [("TIE701", severity)]
