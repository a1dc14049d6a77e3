"""The placement layer of one target: the tools' plans, or a given map, and where each tie group comes to lie.

`planners` runs them, `load_outcomes` tells what a load under their map does, and where a tie does not survive
it `proposal` finds a map of our own.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

from tiecheck.config.options import Config
from tiecheck.errors import UsageError
from tiecheck.live.build import Built
from tiecheck.live.wrappers import without_wrappers
from tiecheck.peers.views.registry import ask_tools, would_warn
from tiecheck.placement.asked.fit import check_disk, check_map, check_nesting, check_patterns, check_room, warned_keys
from tiecheck.placement.load_outcomes import Source, loads_of
from tiecheck.placement.model import Loader, NoTreeError, Subject, device_lookup, model_of
from tiecheck.placement.planners.plans import plans_and_groups
from tiecheck.placement.planners.running import machine_memory
from tiecheck.placement.proposal.propose import amended_map, propose_map
from tiecheck.records.live import LiveModel
from tiecheck.records.placement import Ask, Placement, Plan, Proposal
from tiecheck.records.words import TIED, Unknown

RENAMING = frozenset({"PEFT", "FSDP", "FSDP2", "DeepSpeed"})
"""Wrappers under which a model's modules have other names, or are sharded already."""

BOUNDLESS = 2**60
"""Bytes of a device of which no limit is known."""


def collect_placement(
    built: Built | Unknown, live: LiveModel | Unknown, source: Source, config: Config
) -> Placement | Unknown:
    """Return what the placement that was asked for does to the ties of a model, or why that is unknown.

    Raises:
        UsageError: The map that was given leaves modules out, or puts more on a device than it has.
    """
    if isinstance(built, Unknown) or isinstance(live, Unknown):
        return built if isinstance(built, Unknown) else Unknown("the live layer is unknown")
    wrapped = RENAMING.intersection(live.wrappers)
    if wrapped:
        return Unknown(f"the model is wrapped by {', '.join(sorted(wrapped))}; plan for the model before it is")
    subject = _subject(config, source, built, live)
    if isinstance(subject, Unknown):
        return subject
    try:
        return _placement(config, source, subject, live)
    except NoTreeError as reason:
        return Unknown(str(reason))


def _placement(config: Config, source: Source, subject: Subject, live: LiveModel) -> Placement | Unknown:
    plans = _plans(config, subject, source)
    if not plans:
        return Unknown("accelerate is not installed, and without it nobody plans")
    loads, untold, followed = loads_of(source, subject, plans[0])
    placement = Placement(
        strategy="map" if isinstance(config.device_map, Mapping) else str(config.device_map),
        origin=config.device_map_from,
        memory=_memory(config),
        plans=plans,
        proposal=None,
        loads=loads,
        warns=would_warn(ask_tools(subject.module, tools=("accelerate",))) if _may_warn(live) else (),
        installed=getattr(sys.modules.get("accelerate"), "__version__", None),
        untold=untold,
        followed=followed,
    )
    if not _unsound(placement):
        return placement
    blocks = subject.model.blocks
    placement = placement._replace(plans=tuple(plan._replace(blocks=blocks(plan.device_map)) for plan in plans))
    proposal = _proposal(config, subject, placement)
    proposal = proposal._replace(blocks=blocks(proposal.device_map))
    under = plans[0]._replace(device_map=proposal.device_map)
    fails = any(load.form == "raises" for load in loads_of(source, subject, under).loads)
    return placement if fails else placement._replace(proposal=proposal)


def _subject(config: Config, source: Source, built: Built, live: LiveModel) -> Subject | Unknown:
    natural: Loader = "transformers" if built.origin != "given" and live.library is not None else "accelerate"
    planned = None
    if natural == "transformers" and source.root is not None and source.model is not None:
        from tiecheck.live.transformers.loading import build_for_plan

        strategy = config.device_map if isinstance(config.device_map, str) else "auto"
        found = build_for_plan(source.root, source.model, config.dtype, config.trust_remote_code, strategy)
        if isinstance(found, Unknown):
            return found
        planned = found
    module = without_wrappers(built.module)
    return Subject(module, planned, model_of(module, live, planned.dtype if planned else config.dtype), natural)


def _plans(config: Config, subject: Subject, source: Source) -> tuple[Plan, ...]:
    """Return the given map as a plan, or those of the tools, that of the natural loader first."""
    if isinstance(config.device_map, Mapping):
        return (_given(config.device_map, config, subject, source),)
    dtype = subject.planned.dtype if subject.planned else config.dtype
    ask = Ask(str(config.device_map), _memory(config), config.no_split, dtype)
    planned = subject.planned
    found = plans_and_groups(
        subject.module,
        ask,
        planned=planned.module if planned else None,
        quantizer=planned.quantizer if planned else None,
        seeds=config.hash_seeds,
    )
    spread = [
        subject.model.spread(plan, seen, counted=config.dtype is None)
        for plan, seen in sorted(found, key=lambda one: one[0].tool != subject.natural)
    ]
    return tuple(spread)


def _given(device_map: Mapping[str, Any], config: Config, subject: Subject, source: Source) -> Plan:
    """Return the map that somebody gave, held against the model."""
    model, place = subject.model, config.device_map_from.rstrip("=")
    modules = model.modules()
    names = model.names()
    if subject.natural == "transformers":
        check_patterns(device_map, names, place)
    remarks = check_map(device_map, names, modules, model.alias_paths(), loader=subject.natural, place=place)
    loaded = subject.natural == "transformers" or config.checkpoint is not None
    check_nesting(device_map, {*modules, *model.alias_paths()}, loaded=loaded, place=place)
    if subject.natural == "accelerate":
        check_disk(device_map, source.checkpoint.format if source.checkpoint else None, place)
    logged = warned_keys(device_map, {*modules, *names}, loader=subject.natural)
    plan = Plan("given", "", "map", dict(device_map), logged=logged, remarks=remarks)
    plan = model.spread(plan, None, subject.natural)
    check_room(plan.used, _memory(config), place)
    return plan


def _memory(config: Config) -> Mapping[int | str, int] | None:
    """Return the memory that was given, in bytes (`placing.options` has read it)."""
    return config.max_memory  # type: ignore[return-value]  # read already


def _may_warn(live: LiveModel) -> bool:
    """Return whether any version of accelerate may say that nothing is tied, and be worth a word.

    It says so of a `PreTrainedModel` in which it finds no tie at all. Every version finds one Parameter in two modules
    that are not one.
    """
    if live.library is None:
        return False
    ties = [tie for tie in live.ties if not tie.buffer]
    plain = (tie.names for tie in ties if tie.kind == "parameter" and len(tie.names) == 2)
    if any(len({name.rpartition(".")[0] for name in names}) == 2 for names in plain):
        return False
    return bool(ties or live.declared or live.flag)


def _unsound(placement: Placement) -> bool:
    """Return whether there is something that a map of our own would mend."""
    return any(load.form == "raises" for load in placement.loads) or any(
        plan.crash is not None
        or plan.moved
        or (plan.seeds is not None and (plan.seeds.maps > 1 or plan.seeds.crashes))
        or any(len(set(group.devices)) > 1 for group in plan.placed)
        for plan in placement.plans
    )


def _proposal(config: Config, subject: Subject, placement: Placement) -> Proposal:
    """Return a map that keeps the groups together which are one tensor, or will be once they are loaded."""
    memory = placement.memory
    together = [
        group.names
        for group in subject.model.groups
        if group.kind in TIED or (group.declared and subject.natural == "transformers")
    ]
    if placement.strategy == "map":
        changed = _amended(placement.plans[0], together, subject)
        if changed is not None and changed.device_map != placement.plans[0].device_map and _fits(changed.used, memory):
            return changed
        computing = [device for device in placement.plans[0].device_map.values() if device not in ("disk", "meta")]
        memory = memory or dict.fromkeys(computing or ["cpu"], BOUNDLESS)
    own = getattr(subject.module, "_no_split_modules", None) or ()
    no_split = config.no_split if config.no_split is not None else tuple(own)
    strategy = "sequential" if placement.strategy == "map" else placement.strategy
    return propose_map(subject.model.tree, together, memory or machine_memory(), no_split, strategy=strategy)


def _amended(plan: Plan, together: list[tuple[str, ...]], subject: Subject) -> Proposal | None:
    """Return the given map with the keys changed that part a group."""
    model, natural = subject.model, subject.natural
    found = amended_map(plan.device_map, together, partial(device_lookup, loader=natural))
    if found is None:
        return None
    return Proposal(found, model.used(device_lookup(found, natural)), 0, None)


def _fits(used: Mapping[str, int], memory: Mapping[int | str, int] | None) -> bool:
    try:
        check_room(used, memory)
    except UsageError:
        return False
    return True
