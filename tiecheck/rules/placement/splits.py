"""TIE501: a device map that puts the members of a tie on different devices."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tiecheck.placement.map_lookup import device_in, key_of
from tiecheck.records.edits import Edit
from tiecheck.records.hops import Route
from tiecheck.records.live import Alias, DeclaredTie, LiveClass, LiveModel
from tiecheck.records.mending import Mending
from tiecheck.records.placement import Placed, Placement, Plan
from tiecheck.records.report import Location
from tiecheck.records.words import TIED, Unknown
from tiecheck.rules.base import Case, Draft, Rule, class_place
from tiecheck.rules.cases import PAIR, declared_tie, live_facts, live_llama
from tiecheck.rules.live.mends import sharded_together
from tiecheck.rules.placement.plans import (
    Loading,
    by_class,
    declare_edit,
    devices_words,
    hurt_by_plans,
    is_split,
    loading_of,
    map_edits,
    map_words,
    placed_load,
    placed_pair,
    placing_facts,
    plain_plan,
    plain_proposal,
    plan_severity,
    plan_title,
    together_edit,
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
    transformers may raise (another rule speaks then). One module under two paths of one parent is placed once: that
    is a note.

    ## How to fix it
    Put every member on one device in the map. Where a planner cannot see the tie, give it the map instead of a
    strategy, or declare the tie so that it sees it.
    """

    code = "TIE501"
    name = "tied-group-split-across-devices"
    summary = "a device map puts members of a tie on different devices"
    severity = "error"
    messages = (APART, MIXED)
    threads = (
        "huggingface/accelerate#1529 huggingface/accelerate#2330 huggingface/accelerate#4083 "
        "huggingface/accelerate#993 unslothai/unsloth#7215"
    )

    def check(
        self,
        placement: Placement,
        live_class: LiveClass,
        declared_ties: tuple[DeclaredTie, ...],
        aliases: tuple[Alias, ...],
    ) -> Iterator[Draft | Unknown]:
        loading = loading_of(placement, live_class, declared_ties)
        said = [set(claim.names) for claim in declared_ties if by_class(claim)]
        found: dict[tuple[str, ...], list[tuple[Plan, Placed]]] = {}
        for plan in placement.plans:
            for group in plan.placed:
                if (
                    is_split(group)
                    and loading.binds(group, plan)
                    and not _told_by_load(group, plan, placement, loading)
                ):
                    found.setdefault(group.names, []).append((plan, group))
        for names, at in found.items():
            (plan, group), *others = at
            evidence = tuple(_evidence(*one, placement, primary=not i) for i, one in enumerate(at))
            puts = f"{plan_title(plan).replace('the given', 'The given')} puts {devices_words(names, group.devices)}"
            # accelerate 1.15 walks `named_children()`, which lists a module among siblings under its first path alone.
            if group.kind == "module" and any(one.siblings and set(names) <= set(one.names) for one in aliases):
                once = "one module under several paths of one parent: it is placed once, by the path registered first"
                words = f"{puts}, and they are {once}."
                yield Draft(words, names, evidence, severity="info", no_mend="nothing is wrong.")
                continue
            undeclared = not (group.declared and any(len(one & set(names)) > 1 for one in said))
            loses = loading.tool(plan) == "transformers" and group.kind == "parameter" and undeclared
            also = "".join(f" {plan_title(other)} splits it as well." for other, _ in others)
            yield Draft(
                f"{puts}, and they are {_one_tensor(group)}: {_consequence(group, loses=loses)}."
                f"{_blind(plan, group)}{also}{unfollowed_words(plan, placement)}",
                names,
                evidence,
                map_words(placement),
                severity=plan_severity([one for one, _ in at], placement),
                hurts=hurt_by_plans([one for one, _ in at], names),
                edits=_together(plan, group, placement, loses=loses),
            )

    @staticmethod
    def cases() -> Iterator[Case]:
        def given(group: Placed, of: LiveModel | None = None, **changes: Any) -> dict[str, Any]:
            return placing_facts(plain_plan("given", group), of=of, **changes)

        apart, disk = placed_pair("cuda:1", "cuda:0"), placed_pair("disk", "cpu")
        plain = live_llama(library=None, declared=(), flag=None)
        yield Case("a given map", given(apart), finds=("error",))
        yield Case("and one that mends it", given(apart, proposal=plain_proposal()), finds=("error",))
        yield Case("cpu and disk, which loads", given(disk), finds=("error",))
        yield Case("cpu and disk, which raises: TIE511", given(disk, loads=(placed_load("raises"),)))
        meta = live_llama(origin="built on meta")
        yield Case("cpu and disk, followed through the load: TIE511", given(disk, meta, followed=(disk.names,)))
        yield Case("and two GPUs, whatever may be", given(apart, meta, followed=(apart.names,)), finds=("error",))
        own_load = given(disk, plain, followed=(disk.names,))
        yield Case("cpu and disk by accelerate, which keeps both", own_load, finds=("error",))
        ours, theirs = plain_plan("transformers", apart), plain_plan("accelerate", apart)
        yield Case("both planners", placing_facts(ours, theirs), finds=("error",))
        late = live_llama(ties=(), declared=(declared_tie("separate"),), origin="built on meta")
        untied = apart._replace(kind="separate", seen=False)
        lately = plain_plan("transformers", untied)
        yield Case("tied by from_pretrained only", placing_facts(lately, of=late), finds=("error",))
        yield Case("a plan that is not followed", placing_facts(plain_plan(), theirs), finds=("warning",))
        unheard = plain_plan("transformers", apart._replace(declared=False, seen=False))
        yield Case("nobody declares it", placing_facts(unheard), finds=("error",))
        paths = Alias(("lm_head", "model.embed_tokens"), 2, "Embedding", siblings=True, names=apart.names)
        module = apart._replace(kind="module")
        yield Case("one module, placed once", given(module, live_llama(aliases=(paths,))), finds=("info",))
        yield Case("one module under two parents", given(module), finds=("error",))
        yield Case("together", placing_facts())
        yield Case("untied, and nobody says otherwise", given(untied._replace(declared=False)))
        yield Case("accelerate ties nothing", placing_facts(plain_plan("accelerate", untied), of=late))
        own_word = late._replace(declared=(declared_tie("separate", by=("tiecheck.toml",)),))
        yield Case("declared by the user's contract alone", placing_facts(lately, of=own_word))
        stored = late._replace(declared=(declared_tie("separate", stored="separate"),))
        yield Case("stored apart, loaded apart", placing_facts(lately, of=stored))
        yield Case("a name that the map does not place", given(placed_pair(None, "cuda:0")))


def _told_by_load(group: Placed, plan: Plan, placement: Placement, loading: Loading) -> bool:
    """Tell whether load-under-map-fails speaks for a group: its load raises, or was followed to its end.

    Between the CPU and the disk `from_pretrained` raises or leaves the group in one place (run with 5.23), and keeps no
    second copy; accelerate's own functions do keep one.
    """
    if any(load.form == "raises" and load.names == group.names for load in placement.loads):
        return True
    inside = set(group.devices) - {None} <= {"cpu", "disk"}
    return loading.tool(plan) == "transformers" and inside and group.names in placement.followed


def _one_tensor(group: Placed) -> str:
    """Return what the members are to each other."""
    of = f" of {size(group.nbytes)}" if group.nbytes is not None else ""
    return f"one tensor{of}" if group.kind in TIED else f"declared as one tensor{of}, which from_pretrained makes them"


def _consequence(group: Placed, *, loses: bool) -> str:
    """Return what comes of it, by the devices; `loses` where `from_pretrained` makes different parameters of them.

    Run with accelerate 1.15: `dispatch_model` moves each member, ties them again to the first by name that is not
    offloaded, and sends the inputs of each module to the device of the map. A module that is offloaded to the CPU or
    to disk keeps a copy there, which is read again in each forward pass.
    """
    places = len(set(group.devices) - {None})
    if loses:
        return f"no class declares that, so from_pretrained makes {places} parameters of them, one on each device"
    if "meta" in group.devices:
        return "a module on meta gets no values, and a forward pass over it raises or gives none"
    computing = [device for device in group.devices if device and device not in OFFLOADED]
    if len(set(computing)) > 1:
        alone = "one of them" if group.kind == "module" else computing[0]
        return f'dispatch_model leaves it on {alone} alone, and forward raises "{MIXED.partition(",")[0]}"'
    more = f", {size(group.nbytes * (places - 1))} more than a tie takes" if group.nbytes is not None else ""
    return f"it is held in {places} places{more}, and an update of one copy does not reach the other"


def _blind(plan: Plan, group: Placed) -> str:
    """Return why the planner split it, where it did not see it."""
    if plan.tool == "given" or group.seen:
        return ""
    if plan.tool == "transformers" and not group.declared:
        return " transformers plans from declarations alone and does not see this tie."
    return f" {plan.tool} {plan.version} does not see this tie."


def _evidence(plan: Plan, group: Placed, placement: Placement, *, primary: bool) -> Location:
    """Return the keys of a map that place the names."""
    keys = dict.fromkeys(key_of(plan.device_map, name) for name in group.names)
    note = ", ".join(f"{key!r}: {plan.device_map[key]!r}" for key in keys if key is not None)
    path = placement.origin if plan.tool == "given" else f"{plan.tool} {plan.version}, {plan.strategy}"
    words = note or devices_words(group.names, group.devices)
    return Location(path, None, None, "primary" if primary else "related", words, "tool")


def _together(plan: Plan, group: Placed, placement: Placement, *, loses: bool) -> tuple[Edit, ...]:
    """Return the map that keeps the group together, and the declaration without which a load would lose the tie."""
    whole = [name for name, device in zip(group.names, group.devices, strict=True) if device not in (None, "disk")]
    kept = device_in(plan.device_map, whole[-1]) if whole else None
    placed = map_edits(placement) or (together_edit(plan, group.names, "cpu" if kept is None else kept),)
    if not loses:
        return placed
    if plan.tool != "given":
        return (declare_edit(group.names),)
    return tuple(declare_edit(group.names)._replace(steps=(*declare_edit(group.names).steps, *e.steps)) for e in placed)


class FsdpGroupsSplitTie(Rule):
    """FSDP2 has put the members of a tie into different groups.

    ## What it does
    Finds names that were one parameter when `fully_shard` took them, in two calls, by the mark that torch leaves on
    each of them. It is told before the first forward pass, declared or not, also where somebody has assigned one to the
    other again since. FSDP1 leaves no such mark.

    ## Why it is bad
    torch 2.13 shards the parameter twice, and raises at the first forward pass of the root. `tie_weights()` afterwards
    changes nothing: the groups stay.

    ## How to fix it
    Build the model again and give both modules to one call, before any other: `fully_shard([embedding, head])`.
    """

    code = "TIE504"
    summary = "members of a tie in different FSDP2 groups: the first forward pass raises"
    severity = "error"
    messages = ("is shared with a parameter already managed by another FSDP group",)
    threads = "pytorch/torchtitan#2252 huggingface/accelerate#4171 saforem2/ezpz#237 NVIDIA/Megatron-LM#1447"

    def check(self, mending: Mending) -> Iterator[Draft | Unknown]:
        for names in mending.sharded_apart:
            yield Draft(
                f"{listed(names)} were one parameter, and fully_shard has put them into different groups: the first "
                "forward pass raises ValueError, and no tie_weights() after it helps.",
                names,
                (class_place(mending.class_name, "sharded in different groups"),),
                "Other fully_shard calls come after that one.",
                edits=(sharded_together(Route(mending.hops, mending.keyed), names),),
            )

    @staticmethod
    def cases() -> Iterator[Case]:
        yield Case("embedding and head in two calls", live_facts(sharded_apart=(PAIR,)), finds=("error",))
        yield Case("in one call", live_facts(wrappers=("FSDP2",)))
        yield Case("not sharded", live_facts())
