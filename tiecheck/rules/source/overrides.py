"""TIE808, TIE814, TIE815: what a class of transformers does, or leaves undone, about its ties."""

from __future__ import annotations

from collections.abc import Iterator

from tiecheck.records.source import Method, ModuleClass, SourceFile
from tiecheck.rules.base import Case, Draft, Rule
from tiecheck.rules.source.rewrites import MORE, begun_at_end, called_by_5, declared_instead
from tiecheck.rules.source.sightings import (
    PUBLISHED,
    TIED_CLASS,
    classes_in,
    derives_from_theirs,
    event_draft,
    outside_of_4,
    shared_heads,
    source_draft,
    source_facts,
)


class UnguardedTie(Rule):
    """A class of transformers' models ties by hand, whatever its config says.

    ## What it does
    Finds a constructor of a class of transformers' models that ties head and embedding outside of any `if`.

    ## Why it is bad
    The config's flag has a meaning for every other tool: with it false, or absent where false is the default, a saved
    head is expected in the checkpoint, `save_pretrained` refuses or drops it, and other loaders draw it at random.

    ## How to fix it
    Declare the pair in `_tied_weights_keys` and leave the tying to the library, or ask `config.tie_word_embeddings`.
    """

    code = "TIE808"
    summary = "ties without asking the config"
    severity = "warning"
    confidence = "medium"

    def check(self, sources: tuple[SourceFile, ...]) -> Iterator[Draft]:
        for file, owner in classes_in(sources):
            begun = owner.method("__init__")
            if not derives_from_theirs(file, owner) or begun is None:
                continue
            for tie in shared_heads(owner):
                if tie in begun.events and not tie.branch:
                    yield event_draft(
                        file,
                        tie,
                        f"{owner.name} ties {tie.target} to {tie.source} whatever config.tie_word_embeddings says.",
                        "_tied_weights_keys does not map these two, which post_init() ties where the flag says so; "
                        "or the tie wants a condition of its own.",
                        "no condition",
                        declared_instead(file, owner, tie),
                    )

    @staticmethod
    def cases() -> Iterator[Case]:
        embedding = "        self.wte = nn.Embedding(config.vocab_size, config.hidden_size)\n"
        tie = "self.lm_head.weight = self.wte.weight\n"
        yield Case("always", source_facts(f"{TIED_CLASS}{embedding}        {tie}"), finds=("warning",))
        mapped = f"{TIED_CLASS}{embedding}        {tie}".replace("model.embed_tokens.weight", "wte.weight")
        yield Case("always, though it is declared", source_facts(mapped), finds=("warning",))
        asked = f"{TIED_CLASS}{embedding}        if config.tie_word_embeddings:\n            {tie}"
        yield Case("where the config says so", source_facts(asked))
        yield Case(
            "no class of transformers",
            source_facts(f"{TIED_CLASS}{embedding}        {tie}".replace("(PreTrainedModel)", "(nn.Module)")),
        )


class PostInitMissing(Rule):
    """A class of transformers' models declares ties, and its constructor never calls `post_init()`.

    ## What it does
    Finds a class that derives from `PreTrainedModel` by bases of the same file, has `_tied_weights_keys` and a
    constructor, and calls `post_init()` (or `init_weights()`) nowhere.

    ## Why it is bad
    `post_init()` makes `all_tied_weights_keys` and ties. Without it the model is built untied, and `from_pretrained` of
    transformers 5 raises AttributeError.

    ## How to fix it
    End the constructor with `self.post_init()`.
    """

    code = "TIE814"
    summary = "declares ties and never calls `post_init()`"
    severity = "error"
    confidence = "medium"
    messages = ("object has no attribute 'all_tied_weights_keys'",)

    def check(self, sources: tuple[SourceFile, ...]) -> Iterator[Draft]:
        for file in outside_of_4(sources):
            known = {owner.name: owner for owner in file.classes}
            for owner in file.classes:
                begun = owner.method("__init__")
                keys = owner.keys
                if begun is None or keys is None or not keys.pairs or not derives_from_theirs(file, owner):
                    continue
                line = [owner, *(known[base] for base in owner.lineage if base in known)]
                foreign = [b for b in owner.lineage if b not in known and "PreTrainedModel" not in b and b != "Module"]
                if any(_begins(one) for one in line) or any(b[:1].isupper() and "Mixin" not in b for b in foreign):
                    continue
                yield source_draft(
                    file,
                    (owner.name,),
                    (begun.line, begun.column),
                    f"{owner.name} declares _tied_weights_keys, and its constructor never calls post_init(): the model "
                    "is built untied, and from_pretrained of transformers 5 raises AttributeError "
                    "(all_tied_weights_keys).",
                    MORE,
                    "no post_init()",
                    begun_at_end(file, owner, begun),
                )

    @staticmethod
    def cases() -> Iterator[Case]:
        yield Case("missing", source_facts(TIED_CLASS.replace("self.post_init()", "pass")), finds=("error",))
        yield Case("there", source_facts(TIED_CLASS))
        published = TIED_CLASS.replace("self.post_init()", "pass").replace("PreTrainedModel", "LlamaForCausalLM")
        helped = TIED_CLASS.replace(
            "self.post_init()", "self.begin()\n\n    def begin(self):\n        self.post_init()"
        )
        yield Case("called by a helper", source_facts(helped))
        yield Case("a base that calls it", source_facts(published))
        abstract = TIED_CLASS.replace("self.post_init()", "pass").replace(
            "def __init__(self, config)", "def build(self)"
        )
        yield Case("no constructor of its own", source_facts(abstract))


def _begins(owner: ModuleClass) -> bool:
    """Tell whether a method of a class, which its constructor may call, calls what ties."""
    calls = (name for method in owner.methods for name in method.calls)
    return any(name.rpartition(".")[2] in ("post_init", "init_weights") for name in calls)


class EmptyTieWeights(Rule):
    """`tie_weights` is overridden with nothing, or so that transformers 5 cannot call it.

    ## What it does
    Finds a class with ties (its own `_tied_weights_keys`, or a published class with a head as its base) whose
    `tie_weights` does nothing, or takes no arguments.

    ## Why it is bad
    Then no call ties, not even the user's `model.tie_weights()`. transformers 5 calls
    `tie_weights(recompute_mapping=False)`, and a method without arguments raises TypeError when the model is built.

    ## How to fix it
    Remove the override; or take `**kwargs` and begin with `super().tie_weights(**kwargs)`.
    """

    code = "TIE815"
    summary = "`tie_weights` overridden with nothing, or with a signature that transformers 5 cannot call"
    severity = "error"
    messages = ("tie_weights() got an unexpected keyword argument 'recompute_mapping'",)

    def check(self, sources: tuple[SourceFile, ...]) -> Iterator[Draft]:
        for file, owner in classes_in(outside_of_4(sources)):
            method = owner.method("tie_weights")
            if method is None or not derives_from_theirs(file, owner):
                continue
            ties = (owner.keys is not None and owner.keys.pairs) or any(PUBLISHED.search(b) for b in owner.lineage)
            said = _fault_of(method, bool(ties))
            if said:
                yield source_draft(
                    file,
                    (f"{owner.name}.tie_weights",),
                    (method.line, method.column),
                    f"{owner.name}.tie_weights {said}.",
                    "it has to take **kwargs and to pass them on to the library's, where it calls that.",
                    "overrides the library's",
                    called_by_5(file, owner, method),
                )

    @staticmethod
    def cases() -> Iterator[Case]:
        quant = (
            "from transformers import LlamaForCausalLM\n"
            "class Quant(LlamaForCausalLM):\n    def tie_weights(self{more}):\n        {body}\n"
        )
        nothing = quant.format(more=", **kwargs", body="pass")
        yield Case("nothing", source_facts(nothing), finds=("error",))
        yield Case("no arguments", source_facts(quant.format(more="", body="super().tie_weights()")), finds=("error",))
        library = nothing.replace("from transformers", "from ...modeling_utils")
        yield Case("transformers 4 itself", source_facts(library))
        whole = quant.format(more=", **kwargs", body="super().tie_weights(**kwargs)")
        yield Case("passed on", source_facts(whole))
        yield Case("another library's class", source_facts(nothing.replace("(LlamaForCausalLM)", "(nn.Module)")))
        named = quant.format(more=", missing_keys=None, recompute_mapping=True", body="super().tie_weights()")
        yield Case("the arguments by name", source_facts(named))
        part = quant.format(more=", recompute_mapping=True", body="super().tie_weights()")
        yield Case("one of the two", source_facts(part), finds=("error",))
        yield Case(
            "one of the two, where nothing is tied", source_facts(part.replace("LlamaForCausalLM", "PreTrainedModel"))
        )


def _fault_of(method: Method, ties: bool) -> str:
    """Return what is wrong with an override; empty where nothing is."""
    callable_by_5 = method.raises or method.accepts or {"missing_keys", "recompute_mapping"} <= set(method.arguments)
    lacks = "missing_keys, with which from_pretrained of transformers 5 calls it: TypeError"
    if "recompute_mapping" not in method.arguments:
        lacks = "recompute_mapping, with which transformers 5 calls it: TypeError"
    raises = "" if callable_by_5 or (lacks[0] == "m" and not ties) else f"takes no {lacks}"
    if method.empty and ties:
        return f"does nothing, so that no call ties{', and it ' + raises if raises else ''}"
    return raises
