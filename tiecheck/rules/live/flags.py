"""TIE305 and 315: what a live module ties against the flags of its configs."""

from __future__ import annotations

from collections.abc import Iterator

from tiecheck.records.edits import Edit, python_edit
from tiecheck.records.live import Candidate, DeclaredTie, Head, Tie
from tiecheck.records.mending import Mending
from tiecheck.records.words import Unknown
from tiecheck.rules.base import Case, Draft, Rule, class_place
from tiecheck.rules.cases import (
    EMBEDDING,
    HEAD,
    declared_tie,
    live_facts,
    live_head,
    live_llama,
    live_tie,
    tie_candidate,
)
from tiecheck.rules.live.mends import FLAG, against_flag, model_path, own_tensors, saved_as_one
from tiecheck.wording import listed

GROUPS = 16
"""Groups whose names one finding lists."""


class TieAgainstConfig(Rule):
    """The members are tied although the config says that they are not.

    ## What it does
    Finds groups the class can tie that are one parameter in the live module, or frozen ones over one memory, while
    `config.tie_word_embeddings` is false and stays so when the config is saved and loaded. Some classes read it
    otherwise (T5's false says that logits are not scaled, LLaVA takes the text config's word), and tie again: those
    lose nothing.

    ## Why it is bad
    transformers 5 drops the target on `save_pretrained` by the class's keys, whatever the flag says, and on
    reload the false flag keeps it from tying: the head comes back random. The only sign is a MISSING line in the
    load report.

    ## How to fix it
    Set `config.tie_word_embeddings = True` if the tie is meant. If not, give the member a tensor of its own:
    `lm_head.weight = nn.Parameter(embedding.weight.detach().clone())`.
    """

    code = "TIE305"
    summary = "tied although the config says not: the next save drops the member, the next load makes it random"
    severity = "error"
    messages = ("lm_head.weight | MISSING",)
    threads = "NVIDIA-NeMo/Automodel#2941 state-spaces/mamba#211 mosaicml/llm-foundry#989"

    def check(
        self, mending: Mending, live_ties: tuple[Tie, ...], tie_candidates: tuple[Candidate, ...]
    ) -> Iterator[Draft | Unknown]:
        for candidate in against_flag(mending, tie_candidates):
            names, flag = candidate.names, _flag(candidate)
            tie = next((tie for tie in live_ties if saved_as_one(tie, names)), None)
            if tie is None:
                continue
            shared = tuple(n for n in names if n in tie.names)
            one = "frozen over one memory" if tie.kind == "storage" else f"one tensor ({tie.kind})"
            yield Draft(
                f"{listed(shared)} are {one}, but {flag} is false. save_pretrained drops all but one "
                "of them by the class's keys, and a reload makes the dropped ones at random.",
                shared,
                (class_place(mending.class_name, f"{flag} is false"),),
                "Do it before the save.",
                edits=_either(mending, candidate, shared, again=tie.kind == "storage"),
            )

    @staticmethod
    def cases() -> Iterator[Case]:
        off = tie_candidate(flag=False)
        by_hand = live_llama(flag=False, declared=(), candidates=(off,))
        yield Case("tied by hand, flag false", live_facts(by_hand), finds=("error",))
        frozen = live_tie(kind="storage", requires_grad=(False, False))
        yield Case("one memory, and frozen", live_facts(by_hand, ties=(frozen,)), finds=("error",))
        trains = live_tie(kind="storage", requires_grad=(True, True))
        yield Case("one memory that trains is another rule's", live_facts(by_hand, ties=(trains,)))
        inner = tie_candidate(flag=False, by=("LlamaForCausalLM._tied_weights_keys", "text.config.tie_word_embeddings"))
        yield Case(
            "an inner model's flag false, the outer's true",
            live_facts(flag=True, declared=(), candidates=(inner,)),
            finds=("error",),
        )
        again = live_llama(flag=False, declared=(), candidates=(off._replace(reloaded=True),))
        yield Case("T5's false, which comes back as true", live_facts(again))
        yield Case("tied, flag true", live_facts())
        yield Case("untied, flag false", live_facts(by_hand, ties=()))
        other = live_tie("a.weight", "b.weight")
        yield Case("another tie under a false flag", live_facts(by_hand, ties=(other,)))
        yield Case("a model without a config", live_facts(flag=None, declared=(), candidates=(), library=None))


class InertTieFlag(Rule):
    """The config asks for a tie, and nothing in the class makes one.

    ## What it does
    Finds a true `tie_word_embeddings` that does nothing: the class declares no tie for its head, or it reads the flag
    at another level of a composite config, where it is false or silent. And under a false flag it notes groups that
    transformers 4.57 tied all the same and 5 leaves apart. Embedding and head have one shape and are two parameters;
    a head that the class ties to something else, or that has another shape, is left alone. It is an error where the
    checkpoint beside it does not store the head, and a note otherwise.

    ## Why it is bad
    Whoever wrote the config meant the two to be tied. A checkpoint that was saved from a tied model has no head:
    transformers 5 loads it with a random one, where 4.57 tied it. Saved by 5 the model is twice as large as meant, and
    a tool that believes the flag throws the trained head away.

    ## How to fix it
    Write the flag where the class reads it (for most composite models the top level), or set it to false. Where the
    class lost its declaration, tie by hand after loading and save the head with the checkpoint:
    `model.lm_head.weight = model.get_input_embeddings().weight`.
    """

    code = "TIE315"
    summary = "the config asks for a tie and the class ties nothing"
    severity = "error"
    messages = ("lm_head.weight | MISSING",)
    threads = "huggingface/transformers#48779 huggingface/transformers#48824 NVIDIA-NeMo/Automodel#2732"

    def check(
        self,
        mending: Mending,
        declared_ties: tuple[DeclaredTie, ...],
        heads: tuple[Head, ...],
        tie_candidates: tuple[Candidate, ...],
    ) -> Iterator[Draft | Unknown]:
        claimed = {name for claim in declared_ties for name in claim.names}
        mapped = {name for candidate in tie_candidates for name in candidate.names}
        for head in heads:
            true = [dotted for dotted, value in head.flags if value]
            if true and head.alike and not head.same and claimed.isdisjoint(head.head) and head.head:
                yield _inert(mending, head, true[0], mapped=not mapped.isdisjoint(head.head))
            if head.older and not true:
                yield _gated(mending, head)

    @staticmethod
    def cases() -> Iterator[Case]:
        apart = live_head(head=(HEAD,), embedding=(EMBEDDING,), same=False)
        bare = live_llama(ties=(), declared=(), candidates=())
        yield Case("nothing is declared for the head", live_facts(bare, heads=(apart,)), finds=("info",))
        lost = apart._replace(stored=False)
        yield Case("and the checkpoint has no head", live_facts(bare, heads=(lost,)), finds=("error",))
        nested = apart._replace(flags=(("config.tie_word_embeddings", False), ("config.text_config.tie", True)))
        gated = bare._replace(heads=(nested,), candidates=(tie_candidate(flag=False),))
        yield Case("the flag of the text config is not read", live_facts(gated), finds=("info",))
        older = apart._replace(
            flags=(("config.tie_word_embeddings", False),), older=(("shared", "encoder", "decoder"),)
        )
        yield Case("4.57 tied it whatever the flag says", live_facts(bare, heads=(older,)), finds=("info",))
        yield Case("flag false", live_facts(bare, heads=(nested._replace(flags=nested.flags[:1]),)))
        yield Case("another shape (RemBert)", live_facts(bare, heads=(apart._replace(alike=False),)))
        broken = live_llama(ties=(), declared=(declared_tie("separate"),), heads=(apart,))
        yield Case("declared and broken is another rule's matter", live_facts(broken))
        yield Case("tied", live_facts(heads=(live_head(),)))
        yield Case("no head (an encoder, a classifier)", live_facts(bare))


def _inert(mending: Mending, head: Head, flag: str, *, mapped: bool) -> Draft:
    """A true flag that leaves head and embedding apart."""
    own = head.flags[0]
    why = (
        f"{head.class_name} reads {own[0]}, which is false"
        if flag != own[0]
        else f"{head.class_name} declares no tie that the flag could make"
    )
    if mapped and flag == own[0]:
        why = f"{head.class_name} leaves them apart"
    lost = " The checkpoint does not store the head, which comes out random." if head.stored is False else ""
    return Draft(
        f"{flag} is true, but {listed(head.head)} and {listed(head.embedding)} are two parameters: {why}.{lost}",
        tuple(sorted({*head.head, *head.embedding})),
        (class_place(mending.class_name, f"{flag} is true"),),
        severity=None if head.stored is False else "info",
        edits=_settled(mending, head, mapped=mapped),
    )


def _settled(mending: Mending, head: Head, *, mapped: bool) -> tuple[Edit, ...]:
    """Return the ways to a flag that does what it says: where the class reads it, or nowhere true."""
    own, true = head.flags[0], [dotted for dotted, value in head.flags if value]
    off = python_edit(
        "untied", "they are meant to be apart", *(f"{model_path(mending, dotted)} = False" for dotted in true)
    )
    if not mapped or own[1]:
        return (off,)
    lines = (f"{model_path(mending, own[0])} = True", f"{model_path(mending)}.tie_weights()")
    return (python_edit("tied", f"the values of {head.embedding[0]} are right", *lines, safe=False), off)


def _gated(mending: Mending, head: Head) -> Draft:
    """Groups that 4.57 ties under a false flag, and 5 does not."""
    flag = head.flags[0][0] if head.flags else "the flag"
    more = f" ({len(head.older)} such groups)" if len(head.older) > 1 else ""
    return Draft(
        f"{listed(head.older[0])} are separate parameters{more}, since {flag} is false. transformers 4.57 ties them "
        "whatever the flag says: a checkpoint that it saved lacks some of them, and loads with random ones here.",
        tuple(sorted({name for group in head.older[:GROUPS] for name in group})),
        (class_place(mending.class_name, "one flag gates this tie since transformers 5"),),
        "It is right where the checkpoint was saved apart.",
        severity="info",
        edits=(
            python_edit(
                "tied",
                "the checkpoint is of 4.57",
                f"{model_path(mending, flag)} = True",
                f"{model_path(mending)}.tie_weights()",
                safe=False,
            ),
        )
        if head.flags
        else (),
        no_mend="the model has no flag.",
    )


def _either(mending: Mending, candidate: Candidate, shared: tuple[str, ...], *, again: bool) -> tuple[Edit, ...]:
    """Return both ways to a flag that says what the module holds, tied anew where no parameter is shared."""
    flag = next((word for word in candidate.by if word.endswith(FLAG)), None)
    apart = own_tensors(mending, (name for name in shared if name != candidate.source))
    off = python_edit("untied", "they are meant to be apart", *apart)
    if not flag:
        return (off,)
    anew = [f"{model_path(mending)}.tie_weights()"] if again else []
    return python_edit("tied", "they are meant to be one", f"{model_path(mending, flag)} = True", *anew), off


def _flag(candidate: Candidate) -> str:
    """The flag that decides, as its user reaches it."""
    return next((word for word in candidate.by if word.endswith("config.tie_word_embeddings")), "the config's flag")
