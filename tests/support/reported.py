"""Directories as people reported them, each built by the real library, with a sibling of another class."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file, save_file

Make = Callable[[Path], None]

DECODER: Mapping[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": 37,
    "vocab_size": 99,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
EXPERTS: Mapping[str, Any] = {**DECODER, "num_local_experts": 2, "num_experts": 2, "moe_intermediate_size": 16}
T5: Mapping[str, Any] = {"d_model": 32, "d_kv": 16, "d_ff": 32, "num_layers": 1, "num_heads": 2, "vocab_size": 99}


class Row(NamedTuple):
    """One report, or a sibling of it."""

    ident: str
    """The report's name, `name/class` for a sibling."""
    make: Make
    """Writes it into an empty directory."""
    status: str
    """Statuses that may be said, joined by `|`."""
    codes: str = ""
    """Codes with severities that must be said, and no others above notes."""
    outcomes: Mapping[str, str] = {}  # read only
    """Loader with versions -> outcome of the first group."""
    says: tuple[str, ...] = ()
    """Words that the report has to hold."""
    never: tuple[str, ...] = ()
    """Words that would be false."""


def causal(name: str, **more: Any) -> Callable[[Path], Any]:
    """Save a tiny tied causal model of a class."""

    def make(where: Path) -> Any:
        torch.manual_seed(0)
        cls = getattr(transformers, name)
        model = cls(cls.config_class(**{**DECODER, "tie_word_embeddings": True, **more}))
        model.save_pretrained(where)
        return model

    return make


def changed(make: Callable[[Path], Any], edit: Callable[[dict[str, Any], dict[str, Any]], None]) -> Make:
    """Save, and then change tensors and config in place."""

    def both(where: Path) -> None:
        make(where)
        tensors = {name: tensor.clone() for name, tensor in load_file(where / "model.safetensors").items()}
        config = json.loads((where / "config.json").read_text())
        edit(tensors, config)
        save_file(tensors, where / "model.safetensors", metadata={"format": "pt"})
        (where / "config.json").write_text(json.dumps(config, indent=2))

    return both


def t5(name: str, **more: Any) -> Callable[[Path], Any]:
    """Save a tiny encoder-decoder of the T5 family."""
    return saved(name, **{**T5, **more})


def saved(name: str, **sizes: Any) -> Callable[[Path], Any]:
    """Save a class with a config of some sizes."""

    def make(where: Path) -> Any:
        torch.manual_seed(0)
        cls = getattr(transformers, name)
        cls(cls.config_class(**sizes)).save_pretrained(where)

    return make


def bart(name: str) -> Callable[[Path], Any]:
    """Save a tiny encoder-decoder of BART's family."""
    sizes = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "vocab_size": 99, "max_position_embeddings": 64}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
    return saved(name, **sizes, **heads)


def decoders_alone(tensors: dict[str, Any], config: dict[str, Any]) -> None:
    """The one embedding stored under the decoder's name, as older BARTs have it."""
    tensors["model.decoder.embed_tokens.weight"] = tensors.pop("model.shared.weight")
    assert config["model_type"] in ("bart", "mbart")


def sourceless(tensors: dict[str, Any], config: dict[str, Any]) -> None:
    """The encoder's embedding and a head of its own, and no `shared`."""
    table = tensors.pop("shared.weight")
    tensors |= {"encoder.embed_tokens.weight": table, "lm_head.weight": table + 1}
    assert config["vocab_size"] == len(table)


def stray_words(tensors: dict[str, Any], config: dict[str, Any]) -> None:
    """Flag false, no head, and a name that only a quantised loader would read."""
    head = "embed_out" if any(name.startswith("gpt_neox") for name in tensors) else "lm_head"
    tensors[f"{head}.qweight"] = torch.zeros(4, 4, dtype=torch.int32)
    config["tie_word_embeddings"] = False


def both_with(value: float) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    """Both members stored, equal but for what one value is."""

    def edit(tensors: dict[str, Any], config: dict[str, Any]) -> None:
        table = tensors[next(name for name in tensors if name.endswith(("embed_tokens.weight", "wte.weight")))]
        table[3, 3] = value
        tensors["lm_head.weight"] = table.clone()
        if value == 0:
            tensors["lm_head.weight"][3, 3] = -0.0
        assert config["tie_word_embeddings"] is not False

    return edit


def rows(count: int) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    """Another vocabulary in the config than the file has."""
    return lambda _tensors, config: config.update(vocab_size=count)


def flag(value: object) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    """Another flag in the config."""
    return lambda _tensors, config: config.update(tie_word_embeddings=value)


def florence(where: Path) -> None:
    """The top flag false, the nested one true, the source not stored."""
    seq2seq = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "vocab_size": 99, "pad_token_id": 1}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
    text = {"model_type": "bart", **seq2seq, **heads, "max_position_embeddings": 64, "tie_word_embeddings": True}
    four = {"depths": [1] * 4, "embed_dim": [8] * 4, "num_heads": [2] * 4, "num_groups": [2] * 4}
    config = transformers.Florence2Config(
        text_config=text, vision_config={**four, "projection_dim": 32, "window_size": 4}, tie_word_embeddings=True
    )
    inner = "model.language_model"

    def edit(tensors: dict[str, Any], config: dict[str, Any]) -> None:
        table = tensors.pop(f"{inner}.shared.weight")
        tensors |= {"lm_head.weight": table + 1, f"{inner}.decoder.embed_tokens.weight": table}
        config["tie_word_embeddings"] = False

    changed(transformers.Florence2ForConditionalGeneration(config).save_pretrained, edit)(where)


def quantised(name: str, rows: int, columns: int) -> dict[str, Any]:
    """Return a matrix as MLX packs it: eight values of four bits a word, with scales and biases of groups of 64."""
    words = np.random.default_rng(0).integers(0, 2**32, (rows, columns // 8), dtype=np.uint32)
    parts = np.ones((rows, columns // 64), np.float32)
    return {f"{name}.weight": words, f"{name}.scales": parts, f"{name}.biases": parts}


def packed(model_type: str, name: str, *, head: bool) -> Make:
    """A tied checkpoint that mlx-lm packed, with or without the triple of a head left in."""

    def make(where: Path) -> None:
        cls = getattr(transformers, name)
        config = cls.config_class(**{**DECODER, "hidden_size": 64, "tie_word_embeddings": True})
        config.architectures = [name]
        data = config.to_dict() | {"quantization": {"group_size": 64, "bits": 4}, "model_type": model_type}
        (where / "config.json").write_text(json.dumps(data, default=str))
        tensors = quantised("model.embed_tokens", 99, 64) | {"model.norm.weight": np.ones(64, np.float32)}
        more = quantised("lm_head", 99, 64) if head else {}
        save_arrays(tensors | {k: v + 1 for k, v in more.items()}, where / "model.safetensors", {"format": "mlx"})

    return make


def deepseek(where: Path) -> None:
    """A healthy tied DeepSeek-V3, whose head vLLM leaves random."""
    experts = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "n_group": 1}
    heads = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "v_head_dim": 8, "qk_nope_head_dim": 4}
    causal("DeepseekV3ForCausalLM", **experts, **heads, topk_group=1, first_k_dense_replace=1)(where)


def metadata(make: Callable[[Path], Any], notes: Mapping[str, str] = MappingProxyType({"total": "1"})) -> Make:
    """A healthy file whose metadata names no format, or another."""

    def other(where: Path) -> None:
        make(where)
        tensors = {name: tensor.clone() for name, tensor in load_file(where / "model.safetensors").items()}
        save_file(tensors, where / "model.safetensors", metadata=dict(notes))

    return other


def sharded(make: Callable[[Path], Any], notes: dict[str, str] | None) -> Make:
    """A healthy model in three shards or more with the same metadata in each."""

    def other(where: Path) -> None:
        model = make(where)
        (where / "model.safetensors").unlink()
        model.save_pretrained(where, max_shard_size="28KB")
        for file in sorted(where.glob("model-*.safetensors")):
            save_file({name: tensor.clone() for name, tensor in load_file(file).items()}, file, metadata=notes)

    return other


def masked(name: str) -> Callable[[Path], Any]:
    """Save a tiny masked language model of BERT's family."""
    return saved(name, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=99)


def without(prefix: str) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    """Every tensor gone that has a prefix."""

    def edit(tensors: dict[str, Any], _config: dict[str, Any]) -> None:
        for name in [name for name in tensors if name.startswith(prefix)]:
            del tensors[name]

    return edit


def based(name: str, base: str) -> Make:
    """The checkpoint of a base model under the config of a class with a head."""

    def make(where: Path) -> None:
        masked(base)(where)
        config = json.loads((where / "config.json").read_text())
        (where / "config.json").write_text(json.dumps(config | {"architectures": [name]}))

    return make


def nested(make: Callable[[Path], Any]) -> Make:
    """A training framework's pickle under the standard name."""

    def other(where: Path) -> None:
        model = make(where)
        (where / "model.safetensors").unlink()
        torch.save({"state_dict": model.state_dict()}, where / "pytorch_model.bin")

    return other


def renamed(make: Callable[[Path], Any]) -> Make:
    """Weights under a name that nobody looks for."""

    def other(where: Path) -> None:
        make(where)
        (where / "model.safetensors").rename(where / "consolidated.safetensors")

    return other


def vendored(make: Callable[[Path], Any], *, stale: bool, file: str = "consolidated.safetensors") -> Make:
    """The vendor's own file beside, with the values of today or of before the fine-tune."""

    def other(where: Path) -> None:
        make(where)
        table = load_file(where / "model.safetensors")["model.embed_tokens.weight"].clone()
        tensors = {"tok_embeddings.weight": table - 0.1 if stale else table}
        (torch.save if file.endswith(".pth") else save_file)(tensors, where / file)

    return other


FOUR, FIVE = "transformers 4.57", "transformers 5"

ROWS = (
    Row("group-of-four-no-source-457", changed(t5("LongT5ForConditionalGeneration", local_radius=4), sourceless),
        "fail", "TIE101 error TIE111 warning", {FOUR: "crash", FIVE: "kept-apart"},
        ("rename encoder.embed_tokens.weight to shared.weight",), ("throws",)),
    Row("group-of-four-no-source-457/t5", changed(t5("T5ForConditionalGeneration"), sourceless),
        "fail", "TIE101 error TIE111 warning", {FOUR: "head-discarded", FIVE: "kept-apart"},
        ("rename encoder.embed_tokens.weight to shared.weight",)),
    Row("moe889", saved("MixtralForCausalLM", **EXPERTS, tie_word_embeddings=True), "fail", "TIE107 warning",
        {FOUR: "tied", FIVE: "tied", "mlx-lm 0.32.2": "tied", "vllm 0.29-0.33": "tied",
         "sglang 0.5.23": "head-random"}, ("which is right", "sglang 0.5.23: nothing is loaded into it")),
    Row("moe889/qwen2-moe", saved("Qwen2MoeForCausalLM", **EXPERTS, tie_word_embeddings=True), "fail",
        "TIE107 warning", {FOUR: "tied", FIVE: "tied"}, ("which is right",)),
    Row("florence2-false-top-true-nested", florence, "fail", "TIE103 error", {FOUR: "crash", FIVE: "kept-apart"}, (),
        ("random",)),
    Row("head-qweight-pass-while-random", changed(causal("LlamaForCausalLM"), stray_words), "unknown|fail", "",
        dict.fromkeys(("vllm 0.29-0.33", "sglang 0.5.23", "llama.cpp 0c1e57098"), "unknown")),
    Row("head-qweight-pass-while-random/qwen2", changed(causal("Qwen2ForCausalLM"), stray_words), "unknown|fail", "",
        dict.fromkeys(("vllm 0.29-0.33", "sglang 0.5.23", "llama.cpp 0c1e57098"), "unknown")),
    Row("group-of-four-no-source-457/bart", changed(bart("BartForConditionalGeneration"), decoders_alone), "pass", "",
        {FOUR: "tied", FIVE: "tied"}),
    Row("group-of-four-no-source-457/mbart", changed(bart("MBartForConditionalGeneration"), decoders_alone), "fail",
        "TIE111 warning", {FOUR: "crash", FIVE: "tied"}, ("shared.weight",)),
    Row("mlxmoe490", packed("qwen3", "Qwen3ForCausalLM", head=True), "fail", "TIE611 warning",
        {"mlx-lm 0.32.2": "crash"},
        ("lm_head.biases, lm_head.scales",), ("rows differ", "thrown away")),
    Row("mlxmoe490/llama", packed("llama", "LlamaForCausalLM", head=True), "fail", "TIE611 warning",
        {"mlx-lm 0.32.2": "crash"}),
    Row("mlxmoe490/healthy", packed("qwen3", "Qwen3ForCausalLM", head=False), "pass", "", {"mlx-lm 0.32.2": "tied"}),
    Row("nan-in-both", changed(causal("LlamaForCausalLM"), both_with(float("nan"))), "fail", "TIE106 warning",
        {FOUR: "tied", FIVE: "kept-apart"}, ("NaN",)),
    Row("nan-in-both/gemma2", changed(causal("Gemma2ForCausalLM", head_dim=16), both_with(float("nan"))), "fail",
        "TIE106 warning", {FOUR: "tied", FIVE: "kept-apart"}),
    Row("negative-zero", changed(causal("LlamaForCausalLM"), both_with(0.0)), "pass", "", {FOUR: "tied", FIVE: "tied"}),
    Row("negative-zero/qwen2", changed(causal("Qwen2ForCausalLM"), both_with(0.0)), "pass", "", {FIVE: "tied"}),
    Row("vocab-size-off", changed(causal("LlamaForCausalLM"), rows(102)), "fail", "TIE207 error"),
    Row("vocab-size-off/mistral", changed(causal("MistralForCausalLM"), rows(120)), "fail", "TIE207 error"),
    Row("flag-string", changed(causal("LlamaForCausalLM"), flag("false")), "fail", "TIE112 error"),
    Row("flag-string/qwen2", changed(causal("Qwen2ForCausalLM"), flag("false")), "fail", "TIE112 error"),
    Row("metadata-without-format-457", metadata(causal("LlamaForCausalLM")), "fail", "TIE206 warning"),
    Row("metadata-without-format-457/qwen2", metadata(causal("Qwen2ForCausalLM")), "fail", "TIE206 warning"),
    Row("metadata-without-format-457/sharded", sharded(causal("LlamaForCausalLM"), {"format": "np"}), "fail",
        "TIE206 warning", {FOUR: "crash", FIVE: "tied"}, ("OSError", "of 2 more")),
    Row("metadata-without-format-457/sharded-sound", sharded(causal("Qwen2ForCausalLM"), {"format": "tf"}), "pass"),
    Row("metadata-without-format-457/sharded-none", sharded(causal("GemmaForCausalLM", head_dim=16), None), "pass"),
    Row("metadata-without-format-457/tf", metadata(causal("MistralForCausalLM"), {"format": "tf"}), "fail",
        "TIE206 warning", {FOUR: "crash", FIVE: "tied"}, ("TensorFlow",)),
    Row("orphaned-bias", changed(masked("BertForMaskedLM"), without("cls.predictions.")), "fail", "TIE110 error",
        {}, ("cls.predictions.bias",)),
    Row("orphaned-bias/alone", changed(masked("DebertaForMaskedLM"), without("cls.predictions.bias")), "fail",
        "TIE110 error"),
    Row("orphaned-bias/base-model", based("BertForMaskedLM", "BertModel"), "fail", "TIE110 error"),
    Row("orphaned-bias/roberta", changed(masked("RobertaForMaskedLM"), without("lm_head.bias")), "fail",
        "TIE110 error"),
    Row("pickle-nested-state-dict", nested(causal("LlamaForCausalLM")), "fail", "TIE206 error"),
    Row("pickle-nested-state-dict/mistral", nested(causal("MistralForCausalLM")), "fail", "TIE206 error"),
    Row("no-standard-name", renamed(causal("LlamaForCausalLM")), "fail", "TIE206 error"),
    Row("no-standard-name/qwen2", renamed(causal("Qwen2ForCausalLM")), "fail", "TIE206 error"),
    Row("consol40765", vendored(causal("MistralForCausalLM"), stale=True), "fail", "TIE206 warning", {FIVE: "tied"},
        ("tok_embeddings.weight with other values",)),
    Row("consol40765/llama", vendored(causal("LlamaForCausalLM"), stale=True), "fail", "TIE206 warning"),
    Row("consol40765/meta", vendored(causal("LlamaForCausalLM"), stale=True, file="consolidated.00.pth"), "fail",
        "TIE206 warning", {FIVE: "tied"}, ("consolidated.00.pth holds tok_embeddings.weight with other values",)),
    Row("consol40765/meta-agreeing", vendored(causal("LlamaForCausalLM"), stale=False, file="consolidated.00.pth"),
        "pass"),
    Row("consol40765/agreeing", vendored(causal("MistralForCausalLM"), stale=False), "pass"),
    Row("vllm-random-head-is-pass", deepseek, "fail", "TIE107 warning", {FIVE: "tied"}, ("vllm", "--for")),
    Row("t5-encoder-strict", t5("T5EncoderModel"), "pass"),
    Row("t5-encoder-strict/umt5", t5("UMT5EncoderModel"), "pass"),
)  # fmt: skip
"""The reports on directories, with their siblings."""
