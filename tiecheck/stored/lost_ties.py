"""Ties that 4.57 makes and transformers 5 has lost: of embedding and head, in classes that have both."""

from __future__ import annotations

from tiecheck.records.declared import Architecture, ModelConfig, TieSpec
from tiecheck.records.stored import Checkpoint, Group
from tiecheck.stored.members import UNREAD, Values, stored_group


def lost_tie(older: Architecture, newest: Architecture) -> TieSpec | None:
    """Return the tie that 4.57 makes of embedding and head, where transformers 5 has both and never ties them."""
    from tiecheck.tables.architectures import newer_names

    pair = {newest.head, newest.embedding}
    if None in pair or len(pair) < 2 or any(pair <= set(tie.names) for tie in newest.ties):
        return None
    return next((tie for tie in older.ties if pair <= set(newer_names(tie))), None)


def lost_tie_group(
    config: ModelConfig | None, architecture: Architecture, checkpoint: Checkpoint, values: Values
) -> Group | None:
    """Return the group of embedding and head, where transformers 5 has no tie for it and 4.57 had one.

    `LukeForMaskedLM` and others lost their declaration on the way to 5 (transformers 5.23.0): a checkpoint that 4.57
    saved tied, head absent, loads with a random head whatever its config says. None where the class ties the head, has
    none, was never able to (Reformer's head is twice as wide as its embedding), or where neither is stored.
    """
    from tiecheck.stored.config_values import architecture_of
    from tiecheck.tables.architectures import load_older

    head, embedding = architecture.head, architecture.embedding
    if head is None or embedding is None or not (head in checkpoint or embedding in checkpoint):
        return None
    if any(head in tie.names for tie in architecture.ties):
        return None  # T5Gemma's head is tied to its decoder's embedding, and the encoder's is what words go in by
    there = [tensor.shape for tensor in map(checkpoint.tensor, (head, embedding)) if tensor is not None]
    if len(set(there)) > 1:
        return None
    others = {name for tie in architecture.ties if embedding in tie.names for name in tie.names}
    if embedding not in checkpoint and any(name in checkpoint for name in others):
        return None  # Pop2Piano's `shared` may be stored as its encoder's: the group of the two speaks for it
    older = architecture_of(config, older=True) if config else load_older(architecture.class_name, None)
    if lost_tie(older, architecture) is None:
        return None
    pair = (head, embedding)
    return stored_group(
        UNREAD._replace(
            names=tuple(sorted(pair)),
            source=embedding,
            declared=False,
            declared_by=(f"{architecture.class_name} ({architecture.origin}), whatever the flag says",),
            default=False,
            inert=True,
        ),
        checkpoint,
        [(name, name) for name in sorted(pair) if name in checkpoint],
        values,
    )
