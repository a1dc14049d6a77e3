"""TIE203 and TIE204: several weight formats in one directory, and a saved optimizer state, against the checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tiecheck.records.edits import Edit, Step
from tiecheck.records.words import Unknown
from tiecheck.rules.base import Case, Draft, Rule, file_place
from tiecheck.rules.stored.groups import declaration_place, rows_text, stored_places, tied_by_intent
from tiecheck.wording import listed

if TYPE_CHECKING:
    from tiecheck.records.files import LayoutGroup, LayoutView, TiedMoments


class FormatsDisagree(Rule):
    """Two weight formats in one directory tell different ties.

    ## What it does
    Where a directory has several of the standard files (`model.safetensors`, its index, `pytorch_model.bin`,
    its index), it looks at each tie in each of them: stored once, stored as one memory or with equal bytes,
    or as two different tensors. A pickle is read without running it. A difference is reported where one file has two
    tensors and the other has one, or where one file lacks a member and no flag ties it. Not reported is what
    every converted model shows: the pickle has both names over one memory, safetensors, which cannot
    hold that, has one, and the flag ties them.

    ## Why it is bad
    Who reads the directory decides which model it is. transformers takes `model.safetensors`; with
    `use_safetensors=False`, and in tools that ask for `*.bin`, the pickle is read. One user gets the
    trained head, the other one a tied or a random one, from the same revision. It happens where one format is
    written again after a training and the other one is left as it was.

    ## How to fix it
    Keep one format. Load the model from the right one, look at `lm_head.weight is embed_tokens.weight`, save it with
    `save_pretrained` into an empty directory, and replace all the weight files by what is there.
    """

    code = "TIE203"
    summary = "two weight formats in one directory tell different ties"
    severity = "warning"

    def check(self, layouts: tuple[LayoutGroup | Unknown, ...]) -> Iterator[Draft | Unknown]:
        for group in layouts:
            if isinstance(group, Unknown):
                yield group
                continue
            there = [view for view in group.views if view.names]
            unclear = next((v for v in there if v.stored == "unknown"), None)
            apart = [v for v in there if v.stored in ("separate", "overlap")]
            one = [v for v in there if v.stored in ("storage", "copy")]
            alone = [v for v in there if v.stored == "absent"]
            if apart and (one or alone):
                yield self._draft(group, apart[0], (one or alone)[0])
            elif one and alone and group.declared is False:
                yield self._draft(group, one[0], alone[0])
            elif unclear is not None and len(there) > 1:
                yield Unknown(f"{listed(unclear.names)} in {unclear.file} were not compared: {unclear.reason}")

    @staticmethod
    def _draft(group: LayoutGroup, more: LayoutView, less: LayoutView) -> Draft:
        first = next(view for view in group.views if view.names)
        other = less if first is more else more
        gone = tuple(n for n in more.names if n not in less.names)
        end = (
            f" Nothing ties {listed(gone)} for whoever reads {less.file}: random there."
            if group.declared is False and gone and less.stored == "absent"
            else " What was trained apart is lost for whoever reads the one tensor."
        )
        return Draft(
            f"{more.file} {_says(more)}, and {less.file} {_says(less)}. transformers reads {first.file}; a loader "
            f"that takes {other.file} gets another model.{end}",
            group.names,
            (file_place(first.file, _says(first)), file_place(other.file, _says(other), "related")),
            edits=one_format(group),
        )

    @staticmethod
    def cases() -> Iterator[Case]:
        from tiecheck.records.files import LayoutGroup, LayoutView
        from tiecheck.rules.cases import EMBEDDING, HEAD, PAIR

        single = LayoutView("model.safetensors", "absent", (EMBEDDING,), None)
        apart = LayoutView("pytorch_model.bin", "separate", PAIR, None)
        shared = apart._replace(stored="storage")
        group = LayoutGroup(PAIR, declared=True, views=(single, apart))
        yield Case("a head of its own in the pickle alone", {"layouts": (group,)}, finds=("warning",))
        both = single._replace(names=PAIR, stored="separate")
        yield Case(
            "one memory in the pickle, two tensors in safetensors",
            {"layouts": (group._replace(declared=None, views=(both, shared)),)},
            finds=("warning",),
        )
        untied = group._replace(declared=False, views=(single, shared))
        yield Case("safetensors lost the head, and no flag ties it", {"layouts": (untied,)}, finds=("warning",))
        yield Case("the two forms of every tied model", {"layouts": (group._replace(views=(single, shared)),)})
        copies = group._replace(views=(both._replace(stored="copy"), shared))
        yield Case("both names in both, equal", {"layouts": (copies,)})
        yield Case("untied in both", {"layouts": (group._replace(declared=False, views=(both, apart)),)})
        head = single._replace(file="pytorch_model.bin", names=(HEAD,))
        yield Case("each has another one of the two names", {"layouts": (group._replace(views=(single, head)),)})
        unread = apart._replace(stored="unknown", reason="not read")
        yield Case("bytes that were not read", {"layouts": (group._replace(views=(single, unread)),)}, unknown=True)
        yield Case("a pickle that cannot be read", {"layouts": (Unknown("broken"),)}, unknown=True)


def one_format(group: LayoutGroup) -> tuple[Edit, ...]:
    """Return the ways to keep one format and let go of the others."""
    files = [view.file for view in group.views]
    others = {kept: tuple(Step("drop-file", (file,)) for file in files if file != kept) for kept in files}
    return tuple(Edit(kept, f"{kept} has the right weights", False, steps) for kept, steps in others.items())


def _says(view: LayoutView) -> str:
    names = listed(view.names)
    return {
        "absent": f"stores {names} alone",
        "storage": f"stores {names} as one tensor",
        "copy": f"stores {names} with equal values",
    }.get(view.stored, f"stores {names} as different tensors")


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
        "NVIDIA-NeMo/Automodel#2511 facebookresearch/lingua#74 NVIDIA-NeMo/RL#227 pytorch/pytorch#128011 "
        "pytorch/torchtitan#594"
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
