"""TIE204: a saved optimizer state against the ties of its checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tiecheck.records.words import Unknown
from tiecheck.rules.base import Case, Draft, Rule, file_place
from tiecheck.rules.stored.groups import declaration_place, rows_text, stored_places, tied_by_intent
from tiecheck.wording import listed

if TYPE_CHECKING:
    from tiecheck.records.files import TiedMoments


class TiedOptimizerStateSplit(Rule):
    """The optimizer state beside a checkpoint holds moments for two members of one tie.

    ## What it does
    Looks for the saved optimizer state: `optimizer.pt` and `optimizer.bin` of transformers' Trainer and of
    accelerate, safetensors files, and the `.metadata` of a distributed checkpoint. For each group that config or class
    declare as tied it counts the entries. Where the state has names, two members with an entry each are found by
    name; where it has numbers, by shape: one entry more of the embedding's shape than the checkpoint has parameters of
    it, while every other matrix is accounted for. Only entries whose bytes differ count: some savers write the one
    entry of a sound tie under each of its names. States partitioned by DeepSpeed are not read.

    ## Why it is bad
    An optimizer has one entry for each parameter it steps. Two entries mean that the tie was broken while the model
    trained (`init_empty_weights`, `to_empty()`, `load_state_dict(assign=True)`, a cloned head), each side
    with half of the gradient. Where the saver leaves the head out because the config says "tied", the
    checkpoint looks perfectly clean, and the head that was trained is gone: a resumed run starts with a spike in its
    loss, and an evaluation after loading is worse than the one before saving. The state also cannot be loaded into
    a model whose tie is whole: the numbers of entries differ. (`KeyError: 'state.lm_head.weight.step'` while a
    distributed checkpoint is loaded is the reverse: the state has one entry, and the model that asks has two
    parameters, or torch is older than pytorch#128685 of June 2024.)

    ## How to fix it
    Find the line that broke the tie and call `model.tie_weights()` after it and before the optimizer is made, then
    train again from the last checkpoint whose state is whole. What an earlier sharded or distributed checkpoint of
    the same run still holds under both names is the trained head: save it with `tie_word_embeddings` set to false
    if the model is to be kept as it was trained.
    """

    code = "TIE204"
    summary = "the saved optimizer state holds moments for two members of one tie"
    severity = "error"
    messages = (
        "loaded state dict contains a parameter group that doesn't match the size of optimizer's group",
        "KeyError: 'state.lm_head.weight.step'",
    )
    threads = (
        "NVIDIA-NeMo/Automodel#2511",
        "facebookresearch/lingua#74",
        "NVIDIA-NeMo/RL#227",
        "pytorch/pytorch#128011",
        "pytorch/torchtitan#594",
    )

    def check(self, optimizer: tuple[TiedMoments | Unknown, ...]) -> Iterator[Draft | Unknown]:
        for fact in optimizer:
            if isinstance(fact, Unknown):
                yield fact
            elif tied_by_intent(fact.group):
                yield self._draft(fact)

    @staticmethod
    def _draft(fact: TiedMoments) -> Draft:
        group = fact.group
        how = "their shapes differ" if fact.comparison is None else rows_text(fact.comparison)
        entries = (
            f"moments for {listed(fact.keys)}"
            if fact.named
            else f"{len(fact.keys)} entries ({listed(fact.keys)}) of shape {list(fact.shape)}, where a model with the "
            f"tie has {fact.room},"
        )
        members = tuple(k for k in fact.keys if k in group.names) if fact.named else group.names
        kept = group.stored == "separate"
        end = (
            "They were two parameters in training, and the checkpoint keeps both."
            if kept
            else "They were two parameters in training, each with a part of the gradient"
            + ("; the checkpoint has one of them." if group.stored == "absent" else ".")
        )
        mend = (
            "the state is what it has to be for two parameters; TIE101 has the ways out for the checkpoint."
            if kept
            else "what one of them had learned is not in the checkpoint. Tie again (model.tie_weights()) before the "
            "optimizer is made, and train on from the last checkpoint whose state has one entry, or one that still has "
            "both members."
        )
        return Draft(
            f"{fact.file} holds {entries} with different values ({fact.field}: {how}), though "
            f"{listed(group.names)} are declared to be one tensor. {end}",
            members or group.names,
            (
                file_place(fact.file, f"entries {listed(fact.keys)}, {fact.field}"),
                declaration_place(group, "related"),
                *stored_places(group),
            ),
            severity="info" if kept else None,
            no_mend=mend,
        )

    @staticmethod
    def cases() -> Iterator[Case]:
        from tiecheck.records.files import TiedMoments
        from tiecheck.rules.cases import PAIR, llama_group, row_comparison, tie_flag

        differ = row_comparison(rows_differ=128, first=0)
        split = TiedMoments(
            llama_group(), "optimizer.pt", ("0", "8"), "exp_avg", (128, 16), differ, named=False, room=1
        )
        yield Case("one entry too many of the embedding's shape", {"optimizer": (split,)}, finds=("error",))
        named = split._replace(file="optimizer_0/.metadata", keys=PAIR, named=True)
        yield Case("two names in a distributed checkpoint", {"optimizer": (named,)}, finds=("error",))
        apart = split._replace(group=llama_group(stored=PAIR)._replace(stored="separate", comparison=differ))
        yield Case("the checkpoint keeps both, which TIE101 tells", {"optimizer": (apart,)}, finds=("info",))
        padded = named._replace(comparison=None)
        yield Case("moments of different shapes", {"optimizer": (padded,)}, finds=("error",))
        yield Case("one entry for the tie, as it should be", {"optimizer": ()})
        forced = split._replace(group=llama_group(flag=tie_flag(False), forced=True))
        yield Case("T5's false, which ties and means something else", {"optimizer": (forced,)})
        yield Case("a state of DeepSpeed's", {"optimizer": (Unknown("it is partitioned"),)}, unknown=True)
