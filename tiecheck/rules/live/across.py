"""TIE319: what a live model shares with a model that was made from it."""

from __future__ import annotations

from collections.abc import Iterator

from tiecheck.records.edits import Edit, python_edit
from tiecheck.records.life import SharedAcross
from tiecheck.records.live import LiveClass
from tiecheck.records.mending import Mending
from tiecheck.records.words import Unknown
from tiecheck.rules.base import Case, Draft, Rule, class_place
from tiecheck.rules.live.mends import model_path
from tiecheck.wording import listed


class TiedAcrossModels(Rule):
    """Two models share what one of them trains, or hold twice what was to be shared.

    ## What it does
    Compares a model with the ones given as `beside=`: a reference, an average, a teacher. It warns where the two stand
    over the same memory and it trains, and where the other is no copy at all, since every parameter of it is the
    model's own. Parameters that are shared as objects, frozen layers that share their memory, and frozen layers that
    are equal and held twice are notes: that sharing may be what is wanted, and here it says whether it is there.

    ## Why it is bad
    A reference that moves with the policy measures nothing: its difference is zero for ever. And a sharing that was
    meant to save memory and does not (`r = p` on a local name) costs it in silence.

    ## How to fix it
    Make the copy by `copy.deepcopy(model)`. To share frozen layers, assign the parameter itself:
    `reference.layer.weight = model.layer.weight`.
    """

    code = "TIE319"
    summary = "a copy, an average or a reference model shares memory with the model it was made from, and it trains"
    severity = "warning"
    threads = ("huggingface/trl#6053", "huggingface/trl#3253", "huggingface/trl#244")

    def check(
        self, live_class: LiveClass, mending: Mending, across_models: tuple[SharedAcross, ...]
    ) -> Iterator[Draft | Unknown]:
        for shared in across_models:
            what, note = _told(shared)
            bad = shared.trains and shared.form in ("whole", "memory")
            yield Draft(
                what,
                shared.names,
                (class_place(live_class.class_name, note),),
                severity=None if bad else "info",
                edits=_edits(mending, shared),
                no_mend="sharing them may be what is wanted.",
            )

    @staticmethod
    def cases() -> Iterator[Case]:
        from tiecheck.rules.cases import live_facts

        one = SharedAcross(0, "LM", "memory", ("wte.weight",), True)

        def facts(*shared: SharedAcross) -> dict[str, object]:
            return live_facts() | {"across_models": shared}

        yield Case("a reference over the policy's memory", facts(one), finds=("warning",))
        yield Case("copy.copy", facts(one._replace(form="whole")), finds=("warning",))
        yield Case("frozen layers that are shared", facts(one._replace(trains=False)), finds=("info",))
        yield Case("an actor and a critic over one body", facts(one._replace(form="object")), finds=("info",))
        yield Case("frozen, and held twice", facts(one._replace(form="copies", trains=False)), finds=("info",))
        yield Case("a deepcopy", facts())
        yield Case("another deepcopy, trained since", live_facts() | {"across_models": ()})


def _edits(mending: Mending, shared: SharedAcross) -> tuple[Edit, ...]:
    """Return the way to models of their own, or to the sharing that was meant."""
    other = f"beside[{shared.other}]"
    if shared.form == "whole":
        return (python_edit("apart", "a copy was meant", "import copy", f"{other} = copy.deepcopy(model)"),)
    if shared.form == "memory" and shared.trains:
        lines = [f"{path}.data = {path}.data.clone()" for path in (_in(mending, other, n) for n in shared.names)]
        return (python_edit("apart", "they are meant to be apart", *lines),)
    if shared.form == "copies":
        lines = [f"{_in(mending, other, name)} = {model_path(mending, name)}" for name in shared.names]
        return (python_edit("shared", "they are meant to be shared", *lines),)
    return ()


def _in(mending: Mending, other: str, name: str) -> str:
    return other + model_path(mending, name).removeprefix("model")


def _told(shared: SharedAcross) -> tuple[str, str]:
    """Return what is shared, and a few words for its place."""
    names, title = f"{listed(shared.names)} {'are' if len(shared.names) > 1 else 'is'}", shared.title
    if shared.form == "whole":
        return (
            f"Every parameter of the {title} beside is the model's own: it is no copy, and moves with it.",
            "one model",
        )
    if shared.form == "object":
        return f"{names} also the {title}'s beside: shared, as the same object.", "the same object"
    if shared.form == "memory":
        after = "each step of the one writes into the other" if shared.trains else "neither trains"
        words = f"{names} other Parameter objects over the memory of the {title} beside: {after}."
        return words, "one memory in two models"
    words = f"{names} frozen in both, equal in the {title} beside, and held twice: nothing is shared between the two."
    return words, "equal copies in two models"
