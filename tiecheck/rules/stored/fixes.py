"""The fixes of the rules on stored groups, as edits: each only where what the files hold tells that it is right."""

from __future__ import annotations

from collections.abc import Iterable

from tiecheck.records.edits import Edit, Step, copy_steps, drop_steps, set_flags
from tiecheck.records.loaders import LoaderView
from tiecheck.records.stored import Checkpoint, Group
from tiecheck.rules.stored.groups import flag_name, flags_read, main_member, reads_alike

LEFT_OVER = "the difference is left over from a conversion"
TRAINED_APART = "both were trained"
TRAINED_TIED = "the model was trained tied"


def apart_or_one(
    group: Group, groups: tuple[Group, ...], flags: Iterable[str], *, disagree: bool = False
) -> tuple[Edit, ...]:
    """Return both ways out of a tied group whose stored values differ: no flag parts a group that the class forces.

    The member that stays is the one that the others are redirected to, since every loader looks for it.

    Args:
        group: The group.
        groups: All groups, of which the same flags untie more.
        flags: The flags that loaders read for it, dotted.
        disagree: Whether they do not all say true yet.
    """
    written = sorted(flags)
    kept = main_member(group)
    edits = []
    others = any(other.stored == "separate" for other in _under(group, groups) if other.names != group.names)
    if kept is not None and (group.source is None or group.source == kept) and not (disagree and others):
        said = set_flags(written, value=True) if disagree else ()
        edits.append(Edit("tied", LEFT_OVER, False, (*said, *drop_steps(n for n in group.stored_names if n != kept))))
    if not group.forced:
        stored = [_stored_apart(other) for other in _under(group, groups)]
        if None not in stored:
            steps = (step for found in stored for step in found or ())
            edits.append(Edit("untied", TRAINED_APART, True, (*set_flags(written, value=False), *steps)))
    return tuple(edits)


def one_tensor(
    group: Group, groups: tuple[Group, ...], flags: Iterable[str], when: str | None = TRAINED_TIED
) -> tuple[Edit, ...]:
    """Return the way to tie a group of which one tensor is stored; none where the same flags would tie what differs."""
    others = (other for other in _under(group, groups) if other.names != group.names)
    if group.stored != "absent" or not group.stored_names or any(o.stored in {"separate", "unknown"} for o in others):
        return ()
    steps = set_flags(sorted(flags), value=True)
    if group.source in group.missing:
        renamed = rename_edits(group)
        if not renamed:
            return ()
        steps = (*steps, *renamed[0].steps)
    return (Edit("tied", when, True, steps),)


def either_flag(group: Group, groups: tuple[Group, ...], flags: Iterable[str]) -> tuple[Edit, ...]:
    """Return the ways to make flags agree: told by what is stored, the user's to tell where two equal ones are."""
    written = tuple(flags)
    if group.missing:
        return one_tensor(group, groups, written, when=None)
    if group.stored == "separate":
        return apart_or_one(group, groups, written, disagree=True)
    if group.stored != "copy" or any(other.stored == "separate" for other in _under(group, groups)):
        return ()
    return (
        Edit("tied", TRAINED_TIED, True, set_flags(sorted(written), value=True)),
        Edit("untied", "it is to be trained untied", True, set_flags(sorted(written), value=False)),
    )


def disputed_flag(
    group: Group, groups: tuple[Group, ...], views: tuple[LoaderView, ...], *, silent: bool
) -> tuple[Edit, ...]:
    """Return the fix that every loader understands: true where the class ties by default, else every member stored."""
    if silent:
        return either_flag(group, groups, flags_read(views))
    if reads_alike(views):
        return ()
    usual = one_tensor(group, groups, flags_read(views)) if group.default and not group.forced else ()
    return usual or every_member(group)


def every_member(group: Group) -> tuple[Edit, ...]:
    """Return the way to store every member that is not, as a copy of the one that the class ties it to."""
    steps = _stored_apart(group)
    return (Edit("stored", None, True, steps),) if steps else ()


def rename_edits(group: Group) -> tuple[Edit, ...]:
    """Return the way to give the one stored member the name that the others are tied to."""
    if group.source is None or len(group.stored_names) != 1 or group.stored_names[0] not in group.names:
        return ()
    return (Edit("tied", None, True, (Step("rename-tensor", (group.stored_names[0], group.source)),)),)


def drop_edits(names: tuple[str, ...]) -> tuple[Edit, ...]:
    """Return the way to store a tensor once whose equal copies have other names."""
    return (Edit("tied", None, True, drop_steps(names)),)


def entries_moved(checkpoint: Checkpoint, index: str, names: list[str]) -> tuple[Edit, ...]:
    """Return the way to give names to the one shard that holds each; none where that is not one."""
    holding = [[shard.path for shard in checkpoint.shards if name in shard.entries] for name in names]
    if not all(len(paths) == 1 for paths in holding):
        return ()
    moves = zip(names, (paths[0] for paths in holding), strict=True)
    return (Edit("moved", None, True, tuple(Step("set-config", (), index, ("weight_map", n), p) for n, p in moves)),)


def _under(group: Group, groups: tuple[Group, ...]) -> list[Group]:
    """Return the groups that the same flag ties, the group itself among them."""
    alike = [g for g in groups if flag_name(g) == flag_name(group) and not g.inferred and not g.forced]
    return alike if group in alike else [group, *alike]


def _stored_apart(group: Group) -> tuple[Step, ...] | None:
    """Return the steps that store what a group lacks; None where its names are others or its values leave a choice."""
    if not group.missing:
        return ()
    if not set(group.stored_names) <= set(group.names) or not group.stored_names:
        return None
    if group.source in group.stored_names:
        return copy_steps(group.source, group.missing)
    return copy_steps(group.stored_names[0], group.missing) if len(group.stored_names) == 1 else None
