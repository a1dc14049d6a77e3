"""Drawn GGUF files, adapters, quantised checkpoints and drafts: healthy ones, with one thing or several made wrong."""

from __future__ import annotations

import json
import struct
from typing import Any

from cases import FORMATS, Case, Draw, Pairs, encoded, written
from texts import CONFIG
from weights import PAIR, drawn_weights, safetensors, sound_header

NUMBERS = (
    0,
    1,
    2,
    3,
    8,
    9,
    30,
    32,
    63,
    64,
    255,
    1 << 16,
    1 << 20,
    1 << 31,
    1 << 40,
    (1 << 63) - 1,
    1 << 63,
    (1 << 64) - 1,
)
NAMES = (
    "token_embd.weight",
    "output.weight",
    "output_norm.weight",
    "blk.0.attn_q.weight",
    "",
    "x" * 70,
    "token_embd.weight\0",
)
TYPES = ((0, 1, 4), (1, 1, 2), (2, 32, 18), (8, 32, 34), (14, 256, 210))


def _text(draw: Draw, word: str) -> bytes:
    raw = word.encode("utf-8", "surrogatepass")
    length = draw.choice(NUMBERS) if draw.chance(0.01) else len(raw)
    return struct.pack("<Q", length) + raw


def _value(draw: Draw, kind: int, depth: int = 0) -> bytes:
    if kind == 8:
        return _text(draw, draw.word())
    if kind == 9 and depth < 3:
        inner = draw.choice((0, 4, 5, 6, 8, 8, 12)) if draw.chance(0.9) else draw.choice((9, 13, 99))
        count = draw.choice((0, 1, 5))
        said = draw.choice(NUMBERS) if draw.chance(0.1) else count
        return struct.pack("<IQ", inner, said) + b"".join(_value(draw, inner, depth + 1) for _ in range(count))
    return draw.randbytes({0: 1, 1: 1, 2: 2, 3: 2, 7: 1, 10: 8, 11: 8, 12: 8}.get(kind, 4))


def drawn_gguf(draw: Draw) -> Any:
    """A GGUF file, seldom a hole of terabytes behind a sound header."""
    odd = draw.choice((0.0, 0.0, 0.02, 0.1))
    align = draw.choice((0, 3, 8, 1 << 31)) if draw.chance(odd) else 32
    pairs = [
        _text(draw, "general.architecture")
        + struct.pack("<I", 8)
        + _text(draw, draw.choice(("llama", "gemma2", "bert", "x")))
    ]
    if align != 32:
        pairs.append(_text(draw, "general.alignment") + struct.pack("<II", 4, align))
    for _ in range(draw.choice((0, 1, 3, 40))):
        kind = draw.choice((*range(13), 13)) if draw.chance(0.3) else 9
        pairs.append(_text(draw, draw.word() + str(len(pairs))) + struct.pack("<I", kind) + _value(draw, kind))
    infos, end, unit = [], 0, max(align, 1) if align < 1 << 20 else 32
    rows = 1 << 32 if draw.chance(0.005) else draw.choice((1, 4, 0))
    for name in NAMES[: draw.choice((1, 2, 2, 4))] if draw.chance(0.8) else [draw.choice(NAMES) for _ in range(3)]:
        number, block, size = draw.choice(TYPES)
        begin = -(-end // unit) * unit
        end = begin + rows * size * (256 // block)
        shape = (256, rows)
        if draw.chance(odd):
            number, shape = draw.choice((number, 99, draw.choice(NUMBERS) % (1 << 32))), (draw.choice(NUMBERS), rows)
        dims = draw.choice(NUMBERS) % (1 << 32) if draw.chance(odd) else len(shape)
        begin = draw.choice(NUMBERS) if draw.chance(odd) else begin
        infos.append(_text(draw, name) + struct.pack("<I2QIQ", dims, *shape, number, begin))
    counts = [draw.choice(NUMBERS) if draw.chance(odd) else len(held) for held in (infos, pairs)]
    version = draw.choice((0, 1, 4, 3 << 24)) if draw.chance(odd) else draw.choice((2, 3))
    raw = b"GGUF" + struct.pack("<IQQ", version, *counts) + b"".join((*pairs, *infos))
    raw += bytes(-len(raw) % unit)
    if rows > 1 << 20:
        return {"head": raw, "hole": end}
    raw += draw.randbytes(end) if draw.chance(0.5) else bytes(end)
    return draw.damaged(raw) if draw.chance(0.2) else raw


def gguf_case(draw: Draw) -> Case:
    """A directory of one to three GGUF files, some of them parts of one model."""
    parts = ("m-00001-of-00002.gguf", "m-00002-of-00002.gguf")
    lone = tuple((name,) for name in ("a.gguf", parts[1], "m-00001-of-99999.gguf", "m-00000-of-00000.gguf"))
    names = draw.choice((("a.gguf", "b.gguf"), parts, *lone))
    return Case("gguf", {name: drawn_gguf(draw) for name in names})


PARTS = (
    "lora_A.weight",
    "lora_embedding_B",
    "base_layer.weight",
    "token_adapter.trainable_tokens_delta",
    "weight",
    "",
    "oft_R.weight",
)


def adapter_case(draw: Draw) -> Case:
    """The directory of an adapter, and mostly the one of its base below it."""
    config = Pairs([("peft_type", "LORA"), ("base_model_name_or_path", "base"), ("target_modules", ["q_proj"])])
    for key in (
        "modules_to_save",
        "ensure_weight_tying",
        "layer_replication",
        "fine_tune_type",
        "trainable_token_indices",
    ):
        if draw.chance(0.3):
            config.append((key, draw.choice((True, ["lm_head", "embed_tokens"], draw.value()))))
    if draw.chance(0.3):
        at = draw.randrange(len(config))
        config[at] = (config[at][0], draw.choice((draw.value(), "../..", "/etc", "x://y", "a" * 300, "org/name")))
    modules = ("lm_head", "model.embed_tokens", "model.layers.0.self_attn.q_proj", draw.word())
    names = [f"base_model.model.{draw.choice(modules)}.{draw.choice(PARTS)}" for _ in range(draw.choice((1, 2, 5)))]
    names += [draw.word()] if draw.chance(0.1) else []
    header, size = sound_header(draw, tuple(dict.fromkeys(names)))
    files: dict[str, Any] = {"adapter_config.json": encoded(draw, written(config))}
    files["adapter_model.safetensors"] = (
        safetensors(written(header).encode("utf-8", "surrogatepass"), draw.randbytes(size))
        if draw.chance(0.9)
        else drawn_weights(draw)
    )
    if draw.chance(0.9):
        files["base/config.json"] = CONFIG
        sound, bytes_ = sound_header(Draw(1), PAIR[: draw.choice((1, 1, 2))])
        files["base/model.safetensors"] = safetensors(written(sound).encode(), bytes(bytes_))
    return Case("adapter", files)


METHODS = ("gptq", "awq", "compressed-tensors", "bitsandbytes", "fp8", "torchao", "mxfp4")
ENDS = (
    "weight", "qweight", "qzeros", "scales", "g_idx", "weight_packed", "weight_scale", "weight_shape", "biases", "SCB",
    "weight_scale_inv", "weight.absmax", "weight.quant_state.bitsandbytes__nf4", "_weight_qdata", "_weight_scale",
    "bias",
)  # fmt: skip
"""Ends of the names that quantisers give to the parts of a matrix."""


def quantised_case(draw: Draw) -> Case:
    """A checkpoint whose embedding and head are stored in parts, those of one format or mixed."""
    config = Pairs(json.loads(CONFIG).items())
    told = Pairs([("quant_method", draw.choice(METHODS) if draw.chance(0.9) else draw.value()), ("bits", 4)])
    for key in ("llm_int8_skip_modules", "modules_to_not_convert", "ignore", "lm_head", "config_groups"):
        if draw.chance(0.3):
            told.append((key, draw.choice((["lm_head"], ["embed_tokens"], [draw.word()], True, draw.value()))))
    config.append((draw.choice(("quantization_config", "quantization")), told if draw.chance(0.95) else draw.value()))
    ends = [draw.choice(ENDS) for _ in range(draw.choice((1, 2, 3)))]
    both = [f"{name.removesuffix('weight')}{end}" for name in PAIR for end in ends if draw.chance(0.9)]
    header, size = sound_header(draw, tuple(dict.fromkeys(both)))
    for _, entry in header:
        if isinstance(entry, Pairs) and "shape" in dict(entry) and draw.chance(0.3):  # as many bytes in another type
            entry[0] = ("dtype", draw.choice(("I32", "U32"))) if dict(entry)["dtype"] == "F32" else entry[0]
    raw = safetensors(written(header).encode("utf-8", "surrogatepass"), draw.randbytes(size))
    weights = drawn_weights(draw, tuple(dict.fromkeys(both))) if draw.chance(0.1) else raw
    return Case("quantised", {"config.json": encoded(draw, written(config)), "model.safetensors": weights})


DRAFTS = ("LlamaForCausalLMEagle", "LlamaForCausalLMEagle3", "Eagle3Speculator", "EagleModel", "DeepseekV3ForCausalLM")
KEYS = (
    "draft_vocab_size", "vocab_size", "medusa_num_heads", "medusa_num_layers", "num_nextn_predict_layers",
    "num_hidden_layers", "speculators_model_type", "transformer_layer_config", "tie_word_embeddings",
)  # fmt: skip


def draft_case(draw: Draw) -> Case:
    """A draft, or a checkpoint with draft layers, and mostly its target below it."""
    config = Pairs(json.loads(CONFIG).items())
    config.append(("architectures", [draw.choice(DRAFTS)]))
    for key in KEYS:
        if draw.chance(0.4):
            number = draw.choice((0, 1, 2, 4, draw.number()))
            config.append((key, draw.choice((number, number, draw.value(), "eagle3", {"vocab_size": number}))))
    ends = ("lm_head.weight", "embed_tokens.weight", "d2t", "fc.weight", "0.0.linear.weight", "0.1.weight",
            "1.1.weight", "model.layers.1.shared_head.head.weight",
            "model.layers.1.embed_tokens.weight", *PAIR)  # fmt: skip
    names = tuple(dict.fromkeys(draw.choice(ends) for _ in range(draw.choice((1, 3, 6)))))
    header, size = sound_header(draw, names)
    raw = safetensors(written(header).encode(), draw.randbytes(size))
    files: dict[str, Any] = {"config.json": encoded(draw, written(config))}
    files["model.safetensors"] = drawn_weights(draw, names) if draw.chance(0.1) else raw
    sound, bytes_ = sound_header(Draw(1), PAIR)
    files["target/config.json"] = CONFIG
    files["target/model.safetensors"] = safetensors(written(sound).encode(), bytes(bytes_))
    target = draw.choice(("{}/target", "{}/target", "{}", "{}/nowhere", "x://y"))
    return Case("draft", files, ("--target", target, "{}"), {"drafts_for": target})


FORMATS |= {"gguf": gguf_case, "adapter": adapter_case, "quantised": quantised_case, "draft": draft_case}
