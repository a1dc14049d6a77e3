"""Embedding and head of a class the tie table lacks, by names, shapes and config. Never more than medium confidence."""

from __future__ import annotations

import re

from tiecheck.records.declared import ModelConfig
from tiecheck.records.stored import Checkpoint, Group
from tiecheck.records.words import Unknown
from tiecheck.stored.members import UNREAD

EMBEDDING = frozenset(
    (
        *("embed_tokens", "wte", "embed_in", "shared", "embed", "embedding", "embeddings", "tok_emb", "token_emb"),
        *("word_embedding", "word_embeddings", "tok_embedding", "tok_embeddings"),
        *("token_embedding", "token_embeddings"),
    )
)
"""Last components that name a token embedding in the public code that was read (Llama, GPT-2, OLMo,
Bloom, T5, nanoGPT)."""

HEAD = frozenset(
    (*("lm_head", "embed_out", "head", "output", "ff_out", "output_projection", "proj_out", "out_head"), "decoder")
)
"""Last components that name a language-model head."""

LAYER = re.compile(r"\.\d+\.")
"""A layer's number: `blocks.3.ff_out` is an MLP's output, only `ff_out` outside the blocks is a head."""


def guess_groups(config: ModelConfig | None, checkpoint: Checkpoint) -> tuple[Group, ...] | Unknown:
    """Return the one group of embedding and head that names, shapes and `vocab_size` tell for sure; or why none."""
    rows = config.integer("vocab_size", "embedding_size", "padded_vocab_size") if config else None
    embeddings = named_alike(checkpoint, EMBEDDING, rows)
    taken = set(embeddings)
    heads = [n for n in named_alike(checkpoint, HEAD, rows) if n not in taken]
    if len(embeddings) > 1 or len(heads) > 1:
        names = ", ".join(sorted((*embeddings, *heads))[:4])
        return Unknown(f"more than one embedding or head is possible by name and shape ({names})")
    if not embeddings and not heads:
        return Unknown("no embedding and no head can be told by name and shape")
    flags = [f for f in config.flags if isinstance(f.value, bool)] if config else []
    says = {bool(f.value) for f in flags}
    declared = says.pop() if len(says) == 1 else None
    if not (embeddings and heads) and declared is not True:
        which = (embeddings or heads)[0]
        if declared is False and not heads:
            return Unknown(
                f"by name only {which} can be a member, {flags[0].dotted} is false and no head is stored: where the "
                "class has one, it comes out random; what the class has cannot be told without its code"
            )
        return Unknown(f"by name only {which} can be a member: what the class ties cannot be told without its code")
    found = tuple(sorted((*embeddings, *heads)))
    return (
        UNREAD._replace(
            names=found,
            source=embeddings[0] if embeddings else None,
            declared=declared,
            declared_by=tuple(f"{config.path}:{f.dotted}" for f in flags) if config and declared is not None else (),
            flag=flags[0] if flags and declared is not None else None,
            stored_names=found,
            reason="the config's flags disagree with one another" if len({f.value for f in flags}) > 1 else None,
            inferred=True,
        ),
    )


def named_alike(checkpoint: Checkpoint, words: frozenset[str], rows: int | None) -> list[str]:
    """Stored names that fit some words outside any layer, and hold a row for each token where that can be checked."""
    found = []
    for name in checkpoint.names():
        owner, _, last = name.rpartition(".")
        if last != "weight" or owner.rpartition(".")[2] not in words or LAYER.search(f".{name}"):
            continue
        tensor = checkpoint.tensor(name)
        if tensor is not None and (len(tensor.shape) != 2 or (rows is not None and tensor.shape[0] < rows)):
            continue
        found.append(name)
    return found
