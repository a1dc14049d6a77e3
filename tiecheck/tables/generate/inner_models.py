"""Composite classes: which inner text models leave a class's groups as they are.

A composite config may hold a text model of any type (LLaVA with Llama or with Gemma). The names, and what a silent
config means, then hang on that type, so common types are tried one by one.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
from typing import Any

from tiecheck.tables.generate.build import build_on_meta, groups_of, tied_in
from tiecheck.tables.generate.configs import Flags, shrink_layers, with_flags
from tiecheck.tables.generate.probe import Probe, ProbedGroup, probe_class

COMMON = (
    *("bert", "cohere", "cohere2", "gemma", "gemma2", "gemma3_text", "gpt2", "gpt_neox", "granite", "llama", "mistral"),
    *("mixtral", "olmo", "opt", "phi", "phi3", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "roberta", "smollm3", "t5"),
)
"""Text model types that composite checkpoints are made of."""

ASKED_WHOLE = ("llama", "t5")
"""Those of them that are asked for groups of their own too, where a class has other names with them than by default
(InstructBLIP with Vicuna, BLIP-2 with Flan-T5)."""

Inner = dict[str, dict[str, str]]
"""Key of the inner config -> model type -> bits (silent, flag true, flag false) of a group under it; empty bits where
the class is known to have no such group with that type."""


def inner_models(asked: Probe, groups: list[ProbedGroup]) -> dict[tuple[str, ...], Inner]:
    """For every group, the inner model types under which the class has it, and its bits there."""
    found: dict[tuple[str, ...], Inner] = {group.names: {} for group in groups}
    for key, own in _open_keys(asked.config).items():
        for group in groups:
            found[group.names][key] = {own: group.bits}
        for model_type in COMMON:
            if model_type != own:
                for names, bits in _bits(asked, groups, key, model_type).items():
                    found[names][key][model_type] = bits
    return found


def other_groups(asked: Probe, groups: list[ProbedGroup]) -> list[tuple[str, str, list[ProbedGroup], Probe]]:
    """Groups that a class has with another inner model alone: its key, its model type, the groups, what was built."""
    have = {group.names for group in groups}
    found = []
    for key, own in _open_keys(asked.config).items():
        for model_type in ASKED_WHOLE:
            if model_type != own:
                with contextlib.suppress(Exception):  # this class cannot hold that model
                    others, built = probe_class(
                        asked.model_class, asked.config_class, {key: {"model_type": model_type}}
                    )
                    found.append((key, model_type, [group for group in others if group.names not in have], built))
    return found


def _open_keys(config: Any) -> dict[str, str]:
    """The inner configs that may hold any text model (`sub_configs` says `AutoConfig`, 5.23), with their own type."""
    auto = importlib.import_module("transformers.models.auto.modeling_auto")
    texts = auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.keys() | auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES.keys()
    texts |= auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES.keys()
    held = {
        key: str(getattr(getattr(config, key, None), "model_type", ""))
        for key, kind in sorted((getattr(config, "sub_configs", None) or {}).items())
        if kind.__name__ == "AutoConfig"
    }
    return {key: own for key, own in held.items() if own in texts}


def _bits(asked: Probe, groups: list[ProbedGroup], key: str, model_type: str) -> dict[tuple[str, ...], str]:
    """The bits of the groups that are still there with another inner model."""
    auto = importlib.import_module("transformers.models.auto.configuration_auto")
    inner = shrink_layers({"model_type": model_type}, auto.CONFIG_MAPPING[model_type](), 2)
    data = copy.deepcopy(asked.small) | {key: inner}
    found: dict[tuple[str, ...], str] = {}
    for level in sorted({group.level for group in groups}):
        try:
            variants: tuple[Flags, ...] = ({}, {level: True}, {level: False})
            tables = [
                groups_of(build_on_meta(asked.model_class, asked.config_class, with_flags(data, f))) for f in variants
            ]
        except Exception:  # noqa: BLE001 - this class cannot hold that model
            return {}
        for group in groups:
            if group.level == level:
                if any(group.names in table for table in tables):
                    found[group.names] = "".join("01"[tied_in(group.names, table)] for table in tables)
                elif model_type in ASKED_WHOLE:
                    found[group.names] = ""
    return found
