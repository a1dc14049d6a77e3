"""TIE501: a device map that puts the members of a tie on different devices."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from tiecheck.placement.map_lookup import device_in, key_of
from tiecheck.records.live import Alias, LiveModel
from tiecheck.records.placement import Placed, Placement, Plan
from tiecheck.records.report import Location
from tiecheck.records.words import TIED, Unknown
from tiecheck.rules.base import Case, Draft, Rule
from tiecheck.rules.placement.plans import (
    by_class,
    devices_words,
    how_to_declare,
    hurt_by_plans,
    keys_to_set,
    natural_loader,
    plan_severity,
    plan_title,
    proposal_words,
    separated_groups,
    unfollowed_words,
)
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


class TiedGroupSplit(Rule):
    """A device map puts the members of one tie on different devices.

    ## What it does
    Finds ties of which a plan, accelerate's, transformers' or a given map, places the members on different devices,
    `cpu`, `disk` and `meta` among them. A group that is declared and not tied counts where `from_pretrained` will tie
    it. Devices are compared as torch knows them: `0` and `"cuda:0"` are one, and two names on `disk` are together.

    ## Why it is bad
    One tensor cannot lie on two devices. With two GPUs, accelerate's `dispatch_model` (1.15), which `from_pretrained`
    calls too, leaves it on one of them, and the first forward pass through another of the modules ends with "Expected
    all tensors to be on the same device". With a GPU and `cpu` or `disk` a copy stays behind: the memory is taken
    twice, and after an update of one copy the other still holds the old values. Only accelerate's
    `load_checkpoint_in_model`, and transformers about a plan of its own, say so, in one warning. With `cpu` and `disk`
    transformers may raise (another rule speaks then). One module under two paths of one parent is placed once, and a
    note.

    ## How to mend it
    Put every member on one device in the map. Where a planner cannot see the tie, give it the map instead of a
    strategy, or declare the tie so that it sees it.
    """

    code = "TIE501"
    name = "tied-group-split-across-devices"
    summary = "a device map puts members of a tie on different devices"
    severity = "error"
    messages = (APART, MIXED)
    threads = (
        "huggingface/accelerate#1529",
        "huggingface/accelerate#2330",
        "huggingface/accelerate#4083",
        "huggingface/accelerate#993",
        "unslothai/unsloth#7215",
    )

    def check(self, placement: Placement, live: LiveModel) -> Iterator[Draft | Unknown]:
        found: dict[tuple[str, ...], list[tuple[Plan, Placed]]] = {}
        for plan in placement.plans:
            for group in separated_groups(plan, placement, live):
                found.setdefault(group.names, []).append((plan, group))
        for names, at in found.items():
            (plan, group), *others = at
            if _is_placed_once(group, live):
                yield _placed_once(plan, group, _locations(at, placement))
                continue
            plans = [one_plan for one_plan, _ in at]
            also = (
                f" {' and '.join(plan_title(plan) for plan, _ in others)} {_split_verb(others)} it as well."
                if others
                else ""
            )
            why = f"{_consequence(plan, group, placement, live)}. {_who_warns(plan, group, placement, live)}{also}"
            yield Draft(
                f"{_puts(plan)} {devices_words(names, group.devices)}, and they are {_one_tensor(group)}: {why}"
                f"{unfollowed_words(plan, placement)}",
                names,
                _locations(at, placement),
                _help(plan, group, placement, live),
                severity=plan_severity(plans, placement),
                hurts=hurt_by_plans(plans, names),
            )

    @staticmethod
    def cases() -> Iterator[Case]:
        from tiecheck.rules.cases import declared_tie, live_llama
        from tiecheck.rules.placement.cases import placed_load, placed_pair, plain_placement, plain_plan, plain_proposal

        def facts(*plans: Plan, of: LiveModel | None = None, **changes: Any) -> dict[str, Any]:
            return {"placement": plain_placement(*plans, **changes), "live": of or live_llama()}

        def given(group: Placed, **changes: Any) -> dict[str, Any]:
            return facts(plain_plan("given", group), **changes)

        apart = placed_pair("cuda:1", "cuda:0")
        plain = live_llama(library=None, declared=(), flag=None)
        yield Case("a given map", given(apart), finds=("error",))
        yield Case("and one that mends it", given(apart, proposal=plain_proposal()), finds=("error",))
        disk = placed_pair("disk", "cpu")
        yield Case("cpu and disk, which loads", given(disk), finds=("error",))
        yield Case("cpu and disk, which raises: TIE511", given(disk, loads=(placed_load("raises"),)))
        meta = live_llama(origin="built on meta")
        yield Case("cpu and disk, followed through the load: TIE511", given(disk, of=meta, followed=(disk.names,)))
        yield Case("and two GPUs, whatever may be", given(apart, of=meta, followed=(apart.names,)), finds=("error",))
        own_load = given(disk, of=plain, followed=(disk.names,))
        yield Case("cpu and disk by accelerate, which keeps both", own_load, finds=("error",))
        both = (plain_plan("transformers", apart), plain_plan("accelerate", apart))
        yield Case("both planners", facts(*both), finds=("error",))
        late = live_llama(ties=(), declared=(declared_tie("separate"),), origin="built on meta")
        untied = apart._replace(kind="separate", seen=False)
        yield Case("tied by from_pretrained only", facts(plain_plan("transformers", untied), of=late), finds=("error",))
        other = (plain_plan(), plain_plan("accelerate", apart))
        yield Case("a plan that from_pretrained does not follow", facts(*other), finds=("warning",))
        own = apart._replace(declared=False, seen=False)
        yield Case("nobody declares it", facts(plain_plan("transformers", own)), finds=("error",))
        yield Case("a plain module", facts(plain_plan("accelerate", apart), of=plain), finds=("error",))
        alias = live_llama(
            aliases=(Alias(("lm_head", "model.embed_tokens"), 2, "Embedding", siblings=True, names=apart.names),)
        )
        module = apart._replace(kind="module")
        yield Case("one module among siblings, placed once", given(module, of=alias), finds=("info",))
        yield Case("one module under two parents", given(module), finds=("error",))
        yield Case("together", facts())
        yield Case("0 and cuda:0 are one device", given(placed_pair("cuda:0", "cuda:0")))
        yield Case("two names on disk", given(placed_pair("disk", "disk")))
        yield Case("untied, and nobody says otherwise", given(untied._replace(declared=False)))
        yield Case("accelerate ties nothing", facts(plain_plan("accelerate", untied), of=late))
        own_word = late._replace(declared=(declared_tie("separate", by=("tiecheck.toml",)),))
        yield Case("declared by the user's contract alone", facts(plain_plan("transformers", untied), of=own_word))
        stored = late._replace(declared=(declared_tie("separate", stored="separate"),))
        yield Case("stored apart, loaded apart", facts(plain_plan("transformers", untied), of=stored))
        yield Case("unknown is no tie", given(apart._replace(kind="unknown")))
        yield Case("a name that the map does not place", given(placed_pair(None, "cuda:0")))


def _placed_once(plan: Plan, group: Placed, evidence: tuple[Location, ...]) -> Draft:
    """Return the note on an alias among siblings: the map says two devices, and the module has one."""
    return Draft(
        f"{_puts(plan)} {devices_words(group.names, group.devices)}, and they are one module under several paths of "
        f"one "
        "parent: it is placed once, as the path that was registered first says, and the key of the other does nothing.",
        group.names,
        evidence,
        "Nothing has to be done; give all its paths one device, so that the map says what happens.",
        severity="info",
    )


def _puts(plan: Plan) -> str:
    """Subject and verb of the sentence that says what is put where."""
    return "The given map puts" if plan.tool == "given" else f"{plan_title(plan)} puts"


def _split_verb(others: list[tuple[Plan, Placed]]) -> str:
    """Return the verb for the other plans that split the same group."""
    return "split" if len(others) > 1 else "splits"


def _one_tensor(group: Placed) -> str:
    """Return what the members are to each other."""
    of = f" of {size(group.nbytes)}" if group.nbytes is not None else ""
    return f"one tensor{of}" if group.kind in TIED else f"declared as one tensor{of}, which from_pretrained makes them"


def _is_placed_once(group: Placed, live: LiveModel) -> bool:
    """Return whether the names are one module under several paths of one parent, which is placed once by any map.

    accelerate 1.15 walks `named_children()`, which lists it under its first path: the key of the other does nothing.
    Under two parents it is placed twice, and its inputs are sent to another device than its weight.
    """
    return group.kind == "module" and any(a.siblings and set(group.names) <= set(a.names) for a in live.aliases)


def _loses_tie(plan: Plan, group: Placed, placement: Placement, live: LiveModel) -> bool:
    """Return whether `from_pretrained` (5.23) makes different parameters of a group by any map, undeclared."""
    tool = plan.tool if plan.tool != "given" else natural_loader(placement, live)
    said = any(by_class(claim) and len(set(claim.names) & set(group.names)) > 1 for claim in live.declared)
    return tool == "transformers" and group.kind == "parameter" and not (group.declared and said)


def _consequence(plan: Plan, group: Placed, placement: Placement, live: LiveModel) -> str:
    """Return what comes of it, by the devices.

    Run with accelerate 1.15: `dispatch_model` moves each member, ties them again to the first by name that is not
    offloaded, and sends the inputs of each module to the device of the map. A module that is offloaded to the CPU or
    to disk keeps a copy there, which is read again in each forward pass.
    """
    places = len({device for device in group.devices if device})
    if _loses_tie(plan, group, placement, live):
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


def _who_warns(plan: Plan, group: Placed, placement: Placement, live: LiveModel) -> str:
    """Return why the planner split it, and who says so at the load."""
    by_accelerate = plan.tool == "accelerate" or (
        plan.tool == "given" and natural_loader(placement, live) == "accelerate"
    )
    blind = f"{plan.tool} {plan.version} does not see this tie. " if plan.tool != "given" and not group.seen else ""
    if plan.tool == "transformers" and not group.seen and not group.declared:
        blind = "transformers plans from declarations alone and does not see this tie. "
    if by_accelerate:
        return f'{blind}Only load_checkpoint_and_dispatch warns ("{APART.partition(":")[0]}"), dispatch_model does not.'
    if plan.tool == "transformers" and group.seen:
        return f'{blind}from_pretrained warns ("{APART.partition(":")[0]}") and goes on.'
    return f"{blind}from_pretrained does not warn."


def _locations(at: list[tuple[Plan, Placed]], placement: Placement) -> tuple[Location, ...]:
    """Return the keys of each map that place the names."""
    found: list[Location] = []
    for plan, group in at:
        keys = dict.fromkeys(key_of(plan.device_map, name) for name in group.names)
        note = ", ".join(f"{key!r}: {plan.device_map[key]!r}" for key in keys if key is not None)
        path = placement.origin if plan.tool == "given" else f"{plan.tool} {plan.version}, {plan.strategy}"
        role: Literal["primary", "related"] = "related" if found else "primary"
        found.append(Location(path, None, None, role, note or devices_words(group.names, group.devices), "tool"))
    return tuple(found)


def _help(plan: Plan, group: Placed, placement: Placement, live: LiveModel) -> str:
    """Return the map that keeps the group together: the few keys to change in a given one, or the proposal."""
    declare = ""
    if _loses_tie(plan, group, placement, live):
        declare = f"{how_to_declare(group.names)}: then from_pretrained ties them and its planner keeps them together. "
        if plan.tool != "given":
            return declare.strip()
    keys = keys_to_set(placement) if plan.tool == "given" else None
    if keys is not None:
        return f"{declare}{keys}"
    said = proposal_words(placement, group.names)
    if said is None:
        homes = listed(tuple(repr(home) for home in dict.fromkeys(name.rpartition(".")[0] for name in group.names)))
        said = f"Give {homes} one device in the map, {device_in(plan.device_map, group.names[-1])!r} for instance."
    return f"{declare}{said}"
