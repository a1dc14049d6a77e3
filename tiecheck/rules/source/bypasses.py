"""TIE809: a forward pass that goes around the head."""

from __future__ import annotations

from collections.abc import Iterator

from tiecheck.records.source import ModuleClass, SourceFile
from tiecheck.rules.base import Case, Draft, Rule
from tiecheck.rules.source.sightings import (
    HEAD_LIKE,
    PLAIN_MODEL,
    classes_in,
    is_embedding,
    is_tie,
    module_of,
    source_draft,
    source_facts,
)

_ACCESS = frozenset({"__init__", "get_output_embeddings", "set_output_embeddings", "tie_weights", "_tie_weights"})
"""Methods in which a head is named without being used."""


class ForwardBypassesHead(Rule):
    """`forward` multiplies by the embedding's weight, although the class has a head of its own.

    ## What it does
    Finds a class that builds a linear layer with a head's name, uses it nowhere, and multiplies by an embedding's
    weight in `forward` or a method that it calls, where the two are not tied in any case.

    ## Why it is bad
    With untied weights the logits come from the wrong matrix: the head of a checkpoint is loaded and never read, and in
    training it has no gradient.

    ## How to fix it
    Call the head, `self.lm_head(x)`: where the two are tied it is the same. Or build no head.
    """

    code = "TIE809"
    summary = "`forward` uses the embedding although the class has a head that may be untied"
    severity = "warning"
    confidence = "medium"
    threads = "Blaizzy/mlx-vlm#1193 pegainfer-project/pegainfer#544"

    def check(self, sources: tuple[SourceFile, ...]) -> Iterator[Draft]:
        for file, owner in classes_in(sources):
            for head in _unused_heads(owner):
                for path, line, column in _multiplied(owner):
                    table = module_of(path)
                    if not is_embedding(owner, table) or _tied_anyway(owner, head, table):
                        continue
                    yield source_draft(
                        file,
                        (f"{head}.weight", path),
                        (line, column),
                        f"{owner.name} builds {head} and does not use it: its logits come from {path}, also where "
                        "the two are not tied.",
                        f"whether {head} is to be called here, or not to be built, is not told in the code.",
                        "goes around the head",
                    )

    @staticmethod
    def cases() -> Iterator[Case]:
        forward = "\n    def forward(self, x):\n        x = self.blocks(self.wte(x))\n        return {logits}\n"
        around = forward.format(logits="F.linear(x, self.wte.weight)")
        yield Case("around it", source_facts(PLAIN_MODEL + around), finds=("warning",))
        product = forward.format(logits="x @ self.wte.weight.t()")
        yield Case("as a product", source_facts(PLAIN_MODEL + product), finds=("warning",))
        asked = f"{PLAIN_MODEL}\n        if config.tie:\n            self.head.weight = self.wte.weight\n"
        yield Case("tied where the config says so", source_facts(asked + around), finds=("warning",))
        yield Case("called", source_facts(PLAIN_MODEL + forward.format(logits="self.head(x)")))
        chosen = forward.format(logits="self.head(x) if self.untied else F.linear(x, self.wte.weight)")
        yield Case("one or the other", source_facts(PLAIN_MODEL + chosen))
        tied = f"{PLAIN_MODEL}\n        self.head.weight = self.wte.weight\n"
        yield Case("always tied", source_facts(tied + around))
        headless = PLAIN_MODEL.replace("        self.head = nn.Linear(d, v, bias=False)\n", "")
        yield Case("no head", source_facts(headless + around))


def _unused_heads(owner: ModuleClass) -> list[str]:
    """Return the linear layers with a head's name that no method of a class uses."""
    heads = [
        path for path, name in owner.built if name.endswith("Linear") and HEAD_LIKE.search(path.rpartition(".")[2])
    ]
    read = {path for method in owner.methods if method.name not in _ACCESS for path in method.reads}
    return [head for head in dict.fromkeys(heads) if not any(f"{path}.".startswith(f"{head}.") for path in read)]


def _multiplied(owner: ModuleClass) -> tuple[tuple[str, int, int], ...]:
    """Return what `forward`, and the methods that it calls, multiply by."""
    forward = owner.method("forward")
    called = {name.removeprefix("self.") for name in forward.calls} if forward else set()
    within = [method for method in owner.methods if method is forward or method.name in called]
    return tuple(one for method in within for one in method.multiplies)


def _tied_anyway(owner: ModuleClass, head: str, table: str) -> bool:
    """Tell whether a class ties head and embedding under no condition."""
    ties = (e for method in owner.methods for e in method.events if is_tie(owner, e) and not e.branch)
    return any({module_of(e.target), module_of(e.source)} == {head, table} for e in ties)
