"""TIE702 and TIE703: a tensor that is stepped twice, and members of a tie that are not trained alike."""

from __future__ import annotations

from collections.abc import Iterator

from tiecheck.records.edits import Edit, python_edit
from tiecheck.records.life import GroupPlace, HeldTensor
from tiecheck.records.live import DeclaredTie, Tie
from tiecheck.records.mending import Mending
from tiecheck.records.words import TIED, Unknown
from tiecheck.rules.base import Case, Draft, Rule, class_place
from tiecheck.rules.cases import declared_tie, live_facts, live_tie
from tiecheck.rules.live.mends import model_path
from tiecheck.wording import listed

REMADE = "The optimizer keeps what it was given: it has to be made after the tie."


class ParameterTwiceInOptimizer(Rule):
    """One tensor stands twice in the parameter groups.

    ## What it does
    Finds a parameter that stands twice in the groups of one optimizer, or in two optimizers, and parameters over one
    memory that are all held: each of them is stepped, and each step writes into the others.

    ## Why it is bad
    torch refuses the same parameter in two groups, warns of it in one, and says nothing of two optimizers or of one
    memory. The tensor is then stepped twice, with two states; after two steps of AdamW it is somewhere else than the
    real tie, and the members are equal bit by bit, so that no comparison of values notices.

    ## How to fix it
    Give each parameter once: `model.parameters()` does. Share the parameter and not its memory.
    """

    code = "TIE702"
    summary = "one tensor, or one memory, stands twice in the parameter groups: it is stepped twice"
    severity = "error"
    messages = (
        "some parameters appear in more than one parameter group",
        "optimizer contains a parameter group with duplicate parameters",
    )
    threads = "pytorch/pytorch#40967 zhuhanqing/APOLLO#4 deepspeedai/DeepSpeed#195"

    def check(
        self, mending: Mending, live_ties: tuple[Tie, ...], held_tensors: tuple[HeldTensor, ...]
    ) -> Iterator[Draft | Unknown]:
        for held in held_tensors:
            if len(held.slots) > 1 and held.names:
                several = len({slot.optimizer for slot in held.slots}) > 1
                yield Draft(
                    f"{listed(held.names)} {'stands' if len(held.names) == 1 else 'are one tensor, which stands'} "
                    f"{len(held.slots)} times in the parameter groups "
                    f"({places_text(held.slots)}): it is stepped each time, with a state of each.",
                    held.names,
                    (class_place(mending.class_name, places_text(held.slots)),),
                    severity="warning" if several else None,
                    edits=() if several else (_once(held),),
                    no_mend="two optimizers that take turns may both hold it; otherwise take it out of one.",
                )
        for tie, members in _one_memory(live_ties, held_tensors):
            yield Draft(
                f"{listed(tie.names)} are {len(members)} Parameter objects over one memory, and the optimizer holds "
                f"{'both' if len(members) == 2 else 'all'}: the memory is stepped {len(members)} times.",
                tie.names,
                (class_place(mending.class_name, places_text(tuple(s for one in members for s in one.slots))),),
                edits=(_tied_in(mending, members),) if tie.kind == "storage" and tie.alike else (),
                no_mend="one is a part of the other, or its transpose: one of them has to go out of the optimizer.",
            )

    @staticmethod
    def cases() -> Iterator[Case]:
        slot, memory = case_slot(), live_tie(kind="storage", requires_grad=(True, True))
        yield Case("twice in one group", case_facts(case_held(slot, slot)), finds=("error",))
        yield Case("in two optimizers", case_facts(case_held(slot, slot._replace(optimizer=1))), finds=("warning",))
        held = (case_held(slot, names=PAIR[:1]), case_held(slot, names=PAIR[1:]))
        yield Case("two over one memory", case_facts(*held, ties=(memory,)), finds=("error",))
        yield Case("one of the two is frozen, and not held", case_facts(held[0], ties=(memory,)))
        yield Case("a tie, given once", case_facts(case_held(slot)))


class MembersInDifferentGroups(Rule):
    """The members of a tie that are two tensors get different settings.

    ## What it does
    Finds a group that is declared tied, or that shares memory, and whose members are different parameters in groups
    with other settings: another optimizer, learning rate or weight decay; or of which one member is in no group.

    ## Why it is bad
    The tie is broken already, and now the two are also trained by different rules: weight decay pulls one of them, or
    one stays as it was loaded.

    ## How to fix it
    Tie them, and make the optimizer after that: one parameter is in one group.
    """

    code = "TIE703"
    summary = "members of a tie that are two tensors get another optimizer, decay or learning rate"
    severity = "warning"
    threads = "NVIDIA/Megatron-LM#4641 karpathy/nanoGPT#21"

    def check(
        self,
        mending: Mending,
        live_ties: tuple[Tie, ...],
        declared_ties: tuple[DeclaredTie, ...],
        held_tensors: tuple[HeldTensor, ...],
    ) -> Iterator[Draft | Unknown]:
        groups = [claim.names for claim in declared_ties if claim.kind not in TIED]
        groups += [tie.names for tie in live_ties if tie.kind in ("storage", "overlap") and not tie.buffer]
        for names in dict.fromkeys(groups):
            members = [held for held in held_tensors if not set(held.names).isdisjoint(names)]
            found = {_settings(held.slots) for held in members}
            if len(members) > 1 and len(found) > 1:
                told = "; ".join(f"{listed(one.names)}: {places_text(one.slots, settings=True)}" for one in members)
                yield Draft(
                    f"{listed(names)} are meant to be one tensor, are {len(members)}, and not trained alike: {told}.",
                    names,
                    (class_place(mending.class_name, "different groups"),),
                    REMADE,
                    edits=(_tied_in(mending, members),),
                )

    @staticmethod
    def cases() -> Iterator[Case]:
        slot = case_slot()
        decayed = slot._replace(settings=(("lr", "0.1"), ("weight_decay", "0.1")))
        apart = (case_held(slot, names=PAIR[:1]), case_held(decayed, names=PAIR[1:]))
        broken = {"declared_ties": (declared_tie("separate"),)}
        yield Case(
            "declared, apart, and decayed on one side", case_facts(*apart, ties=(), **broken), finds=("warning",)
        )
        left = (apart[0], case_held(names=PAIR[1:]))
        yield Case("one of them in no group", case_facts(*left, ties=(), **broken), finds=("warning",))
        alike = (apart[0], case_held(slot, names=PAIR[1:]))
        yield Case("apart, in one group: another rule's matter", case_facts(*alike, ties=(), **broken))
        yield Case("tied", case_facts(case_held(slot)))
        yield Case("untied and declared by nobody", case_facts(*apart, ties=(), declared_ties=()))


def _settings(slots: tuple[GroupPlace, ...]) -> tuple[object, ...]:
    return tuple(sorted((slot.title, slot.settings) for slot in slots))


def _one_memory(ties: tuple[Tie, ...], held: tuple[HeldTensor, ...]) -> Iterator[tuple[Tie, list[HeldTensor]]]:
    """Yield the groups that share memory and of which several parameters are stepped."""
    for tie in ties:
        if tie.kind in ("storage", "overlap") and not tie.buffer:
            members = [one for one in held if one.slots and not set(one.names).isdisjoint(tie.names)]
            if len(members) > 1:
                yield tie, members


def _once(held: HeldTensor) -> Edit:
    groups = f"for group in {variable_of(held.slots[0])}.param_groups"
    once = f'[group.update(params=[p for p in group["params"] if not (id(p) in seen or seen.add(id(p)))]) {groups}]'
    return python_edit("once", None, "seen = set()", once)


def _tied_in(mending: Mending, members: list[HeldTensor]) -> Edit:
    """Return the way to one parameter of several, in the groups too: the first that is held stays."""
    kept = next(one for one in members if one.slots)
    others = [one for one in members if one is not kept]
    lines = [f"{model_path(mending, n)} = {model_path(mending, kept.names[0])}" for one in others for n in one.names]
    lines += without_orphans({variable_of(slot) for one in members for slot in one.slots})
    return python_edit("tied", None, *lines)


PAIR = ("lm_head.weight", "model.embed_tokens.weight")


def case_slot() -> GroupPlace:
    """Return a place in an AdamW, for a case."""
    return GroupPlace(0, 1, "AdamW", 0, (("lr", "0.1"), ("weight_decay", "0.0")), False)


def case_held(*slots: GroupPlace, names: tuple[str, ...] = PAIR) -> HeldTensor:
    """Return a tensor that some places hold, for a case."""
    return HeldTensor(names, (128, 16), slots, False)


def case_facts(*held: HeldTensor, ties: tuple[Tie, ...] | None = None, **changes: object) -> dict[str, object]:
    """Return the facts of a live Llama with what its optimizer holds, for a case."""
    facts = live_facts() if ties is None else live_facts(ties=ties)
    return facts | {"held_tensors": held} | changes


def places_text(slots: tuple[GroupPlace, ...], *, settings: bool = False) -> str:
    """Return where something is held, in words."""
    if not slots:
        return "in no group"
    words = []
    for slot in slots:
        which = f" {slot.optimizer + 1}" if slot.optimizers > 1 else ""
        more = f" ({', '.join(f'{key} {value}' for key, value in slot.settings)})" if settings else ""
        words.append(f"group {slot.group} of {slot.title}{which}{more}")
    return listed(tuple(words))


def variable_of(slot: GroupPlace) -> str:
    """Return the optimizer as a reader has it: alone, or in a list."""
    return "optimizer" if slot.optimizers == 1 else f"optimizer[{slot.optimizer}]"


def without_orphans(optimizers: set[str]) -> list[str]:
    """Return the lines that take out of some optimizers what the model does not have."""
    lines = ["held = {id(p) for p in model.parameters()}"]
    for name in sorted(optimizers):
        lines += [
            f'[group.update(params=[p for p in group["params"] if id(p) in held]) for group in {name}.param_groups]',
            f"[{name}.state.pop(p) for p in [*{name}.state] if id(p) not in held]",
        ]
    return lines
