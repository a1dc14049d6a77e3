"""Where the `PreTrainedModel`s of a module take their words in and give them out (transformers 5.23).

By their own getters, with the flags of a composite config and what the tie tables know of the class.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from tiecheck.live.member_lookup import look_up
from tiecheck.live.registrations import Registrations
from tiecheck.live.transformers.declarations import PretrainedModel
from tiecheck.live.transformers.rewritten_keys import weight_of
from tiecheck.records.live import Head
from tiecheck.tables.architectures import FLAG, load_architecture, load_older, newer_names

CAP = 8
"""Names a record lists at most."""


def heads_of(models: Sequence[PretrainedModel], places: Registrations) -> tuple[Head, ...]:
    """Return the embeddings of each model, outermost first; one without a head where 4.57 ties more of it."""
    found: list[Head] = []
    told: set[tuple[str, ...]] = set()
    for head in (_head(one, places) for one in models if one.prefixes):
        if head is not None:
            older = tuple(group for group in head.older if group not in told)
            told.update(older)
            found.append(head._replace(older=older))
    return tuple(head for head in found if (head.embedding and head.head) or head.older)


def _head(one: PretrainedModel, places: Registrations) -> Head | None:
    """Return one model's embeddings; None where it has neither both nor a group that only 4.57 ties."""
    embedding, head = (weight_of(one.model, getter) for getter in ("get_input_embeddings", "get_output_embeddings"))
    prefix = one.prefixes[0]
    usual, older = _by_table(one, prefix)
    if (embedding is None or head is None) and not older:
        return None
    both = [tensor for tensor in (embedding, head) if tensor is not None]
    shapes = [tuple(tensor.shape) for tensor in both] if not _lazy(*both) else []
    return Head(
        class_name=type(one.model).__name__,
        embedding=places.names_of(embedding)[:CAP],
        head=places.names_of(head)[:CAP],
        same=embedding is head and head is not None,
        alike=len(shapes) == 2 and shapes[0] == shapes[1] and len(shapes[0]) == 2,
        flags=tuple(_flags(one.model.config)),
        usual=usual,
        older=older,
        encoder_decoder=bool(getattr(one.model.config, "is_encoder_decoder", False)),
    )


def _lazy(*tensors: Tensor) -> bool:
    from torch.nn.parameter import is_lazy

    return any(is_lazy(tensor) for tensor in tensors)


def _flags(config: Any, path: str = "config", depth: int = 0) -> Iterator[tuple[str, bool]]:
    """Yield every flag of a config and of its inner configs that is true or false, dotted."""
    value = getattr(config, FLAG, None)
    if isinstance(value, bool):
        yield f"{path}.{FLAG}", value
    inner = getattr(config, "sub_configs", None)
    if isinstance(inner, dict) and depth < 4:
        for key in inner:
            below = getattr(config, key, None)
            if below is not None and below is not config:
                yield from _flags(below, f"{path}.{key}", depth + 1)


def _by_table(one: PretrainedModel, prefix: str) -> tuple[str | None, tuple[tuple[str, ...], ...]]:
    """Return the class's usual embedding, and the groups that 4.57 ties though the flag is false, by the tie tables."""
    cls = type(one.model)
    if not cls.__module__.startswith("transformers."):
        return None, ()
    model_type = getattr(one.model.config, "model_type", None)
    known = load_architecture(cls.__name__, model_type)
    usual = prefix + known.embedding if known.embedding else None
    if getattr(one.model.config, FLAG, False):
        return usual, ()
    here = {tie.names for tie in known.ties if tie.off}
    older = [tie for tie in load_older(cls.__name__, model_type).ties if tie.off and not tie.level]
    groups = (newer_names(tie) for tie in older)
    apart = (group for group in groups if group not in here and _apart(one.model, group))
    return usual, tuple(tuple(prefix + name for name in group) for group in apart)


def _apart(model: Any, names: tuple[str, ...]) -> bool:
    """Return True if some names are all there, in one shape, and are not one parameter."""
    tensors = [look_up(model, name).tensor for name in names]
    there = [tensor for tensor in tensors if tensor is not None and not _lazy(tensor)]
    alike = len({tuple(tensor.shape) for tensor in there}) == 1
    return len(there) == len(names) and alike and len(set(map(id, there))) > 1
