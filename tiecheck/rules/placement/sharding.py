"""TIE504: the members of a tie in different groups of FSDP2."""

from __future__ import annotations

from collections.abc import Iterator

from tiecheck.records.edits import python_edit
from tiecheck.records.live import LiveClass
from tiecheck.records.mending import Mending
from tiecheck.records.words import Unknown
from tiecheck.rules.base import Case, Draft, Rule, class_place
from tiecheck.rules.live.mends import model_path
from tiecheck.wording import listed


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
    name = "fsdp-groups-split-tie"
    summary = "members of a tie in different FSDP2 groups: the first forward pass raises"
    severity = "error"
    messages = ("is shared with a parameter already managed by another FSDP group",)
    threads = (
        "pytorch/torchtitan#2252",
        "huggingface/accelerate#4171",
        "saforem2/ezpz#237",
        "NVIDIA/Megatron-LM#1447",
    )

    def check(self, live_class: LiveClass, mending: Mending) -> Iterator[Draft | Unknown]:
        for names in mending.sharded_apart:
            owners = dict.fromkeys(model_path(mending, name.rpartition(".")[0]) for name in names)
            lines = ("from torch.distributed.fsdp import fully_shard", f"fully_shard([{', '.join(owners)}])")
            yield Draft(
                f"{listed(names)} were one parameter, and fully_shard has put them into different groups: the first "
                "forward pass raises ValueError, and no tie_weights() after it helps.",
                names,
                (class_place(live_class.class_name, "sharded in different groups"),),
                "Other fully_shard calls come after that one.",
                edits=(python_edit("tied", "the model is made again and no part of it is sharded yet", *lines),),
            )

    @staticmethod
    def cases() -> Iterator[Case]:
        from tiecheck.rules.cases import PAIR, live_facts

        yield Case("embedding and head in two calls", live_facts(sharded_apart=(PAIR,)), finds=("error",))
        yield Case("in one call", live_facts(wrappers=("FSDP2",)))
        yield Case("not sharded", live_facts())
