"""Stored members of a tie group compared, and names that several shards of one checkpoint hold."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from tiecheck.records.declared import Architecture, TieSpec
from tiecheck.records.stored import Checkpoint, Group, StoredTensor, read_entry
from tiecheck.records.words import Kind, Unknown

if TYPE_CHECKING:
    from tiecheck.records.files import Duplicate

Values = Literal["auto", "never", "always"]

COMPARED = 64
"""Names in several shards whose bytes are compared at most."""

UNREAD = Group(())
"""A group of which nothing is known yet."""


def stored_group(
    group: Group, checkpoint: Checkpoint, pairs: list[tuple[str, str]], values: Values, reason: str | None = None
) -> Group:
    """Return a group with its stored members (the class's name, the stored one), compared where there are several.

    `reason` is what limits the verdict on the group, where something does.
    """
    stored_names = tuple(sorted(stored for _, stored in pairs))
    there = {name for name, _ in pairs}
    tensors = tuple(t for t in (checkpoint.tensor(n) for n in stored_names) if t is not None)
    missing = tuple(n for n in group.names if n not in there)
    asked = missing if group.declared is not True else tuple(name for name in missing if name == group.source)
    packed = None if group.inferred else _packed(checkpoint, asked)
    if packed:
        return group._replace(stored="unknown", stored_names=stored_names, tensors=tensors, reason=packed)
    group = group._replace(stored_names=stored_names, missing=missing, tensors=tensors, reason=group.reason or reason)
    if len(pairs) < 2:
        return group._replace(stored="absent")
    if len(tensors) < len(stored_names):
        absent = [n for n in stored_names if all(t.name != n for t in tensors)]
        return group._replace(
            stored="unknown", reason=f"{absent[0]} is in {checkpoint.why_absent} ({checkpoint.weight_map[absent[0]]})"
        )
    if group.packed or any(_scaled(checkpoint, tensor) for tensor in tensors):
        return group._replace(stored="unknown", reason="packed words of a quantised file say nothing of its values")
    return compare_members(group, checkpoint, values)


def _scaled(checkpoint: Checkpoint, tensor: StoredTensor) -> bool:
    """Tell whether a tensor is values of fp8 that a scale beside it belongs to."""
    return tensor.dtype.startswith("float8") and any(
        f"{tensor.name}_{word}" in checkpoint for word in ("scale", "scale_inv")
    )


WRAPPERS = ("base_layer.", "modules_to_save.", "original_module.", "parametrizations.", "_orig_mod.")
"""Words that peft, torch's parametrizations and `torch.compile` put between a layer and its weight."""


def _packed(checkpoint: Checkpoint, missing: tuple[str, ...]) -> str | None:
    """Tell whether a missing member is stored in another form: quantisers write `lm_head.qweight` and scales."""
    for name in missing:
        owner, _, attribute = name.rpartition(".")
        start = f"{owner}."
        inside = (n for n in checkpoint.names() if owner and n.startswith(start))
        other = min((n for n in inside if _other_form(n.removeprefix(start), attribute)), default=None)
        if other is not None:
            return f"{owner} is stored in another form ({other})"
    return None


def _other_form(stored: str, attribute: str) -> bool:
    """Tell whether what is stored below a layer can stand for its attribute; the parts of a sub-layer cannot."""
    if stored.startswith(WRAPPERS):
        return True
    if attribute == "weight":
        return stored.startswith("weight.") or ("." not in stored and stored != "bias")
    return stored.startswith((f"{attribute}.", f"{attribute}_"))


def compare_members(group: Group, checkpoint: Checkpoint, values: Values) -> Group:
    """Return the group with its stored members, of which every header was read, compared."""
    tensors = group.tensors
    if any((t.dtype, t.shape) != (tensors[0].dtype, tensors[0].shape) for t in tensors):
        return _unlike(group._replace(stored="separate"), checkpoint, tensors, values)
    slots = [checkpoint.slots.get(t.name) for t in tensors]
    if slots[0] is not None and all(slot == slots[0] for slot in slots):
        return group._replace(stored="storage")
    if values == "never":
        return group._replace(stored="unknown", reason="the bytes were not to be read (--values never)")
    if checkpoint.remote is not None:
        if values == "auto":
            return group._replace(
                stored="unknown", reason="the bytes are on a remote store; --values always reads them"
            )
        result = checkpoint.remote.compare(tensors)
    else:
        from tiecheck.files.compare.equality import compare_bytes

        result = compare_bytes(checkpoint, tensors, exact=values == "always")
    if isinstance(result, Unknown):
        return group._replace(stored="unknown", reason=result.reason)
    kind: Kind = "copy" if result.alike else "separate"
    reason = group.reason
    if kind == "separate" and group.declared and group.flag is not None and group.flag.value is False:
        reason = "the flag is false, and transformers 5 keeps apart what is stored apart"
    relation = None
    if kind == "separate" and len(tensors[0].shape) == 2 and len(set(tensors[0].shape)) == 1:
        from tiecheck.files.compare.reshaped import compare_transposed, relation_in_words

        relation = compare_transposed(checkpoint, tensors)
        reason = reason if relation is None else relation_in_words(relation)
    return group._replace(stored=kind, comparison=result, reason=reason, relation=relation)


def _unlike(group: Group, checkpoint: Checkpoint, tensors: tuple[StoredTensor, ...], values: Values) -> Group:
    """Return a group whose members cannot be one tensor as they are, and may be in another form."""
    reason = "the members differ in shape or dtype"
    if values == "never" or checkpoint.remote is not None:
        return group._replace(reason=reason)
    from tiecheck.files.compare.reshaped import compare_reshaped, relation_in_words

    found = compare_reshaped(checkpoint, tensors, exact=values == "always")
    if found is None or isinstance(found, Unknown):
        return group._replace(reason=reason)
    return group._replace(relation=found, reason=f"{reason}: {relation_in_words(found)}")


def find_repeated_names(checkpoint: Checkpoint, values: Values) -> tuple[Duplicate, ...]:
    """Return every name that stands in several shards, sorted; the bytes of the first ones compared."""
    strays = sorted(set(_strays(checkpoint)))
    several = [(name, tensors) for name in strays if len(tensors := _holders(checkpoint, name)) > 1]
    return tuple(
        _compared(checkpoint, name, tensors, values if i < COMPARED else "never")
        for i, (name, tensors) in enumerate(several)
    )


def _strays(checkpoint: Checkpoint) -> Iterator[str]:
    """Give names in a shard that the index does not give to it: of a name in two shards, one at least."""
    where = checkpoint.weight_map
    for shard in () if checkpoint.agrees else checkpoint.shards:
        for name in shard.entries:
            if where.get(name) != shard.path:
                yield name


def _holders(checkpoint: Checkpoint, name: str) -> tuple[StoredTensor, ...]:
    found = []
    for shard in checkpoint.shards:
        entry = shard.entries.get(name)
        if entry is not None:
            dtype, shape, start, end = read_entry(entry)
            begin = None if checkpoint.format == "pickle" else shard.data_start + start
            found.append(StoredTensor(name, dtype, shape, end - start, shard.path, begin))
    return tuple(found)


def _compared(checkpoint: Checkpoint, name: str, tensors: tuple[StoredTensor, ...], values: Values) -> Duplicate:
    from tiecheck.records.files import Duplicate

    plain = Duplicate(name, tensors, checkpoint.weight_map.get(name), None, None)
    if any((t.dtype, t.shape) != (tensors[0].dtype, tensors[0].shape) for t in tensors):
        return plain
    if values == "never":
        return plain._replace(reason="the bytes were not read")
    from tiecheck.files.compare.equality import compare_bytes

    result = compare_bytes(checkpoint, tensors, exact=values == "always")
    return plain._replace(reason=result.reason) if isinstance(result, Unknown) else plain._replace(comparison=result)


class TensorFinder:
    """Finds a tensor of a class under the names that a file may give it.

    `spoken` has the names and axes of which the class speaks: none is taken for another one that it is tied to, of
    which a model inside speaks as it is alone (Marian's decoder has a vocabulary, and is given the other embedding).
    `outer` is what a task's class has before the names of a base model.
    """

    spoken: set[tuple[str, int]]
    doubled = False
    """True where one more prefix of the base model is read as if it was not there, as 5 does and 4.57 does not."""
    bare = True
    """True where a name without that prefix is read; 4.57 reads none where another name begins with it."""

    def __init__(
        self, checkpoint: Checkpoint, architecture: Architecture, aliases: dict[str, list[str]], outer: str
    ) -> None:
        self.checkpoint, self.aliases, self.outer = checkpoint, aliases, outer
        self.prefix = f"{architecture.prefix}." if architecture.prefix else ""
        self.ties = {name: tie for tie in architecture.ties if self._stands_for_all(tie) for name in tie.names}
        self._stored: dict[str, list[StoredTensor]] = {}

    def _stands_for_all(self, tie: TieSpec) -> bool:
        """Tell whether a stored member stands for the others: one of several that are stored may have its own size."""
        spelled = ((name, *tie.spellings.get(name, ())) for name in tie.names)
        there = len(tie.names) == 2 or sum(any(s in self.checkpoint for s in words) for words in spelled) < 2
        return tie.exact and not tie.unlike and there

    def elsewhere(self, name: str) -> bool:
        """Return True if the module of a tensor is stored, and none of its tensors under a name that is known."""
        word = f".{'.'.join(name.split('.')[-3:-2])}."
        known = (held for held in self.spoken if word in f".{held[0]}.")
        if word[1:-1].isdigit() or any(self.find(*held) is not None for held in known):
            return False
        stored = (self.checkpoint.tensor(one) for one in self.checkpoint.names() if word in f".{one}.")
        return any(tensor is not None and 0 not in tensor.shape for tensor in stored)

    def find(self, name: str, axis: int) -> StoredTensor | None:
        """Return what is stored of a tensor whose size in one axis is asked for; None where it has no plain numbers.

        Of several names of one tensor that are stored, with unlike shapes, none is taken: a loader reads one of them.
        """
        tie = self.ties.get(name)
        for member in (name, *(n for n in (tie.names if tie else ()) if (n, axis) not in self.spoken)):
            held = self._held(member)
            if held:
                plain = held[0].dtype.startswith(("float", "bfloat")) and not held[0].dtype.startswith("float8")
                return held[0] if plain and len({tensor.shape for tensor in held}) == 1 else None
        return None

    def unlike(self, name: str) -> tuple[str, ...]:
        """Return the names of one tensor that are stored with unlike shapes; none where they agree."""
        held = self._held(name)
        return tuple(tensor.name for tensor in held) if len({tensor.shape for tensor in held}) > 1 else ()

    def _held(self, member: str) -> list[StoredTensor]:
        """Return what is stored under each name that the loader takes for a tensor: several rules ask for each."""
        held = self._stored.get(member)
        if held is None:
            stored = (self.checkpoint.tensor(one) for one in dict.fromkeys(self.spelled(member)))
            held = self._stored[member] = [tensor for tensor in stored if tensor is not None]
        return held

    def spelled(self, member: str) -> list[str]:
        """Return the names under which a file may have a tensor of the class, its own first."""
        tie = self.ties.get(member)
        spelled = [member, *(tie.spellings.get(member, ()) if tie else ())]
        for inside, others in self.aliases.items():
            if member.startswith(inside):
                spelled += [other + member.removeprefix(inside) for other in others]
        bare = member.removeprefix(self.prefix)
        bares = [one.removeprefix(self.prefix) for one in spelled]
        spelled = [*spelled, *bares] if self.bare else [one for one in spelled if one != bare or one == member]
        spelled += [f"{self.prefix}{member}"] if self.doubled else []
        return spelled + ([f"{self.outer}.{member}"] if self.outer else [])
