"""The fixes of the rules on stored groups, as edits: each only where what the files hold tells that it is right.

Rules import it where they have something to fix: a pass does not pay for it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import product
from typing import TYPE_CHECKING

from tiecheck.records.edits import Edit, Step, copy_steps, drop_steps, set_flags
from tiecheck.records.loaders import LoaderView
from tiecheck.records.stored import Checkpoint, Group
from tiecheck.rules.stored.groups import flag_name, flags_read, main_member, reads_alike
from tiecheck.wording import listed

if TYPE_CHECKING:
    from tiecheck.records.files import Duplicate

LEFT_OVER = "the difference is left over from a conversion"
TRAINED_APART = "both were trained"
TRAINED_TIED = "the model was trained tied"
TRAINED_SO = "it was trained with the flag as it is"

PLAIN = ("float64", "float32", "float16", "bfloat16")
"""Element types of weights that are not quantised."""


def apart_or_one(
    group: Group,
    groups: tuple[Group, ...],
    flags: Iterable[str],
    *,
    disagree: bool = False,
    stay: Collection[str] = (),
) -> tuple[Edit, ...]:
    """Return both ways out of a tied group whose stored values differ: no flag parts a group that the class forces.

    The member that stays is the one that the others are redirected to, since every loader looks for it. Flags are those
    that loaders read for it, dotted; the same untie more `groups`. `disagree`: they do not all say true yet.
    `stay`: members that a loader keeps apart, and makes at random where they are not stored (the head of a T5).
    """
    written = sorted(flags)
    kept = main_member(group)
    edits = []
    others = any(other.stored == "separate" for other in _under(group, groups) if other.names != group.names)
    sure = kept is not None and (group.source is None or group.source == kept) and not (disagree and others)
    if sure and _is_plain(group):
        said = set_flags(written, value=True) if disagree else ()
        gone = (name for name in group.stored_names if name != kept and name not in stay)
        edits.append(Edit("tied", LEFT_OVER, False, (*said, *drop_steps(gone))))
    if not group.forced:
        also = (g for g in groups if flag_name(g) in written and not g.inferred and not g.forced)
        stored = [_stored_apart(other) for other in dict.fromkeys((*_under(group, groups), *also))]
        steps = dict.fromkeys(step for found in stored for step in found or ())
        if None not in stored and len({step.names[-1] for step in steps}) == len(steps):
            edits.append(Edit("untied", TRAINED_APART, True, (*set_flags(written, value=False), *steps)))
    return tuple(edits)


def one_tensor(
    group: Group, groups: tuple[Group, ...], flags: Iterable[str], when: str | None = TRAINED_TIED
) -> tuple[Edit, ...]:
    """Return the way to tie a group of which one tensor is stored, or the source and equal copies.

    There is none where the same flags would tie what differs.

    A tensor that may be the missing member under another name is a decision more: it would be lost by the tie.
    """
    others = (other for other in _under(group, groups) if other.names != group.names)
    copies = group.stored == "copy" and bool(group.missing) and group.source in group.stored_names
    if not (group.stored == "absent" or copies) or not group.stored_names or any(map(_loses_tied, others)):
        return ()
    steps = set_flags(sorted(flags), value=True)
    if group.source in group.missing:
        renamed = rename_edits(group)
        if not renamed:
            return ()
        steps = (*steps, *renamed[0].steps)
    if not group.strays:
        return (Edit("tied", when, True, steps),)
    stray, verb = listed(group.strays), "is" if len(group.strays) == 1 else "are"
    tied = Edit("tied", f"{TRAINED_TIED} and {stray} {verb} left over", False, (*steps, *drop_steps(group.strays)))
    if len(group.strays) > 1 or len(group.missing) > 1 or not group.astray:
        return (tied,)
    own = Step("rename-tensor", (group.strays[0], group.missing[0]))
    return (tied, Edit("untied", f"{stray} is what was trained as {group.missing[0]}", True, (own,)))


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
    """Return the fixes that all loaders understand: true where the class ties by default, else every member stored."""
    if silent:
        return either_flag(group, groups, flags_read(views))
    if reads_alike(views):
        return ()
    usual = one_tensor(group, groups, flags_read(views)) if group.default else ()
    if usual and group.forced:  # a T5, whose flag says whether the logits are scaled too
        return (*(edit._replace(when=TRAINED_SO) for edit in every_member(group)), *usual)
    return usual or every_member(group)


def every_member(group: Group) -> tuple[Edit, ...]:
    """Return the way to store every member that is not, as a copy of the one that the class ties it to."""
    steps = _stored_apart(group)
    return (Edit("stored", None, True, steps),) if steps else ()


def rename_edits(group: Group) -> tuple[Edit, ...]:
    """Return the way to give the one stored member, or the one embedding, the name that the others are tied to."""
    several = len(group.stored_names) > 1
    tables = [name for name in group.stored_names if name in group.names and ("embed" in name or not several)]
    if group.source is None or len(tables) != 1 or (several and group.source in tables) or not _is_plain(group):
        return ()
    when = f"{tables[0]} is the embedding that all share" if several else None
    return (Edit("renamed" if several else "tied", when, True, (Step("rename-tensor", (tables[0], group.source)),)),)


def once_prefixed(group: Group) -> tuple[Edit, ...]:
    """Return the way to take off the base model's prefix where it stands twice (`model.model.`): every name has it."""
    for stored, name in product(group.stored_names, group.names):
        prefix = stored.removesuffix(name)
        if prefix not in ("", stored) and name.startswith(prefix):
            return (Edit("stripped", None, True, (Step("strip-prefix", (prefix,)),)),)
    return ()


def own_name(group: Group) -> tuple[Edit, ...]:
    """Return the way to give the one stored tensor the class's name where it has a name that only some loaders know."""
    if twice := once_prefixed(group):
        return twice
    if len(group.stored_names) != 1 or group.stored_names[0] in group.names or not group.source or not _is_plain(group):
        return ()
    (stored,) = group.stored_names
    if group.source.endswith(f".{stored}") and not group.lone:
        return ()  # every name of the file lacks the prefix, and one alone with it would lose all others
    return (Edit("renamed", None, True, (Step("rename-tensor", (stored, group.source)),)),)


def drop_edits(group: Group, kept: str) -> tuple[Edit, ...]:
    """Return the way to store a tensor once whose equal copies have other names."""
    return (Edit("tied", None, True, _one_of_equal(group, kept)),) if _is_plain(group) else ()


def _one_of_equal(group: Group, kept: str) -> tuple[Step, ...]:
    """Return the steps that leave one of equal copies, under the name that the others are tied to."""
    renamed = (Step("rename-tensor", (kept, group.source)),) if group.source in group.missing and group.source else ()
    return (*drop_steps(name for name in group.stored_names if name != kept), *renamed)


def _is_plain(group: Group) -> bool:
    """Tell whether what is stored are weights as they are; of packed ones other tensors, of other names, are a part."""
    return all(tensor.dtype in PLAIN for tensor in group.tensors)


def _loses_tied(group: Group) -> bool:
    """Tell whether a group that the same flag ties would lose a member by it, or is lost altogether."""
    return group.stored in {"separate", "unknown"} or not group.stored_names


def shape_edits(group: Group, groups: tuple[Group, ...], flags: Iterable[str]) -> tuple[Edit, ...]:
    """Return the ways to make one tensor of members of different shapes or dtypes (arguments as of `apart_or_one`).

    Of two that hold the same values the one stays that fits the class, and of two dtypes the wider one.
    """
    relation, main = group.relation, main_member(group)
    alike, one_shape = relation is not None and relation.alike, len({tensor.shape for tensor in group.tensors}) == 1
    if one_shape and not alike:
        return apart_or_one(group, groups, flags)
    if main is None or (group.source is not None and group.source != main) or not _is_plain(group):
        return ()
    fitting = [tensor for tensor in group.tensors if tensor.name not in group.unfit]
    fitting.sort(key=lambda tensor: (-tensor.nbytes if one_shape else 0, tensor.name != main))
    if not fitting:
        return ()
    kept, most = fitting[0], max(tensor.nbytes for tensor in group.tensors)
    padding = kept.nbytes == most or (relation is not None and relation.extra_constant)
    safe = relation is not None and alike and (relation.form != "padded" or padding)
    renamed = (Step("rename-tensor", (kept.name, main)),) if kept.name != main else ()
    dropped = drop_steps(tensor.name for tensor in group.tensors if tensor.name != kept.name)
    return (Edit("tied", None if safe else LEFT_OVER, safe, (*dropped, *renamed)),)


def flattened_tie(group: Group, groups: tuple[Group, ...], flags: Iterable[str]) -> tuple[Edit, ...]:
    """Return the way to tie equal copies again; none where no flag does, or where it would tie what differs."""
    kept = main_member(group)
    others = (other for other in _under(group, groups) if other.names != group.names)
    unsure = group.inert or not group.declared_by or not _is_plain(group)
    if unsure or kept is None or any(map(_loses_tied, others)):
        return ()
    steps = (*set_flags(sorted(flags), value=True), *_one_of_equal(group, kept))
    return (Edit("tied", "the model is meant to be tied", True, steps),)


def valid_flags(groups: tuple[Group, ...], flags: Iterable[str]) -> tuple[Edit, ...]:
    """Return the ways to write truth values to flags that have none: what is stored tells, else the user."""
    open_groups = [group for group in groups if not group.forced]
    if not all(group.stored_names for group in open_groups):
        return ()
    open_groups.sort(
        key=lambda group: (group.stored != "separate", -max((len(t.shape) for t in group.tensors), default=0))
    )
    return either_flag(open_groups[0], groups, flags) if open_groups else ()


def entries_put_right(checkpoint: Checkpoint, index: str, names: list[str]) -> tuple[Edit, ...]:
    """Return the way to give names of an index to the one shard that holds each, and to take out those of none."""
    holding = {name: [shard.path for shard in checkpoint.shards if name in shard.entries] for name in names}
    if any(len(paths) > 1 for paths in holding.values()):
        return ()
    steps = [Step("set-config", (), index, ("weight_map", n), paths[0]) for n, paths in holding.items() if paths]
    gone = [name for name, paths in holding.items() if not paths]
    return (Edit("listed", None, True, (*steps, *drop_steps(gone))),)


def one_of_two(found: list[Duplicate], *, equal: bool) -> tuple[Edit, ...]:
    """Return the ways to leave one of two shards the tensors that both have; of equal ones, that of the index."""
    files = [tensor.file for tensor in found[0].tensors]
    if len(files) != 2:
        return ()
    edits = []
    for kept, other in (files, reversed(files)):
        drops = tuple(Step("drop-tensor", (d.name,), other) for d in found)
        index = "model.safetensors.index.json" if kept.endswith(".safetensors") else "pytorch_model.bin.index.json"
        listed = (Step("set-config", (), index, ("weight_map", d.name), kept) for d in found if d.indexed != kept)
        edits.append(Edit(kept, None if equal else f"{kept} has the right values", equal, (*drops, *listed)))
    return tuple(edit for edit in edits if not equal or edit.choice == (found[0].indexed or files[-1]))


def _under(group: Group, groups: tuple[Group, ...]) -> list[Group]:
    """Return the groups that the same flag ties, the group itself among them."""
    alike = [g for g in groups if flag_name(g) == flag_name(group) and not g.inferred and not g.forced]
    return alike if group in alike else [group, *alike]


def _stored_apart(group: Group) -> tuple[Step, ...] | None:
    """Return the steps that store what a group lacks; None where its names are others or its values leave a choice."""
    if not group.missing:
        return ()
    if not set(group.stored_names) <= set(group.names) or not group.stored_names or not _is_plain(group):
        return None
    if group.source in group.stored_names:
        return copy_steps(group.source, group.missing)
    return copy_steps(group.stored_names[0], group.missing) if len(group.stored_names) == 1 else None
