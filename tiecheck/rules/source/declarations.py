"""TIE80x, TIE81x: what a class of transformers declares of its ties, and what it overrides."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tiecheck.records.source import Method, ModuleClass, SourceFile
from tiecheck.rules.base import Case, Draft, Rule
from tiecheck.rules.source.sightings import (
    PUBLISHED,
    event_draft,
    is_pretrained,
    source_draft,
    source_facts,
    ties_of,
)

_CLASS = """
from transformers import PreTrainedModel

class Model(PreTrainedModel):
    _tied_weights_keys = {keys}

    def __init__(self, config):
        super().__init__(config)
        self.model = Decoder(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()
"""
_GOOD = _CLASS.replace("{keys}", '{"lm_head.weight": "model.embed_tokens.weight"}')


class ListTiedWeightsKeys(Rule):
    """`_tied_weights_keys` is a list, and transformers 5 needs a mapping.

    ## What it does
    Finds a list (also an empty one) of names as `_tied_weights_keys` in a class of transformers' models.

    ## Why it is bad
    transformers 4 took a list of the names that are tied. transformers 5 maps each to the name that it takes its tensor
    from, and a class with a list raises when it is built or loaded with `tie_word_embeddings` true.

    ## How to mend it
    Write `{"lm_head.weight": "model.embed_tokens.weight"}`: each name and its source.
    """

    code = "TIE803"
    name = "list-tied-weights-keys"
    summary = "a list in `_tied_weights_keys`, where transformers 5 needs a mapping"
    severity = "warning"
    messages = ("'list' object has no attribute 'keys'",)

    def check(self, sources: tuple[SourceFile, ...]) -> Iterator[Draft]:
        for file in sources:
            for owner in file.classes:
                if owner.keys is None or owner.keys.form != "list" or not is_pretrained(file, owner):
                    continue
                names = tuple(name for name, _ in owner.keys.pairs)
                mapping = ", ".join(f'"{name}": "<source>"' for name in names)
                yield source_draft(
                    file,
                    names or (owner.name,),
                    (owner.keys.line, owner.keys.column),
                    f"{owner.name} lists its tied names. transformers 5 needs a mapping of each to its "
                    "source, and raises "
                    "AttributeError: 'list' object has no attribute 'keys' where the flag is true.",
                    f"Write _tied_weights_keys = {{{mapping}}}, with the embedding's name as the source."
                    if names
                    else "Write _tied_weights_keys = {}.",
                    "a list",
                )

    @staticmethod
    def cases() -> Iterator[Case]:
        yield Case("a list", source_facts(_CLASS.replace("{keys}", '["lm_head.weight"]')), finds=("warning",))
        yield Case("an empty list", source_facts(_CLASS.replace("{keys}", "[]")), finds=("warning",))
        yield Case("a mapping", source_facts(_GOOD))
        plain = _CLASS.replace("{keys}", '["lm_head.weight"]').replace("(PreTrainedModel)", "(nn.Module)")
        yield Case("a class of its own kind", source_facts(plain))


_MISSPELT = re.compile(r"_{0,2}(tied?_?(weights?|params?|parameters?)_?keys?|keys?_to_tie|tied_keys)")
_KNOWN_FLAG = "tie_word_embeddings"
_MISSPELT_FLAG = re.compile(r"tied?_words?_embeddings?|tie_word_embbedings?|tie_word_embeding")


class MisspeltTieDeclaration(Rule):
    """A declaration of a tie is misspelt, so that nothing reads it.

    ## What it does
    Finds class attributes such as `tied_weights_keys` and `_tied_weight_keys` in a class of transformers' models, and
    `tie_word_embedding=...` and its like where a config is made or changed, if nothing in the file reads that name.

    ## Why it is bad
    Python takes any name. The library reads `_tied_weights_keys` and `tie_word_embeddings` alone, so that the model is
    not tied, or stays tied, and nobody says so.

    ## How to mend it
    Write the name as the library has it.
    """

    code = "TIE804"
    name = "misspelt-tie-declaration"
    summary = "`tied_weights_keys`, `tie_word_embedding=` and their like: no library reads them"
    severity = "error"
    confidence = "medium"

    def check(self, sources: tuple[SourceFile, ...]) -> Iterator[Draft]:
        for file in sources:
            read = {word for word, is_read, _, _ in file.words if is_read}
            for owner in file.classes:
                used = {path.rpartition(".")[2] for method in owner.methods for path in method.reads}
                for name, line, column in owner.attributes if is_pretrained(file, owner) else ():
                    if name != "_tied_weights_keys" and _MISSPELT.fullmatch(name) and name not in used:
                        yield source_draft(
                            file,
                            (f"{owner.name}.{name}",),
                            (line, column),
                            f"{owner.name} declares {name}, which transformers does not read: it reads "
                            "_tied_weights_keys.",
                            "Rename it to _tied_weights_keys.",
                            "not read by any library",
                        )
            for name, is_read, line, column in file.words:
                if not is_read and name != _KNOWN_FLAG and _MISSPELT_FLAG.fullmatch(name) and name not in read:
                    yield source_draft(
                        file,
                        (name,),
                        (line, column),
                        f"{name} is set and never read here; the flag that libraries read is {_KNOWN_FLAG}.",
                        f"Rename it to {_KNOWN_FLAG}.",
                        "not read by any library",
                    )

    @staticmethod
    def cases() -> Iterator[Case]:
        for name in ("tied_weights_keys", "_tied_weight_keys"):
            text = _GOOD.replace("_tied_weights_keys", name)
            yield Case(name, source_facts(text), finds=("error",))
        yield Case("a flag", source_facts("config = LlamaConfig(tie_word_embedding=True)"), finds=("error",))
        yield Case("spelt right", source_facts(f"{_GOOD}\nconfig = LlamaConfig(tie_word_embeddings=True)"))
        own = "def build(tie_word_embedding):\n    return Model(tie_word_embedding=tie_word_embedding)\n"
        yield Case("a name of its own that it reads", source_facts(own))


class SelfMappedTieKey(Rule):
    """A name of `_tied_weights_keys` is mapped to itself.

    ## What it does
    Finds pairs whose name and source are one. (An embedding that takes the head's tensor is none: transformers 5.23
    loads a checkpoint of either name alone into both.)

    ## Why it is bad
    A name that is its own source ties nothing. transformers 5 builds and loads the model untied, with a random head
    where the checkpoint stores the embedding alone. Such a mapping is what scripts make of transformers 4's list.

    ## How to mend it
    Map the head to the embedding: `{"lm_head.weight": "model.embed_tokens.weight"}`.
    """

    code = "TIE805"
    name = "self-mapped-tie-key"
    summary = "a tied name mapped to itself ties nothing"
    severity = "error"
    threads = ("unslothai/unsloth#6540",)

    def check(self, sources: tuple[SourceFile, ...]) -> Iterator[Draft]:
        for file in sources:
            for owner in file.classes:
                keys = owner.keys
                for name, source in keys.pairs if keys is not None and keys.form == "mapping" else ():
                    if name == source and keys is not None:
                        yield source_draft(
                            file,
                            (name,),
                            (keys.line, keys.column),
                            f"{owner.name}._tied_weights_keys maps {name} to itself, which ties nothing.",
                            "Map it to the embedding's weight.",
                            "name and source are one",
                        )

    @staticmethod
    def cases() -> Iterator[Case]:
        itself = '{"lm_head.weight": "lm_head.weight"}'
        yield Case("itself", source_facts(_CLASS.replace("{keys}", itself)), finds=("error",))
        yield Case("the right way round", source_facts(_GOOD))
        turned = '{"model.embed_tokens.weight": "lm_head.weight"}'
        yield Case("the embedding takes the head's, which loads alike", source_facts(_CLASS.replace("{keys}", turned)))


class UnguardedTie(Rule):
    """A class of transformers' models ties by hand, whatever its config says.

    ## What it does
    Finds a constructor of a class of transformers' models that ties head and embedding outside of any `if`.

    ## Why it is bad
    The config's flag has a meaning for every other tool: with it false, or absent where false is the default, a saved
    head is expected in the checkpoint, `save_pretrained` refuses or drops it, and other loaders draw it at random.

    ## How to mend it
    Declare the pair in `_tied_weights_keys` and leave the tying to the library, or ask `config.tie_word_embeddings`.
    """

    code = "TIE808"
    name = "unguarded-tie"
    summary = "ties without asking the config"
    severity = "warning"
    confidence = "medium"

    def check(self, sources: tuple[SourceFile, ...]) -> Iterator[Draft]:
        for file in sources:
            for owner in file.classes:
                begun = owner.method("__init__")
                if not is_pretrained(file, owner) or begun is None:
                    continue
                for tie in ties_of(owner):
                    if tie in begun.events and not tie.branch:
                        yield event_draft(
                            file,
                            tie,
                            f"{owner.name} ties {tie.target} to {tie.source} whatever config.tie_word_embeddings says.",
                            "Declare it in _tied_weights_keys and leave the tying to post_init(), or put it under "
                            "`if config.tie_word_embeddings:`.",
                            "no condition",
                        )

    @staticmethod
    def cases() -> Iterator[Case]:
        embedding = "        self.wte = nn.Embedding(config.vocab_size, config.hidden_size)\n"
        tie = "self.lm_head.weight = self.wte.weight\n"
        yield Case("always", source_facts(f"{_GOOD}{embedding}        {tie}"), finds=("warning",))
        asked = f"{_GOOD}{embedding}        if config.tie_word_embeddings:\n            {tie}"
        yield Case("where the config says so", source_facts(asked))
        yield Case(
            "no class of transformers",
            source_facts(f"{_GOOD}{embedding}        {tie}".replace("(PreTrainedModel)", "(nn.Module)")),
        )


class PostInitMissing(Rule):
    """A class of transformers' models declares ties, and its constructor never calls `post_init()`.

    ## What it does
    Finds a class that derives from `PreTrainedModel` by bases of the same file, has `_tied_weights_keys` and a
    constructor, and calls `post_init()` (or `init_weights()`) nowhere in it.

    ## Why it is bad
    `post_init()` makes `all_tied_weights_keys` and ties. Without it the model is built untied, and `from_pretrained` of
    transformers 5 raises AttributeError.

    ## How to mend it
    End the constructor with `self.post_init()`.
    """

    code = "TIE814"
    name = "post-init-missing"
    summary = "declares ties and never calls `post_init()`"
    severity = "error"
    confidence = "medium"
    messages = ("object has no attribute 'all_tied_weights_keys'",)

    def check(self, sources: tuple[SourceFile, ...]) -> Iterator[Draft]:
        for file in sources:
            known = {owner.name: owner for owner in file.classes}
            for owner in file.classes:
                begun = owner.method("__init__")
                keys = owner.keys
                if begun is None or keys is None or not keys.pairs or not is_pretrained(file, owner):
                    continue
                line = [owner, *(known[base] for base in owner.lineage if base in known)]
                foreign = [b for b in owner.lineage if b not in known and "PreTrainedModel" not in b and b != "Module"]
                if any(_begins(one) for one in line) or any(b[:1].isupper() and "Mixin" not in b for b in foreign):
                    continue
                yield source_draft(
                    file,
                    (owner.name,),
                    (begun.line, begun.column),
                    f"{owner.name} declares _tied_weights_keys, and its constructor never calls post_init(): "
                    "the model is "
                    "built untied, and from_pretrained of transformers 5 raises AttributeError "
                    "(all_tied_weights_keys).",
                    "Call self.post_init() at the end of the constructor.",
                    "no post_init()",
                )

    @staticmethod
    def cases() -> Iterator[Case]:
        yield Case("missing", source_facts(_GOOD.replace("self.post_init()", "pass")), finds=("error",))
        yield Case("there", source_facts(_GOOD))
        published = _GOOD.replace("self.post_init()", "pass").replace("PreTrainedModel", "LlamaForCausalLM")
        yield Case("a base that calls it", source_facts(published))
        abstract = _GOOD.replace("self.post_init()", "pass").replace("def __init__(self, config)", "def build(self)")
        yield Case("no constructor of its own", source_facts(abstract))


def _begins(owner: ModuleClass) -> bool:
    """Tell whether a class's constructor calls what ties."""
    begun = owner.method("__init__")
    return begun is not None and any(name.rpartition(".")[2] in ("post_init", "init_weights") for name in begun.calls)


class EmptyTieWeights(Rule):
    """`tie_weights` is overridden with nothing, or so that transformers 5 cannot call it.

    ## What it does
    Finds a class with ties (its own `_tied_weights_keys`, or a published class with a head as its base) whose
    `tie_weights` does nothing, or takes no arguments.

    ## Why it is bad
    No call ties then, `model.tie_weights()` of the user neither. transformers 5 calls
    `tie_weights(recompute_mapping=False)`, and a method without arguments raises TypeError when the model is built.

    ## How to mend it
    Remove the override; or take `**kwargs` and begin with `super().tie_weights(**kwargs)`.
    """

    code = "TIE815"
    name = "empty-tie-weights"
    summary = "`tie_weights` overridden with nothing, or with a signature that transformers 5 cannot call"
    severity = "error"
    messages = ("tie_weights() got an unexpected keyword argument 'recompute_mapping'",)

    def check(self, sources: tuple[SourceFile, ...]) -> Iterator[Draft]:
        for file in sources:
            for owner in file.classes:
                method = owner.method("tie_weights")
                if method is None or not is_pretrained(file, owner):
                    continue
                ties = (owner.keys is not None and owner.keys.pairs) or any(PUBLISHED.search(b) for b in owner.lineage)
                said = _fault_of(method, bool(ties))
                if said:
                    yield source_draft(
                        file,
                        (f"{owner.name}.tie_weights",),
                        (method.line, method.column),
                        f"{owner.name}.tie_weights {said}.",
                        "Remove it, or write `def tie_weights(self, **kwargs)` with "
                        "super().tie_weights(**kwargs) as its "
                        "first line.",
                        "overrides the library's",
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
        whole = quant.format(more=", **kwargs", body="super().tie_weights(**kwargs)")
        yield Case("passed on", source_facts(whole))
        yield Case("another library's class", source_facts(nothing.replace("(LlamaForCausalLM)", "(nn.Module)")))
        named = quant.format(more=", missing_keys=None, recompute_mapping=True", body="super().tie_weights()")
        yield Case("the arguments by name", source_facts(named))


def _fault_of(method: Method, ties: bool) -> str:
    """Return what is wrong with an override; empty where nothing is."""
    callable_by_5 = method.raises or method.accepts or {"missing_keys", "recompute_mapping"} <= set(method.arguments)
    raises = "" if callable_by_5 else "takes no recompute_mapping, with which transformers 5 calls it: TypeError"
    if method.empty and ties:
        return f"does nothing, so that no call ties{', and it ' + raises if raises else ''}"
    return raises
