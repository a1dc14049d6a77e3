"""Words on paths, heads and embeddings, drafts, and cases from text, for all rules on sources."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from tiecheck.records.edits import Edit
from tiecheck.records.source import Event, Method, ModuleClass, SourceFile
from tiecheck.rules.base import Draft, file_place

PLAIN_MODEL = """
class Model(nn.Module):
    def __init__(self, v, d):
        super().__init__()
        self.wte = nn.Embedding(v, d)
        self.blocks = nn.Linear(d, d)
        self.head = nn.Linear(d, v, bias=False)
"""
"""Text of a class with an embedding and a head, to which a case adds statements."""

DECLARING = """
from transformers import PreTrainedModel

class Model(PreTrainedModel):
    _tied_weights_keys = {keys}

    def __init__(self, config):
        super().__init__(config)
        self.model = Decoder(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()
"""
TIED_CLASS = DECLARING.replace("{keys}", '{"lm_head.weight": "model.embed_tokens.weight"}')
"""Text of a class of transformers, with what it declares."""

HEAD_LIKE = re.compile(
    r"(?i)(^|_)(lm_head|head|ff_out|decoder|logits|to_logits|unembed\w*|output_projection|out_proj|generator|output|proj)$"
)
EMBEDDING_LIKE = re.compile(r"(?i)(^|_)(wte|wpe|emb|embed\w*|shared|tok_\w+|vocab_emb\w*)$")
MODEL_LIKE = re.compile(r"PreTrainedModel$")
PUBLISHED = re.compile(r"For(CausalLM|ConditionalGeneration|MaskedLM|PreTraining)$|LMHeadModel$")
"""Ends of the names of transformers' classes that have a head."""


_TIE_FLAG = re.compile(
    r"(?P<no>not )?(?:(?:\w+\.)*|getattr\([\w.]+, ')(?P<un>(?:\w*_)?(?:un|no|not|dont|skip|without)_?(?=tie|share))?"
    r"(?:\w*?(?:tie|tied|share|shared)(?:_\w+)?)(?:'(?:, \w+)?\))?(?: (?:is|==) (?P<value>True|False))?"
)
"""A condition that is nothing but a flag which asks for a tie, or for none."""

OWNING_NOTHING = re.compile(r"PreTrainedModel$|^Module$|Mixin$|^Generic$|^ABC$")
"""Names of bases that build no layer and map no tied names."""

STATELESS = re.compile(
    r"\w*([a-zA-Z]LU|ReLU6|Tanh|[Ss]igmoid|Soft(max|min|plus|sign)\w*|Mish|\w*[Ss]hrink|Hard\w+|Dropout\w*|Identity|Flatten"
    r"|Unflatten|\w*Pool[123]d|Upsample\w*|\w*Pad[123]d|Pixel\w+|Fold|Unfold)"
)
"""Names of modules of `nn` without parameters, one of which may stand many times."""


def methods_in_turn(owner: ModuleClass) -> Iterator[Method]:
    """Yield the methods whose events are no part of another one's: `__init__`, and what it does not call."""
    begun = owner.method("__init__")
    called = {name.removeprefix("self.") for name in begun.calls} if begun else set()
    yield from (method for method in owner.methods if method.name == "__init__" or method.name not in called)


def class_of_path(owner: ModuleClass, path: str) -> str:
    """Return the last part of the class that a path is built of; empty where that is not seen."""
    built = (source for target, source in (*reversed(owner.built), *owner.parts) if target == path)
    return next(built, "").rpartition(".")[2]


def module_of(path: str) -> str:
    """Return the module of a parameter's path."""
    owner, _, last = path.rpartition(".")
    return owner if last in ("weight", "bias") else path


def is_embedding(owner: ModuleClass, path: str) -> bool:
    """Tell whether a module's path is an embedding: as it is built, else by its name."""
    built = class_of_path(owner, path)
    if built:
        return "Embedding" in built
    return path.endswith("get_input_embeddings()") or EMBEDDING_LIKE.search(path.rpartition(".")[2]) is not None


def is_head(owner: ModuleClass, path: str) -> bool:
    """Tell whether a module's path is a head: no embedding as it is built, and named like one."""
    built = class_of_path(owner, path)
    if built and "Linear" not in built:
        return False
    return (
        bool(built) or path.endswith("get_output_embeddings()") or HEAD_LIKE.search(path.rpartition(".")[2]) is not None
    )


def shared_heads(owner: ModuleClass) -> tuple[Event, ...]:
    """Return the events of all methods that make an embedding and a head one parameter, and that nothing undoes."""
    found = {(e.line, e.column, e.target): e for method in owner.methods for e in method.events if is_tie(owner, e)}
    undone = {e for method in owner.methods for e in found.values() if replacing(e, method.events)}
    return tuple(e for e in found.values() if e not in undone)


def is_tie(owner: ModuleClass, event: Event) -> bool:
    """Tell whether an event makes an embedding and a head of one class one parameter, whichever takes the other's."""
    if event.kind != "share" or not event.target.endswith(".weight"):
        return False
    sides = module_of(event.target), module_of(event.source)
    return any(is_embedding(owner, one) and is_head(owner, other) for one, other in (sides, sides[::-1]))


def replacing(tie: Event, events: tuple[Event, ...]) -> list[Event]:
    """Return those of a method's events that make a member of a tie again after it."""
    members = {tie.target, tie.source, module_of(tie.target), module_of(tie.source)}
    later = events[events.index(tie) + 1 :] if tie in events else ()
    made = (e for e in later if e.kind in ("build", "clone", "parameter") and e.form != "kept")
    return [e for e in made if e.target in members and together(tie, e)]


def ties_again(file: SourceFile, owner: ModuleClass, tie: Event, later: tuple[Event, ...]) -> bool:
    """Tell whether an event after a tie was undone makes it again, or may: a call of what this file does not show."""
    pair, modules = {tie.target, tie.source}, {module_of(tie.target), module_of(tie.source)}
    for event in later:
        names = {event.target, event.source}
        if names == pair and is_tie(owner, event):
            return True
        if event.kind == "alias" and names == modules:
            return True
        if event.kind == "retie" and all(f"{name}.".startswith(f"{event.target}.".lstrip(".")) for name in pair):
            called = event.source.rpartition(".")[2]
            bare = event.source == "super().tie_weights"
            by_library = called in ("post_init", "init_weights", "tie_weights")
            if not by_library or _library_ties(file, owner, tie, () if bare else owner.methods):
                return True
    return False


def _library_ties(file: SourceFile, owner: ModuleClass, tie: Event, methods: tuple[Method, ...]) -> bool:
    """Tell whether `post_init()` makes a tie: by what a class maps, by its `tie_weights`, or by a base out of sight."""
    pair = {tie.target, tie.source}
    own = [method for method in methods if method.name in ("tie_weights", "_tie_weights")]
    if any(is_tie(owner, event) and {event.target, event.source} == pair for method in own for event in method.events):
        return True
    known = {one.name: one for one in file.classes}
    line = (owner, *(known[name] for name in owner.lineage if name in known))
    keys = next((one.keys for one in line if one.keys is not None), None)
    if keys is None:
        return has_unseen_base(file, owner)
    written = [name.replace("\\", "") for both in keys.pairs for name in both]  # as a pattern, or as it is
    return keys.form == "other" or any(name in pair or re.search(r"[*+?|(\[]", name) for name in written)


def has_unseen_base(file: SourceFile, owner: ModuleClass) -> bool:
    """Tell whether a base of which the file shows nothing may build and map what it does not show."""
    known = {one.name for one in file.classes}
    return any(base not in known and base[:1].isupper() and not OWNING_NOTHING.search(base) for base in owner.lineage)


def may_hold_weight(file: SourceFile, owner: ModuleClass, path: str) -> bool:
    """Tell whether a path may be a layer with a weight: no list of layers, and built, where all that builds is seen."""
    if class_of_path(owner, path):
        return class_of_path(owner, path) not in ("ModuleList", "ModuleDict", "Sequential")
    root = path.partition(".")[0]
    return any(one.partition(".")[0] == root for one, _ in (*owner.built, *owner.parts)) or has_unseen_base(file, owner)


def says_tie(file: SourceFile, owner: ModuleClass, event: Event) -> bool:
    """Tell whether a statement is said to tie: by a name, a flag, what the class maps, a comment there or above."""
    return (
        "tie" in owner.name.lower()
        or owner.keys is not None
        or not {event.line, event.line - 1}.isdisjoint(file.notes)
        or any(event in m.events and ("tie" in m.name or True in dict(asked(event, m))) for m in owner.methods)
    )


def asked(event: Event, method: Method) -> Iterator[tuple[bool, str]]:
    """Yield whether a tie is asked for where an event happens, by each flag that decides it, with the condition."""
    tests = dict(method.tests)
    for line, arm in event.branch:
        test = tests.get(line, "")
        for part in test.split(" and ") if arm == 0 else [test]:
            if found := _TIE_FLAG.fullmatch(part):
                wanted = (arm == 0) ^ bool(found["no"]) ^ bool(found["un"]) ^ (found["value"] == "False")
                if part == test or not wanted:
                    yield wanted, test


def together(one: Event, other: Event) -> bool:
    """Tell whether both can happen in one run: no `if` of which they take different arms."""
    arms = dict(one.branch)
    return all(arms.get(line, arm) == arm for line, arm in other.branch)


def derives_from_theirs(file: SourceFile, owner: ModuleClass) -> bool:
    """Tell whether a class is one of transformers' models, by its bases and by what its file imports.

    Older libraries (`pytorch_transformers`) have a `PreTrainedModel` of their own.
    """
    theirs = any(name.partition(".")[0] == "transformers" or "...modeling_utils" in name for name in file.imports)
    return theirs and any(MODEL_LIKE.search(base) or PUBLISHED.search(base) for base in owner.lineage)


def classes_in(files: Iterable[SourceFile]) -> Iterator[tuple[SourceFile, ModuleClass]]:
    """Yield each class of some files, after its file."""
    return ((file, owner) for file in files for owner in file.classes)


def outside_of_4(sources: tuple[SourceFile, ...]) -> Iterator[SourceFile]:
    """Yield the files that transformers 5 may meet: all but those of a transformers package that itself is of 4.x.

    A file of the package imports relatively; where no class of all maps its tied names, lists are what is right there.
    """
    five = any(owner.keys is not None and owner.keys.form == "mapping" for file in sources for owner in file.classes)
    for file in sources:
        if five or not any(re.match(r"\.{3,}modeling_utils", name) for name in file.imports):
            yield file


def source_draft(  # noqa: PLR0913, PLR0917  # the fields of a finding
    file: SourceFile,
    names: tuple[str, ...],
    place: tuple[int, int],
    message: str,
    no_mend: str,
    note: str,
    edits: tuple[Edit, ...] = (),
) -> Draft:
    """Return a draft on a line of a source: place is 1-based line and column, note a few words on the line.

    `no_mend` is why no change of the source is sure to be right, told where there are no edits.
    """
    where = file_place(file.path, note, line=place[0], column=place[1])
    return Draft(message, names, (where,), edits=edits, no_mend=no_mend)


def event_draft(  # noqa: PLR0913, PLR0917  # the fields of a finding
    file: SourceFile, event: Event, message: str, no_mend: str, note: str, edits: tuple[Edit, ...] = ()
) -> Draft:
    """Return a draft on one event."""
    names = tuple(dict.fromkeys(filter(None, (event.target, event.source))))
    return source_draft(file, names, (event.line, event.column), message, no_mend, note, edits)


def source_facts(text: str) -> dict[str, Any]:
    """Return the facts of one source, for the cases of a rule."""
    from textwrap import dedent

    from tiecheck.source.reading import parse_source

    file = parse_source(dedent(text).encode(), "model.py")
    return {"sources": () if file is None else (file,)}
