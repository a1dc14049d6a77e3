"""The lines that fix a finding on a source, as edits: each says what stands in the file and what has to."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import islice

from tiecheck.records.edits import Edit, Step, source_step
from tiecheck.records.source import Event, Method, ModuleClass, SourceFile, TiedKeys
from tiecheck.rules.source.sightings import class_of_path, module_of

MOST = 1_000
"""Ties of a class and its parts that are looked at."""

DEPTH = 3
"""Classes of the file that are looked through within one another for what they build and tie."""


def _edit(choice: str, *steps: Step, when: str | None = None, safe: bool = True) -> tuple[Edit, ...]:
    return (Edit(choice, when, safe, steps),)


def shared_instead(file: SourceFile, owner: ModuleClass, event: Event, *, safe: bool) -> tuple[Edit, ...]:
    """Return the way to assign the parameter itself."""
    if not event.sides or not event.sides[0].endswith(".weight"):
        return ()
    code = " = ".join(event.sides)
    return _edit("shared", source_step(owner.name, code, event.statement, file=file.path, line=event.line), safe=safe)


def unaliased(file: SourceFile, owner: ModuleClass, event: Event) -> tuple[Edit, ...]:
    """Return the ways to share a weight where its module was: sure where a linear layer stands there before."""
    if not event.sides:
        return ()
    code = " = ".join(f"{side}.weight" for side in event.sides)
    step = source_step(owner.name, code, event.statement, file=file.path, line=event.line)
    if "Linear" in class_of_path(owner, event.target):
        begun = owner.method("__init__")
        places = [e for e in begun.events if e.kind == "build" and e.target == event.target] if begun else []
        within = event.branch if begun and event in begun.events else ()
        before = any(e.branch == within[: len(e.branch)] and "Linear" in e.source for e in places)
        return _edit("weight", step) if before else ()
    gone = source_step(owner.name, None, event.statement, file=file.path, line=event.line)
    head, table = event.sides
    return (
        *_edit("weight", step, when=f"{head} is a linear layer of its own by then"),
        *_edit("removed", gone, when=f"forward multiplies by {table}.weight and does not call {head}"),
    )


def turned_round(file: SourceFile, owner: ModuleClass, tie: Event) -> tuple[Edit, ...]:
    """Return the way to keep the linear layer's draw; else to draw the tensor anew."""
    if not tie.sides:
        return ()
    code = " = ".join(tie.sides[::-1])
    named = all(side.endswith(".weight") for side in tie.sides)  # a local name cannot take the other's place
    if not named or class_of_path(owner, module_of(tie.target)) != "Linear":
        code = f"{tie.statement}\n{tie.sides[1]}.data.normal_(mean=0.0, std=0.02)"
    return _edit("drawn", source_step(owner.name, code, tie.statement, file=file.path, line=tie.line))


def renamed(  # noqa: PLR0913, PLR0917  # two names, and the place of one
    file: SourceFile, owner: str, name: str, right: str, line: int, statement: str = ""
) -> tuple[Edit, ...]:
    """Return the way to spell a name right, in a class attribute's statement or where it stands alone."""
    code = re.sub(rf"^{name}\b", right, statement) if statement else right
    return _edit("renamed", source_step(owner, code, statement or name, file=file.path, line=line))


def one_each(file: SourceFile, line: int, expression: str, element: str, count: str) -> tuple[Edit, ...]:
    """Return the way to build one module each, which gives the model more parameters than it had."""
    code = f"[{element} for _ in range({count})]"
    return _edit("one-each", source_step("", code, expression, file=file.path, line=line), safe=False)


def begun_at_end(file: SourceFile, owner: ModuleClass, begun: Method) -> tuple[Edit, ...]:
    """Return the way to end a constructor with `post_init()`."""
    code = f"{begun.arguments[0]}.post_init()"
    return _edit("begun", source_step(owner.name, code, method=begun.name, file=file.path, line=begun.line))


def mapped_keys(file: SourceFile, owner: ModuleClass, keys: TiedKeys) -> tuple[Edit, ...]:
    """Return the way to map each tied name of a list to its source; none where the file does not tell a source."""
    pairs = [_pair_of(file, owner, name.replace("\\.", ".")) for name, _ in keys.pairs]
    found = [pair for pair in pairs if pair is not None]
    if not keys.statement or len(found) < len(pairs) or {name for name, _ in found} & {source for _, source in found}:
        return ()
    code = _as_mapping(keys.statement, found)
    if code is None:
        return ()
    return _edit("mapped", source_step(owner.name, code, keys.statement, file=file.path, line=keys.line))


def _as_mapping(statement: str, pairs: list[tuple[str, str]]) -> str | None:
    """Return an assignment of a list as one of a mapping, everything between its entries kept."""
    node = ast.parse(statement).body[0]
    if not isinstance(node, ast.Assign) or not isinstance(node.value, (ast.List, ast.Tuple, ast.Set)):
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
    for part, (name, source) in zip(node.value.elts, pairs, strict=True):
        first, last = span(part)
        quote = "'" if text[first:last].rstrip().endswith(b"'") else '"'
        made, at = made + text[at:first] + f"{quote}{name}{quote}: {quote}{source}{quote}".encode(), last
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
    )  # in this order EmbeddingAccessMixin of transformers 5.23 looks
    if output and table and output != table and f".{output}.weight".endswith(f".{listed}"):
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
