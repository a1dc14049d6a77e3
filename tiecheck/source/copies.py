"""Layers that are made by deep copies of one, and what that one was handed."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping

from tiecheck.records.source import CopiedLayer, ModuleClass
from tiecheck.source.calls import Function
from tiecheck.source.paths import Lines, called_name, copied_each, dotted_name, text_of, walked

COPYING = frozenset({"TransformerEncoder", "TransformerDecoder"})
"""Classes of `torch.nn` that deep-copy the layer they are given (torch 2.13, `nn/modules/transformer.py`)."""


def copied_layers(
    owners: Iterable[ast.ClassDef | Function], classes: tuple[ModuleClass, ...], lines: Lines
) -> Iterator[CopiedLayer]:
    """Yield the layers of a file that are deep-copied, once for each module that they were handed and hold."""
    known = {one.name: one for one in classes}
    methods = [(child, node.name) for node in owners if isinstance(node, ast.ClassDef) for child in node.body]
    functions = [(child, name) for child, name in methods if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef))]
    functions += [(node, "") for node in owners if not isinstance(node, ast.ClassDef)]
    copying = {node.name: set(_copied_arguments(node)) for node in owners if isinstance(node, ast.ClassDef)}
    for function, name in functions:
        built = dict(known[name].built) if name else {}
        local = _built_locals(function)
        for site, part in _copies(function, copying, known):
            layer = local.get(part.id) if isinstance(part, ast.Name) else part
            held = known.get(called_name(layer).rpartition(".")[2]) if isinstance(layer, ast.Call) else None
            if held is None or not isinstance(layer, ast.Call):
                continue
            for given in (arg for arg, target in _bound(layer, held) if target in _held_arguments(held)):
                own = dotted_name(given).partition(".")[2] if dotted_name(given).startswith("self.") else ""
                made = built.get(own) or called_name(local.get(dotted_name(given), given))
                if made:
                    place = (site.lineno, site.col_offset + 1)
                    yield CopiedLayer(held.name, text_of(given, lines), made, bool(own), *place)


def _built_locals(function: Function) -> dict[str, ast.Call]:
    """Return the local names that are made of a class, each with the call."""
    return {
        node.targets[0].id: node.value
        for node in walked(function)
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Call)
        and called_name(node.value).rpartition(".")[2][:1].isupper()
    }


def _copied_arguments(node: ast.ClassDef) -> Iterator[str]:
    """Yield the arguments of a class's constructor that it deep-copies many times."""
    begun = (child for child in node.body if isinstance(child, ast.FunctionDef) and child.name == "__init__")
    for child in (one for function in begun for one in walked(function)):
        part = copied_each(child)
        if isinstance(part, ast.Name):
            yield part.id


def _copies(
    function: Function, copying: Mapping[str, set[str]], known: Mapping[str, ModuleClass]
) -> Iterator[tuple[ast.expr, ast.expr]]:
    """Yield the expressions of a function that deep-copy a module many times, each with that module."""
    for node in walked(function):
        if not isinstance(node, (ast.Call, ast.ListComp, ast.GeneratorExp)):
            continue
        part = copied_each(node)
        if part is not None:
            yield node, part
        elif isinstance(node, ast.Call):
            last = called_name(node).rpartition(".")[2]
            if last in known:
                yield from ((node, arg) for arg, name in _bound(node, known[last]) if name in copying[last])
            elif last in COPYING and node.args:
                yield node, node.args[0]


def _bound(call: ast.Call, owner: ModuleClass) -> list[tuple[ast.expr, str]]:
    """Return what a call hands to a class's constructor, with the name of each argument."""
    begun = owner.method("__init__")
    names = begun.arguments[1:] if begun is not None else ()
    plain = [arg for arg in call.args if not isinstance(arg, ast.Starred)]
    return [*zip(plain, names, strict=False), *((word.value, word.arg) for word in call.keywords if word.arg)]


def _held_arguments(owner: ModuleClass) -> set[str]:
    """Return the arguments of a class's constructor that it keeps as they are, as modules of its own."""
    begun = owner.method("__init__")
    if begun is None:
        return set()
    return {e.source for e in begun.events if e.kind == "alias" and e.source in begun.arguments}
