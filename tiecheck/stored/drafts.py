"""Draft models (EAGLE-3, speculators) and draft layers (`num_nextn_predict_layers`): what they lack, and stale copies.

SGLang 0.5.23 (`llama_eagle3.py`) takes the head of an EAGLE-3 draft from the target only where the config has no
`draft_vocab_size`; otherwise the draft has to store it. GLM and DeepSeek store embedding and head once more in the
draft layer, as `model.layers.N.embed_tokens` and `model.layers.N.shared_head.head`, equal to the model's own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from tiecheck.files.compare.equality import compare_bytes
from tiecheck.records.artefacts import DraftModel, DraftProblem
from tiecheck.records.stored import Checkpoint, Comparison, StoredTensor

EMBEDDINGS = ("embed_tokens.weight", "model.embed_tokens.weight")
HEADS = ("lm_head.weight", "model.lm_head.weight")
LAYER = {"embed_tokens.weight": EMBEDDINGS, "shared_head.head.weight": HEADS}
"""Ends of the names in a draft layer -> the model's own names."""


def find_draft_problems(draft: DraftModel, checkpoint: Checkpoint, *, values: bool) -> tuple[DraftProblem, ...]:
    """Return what is wrong with the embedding and head of a draft, or of the draft layers of a checkpoint."""
    data = draft.config.data
    embedding, head = _first(checkpoint, EMBEDDINGS), _first(checkpoint, HEADS)
    found = []
    if _is_draft(draft):
        inner = data.get("transformer_layer_config")
        flat: Mapping[str, Any] = {**inner, **data} if isinstance(inner, dict) else data
        size, tied = flat.get("draft_vocab_size"), flat.get("tie_word_embeddings")
        if head is None and tied is not True and isinstance(size, int) and not isinstance(size, bool):
            file = embedding.file if embedding is not None else draft.config.path
            found.append(DraftProblem("no head", (HEADS[0],), file, f"draft_vocab_size {size}"))
        if tied is True and head is not None and embedding is not None and head.shape != embedding.shape:
            told = f"{list(head.shape)} and {list(embedding.shape)}"
            found.append(DraftProblem("shape", (head.name, embedding.name), head.file, told))
    if not values or checkpoint.remote is not None:
        return tuple(found)
    for ours, theirs in _layer_copies(data, checkpoint):
        compared = compare_bytes(checkpoint, (ours, theirs)) if _same(ours, theirs) else None
        if isinstance(compared, Comparison) and not compared.alike:
            found.append(DraftProblem("layer", (ours.name, theirs.name), ours.file, "", compared))
    if draft.target is not None and embedding is not None:
        found += _against_target(draft.target, checkpoint, embedding)
    return tuple(found)


def _is_draft(draft: DraftModel) -> bool:
    """Tell whether a config is an EAGLE-3 draft's, in its own layout or in that of speculators."""
    name = draft.config.class_name or ""
    return "eagle3" in name.lower() or draft.config.data.get("speculators_model_type") == "eagle3"


def _first(checkpoint: Checkpoint, names: tuple[str, ...]) -> StoredTensor | None:
    return next((t for name in names if (t := checkpoint.tensor(name)) is not None), None)


def _same(ours: StoredTensor, theirs: StoredTensor) -> bool:
    return (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)


def _layer_copies(data: Mapping[str, Any], checkpoint: Checkpoint) -> Iterator[tuple[StoredTensor, StoredTensor]]:
    """Yield each copy that a draft layer holds, with the model's own tensor; a tied head is the embedding."""
    first, count = data.get("num_hidden_layers"), data.get("num_nextn_predict_layers")
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


def _against_target(target: Checkpoint, checkpoint: Checkpoint, embedding: StoredTensor) -> Iterator[DraftProblem]:
    """Yield the embedding of a draft where it differs from its target's."""
    theirs = _first(target, EMBEDDINGS)
    if theirs is None or not _same(embedding, theirs):
        return
    pair = (_from_root(checkpoint, embedding), _from_root(target, theirs))
    compared = compare_bytes(checkpoint._replace(root=os.sep), pair)
    if isinstance(compared, Comparison) and not compared.alike:
        yield DraftProblem("target", (embedding.name,), embedding.file, theirs.name, compared)


def _from_root(checkpoint: Checkpoint, tensor: StoredTensor) -> StoredTensor:
    """Return a tensor whose file is named from the root of the file system, so that two directories can be compared."""
    return tensor._replace(file=os.path.abspath(os.path.join(checkpoint.root, tensor.file)).lstrip(os.sep))
