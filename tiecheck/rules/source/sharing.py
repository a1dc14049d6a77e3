"""TIE801, TIE802: statements that are meant to tie and do not, or tie something else."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tiecheck.records.source import Event, Method, ModuleClass, SourceFile
from tiecheck.rules.base import Case, Draft, Rule
from tiecheck.rules.source.rewrites import MORE, shared_instead, unaliased
from tiecheck.rules.source.sightings import (
    PLAIN_MODEL,
    asked,
    class_of_path,
    classes_in,
    event_draft,
    is_embedding,
    is_head,
    module_of,
    replacing,
    says_tie,
    source_facts,
    together,
)

ENGINES = frozenset({"vllm", "sglang"})
"""Packages in which an embedding is meant to be the head too: another layer reads its weight."""


class ModuleAliasAssignment(Rule):
    """The head is made the embedding's module, where only its weight was meant.

    ## What it does
    Finds `self.ff_out = self.wte`: a head that is, or is built as, a linear layer becomes the embedding itself.

    ## Why it is bad
    Both names are then one `nn.Embedding`. Calling the head looks rows up instead of multiplying, so that forward has
    to go around it; tools that look for tied parameters did not see the alias (accelerate before 0.34 warned), and
    `save_pretrained` of transformers 5 raises.

    ## How to fix it
    Share the parameter and keep the head a layer of its own: `self.head.weight = self.wte.weight`.
    """

    code = "TIE801"
    summary = "`self.head = self.embedding`: the module is shared where the weight was meant"
    severity = "warning"
    confidence = "medium"
    messages = ("The model weights are not tied. Please use the `tie_weights` method",)
    threads = "allenai/OLMo#829"

    def check(self, sources: tuple[SourceFile, ...]) -> Iterator[Draft]:
        for file in sources:
            engine = not ENGINES.isdisjoint(name.partition(".")[0] for name in file.imports)
            for owner in file.classes:
                aliases = (
                    e for m in owner.methods for e in m.events if e.kind == "alias" and e.source not in m.arguments
                )
                for event in _alike_once(aliases):
                    if engine or not _is_alias_of_head(owner, event):
                        continue
                    yield event_draft(
                        file,
                        event,
                        f"{owner.name}: {event.target} becomes the module {event.source}, an embedding. Calling it "
                        "looks rows up and does not multiply; the weight was meant.",
                        f"{event.target} is not seen to be a linear layer by then, whose weight could be shared.",
                        "the module is assigned, not its weight",
                        unaliased(file, owner, event),
                    )

    @staticmethod
    def cases() -> Iterator[Case]:
        yield Case("OLMo's", source_facts(f"{PLAIN_MODEL}\n        self.head = self.wte\n"), finds=("warning",))
        in_a_method = "\n    def tie_weights(self):\n        self.transformer.ff_out = self.transformer.wte\n"
        yield Case("in tie_weights", source_facts(PLAIN_MODEL + in_a_method), finds=("warning",))
        yield Case("the weight", source_facts(f"{PLAIN_MODEL}\n        self.head.weight = self.wte.weight\n"))
        shared = (
            "class M(nn.Module):\n    def __init__(self, shared):\n        self.encoder.embed_tokens = self.shared\n"
        )
        setter = "\n    def set_output_embeddings(self, new_embeddings):\n        self.head = new_embeddings\n"
        yield Case("a setter", source_facts(PLAIN_MODEL + setter))
        engine = "from sglang.srt.layers.vocab_parallel_embedding import VocabParallelEmbedding\n"
        yield Case("an engine's", source_facts(f"{engine}{PLAIN_MODEL}\n        self.head = self.wte\n"))
        yield Case("an embedding in two stacks, as T5 has it", source_facts(f"{shared}        self.tie_weights()\n"))


def _is_alias_of_head(owner: ModuleClass, event: Event) -> bool:
    """Tell whether a head is made an embedding's module; a name that is read as a table is no head."""
    last = event.target.rpartition(".")[2]
    if not event.source or last.startswith("_") or "embed" in last.lower() or "emb" in last.lower():
        return False
    built = class_of_path(owner, event.source)
    place = event.source.rpartition(".")[0]
    beside = bool(place) and event.target.rpartition(".")[0] == place
    by_name = is_embedding(owner, event.source) and (beside or "Linear" in class_of_path(owner, event.target))
    return is_head(owner, event.target) and ("Embedding" in built if built else by_name)


def _alike_once(events: Iterator[Event]) -> Iterator[Event]:
    yield from {_place(event): event for event in events}.values()


def _place(event: Event) -> tuple[int, int, str]:
    return event.line, event.column, event.target


class CopyInsteadOfShare(Rule):
    """A statement that is meant to tie makes a second parameter.

    ## What it does
    Finds `.weight.data = `, `nn.Parameter(x.weight)`, `clone`, `deepcopy`, `copy_`, `==` as a statement and a
    transposed `nn.Parameter`, where head and embedding (or encoder and decoder) of one class were to be one tensor.
    A copy of which no name, flag, mapping or comment says that it is to tie is a note: an untied head may begin so.

    ## Why it is bad
    There are two parameters. Over one memory (`.data`, `nn.Parameter(x.weight)`) each has a gradient of its own, an
    optimizer steps twice, and the first `.to(dtype)`, `deepcopy` or load separates them; of a copy they differ after
    one step.

    ## How to fix it
    Assign the parameter itself: `self.head.weight = self.wte.weight`. For a transposed use share it and transpose it in
    `forward`: `F.linear(x, self.encoder.weight.t())`.
    """

    code = "TIE802"
    summary = "a tie by `.data`, `nn.Parameter(x.weight)`, `clone` or `copy_`: two parameters"
    severity = "error"
    confidence = "medium"
    threads = "pytorch/pytorch#7733"

    def check(self, sources: tuple[SourceFile, ...]) -> Iterator[Draft]:
        for file, owner in classes_in(sources):
            others = {_place(e) for m in owner.methods for e in m.events if _meant_otherwise(owner, e, m)}
            for event in _alike_once(e for m in owner.methods for e in m.events):
                said = _broken_tie(file, owner, event)
                if said is None or _place(event) in others:
                    continue
                turned = {"t", "T", "mT", "transpose"} & set(event.form.split())
                told = "copy" not in said or says_tie(file, owner, event)
                draft = event_draft(
                    file,
                    event,
                    f"{owner.name}: {event.target} is meant to be {event.source}, and {said}."
                    if told
                    else f"{owner.name}: {event.target} {said}. That ties nothing, if a tie is meant.",
                    f"no parameter is another's transpose: forward has to turn {event.source} where it is used."
                    if turned
                    else MORE,
                    "not the parameter itself",
                    () if turned else shared_instead(file, owner, event, safe="memory" in said),
                )
                yield draft if told else draft._replace(severity="info", confidence="low")

    @staticmethod
    def cases() -> Iterator[Case]:
        for title, line in (
            (".data", "self.head.weight.data = self.wte.weight.data"),
            ("nn.Parameter", "self.head.weight = nn.Parameter(self.wte.weight)"),
        ):
            yield Case(title, source_facts(f"{PLAIN_MODEL}\n        {line}\n"), finds=("error",))
        for title, line in (
            ("a clone", "self.head.weight = nn.Parameter(self.wte.weight.clone())"),
            ("deepcopy", "self.head.weight = copy.deepcopy(self.wte.weight)"),
            ("a clone into .data", "self.head.weight.data = self.wte.weight.data.clone()"),
            ("a product", "self.head.weight = nn.Parameter(self.wte.weight * 1.0)"),
        ):
            method = source_facts(f"{PLAIN_MODEL}\n    def tie_weights(self):\n        {line}\n")
            yield Case(f"{title} in tie_weights", method, finds=("error",))
            plain = source_facts(f"{PLAIN_MODEL}\n        {line}\n")
            yield Case(f"{title}, where nothing says tie", plain, finds=("info",))
        noted = source_facts(f"{PLAIN_MODEL}\n        # Weight tying\n        {line}\n")
        yield Case(f"{title}, under a comment that says tie", noted, finds=("error",))
        tie = f"{PLAIN_MODEL}\n    def tie_weights(self):\n        self.head.weight.data.copy_(self.wte.weight)\n"
        yield Case("copy_ in tie_weights", source_facts(tie), finds=("error",))
        asked = (
            f"{PLAIN_MODEL}\n        if tie_weights:\n            self.head.weight.data.copy_(self.wte.weight.data)\n"
        )
        yield Case("copy_ in a constructor that asks", source_facts(asked), finds=("error",))
        yield Case("copy_ where it asks for none", source_facts(asked.replace("if tie", "if not tie")))
        equal = f"{PLAIN_MODEL}\n    def tie_weights(self):\n        self.head.weight == self.wte.weight\n"
        yield Case("compared", source_facts(equal), finds=("error",))
        tied = f"{tie}        self.head.weight = self.wte.weight\n"
        yield Case("copy_, and then tied", source_facts(tied))
        apart = source_facts(tie.replace("tie_weights", "untie_weights"))
        yield Case("copied by what unties", apart)
        shared = tied.replace("    def tie_weights(self):\n", "").split("        self.head.weight.data")
        one = f"{shared[0]}        self.head.weight = self.wte.weight\n\n    def tie(self):\n"
        yield Case(
            "memory of what is one", source_facts(f"{one}        self.head.weight.data = self.wte.weight.data\n")
        )
        looked = equal.replace("self.head.weight ==", "return self.head.weight ==")
        yield Case("a comparison that is returned", source_facts(looked))
        turned = """
            class TiedAutoencoder(nn.Module):
                def __init__(self, d, h):
                    self.encoder = nn.Linear(d, h)
                    self.decoder = nn.Linear(h, d)
                    self.decoder.weight = nn.Parameter(self.encoder.weight.t())
        """
        for title, text in (("turned", turned), (".data, turned", turned.replace(" = nn.Parameter(", ".data = ("))):
            yield Case(title, source_facts(text), finds=("error",))
        yield Case("the parameter itself", source_facts(f"{PLAIN_MODEL}\n        self.head.weight = self.wte.weight\n"))
        begun = f"{PLAIN_MODEL}\n    def reset(self):\n        self.head.weight.data.copy_(self.wte.weight)\n"
        yield Case("values that are copied where nothing says tie", source_facts(begun))


def _meant_otherwise(owner: ModuleClass, event: Event, method: Method) -> bool:
    """Tell whether a copy is not meant to tie: where a flag wants no tie, or the method unties.

    Also where the two are one: by a later statement, by one in another arm of a `try`, or of an `if` where no flag asks
    for a tie, of which this is what is left, or, for values, by the constructor in any case.
    """
    if event.kind not in ("data", "parameter", "copy"):
        return False
    flags, tests = dict(asked(event, method)), dict(method.tests)
    if re.search(r"(?i)untie|un_tie", method.name) or False in flags:
        return True
    alone = event._replace(branch=tuple(arm for arm in event.branch if not flags or arm[0] not in tests))
    ties = [e for e in method.events[method.events.index(event) + 1 :] if {*e.branch} <= {*event.branch}]
    ties += [e for e in method.events if not together(e, alone)]
    begun = owner.method("__init__")
    if event.kind != "parameter" and begun is not None and begun is not method:
        ties += [e for e in begun.events if not e.branch and not replacing(e, begun.events)]
    return any(e.kind == "share" and {e.target, e.source} == {event.target, event.source} for e in ties)


def _broken_tie(file: SourceFile, owner: ModuleClass, event: Event) -> str | None:
    """Return what a statement makes instead of a tie; None for one that is not meant as one."""
    if event.kind not in ("data", "parameter", "copy", "compare") or not event.source.endswith(".weight"):
        return None
    target, source = module_of(event.target), module_of(event.source)
    built = class_of_path(owner, target), class_of_path(owner, source)
    form = set(event.form.split())
    turned = bool({"t", "T", "mT", "transpose"} & form)
    if target == source or not built[0] or not (built[1] or (built[0] == "Linear" and is_embedding(owner, source))):
        return None
    meant = (is_embedding(owner, source) and is_head(owner, target)) or (
        is_embedding(owner, target) and is_head(owner, source)
    )
    copied = event.kind == "copy" or bool({"clone", "deepcopy", "copy", "contiguous"} & form)
    if not (meant or turned) or (event.kind == "copy" and not says_tie(file, owner, event)):
        return None
    if event.kind == "compare":
        return "is compared with it (==), which ties nothing"
    if copied:
        return "takes a copy: the two differ after the first step"
    return "becomes a second parameter over the same memory: two gradients, and the first conversion separates them"
