"""What else a live module shows about its ties.

Members that are not used as they are, biases that do not fit, and signs that tied members were meant to differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from tiecheck.collect.alias_graph import Registrations
from tiecheck.collect.effects import effect_of
from tiecheck.collect.live_heads import weight_of
from tiecheck.collect.live_names import NamesOf
from tiecheck.facts_live import Effect, Freeze, Misfit

LOGITS_BIAS = "final_logits_bias"
"""The buffer that encoder-decoders of transformers add to their logits (BART, Marian and theirs, 5.23)."""

FEW = 3
"""Other parameters that a module must have for their agreement to show an intent."""


def effects_of(places: Registrations, names: NamesOf) -> tuple[Effect, ...]:
    """The members of parameter ties that their module does not use as they are."""
    found: list[Effect] = []
    for first in places.repeats:
        for place in names.places_of(first):
            what = effect_of(places.graph, places.owners[place], places.attributes[place])
            if what is not None:
                found += [Effect(name, *what) for name in names.at(place)]
    return tuple(sorted(found))


def misfits_of(places: Registrations, names: NamesOf) -> tuple[Misfit, ...]:
    """Biases of linear layers whose weight is tied and has another number of rows, and the like of the logits."""
    found: list[Misfit] = []
    for first in places.repeats:
        weight = places.objects[first]
        if is_lazy(weight) or weight.dim() != 2:
            continue
        for place in names.places_of(first):
            owner = places.graph.modules[places.owners[place]]
            bias = owner._parameters.get("bias")
            if isinstance(owner, nn.Linear) and places.attributes[place] == "weight" and bias is not None:
                found += _misfit(bias, weight, names.at(place))
    return tuple(sorted(found))


def _misfit(bias: Tensor, weight: Tensor, names: Sequence[str]) -> Iterator[Misfit]:
    if not is_lazy(bias) and bias.numel() not in (weight.shape[0], 1):
        for name in names:
            yield Misfit(name.removesuffix("weight") + "bias", name, int(weight.shape[0]), bias.numel())


def logits_misfits(models: Sequence[tuple[str, Any]]) -> tuple[Misfit, ...]:
    """The buffers added to the logits of some models that do not fit the weight of their head.

    Args:
        models: Path, with its final dot, and model.
    """
    found = []
    for prefix, model in models:
        buffer = model._buffers.get(LOGITS_BIAS)
        weight = weight_of(model, "get_output_embeddings")
        if isinstance(buffer, Tensor) and weight is not None and not is_lazy(weight) and weight.dim() == 2:
            rows, size = int(weight.shape[0]), int(buffer.shape[-1])
            if rows != size:
                path = next((n for n, p in model.named_parameters() if p is weight), "the head")
                found.append(Misfit(f"{prefix}{LOGITS_BIAS}", prefix + path, rows, size))
    return tuple(found)


def freezes_of(places: Registrations, names: NamesOf) -> tuple[Freeze, ...]:
    """Signs that the members of a parameter tie were meant to differ in `requires_grad` or dtype."""
    return tuple(freeze for first in places.repeats for freeze in _freezes(places, names, first))


def _freezes(places: Registrations, names: NamesOf, first: int) -> Iterator[Freeze]:
    tensor = places.objects[first]
    if is_lazy(tensor) or not tensor.is_floating_point():
        return
    tied = names.of(tensor)
    word = "trains" if tensor.requires_grad else "frozen"
    for place in names.places_of(first):
        number = places.owners[place]
        said = vars(places.graph.modules[number]).get("requires_grad")
        if isinstance(said, bool) and said is not tensor.requires_grad:
            where = places.graph.path(number, "").removesuffix(".")
            yield Freeze("attribute", tied, where, word, str(said).lower())
    others = [places.objects[place] for place in places.firsts if place != first]
    if len(others) < FEW:
        return
    if not tensor.requires_grad and all(other.requires_grad for other in others if other.is_floating_point()):
        yield Freeze("frozen", tied, "", word, "trains")
    yield from _alone_below(places, first, tied)
    dtypes = {other.dtype for other in others if other.is_floating_point() and other.dim() > 1}
    if len(dtypes) == 1 and tensor.dtype not in dtypes:
        mine, theirs = (str(d).removeprefix("torch.") for d in (tensor.dtype, next(iter(dtypes))))
        yield Freeze("dtype", tied, "", mine, theirs)


def _alone_below(places: Registrations, first: int, tied: tuple[str, ...]) -> Iterator[Freeze]:
    """A tied tensor that trains below a module in which everything else is frozen, and that does not hold them all."""
    if not places.objects[first].requires_grad:
        return
    tops = {name.partition(".")[0] for name in tied}
    if len(tops) < 2:
        return
    graph = places.graph
    held: dict[str, list[bool]] = {}
    for place in places.firsts:
        top = graph.path(places.owners[place], places.attributes[place]).partition(".")[0]
        if place != first and top in tops:
            held.setdefault(top, []).append(places.objects[place].requires_grad)
    for top, grads in sorted(held.items()):
        if len(grads) >= FEW and not any(grads):
            yield Freeze("trainable", tied, top, "trains", "frozen")
