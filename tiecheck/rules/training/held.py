"""Shared by the rules on optimizers: the words for a place in one, the lines that put it right, facts for cases."""

from __future__ import annotations

from tiecheck.records.life import GroupPlace, HeldTensor
from tiecheck.records.live import Tie
from tiecheck.wording import listed

PAIR = ("lm_head.weight", "model.embed_tokens.weight")


def case_slot() -> GroupPlace:
    """Return a place in an AdamW, for a case."""
    return GroupPlace(0, 1, "AdamW", 0, (("lr", "0.1"), ("weight_decay", "0.0")), False)


def case_held(*slots: GroupPlace, names: tuple[str, ...] = PAIR) -> HeldTensor:
    """Return a tensor that some places hold, for a case."""
    return HeldTensor(names, (128, 16), slots, False)


def case_facts(*held: HeldTensor, ties: tuple[Tie, ...] | None = None, **changes: object) -> dict[str, object]:
    """Return the facts of a live Llama with what its optimizer holds, for a case."""
    from tiecheck.rules.cases import live_facts

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
            f"for group in {name}.param_groups:",
            '    group["params"] = [p for p in group["params"] if id(p) in held]',
            f"for p in [p for p in {name}.state if id(p) not in held]:",
            f"    del {name}.state[p]",
        ]
    return lines
