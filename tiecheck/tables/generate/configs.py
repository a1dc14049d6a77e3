"""Config dicts as a `config.json` holds them: silent about tying, or with one flag written at one level."""

from __future__ import annotations

import copy
import inspect
import json
import re
from typing import Any

from tiecheck.tables.generate.build import is_older_line

FLAG = "tie_word_embeddings"
"""The one flag that `PreTrainedModel.get_expanded_tied_weights_keys` (transformers 5.23) reads."""

TIE_KEY = re.compile(r"\btie_[a-z_]+\b")
"""Pattern of a key that speaks of tying; a silent config has none, and each that a config class has is tried."""

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

MROPE = {"rope_scaling": {"rope_type": "default", "mrope_section": [24, 20, 20]}}
LLAMA_INSIDE = {"text_config": {"model_type": "llama", "pad_token_id": 1}}
NO_TIMM = {"use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None, "backbone_kwargs": None}

BROKEN_OLDER: dict[str, dict[str, Any]] = {
    "ConditionalDetrConfig": NO_TIMM,
    "DabDetrConfig": NO_TIMM,
    "DeformableDetrConfig": NO_TIMM,
    "DetrConfig": NO_TIMM,
    "GraniteMoeHybridConfig": {"layer_types": ["mamba", "attention"] * 16},
    "Idefics3Config": LLAMA_INSIDE,
    "MllamaTextConfig": {"rope_scaling": {"rope_type": "default"}},
    "Qwen3OmniMoeTalkerTextConfig": MROPE,
    "Qwen3OmniMoeTextConfig": MROPE,
    "Qwen3VLMoeTextConfig": MROPE,
    "Qwen3VLTextConfig": MROPE,
    "SmolVLMConfig": LLAMA_INSIDE,
    "TableTransformerConfig": NO_TIMM,
}
"""The same for 4.57.6."""

PARTS: dict[str, dict[str, str]] = {
    "encoder-decoder": {"encoder": "bert", "decoder": "bert"},
    "musicgen": {"text_encoder": "t5", "audio_encoder": "encodec", "decoder": "musicgen_decoder"},
    "musicgen_melody": {"text_encoder": "t5", "audio_encoder": "encodec", "decoder": "musicgen_melody_decoder"},
    "rag": {"question_encoder": "dpr", "generator": "bart"},
    "speech-encoder-decoder": {"encoder": "wav2vec2", "decoder": "bert"},
    "vision-encoder-decoder": {"encoder": "vit", "decoder": "bert"},
    "vision-text-dual-encoder": {"vision_config": "vit", "text_config": "bert"},
}
"""Composite configs that have no default in 4.57, and the parts that their default has in 5.23."""

Level = tuple[str, ...]
Flags = dict[Level, bool]


def config_levels(config: Any) -> list[Level]:
    """The nested config levels of a config object, outermost first."""
    found: list[Level] = []
    for key, value in sorted(vars(config).items()):
        if hasattr(value, "to_json_string") and hasattr(value, "model_type") and key != "_parent":
            found.append((key,))
            found += [(key, *rest) for rest in config_levels(value)]
    return sorted(found, key=lambda level: (len(level), level))


def needed_parts(config_class: Any) -> dict[str, str]:
    """Return the sections without which a config class of 4.57 cannot be made, with their model types."""
    return PARTS.get(config_class.model_type, {}) if is_older_line() else {}


def default_config(config_class: Any) -> Any:
    """A config with nothing given; raises what the class raises that cannot be made so."""
    parts = needed_parts(config_class)
    return (
        config_class.from_dict({key: {"model_type": kind} for key, kind in parts.items()}) if parts else config_class()
    )


def silent_dict(config: Any) -> dict[str, Any]:
    """Return what `save_pretrained` writes for a config (`to_json_string`, 5.23), less every statement about tying."""
    try:
        data: dict[str, Any] = json.loads(config.to_json_string())
    except AttributeError:  # 4.57 cannot write the difference to a default whose inner configs are None
        data = json.loads(config.to_json_string(use_diff=False))
    if hasattr(type(config), "_decode_special_floats"):  # 5 writes infinities as words
        data = type(config)._decode_special_floats(data)
    _strip(data)
    return data


def _strip(data: dict[str, Any]) -> None:
    for key in [key for key in data if TIE_KEY.fullmatch(key)]:
        del data[key]
    for value in data.values():
        if isinstance(value, dict):
            _strip(value)


def dict_at_level(data: dict[str, Any], level: Level) -> dict[str, Any]:
    """The dict of one level, made where it is not there."""
    for key in level:
        inner = data.get(key)
        if not isinstance(inner, dict):
            inner = data[key] = {}
        data = inner
    return data


def config_objects(config: Any) -> list[tuple[Level, Any]]:
    """Every level of a config object with the object that stands there."""
    found: list[tuple[Level, Any]] = [((), config)]
    for level in config_levels(config):
        owner = config
        for key in level:
            owner = getattr(owner, key)
        found.append((level, owner))
    return found


def shrink_layers(data: dict[str, Any], config: Any, layers: int) -> dict[str, Any]:
    """The same dict with fewer layers at every level, where the config counts them in the usual words.

    A list with one entry a layer (`layer_types`) is cut to fit, and so is `per_layer_config` (gemma4).
    """
    small = copy.deepcopy(data)
    for level, owner in config_objects(config):
        items = owner.to_dict().items()
        counts = {name: v for name, v in items if LAYERS.search(name) and type(v) is int and v > layers}
        if counts:
            dict_at_level(small, level).update(dict.fromkeys(counts, layers))
        for name, value in list(dict_at_level(small, level).items()) if counts else ():
            if isinstance(value, list) and len(value) in counts.values():
                dict_at_level(small, level)[name] = value[:layers]
            elif name == "per_layer_config" and isinstance(value, dict):
                dict_at_level(small, level)[name] = {layer: v for layer, v in value.items() if int(layer) < layers}
    return small


def filled_from_default(data: dict[str, Any], config: Any) -> dict[str, Any]:
    """The same dict with the values that a default config leaves open, for a class whose default cannot be built."""
    whole = copy.deepcopy(data)
    for level, owner in config_objects(config):
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
        news |= BROKEN_OLDER.get(type(owner).__name__, {}) if is_older_line() else {}
        if news:
            dict_at_level(whole, level).update(news)
    return whole


def _integer(value: Any) -> int | None:
    return value if type(value) is int and value > 0 else None


def with_flags(data: dict[str, Any], flags: Flags, key: str = FLAG) -> dict[str, Any]:
    """The same dict with the tie flag, or another key for it, written at some levels."""
    loud = copy.deepcopy(data)
    for level, value in flags.items():
        dict_at_level(loud, level)[key] = value
    return loud


def other_keys(config: Any) -> list[tuple[str, Level]]:
    """Keys other than the flag that the config classes' source speaks of, each with the level they would stand at."""
    found = []
    for level, owner in config_objects(config):
        source = inspect.getsource(inspect.getmodule(type(owner)) or type(owner))
        found += [(key, level) for key in sorted({*TIE_KEY.findall(source)} - {FLAG})]
    return found
