"""The loader matrix of a checkpoint: each tie group put before each loader."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import reduce
from typing import TYPE_CHECKING, Any

from tiecheck.files.model_config import FLAG_KEYS, VENDOR_NAME
from tiecheck.peers.loaders.loader_rules import UNLIKE, Situation
from tiecheck.peers.loaders.mlx_lm import is_stored_in_part
from tiecheck.peers.loaders.registry import ask_loaders, loaders_of
from tiecheck.peers.loaders.transformers import FIVE, FOUR
from tiecheck.records.declared import Architecture, ModelConfig
from tiecheck.records.loaders import LoaderView
from tiecheck.records.record import Record
from tiecheck.records.stored import Checkpoint, Group
from tiecheck.records.words import RANDOM, Unknown
from tiecheck.stored.config_values import architecture_of
from tiecheck.stored.groups import BY_MLX, build_groups
from tiecheck.stored.members import compare_members
from tiecheck.stored.older_names import as_older_reads
from tiecheck.tables.architectures import load_older, older_has

if TYPE_CHECKING:
    from tiecheck.records.files import LoadProblem


def loader_views(  # noqa: PLR0913, PLR0917  # what a load hangs on
    config: ModelConfig | None,
    architecture: Architecture,
    checkpoint: Checkpoint,
    groups: tuple[Group, ...],
    problems: tuple[LoadProblem, ...] = (),
    judge_for: tuple[str, ...] = (),
) -> tuple[LoaderView, ...]:
    """Ask every loader of the matrix what it makes of every group.

    The architecture is that of transformers 5, and the groups are compared as far as they are to be. Views come in the
    matrix's order, each loader's in that of the groups. The problems are what ends a whole load, whatever its ties.
    A release of transformers 5 that `judge_for` names has views of its own.
    """
    if config is not None and config.path == VENDOR_NAME:  # which transformers and most others do not look for
        return ask_loaders((Situation(config, architecture, g, None) for g in groups), loaders_of(("vllm",)))
    situations = tuple(_situations(config, architecture, checkpoint, groups))
    views = _all_or_none(ask_loaders(situations, loaders_of(), judge_for)) if situations else ()
    unproven = {group.names: tuple(_unproven(config, architecture, checkpoint, group)) for group in groups}
    views = tuple(reduce(_held_back, unproven.get(view.names, ()), view) for view in views)
    form = config.data.get("quantization") if config is not None else None
    parts = {g.names for g in groups if any(is_stored_in_part(form, checkpoint, name) for name in g.names)}
    promised = {g.names for g in groups if any(n in checkpoint.weight_map and n not in checkpoint for n in g.missing)}
    views = tuple(_left_on_meta(view) if view.names in promised else view for view in views)
    unfit = "a packed matrix of which a part is not stored, or does not fit"
    stopped: dict[str, Any] = {"outcome": "crash", "message": unfit}
    views = tuple(v._replace(**stopped) if v.loader == "mlx-lm" and v.names in parts else v for v in views)
    for problem in (one for one in problems if one.kind != "moved"):
        views = tuple(_stopped(view, problem) for view in views)
    odd = next((f for f in config.flags if not isinstance(f.value, bool)), None) if config else None
    if odd is None:
        return views
    reason = f"{odd.dotted} is neither true nor false, and what it takes that for was not read"
    return tuple(
        view if view.loader == "transformers" else view._replace(outcome="unknown", message=reason, ties=None)
        for view in views
    )


def _left_on_meta(view: LoaderView) -> LoaderView:
    """Return what 4.57 makes of a member at random as it ends where the index names it, and its shard lacks it."""
    if (view.loader, view.line) != ("transformers", "4.57") or view.outcome not in RANDOM:
        return view
    why = "the index names it, so that it stays on the meta device without a word, and the first forward pass fails"
    return view._replace(outcome="crash", message=why)


def _all_or_none(views: tuple[LoaderView, ...]) -> tuple[LoaderView, ...]:
    """Return the views with what a group that raises, or may, does to the others: a load that raises loads none."""
    for own in (FOUR, FIVE):
        message = own.shapes[1]
        line = "5" if own is FIVE else "4.57"
        said = {view.message for view in views if (view.loader, view.line) == ("transformers", line)}
        if not said & {message, UNLIKE}:
            continue
        changes: dict[str, Any] = (
            {"outcome": "crash", "message": message, "stopped": True}
            if message in said
            else {"outcome": "unknown", "message": UNLIKE, "ties": None}
        )
        views = tuple(
            view._replace(**changes)
            if (view.loader, view.line) == ("transformers", line) and view.message not in (message, UNLIKE)
            else view
            for view in views
        )
    return views


def _stopped(view: LoaderView, problem: LoadProblem) -> LoaderView:
    """Return a view as a problem of the whole load leaves it; what other loaders make of it is not known."""
    if view.loader == "transformers":
        if view.stopped or view.line not in problem.versions:  # the first problem is the one that it meets
            return view
        return view._replace(outcome=problem.outcome, message=problem.message, stopped=True)
    if problem.kind in ("format", "flag", "name", "prefix", "vendor"):
        return view
    return view._replace(outcome="unknown", message=f"not looked at where {problem.why}", ties=None)


class _Unproven(Record):
    """A reason for which an outcome that a table tells cannot be stated."""

    reason: str
    but: str
    """The one loader that was looked at with it; empty where none was."""
    engines: bool
    """True where transformers was looked at with it too."""


def _unproven(
    config: ModelConfig | None, architecture: Architecture, checkpoint: Checkpoint, group: Group
) -> Iterator[_Unproven]:
    """Yield what engines were not looked at with: a quantised form, and names that are not the class's own."""
    data = config.data if config is not None else {}
    if not set(group.stored_names) <= set(group.names):
        spelt = {*group.names, *(s for tie in architecture.ties for held in tie.spellings.values() for s in held)}
        own, why = spelt.issuperset(group.stored_names), "and what it makes of those was not read"
        by = "mlx-lm" if checkpoint.by_mlx else ""
        yield _Unproven(f"stored under other names than the class's, {why}", by, own)
    mlx = "mlx-lm" if isinstance(data.get("quantization"), dict) else ""
    lacks = group.stored == "unknown" and len(group.stored_names) < len(group.names)
    if lacks and (not group.packed or group.reason == BY_MLX):
        yield _Unproven(group.reason or "a member may be stored in another form", "", True)
    if group.packed:
        yield _Unproven("stored as packed words of a quantised form, with which it was not looked at", mlx, False)
    elif data.get("quantization_config") or mlx:
        yield _Unproven("the files are quantised, and it was not looked at with such", mlx, not mlx)


def _held_back(view: LoaderView, why: _Unproven) -> LoaderView:
    if view.loader == why.but or view.outcome == "unknown":
        return view
    if why.engines and view.loader == "transformers":
        return view
    return view._replace(outcome="unknown", message=why.reason, ties=None)


def _situations(
    config: ModelConfig | None, architecture: Architecture, checkpoint: Checkpoint, groups: tuple[Group, ...]
) -> list[Situation]:
    older = _older(config, architecture, checkpoint) if groups else ""
    return [Situation(config, architecture, group, _of(group, older, checkpoint)) for group in groups]


def _as_taken(config: ModelConfig) -> ModelConfig:
    """Return a config as 4.57 takes it: a flag that is no truth value by whether Python takes it for true."""
    if all(isinstance(flag.value, bool) for flag in config.flags):
        return config
    flags = tuple(flag._replace(value=bool(flag.value)) for flag in config.flags)
    return config._replace(flags=flags, data=_taken(config.data))


def _taken(data: Mapping[str, Any]) -> dict[str, Any]:
    made = {key: _taken(value) if isinstance(value, dict) else value for key, value in data.items()}
    return made | {key: bool(made[key]) for key in FLAG_KEYS if key in made}


class _Older(Record):
    """A group as the class of transformers 4.57 has it, and what transformers 5 calls its members."""

    group: Group
    newer: Mapping[str, str]


def _older(
    config: ModelConfig | None, architecture: Architecture, checkpoint: Checkpoint
) -> tuple[_Older, ...] | str | None:
    """Return the groups of 4.57's class, under its own names; no byte is read for them."""
    if not architecture.known:
        return _unknown_class(config, architecture)
    if not older_has(architecture.class_name, config.model_type if config else None):
        return None
    config = _as_taken(config) if config else None
    data = config.data if config else None
    older = architecture_of(config, older=True) if config else load_older(architecture.class_name, None)
    if not older.known or (data or {}).get("torchscript") is True:  # it copies weights then, and shares none
        return "4.57 copies where torchscript is true, and what of that was not asked" if older.known else older.origin
    if not older.ties and not (older.embedding and older.head):
        return "4.57 ties nothing in this class, and what it calls its parameters is not known"
    found = build_groups(config, older, as_older_reads(checkpoint, older), "never")
    if isinstance(found, Unknown):
        return found.reason
    if older.repairs:
        found = tuple(_repaired(group) for group in found)
    found = tuple(_sourceless(group, older) for group in found)
    newer = {tie.names: {name: name for name in tie.names} | dict(tie.newer) for tie in older.ties}
    return tuple(_Older(group, newer[group.names]) for group in found)


def _unknown_class(config: ModelConfig | None, architecture: Architecture) -> str:
    """Tell why nothing is known of a class, and which one may have been meant."""
    unknown = f"does not have {architecture.class_name}" in architecture.origin
    told = "the class is not transformers' own, and its code was not run" if unknown else architecture.origin
    if config is None or config.remote_code or (config.class_name and not unknown):
        return told
    from tiecheck.tables.class_names import class_hint

    return told + class_hint(config.class_name, config.model_type)


def _sourceless(group: Group, older: Architecture) -> Group:
    """Leave open a group that 4.57 ties in code with every member declared a target (FSMT's output projection).

    A stored bias that the class's own code takes for the others stands for a source that is not stored, and of a pair
    for one that is (RoBERTa's `self.bias = self.decoder.bias`). What is not tied has no source, and the embedding
    stands for it.

    Where the source is the input embedding, or the other of a pair is the head, it is loaded all the same.
    """
    if group.declared is False and older.embedding in group.names:
        return group._replace(source=older.embedding)
    taken = next((name for name in group.names if name in older.takes and name not in group.missing), None)
    if taken is not None and (group.source in group.missing or len(group.names) == 2):
        return group._replace(source=taken)
    headed = len(group.names) == 2 and older.head in group.names and group.source != older.head
    alike = group.kind == "parameter" and group.source != older.embedding and not headed
    if not alike or not all(any(re.search(target, name) for target, _ in older.declared) for name in group.names):
        return group
    return group._replace(
        declared=None, reason="4.57 declares every member as a target, and which it loads is not known"
    )


def _repaired(group: Group) -> Group:
    """Leave open a group of a class that looks after missing members itself: what it makes of them was not asked."""
    if group.declared or not group.missing or not group.stored_names:
        return group
    return group._replace(declared=None, reason="its class looks after missing members with code of its own")


def _of(group: Group, older: tuple[_Older, ...] | str | None, checkpoint: Checkpoint) -> tuple[Group, ...] | str | None:
    """Return the older groups that share a member, by name or by what is stored, with the comparison that was made."""
    if older is None or isinstance(older, str):
        return older
    names, stored = set(group.names), set(group.stored_names)
    same = (o for o in older if not names.isdisjoint(o.newer.values()) or not stored.isdisjoint(o.group.stored_names))
    found = tuple(same)
    if any(_crosses(other, names) for other in found):
        return "4.57 ties some of its members to a parameter outside the group"
    return tuple(_compared(_shared(other, names), group, checkpoint) for other in found)


def _crosses(other: _Older, names: set[str]) -> bool:
    """Return True if 4.57 ties a part of a group to what is no member of it (Udop's biases, T5Gemma's head)."""
    theirs = set(other.newer.values())
    return other.group.declared is True and bool(theirs & names) and not (theirs <= names or names <= theirs)


def _shared(other: _Older, names: set[str]) -> Group:
    """Return an older group that is not tied, without the members that are no matter of the newer group."""
    kept = tuple(name for name in other.group.names if other.newer[name] in names)
    if other.group.declared is not False or not kept:
        return other.group
    return other.group._replace(names=kept, missing=tuple(n for n in other.group.missing if n in kept))


def _compared(other: Group, group: Group, checkpoint: Checkpoint) -> Group:
    """Return an older group with the comparison of the newer one, where both are about the same tensors.

    What is a part of a group whose members differ is compared by itself, if the bytes were read before.
    """
    if other.stored == "separate" and other.comparison is None and other.stored_names == group.stored_names:
        return other._replace(relation=group.relation)
    if other.stored != "unknown" or len(other.stored_names) < 2 or len(other.tensors) < len(other.stored_names):
        return other
    if not set(other.stored_names) <= set(group.stored_names):
        return other._replace(reason="4.57 ties them with more that is stored, of which the larger group tells")
    if len(other.stored_names) == len(group.stored_names) or group.stored == "copy":
        reason = other.reason if other.declared is None else group.reason
        return other._replace(stored=group.stored, comparison=group.comparison, reason=reason)
    if group.comparison is None or not other.declared:
        return other
    return compare_members(other._replace(reason=None), checkpoint, "always" if checkpoint.remote else "auto")
