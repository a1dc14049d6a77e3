"""The outcome of a load under a plan's map for each tie, and from a report the map to load with and its promises."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from tiecheck.placement.map_lookup import by_accelerate
from tiecheck.records.declared import Architecture, ModelConfig
from tiecheck.records.placement import PlacedLoad, Placement, Plan, Promise
from tiecheck.records.stored import Checkpoint, Group
from tiecheck.records.words import TIED, Unknown

if TYPE_CHECKING:
    from torch import nn

    from tiecheck.placement.loads.follow import Load, LoadGroup
    from tiecheck.placement.model import Subject
    from tiecheck.records.report import TargetReport


class Source(NamedTuple):
    """Where the model is from, beside the module itself."""

    root: str | None = None
    """Its directory; None for a module that somebody gave."""
    model: ModelConfig | None = None
    """Its config."""
    checkpoint: Checkpoint | None = None
    """The files that it will be loaded from."""
    groups: tuple[Group, ...] = ()
    """The form in which that stores the groups that are declared or suspected, as far as it is known."""
    architecture: Architecture | None = None
    """The architecture that the config names."""


class Told(NamedTuple):
    """The outcome of a load for the groups of a model."""

    loads: tuple[PlacedLoad, ...] = ()
    """The groups that do not come out as they were meant."""
    untold: tuple[str, ...] = ()
    """Reasons for which it cannot be told what becomes of a group."""
    followed: tuple[tuple[str, ...], ...] = ()
    """The names of every group that was followed."""


def loads_of(source: Source, subject: Subject, plan: Plan) -> Told:
    """Return what the natural load does to each tie group under a plan, and why it cannot be told of some."""
    checkpoint = source.checkpoint
    if not plan.device_map:
        return Told()
    from tiecheck.placement.loads.follow import Load, loads_under

    if subject.natural == "transformers":
        if checkpoint is None or subject.planned is None:
            return Told()
        groups: tuple[LoadGroup, ...] = _declared(source, checkpoint, subject.planned.module)
        load = Load("from_pretrained", checkpoint.format)
    elif checkpoint is None and _stays(plan):
        return Told()
    else:
        groups, load = _given(subject.module, checkpoint)
    found = loads_under(dict(plan.device_map), groups, load)
    if subject.planned is not None and any(isinstance(one, Unknown) or one.at == "forward" for one in found):
        from tiecheck.trace.forward import called_modules

        load = load._replace(called=called_modules(subject.planned.module))
        found = loads_under(dict(plan.device_map), groups, load)
    lost = _undeclared(subject, checkpoint, plan) if subject.planned is not None and checkpoint is not None else ()
    return Told(
        (*(one for one in found if isinstance(one, PlacedLoad)), *lost),
        tuple(dict.fromkeys(one.reason for one in found if isinstance(one, Unknown))),
        tuple(group.names for group in groups),
    )


def _declared(source: Source, checkpoint: Checkpoint, module: Any) -> tuple[LoadGroup, ...]:
    """Return the groups that `from_pretrained` ties, with what the checkpoint stores of them."""
    from tiecheck.placement.loads.slots import declared_groups

    pairs = dict(getattr(module, "all_tied_weights_keys", None) or {})
    ties = source.architecture.ties if source.architecture is not None else ()
    spelled = {name: spec.spellings.get(name, ()) for spec in ties for name in spec.names}
    names = {*pairs, *pairs.values()}
    stored = {n for n in names if n in checkpoint or any(s in checkpoint for s in spelled.get(n, ()))}
    equal = {}
    for group in source.groups:
        if group.stored in ("copy", "separate"):
            equal[group.names] = group.stored == "copy"
    return declared_groups(pairs, stored, equal)


def _undeclared(subject: Subject, checkpoint: Checkpoint, plan: Plan) -> tuple[PlacedLoad, ...]:
    """Return the undeclared ties of a class, made in its `__init__`, of which the checkpoint stores some members only.

    `from_pretrained` (transformers 5.23) gives each stored name a Parameter of its own, and draws the others at random;
    a class with a `tie_weights` of its own may tie them again.
    """
    from transformers import PreTrainedModel

    from tiecheck.placement.loads.follow import TRANSFORMERS

    module: Any = subject.planned.module if subject.planned is not None else None
    if type(module).tie_weights is not PreTrainedModel.tie_weights:
        return ()
    pairs = dict(getattr(module, "all_tied_weights_keys", None) or {})
    declared = {*pairs, *pairs.values()}
    found = []
    for group in plan.placed:
        stored = tuple(name for name in group.names if name in checkpoint)
        partly = 0 < len(stored) < len(group.names)
        if group.kind == "parameter" and partly and declared.isdisjoint(group.names) and _one(module, group.names):
            devices = tuple(device or "" for device in group.devices)
            found.append(
                PlacedLoad(
                    "transformers",
                    "from_pretrained",
                    "untied",
                    group.names,
                    devices,
                    stored,
                    message=None,
                    harmless=False,
                    versions=TRANSFORMERS,
                )
            )
    return tuple(found)


def _one(module: Any, names: tuple[str, ...]) -> bool:
    """Return whether some names are one parameter of a module."""
    try:
        return len({id(module.get_parameter(name)) for name in names}) == 1
    except AttributeError:
        return False


def _stays(plan: Plan) -> bool:
    """Return whether no group has a member that is offloaded, or on another device than the others."""
    return all(len(set(one.devices)) == 1 and one.devices[0] not in ("disk", "meta") for one in plan.placed)


def _given(module: nn.Module, checkpoint: Checkpoint | None) -> tuple[tuple[LoadGroup, ...], Load]:
    """Return the groups that accelerate sees in a live module, and how it comes to its devices."""
    from tiecheck.placement.loads.follow import Load
    from tiecheck.placement.loads.slots import live_groups

    on_meta = all(parameter.is_meta for parameter in module.parameters())
    if checkpoint is None:
        return (() if on_meta else live_groups(module)), Load("dispatch_model", on_meta=on_meta)
    stored = set(checkpoint.names())
    return live_groups(module, stored), Load("load_checkpoint_and_dispatch", checkpoint.format, on_meta=on_meta)


HURTS = frozenset({"raises", "overwrites", "untied"})
"""Forms of a load that break a group (`LoadForm`); to hold it twice costs memory alone."""


def is_sound(placement: Placement) -> bool:
    """Return whether the plan that the natural loader follows keeps every group together and loads it."""
    if not placement.plans or not placement.plans[0].device_map:
        return False
    apart = any(len(set(group.devices)) > 1 or None in group.devices for group in placement.plans[0].placed)
    return not apart and not any(load.form in HURTS and not load.harmless for load in placement.loads)


def chosen_map(placement: Placement) -> dict[str, int | str]:
    """Return the map to load with: the tool's own where it is sound, else the proposal; empty where there is neither.

    A plan that is not sound stands where nothing better is known.
    """
    own: Mapping[str, int | str] = placement.plans[0].device_map if placement.plans else {}
    if is_sound(placement) or placement.proposal is None or not placement.proposal.device_map:
        return dict(own)
    return dict(placement.proposal.device_map)


def promises_of(target: TargetReport, device_map: Mapping[str, int | str]) -> tuple[Promise, ...]:
    """Return one promise of a load under a map for each group that is tied in the module, or that the load will tie."""
    placement = target.placement
    if placement is None:
        return ()
    plan = next((one for one in placement.plans if one.placed), None)
    found = []
    for group in plan.placed if isinstance(plan, Plan) else ():
        if group.kind in TIED or (group.declared and target.type != "module"):
            devices = tuple(by_accelerate(device_map, name) for name in group.names)
            found.append(Promise(group.names, devices))
    return tuple(found)
