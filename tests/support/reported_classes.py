"""Directories as people reported them whose classes have parts, switches or prefixes; `reported.py` has the others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from reported import DECODER, FIVE, FOUR, T5, Make, Row, causal, changed, saved
from safetensors.torch import load_file, save_file

PICTURES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 37}
PICTURES |= {"image_size": 30, "patch_size": 10}
SWITCHED = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "vocab_size": 99, "max_position_embeddings": 64}
SWITCHED |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
DETECTOR = {"d_model": 32, "encoder_hidden_dim": 32, "encoder_layers": 1, "decoder_layers": 2, "num_queries": 5}
DETECTOR |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}


def null_inside(_tensors: dict[str, Any], config: dict[str, Any]) -> None:
    """A flag of null in the text config."""
    config["text_config"]["tie_word_embeddings"] = None


def bare_embedding(tensors: dict[str, Any], _config: dict[str, Any]) -> None:
    """The embedding stored without the prefix that all others have."""
    tensors["embed_tokens.weight"] = tensors.pop("model.embed_tokens.weight")


def trained_head(tensors: dict[str, Any], _config: dict[str, Any]) -> None:
    """A head of its own beside a true flag."""
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] + 1


def with_pictures(name: str) -> Make:
    """A model of text and pictures over a tiny Llama."""
    text = {"model_type": "llama", **DECODER}
    return saved(name, text_config=text, vision_config=PICTURES, tie_word_embeddings=True)


def detector(name: str) -> Make:
    """A detector with fewer decoder layers than by default, whose heads are tied."""
    backbone = transformers.RTDetrResNetConfig(
        embedding_size=8, hidden_sizes=[8] * 4, depths=[1] * 4, out_features=["stage2", "stage3", "stage4"]
    )
    channels = {"encoder_in_channels": [8] * 3, "decoder_in_channels": [32] * 3}

    def edit(_tensors: dict[str, Any], config: dict[str, Any]) -> None:
        config["tie_word_embeddings"] = False

    return changed(saved(name, **DETECTOR, **channels, backbone_config=backbone), edit)


def retrieval(name: str) -> Make:
    """A retrieval model whose generator is a T5, which has no inner model of its own."""

    def make(where: Path) -> None:
        torch.manual_seed(0)
        words = transformers.DPRConfig(
            hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=37, vocab_size=99
        )
        speech = transformers.T5Config(**T5, decoder_start_token_id=0)
        whole = transformers.RagConfig.from_question_encoder_generator_configs(
            words, speech, index_name="custom", passages_path="x", index_path="y", n_docs=1
        )
        getattr(transformers, name)(config=whole).save_pretrained(where)

    return make


def twice_stored(name: str) -> Make:
    """One name in two shards, the second in another type and with other rows, which the index names."""

    def make(where: Path) -> None:
        causal(name)(where)
        tensors = {key: tensor.to(torch.bfloat16) for key, tensor in load_file(where / "model.safetensors").items()}
        (where / "model.safetensors").unlink()
        late = {key: tensor for key, tensor in tensors.items() if "layers.1" in key or "model.norm" in key}
        table = tensors["model.embed_tokens.weight"].float()
        table[90:] += 0.25
        late["model.embed_tokens.weight"] = table
        early = {key: tensor for key, tensor in tensors.items() if key not in late or "embed" in key}
        index: dict[str, str] = {}
        for number, part in enumerate((early, late), 1):
            file = f"model-0000{number}-of-00002.safetensors"
            save_file(part, where / file, metadata={"format": "pt"})
            index |= dict.fromkeys(part, file)
        (where / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))

    return make


OWN_WORDS = {"decoder_vocab_size": 99, "share_encoder_decoder_embeddings": False}

CLASS_ROWS = (
    Row("null-flag-nested", changed(with_pictures("Idefics3ForConditionalGeneration"), null_inside), "fail",
        "TIE107 warning TIE112 error", {FOUR: "head-random", FIVE: "crash"}),
    Row("null-flag-nested/llava", changed(with_pictures("LlavaForConditionalGeneration"), null_inside), "fail",
        "TIE107 warning TIE112 error", {FOUR: "head-random", FIVE: "crash"}),
    Row("embed-alone-noprefix-457", changed(causal("LlamaForCausalLM"), bare_embedding), "fail", "TIE107 warning",
        {FOUR: "embedding-random", FIVE: "tied"}),
    Row("embed-alone-noprefix-457/mistral", changed(causal("MistralForCausalLM"), bare_embedding), "fail",
        "TIE107 warning", {FOUR: "embedding-random", FIVE: "tied"}),
    Row("marian-unshared", saved("MarianMTModel", **SWITCHED, **OWN_WORDS, pad_token_id=98), "pass", "",
        {FOUR: "tied", FIVE: "tied"}),
    Row("marian-unshared/decoder", saved("MarianForCausalLM", **SWITCHED, **OWN_WORDS, pad_token_id=98), "pass", "",
        {FOUR: "tied", FIVE: "tied"}),
    Row("detr-family-pass-while-random", detector("RTDetrV2ForObjectDetection"), "fail|unknown"),
    Row("detr-family-pass-while-random/rt-detr", detector("RTDetrForObjectDetection"), "fail|unknown"),
    Row("rag-t5-generator", retrieval("RagTokenForGeneration"), "pass", "", {FOUR: "tied", FIVE: "tied"}),
    Row("rag-t5-generator/sequence", retrieval("RagSequenceForGeneration"), "pass", "", {FOUR: "tied", FIVE: "tied"}),
    Row("dup10756", twice_stored("LlamaForCausalLM"), "fail", "TIE202 error"),
    Row("dup10756/qwen2", twice_stored("Qwen2ForCausalLM"), "fail", "TIE202 error"),
    Row("gemma30826", changed(causal("Gemma3ForCausalLM", head_dim=16), trained_head), "fail", "TIE101 error",
        {FOUR: "head-discarded", FIVE: "kept-apart"}),
    Row("gemma30826/gemma2", changed(causal("Gemma2ForCausalLM", head_dim=16), trained_head), "fail", "TIE101 error",
        {FOUR: "head-discarded", FIVE: "kept-apart"}),
)  # fmt: skip
"""The reports, with their siblings."""
