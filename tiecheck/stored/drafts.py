"""Draft models (EAGLE, Medusa, speculators) and draft layers (`num_nextn_predict_layers`): what they lack, and copies.

Read in vLLM 0.33 (`llama_eagle.py`, `llama_eagle3.py`, `llm_base_proposer.py`), SGLang 0.5.23 (`llama_eagle3.py`),
speculators 0.9 (`models/utils.py`) and medusa-llm 0.1. EAGLE 1 and 2 borrow embedding and head. An EAGLE-3 draft has a
head of its own, of `draft_vocab_size` rows, and with fewer than the target's the map `d2t` of its ids; SGLang takes the
head from the target only where the config has no `draft_vocab_size`. GLM and DeepSeek store embedding and head once
more in the draft layer, as `model.layers.N.embed_tokens` and `model.layers.N.shared_head.head`, equal to the model's
own; LongCat the embedding as `model.mtp.embed_tokens`. vLLM 0.32 (`_maybe_share_embeddings`, `_maybe_share_lm_head`)
puts the model's own in their place, but for the embedding in pipeline stages; SGLang 0.5.23 passes them over
(`glm4_moe.py`, `deepseek_weight_loader.py`); llama.cpp reads `nextn.embed_tokens` and `nextn.shared_head_head` where
its graph has the layer (ggml-org/llama.cpp#25980).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from tiecheck.files.compare.equality import compare_bytes
from tiecheck.records.artefacts import DraftModel, DraftProblem
from tiecheck.records.stored import Checkpoint, Comparison, StoredTensor

EMBEDDINGS = ("embed_tokens.weight", "model.embed_tokens.weight")
HEADS = ("lm_head.weight", "model.lm_head.weight")
LAYER = {"embed_tokens.weight": EMBEDDINGS, "shared_head.head.weight": HEADS}
"""Ends of the names in a draft layer -> the model's own names."""

OWN_HEAD = ("eagle3", "peagle")
"""Types of speculators whose drafts have a head of their own; the others' is the target's where it is whole."""


def find_draft_problems(draft: DraftModel, checkpoint: Checkpoint, *, values: bool) -> tuple[DraftProblem, ...]:
    """Return what is wrong with the embedding and head of a draft, or of the draft layers of a checkpoint."""
    data = draft.config.data
    embedding, head = _first(checkpoint, EMBEDDINGS), _first(checkpoint, HEADS)
    kind = _kind(draft)
    found = [*_eagle3(draft, checkpoint, embedding, head)] if kind == "eagle3" else []
    if kind == "medusa":
        found += _medusa(data, checkpoint)
    if not values or checkpoint.remote is not None:
        return tuple(found)
    for ours, theirs in _layer_copies(data, checkpoint):
        compared = compare_bytes(checkpoint, (ours, theirs)) if _same(ours, theirs) else None
        if isinstance(compared, Comparison) and not compared.alike:
            found.append(DraftProblem("layer", (ours.name, theirs.name), ours.file, "", compared))
    if draft.target is not None and embedding is not None:
        found += _against_target(draft.target, checkpoint, embedding, EMBEDDINGS)
    if draft.target is not None and head is not None and kind == "eagle":
        found += _against_target(draft.target, checkpoint, head, HEADS)
    return tuple(found)


def _kind(draft: DraftModel) -> str | None:
    """Return `eagle3`, `eagle` (1 and 2) or `medusa`, by the config; None for another model."""
    name, data = (draft.config.class_name or "").lower(), draft.config.data
    if "eagle3" in name or data.get("speculators_model_type") in OWN_HEAD:
        return "eagle3"
    if re.match(r"eagle(?!\d)|.*eagle$", name) or draft.config.model_type == "eagle":
        return "eagle"
    return "medusa" if "medusa_num_heads" in data else None


def _number(data: Mapping[str, Any], key: str) -> int | None:
    value = data.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _eagle3(
    draft: DraftModel, checkpoint: Checkpoint, embedding: StoredTensor | None, head: StoredTensor | None
) -> Iterator[DraftProblem]:
    """Yield what is wrong with the head of an EAGLE-3 draft, and with the map of its reduced vocabulary."""
    data = draft.config.data
    inner = data.get("transformer_layer_config")
    flat: Mapping[str, Any] = {**inner, **data} if isinstance(inner, dict) else data
    size, whole, tied = _number(flat, "draft_vocab_size"), _number(flat, "vocab_size"), flat.get("tie_word_embeddings")
    file = embedding.file if embedding is not None else draft.config.path
    if head is None and tied is not True and size is not None:
        yield DraftProblem("no head", (HEADS[0],), file, f"draft_vocab_size {size}")
    if tied is True and head is not None and embedding is not None and head.shape != embedding.shape:
        told = f"{list(head.shape)} and {list(embedding.shape)}"
        yield DraftProblem("shape", (head.name, embedding.name), head.file, told)
    if size is None or (head is not None and len(head.shape) != 2):
        return
    table = next((t for name in checkpoint.names() if name.endswith("d2t") and (t := checkpoint.tensor(name))), None)
    for tensor in (head, table):
        if tensor is not None and tensor.shape[:1] != (size,) and not _unmapped(tensor, head, whole):
            yield DraftProblem("rows", (tensor.name,), tensor.file, f"{list(tensor.shape)} and draft_vocab_size {size}")
    if head is not None and table is None and whole is not None and size < whole and not checkpoint.missing_files:
        yield DraftProblem("map", ("d2t",), file, f"draft_vocab_size {size}, vocab_size {whole}")


def _unmapped(tensor: StoredTensor, head: StoredTensor | None, whole: int | None) -> bool:
    """Tell whether a tensor is a map beside a whole vocabulary, which engines and speculators do not use."""
    return head is not None and tensor is not head and head.shape[0] == whole


def _medusa(data: Mapping[str, Any], checkpoint: Checkpoint) -> Iterator[DraftProblem]:
    """Yield the heads of a Medusa draft that are not stored, where others are: `N.L.weight` of medusa-llm."""
    count, layers = _number(data, "medusa_num_heads"), _number(data, "medusa_num_layers")
    ends = {n: f"{n}.{1 if layers is None else layers}.weight" for n in range(min(count or 0, 64))}
    stored = {end: name for name in checkpoint.names() for end in ends.values() if f".{name}".endswith(f".{end}")}
    lost = tuple(end for end in ends.values() if end not in stored)
    if stored and lost and not checkpoint.missing_files:
        tensor = checkpoint.tensor(next(iter(stored.values())))
        yield DraftProblem("medusa", lost, tensor.file if tensor else "", f"medusa_num_heads {count}")


def _first(checkpoint: Checkpoint, names: tuple[str, ...]) -> StoredTensor | None:
    return next((t for name in names if (t := checkpoint.tensor(name)) is not None), None)


def _same(ours: StoredTensor, theirs: StoredTensor) -> bool:
    return (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)


def _layer_copies(data: Mapping[str, Any], checkpoint: Checkpoint) -> Iterator[tuple[StoredTensor, StoredTensor]]:
    """Yield each copy that a draft layer holds, with the model's own tensor; a tied head is the embedding."""
    first, count = data.get("num_hidden_layers"), data.get("num_nextn_predict_layers")
    mtp, own = checkpoint.tensor("model.mtp.embed_tokens.weight"), _first(checkpoint, EMBEDDINGS)
    if mtp is not None and own is not None:
        yield mtp, own
    if not isinstance(first, int) or not isinstance(count, int):
        return
    for number in range(first, first + min(count, 16)):
        for end, names in LAYER.items():
            ours = checkpoint.tensor(f"model.layers.{number}.{end}")
            theirs = _first(checkpoint, names)
            if theirs is None and data.get("tie_word_embeddings") is True:
                theirs = _first(checkpoint, EMBEDDINGS)
            if ours is not None and theirs is not None:
                yield ours, theirs


def _against_target(
    target: Checkpoint, checkpoint: Checkpoint, ours: StoredTensor, names: tuple[str, ...]
) -> Iterator[DraftProblem]:
    """Yield the embedding or head of a draft where it differs from its target's; a tied head is the embedding."""
    theirs = _first(target, names) or _first(target, EMBEDDINGS)
    if theirs is None or not _same(ours, theirs):
        return
    pair = (_from_root(checkpoint, ours), _from_root(target, theirs))
    compared = compare_bytes(checkpoint._replace(root=os.sep), pair)
    if isinstance(compared, Comparison) and not compared.alike:
        yield DraftProblem("target", (ours.name,), ours.file, theirs.name, compared)


def _from_root(checkpoint: Checkpoint, tensor: StoredTensor) -> StoredTensor:
    """Return a tensor whose file is named from the root of the file system, so that two directories can be compared."""
    return tensor._replace(file=os.path.abspath(os.path.join(checkpoint.root, tensor.file)).lstrip(os.sep))
