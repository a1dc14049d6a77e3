"""The words of tied-group-split-across-devices: what is put where, what comes of it, and the keys to change."""

from __future__ import annotations

from typing import Literal

from tiecheck.placement.map_lookup import device_in, key_of
from tiecheck.records.live import LiveModel
from tiecheck.records.placement import Placed, Placement, Plan
from tiecheck.records.report import Location
from tiecheck.records.words import TIED
from tiecheck.rules.placement.plans import by_class, declaring, keys_to_set, loader, proposed, title, where
from tiecheck.wording import listed, size

APART = (
    "Tied parameters are on different devices: {...}. Please modify your custom device map or set `device_map='auto'`."
)
"""`check_tied_parameters_on_same_device` of accelerate 1.15, which `load_checkpoint_in_model` calls and
`dispatch_model` does not, and of transformers 5.23 (`integrations/accelerate.py`), whose planner alone calls it: never
for a given map."""

MIXED = "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cuda:1!"
"""torch, from a module whose weight is on one device and whose input is on another."""

OFFLOADED = frozenset({"cpu", "disk", "meta"})
"""Devices that accelerate's hooks bring the weights from, to the first that computes; on its own `cpu` computes."""


def put(plan: Plan) -> str:
    """Subject and verb of the sentence that says what is put where."""
    return "The given map puts" if plan.tool == "given" else f"{title(plan)} puts"


def splits(others: list[tuple[Plan, Placed]]) -> str:
    """The verb for the other plans that split the same group."""
    return "split" if len(others) > 1 else "splits"


def one(group: Placed) -> str:
    """What the members are to each other."""
    of = f" of {size(group.nbytes)}" if group.nbytes is not None else ""
    return f"one tensor{of}" if group.kind in TIED else f"declared as one tensor{of}, which from_pretrained makes them"


def once(group: Placed, live: LiveModel) -> bool:
    """Whether the names are one module under several paths of one parent, which is placed once whatever the map says.

    accelerate 1.15 walks `named_children()`, which lists it under its first path: the key of the other does nothing.
    Under two parents it is placed twice, and its inputs are sent to another device than its weight.
    """
    return group.kind == "module" and any(a.siblings and set(group.names) <= set(a.names) for a in live.aliases)


def loses(plan: Plan, group: Placed, placement: Placement, live: LiveModel) -> bool:
    """Whether `from_pretrained` (5.23) makes different parameters of a group by any map: no class declares it."""
    tool = plan.tool if plan.tool != "given" else loader(placement, live)
    said = any(by_class(claim) and len(set(claim.names) & set(group.names)) > 1 for claim in live.declared)
    return tool == "transformers" and group.kind == "parameter" and not (group.declared and said)


def follows(plan: Plan, group: Placed, placement: Placement, live: LiveModel) -> str:
    """What comes of it, by the devices.

    Run with accelerate 1.15: `dispatch_model` moves each member, ties them again to the first by name that is not
    offloaded, and sends the inputs of each module to the device of the map. A module that is offloaded to the CPU or
    to disk keeps a copy there, which is read again in each forward pass.
    """
    places = len({device for device in group.devices if device})
    if loses(plan, group, placement, live):
        return f"no class declares that, so from_pretrained makes {places} parameters of them, one on each device"
    if "meta" in group.devices:
        return "a module on meta gets no values, and a forward pass over it raises or gives none"
    computing = {device for device in group.devices if device and device not in OFFLOADED}
    if len(computing) > 1:
        kept = next(device for device in group.devices if device in computing)
        alone = "one of them" if group.kind == "module" else kept
        return f'dispatch_model leaves it on {alone} alone, and forward raises "{MIXED.partition(",")[0]}"'
    more = f", {size(group.nbytes * (places - 1))} more than a tie takes" if group.nbytes is not None else ""
    return f"it is held in {places} places{more}, and an update of one copy does not reach the other"


def told(plan: Plan, group: Placed, placement: Placement, live: LiveModel) -> str:
    """Why the planner split it, and who says so at the load."""
    by_accelerate = plan.tool == "accelerate" or (plan.tool == "given" and loader(placement, live) == "accelerate")
    blind = f"{plan.tool} {plan.version} does not see this tie. " if plan.tool != "given" and not group.seen else ""
    if plan.tool == "transformers" and not group.seen and not group.declared:
        blind = "transformers plans from declarations alone and does not see this tie. "
    if by_accelerate:
        return f'{blind}Only load_checkpoint_and_dispatch warns ("{APART.partition(":")[0]}"), dispatch_model does not.'
    if plan.tool == "transformers" and group.seen:
        return f'{blind}from_pretrained warns ("{APART.partition(":")[0]}") and goes on.'
    return f"{blind}from_pretrained does not warn."


def places(at: list[tuple[Plan, Placed]], placement: Placement) -> tuple[Location, ...]:
    """The keys of each map that place the names."""
    found: list[Location] = []
    for plan, group in at:
        keys = dict.fromkeys(key_of(plan.device_map, name) for name in group.names)
        note = ", ".join(f"{key!r}: {plan.device_map[key]!r}" for key in keys if key is not None)
        path = placement.origin if plan.tool == "given" else f"{plan.tool} {plan.version}, {plan.strategy}"
        role: Literal["primary", "related"] = "related" if found else "primary"
        found.append(Location(path, None, None, role, note or where(group.names, group.devices), "tool"))
    return tuple(found)


def together(plan: Plan, group: Placed, placement: Placement, live: LiveModel) -> str:
    """The map that keeps the group together: the few keys to change in a given one, or the proposal."""
    declare = ""
    if loses(plan, group, placement, live):
        declare = f"{declaring(group.names)}: then from_pretrained ties them and its planner keeps them together. "
        if plan.tool != "given":
            return declare.strip()
    keys = keys_to_set(placement) if plan.tool == "given" else None
    if keys is not None:
        return f"{declare}{keys}"
    said = proposed(placement, group.names)
    if said is None:
        homes = listed(tuple(repr(home) for home in dict.fromkeys(name.rpartition(".")[0] for name in group.names)))
        said = f"Give {homes} one device in the map, {device_in(plan.device_map, group.names[-1])!r} for instance."
    return f"{declare}{said}"
