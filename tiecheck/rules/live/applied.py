"""TIE301, 302 and 314: how the members of a declared group hang together in a live `nn.Module`."""

from __future__ import annotations

from collections.abc import Iterator

from tiecheck.records.edits import python_edit
from tiecheck.records.live import Candidate, DeclaredTie, Head, LiveClass, Registration, Tie
from tiecheck.records.mending import Mending
from tiecheck.records.words import Unknown
from tiecheck.rules.base import Case, Draft, Rule, class_place
from tiecheck.rules.cases import HEAD, PAIR, declared_tie, live_facts, live_llama, live_tie, tie_candidate
from tiecheck.rules.live.mends import (
    FLAG,
    against_flag,
    idle_words,
    joined_drafts,
    model_path,
    of_one_cause,
    parts_text,
    shared_object_edits,
    speaking_rule,
    tie_again,
)
from tiecheck.wording import listed

NOT_TIED = (
    "The model weights are not tied. Please use the `tie_weights` method before using the `infer_auto_device` function."
)
"""accelerate's warning (1.15, `infer_auto_device_map`), true for a tie that is none, false for an alias it misses."""
SHARED_MEMORY = (
    "Some tensors share memory, this will lead to duplicate memory on disk and potential differences when loading "
    "them again"
)
"""safetensors' refusal (0.8, `save_file`)."""


class DeclaredTieNotApplied(Rule):
    """The class declares a tie, and the module holds separate parameters.

    ## What it does
    Finds groups that class and config declare as tied and whose members are `copy` (separate memory, equal
    bytes) or `separate` in the live module. On the meta device the identity of the objects decides.

    ## Why it is bad
    Everything that trusts the declaration goes wrong: savers drop the member they believe to be an alias, the
    optimizer moves two tensors where one was meant, each with half of the gradient. A copy gives the right output
    until the first step, and so passes every test before it.

    ## How to fix it
    Find out first which values are right: `tie_weights()` keeps the source's and drops the others, which would
    destroy a head that was trained on its own. Then call it after whatever replaced the parameter
    (`load_state_dict(assign=True)`, `to_empty`, a hand-written loader, a wrapper), and before the optimizer or a
    sharding wrapper is made. If the model is meant to be untied, set `config.tie_word_embeddings` to false.
    """

    code = "TIE301"
    summary = "declared tied, the live members are copies or separate"
    severity = "error"
    messages = (NOT_TIED,)
    threads = (
        "vec2text/vec2text#94 rasbt/LLMs-from-scratch#822 Modalities/modalities#357 verl-project/verl#7835 "
        "huggingface/accelerate#3668 pytorch/xla#1245"
    )

    def check(
        self, live_class: LiveClass, mending: Mending, declared_ties: tuple[DeclaredTie, ...], heads: tuple[Head, ...]
    ) -> Iterator[Draft | Unknown]:
        for reason in live_class.reasons:
            yield Unknown(reason)
        for claim in declared_ties:
            if claim.kind == "unknown":
                yield Unknown(f"{listed(claim.names)}: {claim.reason}")
            apart = any(set(claim.names) >= set(group) for group in mending.sharded_apart)
            if apart or speaking_rule(claim, declared_ties, heads) != self.code:
                continue  # of those that are sharded apart fsdp-groups-split-tie speaks
            yield Draft(
                f"{claim.by[0]} declares {listed(claim.names)} as one tensor, but the module holds "
                f"{len(claim.parts)} separate {'tensors' if claim.buffers else 'parameters'}{_state(claim)}.",
                claim.names,
                (class_place(mending.class_name, parts_text(claim)),),
                f"Do it after whatever replaced the parameter, and before the optimizer is made.{idle_words(mending)}",
                edits=tie_again(claim, mending),
            )

    @staticmethod
    def cases() -> Iterator[Case]:
        yield Case("separate values", live_facts(ties=(), declared=(declared_tie("separate"),)), finds=("error",))
        yield Case("an equal copy", live_facts(ties=(), declared=(declared_tie("copy"),)), finds=("error",))
        lent = declared_tie("storage")._replace(buffers=PAIR[:1])
        yield Case("a buffer over the other's memory", live_facts(ties=(), declared=(lent,)), finds=("error",))
        yield Case("tied as declared", live_facts())
        aliased = declared_tie("module", parts=(PAIR,))
        yield Case("tied by a module alias", live_facts(declared=(aliased,)))
        yield Case("one memory is another rule's matter", live_facts(declared=(declared_tie("storage"),)))
        yield Case("members that do not exist", live_facts(ties=(), declared=(declared_tie("absent"),)))
        partitioned = declared_tie("unknown", reason="the parameter is partitioned by DeepSpeed ZeRO-3")
        yield Case("placeholders of another's", live_facts(ties=(), declared=(partitioned,)), unknown=True)
        unread = live_llama(declared=(), reasons=("_tied_weights_keys is a list",))
        yield Case("a declaration that cannot be read", live_facts(unread), unknown=True)
        kept = declared_tie("separate", stored="separate")
        yield Case("loaded as it is stored: two different tensors", live_facts(ties=(), declared=(kept,)))
        random = declared_tie("separate", stored="absent")
        yield Case("loaded from one tensor, and not tied", live_facts(ties=(), declared=(random,)), finds=("error",))
        yield Case("nothing declared", live_facts(ties=(), declared=()))


LENT = (
    "one parameter where the buffer is to follow, and a clone where it is not: what is meant the model does not tell."
)
TURNED = "one is the other transposed, and forward has to take the one parameter as both do."


class StorageOnlyTie(Rule):
    """Two `Parameter` objects lie over the same memory: it looks tied, and is not.

    ## What it does
    Finds different parameters, or a parameter and a buffer, with the same memory, offset and elements, a transposed
    view included. The usual makers are `head.weight.data = embedding.weight.data`, `nn.Parameter(embedding.weight)`,
    `nn.Parameter(embedding.weight.t())`, and `weight_norm` on a member that was tied.

    ## Why it is bad
    The values agree, so every comparison of values passes. But each object has a gradient of its own, the
    optimizer holds two states and steps the memory twice, and the two part for good at the first `.half()`,
    `deepcopy`, `to_empty` or `load_state_dict(assign=True)`. Tools that look for the same object (accelerate,
    lightning, torch) do not see it; tools that look at memory (safetensors) refuse to save it.

    ## How to fix it
    Share the object: `head.weight = embedding.weight`. For a transposed use, keep one parameter and write
    `x @ embedding.weight` in `forward`. Apply `weight_norm` or another parametrization before tying, or not at all.
    On the meta device, accelerate's `init_empty_weights` makes such ties by itself, and transformers' loader ties
    again afterwards: there it is only a note.
    """

    code = "TIE302"
    summary = "different Parameter objects over one memory: looks tied, is not"
    severity = "error"
    messages = (SHARED_MEMORY,)
    threads = (
        "pytorch/pytorch#79788 TransformerLensOrg/TransformerLens#1725 huggingface/transformers#33688 "
        "mindspore-ai/hyper-parallel#606"
    )

    def check(
        self, mending: Mending, live_ties: tuple[Tie, ...], tie_candidates: tuple[Candidate, ...]
    ) -> Iterator[Draft | Unknown]:
        claimed = [{*claim.names} for claim in mending.declared] + [{*one.names} for one in tie_candidates]
        for ties in of_one_cause(live_ties, against_flag(mending, tie_candidates)):
            yield joined_drafts([self._draft(mending, tie, claimed) for tie in ties])

    @staticmethod
    def _draft(mending: Mending, tie: Tie, claimed: list[set[str]]) -> Draft:
        meta, frozen = tie.device == "meta", not any(tie.requires_grad)
        declared = any({*tie.names} <= names for names in claimed)
        adapters = all(".lora_" in name for name in tie.names)  # PEFT's `ensure_weight_tying` makes them so (0.21)
        normed = [n for n in tie.names if n.endswith(("parametrizations.weight.original1", "weight_v"))]
        what = (
            f"{normed[0]} is what weight_norm made of a tied weight: it still shares the memory, and is a parameter of "
            "its own"
            if normed
            else f"{listed(tie.names)} share their memory, but are {len(tie.requires_grad)} different "
            f"{'tensors, a parameter and a buffer' if tie.lent else 'Parameter objects'}"
        )
        cost = (
            "accelerate's init_empty_weights makes these; the loader has to tie again."
            if meta
            else "None of them trains, and the first conversion or copy gives each its own memory."
            if frozen
            else "A step writes into both, and the first conversion or copy leaves the buffer behind."
            if tie.lent
            else "Each has its own gradient and optimizer state, and the first conversion or copy separates them."
        )
        why = "the loader ties them again." if meta else "PEFT makes and keeps them so."
        return Draft(
            f"{what}. {cost}",
            tie.names,
            (class_place(mending.class_name, "same memory, different objects"),),
            severity="info" if meta or adapters or (frozen and not declared) else "warning" if frozen else None,
            edits=() if meta or adapters or tie.lent else shared_object_edits(mending, tie, normed),
            no_mend=why if meta or adapters else LENT if tie.lent else TURNED,
        )

    @staticmethod
    def cases() -> Iterator[Case]:
        shared = live_tie(kind="storage", requires_grad=(True, True))
        yield Case("`.data =` or `nn.Parameter(w)`", live_facts(ties=(shared,)), finds=("error",))
        normed = live_tie("lm_head.parametrizations.weight.original1", "model.embed_tokens.weight", kind="storage")
        twice = tuple(shared._replace(names=(f"a.{n}.weight", f"b.{n}.weight")) for n in "xy")
        yield Case("one model over another's memory", live_facts(ties=twice), finds=("error",))
        frozen = shared._replace(requires_grad=(False, False))
        bare, off = live_llama(ties=(frozen,), declared=(), candidates=()), tie_candidate(flag=False)
        yield Case("frozen on both sides", live_facts(bare), finds=("info",))
        yield Case("a flag that is false, which is another rule's matter", live_facts(bare, candidates=(off,)))
        yield Case("T5's false", live_facts(bare, candidates=(off._replace(reloaded=True),)), finds=("warning",))
        yield Case("frozen, and declared as one", live_facts(ties=(frozen,)), finds=("warning",))
        yield Case("weight_norm after tying", live_facts(ties=(normed,)), finds=("error",))
        yield Case("on meta", live_facts(ties=(shared._replace(device="meta"),)), finds=("info",))
        lora = live_tie("lm_head.lora_A.default.weight", "model.embed_tokens.lora_embedding_B.default", kind="storage")
        yield Case("adapters that PEFT ties", live_facts(ties=(lora,)), finds=("info",))
        yield Case("a shared buffer", live_facts(ties=(shared._replace(buffer=True),)))
        lent = shared._replace(registrations=(Registration("Linear", "weight", buffer=True),))
        yield Case("a buffer over a parameter", live_facts(ties=(lent,)), finds=("error",))
        yield Case("a parameter tie", live_facts())
        yield Case("a module alias", live_facts(ties=(live_tie(kind="module"),)))
        yield Case("views that overlap in part are no tie", live_facts(ties=(live_tie(kind="overlap"),)))


class HalfMetaTie(Rule):
    """One member of the group has data and another is on the meta device.

    ## What it does
    Finds declared groups of which a part is on meta and a part is not, where no hook of accelerate looks after the
    part on meta.

    ## Why it is bad
    A meta weight has no values. `F.linear` of a CPU tensor with a meta weight does not fail on the CPU: torch 2.13
    returns memory that nobody wrote, so that the logits are garbage and nothing is said. The usual way there is a model
    built on meta and tied, and then `load_state_dict(..., assign=True, strict=False)` from a checkpoint that stores the
    tensor once: only the stored name gets data.

    ## How to fix it
    Tie again after loading: `model.tie_weights()`, or assign the member that has data to the others.
    """

    code = "TIE314"
    summary = "one member has data, another is on meta: a forward pass may return garbage without an error"
    severity = "error"
    messages = ("for {key}: copying from a non-meta parameter in the checkpoint to a meta parameter", "device meta")
    threads = "huggingface/accelerate#3668 verl-project/verl#7835"

    def check(
        self,
        mending: Mending,
        declared_ties: tuple[DeclaredTie, ...],
        heads: tuple[Head, ...],
        tie_candidates: tuple[Candidate, ...],
    ) -> Iterator[Draft | Unknown]:
        for candidate in tie_candidates:
            if candidate.empty:
                yield self._unloaded(mending, candidate)
        for claim in declared_ties:
            if speaking_rule(claim, declared_ties, heads) != self.code:
                continue
            empty = tuple(n for part, d in zip(claim.parts, claim.devices, strict=True) if d == "meta" for n in part)
            full = tuple(n for part, d in zip(claim.parts, claim.devices, strict=True) if d != "meta" for n in part)
            yield Draft(
                f"{listed(empty)} {'is' if len(empty) == 1 else 'are'} on the meta device and {listed(full)} "
                f"{'has' if len(full) == 1 else 'have'} data, though {claim.by[0]} declares them as one tensor. A "
                "linear layer of torch 2.13 returns uninitialised memory for such a weight on the CPU, without an "
                "error.",
                claim.names,
                (class_place(mending.class_name, parts_text(claim)),),
                f"The values are those of {listed(full)}. Each load of one name wants it again.{idle_words(mending)}",
                edits=tie_again(claim, mending),
            )

    @staticmethod
    def _unloaded(mending: Mending, candidate: Candidate) -> Draft:
        full = tuple(name for name in candidate.names if name not in candidate.empty)
        flags = (f"{model_path(mending, word)} = True" for word in candidate.by if word.endswith(FLAG))
        shared = (f"{model_path(mending, name)} = {model_path(mending, full[0])}" for name in candidate.empty)
        return Draft(
            f"{listed(candidate.empty)} {'is' if len(candidate.empty) == 1 else 'are'} on the meta device and "
            f"{listed(full)} {'has' if len(full) == 1 else 'have'} data: nothing was loaded into it, and under a false "
            "flag nothing ties it.",
            candidate.names,
            (class_place(mending.class_name, f"{candidate.empty[0]} is on meta"),),
            f"Otherwise its checkpoint has to have {listed(candidate.empty)}.",
            edits=(python_edit("tied", "the model was saved tied", *flags, *shared),),
        )

    @staticmethod
    def cases() -> Iterator[Case]:
        half = declared_tie("separate", devices=("meta", "cpu"), shapes=((128, 16), (128, 16)))
        yield Case("the head on meta", live_facts(ties=(), declared=(half,)), finds=("error",))
        lost = live_llama(ties=(), declared=(), candidates=(tie_candidate(flag=False, empty=(HEAD,)),))
        yield Case("the head on meta under a false flag", live_facts(lost), finds=("error",))
        whole = declared_tie("separate", devices=("meta", "meta"))
        yield Case("all on meta: another rule's matter", live_facts(ties=(), declared=(whole,)))
        held = declared_tie("unknown", devices=("offloaded", "cpu"))
        yield Case("offloaded by accelerate", live_facts(ties=(), declared=(held,)))
        yield Case("tied", live_facts())


def _state(claim: DeclaredTie) -> str:
    if claim.reason:
        return f" ({claim.reason})"
    if claim.kind == "storage":
        return f" over one memory, {listed(claim.buffers)} as a buffer: the first conversion or copy separates them"
    return " with equal values, which the first update separates" if claim.kind == "copy" else " with different values"
