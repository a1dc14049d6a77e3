"""Groups of the ties that 4.57 makes and transformers 5 has lost."""

from __future__ import annotations

from collections.abc import Iterator

from tiecheck.records.declared import Architecture
from tiecheck.records.stored import Checkpoint, Group
from tiecheck.stored.members import UNREAD, Values, stored_group
from tiecheck.stored.older_names import lost_ties
from tiecheck.tables.architectures import newer_names


def lost_tie_groups(
    older: Architecture, newest: Architecture, checkpoint: Checkpoint, values: Values
) -> Iterator[Group]:
    """Yield the groups that 4.57 ties and transformers 5 keeps apart, whatever the config says.

    `LukeForMaskedLM` and others lost their declaration on the way to 5 (transformers 5.23.0): a checkpoint that 4.57
    saved tied, head absent, loads with a random head. Of others than embedding and head (UDOP's relative biases) those
    are told of which more than one member is stored, all but one of which 4.57 throws away.
    """
    for tie in lost_ties(older, newest):
        names, source = newer_names(tie), dict(tie.newer).get(tie.source, tie.source)
        if {newest.head, newest.embedding} <= set(names):
            names, source = tuple(sorted({newest.head or "", newest.embedding or ""})), newest.embedding or ""
            told = _pair_matters(newest, checkpoint)
        else:
            told = tie.kind == "parameter" and sum(name in checkpoint for name in names) > 1
        if told:
            group = UNREAD._replace(
                names=names,
                source=source,
                declared=False,
                declared_by=(f"{newest.class_name} ({newest.origin}), whatever the flag says",),
                default=False,
                inert=True,
            )
            yield stored_group(group, checkpoint, [(name, name) for name in names if name in checkpoint], values)


def _pair_matters(newest: Architecture, checkpoint: Checkpoint) -> bool:
    """Tell whether embedding and head are stored in part, and were able to be one (Reformer's head is twice as wide).

    T5Gemma's head is tied to its decoder's embedding, and the encoder's is what words go in by; Pop2Piano's `shared`
    may be stored as its encoder's, and the group of the two speaks for it.
    """
    head, embedding = newest.head or "", newest.embedding or ""
    there = [tensor.shape for tensor in map(checkpoint.tensor, (head, embedding)) if tensor is not None]
    others = {name for tie in newest.ties if embedding in tie.names for name in tie.names}
    others.add(embedding.removeprefix(f"{newest.prefix}."))  # 5 adds the prefix to each name that lacks it
    elsewhere = embedding not in checkpoint and any(name in checkpoint for name in others)
    return len(set(there)) == 1 and not elsewhere and not any(head in tie.names for tie in newest.ties)
