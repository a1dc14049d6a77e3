"""Proposed maps for many classes of transformers, loaded for real on cpu and disk, and verified by the gate."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from accelerate import dispatch_model
from gates import gate_of, on_two
from lanes import sampled
from tiny_models import SMALL, groups_of, logits

pytestmark = pytest.mark.filterwarnings("ignore")

WORDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
COMMON = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
    **WORDS,
}
BART = SMALL["BartForConditionalGeneration"] | WORDS | {"decoder_start_token_id": 2, "forced_eos_token_id": 2}
T5 = SMALL["T5ForConditionalGeneration"] | {"pad_token_id": 0}

SAMPLE = (
    "BertForMaskedLM",
    "BloomForCausalLM",
    "Gemma3ForCausalLM",
    "M2M100ForConditionalGeneration",
    "MambaForCausalLM",
    "OPTForCausalLM",
    "Qwen3ForCausalLM",
    "SwitchTransformersForConditionalGeneration",
    "XLMWithLMHeadModel",
)
"""Decoders, encoders, both, mixtures, one without attention, two with tensors of the root."""

REST = (
    "BertLMHeadModel",
    "BigBirdForMaskedLM",
    "BlenderbotForConditionalGeneration",
    "CTRLLMHeadModel",
    "CohereForCausalLM",
    "DebertaV2ForMaskedLM",
    "DistilBertForMaskedLM",
    "FNetForMaskedLM",
    "GPTNeoXForCausalLM",
    "Gemma2ForCausalLM",
    "GemmaForCausalLM",
    "Glm4ForCausalLM",
    "GraniteForCausalLM",
    "HeliumForCausalLM",
    "LongT5ForConditionalGeneration",
    "MBartForConditionalGeneration",
    "MPNetForMaskedLM",
    "MT5ForConditionalGeneration",
    "MarianMTModel",
    "MistralForCausalLM",
    "MixtralForCausalLM",
    "ModernBertForMaskedLM",
    "NemotronForCausalLM",
    "NystromformerForMaskedLM",
    "Olmo2ForCausalLM",
    "OlmoForCausalLM",
    "OpenAIGPTLMHeadModel",
    "PegasusForConditionalGeneration",
    "Phi3ForCausalLM",
    "PhiForCausalLM",
    "Qwen2ForCausalLM",
    "RecurrentGemmaForCausalLM",
    "RoFormerForMaskedLM",
    "RobertaForMaskedLM",
    "RwkvForCausalLM",
    "SmolLM3ForCausalLM",
    "StableLmForCausalLM",
    "Starcoder2ForCausalLM",
    "UMT5ForConditionalGeneration",
    "XLMRobertaForMaskedLM",
)


def keeps(name: str, folder: Path) -> None:
    """Load a class both ways under a proposed map: ties, places and logits are those of a plain load."""
    cls = getattr(transformers, name)
    sizes = T5 if "T5" in name or "Switch" in name else BART if cls.config_class().is_encoder_decoder else COMMON
    torch.manual_seed(0)
    model = cls(cls.config_class(**sizes)).eval()
    expected = logits(model)
    model.save_pretrained(folder)
    assert groups_of(model)
    gate = gate_of(model, on_two(model, "cpu", "disk"))
    assert torch.equal(logits(gate(cls.from_pretrained, folder, offload_folder=folder / "off")), expected)
    assert torch.equal(logits(gate(dispatch_model, model, offload_dir=folder / "dispatched")), expected)


@pytest.mark.parametrize("name", sampled(SAMPLE))
def test_a_sample_of_classes_loads_as_promised(name: str, tmp_path: Path) -> None:
    keeps(name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", REST)
def test_many_classes_load_as_promised(name: str, tmp_path: Path) -> None:
    keeps(name, tmp_path)
