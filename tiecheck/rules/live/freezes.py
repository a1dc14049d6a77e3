"""TIE312 and TIE319: tied members that were meant to differ, and what two live models share."""

from __future__ import annotations

from collections.abc import Iterator

from tiecheck.records.edits import Edit, python_edit
from tiecheck.records.life import SharedAcross
from tiecheck.records.live import Freeze
from tiecheck.records.mending import Mending
from tiecheck.records.report import Severity
from tiecheck.records.words import Unknown
from tiecheck.rules.base import Case, Draft, Rule, class_place
from tiecheck.rules.cases import PAIR, live_facts, live_llama
from tiecheck.rules.live.mends import FIXED, model_path, untying_edits
from tiecheck.wording import listed


class RequiresGradSurprise(Rule):
    """Members of one tensor that were meant to differ in `requires_grad` or dtype cannot.

    ## What it does
    Notes signs that somebody wanted the members of a tie to differ: `requires_grad` set on a module, where it does
    nothing at all; a tied tensor that alone is frozen, or that alone trains below a module which is otherwise frozen;
    and one that alone has another dtype. Only the first is surely not what was meant: the others are notes.

    ## Why it is bad
    One tensor has one `requires_grad` and one dtype. Freezing the embedding freezes the head; training the head trains
    the embedding; casting the head to float32 casts the embedding as well.

    ## How to fix it
    If the members are to differ, they have to be two: set `config.tie_word_embeddings` to false and give the head
    `nn.Parameter(weight.detach().clone())`. To freeze a module call `module.requires_grad_(False)`, with the
    underscore.
    """

    code = "TIE312"
    summary = "tied members that were meant to differ in requires_grad or dtype"
    severity = "warning"
    confidence = "medium"
    threads = (
        "huggingface/transformers#31467 huggingface/transformers#11903 kohjingyu/fromage#18 huggingface/trl#4446 "
        "allenai/open-instruct#1387"
    )

    def check(self, mending: Mending, intended_differences: tuple[Freeze, ...]) -> Iterator[Draft | Unknown]:
        for freeze in intended_differences:
            message, severity = _surprise(freeze)
            yield Draft(
                message,
                freeze.names,
                (class_place(mending.class_name, f"{freeze.names[0]}: {freeze.found}"),),
                "" if freeze.form == "attribute" else "Otherwise nothing has to be done.",
                severity=severity,
                edits=_differing(mending, freeze),
                no_mend=FIXED,
            )

    @staticmethod
    def cases() -> Iterator[Case]:
        nothing = Freeze("attribute", PAIR, "lm_head", "trains", "false")
        yield Case("requires_grad set on a module", live_facts(freezes=(nothing,)), finds=("warning",))
        frozen = Freeze("frozen", PAIR, "", "frozen", "trains")
        yield Case("the embedding frozen, and the head with it", live_facts(freezes=(frozen,)), finds=("info",))
        alone = Freeze("trainable", PAIR, "model", "trains", "frozen")
        yield Case("the head trains, and the embedding with it", live_facts(freezes=(alone,)), finds=("info",))
        cast = Freeze("dtype", PAIR, "", "float32", "bfloat16")
        yield Case("the head in float32", live_facts(freezes=(cast,)), finds=("info",))
        yield Case("nothing of the kind", live_facts())
        untied = live_llama(flag=False, ties=(), declared=(), candidates=())
        yield Case("two parameters may differ as they like", live_facts(untied))


def _differing(mending: Mending, freeze: Freeze) -> tuple[Edit, ...]:
    """Return the way to members that may differ, and to a freeze that freezes."""
    edits = untying_edits(mending, freeze.names, "they are meant to differ")
    if freeze.form != "attribute":
        return edits
    where = model_path(mending, freeze.where)
    told = f"{where}.requires_grad_({freeze.others == 'true'})"
    both = python_edit("tied", "all of them are meant", f"del {where}.requires_grad", told)
    return (both, *edits)


def _surprise(freeze: Freeze) -> tuple[str, Severity]:
    """The words for a sign, and how much it matters."""
    names = listed(freeze.names)
    if freeze.form == "attribute":
        really = "is frozen" if freeze.found == "frozen" else "trains"
        told = f"{freeze.where}.requires_grad is {freeze.others}, an attribute of the module that changes nothing"
        return f"{told}: {names} are one tensor, which {really}.", "warning"
    if freeze.form == "frozen":
        told = f"{names} are one tensor, and it alone is frozen while everything else trains"
        return f"{told}: its members cannot be frozen apart.", "info"
    if freeze.form == "trainable":
        told = f"{names} are one tensor, and it alone trains below {freeze.where}, where everything else is frozen"
        return f"{told}: training one trains the other.", "info"
    told = f"{names} are one tensor in {freeze.found}, and everything else is {freeze.others}"
    return f"{told}: casting one cast the other.", "info"


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
    threads = "huggingface/trl#6053 huggingface/trl#3253 huggingface/trl#244"

    def check(self, mending: Mending, across_models: tuple[SharedAcross, ...]) -> Iterator[Draft | Unknown]:
        for shared in across_models:
            what, note = _told(shared)
            bad = shared.trains and shared.form in ("whole", "memory")
            yield Draft(
                what,
                shared.names,
                (class_place(mending.class_name, note),),
                severity=None if bad else "info",
                edits=_edits(mending, shared),
                no_mend="sharing them may be what is wanted.",
            )

    @staticmethod
    def cases() -> Iterator[Case]:
        one = SharedAcross(0, "LM", "memory", ("wte.weight",), True, ("beside[0].wte.weight",))

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
    if shared.form == "whole":
        copied = f"beside[{shared.other}] = copy.deepcopy(model)"
        return (python_edit("apart", "a copy was meant", "import copy", copied),)
    if shared.form == "memory" and shared.trains:
        lines = [f"{path}.data = {path}.data.clone()" for path in shared.paths]
        return (python_edit("apart", "they are meant to be apart", *lines),)
    if shared.form == "copies":
        lines = [f"{path} = {model_path(mending, n)}" for path, n in zip(shared.paths, shared.names, strict=True)]
        return (python_edit("shared", "they are meant to be shared", *lines),)
    return ()


def _told(shared: SharedAcross) -> tuple[str, str]:
    """Return what is shared, and a few words for its place."""
    (verb, also), title = (("are", "parameters") if len(shared.names) > 1 else ("is", "a parameter")), shared.title
    names = f"{listed(shared.names)} {verb}"
    if shared.form == "whole":
        return (
            f"Every parameter of the other {title} is the model's own: it is no copy, and changes with the model.",
            "one model",
        )
    if shared.form == "object":
        return f"{names} also {also} of the other {title}: the two share the object.", "the same object"
    if shared.form == "memory":
        after = "a step of either changes both" if shared.trains else "neither trains"
        words = f"{listed(shared.names)} and the other {title} use one memory by different Parameter objects: {after}."
        return words, "one memory in two models"
    words = f"{names} frozen and equal in the model and the other {title}, and held twice: the two share nothing."
    return words, "equal copies in two models"
