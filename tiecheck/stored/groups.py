"""Tie groups as the static layers see them: what config and class declare, and what the checkpoint stores.

Names and kinds come from the tie table, which asked the library itself. A class the table lacks (remote
code) is judged by names, shapes and config, and each of its groups says so (`inferred`).
"""

from __future__ import annotations

from tiecheck.errors import near_words
from tiecheck.files.model_config import FLAG_KEYS
from tiecheck.records.declared import Architecture, Flag, ModelConfig, TieSpec
from tiecheck.records.record import Record
from tiecheck.records.stored import Checkpoint, Group
from tiecheck.records.words import Unknown
from tiecheck.stored.members import UNREAD, Values, stored_group

HANGS_ON_CONFIG = "its names depend on the config, and the table has those of the default config"
BY_MLX = "mlx-lm or mlx-vlm wrote it, under names of its own, which were not followed"


class _Claim(Record):
    """Who says what about one group."""

    tied: bool | None
    by: tuple[str, ...]
    flag: Flag | None
    reason: str | None


def build_groups(
    config: ModelConfig | None, architecture: Architecture, checkpoint: Checkpoint | None, values: Values
) -> tuple[Group, ...] | Unknown:
    """Return every tie group that the class, or failing that the names, suggest, sorted by first name.

    There is none for a class that ties nothing, and `Unknown` where neither the table nor the names tell.
    """
    if architecture.known:
        found = [_from_table(config, architecture, spec, checkpoint, values) for spec in architecture.ties]
        groups = _covered([group for group in found if group is not None])
        if found and not groups:  # another text model inside than those the table has names for
            return Unknown(
                f"the ties of {architecture.class_name} depend on the models it is made of, and the names that "
                f"{architecture.origin} gives them are not in this checkpoint; --live builds the class"
            )
        groups += _unseen(config, architecture, groups, checkpoint) if checkpoint else []
        held = {name for group in groups for name in (*group.stored_names, *group.names)}
        groups = [_with_strays(_fitted(config, group), architecture, checkpoint, held) for group in groups]
        return tuple(sorted(groups, key=lambda g: g.names))
    if checkpoint is None:
        return Unknown(f"{architecture.origin}, and there are no weights to tell from")
    from tiecheck.stored.name_guesses import guess_groups

    guessed = guess_groups(config, checkpoint)
    if isinstance(guessed, Unknown):
        return Unknown(f"{architecture.origin}, and {guessed.reason}")
    return tuple(
        stored_group(g, checkpoint, [(n, n) for n in g.stored_names], values, architecture.origin) for g in guessed
    )


def _fitted(config: ModelConfig | None, group: Group) -> Group:
    """Return a group with the members, of several shapes, that the config denies."""
    if config is None or len({tensor.shape for tensor in group.tensors}) < 2:
        return group
    from tiecheck.stored.load_problems import unfit_members

    return group._replace(unfit=unfit_members(config, group.tensors))


def _with_strays(group: Group, architecture: Architecture, checkpoint: Checkpoint | None, held: set[str]) -> Group:
    """Return a group with what other names of the file tell of it.

    They may be its missing member, a trained head no less; or the one that is stored lacks a prefix that they have.
    """
    if checkpoint is None or not group.missing or not group.tensors:
        return group
    if group.declared is not False:
        bare, own = group.stored_names[0], group.source or ""
        prefix = own.removesuffix(bare) if bare not in group.names else own
        return group._replace(lone=prefix not in ("", own) and any(n.startswith(prefix) for n in checkpoint.names()))
    from tiecheck.stored.name_guesses import HEAD, named_alike

    shape = group.tensors[0].shape
    alike = (checkpoint.tensor(name) for name in named_alike(checkpoint, HEAD, shape[0]) if name not in held)
    strays = tuple(t.name for t in alike if t is not None and t.shape == shape)
    taken = {s for tie in architecture.ties for spelled in tie.spellings.values() for s in spelled}
    astray = taken.isdisjoint(strays) and group.missing != (architecture.embedding,)
    return group._replace(strays=strays, astray=astray)


def _covered(groups: list[Group]) -> list[Group]:
    """Return groups without the missing members that another group ties to a stored one.

    Florence-2's head is tied by the top flag, and its three embeddings by the text config's: where only the decoder's
    is stored, the first group's source is not lost.
    """
    held = [set(group.names) for group in groups if group.declared and group.stored_names]
    return [
        group
        if group.declared is not False or not group.missing
        else group._replace(missing=tuple(name for name in group.missing if not _tied_to_another(name, group, held)))
        for group in groups
    ]


def _tied_to_another(name: str, group: Group, held: list[set[str]]) -> bool:
    """Return True if a group that is tied and stored has a name, and is not all of another group."""
    return any(name in names and not set(group.names) <= names for names in held)


def _claim(config: ModelConfig | None, architecture: Architecture, spec: TieSpec) -> _Claim:
    """Return the claim of the flag at the controlling level, or the class's default where no level speaks."""
    written = [f for f in config.flags if f.key == spec.key] if config else []
    flags = [f for f in written if isinstance(f.value, bool)]
    flag = next((f for f in flags if f.level == spec.level), None)
    owner = f"{architecture.class_name} ({architecture.origin})"
    if config and flag:
        tied = spec.on if flag.value else spec.off
        by = f"{config.path}:{flag.dotted}" if tied == flag.value else f"{owner}, whatever the flag says"
        return _Claim(tied, (by,), flag, None)
    if spec.on == spec.off == spec.silent and not spec.joint:
        return _Claim(spec.silent, (f"{owner}, whatever the flag says",), None, None)
    odd = next((f for f in written if f.level == spec.level and not isinstance(f.value, bool)), None)
    if odd:
        return _Claim(None, (), None, _odd_value(odd))
    by = f"default of {owner}"
    if config and flags:
        odd = next((f for f in flags if f.level not in architecture.tried), None)
        if odd:
            where = ".".join((*spec.level, spec.key))
            return _Claim(None, (), odd, f"{odd.dotted} is set and {where}, which decides, is not")
        by = f"{by}, which {flags[0].dotted} does not change"
    if config and not flags and (misspelt := _misspelt(config, spec)):
        by = f"{by}; {misspelt} is no key that it reads, {spec.key} is"
    return _Claim(spec.silent, (by,), None, None)


def _misspelt(config: ModelConfig, spec: TieSpec) -> str | None:
    """Return the key of a config that may have been meant for the flag: a truth value under nearly its name."""
    level: object = config.data
    for part in spec.level:
        level = level.get(part) if isinstance(level, dict) else None
    held = level.items() if isinstance(level, dict) else ()
    keys = [key for key, value in held if isinstance(value, bool) and "tie" in key and key not in FLAG_KEYS]
    return next(iter(near_words(spec.key, keys, 1, 0.8)), None) if keys else None


def _controlling(config: ModelConfig | None, spec: TieSpec) -> TieSpec:
    """Return the spec with the level that decides here, where several flags untie the group only if all are false.

    With some of them false the rest decide, an explicit true before a silent one.
    """
    said = {f.level: f.value for f in config.flags if f.key == spec.key} if config else {}
    left = [level for level in spec.joint if said.get(level) is not False]
    if not left or len(left) == len(spec.joint):
        return spec
    return spec._replace(level=next((level for level in left if level in said), left[0]), off=len(left) > 1)


def _odd_value(flag: Flag) -> str:
    """Say why a flag that is no truth value leaves it open (transformers 5.23 validates it, 4.57 does not)."""
    kind = {str: "text", dict: "an object", list: "a list", type(None): "null"}.get(type(flag.value), "a number")
    taken = "true" if flag.value else "false"
    return f"{flag.dotted} is {kind}, not true or false: transformers 5 refuses it, 4.57 takes it for {taken}"


def _from_table(
    config: ModelConfig | None, architecture: Architecture, spec: TieSpec, checkpoint: Checkpoint | None, values: Values
) -> Group | None:
    spec = _controlling(config, spec)
    claim = _claim(config, architecture, spec)
    group = UNREAD._replace(
        names=spec.names,
        source=spec.source,
        kind=spec.kind if claim.tied else None,
        declared=claim.tied,
        declared_by=claim.by,
        flag=claim.flag,
        level=spec.level,
        default=spec.silent,
        forced=spec.off and not spec.joint,
        reason=claim.reason,
        key=spec.key,
    )
    if checkpoint is None:
        return group
    pairs = _stored_pairs(spec, checkpoint)
    if not pairs and spec.exact:
        named = frozenset(s for tie in architecture.ties for n in tie.names for s in (n, *tie.spellings.get(n, ())))
        group = group._replace(anchored=_anchored(spec, named, checkpoint))
    if not spec.exact and len(pairs) < len(spec.names):
        # One name a layer, or another text model inside: the default config's names need not be this model's.
        if not pairs:
            return None
        layers = any(part.isdigit() for name in spec.names for part in name.split("."))
        if layers and claim.tied:  # what is stored fills every member there is, however many layers that are
            return stored_group(group, checkpoint, pairs, values, None)
        if not layers:
            group = group._replace(kind=None, declared=None, declared_by=())  # whether there is such a group at all
        there = {name for name, _ in pairs}
        return group._replace(
            stored="unknown",
            stored_names=tuple(sorted(stored for _, stored in pairs)),
            missing=tuple(name for name in spec.names if name not in there),
            reason=HANGS_ON_CONFIG,
        )
    found = stored_group(group, checkpoint, pairs, values, None)
    if spec.source in found.missing and checkpoint.by_mlx and not _has_prefix(checkpoint, architecture.prefix):
        return found._replace(stored="unknown", anchored=False, reason=BY_MLX)
    return _misfit(found, pairs) if spec.unlike else found


def _has_prefix(checkpoint: Checkpoint, prefix: str) -> bool:
    return any(name.startswith(f"{prefix}.") for name in checkpoint.names())


def _misfit(group: Group, pairs: list[tuple[str, str]]) -> Group:
    """Return a group whose members have shapes of their own where they are not tied: a stored copy need not fit."""
    shapes = {name: tensor.shape for name, stored in pairs for tensor in group.tensors if tensor.name == stored}
    source = shapes.pop(group.source or "", None)
    apart = source is not None and group.declared is False and source not in shapes.values()
    if apart or not shapes:
        return group._replace(unlike=apart)
    reason = "the class has members of different shapes where they are not tied, and a copy of one may not fit"
    return group._replace(stored="unknown", comparison=None, misfit=True, reason=reason)


def _unseen(
    config: ModelConfig | None, architecture: Architecture, found: list[Group], checkpoint: Checkpoint
) -> list[Group]:
    """Return one group for each that the class has a layer of, and of which the checkpoint holds not one layer.

    The table has the layers of the default config. That some are not there means nothing, but for a layer of which
    other tensors are there; that none is there may be this model's way, or its loss.
    """
    seen, told = {any_layer(group.names) for group in found}, {group.names for group in found}
    there, mine = set[str](), set[tuple[str, ...]]()
    groups = []
    for spec in architecture.ties:
        layers = any_layer(spec.names)
        if spec.exact or layers == spec.names or spec.names in told or layers in mine:
            continue
        if layers in seen:
            there = there or {_layer(name) for name in checkpoint.names()}
            if not all(any(_layer(s) in there for s in (n, *spec.spellings.get(n, ()))) for n in spec.names):
                continue
        mine.add(layers)
        group = _from_table(config, architecture, spec, None, "never")
        if group is not None:
            reason = f"nothing of it is stored, and {HANGS_ON_CONFIG}"
            unsaid = group._replace(kind=None, declared=None, declared_by=(), missing=spec.names)
            groups.append(unsaid._replace(stored="unknown", reason=reason))
    return groups


def _layer(name: str) -> str:
    """Return a name up to its first number, or empty where it has none."""
    parts = name.split(".")
    return next((".".join(parts[: i + 1]) for i, part in enumerate(parts) if part.isdigit()), "")


def any_layer(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names with `#` in the place of every number."""
    return tuple(".".join("#" if part.isdigit() else part for part in name.split(".")) for name in names)


def _stored_pairs(spec: TieSpec, checkpoint: Checkpoint) -> list[tuple[str, str]]:
    """Return the class's name and the stored name of each member that the checkpoint holds, each stored name once."""
    pairs: list[tuple[str, str]] = []
    taken: set[str] = set()
    for name in spec.names:
        inner = (f"language_model.{name.replace('language_model.', '')}",) if checkpoint.by_mlx else ()
        for spelling in (name, *spec.spellings.get(name, ()), *inner):
            if spelling not in taken and spelling in checkpoint:
                pairs.append((name, spelling))
                taken.add(spelling)
                break
    return pairs


def _anchored(spec: TieSpec, named: frozenset[str], checkpoint: Checkpoint) -> bool:
    """Tell whether the checkpoint holds other tensors of the module that owns a member, and none in the members' place.

    A checkpoint whose names have another prefix, or that holds another part of the model, has nothing there; a
    quantised matrix is there in another form, which a bias has not.
    """
    spelled = {s for name in spec.names for s in (name, *spec.spellings.get(name, ()))}
    owners = {name.rpartition(".")[0] for name in spelled}
    parents = tuple(f"{parent}." for parent in {owner.rpartition(".")[0] for owner in owners} if parent)
    inside = tuple(f"{owner}." for owner in owners if owner)
    prefixed = tuple(f".{name}" for name in spelled)
    bias = all(name.endswith(".bias") for name in spelled)
    found = False
    for name in checkpoint.names():
        if (name.startswith(inside) and not bias) or name.endswith(prefixed):
            return False
        found = found or name.startswith(parents) or (bias and name in named)
    return found
