"""TIE704 to 706: slots that forward never reads, a head that it ignores, a use without gradient."""

from __future__ import annotations

from collections.abc import Iterator

from tiecheck.records.live import DeclaredTie, Head, LiveClass, Tie
from tiecheck.records.uses import TensorGradient, Use, UseGradient, Uses, names_not_taken
from tiecheck.records.words import TIED, Unknown
from tiecheck.rules.base import Case, Draft, Rule, class_place
from tiecheck.rules.cases import (
    EMBEDDING,
    HEAD,
    PAIR,
    declared_tie,
    live_head,
    live_llama,
    traced_pass,
    use_of,
    uses_facts,
)
from tiecheck.wording import listed

_OFF = 0.01
"""Part of a gradient that its uses may leave unexplained; rounding leaves a thousandth of that."""


class DeadTiedSlot(Rule):
    """A member of a tie that `forward` never reads.

    ## What it does
    Compares the members of every group with a traced forward pass (`--uses`). A declared member that is a parameter of
    its own and that nothing reads is a warning. Where the tensor is one and only one of its names is never used, it is
    a note: that costs nothing. The name that a class declares as the source of its tie (T5's `shared`) is left out.

    ## Why it is bad
    A parameter that nothing reads has no gradient: weight decay moves it, sharded optimizers may fail on it, and the
    checkpoint carries it. Where the tensor is one, only the name misleads: another module put there changes nothing.

    ## How to fix it
    Tie the member (`model.tie_weights()`), take it out of the class, or let `forward` use it. A note needs nothing.
    """

    code = "TIE704"
    summary = "a member of a tie that forward never reads"
    severity = "warning"
    threads = "NVIDIA/Megatron-LM#7577 allenai/OLMo#485"

    def check(
        self,
        traced_uses: Uses,
        live_class: LiveClass,
        live_ties: tuple[Tie, ...],
        declared_ties: tuple[DeclaredTie, ...],
    ) -> Iterator[Draft]:
        sources = {claim.source for claim in declared_ties}
        for tie in live_ties:
            mine = uses_of(traced_uses, tie.names)
            slots = tuple(n for n in names_not_taken(mine) if n not in sources) if mine and tie.kind in TIED else ()
            if slots:
                yield Draft(
                    f"forward never comes to the tensor by {listed(slots)}. It is harmless: it is one parameter, used "
                    f"{_as(mine)}.",
                    slots,
                    (class_place(live_class.class_name, f"no use by {slots[0]}"),),
                    "Another module or weight put there would change nothing.",
                    severity="info",
                    no_mend="nothing is wrong; only the code of the class could take the slot away.",
                )
        for claim in declared_ties:
            mine = uses_of(traced_uses, claim.names)
            dead = tuple(use.names for use in mine if use.role == "unread")
            read = [use for use in mine if use.role != "unread"]
            if claim.kind not in TIED and dead and read:
                names = tuple(sorted(name for group in dead for name in group))
                yield Draft(
                    f"{listed(names)} {'is' if len(names) == 1 else 'are'} declared tied and a parameter apart, and "
                    f"forward on {traced_uses.inputs[0]} does not read it: it gets no gradient.",
                    names,
                    (class_place(live_class.class_name, f"{names[0]}: unread"),),
                    no_mend="TIE301 has the fix where one tensor is meant; else forward has to read it.",
                )

    @staticmethod
    def cases() -> Iterator[Case]:
        apart = live_llama(ties=(), declared=(declared_tie("separate"),))
        dead = traced_pass(use_of(EMBEDDING), use_of(EMBEDDING, role="linear"), use_of(HEAD, role="unread"))
        yield Case("a head apart that nothing reads", uses_facts(dead, apart), finds=("warning",))
        slot = traced_pass(
            use_of(*PAIR, reached=(EMBEDDING,)), use_of(*PAIR, role="linear", op="linear", reached=(EMBEDDING,))
        )
        undeclared = live_llama(declared=())
        yield Case("OLMo's ff_out: one tensor, one name unused", uses_facts(slot, undeclared), finds=("info",))
        yield Case("each name has its use", uses_facts(traced_pass(*_llama_uses()), live_llama()))
        yield Case("reached by a closure", uses_facts(traced_pass(use_of(*PAIR, reached=())), undeclared))
        shared = traced_pass(use_of(*PAIR, reached=(HEAD,)))
        yield Case("the source of the declaration, T5's shared", uses_facts(shared, live_llama()))
        unread = traced_pass(use_of(EMBEDDING), use_of("extra.weight", role="unread"))
        yield Case("a parameter of no group, unread", uses_facts(unread, live_llama(ties=(), declared=())))


class ForwardIgnoresHead(Rule):
    """The declared head is not what makes the logits.

    ## What it does
    Traces a forward pass (`--uses`) and finds a head (`get_output_embeddings()`, or in a plain module a parameter of
    the matrix's shape) that nothing reads, while the logits are the product with another matrix, mostly the embedding.

    ## Why it is bad
    An untied head holds trained values. A forward that multiplies with the embedding throws them away: the text is
    noise, or repeats itself, and no shape or name is wrong.

    ## How to fix it
    Call the head in `forward`. Where the two are meant to be one, tie them, or build no head.
    """

    code = "TIE705"
    summary = "the declared head is not what makes the logits"
    severity = "error"
    threads = "Blaizzy/mlx-vlm#1193 pegainfer-project/pegainfer#544 vllm-project/vllm#22460"

    def check(self, traced_uses: Uses, live_class: LiveClass, heads: tuple[Head, ...]) -> Iterator[Draft | Unknown]:
        unread = {use.names: use for use in traced_uses.uses if use.role == "unread"}
        made = next((use for use in traced_uses.uses if use.names == traced_uses.logits and use.role == "linear"), None)
        ignored = [head.head for head in heads if head.head in unread and not head.same]
        if not heads and made is not None:
            ignored = [names for names, use in unread.items() if use.shape == made.shape]
        if ignored and made is None:
            yield Unknown(f"nothing reads {listed(ignored[0])}, and where the logits come from was not followed")
        for names in ignored if made is not None else ():
            yield Draft(
                f"forward on {traced_uses.inputs[0]} does not read {listed(names)}: its logits are the product with "
                f"{listed(made.names if made else ())}.",
                names,
                (class_place(live_class.class_name, f"{names[0]}: unread"),),
                no_mend="forward has to call its head, or to do without one: its code must say which is meant.",
            )

    @staticmethod
    def cases() -> Iterator[Case]:
        head = live_head(head=(HEAD,), embedding=(EMBEDDING,), same=False)
        model = live_llama(ties=(), declared=(), heads=(head,))
        both = (use_of(EMBEDDING), use_of(EMBEDDING, role="linear", op="linear"), use_of(HEAD, role="unread"))
        ignored = traced_pass(*both, logits=(EMBEDDING,))
        yield Case("an untied head that forward passes by", uses_facts(ignored, model, "heads"), finds=("error",))
        plain = model._replace(heads=())
        yield Case("a plain module's", uses_facts(ignored, plain, "heads"), finds=("error",))
        blind = ignored._replace(logits=None)
        yield Case("logits of unknown origin", uses_facts(blind, model, "heads"), unknown=True)
        used = traced_pass(use_of(EMBEDDING), use_of(HEAD, role="linear", op="linear"), logits=(HEAD,))
        yield Case("the head is used", uses_facts(used, model, "heads"))
        other = traced_pass(*both[:2], use_of("pooler.weight", role="unread", shape=(16, 16)), logits=(EMBEDDING,))
        yield Case("an unread layer of another shape", uses_facts(other, plain, "heads"))


class HalfGradient(Rule):
    """After one backward pass the tensor's gradient lacks one of its uses.

    ## What it does
    Makes one backward pass (`--uses`), with the weights that are there or with a small model of the same class, and
    looks at the gradient of each use by itself. It finds a tensor that gets none from its lookups, or none from its
    products, because they are cut off (`detach`, `.data`, `no_grad`). It also finds plain attributes that hold a
    parameter's values, or its transpose, and are used in its place: a view is a warning, a copy a note.

    ## Why it is bad
    The tensor learns from one half of its uses alone. Nothing fails, and the loss is worse.

    ## How to fix it
    Use the parameter itself (`F.linear(x, self.wte.weight)`), without `detach` or `.data`. Where the half is meant (a
    discriminator on a generator's embedding), ignore the rule.
    """

    code = "TIE706"
    summary = "after one backward the gradient of a tied tensor lacks one of its uses"
    severity = "error"
    threads = "verl-project/verl#7835 paiml/entrenar#314 NVIDIA-NeMo/RL#227 KhrulkovV/tt-pytorch#4"

    def check(
        self, gradients: tuple[TensorGradient, ...], traced_uses: Uses, live_class: LiveClass
    ) -> Iterator[Draft | Unknown]:
        for one in gradients:
            cut = next((r for r in ("linear", "embedding") if _cut_off(one, r)), None)
            if cut is not None:
                left = tuple(use for use in one.uses if use.role != cut and use.norm)
                yield Draft(
                    f"The tensor {listed(one.names)} is used as {'head' if cut == 'linear' else 'embedding'}, and no "
                    "gradient of that use reaches it: it is cut off before "
                    f"{next(u.op for u in one.uses if u.role == cut)}. The "
                    f"gradient is that of the other use alone (norm {left[0].norm:.3g}).",
                    one.names,
                    (class_place(live_class.class_name, f"{one.names[0]}: {cut} without gradient"),),
                    no_mend="forward has to use the parameter itself, without detach, .data or no_grad.",
                )
            elif one.off > _OFF and not one.hooked:
                yield Unknown(f"the gradient of {one.names[0]} is {one.off:.0%} off the sum of its known uses")
        for use in traced_uses.uses:
            if use.held == "attribute" and use.of and use.role in {"linear", "embedding"}:
                yield self._beside(use, live_class)

    @staticmethod
    def _beside(use: Use, live_class: LiveClass) -> Draft:
        how = "a view of" if use.shares else "an equal copy of"
        behind = "" if use.shares else " Unless it is meant to be frozen, the next step separates them."
        return Draft(
            f"{use.names[0]} is a plain tensor, {how} {listed(use.of)}, and forward uses it ({use.role} by {use.op}): "
            f"no gradient of that use reaches the parameter, and .to() and .double() leave it behind.{behind}",
            (*use.names, *use.of),
            (class_place(live_class.class_name, f"{use.names[0]} is not registered"),),
            severity="warning" if use.shares else "info",
            no_mend="forward has to use the parameter itself (its transpose is made in forward, at no cost).",
        )

    @staticmethod
    def cases() -> Iterator[Case]:
        looked = UseGradient("embedding", "embedding", PAIR[1:], 2.0, detached=False)
        head = UseGradient("linear", "linear", PAIR[:1], 3.0, detached=False)
        both = TensorGradient(PAIR, (looked, head), 4.0, 0.0, hooked=False)
        half = both._replace(uses=(looked, head._replace(norm=None, detached=True)), norm=2.0)

        def facts(one: TensorGradient, *more: Use) -> dict[str, object]:
            found = traced_pass(*_llama_uses(), *more)
            return {"gradients": (one,)} | uses_facts(found, live_llama(), "live_class")

        yield Case("a head that is detached", facts(half), finds=("error",))
        view = use_of("dec_w", role="linear", op="linear", held="attribute", of=PAIR, shares=True)
        yield Case("a view kept as a plain tensor", facts(both, view), finds=("warning",))
        yield Case("a copy of it", facts(both, view._replace(shares=False)), finds=("info",))
        yield Case("an attribute of its own", facts(both, view._replace(of=())))
        yield Case("both uses reach it", facts(both))
        teacher = both._replace(uses=(looked, looked._replace(norm=None, detached=True), head))
        yield Case("a second pass without gradient", facts(teacher))
        aside = both._replace(uses=(looked, head._replace(norm=None)))
        yield Case("a head whose product the loss does not hold", facts(aside))
        yield Case("a hook scales the gradient", facts(both._replace(off=0.5, hooked=True)))
        yield Case("a use that was not seen", facts(both._replace(off=0.5)), unknown=True)


def _cut_off(one: TensorGradient, role: str) -> bool:
    """Return True if every use of a role is cut off, while one of another role gives a gradient."""
    mine = [use for use in one.uses if use.role == role]
    return bool(mine) and all(use.detached for use in mine) and any(u.norm for u in one.uses if u.role != role)


def uses_of(uses: Uses, names: tuple[str, ...]) -> list[Use]:
    """Return the uses of the tensor, or tensors, with some names."""
    return [use for use in uses.uses if not set(names).isdisjoint(use.names)]


def _as(mine: list[Use]) -> str:
    """Return what a tensor is used as, and by which name."""
    words = dict.fromkeys(f"as {use.role} by {listed(use.reached)}" for use in mine if use.role != "unread")
    return listed(tuple(words))


def _llama_uses() -> tuple[Use, Use]:
    return use_of(*PAIR, reached=(EMBEDDING,)), use_of(*PAIR, role="linear", op="linear", reached=(HEAD,))
