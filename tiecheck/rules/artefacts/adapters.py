"""TIE605: an adapter in a model's own directory."""

from __future__ import annotations

from collections.abc import Iterator

from tiecheck.records.edits import move_edits
from tiecheck.records.files import BesideAdapter
from tiecheck.records.stored import Group
from tiecheck.rules.base import Case, Draft, Rule, file_place
from tiecheck.wording import listed


class AdapterAppliedOnLoad(Rule):
    """An adapter lies in the model's own directory, and `from_pretrained` applies it.

    ## What it does
    Finds `adapter_config.json` and adapter weights beside the weights of a whole model, and says what it makes of
     the tied group: a module in `modules_to_save` gets a weight of its own, and an adapter on embedding or head is
    merged into both.

    ## Why it is bad
    Where peft is installed, `from_pretrained` of the directory loads the base that the adapter names, and the adapter
    with it, without a word. The model that answers is not the one that the checkpoint holds: a head from
    `modules_to_save` is no longer the embedding. Where peft is not installed it is another model.

    ## How to mend it
    Keep the adapter in a directory of its own. If it is meant to be part of the model, merge it (`merge_and_unload()`),
    look at `lm_head.weight is embed_tokens.weight`, set the flag accordingly and save the result alone.
    """

    code = "TIE605"
    name = "adapter-applied-on-load"
    summary = "an adapter in the model's own directory that from_pretrained applies: what it makes of the tie"
    severity = "warning"
    threads = ()

    def check(self, groups: tuple[Group, ...], beside_adapter: BesideAdapter) -> Iterator[Draft]:
        members = [name for group in groups if group.declared for name in group.names]
        saved = _hit(members, beside_adapter.saved)
        targets = _hit(members, beside_adapter.targets)
        if not saved and not targets:
            return
        parts = []
        if saved:
            parts.append(f"it holds a trained copy of {listed(saved)}, which is then no longer tied")
        if targets:
            parts.append(f"it adds to {listed(targets)}, so that a merge changes the other members as well")
        base = f", onto {beside_adapter.base}, the base that it names" if beside_adapter.base else ""
        yield Draft(
            "An adapter lies in the model's own directory (adapter_config.json): where peft is installed, "
            f"from_pretrained loads it too{base}; {'; '.join(parts)}.",
            (*saved, *targets),
            (file_place("adapter_config.json", "the adapter"),),
            "If the adapter is meant to be part of the model, merge it and save the result alone.",
            edits=move_edits("apart", "the checkpoint by itself is the model that is meant", beside_adapter.apart),
        )

    @staticmethod
    def cases() -> Iterator[Case]:
        from tiecheck.rules.cases import llama_group

        for title, saved, targets in (
            ("a head of its own", ("lm_head",), ()),
            ("an adapter on the head", (), ("q_proj", "lm_head")),
        ):
            facts = {
                "groups": (llama_group(),),
                "beside_adapter": BesideAdapter(saved, targets, None, ("adapter_config.json",)),
            }
            yield Case(title, facts, finds=("warning",))
            yield Case(f"{title}, and no tie", {**facts, "groups": (llama_group(value=False),)})


def _hit(members: list[str], modules: tuple[str, ...]) -> tuple[str, ...]:
    """Return the members whose module an adapter names, by the end of its path as peft does."""
    owners = ((name, name.rpartition(".")[0]) for name in members)
    return tuple(name for name, owner in owners if any(owner == m or owner.endswith(f".{m}") for m in modules))
