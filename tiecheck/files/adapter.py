"""The directory of an adapter: its config and the headers of its weights. No tensor is read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from tiecheck.errors import TargetError
from tiecheck.files.checkpoint import read_checkpoint
from tiecheck.files.limits import CONFIG_BYTES
from tiecheck.files.local import parse_json, path_inside, read_bytes
from tiecheck.records.artefacts import Adapter
from tiecheck.records.stored import Checkpoint
from tiecheck.targets.parse import ADAPTER_CONFIG

WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin", "adapters.safetensors")
"""The weights of an adapter, those first that PEFT takes first (peft 0.21, `load_peft_weights`); the last of mlx-lm."""


def read_adapter_config(directory: str) -> Mapping[str, Any]:
    """Return the parsed `adapter_config.json` of a directory."""
    path = path_inside(directory, ADAPTER_CONFIG)
    data = parse_json(read_bytes(path, path, CONFIG_BYTES), path, path)
    if not isinstance(data, dict):
        raise TargetError(f"{path} is no adapter's config: it holds no JSON object", path)
    return data


def read_adapter(directory: str) -> Adapter:
    """Return the adapter in a directory: a PEFT one, or one of mlx-lm."""
    path = os.path.join(directory, ADAPTER_CONFIG)
    name = next((name for name in WEIGHTS if os.path.exists(os.path.join(directory, name))), None)
    checkpoint = read_checkpoint(path_inside(directory, name)) if name is not None else None
    return adapter_of(read_adapter_config(directory), checkpoint, path)


def adapter_of(data: Any, checkpoint: Checkpoint | None, path: str) -> Adapter:
    """Return the adapter of a parsed config, found at a path, and the headers of its weights."""
    if not isinstance(data, dict):
        raise TargetError(f"{path} is no adapter's config: it holds no JSON object", path)
    mlx = "fine_tune_type" in data or ("lora_parameters" in data and "peft_type" not in data)
    kind = "mlx" if mlx else data.get("peft_type")
    if not isinstance(kind, str):
        raise TargetError(f"{path} is neither PEFT's nor mlx-lm's: it lacks a `peft_type`", path)
    if checkpoint is None:
        folder = path.removesuffix(ADAPTER_CONFIG)
        raise TargetError(f"{folder} holds an adapter's config and no weights of it ({', '.join(WEIGHTS)})", path)
    base = data.get("model" if mlx else "base_model_name_or_path")
    return Adapter(
        kind=kind,
        base=base if isinstance(base, str) and base else None,
        checkpoint=checkpoint,
        saved=word_list(data.get("modules_to_save")),
        ensured=data.get("ensure_weight_tying") is True,
        replicated=bool(data.get("layer_replication")),
        same_tokens=_same_tokens(data.get("trainable_token_indices")),
    )


def _same_tokens(value: Any) -> bool:
    """Tell whether `trainable_token_indices` gives every module the same tokens."""
    return not isinstance(value, dict) or all(tokens == next(iter(value.values())) for tokens in value.values())


def word_list(value: Any) -> tuple[str, ...]:
    """Return the texts of a config's value that is one text or a list of them."""
    found = (value,) if isinstance(value, str) else value if isinstance(value, list) else ()
    return tuple(word for word in found if isinstance(word, str))
