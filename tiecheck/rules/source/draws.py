"""TIE807: the tensor that a tie keeps, and what drew it."""

from __future__ import annotations

from collections.abc import Iterator

from tiecheck.records.source import Event, ModuleClass, SourceFile
from tiecheck.rules.base import Case, Draft, Rule
from tiecheck.rules.source.rewrites import MORE, turned_round
from tiecheck.rules.source.sightings import (
    PLAIN_MODEL,
    class_of_path,
    event_draft,
    module_of,
    shared_heads,
    source_facts,
)


class EmbeddingInitialisesTiedHead(Rule):
    """The head takes the embedding's tensor, with the wide draw that `nn.Embedding` makes, and nothing draws it again.

    ## What it does
    Finds `self.head.weight = self.wte.weight` where the embedding is a plain `nn.Embedding` and no initialisation
    follows: no `nn.init`, no `apply`, no `post_init`, no `load_state_dict`, in the class or in one of its bases in the
    file. A tensor that is given the values of another one has no default draw.

    ## Why it is bad
    `nn.Embedding` draws with a standard deviation of 1, a linear layer with about 1/sqrt(3 d). With the embedding's
    draw the logits of an untrained model are dominated by the input token itself, the first loss is far above ln V, and
    sampling repeats.

    ## How to fix it
    Draw the shared tensor again, `nn.init.normal_(self.wte.weight, std=0.02)`, or tie the other way round:
    `self.wte.weight = self.head.weight`.
    """

    code = "TIE807"
    summary = "the tie keeps an `nn.Embedding`'s default draw, and no initialisation follows"
    severity = "warning"
    confidence = "medium"

    def check(self, sources: tuple[SourceFile, ...]) -> Iterator[Draft]:
        for file in sources:
            initialising, here = {c.name for c in file.classes if _initialises(c)}, {c.name for c in file.classes}
            for owner in file.classes:
                foreign = [b for b in owner.lineage if b != "Module" and b not in here]
                if (
                    owner.name in initialising
                    or initialising & set(owner.lineage)
                    or foreign
                    or not owner.method("__init__")
                ):
                    continue
                for tie in shared_heads(owner):
                    plain = class_of_path(owner, module_of(tie.source)) == "Embedding" and not _filled(owner, tie)
                    if plain and not _drawn_elsewhere(file, owner):
                        yield event_draft(
                            file,
                            tie,
                            f"{owner.name}: {tie.target} takes the tensor of {tie.source} with nn.Embedding's draw of "
                            "standard deviation 1, and nothing initialises it after that. Logits of the untrained "
                            "model are far too large.",
                            MORE,
                            "keeps the embedding's draw",
                            turned_round(file, owner, tie),
                        )

    @staticmethod
    def cases() -> Iterator[Case]:
        tied = f"{PLAIN_MODEL}\n        self.head.weight = self.wte.weight\n"
        yield Case("the GPT-2 thread's", source_facts(tied), finds=("warning",))
        yield Case("the other way round", source_facts(f"{PLAIN_MODEL}\n        self.wte.weight = self.head.weight\n"))
        yield Case("drawn again", source_facts(f"{tied}        nn.init.normal_(self.wte.weight, std=0.02)\n"))
        yield Case("by apply", source_facts(f"{tied}        self.apply(self._init)\n"))
        given = tied.replace("self.head.weight =", "self.wte.weight.data = old.weight.data\n        self.head.weight =")
        yield Case("values of another model", source_facts(given))
        yield Case("copied in after it", source_facts(f"{tied}        self.wte.weight.data.copy_(old.weight)\n"))
        yield Case("loaded into it", source_facts(f"{tied}        self.wte.load_state_dict(old.state_dict())\n"))
        yield Case("by whoever builds it", source_facts(f"{tied}\ndef build():\n    Model(1, 2).apply(init)\n"))


def _initialises(owner: ModuleClass) -> bool:
    """Tell whether a class draws values itself, or has a method that is made to."""
    return any(event.kind == "init" for method in owner.methods for event in method.events) or any(
        "init" in method.name.strip("_") and method.name != "__init__" for method in owner.methods
    )


def _filled(owner: ModuleClass, tie: Event) -> bool:
    """Tell whether a member takes the values of a tensor outside the tie, which are then no draw of the embedding's."""
    members = {tie.target, tie.source}
    return any(
        event.kind in ("data", "copy", "parameter") and event.target in members and event.source not in members
        for method in owner.methods
        for event in method.events
    )


def _drawn_elsewhere(file: SourceFile, owner: ModuleClass) -> bool:
    """Tell whether a function of the file initialises something, or another class builds this one and does."""
    others = (c for c in file.classes if c.name != owner.name and any(s.endswith(owner.name) for _, s in c.built))
    return any(event.kind == "init" for event in file.events) or any(_initialises(other) for other in others)
