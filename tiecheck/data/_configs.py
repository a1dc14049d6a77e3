"""Config dicts as a `config.json` holds them: silent about tying, or with one flag written at one level."""

from __future__ import annotations

import copy
import json
import re
from typing import Any

FLAG = "tie_word_embeddings"
"""The one flag that `PreTrainedModel.get_expanded_tied_weights_keys` (transformers 5.23) reads."""

ALIASES = frozenset({FLAG, "tie_embedding", "tie_codebooks_embeddings", "tie_encoder_decoder"})
"""Keys that some config class of transformers 5.23 turns into the flag (lfm2, csm); a silent config has none."""

LAYERS = re.compile(r"^(n|num)_(hidden_)?layers?$|^(num_)?(encoder|decoder)_layers$|^num_hidden_groups$|^depth$")
"""Attributes that count layers; which of them a config has is looked up, never assumed."""

OPEN: dict[str, Any] = {
    "vocab_size": 128,
    "prediction_length": 8,
    "n_routed_experts": 4,
    "num_local_experts": 4,
    "num_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "top_k_experts": 2,
    "moe_intermediate_size": 64,
    "deepstack_layer_map": [],
    "vocabulary_map": {"<image>": 3, "<|extra_200|>": 4},
}
"""Values for attributes that are None in a default config that cannot be built; none of them speaks of tying."""

SIZES = ("hidden_size", "num_attention_heads", "num_hidden_layers")

BROKEN: dict[str, dict[str, Any]] = {
    "AyaVisionConfig": {"vision_config": {"model_type": "siglip_vision_model", "num_attention_heads": 16}},
    "BridgeTowerConfig": {"contrastive_hidden_size": 64},
    "CohereCompassTextConfig": {
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": 1e4} for kind in ("full_attention", "sliding_attention")
        }
    },
    "MoonshineStreamingConfig": {"num_key_value_heads": 8},
    "Qwen3OmniMoeTalkerConfig": {"spatial_merge_size": 2},
    "Qwen3OmniMoeTalkerTextConfig": {"shared_expert_intermediate_size": 64},
    "Granite4VisionConfig": {"downsample_rate": "1/2"},
    "ReformerConfig": {"is_decoder": True},
    "TimmWrapperConfig": {"model_args": {"embed_dim": 64}},
}
"""Attributes without which the defaults of transformers 5.23 contradict themselves; none of them speaks of tying."""

Level = tuple[str, ...]
Flags = dict[Level, bool]


def levels(config: Any) -> list[Level]:
    """The nested config levels of a config object, outermost first."""
    found: list[Level] = []
    for key, value in sorted(vars(config).items()):
        if hasattr(value, "to_json_string") and hasattr(value, "model_type") and key != "_parent":
            found.append((key,))
            found += [(key, *rest) for rest in levels(value)]
    return sorted(found, key=lambda level: (len(level), level))


def silent_dict(config: Any) -> dict[str, Any]:
    """What `save_pretrained` writes for a config (`to_json_string`, 5.23), less every statement about tying."""
    data: dict[str, Any] = type(config)._decode_special_floats(json.loads(config.to_json_string()))
    _strip(data)
    return data


def _strip(data: dict[str, Any]) -> None:
    for key in ALIASES & data.keys():
        del data[key]
    for value in data.values():
        if isinstance(value, dict):
            _strip(value)


def at(data: dict[str, Any], level: Level) -> dict[str, Any]:
    """The dict of one level, made where it is not there."""
    for key in level:
        inner = data.get(key)
        if not isinstance(inner, dict):
            inner = data[key] = {}
        data = inner
    return data


def owners(config: Any) -> list[tuple[Level, Any]]:
    """Every level of a config object with the object that stands there."""
    found: list[tuple[Level, Any]] = [((), config)]
    for level in levels(config):
        owner = config
        for key in level:
            owner = getattr(owner, key)
        found.append((level, owner))
    return found


def shrink(data: dict[str, Any], config: Any, layers: int) -> dict[str, Any]:
    """The same dict with fewer layers at every level, where the config counts them in the usual words.

    A list with one entry a layer (`layer_types`) is cut to fit, and so is `per_layer_config` (gemma4).
    """
    small = copy.deepcopy(data)
    for level, owner in owners(config):
        items = owner.to_dict().items()
        counts = {name: v for name, v in items if LAYERS.search(name) and type(v) is int and v > layers}
        if counts:
            at(small, level).update(dict.fromkeys(counts, layers))
        for name, value in list(at(small, level).items()) if counts else ():
            if isinstance(value, list) and len(value) in counts.values():
                at(small, level)[name] = value[:layers]
            elif name == "per_layer_config" and isinstance(value, dict):
                at(small, level)[name] = {layer: v for layer, v in value.items() if int(layer) < layers}
    return small


def filled(data: dict[str, Any], config: Any) -> dict[str, Any]:
    """The same dict with the values that a default config leaves open, for a class whose default cannot be built."""
    whole = copy.deepcopy(data)
    for level, owner in owners(config):
        has = owner.to_dict()
        width, heads, layers = (_integer(has.get(word)) for word in SIZES)
        sizes = {
            **OPEN,
            "num_key_value_heads": heads,
            "head_dim": width // heads if width and heads else None,
            "layer_types": ["full_attention"] * layers if layers else None,
            "mlp_layer_types": ["sparse"] * layers if layers else None,
        }
        news = {name: size for name, size in sizes.items() if size is not None and name in has and has[name] is None}
        news |= BROKEN.get(type(owner).__name__, {})
        if news:
            at(whole, level).update(news)
    return whole


def _integer(value: Any) -> int | None:
    return value if type(value) is int and value > 0 else None


def flagged(data: dict[str, Any], flags: Flags) -> dict[str, Any]:
    """The same dict with the tie flag written at some levels."""
    loud = copy.deepcopy(data)
    for level, value in flags.items():
        at(loud, level)[FLAG] = value
    return loud
