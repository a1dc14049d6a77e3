"""Embedding and head that a class of transformers 5 leaves apart under every flag, though 4.57 tied them.

`LukeForMaskedLM` and others lost their declaration on the way to 5 (transformers 5.23.0): a checkpoint that 4.57 saved
tied, head absent, loads with a random head whatever its config says.
"""

from tiecheck.collect.architectures import load_older, newer_names
from tiecheck.collect.groups import Values, stored_group
from tiecheck.facts import Architecture, Checkpoint, Group, ModelConfig


def inert_group(
    config: ModelConfig | None, architecture: Architecture, checkpoint: Checkpoint, values: Values
) -> Group | None:
    """The group of embedding and head, where transformers 5 has no tie for it and 4.57 had one.

    Args:
        config: The model's config.
        architecture: The class by the table of transformers 5.
        checkpoint: The stored layer.
        values: Whether bytes may be read.

    Returns:
        None where the class ties them, has no head, was never able to, or where neither is stored.
    """
    head, embedding = architecture.head, architecture.embedding
    if not (architecture.known and head and embedding) or head == embedding:
        return None
    pair = {head, embedding}
    if any(pair <= set(tie.names) for tie in architecture.ties):
        return None
    older = load_older(
        architecture.class_name, config.model_type if config else None, config=config.data if config else None
    )
    spec = next((tie for tie in older.ties if pair <= set(newer_names(tie))), None)
    if spec is None or not any(name in checkpoint for name in pair):
        return None
    others = {name for tie in architecture.ties if embedding in tie.names for name in tie.names}
    if embedding not in checkpoint and any(name in checkpoint for name in others):
        return None  # Pop2Piano's `shared` may be stored as its encoder's: the group of the two speaks for it
    return stored_group(
        Group(
            names=tuple(sorted(pair)),
            source=embedding,
            kind=None,
            declared=False,
            declared_by=(f"{architecture.class_name} ({architecture.origin}), whatever the flag says",),
            flag=None,
            level=(),
            default=False,
            forced=False,
            stored=None,
            stored_names=(),
            missing=(),
            tensors=(),
            comparison=None,
            reason=None,
            inferred=False,
            inert=True,
        ),
        checkpoint,
        [(name, name) for name in sorted(pair) if name in checkpoint],
        values,
    )
