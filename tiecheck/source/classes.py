"""A parsed file as records: its classes with their events, and the loose calls of its functions."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from itertools import chain, islice

from tiecheck.records.source import LooseCall, ModuleClass, Repeated, SourceFile, TiedKeys
from tiecheck.source.calls import Function, arguments_of
from tiecheck.source.copies import copied_layers
from tiecheck.source.flow import Flow
from tiecheck.source.methods import read_method
from tiecheck.source.paths import Lines, Reached, called_name, dotted_name, text_of, walked

KEYS = "_tied_weights_keys"
PARTS = 1_000
"""Modules of a class's bases and parts that are kept of one class; those of real models are a few dozen."""

DEPTH = 3
"""Classes of the file that are looked through within one another for what they build."""

FLAG_LIKE = re.compile(r"tie(?<!\wtie)(?!_word_embeddings\b)d?_words?_emb\w+")
"""Names that may be meant as `tie_word_embeddings`; what begins with letters is searched for ten times as fast."""

LISTED = re.compile(r"tied_weights?_keys\w*\s*=\s*[\[(]|([\"'][\w.]+[\"'])\s*:\s*\1")
"""Text of tied names without a source: each class of the file may then tell where one takes its tensor from."""

CLONING = re.compile(r"clones\(|deepcopy\([\w.]+\)\s+for |Transformer(En|De)coder\(")
"""Text without which no layer is deep-copied many times."""

TIMES = re.compile(r"\)\s*\]\s*\*|\*\s*\[\s*\w+[.(]")
"""Text without which no `[Thing()] * n` is written."""

NOTED = re.compile(
    r"(?i)#[^\n]*\b(?:tie[sd]?|tying|shar(?:e[sd]?|ing))\b[^\n]*(?:\n[ \t]*(?:#[^\n]*|with\b[^\n#]*:)(?=\n))*"
)
"""A comment that speaks of a tie, with the rest of it and the `with` of a block below it."""

DENIED = re.compile(r"(?i)\bno(?!_grad)|n't|\bun|instead|break")
"""Words of a comment that speaks of a tie which is not to be."""

TELLING = re.compile(
    rb"\.weight\b|tie|tying|Embedding\(|post_init|to_empty|assign=True|deepcopy|_get_clones|partial\(|_keys\b|lambda"
    rb"|apply\(|init_weights|\.init\."
)
"""Text without one of which a class or function has nothing to do with ties."""


def read_tree(
    path: str, text: str, tree: ast.Module, ignores: tuple[tuple[int, tuple[str, ...], bool], ...]
) -> SourceFile:
    """Return the records of a parsed file.

    Only what the text of a class or function lets expect is walked: most of a modeling file has nothing to do with
    ties.
    """
    lines = text.encode().splitlines(keepends=True)
    times = tuple(_repeated(tree, lines)) if TIMES.search(text) else ()
    cloning = CLONING.search(text) is not None
    every = bool(times) or cloning or ("tied_weight" in text and LISTED.search(text) is not None)
    classes, functions = _definitions(tree)
    bases = {node.name: tuple(filter(None, map(_base_name, node.bases))) for node in classes}
    told = [node for node in functions if TELLING.search(_text_of(node, lines))]
    events = []
    for function in told:
        flow = Flow({}, {argument.arg: Reached(argument.arg, ()) for argument in arguments_of(function)}, lines)
        flow.run(function.body)
        events += flow.events
    whole = tuple(
        _class_of(node, bases, lines, whole=every or TELLING.search(_text_of(node, lines)) is not None)
        for node in classes
    )
    known = {one.name: one for one in whole}
    whole = tuple(one._replace(parts=tuple(islice(_parts_of(one, known), PARTS))) for one in whole)
    return SourceFile(
        path=path,
        imports=tuple(_imported(tree)),
        classes=whole,
        events=tuple(events),
        calls=tuple(call for function in told for call in _loose_calls(function, lines)),
        times=times,
        copied=tuple(copied_layers((*classes, *functions), whole, lines)) if cloning else (),
        words=tuple(_flag_words(tree)) if FLAG_LIKE.search(text) else (),
        ignores=ignores,
        notes=tuple(_noted(text)),
    )


def _noted(text: str) -> Iterator[int]:
    """Yield the lines of comments that speak of a tie, and of the `with` below them."""
    for found in NOTED.finditer(text):
        if not DENIED.search(found[0]):
            first = text.count("\n", 0, found.start()) + 1
            yield from range(first, first + found[0].count("\n") + 1)


def _imported(tree: ast.Module) -> Iterator[str]:
    """Yield the modules that a file imports from at its top, and under an `if` or `try` there."""
    waiting: list[ast.stmt] = [*tree.body]
    for node in waiting:  # grows as it goes
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")
        elif isinstance(node, (ast.If, ast.Try)):
            waiting += [*node.body, *node.orelse]


def _text_of(node: ast.ClassDef | Function, lines: Lines) -> bytes:
    return b"".join(lines[node.lineno - 1 : node.end_lineno])


def parameter_times(tree: ast.AST) -> Iterator[tuple[ast.BinOp, str]]:
    """Yield every `[Thing(...)] * n` of a tree, with the class whose one object stands many times."""
    for node in walked(tree):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
            for side in (node.left, node.right):
                if isinstance(side, ast.List) and len(side.elts) == 1 and isinstance(side.elts[0], ast.Call):
                    name = dotted_name(side.elts[0].func)
                    if name.rpartition(".")[2][:1].isupper():
                        yield node, name


def _repeated(tree: ast.Module, lines: Lines) -> Iterator[Repeated]:
    for node, name in parameter_times(tree):
        held, count = (node.left, node.right) if isinstance(node.left, ast.List) else (node.right, node.left)
        element = text_of(held.elts[0], lines) if isinstance(held, ast.List) else ""
        whole, number = text_of(node, lines), text_of(count, lines)
        yield Repeated(name, node.lineno, node.col_offset + 1, whole, element, number)


def _definitions(tree: ast.Module) -> tuple[list[ast.ClassDef], list[Function]]:
    """Return all classes, and the functions that are no methods, in the order of the file."""
    classes: list[ast.ClassDef] = []
    functions: list[Function] = []
    waiting: list[tuple[ast.AST, bool]] = [(tree, False)]
    while waiting:
        node, in_class = waiting.pop()
        if isinstance(node, ast.ClassDef):
            classes.append(node)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and not in_class:
            functions.append(node)
        if "body" not in node._fields:  # most statements hold no other
            continue
        blocks = (getattr(node, name, ()) for name in ("body", "orelse", "handlers", "finalbody"))
        inside = isinstance(node, ast.ClassDef)
        waiting += [(child, inside) for block in blocks if isinstance(block, list) for child in reversed(block)]
    return classes, functions


def _base_name(node: ast.expr) -> str:
    return dotted_name(node.value if isinstance(node, ast.Subscript) else node)


def _class_of(node: ast.ClassDef, bases: Mapping[str, tuple[str, ...]], lines: Lines, *, whole: bool) -> ModuleClass:
    body = node.body if whole else ()
    functions = {child.name: child for child in body if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef))}
    methods = tuple(read_method(name, function, functions, lines) for name, function in functions.items())
    keys, attributes = None, []
    for child in node.body:
        if isinstance(child, (ast.Assign, ast.AnnAssign)) and child.value is not None:
            targets = child.targets if isinstance(child, ast.Assign) else [child.target]
            for name in (target.id for target in targets if isinstance(target, ast.Name)):
                attributes.append((name, child.lineno, child.col_offset + 1, text_of(child, lines)))
                keys = _tied_keys(child.value, child, lines) if name == KEYS else keys
    begun = next((one for name in ("__init__", "__post_init__") for one in methods if one.name == name), None)
    return ModuleClass(
        name=node.name,
        line=node.lineno,
        column=node.col_offset + 1,
        bases=bases[node.name],
        lineage=_lineage(node.name, bases),
        keys=keys,
        attributes=tuple(attributes),
        methods=methods,
        built=tuple((e.target, e.source) for e in (begun.events if begun else ()) if e.kind == "build"),
    )


def _parts_of(owner: ModuleClass, known: Mapping[str, ModuleClass], depth: int = 0) -> Iterator[tuple[str, str]]:
    """Yield path and class of what the bases of a class build, where it leaves that to them, and its parts."""
    begun = owner.method("__init__")
    if begun is None or "super().__init__" in begun.calls:
        for base in (known[name] for name in owner.lineage if name in known):
            yield from base.built
    for path, name in owner.built:
        part = known.get(name.rpartition(".")[2])
        if part is not None and depth < DEPTH:
            yield from ((f"{path}.{inner}", cls) for inner, cls in chain(part.built, _parts_of(part, known, depth + 1)))


def _lineage(name: str, bases: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Return the names of all bases that the file tells of, nearest first."""
    found: list[str] = []
    waiting = [*bases.get(name, ())]
    while waiting and len(found) < 100:
        last = waiting.pop(0).rpartition(".")[2]
        if last not in found and last != name:
            found.append(last)
            waiting += bases.get(last, ())
    return tuple(found)


def _tied_keys(node: ast.expr, place: ast.stmt, lines: Lines) -> TiedKeys:
    line, column, text = place.lineno, place.col_offset + 1, text_of(place, lines)
    if isinstance(node, (ast.List, ast.Tuple, ast.Set)):
        names = [one.value for one in node.elts if isinstance(one, ast.Constant) and isinstance(one.value, str)]
        whole = len(names) == len(node.elts)
        return TiedKeys("list", tuple((name, name) for name in names), line, column, text if whole else "")
    if isinstance(node, ast.Dict):
        pairs = [
            (key.value, value.value)
            for key, value in zip(node.keys, node.values, strict=True)
            if isinstance(key, ast.Constant) and isinstance(value, ast.Constant)
        ]
        return TiedKeys("mapping", tuple((str(key), str(value)) for key, value in pairs), line, column, text)
    none = isinstance(node, ast.Constant) and node.value is None
    return TiedKeys("none" if none else "other", (), line, column, text)


def _loose_calls(function: Function, lines: Lines) -> Iterator[LooseCall]:
    """Yield the calls of a function that take a module's parameters apart, with what ties them after it."""
    classes: dict[str, str] = {}
    calls: list[tuple[ast.Call, str]] = []
    for node in walked(function):
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            built = called_name(node.value).rpartition(".")[2]
            if built[:1].isupper():
                classes[node.targets[0].id] = built
        if isinstance(node, ast.Call):
            calls.append((node, called_name(node)))
    ties = [node.lineno for node, name in calls if "tie" in name.rpartition(".")[2]]
    ties += [
        node.lineno
        for node in walked(function)
        if isinstance(node, ast.Assign)
        and any(isinstance(target, ast.Attribute) and target.attr == "weight" for target in node.targets)
    ]
    for node, name in calls:
        root, _, last = name.rpartition(".")
        assigns = any(
            word.arg == "assign" and isinstance(word.value, ast.Constant) and word.value.value is True
            for word in node.keywords
        )
        if root and ((last == "to_empty" and _on_meta(function)) or (last == "load_state_dict" and assigns)):
            tied = any(line > node.lineno for line in ties)
            here = (one for one in walked(function) if isinstance(one, (ast.Expr, ast.Assign)) and one.value is node)
            text = next((text_of(one, lines) for one in here), "")
            yield LooseCall(last, root, classes.get(root, ""), tied, node.lineno, node.col_offset + 1, text)  # type: ignore[arg-type]


def _on_meta(function: Function) -> bool:
    """Tell whether a function builds on meta: from another device `to_empty()` keeps each `Parameter` (torch 2.13)."""
    return any(
        (isinstance(node, ast.Constant) and node.value == "meta")
        or (isinstance(node, ast.Call) and called_name(node).rpartition(".")[2] == "init_empty_weights")
        for node in walked(function)
    )


def _flag_words(tree: ast.Module) -> Iterator[tuple[str, bool, int, int]]:
    """Yield names that look like a tie flag: the name, whether it is read there, line, column."""
    for node in walked(tree):
        found: list[tuple[str, bool, int, int]] = []
        if isinstance(node, ast.keyword) and node.arg:
            found = [(node.arg, False, node.lineno, node.col_offset + 1)]
        elif isinstance(node, ast.Attribute):
            found = [(node.attr, isinstance(node.ctx, ast.Load), node.lineno, node.col_offset + 1)]
        elif isinstance(node, ast.arg):
            found = [(node.arg, True, node.lineno, node.col_offset + 1)]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value) < 40:
            found = [(node.value, True, node.lineno, node.col_offset + 1)]
        for word in found:
            if FLAG_LIKE.fullmatch(word[0]):
                yield word
