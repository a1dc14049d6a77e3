"""The facts of what people bring beside whole models of transformers, and its opening: adapters, GGUF, ONNX, drafts."""

from __future__ import annotations

import contextlib
import os
import re
from typing import TYPE_CHECKING, Any, Literal

from tiecheck.config.options import Config
from tiecheck.errors import TargetError, TiecheckError
from tiecheck.facts.registry import Facts, fact
from tiecheck.records.artefacts import (
    Adapter,
    AdapterBase,
    AdapterTies,
    Conversion,
    DraftModel,
    Gguf,
    GgufSource,
    GgufTie,
)
from tiecheck.records.declared import ModelConfig
from tiecheck.records.words import Unknown
from tiecheck.targets.parse import HUB_ID, Target, parse_target

if TYPE_CHECKING:
    from tiecheck.records.artefacts import DraftModel, DraftProblem, OnnxCopies, OnnxGraph
    from tiecheck.records.stored import Checkpoint

    Values = Literal["auto", "never", "always"]
    from collections.abc import Callable

    from tiecheck.facts.registry import FactName
    from tiecheck.records.artefacts import GgufSource


@fact
def adapted_ties(adapter: Adapter, adapter_base: AdapterBase, values: Values) -> AdapterTies | Unknown:
    """Return what an adapter does to each tie of its base."""
    from tiecheck.stored.adapter_ties import adapter_ties

    read = values == "always" if adapter.checkpoint.remote is not None else values != "never"
    return adapter_ties(adapter, adapter_base, values=read)


@fact
def draft_problems(draft: DraftModel, checkpoint: Checkpoint, values: Values) -> tuple[DraftProblem, ...]:
    """Return what a draft lacks, and the copies that are not what they were borrowed from."""
    from tiecheck.stored.drafts import find_draft_problems

    return find_draft_problems(draft, checkpoint, values=values != "never")


@fact
def gguf_tie(gguf: Gguf, values: Values) -> GgufTie | Unknown | None:
    """Return embedding and head of a GGUF file; None for an architecture without a head."""
    from tiecheck.peers.loaders.llama_cpp import head_use
    from tiecheck.stored.gguf_ties import read_gguf_tie

    return read_gguf_tie(gguf, head_use(gguf.architecture), values=values != "never")


@fact
def conversion(gguf: Gguf, gguf_tie: GgufTie | None, gguf_source: GgufSource, values: Values) -> Conversion | Unknown:
    """Return embedding and head of a GGUF file beside those of what it was converted from."""
    if values == "never":
        return Unknown("the bytes were not to be read (--values never)")
    from tiecheck.stored.gguf_ties import compare_conversion

    return compare_conversion(gguf, gguf_tie, gguf_source)


@fact
def onnx_copies(onnx: OnnxGraph, values: Values) -> OnnxCopies | Unknown:
    """Return the embedding tables that stand in an ONNX file once more, as they are or transposed."""
    if values == "never":
        return Unknown("the bytes were not to be read (--values never)")
    from tiecheck.stored.onnx_ties import find_onnx_copies

    return find_onnx_copies(onnx)


def artefact_facts(target: Target, config: Config, opened: Callable[[Target, Config], Facts]) -> Facts:
    """Return the facts of an adapter with its base (`config.base`, by `opened`), or of a GGUF or ONNX file.

    What cannot be read, the base that the user named included, raises a `TiecheckError`.
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

    return adapter_facts(read_adapter(target.path), target.path, config, opened)


def adapter_facts(
    adapter: Adapter, place: str, config: Config, opened: Callable[[Target, Config], Facts], *, online: bool = False
) -> Facts:
    """Return the facts of an adapter that was read at a place, with its base, which may be fetched where `online`."""
    base = _base(adapter, place, config, opened, online=online)
    return Facts({"adapter": adapter, "adapter_base": base, "values": config.values})


def draft_of(model: ModelConfig, config: Config) -> DraftModel:
    """Return a draft by its config, with the target that the user named; a `TargetError` where that has no weights."""
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
    adapter: Adapter, directory: str, config: Config, opened: Callable[[Target, Config], Facts], *, online: bool
) -> AdapterBase | Unknown:
    if config.base is not None:
        return _read(config.base, config, opened, online=online)
    hint = "name its directory with --base"
    if adapter.base is None:
        return Unknown(f"the adapter names no base; {hint}")
    place = None if "://" in directory else _beside(adapter.base, directory)
    if place is None and not re.fullmatch(HUB_ID, adapter.base, re.ASCII):  # no path of the adapter's choice is opened
        return Unknown(f"its base {adapter.base} does not lie in the adapter's own directory; {hint}")
    try:
        hub = online and directory.startswith("hf://")  # the base of a hub's adapter may come from the hub
        return _read(place or f"hf://{adapter.base}", config, opened, online=hub)
    except (TiecheckError, ImportError) as error:
        return Unknown(f"its base {adapter.base} is not here ({error}); {hint}")


def _beside(base: str, directory: str) -> str | None:
    """Return the model directory that an adapter calls its base, where it lies in the adapter's own."""
    from tiecheck.files.local import path_inside

    with contextlib.suppress(TargetError):
        place = path_inside(directory, base)
        return place if os.path.isfile(os.path.join(place, "config.json")) else None
    return None


def _read(
    place: str, config: Config, opened: Callable[[Target, Config], Facts], *, online: bool
) -> AdapterBase | Unknown:
    """Return the base at a place: a directory, or a hub model; of that only what the cache holds, unless `online`."""
    target = parse_target(place)
    if target.type != "checkpoint":
        raise TargetError(f"{place} is no model that can be a base", place)
    facts = opened(target, Config(offline=not online, values=config.values, timeout=config.timeout))
    model, groups = facts.get("model_config"), facts.get("groups")
    if isinstance(groups, Unknown) or isinstance(model, Unknown):
        return Unknown(f"of its base {place} nothing can be told: {_reason(groups, model)}")
    known, stored = facts.get("architecture"), facts.known("checkpoint")
    return AdapterBase(place, model.class_name, model.model_type, groups, known.head, known.known, stored)


def _gguf_source(place: str, config: Config, opened: Callable[[Target, Config], Facts]) -> GgufSource | Unknown:
    """Return the checkpoint at a place, with its embedding and what its head holds; Unknown for one that is not sound.

    Raises:
        TiecheckError: There is no checkpoint, or it cannot be read.
    """
    from tiecheck.records.artefacts import GgufSource

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
