"""Opening what people bring: a GGUF or ONNX file; an adapter, with the base that the user or its config names."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

from tiecheck.config.options import Config
from tiecheck.errors import TargetError, TiecheckError
from tiecheck.facts import artefacts as _registered  # noqa: F401
from tiecheck.facts.registry import Facts
from tiecheck.records.adapters import Adapter, AdapterBase
from tiecheck.records.declared import ModelConfig
from tiecheck.records.drafts import DraftModel
from tiecheck.records.words import Unknown
from tiecheck.targets.parse import HUB_ID, Target, parse_target

if TYPE_CHECKING:
    from collections.abc import Callable

    from tiecheck.facts.registry import FactName
    from tiecheck.records.gguf import GgufSource


def artefact_facts(target: Target, config: Config, opened: Callable[[Target, Config], Facts]) -> Facts:
    """Return the facts of an adapter, or of a GGUF or ONNX file.

    Args:
        target: Its directory, or the file.
        config: The options; `base` names the base.
        opened: What opens the base.

    Raises:
        TiecheckError: It cannot be read, or the base that the user named.
    """
    if target.type == "gguf":
        from tiecheck.files.gguf import read_gguf

        given: dict[FactName, Any] = {"gguf": read_gguf(target.path), "values": config.values}
        if config.converted_from is not None:
            given["gguf_source"] = _gguf_source(config.converted_from, config, opened)
        return Facts(given, withheld=("scale",))
    if target.type == "onnx":
        from tiecheck.files.onnx import read_onnx

        return Facts({"onnx": read_onnx(target.path), "values": config.values}, withheld=("scale",))
    from tiecheck.files.adapter import read_adapter

    adapter = read_adapter(target.path)
    return Facts(
        {"adapter": adapter, "adapter_base": _base(adapter, target.path, config, opened), "values": config.values}
    )


def draft_of(model: ModelConfig, config: Config) -> DraftModel:
    """Return a draft by its config, with the target that the user named.

    Raises:
        TargetError: The target cannot be read, or holds no weights.
    """
    target = None
    if config.drafts_for is not None:
        from tiecheck.files.checkpoint import read_checkpoint

        target = read_checkpoint(config.drafts_for)
        if target is None:
            raise TargetError(
                f"{config.drafts_for} holds no weights that a draft could be compared with", config.drafts_for
            )
    return DraftModel(model, target)


def _base(
    adapter: Adapter, directory: str, config: Config, opened: Callable[[Target, Config], Facts]
) -> AdapterBase | Unknown:
    if config.base is not None:
        return _read(config.base, config, opened)
    hint = "name its directory with --base"
    if adapter.base is None:
        return Unknown(f"the adapter names no base; {hint}")
    beside = (adapter.base, os.path.join(directory, adapter.base))
    place = next((path for path in beside if os.path.isfile(os.path.join(path, "config.json"))), None)
    if place is None and not re.fullmatch(
        HUB_ID, adapter.base, re.ASCII
    ):  # no address of the adapter's choice is opened
        return Unknown(f"its base {adapter.base} is not here; {hint}")
    try:
        return _read(place or adapter.base, config, opened)
    except (TiecheckError, ImportError) as error:
        return Unknown(f"its base {adapter.base} is not here ({error}); {hint}")


def _read(place: str, config: Config, opened: Callable[[Target, Config], Facts]) -> AdapterBase | Unknown:
    """Return the base at a place: a directory, or a hub model; of that only what the cache holds."""
    target = parse_target(place)
    if target.type != "checkpoint":
        raise TargetError(f"{place} is no model that can be a base", place)
    facts = opened(target, Config(offline=True, values=config.values, timeout=config.timeout))
    model, groups = facts.get("model_config"), facts.get("groups")
    if isinstance(groups, Unknown) or isinstance(model, Unknown):
        return Unknown(f"of its base {place} nothing can be told: {_reason(groups, model)}")
    known = facts.get("architecture")
    return AdapterBase(place, model.class_name, model.model_type, groups, known.head, known.known)


def _gguf_source(place: str, config: Config, opened: Callable[[Target, Config], Facts]) -> GgufSource | Unknown:
    """Return the checkpoint at a place, with its embedding and what its head holds; Unknown for one that is not sound.

    Raises:
        TiecheckError: There is no checkpoint, or it cannot be read.
    """
    from tiecheck.records.gguf import GgufSource

    target = parse_target(place)
    if target.directory is None:
        raise TargetError(f"{place} is no model directory that a GGUF file could be converted from", place)
    facts = opened(target, Config(offline=True, values=config.values, timeout=config.timeout))
    known, groups, checkpoint = facts.get("architecture"), facts.get("groups"), facts.get("checkpoint")
    if isinstance(checkpoint, Unknown):
        raise TargetError(f"{place} holds no weights that a GGUF file could be compared with", place)
    if isinstance(groups, Unknown) or isinstance(known, Unknown):
        return Unknown(f"of {place} nothing can be told: {_reason(groups, known)}")
    for group in groups:
        by_name = dict(zip(group.stored_names, group.tensors, strict=False))
        head = next((t for name, t in by_name.items() if known.head in (None, name) and name != group.source), None)
        if known.head not in (None, *group.names) or not by_name:
            continue
        sound = group.declared is not None and (group.stored in ("absent", "copy") or group.declared is False)
        embedding = next((t for name, t in by_name.items() if t is not head), head)
        if not sound or embedding is None or (not group.declared and len(by_name) < 2):
            return Unknown(f"the tie of {place} is not sound itself; judge it first")
        one = embedding if group.declared or head is None else head
        return GgufSource(place, checkpoint, embedding, one)
    return Unknown(f"of {place} no embedding and head are known")


def _reason(*facts: Any) -> str:
    return next(fact.reason for fact in facts if isinstance(fact, Unknown))
