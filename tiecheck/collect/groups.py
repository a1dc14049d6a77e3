"""Tie groups as the static layers see them: what config and class declare, and what the checkpoint stores.

Names and kinds come from the tie table, which asked the library itself. A class the table lacks (remote
code) is judged by names, shapes and config, and each of its groups says so (`inferred`).
"""

from typing import Literal, NamedTuple

from tiecheck.collect.architectures import tried_levels
from tiecheck.facts import Architecture, Checkpoint, Flag, Group, Kind, ModelConfig, StoredTensor, TieSpec, Unknown

Values = Literal["auto", "never", "always"]


class _Claim(NamedTuple):
    """Who says what about one group."""

    tied: bool | None
    by: tuple[str, ...]
    flag: Flag | None
    reason: str | None


def build_groups(
    config: ModelConfig | None, architecture: Architecture, checkpoint: Checkpoint | None, values: Values
) -> tuple[Group, ...] | Unknown:
    """Every tie group that the class, or failing that the names, suggest.

    Args:
        config: The model's config, where there is one.
        architecture: What the tie table knows of the class.
        checkpoint: The stored layer, where there is one.
        values: Whether bytes may be read.

    Returns:
        The groups, sorted by first name; none for a class that ties nothing. Unknown where neither the table
        nor the names tell.
    """
    if architecture.known:
        found = [_from_table(config, architecture, spec, checkpoint, values) for spec in architecture.ties]
        groups = [group for group in found if group is not None]
        if found and not groups:  # another text model inside than those the table has names for
            return Unknown(
                f"the ties of {architecture.class_name} depend on the models it is made of, and the names that "
                f"{architecture.origin} gives them are not in this checkpoint; --live builds the class"
            )
        return tuple(sorted(groups, key=lambda g: g.names))
    if checkpoint is None:
        return Unknown(f"{architecture.origin}, and there are no weights to tell from")
    from tiecheck.collect.guess import guess_groups

    guessed = guess_groups(config, checkpoint)
    if isinstance(guessed, Unknown):
        return Unknown(f"{architecture.origin}, and {guessed.reason}")
    return tuple(
        _with_stored(g, checkpoint, [(n, n) for n in g.stored_names], values, architecture.origin) for g in guessed
    )


def _claim(config: ModelConfig | None, architecture: Architecture, spec: TieSpec) -> _Claim:
    """What the flag at the controlling level says, or the class's default where no level speaks."""
    written = [f for f in config.flags if f.key == "tie_word_embeddings"] if config else []
    flags = [f for f in written if isinstance(f.value, bool)]
    flag = next((f for f in flags if f.level == spec.level), None)
    owner = f"{architecture.class_name} ({architecture.origin})"
    if config and flag:
        tied = spec.on if flag.value else spec.off
        by = f"{config.path}:{flag.dotted}" if tied == flag.value else f"{owner}, whatever the flag says"
        return _Claim(tied, (by,), flag, None)
    if spec.on == spec.off == spec.silent:
        return _Claim(spec.silent, (f"{owner}, whatever the flag says",), None, None)
    odd = next((f for f in written if f.level == spec.level and not isinstance(f.value, bool)), None)
    if odd:
        return _Claim(None, (), None, _odd_value(odd))
    by = f"default of {owner}"
    if config and flags:
        tried = tried_levels(architecture.class_name, config.model_type)
        odd = next((f for f in flags if f.level not in tried), None)
        if odd:
            where = ".".join((*spec.level, "tie_word_embeddings"))
            return _Claim(None, (), odd, f"{odd.dotted} is set and {where}, which decides, is not")
        by = f"{by}, which {flags[0].dotted} does not change"
    return _Claim(spec.silent, (by,), None, None)


def _odd_value(flag: Flag) -> str:
    """Why a flag that is no truth value leaves the question open (transformers 5.23 validates it, 4.57 does not)."""
    kind = {str: "text", dict: "an object", list: "a list", type(None): "null"}.get(type(flag.value), "a number")
    taken = "true" if flag.value else "false"
    return f"{flag.dotted} is {kind}, not true or false: transformers 5 refuses it, 4.57 takes it for {taken}"


def _from_table(
    config: ModelConfig | None,
    architecture: Architecture,
    spec: TieSpec,
    checkpoint: Checkpoint | None,
    values: Values,
) -> Group | None:
    claim = _claim(config, architecture, spec)
    group = Group(
        names=spec.names,
        source=spec.source,
        kind=spec.kind if claim.tied else None,
        declared=claim.tied,
        declared_by=claim.by,
        flag=claim.flag,
        level=spec.level,
        default=spec.silent,
        forced=spec.off,
        stored=None,
        stored_names=(),
        missing=(),
        tensors=(),
        comparison=None,
        reason=claim.reason,
        inferred=False,
    )
    if checkpoint is None:
        return group
    pairs = _stored_pairs(spec, checkpoint)
    if not spec.exact and len(pairs) < len(spec.names):
        # One name a layer, or another text model inside: the default config's names need not be this model's.
        if not pairs:
            return None
        if not any(part.isdigit() for name in spec.names for part in name.split(".")):
            group = group._replace(kind=None, declared=None, declared_by=())  # whether there is such a group at all
        return group._replace(
            stored="unknown",
            stored_names=tuple(sorted(stored for _, stored in pairs)),
            reason="its names depend on the config, and the table has those of the default config",
        )
    return _with_stored(group, checkpoint, pairs, values, None)


def _stored_pairs(spec: TieSpec, checkpoint: Checkpoint) -> list[tuple[str, str]]:
    """The class's name and the stored name of each member that the checkpoint holds, each stored name once."""
    pairs: list[tuple[str, str]] = []
    taken: set[str] = set()
    for name in spec.names:
        for spelling in (name, *spec.spellings.get(name, ())):
            if spelling not in taken and spelling in checkpoint:
                pairs.append((name, spelling))
                taken.add(spelling)
                break
    return pairs


def _with_stored(
    group: Group, checkpoint: Checkpoint, pairs: list[tuple[str, str]], values: Values, reason: str | None
) -> Group:
    """The group with its stored members, compared where there are two or more."""
    stored_names = tuple(sorted(stored for _, stored in pairs))
    there = {name for name, _ in pairs}
    tensors = tuple(t for t in (checkpoint.tensor(n) for n in stored_names) if t is not None)
    missing = tuple(n for n in group.names if n not in there)
    packed = _packed(checkpoint, missing) if group.declared is not True and not group.inferred else None
    if packed:
        return group._replace(stored="unknown", stored_names=stored_names, tensors=tensors, reason=packed)
    group = group._replace(
        stored_names=stored_names,
        missing=missing,
        tensors=tensors,
        reason=group.reason or reason,
    )
    if len(pairs) < 2:
        return group._replace(stored="absent")
    if len(tensors) < len(stored_names):
        absent = [n for n in stored_names if all(t.name != n for t in tensors)]
        return group._replace(
            stored="unknown", reason=f"{absent[0]} is in a file that is not here ({checkpoint.weight_map[absent[0]]})"
        )
    return _compared(group, checkpoint, tensors, values)


WRAPPERS = ("base_layer.", "modules_to_save.", "original_module.", "parametrizations.", "_orig_mod.")
"""What peft, torch's parametrizations and `torch.compile` put between a layer and its weight."""


def _packed(checkpoint: Checkpoint, missing: tuple[str, ...]) -> str | None:
    """Whether a missing member is stored in another form: quantisers write `lm_head.qweight` and scales."""
    for name in missing:
        owner, _, attribute = name.rpartition(".")
        start = f"{owner}."
        inside = (n for n in checkpoint.names() if owner and n.startswith(start))
        other = min((n for n in inside if _other_form(n.removeprefix(start), attribute)), default=None)
        if other is not None:
            return f"{owner} is stored in another form ({other})"
    return None


def _other_form(stored: str, attribute: str) -> bool:
    """Whether what is stored below a layer can stand for its attribute; the parts of a sub-layer cannot."""
    if stored.startswith(WRAPPERS):
        return True
    if attribute == "weight":
        return stored.startswith("weight.") or ("." not in stored and stored != "bias")
    return stored.startswith((f"{attribute}.", f"{attribute}_"))


def _compared(group: Group, checkpoint: Checkpoint, tensors: tuple[StoredTensor, ...], values: Values) -> Group:
    if any((t.dtype, t.shape) != (tensors[0].dtype, tensors[0].shape) for t in tensors):
        return group._replace(stored="separate", reason="the members differ in shape or dtype")
    slots = [checkpoint.slots.get(t.name) for t in tensors]
    if slots[0] is not None and all(slot == slots[0] for slot in slots):
        return group._replace(stored="storage")
    if values == "never":
        return group._replace(stored="unknown", reason="the bytes were not to be read (--values never)")
    from tiecheck.collect.values import compare

    result = compare(checkpoint, tensors, exact=values == "always")
    if isinstance(result, Unknown):
        return group._replace(stored="unknown", reason=result.reason)
    kind: Kind = "copy" if result.equal else "separate"
    reason = group.reason
    if kind == "separate" and group.declared and group.flag is not None and group.flag.value is False:
        reason = "the flag is false, and transformers 5 keeps apart what is stored apart"
    return group._replace(stored=kind, comparison=result, reason=reason)
