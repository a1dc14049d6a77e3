"""TIE402, 404, 405, 406: what a named operation made, dropped or lost, and a copy that reads the original."""

from __future__ import annotations

from collections.abc import Iterator

from tiecheck.records.edits import python_edit
from tiecheck.records.life import Break, Cell, Survival, SurvivalMatrix, SurvivedTie, UserLine
from tiecheck.records.live import LiveClass
from tiecheck.records.uses import Uses
from tiecheck.records.words import Unknown
from tiecheck.rules.base import Case, Draft, Rule, class_place, tensor_place
from tiecheck.rules.cases import EMBEDDING, HEAD, live_llama, traced_pass, use_of, uses_facts
from tiecheck.rules.life.broken import RESIZE, break_text, left_tied
from tiecheck.wording import listed


class TieMadeByOperation(Rule):
    """An operation tied what was not tied, or was to untie and did not.

    ## What it does
    Compares the ties before and after an operation of `tiecheck survive --operations`, and finds groups that are one
    tensor now and were not: a load that ties equal copies again, a resize that ties what its config leaves apart. Under
    `tiecheck.guard` too, it finds a function with "untie" in its name that made two parameters over one memory.

    ## Why it is bad
    One of two trained tensors is gone, and the next step trains both names as one. What is written into one side of an
    untied pair over one memory (a rotation, a quantised value) is written into the other.

    ## How to fix it
    Say that they are apart where the library reads it (`config.tie_word_embeddings = False`), before the operation. To
    untie, give one side memory of its own: `head.weight = torch.nn.Parameter(head.weight.detach().clone())`.
    """

    code = "TIE402"
    summary = "parameters that an operation tied though they were not, or that an untie left tied"
    severity = "error"
    threads = "vllm-project/llm-compressor#2866"

    def check(self, survived: SurvivalMatrix, tie_breaks: tuple[Break, ...]) -> Iterator[Draft | Unknown]:
        for one in filter(left_tied, tie_breaks):
            _, where, _ = break_text(one)
            first = one.route.to(one.names[0])
            apart = f"{first} = torch.nn.Parameter({first}.detach().clone())"
            yield Draft(
                f"{listed(one.names)} were to be untied, and are several parameters over one memory: what is written "
                f"into one is written into the others. {where[:1].upper()}{where[1:]}.",
                one.names,
                (tensor_place(one.names[0], f"left tied by {one.operation}"),),
                edits=(python_edit("apart", None, "import torch", apart, safe=True),),
            )
        for row in survived.operations:
            for names in row.made if RESIZE not in row.words else ():  # resize-broke-tie speaks
                yield Draft(
                    f"{listed(names)} are one tensor after {row.words}, and were not before it.",
                    names,
                    (tensor_place(names[0], f"tied by {row.operation}"),),
                    no_mend="the operation ties them by the flag that the model's config has.",
                )

    @staticmethod
    def cases() -> Iterator[Case]:
        made = _row()._replace(made=(PAIR,))
        nothing: dict[str, object] = {"tie_breaks": ()}
        yield Case("a load ties equal copies again", {"survived": _matrix(made)} | nothing, finds=("error",))
        yield Case("the same ties", {"survived": _matrix(_row())} | nothing)
        yield Case("the library raised", {"survived": _matrix(_row()._replace(status="raised"))} | nothing)
        line = UserLine("train.py", 12, "untie_weights(model)", "untie_weights")
        left = Break(PAIR, "parameter", "storage", None, tuple((name,) for name in PAIR), line)
        same = {"survived": _matrix(_row())}
        yield Case("an untie that shares the memory", same | {"tie_breaks": (left,)}, finds=("error",))
        apart = left._replace(after="copy")
        yield Case("an untie that parts them is a broken tie", same | {"tie_breaks": (apart,)})


class SaveDroppedMember(Rule):
    """A save wrote what cannot restore the live model.

    ## What it does
    Saves a model and loads it again by the operation that was named, and compares the values of tied and of declared
    members with those before.

    ## Why it is bad
    The saver left a member out by what the config says, and the two had diverged: the checkpoint looks clean, and the
    trained values are nowhere. A resumed run begins with a jump of the loss.

    ## How to fix it
    Save by a way that keeps the tie (`save_pretrained`, `torch.save` of the state dict,
    `safetensors.torch.save_model`), or say in the config that the members are apart before saving.
    """

    code = "TIE404"
    name = "save-dropped-a-diverged-member"
    summary = "what a save wrote cannot restore a tied, or a declared, member"
    severity = "error"
    threads = "NVIDIA-NeMo/Automodel#2511 facebookresearch/lingua#74 vllm-project/vllm#56689"

    def check(self, survived: SurvivalMatrix) -> Iterator[Draft | Unknown]:
        yield from _lost(survived, "what is live cannot be had back from what it wrote", tied=True)

    @staticmethod
    def cases() -> Iterator[Case]:
        lost = _row()._replace(lost=PAIR[:1])
        yield Case("the head comes back with other values", {"survived": _matrix(lost)}, finds=("error",))
        yield Case("another tensor is another rule's", {"survived": _matrix(_row()._replace(lost=("a.weight",)))})
        yield Case("all came back", {"survived": _matrix(_row())})
        yield Case("no load", {"survived": _matrix(lost._replace(by_nature=True))})


class SaveDropsLiveData(Rule):
    """A saver drops tensors that are not tied.

    ## What it does
    Saves a model and loads it again by the operation that was named, and finds tensors of no tie whose values do not
    come back: disjoint slices of one buffer, interleaved columns.

    ## Why it is bad
    accelerate 1.15 takes whatever stands in one storage for one tensor and writes the first; its log says "This should
    be OK". The rest is random after the load.

    ## How to fix it
    Give each its own memory before saving, `tensor.data = tensor.data.clone()`, or save by
    `safetensors.torch.save_file`, which looks at the bytes.
    """

    code = "TIE405"
    summary = "a saver drops tensors that are not tied: disjoint slices, interleaved columns"
    severity = "error"
    messages = ("Removed shared tensor",)
    threads = "huggingface/transformers#27293 NVIDIA/Model-Optimizer#2092"

    def check(self, survived: SurvivalMatrix) -> Iterator[Draft | Unknown]:
        yield from _lost(survived, "they are tied to nothing, and their values do not come back", tied=False)

    @staticmethod
    def cases() -> Iterator[Case]:
        lost = _row()._replace(lost=("a.weight", "b.weight"))
        yield Case("slices of one buffer", {"survived": _matrix(lost)}, finds=("error",))
        yield Case("a tied member is another rule's", {"survived": _matrix(_row()._replace(lost=PAIR[:1]))})
        yield Case("all came back", {"survived": _matrix(_row())})


PAIR = ("lm_head.weight", "model.embed_tokens.weight")


def _row() -> Survival:
    cell = Cell(PAIR, "parameter", "parameter", True, None, "same", True)
    return Survival("save", "save(model)", "files", False, "ran", None, (cell,), (), (), "same")


def _matrix(row: Survival) -> SurvivalMatrix:
    return SurvivalMatrix("Llama", (SurvivedTie(PAIR, "parameter"),), (row,), ())


def _lost(survived: SurvivalMatrix, why: str, *, tied: bool) -> Iterator[Draft]:
    """Yield what each operation lost of the names that are in a tie, or in none."""
    known = {name for tie in survived.ties for name in tie.names} | set(survived.declared)
    for row in survived.operations:
        names = tuple(name for name in row.lost if (name in known) == tied)
        if names and not row.by_nature:
            yield Draft(
                f"{listed(names)}: after {row.words} {why}.",
                names,
                (tensor_place(names[0], f"lost by {row.operation}"),),
                no_mend="the operation itself loses them: save another way, or change the model before it.",
            )


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
    threads = "pytorch/torchtitan#2253"

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
