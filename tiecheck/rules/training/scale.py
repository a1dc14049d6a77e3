"""TIE7xx: what a tie does to training."""

from __future__ import annotations

from collections.abc import Iterator

from tiecheck.records.edits import python_edit
from tiecheck.records.scale import InitScale
from tiecheck.records.words import Unknown
from tiecheck.rules.base import Case, Draft, Rule, tensor_place
from tiecheck.wording import python_path

ERROR_FROM = 4.0
"""Predicted logit deviation from which untrained logits drown everything else."""

NOTE_FROM = 1.5
"""Deviation from which the first steps are spent on shrinking the logits. At their own init, of the tied
classes of transformers 5.23 that build small, only MT5 and Funnel reach `ERROR_FROM` (8 measured)."""


class EmbeddingScaleOnTiedHead(Rule):
    """The tied matrix keeps the embedding's N(0, 1) draw, which is far too large for a head.

    ## What it does
    Predicts the standard deviation of an untrained model's logits: `std * sqrt(d_model)` times the scale of the head's
    input (1 after a final norm) and of the head itself. 4 and more is an error, 1.5 to 4 a note; so is a class of the
    library that draws it so by its own config (MT5's `initializer_factor`, Funnel's `initializer_std` that is null).
    It says whose initial draw the tensor has, the embedding's or the head's. It speaks only where nothing was trained
    yet (every normalisation weight is exactly one) and the head's scale is known (T5 divides by sqrt(d_model)). With
    weights loaded it also measures.

    ## Why it is bad
    `nn.Embedding` draws from N(0, 1), `nn.Linear` from a narrow uniform. `lm_head.weight = embedding.weight`
    keeps the first: for d_model 768 the logits deviate by about 28, and the loss starts in the hundreds where
    ln(vocabulary) is 10.8. Each token's own logit is the largest by far, so that sampling repeats the input. The
    tie itself is sound; `embedding.weight = lm_head.weight` keeps the small draw, and only that differs.

    ## How to fix it
    Initialise the tied tensor for its role as a head: `nn.init.normal_(embedding.weight, std=0.02)` after tying
    (GPT-2's choice), or a std of at most `sqrt(0.2 / d_model)`, which keeps the first loss within 0.1 of
    ln(vocabulary). Tying in the other order works by accident of nn.Linear's default.
    """

    code = "TIE701"
    summary = "the shared tensor's scale blows up untrained logits"
    severity = "error"
    threads = (
        "https://discuss.pytorch.org/t/212223 huggingface/transformers#26441 huggingface/transformers#16749 "
        "Modalities/modalities#456 fastai/fastai#2090"
    )

    def check(self, scale: tuple[InitScale | Unknown, ...]) -> Iterator[Draft | Unknown]:
        for fact in scale:
            if isinstance(fact, Unknown):
                yield fact
            elif not fact.untrained or fact.std is None:
                continue
            elif fact.predicted is None:
                unscaled = fact.std * fact.width**0.5
                if unscaled >= NOTE_FROM:
                    yield Unknown(
                        f"the model is untrained, and its logits would deviate by {unscaled:.1f} if nothing scaled "
                        f"them; whether something does is not known ({fact.reason or 'the class was not run'})"
                    )
            elif fact.predicted >= NOTE_FROM:
                yield self._draft(fact, fact.std, fact.predicted)

    @staticmethod
    def _draft(fact: InitScale, std: float, predicted: float) -> Draft:
        import math

        blown = predicted >= ERROR_FROM
        measured = f", {fact.measured:.1f} measured" if fact.measured is not None else ""
        loss = (
            f" The loss of random tokens is {fact.loss:.1f} nats, against ln({fact.vocabulary}) = "
            f"{math.log(fact.vocabulary):.2f}."
            if fact.loss is not None
            else ""
        )
        repeats = (
            f" In {fact.repeats:.0%} of the positions the input token itself is the most likely next one."
            if fact.repeats is not None
            else ""
        )
        carries = f" It carries {fact.drawn}." if fact.drawn else ""
        wanted = min(0.02, math.sqrt(0.2 / fact.width))
        path = fact.path or python_path(fact.names[0])
        return Draft(
            f"{' and '.join(fact.names)} are one tensor with standard deviation {std:.3g}, and the model is "
            f"untrained ({fact.evidence}).{carries} Its logits deviate by {predicted:.1f} as predicted "
            f"(std * sqrt({fact.width})){measured}.{loss}{repeats}",
            fact.names,
            (tensor_place(fact.names[0], f"std {std:.3g}, d_model {fact.width}"),),
            f"{_whose(fact)}It is to be done after tying. The tie itself is sound.",
            severity=None if blown and fact.own is None else "info",
            edits=(python_edit("drawn", None, "import torch", f"torch.nn.init.normal_({path}, std={wanted:.2g})"),),
        )

    @staticmethod
    def cases() -> Iterator[Case]:
        from tiecheck.rules.cases import init_scale

        yield Case("GPT-2's width with the embedding's draw", {"scale": (init_scale(),)}, finds=("error",))
        small = init_scale(width=64, predicted=8.0, measured=None, loss=None, repeats=None)
        yield Case("d_model 64, nothing measured", {"scale": (small,)}, finds=("error",))
        yield Case(
            "MT5, whose own init draws it so", {"scale": (init_scale(own="initializer_factor"),)}, finds=("info",)
        )
        yield Case("a note below 4", {"scale": (init_scale(std=0.1, predicted=2.8, measured=2.8),)}, finds=("info",))
        yield Case("the linear layer's draw", {"scale": (init_scale(std=0.0208, predicted=0.58, measured=0.58),)})
        yield Case("a trained model", {"scale": (init_scale(untrained=False),)})
        yield Case("T5, which scales by 1/sqrt(d_model)", {"scale": (init_scale(head_scale=768**-0.5, predicted=1.0),)})
        blind = init_scale(head_scale=None, predicted=None, measured=None, loss=None, repeats=None)
        yield Case("the head's scale is not known", {"scale": (blind,)}, unknown=True)
        yield Case("no norm tells whether it was trained", {"scale": (Unknown("no norm"),)}, unknown=True)
        yield Case("nothing tied", {"scale": ()})


def _whose(fact: InitScale) -> str:
    """Return who makes it so, where it is the library's own class."""
    if fact.own is None:
        return ""
    return f"The class itself draws it so (config.{fact.own}): nothing was done wrong, and training from here is slow. "
