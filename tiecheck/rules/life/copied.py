"""TIE406: a copy whose forward still reads the tensor of the model that it was made from."""

from __future__ import annotations

from collections.abc import Iterator

from tiecheck.records.live import LiveClass
from tiecheck.records.uses import Uses
from tiecheck.rules.base import Case, Draft, Rule, class_place
from tiecheck.wording import listed


class CopyReadsTheOriginal(Rule):
    """A forward pass of a copied model reads a parameter of the original.

    ## What it does
    Traces a forward pass (`--uses`) and finds a lookup or a product with a parameter that the module does not hold,
    where it holds one of the same shape that is not used so. That is what `copy.deepcopy`, an average of weights or a
    stacked model make of a head in a lambda, a partial or a closure: neither it nor what it closes over is copied.

    ## Why it is bad
    The copy's logits follow the original's training. An average, a target or a reference model is neither frozen nor
    averaged there, a copy on another device fails, and the tie of the copy is gone.

    ## How to fix it
    Make the head a method that takes the weight from the module (`F.linear(x, self.wte.weight)`), and copy again.
    """

    code = "TIE406"
    summary = "a forward pass of a copied model reads the original's tensor"
    severity = "error"
    threads = ("pytorch/torchtitan#2253",)

    def check(self, traced_uses: Uses, live_class: LiveClass) -> Iterator[Draft]:
        for foreign in traced_uses.uses:
            if foreign.held != "nowhere" or foreign.role not in {"linear", "embedding"}:
                continue
            mine = {use.names for use in traced_uses.uses if use.shape == foreign.shape and use.held == "parameter"}
            used = {u.names for u in traced_uses.uses if u.role == foreign.role}
            twins = sorted(mine - used)
            if len(twins) != 1:
                continue
            (names,) = twins
            yield Draft(
                f"forward reads a parameter that the {live_class.class_name} does not hold ({foreign.role} by "
                f"{foreign.op}, shape {list(foreign.shape)}). It has the shape of {listed(names)}, which is not used "
                "so: as in a copy of a model whose head is a function over the original's weight.",
                names,
                (class_place(live_class.class_name, f"{foreign.op} reads a parameter of elsewhere"),),
                no_mend="the class has to take the weight from the module itself, in a method; then copy again.",
            )

    @staticmethod
    def cases() -> Iterator[Case]:
        from tiecheck.rules.cases import EMBEDDING, HEAD, live_llama, traced_pass, use_of, uses_facts

        model = live_llama(ties=(), declared=())
        foreign = use_of(role="linear", op="linear", held="nowhere", reached=())
        copied = traced_pass(use_of(EMBEDDING), foreign)
        yield Case("a copied lambda head", uses_facts(copied, model, "live_class"), finds=("error",))
        own = traced_pass(use_of(EMBEDDING), use_of(EMBEDDING, role="linear", op="linear"), foreign)
        yield Case("a second head of a teacher", uses_facts(own, model, "live_class"))
        other = traced_pass(use_of(EMBEDDING), foreign._replace(shape=(7, 7)))
        yield Case("a borrowed layer of another shape", uses_facts(other, model, "live_class"))
        two = traced_pass(use_of(EMBEDDING), use_of(HEAD), foreign)
        yield Case("nobody can tell of which it is the twin", uses_facts(two, model, "live_class"))
