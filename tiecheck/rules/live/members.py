"""TIE313, 316 and 317: members that were meant to differ, are not used as they are, or only look tied."""

from __future__ import annotations

from collections.abc import Iterator

from tiecheck.records.edits import python_edit
from tiecheck.records.live import DeclaredTie, Effect, EffectForm, Tie
from tiecheck.records.mending import Mending
from tiecheck.records.words import TIED, Unknown
from tiecheck.rules.base import Case, Draft, Rule, class_place
from tiecheck.rules.cases import EMBEDDING, HEAD, declared_tie, live_facts, live_llama, live_tie
from tiecheck.rules.live.mends import FIXED, model_path, own_tensors, untying_edits
from tiecheck.wording import listed


class OverlappingParameters(Rule):
    """Parameters lie over partly the same memory.

    ## What it does
    Finds different `Parameter` objects of which some elements are the same memory and others are not: a head made of a
    slice of the embedding, two windows on one buffer. On the meta device nothing is said.

    ## Why it is bad
    It is TIE302 with fewer rows. Each object has a gradient and an optimizer state of its own, and each step writes
    into the other; the first conversion or copy separates them, and safetensors refuses to save them.

    ## How to fix it
    Keep one parameter and take the slice in `forward`: `F.linear(x, embedding.weight[:n])`. If they are meant to be
    apart, clone one.
    """

    code = "TIE317"
    summary = "parameters over partly the same memory: each step writes into the other"
    severity = "error"

    def check(self, mending: Mending, live_ties: tuple[Tie, ...]) -> Iterator[Draft | Unknown]:
        for tie in live_ties:
            if tie.kind == "overlap" and not tie.buffer and tie.device != "meta":
                yield Draft(
                    f"{listed(tie.names)} are {len(tie.requires_grad)} Parameter objects over partly the same memory. "
                    "Each has its own gradient and optimizer state, each step writes into the other, and the first "
                    "conversion or copy separates them.",
                    tie.names,
                    (class_place(mending.class_name, "partly the same memory"),),
                    "Where one is meant to be a part of the other, forward has to take the slice.",
                    edits=(python_edit("apart", "they are meant to be apart", *own_tensors(mending, tie.names)),),
                )

    @staticmethod
    def cases() -> Iterator[Case]:
        slice_ = live_tie(kind="overlap", requires_grad=(True, True))
        yield Case("the head is a slice of the embedding", live_facts(ties=(slice_,)), finds=("error",))
        yield Case("one parameter", live_facts(ties=(live_tie(),)))
        yield Case("on meta", live_facts(ties=(slice_._replace(device="meta"),)))


class EqualLiveCopies(Rule):
    """Embedding and head hold equal bytes, and are two parameters; or a table in each layer does.

    ## What it does
    Notes an `nn.Embedding` and an `nn.Linear` with the same bytes, which nobody declares as tied: TIE109 in a live
    model; embeddings of the same name in several layers, which a `deepcopy` of a layer makes of a shared table; and two
    that train side by side in one module, which it makes of an embedding under two names. One value everywhere says
    nothing.

    ## Why it is bad
    It may be right: the two were untied a moment ago, and are to be trained apart. But a loader that copies where it
    should share leaves just this behind: the matrix takes its memory twice, the first step separates the two, and no
    test before it sees anything.

    ## How to fix it
    If they are meant to be one, share the parameter: `head.weight = embedding.weight`. If not, nothing is wrong.
    """

    code = "TIE316"
    summary = "embedding and head, or two tables, hold equal bytes and are not tied"
    severity = "info"
    threads = "rasbt/LLMs-from-scratch#822 facebookresearch/fairseq2#1064"

    def check(
        self,
        mending: Mending,
        live_ties: tuple[Tie, ...],
        declared_ties: tuple[DeclaredTie, ...],
        equal_copies: tuple[tuple[str, str], ...],
    ) -> Iterator[Draft | Unknown]:
        spoken_for = [set(claim.names) for claim in declared_ties] + [set(tie.names) for tie in live_ties]
        groups: dict[str, list[str]] = {}
        for table, other in equal_copies:
            if not any({table, other} <= names for names in spoken_for):  # declared-tie-not-applied or storage-only-tie
                groups.setdefault(table, []).append(other)
        for table, others in groups.items():
            names, count = (table, *others), len(others) + 1
            share = (f"{model_path(mending, other)} = {model_path(mending, table)}" for other in others)
            yield Draft(
                f"{listed(names)} hold equal bytes and are {'two' if count == 2 else count} parameters, which nobody "
                f"declares as one. They take their memory {'twice' if count == 2 else f'{count} times'}, and the first "
                "step separates them.",
                names,
                (class_place(mending.class_name, f"equal bytes, {'two' if count == 2 else count} parameters"),),
                "If not, nothing is wrong.",
                edits=(python_edit("tied", "they are meant to be one", *share),),
            )

    @staticmethod
    def cases() -> Iterator[Case]:
        bare = live_llama(ties=(), declared=(), candidates=(), equal=((EMBEDDING, HEAD),))
        yield Case("a loader that copied", live_facts(bare), finds=("info",))
        tables = tuple((f"h.0.{EMBEDDING}", f"h.{n}.{EMBEDDING}") for n in (1, 2))
        yield Case("a table copied with each layer", live_facts(bare._replace(equal=tables)), finds=("info",))
        yield Case("declared, and another rule's matter", live_facts(bare, declared=(declared_tie("copy"),)))
        memory = live_tie(kind="storage", requires_grad=(True, True))
        yield Case("one memory, and another rule's matter", live_facts(bare, ties=(memory,)))
        yield Case("two that differ", live_facts(bare, equal=()))
        yield Case("tied", live_facts())


class TiedButNotEffective(Rule):
    """The members are one `Parameter`, and `forward` uses another weight on one side.

    ## What it does
    Finds tied members that use different weights, since one passes through something before it is used: pruning,
    `spectral_norm`, a parametrization. What comes out is computed where it can be, and compared: two sides that are
    changed alike are left alone. An adapter is a note, on one side or both: it is meant to differ while it trains.
    So is a parametrization that gives a linear layer the transpose it wants.

    ## Why it is bad
    Whoever looks for the same object finds the tie intact. But the head scores with a pruned or normalised matrix and
    the embedding looks up the raw one. `prune.remove` and `remove_parametrizations` then write the changed weight into
    the embedding in place, as merging an adapter does.

    ## How to fix it
    Prune or normalise before tying, or both sides alike. To bake it in on one side only, untie first. A copy that
    PEFT trains (`modules_to_save`) separates the two when it is merged; an adapter that adds to the weight changes
    both.
    """

    code = "TIE313"
    summary = "one Parameter, and another weight in forward on one side: pruning, a norm, a parametrization, an adapter"
    severity = "error"
    messages = ("Model has `tie_word_embeddings=True` and a tied layer is part of the adapter",)
    threads = "huggingface/peft#2018 huggingface/peft#1750"

    def check(
        self, mending: Mending, live_ties: tuple[Tie, ...], derived_weights: tuple[Effect, ...]
    ) -> Iterator[Draft | Unknown]:
        by_name = {effect.name: effect for effect in derived_weights}
        for tie in live_ties:
            changed = [by_name[name] for name in tie.names if name in by_name]
            plain = tuple(name for name in tie.names if name not in by_name)
            if tie.kind not in TIED or tie.buffer or not changed or use_one_weight(changed, plain):
                continue
            forms = {effect.form for effect in changed}
            used = f"{plain[0]} is used raw" if plain else f"{changed[-1].name} passes through {changed[-1].by}"
            after, more = _after(forms, plain[0] if plain else changed[-1].name)
            yield Draft(
                f"{listed(tie.names)} are one parameter, but {changed[0].name} is not used as it is: "
                f"{changed[0].by} stands between. {used}. {after}",
                tie.names,
                (class_place(mending.class_name, f"{changed[0].name}: {changed[0].by}"),),
                more,
                severity=None if "changes" in forms else "info",
                edits=untying_edits(mending, tie.names, "they are meant to differ", plain)
                if "changes" in forms
                else (),
                no_mend=FIXED if "changes" in forms else NOTHING_WRONG,
            )

    @staticmethod
    def cases() -> Iterator[Case]:
        names = ("lm_head.weight_orig", "model.embed_tokens.weight")
        tied = live_llama(ties=(live_tie(*names),))
        one = (Effect(names[0], "torch.nn.utils.prune", form="changes"),)
        yield Case("the head is pruned", live_facts(tied, effects=one), finds=("error",))
        both = (*one, Effect(names[1], "torch.nn.utils.prune", form="changes"))
        yield Case("both are, and what comes out is not known", live_facts(tied, effects=both))
        apart = tuple(effect._replace(value=number) for number, effect in enumerate(both))
        yield Case("both are, and use different weights", live_facts(tied, effects=apart), finds=("error",))
        alike = tuple(effect._replace(value=1) for effect in both)
        yield Case("both are, and use one weight", live_facts(tied, effects=alike))
        yield Case("a mask of ones", live_facts(tied, effects=(one[0]._replace(value=0),)))
        lora = (Effect(names[0], "the adapter default (Linear)", form="adapts"),)
        yield Case("an adapter on the head", live_facts(tied, effects=lora), finds=("info",))
        saved = (Effect(names[0], "the adapter default (ModulesToSaveWrapper)", form="replaces", value=1),)
        yield Case("a head of its own, by modules_to_save", live_facts(tied, effects=saved), finds=("info",))
        turned = (Effect(names[0], "Transpose", form="transposes"),)
        yield Case("a tied autoencoder", live_facts(tied, effects=turned), finds=("info",))
        two = live_llama(ties=(live_tie(*names, kind="storage"),), effects=one)
        yield Case("weight_norm makes two parameters: another rule's matter", live_facts(two))
        yield Case("nothing stands between", live_facts())


NOTHING_WRONG = "nothing is wrong."
"""Reason of a note on what may well be meant."""


def use_one_weight(changed: list[Effect], plain: tuple[str, ...]) -> bool:
    """Return True if all members use one weight, or if each passes through something that was not computed."""
    numbers = {effect.value for effect in changed} | ({0} if plain else set())
    if None in numbers:
        return not plain and all(effect.form == "changes" for effect in changed)
    return len(numbers) == 1


def _after(forms: set[EffectForm], other: str) -> tuple[str, str]:
    """Return what comes of it, and what to mind, by what stands between."""
    if "changes" in forms:
        return f"Removing it would write the changed weight into {other}.", ""
    if "replaces" in forms:
        return (
            "A merge puts the adapter's own copy there and separates the two; peft 0.21 then sets the flag to false.",
            "ensure_weight_tying=True in the adapter's config makes one copy for both.",
        )
    if "adapts" in forms:
        return f"Merging the adapter would change {other} as well.", "A merge into a tied model changes both."
    return (
        "It gives a linear layer the transpose that it wants, as a tied autoencoder means it.",
        "Without the parametrization the two cannot stay tied.",
    )
