"""Signs in a live module that a tie was not meant: biases that do not fit, members that were meant to differ."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import combinations
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from tiecheck.live import torch_adapter
from tiecheck.live.member_lookup import Member, look_up
from tiecheck.live.registrations import Registrations
from tiecheck.live.transformers.rewritten_keys import weight_of
from tiecheck.live.wrappers import class_name, library_config, without_wrappers
from tiecheck.records.declared import ModelConfig
from tiecheck.records.files import LoadProblem
from tiecheck.records.live import Candidate, Freeze, Misfit
from tiecheck.records.stored import Checkpoint, Shard
from tiecheck.wording import listed

_dtype = attrgetter("dtype")
_requires_grad = attrgetter("requires_grad")

LOGITS_BIAS = "final_logits_bias"
"""The buffer that encoder-decoders of transformers add to their logits (BART, Marian and theirs, 5.23)."""

NUMBER = re.compile(r"\.\d+\.")
"""Place of a layer in a name."""

FEW = 3
"""Other parameters that a module must have for their agreement to show an intent."""


def misfits_of(places: Registrations) -> tuple[Misfit, ...]:
    """Return biases of linear layers whose weight is tied and has another number of rows."""
    found: list[Misfit] = []
    for first in places.repeats:
        weight = places.objects[first]
        if is_lazy(weight) or weight.dim() != 2:
            continue
        for place in places.places_of(first):
            owner = places.graph.modules[places.owners[place]]
            bias = owner._parameters.get("bias")
            if isinstance(owner, nn.Linear) and places.attributes[place] == "weight" and bias is not None:
                found += _misfit(bias, weight, places.names_at(place))
    return tuple(sorted(found))


def _misfit(bias: Tensor, weight: Tensor, names: Sequence[str]) -> Iterator[Misfit]:
    if not is_lazy(bias) and bias.numel() not in (weight.shape[0], 1):
        for name in names:
            yield Misfit(name.removesuffix("weight") + "bias", name, int(weight.shape[0]), bias.numel())


def logits_misfits(models: Sequence[tuple[str, Any]]) -> tuple[Misfit, ...]:
    """Return the buffers added to the logits of some models (path, model) that do not fit the weight of their head."""
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


def unfit_ties(module: nn.Module) -> tuple[LoadProblem, ...]:
    """Return the tied matrices of a model of transformers' own that its config builds in another size: no load fits."""
    from tiecheck.stored.load_problems import load_problems
    from tiecheck.tables.architectures import load_architecture

    name, data = class_name(module), json.loads(json.dumps(library_config(module), default=str))  # as it is saved
    if not data or logits_misfits((("", without_wrappers(module)),)):
        return ()
    groups = [
        [member for name in tie.names if (member := look_up(module, name)).tensor is not None]
        for tie in load_architecture(name, data.get("model_type")).ties
    ]
    entries = {
        member.name: {"dtype": "F32", "shape": list(member.tensor.shape), "data_offsets": [0, 0]}
        for group in filter(_is_one_matrix, groups)
        for member in group
        if member.tensor is not None
    }
    config = ModelConfig("the config", {**data, "architectures": [name]}, ())
    stored = Checkpoint("safetensors", "", (Shard("", 0, entries),), None, {}, (), {})
    return tuple(
        one._replace(
            why=one.why.replace("is stored with", "has").replace("config.json", "the config"),
            versions=("5",),
            file="",
            no_mend=UNFIT,
            edits=(),
        )
        for one in load_problems(config, stored, whole=False)
        if one.kind == "shape" and "5" in one.versions and set(one.names) <= entries.keys()
    )


def _is_one_matrix(group: list[Member]) -> bool:
    """Return True for members that are one matrix, of as many rows as the biases beside it: else other rules speak."""
    tensors = {id(member.tensor): member.tensor for member in group}
    tensor = next(iter(tensors.values()), None)
    if tensor is None or len(tensors) > 1 or len(group) < 2 or is_lazy(tensor) or tensor.dim() != 2:
        return False
    owners = [vars(member.owner).get("_parameters", {}) for member in group if member.owner is not None]
    biases = [held["bias"] for held in owners if held.get("bias") is not None]
    return all(is_lazy(bias) or bias.numel() == tensor.shape[0] for bias in biases)


UNFIT = "which of the two is right the model does not tell; write the number that is into its config before the save."


def parted_biases(module: nn.Module, candidates: Sequence[Candidate]) -> tuple[Misfit, ...]:
    """Return biases of different lengths that their class ties unless its flag is false: it builds one length."""
    found = []
    for names in (candidate.names for candidate in candidates if candidate.flag is False):
        held = [(name, look_up(module, name).tensor) for name in names]
        sizes = {name: t.numel() for name, t in held if t is not None and not is_lazy(t) and t.dim() == 1}
        longest = max(sizes, key=sizes.__getitem__, default="")
        found += [Misfit(n, longest, sizes[longest], size) for n, size in sizes.items() if size < sizes[longest]]
    return tuple(found)


def unloaded_members(module: nn.Module, places: Registrations, groups: Iterable[Sequence[str]]) -> tuple[str, ...]:
    """Return what to say of members on meta, which no hook of accelerate holds, in a module that has data."""
    tensors = places.tensors()
    if all(tensor.is_meta for tensor in tensors) or not any(tensor.is_meta for tensor in tensors):
        return ()
    names = sorted({name for group in groups for name in group})
    empty = tuple(name for name in names if _is_empty(look_up(module, name)))
    where = "on the meta device, without values, in a model that has data"
    why = "either no load has filled it, or something that tiecheck does not know holds its values"
    return (f"{listed(empty)}: {where}; {why}",) if empty else ()


def _is_empty(member: Member) -> bool:
    """Return True for a member on meta, or one that is computed from what is, which no hook holds."""
    if member.offloaded or member.owner is None:
        return False
    held = member.owner.parameters() if member.tensor is None else (member.tensor,)
    return any(tensor.is_meta for tensor in held)


def equal_heads(places: Registrations) -> tuple[tuple[str, str], ...]:
    """Return the names of each embedding and linear layer, or embedding in every layer or beside it, with equal bytes.

    Both are parameters of their own. What holds one and the same value everywhere is left out, and what cannot be read.
    """
    tables, layers = (_weights(places, cls) for cls in (nn.Embedding, nn.Linear))
    cloned: dict[str, list[int]] = {}
    beside: dict[str, dict[str, int]] = {}
    for first, name in tables.items():
        alike = NUMBER.sub(".*.", name)
        cloned.setdefault(alike, []).append(first)
        if places.objects[first].requires_grad:  # a frozen one may be kept as it is on purpose
            beside.setdefault(".".join(name.split(".")[:-2]), {})[alike] = first
    pairs = [(same[0], other) for same in cloned.values() for other in same[1:]]
    pairs += [pair for some in beside.values() for pair in combinations(some.values(), 2)]
    pairs += [(one, other) for one in tables for other in layers if other not in tables]
    equal: dict[int, list[int]] = {}
    for one, other in pairs:
        if not any(one in copies for copies in equal.values()) and _equal(places.objects[one], places.objects[other]):
            equal.setdefault(one, []).append(other)
    names = tables | layers
    return tuple(sorted((tables[one], names[other]) for one, others in equal.items() for other in others))


def _weights(places: Registrations, cls: type[nn.Module]) -> dict[int, str]:
    """Return the first place of each dense matrix that modules of a class hold as their weight, and its name there."""
    found: dict[int, str] = {}
    for first in places.firsts:
        for place in places.places_of(first):
            held = places.attributes[place] == "weight" and isinstance(places.graph.modules[places.owners[place]], cls)
            if held and _is_table(places.objects[first]):
                found.setdefault(first, min(places.names_at(place)))
    return found


def _is_table(tensor: Tensor) -> bool:
    return not is_lazy(tensor) and not tensor.is_meta and tensor.dim() == 2 and min(tensor.shape) > 1


def _equal(one: Tensor, other: Tensor) -> bool:
    """Return True if two matrices hold the same bytes, and not one value alone."""
    if one is other or (one.shape, one.dtype, one.device) != (other.shape, other.dtype, other.device):
        return False
    try:
        with torch.no_grad():
            return torch_adapter.equal_bytes(one, other) and not bool((one == one[0, 0]).all())
    except Exception:  # noqa: BLE001  # a tensor of another's making may refuse to be read
        return False


def freezes_of(places: Registrations) -> tuple[Freeze, ...]:
    """Return signs that the members of a parameter tie were meant to differ in `requires_grad` or dtype."""
    if not places.repeats:
        return ()
    tally = _Tally(places)
    return tuple(freeze for first in places.repeats for freeze in _freezes(places, first, tally))


class _Tally:
    """Counts of a module's floating parameters by what they are like, made once: one is held against all others."""

    def __init__(self, places: Registrations) -> None:
        self._places = places
        tensors = [places.objects[place] for place in places.firsts]
        dtypes = list(map(_dtype, tensors))
        if not all(dtype.is_floating_point for dtype in set(dtypes)):
            tensors = [tensor for tensor in tensors if tensor.dtype.is_floating_point]
        grads = Counter(map(_requires_grad, tensors))
        self.count = len(tensors)
        self.training = grads[True]
        self.mixed = len(grads) > 1
        """True if some of them train and some do not."""
        self.dtypes: Counter[torch.dtype] = Counter()
        """Those of two dimensions and more by dtype; empty where all have one."""
        if len({tensor.dtype for tensor in tensors}) > 1:
            self.dtypes.update(t.dtype for t in tensors if not is_lazy(t) and t.dim() > 1)

    @cached_property
    def tops(self) -> dict[int, str]:
        """The first part of the first name of each module that registers a parameter."""
        path = self._places.graph.path
        return {owner: path(owner, "").partition(".")[0] for owner in set(self._places.owners)}

    @cached_property
    def below(self) -> dict[str, tuple[int, int]]:
        """Numbers of floating parameters below each top, and of those that train."""
        places, tops = self._places, self.tops
        found: dict[str, tuple[int, int]] = {}
        for place in places.firsts:
            tensor = places.objects[place]
            if tensor.dtype.is_floating_point:
                count, training = found.get(tops[places.owners[place]], (0, 0))
                found[tops[places.owners[place]]] = count + 1, training + tensor.requires_grad
        return found


def _freezes(places: Registrations, first: int, tally: _Tally) -> Iterator[Freeze]:
    tensor = places.objects[first]
    if is_lazy(tensor) or not tensor.is_floating_point():
        return
    trains = tensor.requires_grad
    word = "trains" if trains else "frozen"
    for place in places.places_of(first):
        number = places.owners[place]
        said = vars(places.graph.modules[number]).get("requires_grad")
        if isinstance(said, bool) and said is not trains:
            where = places.graph.path(number, "").removesuffix(".")
            yield Freeze("attribute", places.names_of(tensor), where, word, str(said).lower())
    if not trains and tally.count > FEW and tally.training == tally.count - 1:
        yield Freeze("frozen", places.names_of(tensor), "", word, "trains")
    if trains and tally.mixed:
        yield from _alone_below(places, first, tally)
    others = tally.dtypes.keys() - {tensor.dtype}
    if tally.dtypes[tensor.dtype] == 1 and len(others) == 1 and tally.dtypes.total() > FEW and tensor.dim() > 1:
        mine, theirs = (str(d).removeprefix("torch.") for d in (tensor.dtype, *others))
        yield Freeze("dtype", places.names_of(tensor), "", mine, theirs)


def _alone_below(places: Registrations, first: int, tally: _Tally) -> Iterator[Freeze]:
    """Yield a tied tensor that trains below a module where all else is frozen, and that does not hold them all."""
    tied = places.names_of(places.objects[first])
    own = tally.tops.get(places.owners[first], "")
    tops = {name.partition(".")[0] for name in tied}
    for top in sorted(tops) if len(tops) > 1 else ():
        count, training = tally.below.get(top, (0, 0))
        mine = top == own
        if count - mine >= FEW and training == mine:
            yield Freeze("trainable", tied, top, "trains", "frozen")
