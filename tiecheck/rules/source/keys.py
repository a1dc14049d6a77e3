"""TIE803, TIE804, TIE805: what a class of transformers declares of its ties."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import islice

from tiecheck.records.edits import Edit, source_step
from tiecheck.records.source import ModuleClass, SourceFile, TiedKeys
from tiecheck.rules.base import Case, Draft, Rule
from tiecheck.rules.source.rewrites import MORE, renamed
from tiecheck.rules.source.sightings import (
    DECLARING,
    TIED_CLASS,
    class_of_path,
    classes_in,
    derives_from_theirs,
    may_hold_weight,
    module_of,
    outside_of_4,
    source_draft,
    source_facts,
)

MOST = 1_000
"""Ties of a class and its parts that are looked at."""

DEPTH = 3
"""Classes of the file that are looked through within one another for what they build and tie."""


class ListTiedWeightsKeys(Rule):
    """`_tied_weights_keys` is a list, and transformers 5 needs a mapping.

    ## What it does
    Finds a list (also an empty one) of names as `_tied_weights_keys` in a class of transformers' models.

    ## Why it is bad
    transformers 4 took a list of the names that are tied. transformers 5 maps each to the name that it takes its tensor
    from, and a class with a list raises when it is built or loaded with `tie_word_embeddings` true.

    ## How to fix it
    Write `{"lm_head.weight": "model.embed_tokens.weight"}`: each name and its source.
    """

    code = "TIE803"
    summary = "a list in `_tied_weights_keys`, where transformers 5 needs a mapping"
    severity = "warning"
    messages = ("'list' object has no attribute 'keys'",)

    def check(self, sources: tuple[SourceFile, ...]) -> Iterator[Draft]:
        for file, owner in classes_in(outside_of_4(sources)):
            if owner.keys is None or owner.keys.form != "list" or not derives_from_theirs(file, owner):
                continue
            names = tuple(name for name, _ in owner.keys.pairs)
            yield source_draft(
                file,
                names or (owner.name,),
                (owner.keys.line, owner.keys.column),
                f"{owner.name} lists its tied names. transformers 5 needs a mapping of each to its source, and raises "
                "AttributeError: 'list' object has no attribute 'keys' where the flag is true.",
                f"what {' and '.join(names)} is tied to is not told in the file, and a mapping has to name it.",
                "a list",
                mapped_keys(file, owner, owner.keys),
            )

    @staticmethod
    def cases() -> Iterator[Case]:
        yield Case("a list", source_facts(DECLARING.replace("{keys}", '["lm_head.weight"]')), finds=("warning",))
        yield Case("an empty list", source_facts(DECLARING.replace("{keys}", "[]")), finds=("warning",))
        yield Case("a mapping", source_facts(TIED_CLASS))
        library = DECLARING.replace("from transformers", "from ...modeling_utils").replace(
            "{keys}", '["lm_head.weight"]'
        )
        yield Case("transformers 4 itself", source_facts(library))
        plain = DECLARING.replace("{keys}", '["lm_head.weight"]').replace("(PreTrainedModel)", "(nn.Module)")
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

    ## How to fix it
    Write the name as the library has it.
    """

    code = "TIE804"
    summary = "`tied_weights_keys`, `tie_word_embedding=` and their like: no library reads them"
    severity = "error"
    confidence = "medium"

    def check(self, sources: tuple[SourceFile, ...]) -> Iterator[Draft]:
        for file in sources:
            read = {word for word, is_read, _, _ in file.words if is_read}
            for owner in file.classes:
                used = {path.rpartition(".")[2] for method in owner.methods for path in method.reads}
                for name, line, column, statement in owner.attributes if derives_from_theirs(file, owner) else ():
                    if name != "_tied_weights_keys" and _MISSPELT.fullmatch(name) and name not in used:
                        yield source_draft(
                            file,
                            (f"{owner.name}.{name}",),
                            (line, column),
                            f"{owner.name} declares {name}, which transformers does not read: it reads "
                            "_tied_weights_keys.",
                            "the class has _tied_weights_keys as well, and which of the two is meant is not told.",
                            "not read by any library",
                            ()
                            if owner.keys
                            else renamed(file, owner.name, name, "_tied_weights_keys", line, statement),
                        )
            for name, is_read, line, column in file.words:
                if not is_read and name != _KNOWN_FLAG and _MISSPELT_FLAG.fullmatch(name) and name not in read:
                    yield source_draft(
                        file,
                        (name,),
                        (line, column),
                        f"{name} is set and never read here; the flag that libraries read is {_KNOWN_FLAG}.",
                        MORE,
                        "not read by any library",
                        renamed(file, "", name, _KNOWN_FLAG, line),
                    )

    @staticmethod
    def cases() -> Iterator[Case]:
        for name in ("tied_weights_keys", "_tied_weight_keys"):
            text = TIED_CLASS.replace("_tied_weights_keys", name)
            yield Case(name, source_facts(text), finds=("error",))
        yield Case("a flag", source_facts("config = LlamaConfig(tie_word_embedding=True)"), finds=("error",))
        yield Case("spelt right", source_facts(f"{TIED_CLASS}\nconfig = LlamaConfig(tie_word_embeddings=True)"))
        own = "def build(tie_word_embedding):\n    return Model(tie_word_embedding=tie_word_embedding)\n"
        yield Case("a name of its own that it reads", source_facts(own))


class SelfMappedTieKey(Rule):
    """A name of `_tied_weights_keys` is mapped to itself.

    ## What it does
    Finds pairs whose name and source are one. (An embedding that takes the head's tensor is no such pair: transformers
    5.23 loads a checkpoint of either name alone into both.)

    ## Why it is bad
    A name that is its own source ties nothing. transformers 5 builds and loads the model untied, with a random head
    where the checkpoint stores the embedding alone. Such a mapping is what scripts make of transformers 4's list.

    ## How to fix it
    Map the head to the embedding: `{"lm_head.weight": "model.embed_tokens.weight"}`.
    """

    code = "TIE805"
    summary = "a tied name mapped to itself ties nothing"
    severity = "error"
    threads = "unslothai/unsloth#6540"

    def check(self, sources: tuple[SourceFile, ...]) -> Iterator[Draft]:
        for file, owner in classes_in(sources):
            keys = owner.keys
            for name, source in keys.pairs if keys is not None and keys.form == "mapping" else ():
                if name == source and keys is not None:
                    yield source_draft(
                        file,
                        (name,),
                        (keys.line, keys.column),
                        f"{owner.name}._tied_weights_keys maps {name} to itself, which ties nothing.",
                        f"what {name} is tied to is not told in the file, and the mapping has to name it.",
                        "name and source are one",
                        mapped_keys(file, owner, keys),
                    )

    @staticmethod
    def cases() -> Iterator[Case]:
        itself = '{"lm_head.weight": "lm_head.weight"}'
        yield Case("itself", source_facts(DECLARING.replace("{keys}", itself)), finds=("error",))
        told = DECLARING.replace("{keys}", itself) + "        self.embed_tokens = nn.Embedding(8, 4)\n"
        yield Case("itself, beside an embedding", source_facts(told), finds=("error",))
        yield Case("the right way round", source_facts(TIED_CLASS))
        turned = '{"model.embed_tokens.weight": "lm_head.weight"}'
        yield Case(
            "the embedding takes the head's, which loads alike", source_facts(DECLARING.replace("{keys}", turned))
        )


def mapped_keys(file: SourceFile, owner: ModuleClass, keys: TiedKeys) -> tuple[Edit, ...]:
    """Return the way to map each tied name that has no source to its own; none where the file does not tell one."""
    pairs = [
        _pair_of(file, owner, name.replace("\\.", ".")) if name == source else (name, source)
        for name, source in keys.pairs
    ]
    found = [pair for pair in pairs if pair is not None]
    if not keys.statement or len(found) < len(pairs) or {name for name, _ in found} & {source for _, source in found}:
        return ()
    code = _as_mapping(keys.statement, found)
    if code is None:
        return ()
    step = source_step(owner.name, code, keys.statement, file=file.path, line=keys.line)
    return (Edit("mapped", None, True, (step,)),)


def _as_mapping(statement: str, pairs: list[tuple[str, str]]) -> str | None:
    """Return an assignment of a list, or of a mapping, as one of a mapping, everything between its entries kept."""
    node = ast.parse(statement).body[0]
    if not isinstance(node, ast.Assign) or not isinstance(node.value, (ast.List, ast.Tuple, ast.Set, ast.Dict)):
        return None
    entries = node.value.values if isinstance(node.value, ast.Dict) else node.value.elts
    if len(entries) != len(pairs):
        return None
    text, starts = statement.encode(), [0]
    for line in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))

    def span(part: ast.expr) -> tuple[int, int]:
        last, end = part.end_lineno or part.lineno, part.end_col_offset or 0
        return starts[part.lineno - 1] + part.col_offset, starts[last - 1] + end

    start, end = span(node.value)
    if text[start : start + 1] not in b"[({":
        return None
    made, at = text[:start] + b"{", start + 1
    for part, (name, source) in zip(entries, pairs, strict=True):
        first, last = span(part)
        quote = "'" if text[first:last].rstrip().endswith(b"'") else '"'
        key = "" if isinstance(node.value, ast.Dict) else f"{quote}{name}{quote}: "
        made, at = made + text[at:first] + f"{key}{quote}{source}{quote}".encode(), last
    rest = text[at : end - 1]
    if isinstance(node.value, ast.Tuple) and len(pairs) == 1 and rest.strip() == b"," and b"\n" not in rest:
        rest = b""
    return (made + rest + b"}" + text[end:]).decode()


def _pair_of(file: SourceFile, owner: ModuleClass, listed: str) -> tuple[str, str] | None:
    """Return the full name of a listed one (4.x searched for it anywhere in a name) and the source of its tensor."""
    built = dict((*owner.built, *owner.parts))
    for target, source in islice(_ties_under(file, owner), MOST):
        if target == listed or target.endswith(f".{listed}"):
            return target, source
    output = _told_path(file, owner, "get_output_embeddings") or ("lm_head" if "lm_head" in built else "")
    table = _told_path(file, owner, "get_input_embeddings") or next(
        (path for path in ("embed_tokens", "embeddings.embed_tokens", "model.embed_tokens") if path in built), ""
    )  # in this order EmbeddingAccessMixin of transformers 5.23 looks; then it asks the inner model's own getter
    known = {one.name: one for one in file.classes}
    if not table:
        held = {path: known.get(name.rpartition(".")[2]) for path, name in owner.built}
        inner = {path: _told_path(file, one, "get_input_embeddings") for path, one in held.items() if one is not None}
        told = [f"{path}.{name}" for path, name in inner.items() if name]
        table = told[0] if len(told) == 1 else ""
    wrapper = known.get(class_of_path(owner, table))  # an `embed_tokens` that holds the table, and is none itself
    if wrapper is not None and not any("Embedding" in base for base in wrapper.lineage):
        return None
    named = bool(output and table) and output != table and f".{output}.weight".endswith(f".{listed}")
    if named and all(may_hold_weight(file, owner, path) for path in (output, table)):
        return f"{output}.weight", f"{table}.weight"
    return None


def _told_path(file: SourceFile, owner: ModuleClass, getter: str, depth: int = 0) -> str:
    """Return the path that a getter of a class, or of a base in the file, returns; empty where that is not seen."""
    known = {one.name: one for one in file.classes}
    line = [owner, *(known[base] for base in owner.lineage if base in known)]
    method = next((method for one in line if (method := one.method(getter))), None)
    path = method.returns if method is not None else ""
    if path.endswith(f"{getter}()") and depth < DEPTH:
        inner = path.removesuffix(f".{getter}()")
        held = known.get(class_of_path(owner, inner))
        told = _told_path(file, held, getter, depth + 1) if held and inner != path else ""
        return f"{inner}.{told}" if told else ""
    return path


def _ties_under(file: SourceFile, owner: ModuleClass, depth: int = 0) -> Iterator[tuple[str, str]]:
    """Yield target and source of each parameter that a class of the file, or a part of it, takes from another."""
    known = {one.name: one for one in file.classes}
    built = dict((*owner.built, *owner.parts))
    for event in (e for method in owner.methods for e in method.events if e.kind == "share"):
        if all(path in built or module_of(path) in built for path in (event.target, event.source)):
            yield event.target, event.source
    for path, name in owner.built:
        part = known.get(name.rpartition(".")[2])
        if part is not None and depth < DEPTH:
            yield from ((f"{path}.{a}", f"{path}.{b}") for a, b in _ties_under(file, part, depth + 1))
