"""Configs and headers of models that are too large to be made, as the files of their publishers have them."""

from __future__ import annotations

from typing import Any

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"

Headers = dict[str, dict[str, Any]]
"""File -> name -> entry."""


def llama_headers(layers: int, width: int, words: int, inner: int) -> Headers:
    """The header of a Llama in bfloat16, a file for every ten layers."""
    shapes = {EMBEDDING: [words, width], HEAD: [words, width], "model.norm.weight": [width]}
    files: Headers = {}
    for number in range(layers):
        own = f"model.layers.{number}."
        shapes |= {f"{own}self_attn.{n}_proj.weight": [width if n in "qo" else width // 8, width] for n in "qkvo"}
        shapes |= {f"{own}mlp.{n}_proj.weight": [inner, width] for n in ("gate", "up")}
        shapes |= {f"{own}mlp.down_proj.weight": [width, inner]}
        shapes |= {f"{own}{n}_layernorm.weight": [width] for n in ("input", "post_attention")}
        if number % 10 == 9 or number == layers - 1:
            files[f"model-{number:05d}.safetensors"], shapes = _entries(shapes), {}
    return files


LLAMA_70B = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 8192, "dtype": "bfloat16"}
LLAMA_70B |= {"intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64}
LLAMA_70B |= {"num_key_value_heads": 8, "vocab_size": 128256, "tie_word_embeddings": True}

DEEPSEEK_671B = {"architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "dtype": "bfloat16"}
DEEPSEEK_671B |= {"hidden_size": 7168, "num_hidden_layers": 61, "vocab_size": 129280, "tie_word_embeddings": False}


def deepseek_headers() -> Headers:
    """The header of a DeepSeek-V3 in bfloat16, a file a layer, with a matrix for each expert."""
    import torch
    from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

    with torch.device("meta"):
        model = DeepseekV3ForCausalLM(DeepseekV3Config(**DEEPSEEK_671B))
    files: dict[str, dict[str, list[int]]] = {}
    for name, tensor in model.state_dict().items():
        shapes = files.setdefault(f"model-{name.partition('layers.')[2].partition('.')[0] or 'ends'}.safetensors", {})
        path, _, last = name.rpartition(".")
        if last not in ("gate_up_proj", "down_proj") or tensor.dim() != 3:
            shapes[name] = list(tensor.shape)
            continue
        rows, columns = tensor.shape[1:]
        for number in range(tensor.shape[0]):
            for own in ("gate_proj", "up_proj") if last == "gate_up_proj" else ("down_proj",):
                shapes[f"{path}.{number}.{own}.weight"] = [rows // 2 if own != "down_proj" else rows, columns]
    return {file: _entries(shapes) for file, shapes in files.items()}


def _entries(shapes: dict[str, list[int]]) -> dict[str, Any]:
    end, entries = 0, {}
    for name, shape in shapes.items():
        start, end = end, end + 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        entries[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    return entries
