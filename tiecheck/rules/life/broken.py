"""TIE401 and TIE403: a tie that was there, and an operation broke."""

from __future__ import annotations

import os
from collections.abc import Iterator

from tiecheck.records.edits import Edit, edit_words, python_edit
from tiecheck.records.life import Break, Survival, SurvivalMatrix, UserLine
from tiecheck.records.report import Location
from tiecheck.records.words import TIED, Unknown
from tiecheck.rules.base import Case, Draft, Rule, file_place, tensor_place
from tiecheck.rules.live.mends import norm_off, sharded_together
from tiecheck.wording import listed

RESIZE = "resize_token_embeddings"
"""The method that has a rule of its own."""

AFTER = {
    "storage": "they are several parameters over one memory: each with its own gradient, and the next conversion parts "
    "their values",
    "overlap": "they are several parameters over partly the same memory",
    "copy": "they are separate tensors with equal values, which the next step separates",
    "separate": "they are separate tensors",
    "absent": "one of them is gone",
}
"""Kind -> what a tie is after it broke."""


class TieBrokenByOperation(Rule):
    """A tie that a model had was broken while it was watched.

    ## What it does
    `tiecheck.guard`, its callbacks and `tiecheck survive --operations` remember what is tied in a model, declared or
    not, and name the operation and the line of your code after which it was tied no more. Where something wrote past
    `nn.Module`, so that nobody saw it happen, the last line after which the tie was whole is told instead.

    ## Why it is bad
    In a plain `nn.Module` nobody declares a tie, so that its loss is silent: training goes on with two tensors, each
    with half of the gradient, and the next save keeps both.

    ## How to fix it
    Tie again after the operation: `head.weight = embedding.weight`, or `model.tie_weights()`, and make the optimizer
    after that. `on_break="retie"` does it at the end of the block, where no value can be lost by it.
    """

    code = "TIE401"
    summary = "a tie that an operation, or a block under `guard`, broke: the operation and the line of code"
    severity = "error"
    threads = (
        "pytorch/pytorch#188346 Modalities/modalities#357 huggingface/accelerate#3668 pytorch/xla#1245 "
        "pytorch/pytorch#79788"
    )

    def check(self, tie_breaks: tuple[Break, ...]) -> Iterator[Draft | Unknown]:
        for one in tie_breaks:
            if RESIZE not in one.operation and not left_tied(one):  # tie-made-by-operation speaks
                yield _draft(one)

    @staticmethod
    def cases() -> Iterator[Case]:
        yield Case("half() under the overwrite future", {"tie_breaks": (_case("Module.half"),)}, finds=("error",))
        unseen = _case("")._replace(seen=False)
        yield Case("a write past nn.Module", {"tie_breaks": (unseen,)}, finds=("error",))
        pruned = _case("random_unstructured")._replace(after="parameter", reason="a.weight is used through a mask")
        yield Case("one parameter, used in two ways", {"tie_breaks": (pruned,)}, finds=("error",))
        yield Case("nothing broke", {"tie_breaks": ()})
        yield Case("a resize is another rule's", {"tie_breaks": (_case(f"PreTrainedModel.{RESIZE}"),)})


class ResizeBrokeTie(Rule):
    """`resize_token_embeddings` left the members of a tie different, or tied what was not.

    ## What it does
    Finds a tie that was whole before `resize_token_embeddings` and is not after it: other objects, other shapes, a
    bias that was not resized; and names that it tied though they were two tensors.

    ## Why it is bad
    The embedding has the new rows and the head has not, or has others: new tokens cannot be predicted, or the two are
    trained apart.

    ## How to fix it
    Call `model.tie_weights()` after the resize; where it does not tie, the class lacks `_tied_weights_keys`, or its
    config says false.
    """

    code = "TIE403"
    summary = "`resize_token_embeddings` left a tied group different in shape, object or bias, or tied what was not"
    severity = "error"
    threads = "huggingface/transformers#35141 huggingface/transformers#44711 huggingface/transformers#36590"

    def check(self, tie_breaks: tuple[Break, ...], survived: SurvivalMatrix) -> Iterator[Draft | Unknown]:
        for one in tie_breaks:
            if RESIZE in one.operation:
                yield _draft(one)
        for row in survived.operations:
            for names in row.made if RESIZE in row.words else ():
                yield Draft(
                    f"{listed(names)} are one tensor after {row.words}, and were two before it.",
                    names,
                    (tensor_place(names[0], f"tied by {row.operation}"),),
                    no_mend="the class's own code ties them; resize the two by hand where they are meant to be apart.",
                )

    @staticmethod
    def cases() -> Iterator[Case]:
        def facts(*breaks: Break, made: tuple[tuple[str, ...], ...] = ()) -> dict[str, object]:
            row = Survival("resize", f"model.{RESIZE}(n)", "transformers", False, "ran", None, (), made, (), None)
            return {"tie_breaks": breaks, "survived": SurvivalMatrix("Llama", (), (row,), ())}

        yield Case("a resize", facts(_case(f"PreTrainedModel.{RESIZE}")), finds=("error",))
        yield Case(
            "one that ties what its flag leaves apart", facts(made=(("a.weight", "b.weight"),)), finds=("error",)
        )
        yield Case("another operation", facts(_case("Module.half")))
        yield Case("nothing broke", facts())


def left_tied(one: Break) -> bool:
    """Tell whether something that unties, by its name, has left the members over one memory."""
    return "untie" in one.operation.lower() and one.after in ("storage", "overlap")


def _case(operation: str) -> Break:
    line = UserLine("train.py", 12, "model.half()", operation)
    return Break(("a.weight", "b.weight"), "parameter", "separate", None, (("a.weight",), ("b.weight",)), line)


def _draft(one: Break) -> Draft:
    what, where, _ = break_text(one)
    return Draft(
        f"{what}. {where[:1].upper()}{where[1:]}.",
        one.names,
        (_place(one),),
        "The optimizer has to be made after that.",
        edits=_tied_again(one),
        no_mend=_advice(one),
    )


def _tied_again(one: Break) -> tuple[Edit, ...]:
    """Return the ways to tie the names of a parameter again: each part's values kept, or one where they are equal."""
    if one.before not in TIED or one.after in TIED or one.after == "absent" or any("[" in name for name in one.names):
        return ()
    if one.moved:
        return _norm_off(one)
    if one.sharded:
        return (sharded_together(one.route, one.names),)
    alike = one.alike or one.after == "copy"
    edits = []
    for part in one.parts[:1] if alike else one.parts:
        lines = (f"{one.route.to(name)} = {one.route.to(part[0])}" for name in one.names if name not in part)
        edits.append(python_edit(part[0], None if alike else f"the values of {part[0]} are right", *lines, safe=alike))
    return tuple(edits)


def _norm_off(one: Break) -> tuple[Edit, ...]:
    """Return the way back where a weight norm has moved members; none where all are, or something else moved one."""
    moved = dict(one.moved)
    kept = next((part for part in one.parts if moved.keys().isdisjoint(part)), ())
    if not kept or not all(now.endswith((".weight_v", ".parametrizations.weight.original1")) for now in moved.values()):
        return ()
    layers = ((one.route.to(name).removesuffix(".weight"), now.endswith("_v")) for name, now in one.moved)
    lines = ["import torch", *(norm_off(layer, old=old) for layer, old in layers)]
    lines += [f"{one.route.to(name)} = {one.route.to(kept[0])}" for name in one.names if name not in kept]
    return (python_edit("tied", "the norm is not wanted", *lines, safe=False),)


def _place(one: Break) -> Location:
    line = one.since
    if line is None or not line.in_file:
        return tensor_place(one.names[0], "one tensor no more")
    note = "broken here" if one.seen else "whole after this line"
    return file_place(_where(line).rpartition(":")[0], note, line=line.line)


def break_text(one: Break) -> list[str]:
    """Tell of a broken tie in lines: what it is now, who did it, and how to have it back."""
    names = tuple(one.names)
    if one.after in TIED:
        what = f"{listed(names)} are one parameter still, but {one.reason}"
    else:
        was = "one tensor" if one.before in TIED else "one memory"
        what = f"{listed(names)} were {was}, and now {AFTER.get(one.after, one.after)}"
        what += f" ({one.reason})" if one.reason else ""
    return [what, _who(one), _advice(one)]


def _who(one: Break) -> str:
    line = one.since
    if line is None:
        return "nobody saw what broke it"
    if not line.path:  # an operation of `survive`
        return f"broken by {line.operation}: {line.code}"
    where, code = _where(line), f": {line.code}" if line.code else ""
    if one.seen:
        return f"broken by {line.operation or 'this line'} at {where}{code}"
    until = _where(one.until) if one.until is not None else "the end of the block"
    if until != where:
        span = f"before {until} and after {where}, where it was whole"
    else:  # a `with` is at one line when it begins and when it ends; a step is passed again
        passes = line.operation.endswith("step")
        span = f"between two passes over {where}" if passes else f"in the block that begins at {where}"
    if one.writes is not None:
        span, code = f"{span}; there {_where(one.writes)} writes so", f": {one.writes.code}"
    return f"broken by something that wrote past nn.Module, {span}{code}"


def _where(line: UserLine) -> str:
    path = os.path.relpath(line.path) if os.path.isabs(line.path) else line.path
    return f"{line.path if path.startswith('..') else path}:{line.line}"


def _advice(one: Break) -> str:
    edits = _tied_again(one)
    if edits and one.sharded:
        return edit_words(edits)
    if edits:
        return f"Tie again after it, before the optimizer is made. {edit_words(edits)}"
    if one.after == "absent":
        return "Leave that layer out of what replaces or packs layers, or untie the two first."
    if one.after in TIED or one.moved:
        return "It has to be done to both sides alike, or the two have to be untied first."
    if one.before not in TIED:
        return "Only a shared parameter is kept by a conversion or a copy; shared memory is not."
    return "Whoever holds the old tensor has to be given the new one."
