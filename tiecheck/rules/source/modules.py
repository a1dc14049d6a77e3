"""TIE81x: modules and tensors that a model holds more often, or less, than it says."""

from __future__ import annotations

from collections.abc import Iterator

from tiecheck.records.source import Event, LooseCall, ModuleClass, SourceFile
from tiecheck.rules.base import Case, Draft, Rule
from tiecheck.rules.source.rewrites import MORE, method_instead, one_each, tied_again
from tiecheck.rules.source.sightings import (
    STATELESS,
    classes_in,
    derives_from_theirs,
    event_draft,
    shared_heads,
    source_draft,
    source_facts,
)

_TIED = """
class Net(nn.Module):
    def __init__(self, v, d):
        super().__init__()
        self.wte = nn.Embedding(v, d)
        self.head = nn.Linear(d, v, bias=False)
        self.head.weight = self.wte.weight
        nn.init.normal_(self.wte.weight, std=0.02)
"""


class ModuleTimesN(Rule):
    """One module stands several times in a list: `[Block()] * n`.

    ## What it does
    Finds `[Thing(...)] * n` where Thing is a module with parameters: of `nn`, or of a class of the file that builds
    some.

    ## Why it is bad
    The list has n references to one module. A model that was meant to have n layers has one, applied n times.

    ## How to fix it
    Build one each: `[Block() for _ in range(n)]`. This changes the model: it gets the parameters that were meant.
    """

    code = "TIE813"
    summary = "`[Module()] * n`: one module, n times"
    severity = "warning"
    confidence = "medium"
    threads = "linkedin/Liger-Kernel#269 acids-ircam/ddsp_pytorch#37"

    def check(self, sources: tuple[SourceFile, ...]) -> Iterator[Draft]:
        for file in sources:
            modules = {owner.name for owner in file.classes if _has_parameters(owner)}
            for name, line, column, *texts in file.times:
                last = name.rpartition(".")[2]
                if last in modules or (name.startswith(("nn.", "torch.nn.")) and not STATELESS.fullmatch(last)):
                    yield source_draft(
                        file,
                        (name,),
                        (line, column),
                        f"[{name}(...)] * n is one {last} n times, and not n of them: they share every parameter.",
                        MORE,
                        "one object, many references",
                        one_each(file, line, *texts),
                    )

    @staticmethod
    def cases() -> Iterator[Case]:
        linear = (
            "class N(nn.Module):\n    def __init__(self):\n        self.layers = nn.ModuleList([nn.Linear(8, 8)] * 3)\n"
        )
        yield Case("of nn", source_facts(linear), finds=("warning",))
        block = "class B(nn.Module):\n    def __init__(self):\n        self.lin = nn.Linear(8, 8)\n\n"
        own = f"{block}def build():\n    return nn.Sequential(*([B()] * 3))\n"
        yield Case("a class of the file", source_facts(own), finds=("warning",))
        yield Case(
            "one each", source_facts(linear.replace("[nn.Linear(8, 8)] * 3", "nn.Linear(8, 8) for _ in range(3)"))
        )
        yield Case("without parameters", source_facts(linear.replace("Linear(8, 8)", "ReLU()")))
        yield Case("no module", source_facts("weight = [Path('a')] * 3\nx = [Fraction(1)] * 2\n"))


def _has_parameters(owner: ModuleClass) -> bool:
    """Tell whether a class is a module, by its bases, and builds something that has parameters."""
    return any(base.endswith(("Module", "Layer", "Block")) for base in owner.lineage) and any(
        not STATELESS.fullmatch(source.rpartition(".")[2]) and source for _, source in owner.built
    )


class WeightKeptAsPlainTensor(Rule):
    """An attribute holds a tensor that was made of a weight, and is neither parameter nor buffer.

    ## What it does
    Finds `self.w = self.enc.weight.t()` and its like in a constructor, where `forward` uses it.

    ## Why it is bad
    A plain tensor is not in the state dict, is not moved by `.to()`, and a copy of it is not updated by the optimizer.
    After the first conversion it is the old weight.

    ## How to fix it
    Make it where it is used: `F.linear(x, self.enc.weight.t())`, or a property.
    """

    code = "TIE816"
    summary = "a plain attribute made from a weight: not moved, not saved, not updated"
    severity = "warning"
    confidence = "medium"
    threads = "KhrulkovV/tt-pytorch#4"

    def check(self, sources: tuple[SourceFile, ...]) -> Iterator[Draft]:
        for file, owner in classes_in(sources):
            begun, forward = owner.method("__init__"), owner.method("forward")
            called = {name.removeprefix("self.") for name in forward.calls} if forward else set()
            used = [m for m in owner.methods if forward is None or m is forward or m.name in called]
            for event in begun.events if begun is not None else ():
                if event.kind != "plain" or not any(event.target in m.reads for m in used):
                    continue
                yield event_draft(
                    file,
                    event,
                    f"{owner.name}.{event.target} is a plain tensor made of {event.source} ({event.form}): it is not "
                    "saved, not moved with the model, and parts from the weight at the first conversion.",
                    f"whether a copy is meant is not told; else forward has to make it of {event.source} itself.",
                    "neither parameter nor buffer",
                )

    @staticmethod
    def cases() -> Iterator[Case]:
        net = """
            class Net(nn.Module):
                def __init__(self):
                    self.enc = nn.Linear(8, 4)
                    self.w = {value}

                def forward(self, x):
                    return F.linear(self.enc(x), self.w)
        """
        yield Case("a transpose", source_facts(net.format(value="self.enc.weight.t()")), finds=("warning",))
        yield Case(
            "a detached copy", source_facts(net.format(value="self.enc.weight.clone().detach()")), finds=("warning",)
        )
        yield Case("the parameter itself", source_facts(net.format(value="self.enc.weight")))
        later = "self.enc(x)\n\n                def unmerge(self):\n                    return self.w"
        backup = net.replace("F.linear(self.enc(x), self.w)", later)
        yield Case("a copy to go back to", source_facts(backup.format(value="self.enc.weight.clone()")))
        yield Case("a buffer", source_facts(net.format(value="nn.Buffer(self.enc.weight.detach())")))


class HeadInClosure(Rule):
    """A lambda or partial over a module's weight is the head.

    ## What it does
    Finds `self.head = lambda x: x @ self.wte.weight.t()` and `partial(F.linear, weight=self.wte.weight)`.

    ## Why it is bad
    The closure holds the module it was made in. A deep copy of the model computes with the original's weight, a pickle
    of it fails, and `.weight` that is replaced later is not seen by a partial.

    ## How to fix it
    Write a method or a small module: `def head(self, x): return F.linear(x, self.wte.weight)`.
    """

    code = "TIE817"
    summary = "a lambda or partial over a weight as head: a copy of the model reads the original's"
    severity = "warning"
    confidence = "high"
    threads = "pytorch/torchtitan#2253"

    def check(self, sources: tuple[SourceFile, ...]) -> Iterator[Draft]:
        for file, owner in classes_in(sources):
            found = {(e.line, e.target): e for m in owner.methods for e in m.events if e.kind == "closure"}
            for event in found.values():
                yield event_draft(
                    file,
                    event,
                    f"{owner.name}.{event.target} is a closure over {event.source}: "
                    + (
                        "a parameter that takes its place later (a load by assignment) is not seen by it."
                        if "partial(" in event.statement
                        else "a deep copy of the model reads the original's tensor, and a pickle of it fails."
                    ),
                    f"a method has to call it with {event.source}; this closure uses more than its own arguments.",
                    "a closure over the weight",
                    method_instead(file, owner, event),
                )

    @staticmethod
    def cases() -> Iterator[Case]:
        line = "\n        self.logits = {value}\n"
        yield Case(
            "a lambda", source_facts(_TIED + line.format(value="lambda x: x @ self.wte.weight.t()")), finds=("warning",)
        )
        partial = line.format(value="partial(F.linear, weight=self.wte.weight)")
        yield Case("a partial", source_facts(_TIED + partial), finds=("warning",))
        yield Case("a lambda over nothing", source_facts(_TIED + line.format(value="lambda x: x")))
        yield Case("a layer", source_facts(_TIED))


class AssignLoadWithoutRetie(Rule):
    """`load_state_dict(assign=True)` on a model with ties, and nothing ties again.

    ## What it does
    Finds the call on a variable that was built of a class of the file which ties by hand, with no `tie_weights` and no
    assignment of a `.weight` after it in the same function.

    ## Why it is bad
    With `assign=True` each name gets a parameter of its own: the tie is gone.

    ## How to fix it
    Tie again after it.
    """

    code = "TIE810"
    summary = "`load_state_dict(assign=True)` on a tied class, and nothing ties again"
    severity = "warning"
    confidence = "medium"

    def check(self, sources: tuple[SourceFile, ...]) -> Iterator[Draft]:
        yield from _untied_by(
            sources, "load_state_dict", "load_state_dict(assign=True) gives each name a tensor of its own"
        )

    @staticmethod
    def cases() -> Iterator[Case]:
        load = f"{_TIED}\ndef load(state):\n    net = Net(8, 4)\n    net.load_state_dict(state, assign=True)\n"
        yield Case("assigned", source_facts(f"{load}    return net\n"), finds=("warning",))
        yield Case("tied again", source_facts(f"{load}    net.head.weight = net.wte.weight\n    return net\n"))
        yield Case("copied into", source_facts(load.replace(", assign=True", "")))


class MaterialiseWithoutRetie(Rule):
    """`to_empty()` on a model with ties, and nothing ties again.

    ## What it does
    Finds the call in a function that builds on meta, on a variable of a class of the file which ties by hand, with no
    tie after it.

    ## Why it is bad
    From meta `to_empty()` makes a new parameter for each registration: members of a tie come out apart. (From another
    device it keeps the parameters, and is left alone.)

    ## How to fix it
    Tie again after it.
    """

    code = "TIE811"
    summary = "`to_empty()` on a tied class, and nothing ties again"
    severity = "warning"
    confidence = "medium"

    def check(self, sources: tuple[SourceFile, ...]) -> Iterator[Draft]:
        yield from _untied_by(sources, "to_empty", "from meta to_empty() makes a new parameter for each name")

    @staticmethod
    def cases() -> Iterator[Case]:
        begun = f"{_TIED}\ndef build():\n    with torch.device('meta'):\n        net = Net(8, 4)\n"
        make = f"{begun}    net.to_empty(device='cpu')\n"
        yield Case("made", source_facts(f"{make}    return net\n"), finds=("warning",))
        yield Case("tied again", source_facts(f"{make}    net.head.weight = net.wte.weight\n"))
        yield Case("not from meta", source_facts(make.replace("'meta'", "'cpu'")))
        untied = make.replace("self.head.weight = self.wte.weight", "pass")
        yield Case("nothing tied", source_facts(untied))


def _untied_by(sources: tuple[SourceFile, ...], name: str, why: str) -> Iterator[Draft]:
    tied = {
        owner.name: ties
        for file in sources
        for owner in file.classes
        if (ties := shared_heads(owner)) and not derives_from_theirs(file, owner)
    }
    for file in sources:
        for call in file.calls:
            if call.name == name and not call.tied_after and call.builds in tied:
                yield _untied_draft(file, call, tied[call.builds], why)


def _untied_draft(file: SourceFile, call: LooseCall, ties: tuple[Event, ...], why: str) -> Draft:
    tie = ties[0]
    return source_draft(
        file,
        (tie.target, tie.source),
        (call.line, call.column),
        f"{call.builds} ties {tie.target} to {tie.source}, and {why}: after this line they are two.",
        f"{call.root} has to be tied again after it, and this line does more than the call.",
        "nothing ties again",
        tied_again(file, call, ties),
    )
