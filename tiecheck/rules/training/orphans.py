"""TIE707 and TIE708: an optimizer that lacks what the model has, and a tied table in the group of the matrices."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from tiecheck.records.edits import Edit, python_edit
from tiecheck.records.life import GroupPlace, HeldTensor
from tiecheck.records.live import DeclaredTie, Tie
from tiecheck.records.mending import Mending
from tiecheck.records.words import Unknown
from tiecheck.rules.base import Case, Draft, Rule, class_place
from tiecheck.rules.cases import live_facts
from tiecheck.rules.live.mends import PEFT, model_path
from tiecheck.rules.training.stepped import (
    PAIR,
    case_facts,
    case_held,
    case_slot,
    places_text,
    variable_of,
    without_orphans,
)
from tiecheck.wording import counted, listed, verb_form


class OptimizerHoldsOrphan(Rule):
    """The optimizer steps a tensor that the model has no longer.

    ## What it does
    Finds tensors in the parameter groups that the model does not have, while the model has parameters that train and
    are in no group: something was replaced after the optimizer was made. An optimizer that holds another module's
    parameters beside all of this one's, or beside a part that alone is trained, is left alone. A head with the values
    of the embedding that is the only parameter in no group is a warning: it was separated from the embedding, or left
    out by its name. An optimizer of which everything is frozen, while adapters train, was made before PEFT wrapped the
    model, and is a warning.

    ## Why it is bad
    The tie is whole, gradients flow, the loss is finite, and nothing is learned: the step goes to a tensor that no
    forward pass reads.

    ## How to fix it
    Make the optimizer after the last replacement, or put the new parameter in the place of the old one.
    """

    code = "TIE707"
    summary = "the optimizer steps a tensor that the model has no longer, and lacks one that it has"
    severity = "error"
    threads = "helpmefindaname/transformer-smaller-training-vocab#3"

    def check(
        self,
        mending: Mending,
        held_tensors: tuple[HeldTensor, ...],
        equal_copies: tuple[tuple[str, str], ...],
        live_ties: tuple[Tie, ...],
        declared_ties: tuple[DeclaredTie, ...],
    ) -> Iterator[Draft | Unknown]:
        orphans = [held for held in held_tensors if not held.names]
        lacking = [held for held in held_tensors if held.names and not held.slots]
        if lacking and not orphans:
            groups = [*(tie.names for tie in declared_ties), *(tie.names for tie in live_ties)]
            told = [set(names) for names in groups]  # by declared-tie-not-applied or members-in-different-groups
            pairs = [pair for pair in equal_copies if not any(names.issuperset(pair) for names in told)]
            yield from _copies_left_out(mending, held_tensors, pairs)
            if PEFT in mending.wrappers and not any(held.trains for held in held_tensors if held.slots):
                adapters = tuple(sorted(name for held in lacking for name in held.names))  # all that PEFT lets train
                yield Draft(
                    f"All that the optimizer holds is frozen, and {listed(adapters[:4])} are in no group of it: it was "
                    "made before the adapters were, and no step changes anything.",
                    adapters,
                    (class_place(mending.class_name, "frozen in every group of the optimizer"),),
                    severity="warning",
                    no_mend="make the optimizer after get_peft_model.",
                )
        frozen = PEFT in mending.wrappers  # by it, and not in turns
        stepped = any(held.names and held.slots and (held.trains or not frozen) for held in held_tensors)
        if not orphans or not lacking or (stepped and _far_more_lacks(orphans, lacking)):  # a part alone is trained
            return
        names = tuple(sorted(name for held in lacking for name in held.names))
        shapes = listed(tuple(str(list(held.shape)) for held in orphans))
        yield Draft(
            f"The optimizer holds {counted(len(orphans), 'tensor')} of shape {shapes} that the model no longer has. "
            f"{listed(names)} {verb_form('train', len(names) > 1)} and {'are' if len(names) > 1 else 'is'} in no group "
            "of it, so no step changes " + ("them." if len(names) > 1 else "it."),
            names,
            (class_place(mending.class_name, places_text(orphans[0].slots)),),
            "Whatever replaces parameters has to come before the optimizer.",
            edits=(_regrouped(mending, orphans, lacking, whole=not stepped),),
        )

    @staticmethod
    def cases() -> Iterator[Case]:
        orphan, lacking = case_held(case_slot(), names=()), case_held()
        yield Case("the embedding was replaced", case_facts(orphan, lacking), finds=("error",))
        yield Case("another module's parameter beside all of ours", case_facts(orphan, case_held(case_slot())))
        body = tuple(case_held(names=(f"{n}.weight",)) for n in range(3))
        yield Case("a head is trained, with the weights of a loss", case_facts(orphan, case_held(case_slot()), *body))
        yield Case("a copy of the whole, of which a head is trained", case_facts(orphan, *body), finds=("error",))
        part = case_held(case_slot(), names=("a.weight",))
        lora, frozen = case_held(names=("a.lora_A.default.weight",)), case_held(case_slot())._replace(trains=False)
        peft = case_facts(lora, frozen) | live_facts(wrappers=(PEFT,))
        yield Case("made before the adapters", peft, finds=("warning",))
        more = tuple(case_held(names=(f"{n}.lora_A.default.weight",)) for n in range(3))
        yield Case("and a tensor was replaced", peft | {"held_tensors": (orphan, frozen, *more)}, finds=("error",))
        also = (lora, frozen, case_held(case_slot()))
        yield Case("something that trains is stepped", peft | {"held_tensors": also})
        yield Case("a part is frozen in turn, with no adapters", case_facts(lora, frozen))
        yield Case("only a part is trained", case_facts(lacking, part))
        copy, other = case_held(names=("b.weight",)), case_held(names=("c.weight",))
        pair = {"equal_copies": (("a.weight", "b.weight"),)}
        yield Case("a copy that nothing steps", case_facts(part, copy) | pair, finds=("warning",))
        yield Case("a copy among much that nothing steps", case_facts(part, copy, other) | pair)


class TiedWeightInNameGroup(Rule):
    """A tied embedding stands in the group of the matrices.

    ## What it does
    Finds a tied embedding or head in a group of Muon, or of another optimizer that orthogonalises matrices. Groups made
    by name put it there: `named_parameters()` lists a tied matrix under its first name alone, and a filter for the
    other name misses it.

    ## Why it is bad
    Muon is made for the matrices between the layers; its authors leave embeddings and heads to AdamW. The update of a
    table of tokens is orthogonalised as if its rows were directions, and training is worse without an error.

    ## How to fix it
    Sort parameters by identity and not by name: whatever is `model.get_input_embeddings().weight` goes to AdamW.
    """

    code = "TIE708"
    summary = "groups made by name: a tied embedding or head stands in the matrix group (Muon) under its first name"
    severity = "warning"
    threads = "unslothai/unsloth#5933"

    def check(self, mending: Mending, held_tensors: tuple[HeldTensor, ...]) -> Iterator[Draft | Unknown]:
        for held in held_tensors:
            if len(held.names) > 1 and held.table and any(slot.matrix for slot in held.slots):
                other = next((s for one in held_tensors for s in one.slots if not s.matrix), None)
                yield Draft(
                    f"{listed(held.names)} are one tensor, a table of tokens, and stand in "
                    f"{places_text(held.slots)}, which is for matrices. "
                    f"named_parameters() lists it once, as {held.names[0]} or under another of its names.",
                    held.names,
                    (class_place(mending.class_name, places_text(held.slots)),),
                    edits=() if other is None else (_moved(mending, held, other),),
                    no_mend="there is no other optimizer to move it to; make an AdamW for it.",
                )

    @staticmethod
    def cases() -> Iterator[Case]:
        muon = case_slot()._replace(title="Muon", matrix=True)
        adam = case_held(case_slot()._replace(optimizer=1, optimizers=2), names=("norm.weight",))
        table = case_held(muon._replace(optimizers=2))._replace(table=True)
        yield Case("a tied table in Muon", case_facts(table, adam), finds=("warning",))
        yield Case("a tied table in AdamW", case_facts(case_held(case_slot())._replace(table=True)))
        yield Case("tied layers in Muon", case_facts(table._replace(table=False), adam))
        yield Case("a table that nobody ties", case_facts(table._replace(names=PAIR[:1]), adam))


def _far_more_lacks(orphans: list[HeldTensor], lacking: list[HeldTensor]) -> bool:
    """Tell whether far more is in no group than was replaced: a head is trained, with the weights of a loss."""
    elements = sum(prod(held.shape) for held in lacking)
    flat = any(len(held.shape) == 1 and held.shape[0] >= elements for held in orphans)
    return len(lacking) > 2 * len(orphans) and not flat


def _copies_left_out(
    mending: Mending, held_tensors: tuple[HeldTensor, ...], equal_copies: list[tuple[str, str]]
) -> Iterator[Draft]:
    """Tell of equal copies that train and are not stepped, where everything else that trains is."""
    lacking = {name for held in held_tensors if not held.slots for name in held.names}
    stepped = {name: held for held in held_tensors if held.slots for name in held.names}
    pairs = [(a, b) if b in lacking else (b, a) for a, b in equal_copies if (a in stepped) + (b in stepped) == 1]
    if not lacking <= {copy for _, copy in pairs}:
        return  # only a part is trained
    for kept, copy in pairs:
        share = f"{model_path(mending, copy)} = {model_path(mending, kept)}"
        yield Draft(
            f"{copy} is an equal copy of {kept}, trains, and is in no group of the optimizer. Each step changes {kept} "
            "alone, and the two drift apart.",
            (kept, copy),
            (class_place(mending.class_name, places_text(stepped[kept].slots)),),
            "A copy that is to stay as it is needs no gradient (requires_grad).",
            severity="warning",
            edits=(python_edit("tied", "they are meant to be one", share),),
        )


def _regrouped(mending: Mending, orphans: list[HeldTensor], lacking: list[HeldTensor], *, whole: bool) -> Edit:
    lines = without_orphans({variable_of(s) for held in orphans for s in held.slots})
    several = orphans[0].slots[0].optimizers > 1
    groups = "(group for one in optimizer for group in one.param_groups)" if several else "optimizer.param_groups"
    wanted: dict[str, list[str]] = {}
    for held in lacking:
        likest = max(orphans, key=lambda one: (one.shape == held.shape, one.shape[1:] == held.shape[1:]))
        group = f'{variable_of(likest.slots[0])}.param_groups[{likest.slots[0].group}]["params"]'
        wanted.setdefault(group, []).append(model_path(mending, held.names[0]))
    everything = "[p for p in model.parameters() if p.requires_grad and id(p) not in held]"
    for group, paths in wanted.items():  # by identity: another finding's fix may have tied two of them meanwhile
        these = f"{{id(p): p for p in ({', '.join(paths)},) if id(p) not in held}}.values()"
        lines.append(f'held = {{id(p) for group in {groups} for p in group["params"]}}')
        lines.append(f"{group} += {everything if whole and len(wanted) == 1 else these}")
    return python_edit("regrouped", None, *lines)


def _moved(mending: Mending, held: HeldTensor, other: GroupPlace) -> Edit:
    weight = model_path(mending, held.names[0])
    lines = [
        f'[group.update(params=[p for p in group["params"] if p is not {weight}]) for group in {name}.param_groups]'
        for name in sorted({variable_of(slot) for slot in held.slots})
    ]
    lines.append(f'{variable_of(other)}.param_groups[{other.group}]["params"].append({weight})')
    return python_edit("moved", None, *lines)
