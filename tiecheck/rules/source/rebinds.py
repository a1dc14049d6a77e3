"""TIE806: members of a tie that are made again after it, or made after it for the first time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tiecheck.records.source import Event, ModuleClass, SourceFile
from tiecheck.rules.base import Case, Draft, Rule
from tiecheck.rules.source.rewrites import begun_behind, moved_behind
from tiecheck.rules.source.sightings import (
    PLAIN_MODEL,
    TIED_CLASS,
    classes_in,
    derives_from_theirs,
    event_draft,
    has_unseen_base,
    is_tie,
    methods_in_turn,
    module_of,
    replacing,
    source_facts,
    ties_again,
    together,
)


class TieReboundLater(Rule):
    """A tie is made, and a statement after it replaces one of its members.

    ## What it does
    Finds a member of a tie whose module or parameter is assigned again later in the same constructor, where no
    statement after it, and no `post_init()` of a class that maps the two, ties them again. Also a member of what a
    class of transformers maps that the constructor makes after `post_init()`.

    ## Why it is bad
    The tie is gone without a word: the new module has a parameter of its own. A member that `post_init()` of
    transformers 5 does not find raises AttributeError.

    ## How to fix it
    Move the tie, or `post_init()`, behind the last assignment of its members.
    """

    code = "TIE806"
    summary = "tied, and then a member is replaced"
    severity = "warning"
    confidence = "medium"

    def check(self, sources: tuple[SourceFile, ...]) -> Iterator[Draft]:
        for file, owner in classes_in(sources):
            found = [one for method in methods_in_turn(owner) for one in _rebound(file, owner, method.events)]
            yield from found or _missed_by_post_init(file, owner)

    @staticmethod
    def cases() -> Iterator[Case]:
        tied = f"{PLAIN_MODEL}\n        self.head.weight = self.wte.weight\n"
        yield Case(
            "a new embedding", source_facts(f"{tied}        self.wte = nn.Embedding(v, d)\n"), finds=("warning",)
        )
        late = f"{tied}        self.head.weight = nn.Parameter(torch.zeros(v, d))\n"
        yield Case("a new parameter", source_facts(late), finds=("warning",))
        yield Case("tied last", source_facts(tied))
        early = PLAIN_MODEL.replace(
            "        self.head =", "        self.head.weight = self.wte.weight\n        self.head ="
        )
        yield Case("before the head is there", source_facts(early), finds=("warning",))
        tie = "            self.head.weight = self.wte.weight\n"
        other = f"{PLAIN_MODEL}\n        if tie:\n{tie}        else:\n            self.head = nn.Linear(d, v)\n"
        yield Case("in the other branch", source_facts(other))
        again = f"{tied}        self.head = nn.Linear(d, v)\n        self.head.weight = self.wte.weight\n"
        yield Case("tied again", source_facts(again))
        mapped = TIED_CLASS.replace("model.embed_tokens", "wte").replace("model = Decoder", "wte = nn.Embedding")
        lost = "        self.lm_head.weight = self.wte.weight\n        self.lm_head = nn.Linear(d, v)\n"
        begun = mapped.replace("        self.post_init()", f"{lost}        self.post_init()")
        yield Case("tied again by post_init()", source_facts(begun))
        yield Case("behind post_init()", source_facts(f"{mapped}{lost}"), finds=("warning",))
        head = "        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)\n"
        late = f"{TIED_CLASS.replace(head, '')}{head}"
        yield Case("a head that is made behind it", source_facts(late), finds=("warning",))
        yield Case("one that is made again behind it", source_facts(f"{TIED_CLASS}{head}"), finds=("warning",))
        yield Case("and begun again", source_facts(f"{TIED_CLASS}{head}        self.post_init()\n"))
        hidden = late.replace("(PreTrainedModel)", "(LlamaForCausalLM)").replace("import ", "import LlamaForCausalLM, ")
        yield Case("a base that is not seen", source_facts(hidden))


def _rebound(file: SourceFile, owner: ModuleClass, events: tuple[Event, ...]) -> Iterator[Draft]:
    for number, tie in enumerate(events):
        if not is_tie(owner, tie):
            continue
        made = replacing(tie, events)
        later = tuple(event for event in events[number + 1 :] if together(tie, event))
        if not made or ties_again(file, owner, tie, later[later.index(made[-1]) + 1 :]):
            continue
        lost = made[0]
        if too_early(owner, lost, events[:number]):
            what = f"which line {lost.line} is the first to make: building the model raises AttributeError."
        else:
            what = f"and line {lost.line} makes {lost.target} again: the tie is gone."
        yield event_draft(
            file,
            tie,
            f"{owner.name}: {tie.target} is tied to {tie.source}, {what}",
            f"a line behind {lost.line} is the place for it, where no other branch or method is between them.",
            f"undone by line {lost.line}",
            moved_behind(file, owner, tie, made),
        )


def too_early(owner: ModuleClass, lost: Event, before: Sequence[Event]) -> bool:
    """Tell whether a tie stands before the statement that first makes one of its members, as far as all is seen."""
    first = lost.target.partition(".")[0]
    there = any(event.target.partition(".")[0] == first for event in before) or any(
        path.partition(".")[0] == first for path, _ in owner.parts
    )
    return not there and not lost.branch and set(owner.lineage) <= {"Module"}


def _missed_by_post_init(file: SourceFile, owner: ModuleClass) -> Iterator[Draft]:
    """Yield a member of what a class maps that its constructor makes behind `post_init()`, its own or a base's.

    transformers 5.23 ties there where the flag is true, and raises AttributeError for a name that is not there.
    """
    begun = owner.method("__init__")
    pairs = owner.keys.pairs if owner.keys is not None and owner.keys.form == "mapping" else ()
    if begun is None or "super().__init__" not in begun.calls or not derives_from_theirs(file, owner):
        return
    calls = [n for n, e in enumerate(begun.events) if e.source == f"{begun.arguments[0]}.post_init" and not e.branch]
    by_base = _begun_by_base(file, owner)
    if not pairs or not (calls or by_base) or has_unseen_base(file, owner):
        return
    behind = 0 if by_base else calls[0]
    there = {path.partition(".")[0] for path, _ in owner.parts} | {name for name, *_ in owner.attributes}
    there |= {event.target.partition(".")[0] for event in begun.events[:behind]}
    for pair in pairs:
        made = [e for e in begun.events[behind:] if _makes(e, pair)]
        first = [e for e in made if e.target.partition(".")[0] not in there]
        if first:
            said = f"{first[0].target}, which this line is the first to make: where the flag is true, AttributeError"
        elif not calls or not _lost_behind(file, owner, pair, begun.events, calls[-1]):
            continue
        else:
            said = (
                f"{made[-1].target}, which this line makes again: a model is built untied, and tied where it is loaded"
            )
        lost = (first or made[-1:])[0]
        yield event_draft(
            file,
            lost,
            f"{owner.name}: post_init() ties {pair[0]} to {pair[1]} before there is {said}.",
            "post_init() is a base's, or is called again, and has to come behind what is made.",
            "behind post_init()",
            () if by_base or len(calls) > 1 else begun_behind(file, owner, begun, begun.events[calls[0]], made[-1]),
        )
        return


def _lost_behind(
    file: SourceFile, owner: ModuleClass, pair: tuple[str, str], events: tuple[Event, ...], call: int
) -> bool:
    """Tell whether what a call of `post_init()` ties is made again behind it, and not tied again."""
    there = {event.target for event in events[:call] if event.kind != "build" or event.source}
    made = [number for number, event in enumerate(events) if number > call and _makes(event, pair)]
    if not made or events[made[-1]].target not in there:
        return False
    return not ties_again(file, owner, Event("share", *pair, 0, 0), events[made[-1] :])


def _makes(event: Event, pair: tuple[str, ...]) -> bool:
    """Tell whether an event makes a module of which a mapped name is a parameter, in any case and for good."""
    made = event.kind in ("build", "alias", "clone") and event.form != "kept" and not event.branch
    return made and any(f"{module_of(name)}.".startswith(f"{event.target}.") for name in pair)


def _begun_by_base(file: SourceFile, owner: ModuleClass) -> bool:
    """Tell whether the constructor of a class's nearest base in the file calls `post_init()`."""
    known = {one.name: one for one in file.classes}
    begun = (method for base in owner.lineage if base in known and (method := known[base].method("__init__")))
    nearest = next(begun, None)
    return nearest is not None and f"{nearest.arguments[0]}.post_init" in nearest.calls
