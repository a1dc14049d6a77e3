"""The words and questions that the rules on placement share: whose plan it is, whom it hurts, what is split."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

from tiecheck.peers.loaders.accelerate import FINDERS
from tiecheck.placement.map_lookup import device_word, key_of
from tiecheck.records.edits import Edit, python_edit
from tiecheck.records.live import DeclaredTie, LiveClass, LiveModel
from tiecheck.records.loaders import LoaderView
from tiecheck.records.placement import Device, LoadForm, Placed, PlacedLoad, Placement, Plan, Proposal
from tiecheck.records.report import Location, Severity
from tiecheck.records.words import TIED, UNTIED
from tiecheck.rules.base import Role
from tiecheck.rules.cases import EMBEDDING, PAIR, live_facts
from tiecheck.wording import SHOWN, listed, size


class Loading(NamedTuple):
    """Who loads the target, and what becomes one tensor by that."""

    loader: str
    """The natural loader: `transformers` (`from_pretrained`) or `accelerate`."""
    broken: tuple[tuple[str, ...], ...]
    """The groups that a class declares, that are different parameters, and that are not stored apart."""

    def tool(self, plan: Plan) -> str:
        """Return who loads the model under a plan; under a given map that is the natural loader."""
        return self.loader if plan.tool == "given" else plan.tool

    def binds(self, group: Placed, plan: Plan) -> bool:
        """Tell whether the names of a group are one tensor once the model is loaded as the plan means it.

        accelerate ties nothing that is not tied, and `from_pretrained` leaves apart what is stored apart (5.23).
        """
        return group.kind in TIED or (self.tool(plan) == "transformers" and group.names in self.broken)


def loading_of(placement: Placement, live_class: LiveClass, declared_ties: Iterable[DeclaredTie]) -> Loading:
    """Return who loads the target: the first plan is its own.

    A given map says nothing: then it is `from_pretrained` for a class of transformers that was built from a directory,
    and else accelerate, which is what takes a map for a module that is there. A group of the user's own contract is not
    broken: no tool hears of it, and no load ties it.
    """
    first = placement.plans[0].tool if placement.plans else "given"
    if first == "given":
        built = live_class.library is not None and live_class.origin != "given"
        first = "transformers" if built else "accelerate"
    found = (claim for claim in declared_ties if claim.kind in UNTIED and claim.stored != "separate")
    return Loading(first, tuple(claim.names for claim in found if by_class(claim)))


def by_class(claim: DeclaredTie) -> bool:
    """Tell whether a class of transformers declares a group, so that `from_pretrained` and `tie_weights` tie it."""
    return any(word.endswith("._tied_weights_keys") for word in claim.by)


def plan_title(plan: Plan) -> str:
    """Return a plan in a sentence: `accelerate 1.15.0's plan`, `the given map`."""
    return "the given map" if plan.tool == "given" else f"{plan.tool} {plan.version}'s plan"


def is_aside(plan: Plan, placement: Placement) -> bool:
    """Tell whether a plan is another than the natural loader's, so that nobody may ever follow it."""
    return bool(placement.plans) and plan.tool != placement.plans[0].tool


def plan_severity(plans: Iterable[Plan], placement: Placement) -> Severity | None:
    """Return the rule's own severity where the natural loader follows one of some plans, and else a warning."""
    return "warning" if all(is_aside(plan, placement) for plan in plans) else None


def unfollowed_words(plan: Plan, placement: Placement) -> str:
    """Return who meets a defect of a plan that the natural loader does not follow; empty for its own."""
    if not is_aside(plan, placement):
        return ""
    if plan.tool == "accelerate":
        return (
            " from_pretrained makes its own plan and does not meet this; code that calls accelerate's functions does."
        )
    return " accelerate's functions do not meet this; from_pretrained of this class does."


def hurt_by_plans(plans: Iterable[Plan], names: tuple[str, ...]) -> tuple[LoaderView, ...] | None:
    """Return the loaders that follow some plans; None where one is a given map, which hurts whoever follows it."""
    views = []
    for plan in plans:
        if plan.tool == "given":
            return None
        versions = "5" if plan.tool == "transformers" else _range(plan.version)
        views.append(LoaderView(plan.tool, versions, "unknown", None, "run", names, None, None, None))
    return tuple(views)


def _range(version: str) -> str:
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
    return next(one.versions for one in FINDERS if one.until is None or numbers < one.until)


def tool_place(plan: Plan, note: str, role: Role = "primary") -> Location:
    """Return a planner's plan as evidence."""
    return Location(f"{plan.tool} {plan.version}, {plan.strategy}", None, None, role, note, "tool")


def is_split(group: Placed) -> bool:
    """Tell whether the names lie on different devices; names that the map does not place count as nowhere."""
    return len(set(group.devices) - {None}) > 1


def devices_words(names: tuple[str, ...], devices: tuple[Device | None, ...]) -> str:
    """Return each name with its device: `lm_head.weight on cuda:1 and model.embed_tokens.weight on cuda:0`."""
    return listed(tuple(f"{name} on {device}" for name, device in zip(names, devices, strict=True) if device))


def device_key(device: Device) -> int | str:
    """Return a device as a map of accelerate has it: `cuda:0` is `0`, since it takes the two for different devices."""
    kind, _, number = device.partition(":")
    return int(number) if kind == "cuda" and number.isdecimal() else device


DeviceMap = Mapping[str, int | str]


def map_edits(placement: Placement) -> tuple[Edit, ...]:
    """Return the way to the map that keeps every tie together: its few keys that differ from a given one, or all."""
    target = placement.proposal.device_map if placement.proposal else {}
    if not target:
        return ()
    given = placement.plans[0].device_map if placement.plans and placement.plans[0].tool == "given" else {}
    own = {key: device_word(device) for key, device in given.items()}
    changed = {key: device for key, device in target.items() if own.get(key) != device_word(device)}
    few = 0 < len(changed) <= SHOWN and own.keys() <= target.keys() and bool(given)
    return (keys_edit(changed) if few else whole_map(target),)


def keys_edit(changed: DeviceMap) -> Edit:
    """Return the way to other devices for some keys of the map."""
    return python_edit("placed", None, *(f"device_map[{key!r}] = {device!r}" for key, device in changed.items()))


def whole_map(device_map: DeviceMap, when: str | None = None) -> Edit:
    """Return the way to load with another map."""
    return python_edit("placed", when, f"device_map = {dict(device_map)!r}")


def together_edit(plan: Plan, names: tuple[str, ...], device: int | str) -> Edit:
    """Return the way to one device for some names, by the keys that place them: a closer one inside of a key fails."""
    keys = (key_of(plan.device_map, name) for name in names)
    changed = {name.rpartition(".")[0] if key is None else key: device for name, key in zip(names, keys, strict=True)}
    return keys_edit(changed) if plan.tool == "given" else whole_map({**plan.device_map, **changed})


def map_words(placement: Placement) -> str:
    """Return what is known of the map that keeps every tie together, or why there is none; empty where nobody tried."""
    proposal = placement.proposal
    if proposal is None:
        return ""
    if not proposal.device_map:
        lacks = f" {size(proposal.lacks)} are missing in max_memory." if proposal.lacks else ""
        return f"No map keeps every tie together: {proposal.reason or 'none fits'}.{lacks}"
    needs = ", ".join(f"{size(nbytes)} on {device}" for device, nbytes in proposal.used.items())
    return f"It keeps every tie together and puts {needs}{f' ({proposal.reason})' if proposal.reason else ''}."


def declare_edit(names: tuple[str, ...], when: str | None = None) -> Edit:
    """Return the way to a class that declares a tie, before it is loaded: `from_pretrained` hears of nothing else."""
    lines = (
        "cls = type(model)",
        f"cls._tied_weights_keys = {{**(cls._tied_weights_keys or {{}}), **{dict.fromkeys(names[:-1], names[-1])!r}}}",
        "model.config.tie_word_embeddings = True",
    )
    return python_edit("declared", when, *lines)


MAP: dict[str, int | str] = {"model.embed_tokens": 0, "lm_head": 0, "model.layers": 1, "model.norm": 1}
VERSIONS = {"accelerate": "1.15.0", "transformers": "5.23.0", "given": ""}


def placed_pair(*devices: str | None, **changes: Any) -> Placed:
    """Return the Llama's group: the head's device and the embedding's."""
    plain = Placed(
        names=PAIR, kind="parameter", declared=True, devices=devices or ("cuda:0",) * 2, nbytes=8192, seen=True
    )
    return plain._replace(**changes)


def plain_plan(
    tool: Literal["accelerate", "transformers", "given"] = "transformers", *groups: Placed, **changes: Any
) -> Plan:
    """Return a plan of one tool, with the groups it places."""
    plain = Plan(
        tool=tool,
        version=VERSIONS[tool],
        strategy="map" if tool == "given" else "auto",
        device_map=_homes(groups[0]) if groups and groups[0].names == PAIR else MAP,
        placed=groups or (placed_pair(),),
        used={"cuda:0": 8192, "cuda:1": 14656},
    )
    return plain._replace(**changes)


def _homes(group: Placed) -> dict[str, int | str]:
    """Return the map that puts the Llama's group where it is said to be."""
    at = {
        home: device_key(device)
        for home, device in zip(("lm_head", "model.embed_tokens"), group.devices, strict=True)
        if device
    }
    return {**{key: home for key, home in MAP.items() if key not in ("lm_head", "model.embed_tokens")}, **at}


def plain_placement(*plans: Plan, **changes: Any) -> Placement:
    """Return what was asked for, and the plans, the natural loader's first."""
    plain = Placement(
        strategy=plans[0].strategy if plans else "auto",
        origin="--device-map",
        memory={0: 20000, 1: 20000},
        plans=plans or (plain_plan(), plain_plan("accelerate")),
        proposal=None,
        installed="1.15.0",
    )
    return plain._replace(**changes)


def plain_proposal(**changes: Any) -> Proposal:
    """Return a map that fits."""
    return Proposal(MAP, {"cuda:0": 8192, "cuda:1": 14656}, 0, None)._replace(**changes)


def placed_load(form: LoadForm, **changes: Any) -> PlacedLoad:
    """Return what becomes of the pair in a load, the embedding alone being stored."""
    ours = form != "overwrites"
    plain = PlacedLoad(
        tool="transformers" if ours else "accelerate",
        function="from_pretrained" if ours else "load_checkpoint_in_model",
        form=form,
        names=PAIR,
        devices=("cpu", "cpu"),
        stored=(EMBEDDING,),
        message=None,
        harmless=False,
        versions="5.23.0" if ours else "1.15.0",
    )
    return plain._replace(**changes)


def placing_facts(*plans: Plan, of: LiveModel | None = None, **changes: Any) -> dict[str, Any]:
    """Return the facts that the rules on placement ask for: plans, of a Llama in order or another."""
    return {"placement": plain_placement(*plans, **changes), **live_facts(of)}
