"""Calls and functions: what is given to which argument, what a closure reads, what a container is made of."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping

from tiecheck.source.paths import PARTS, Reached, called_name, dotted_name, reached_by, walked, weights_read

Function = ast.FunctionDef | ast.AsyncFunctionDef


def arguments_of(function: Function) -> list[ast.arg]:
    """Return the arguments of a function that have a place or a name, in order."""
    given = function.args
    return [*given.posonlyargs, *given.args, *given.kwonlyargs]


def writes_to(function: Function, given: Mapping[str, Reached | None]) -> bool:
    """Tell whether a function uses the parameter of a module that it was given, so that its text is for many calls."""
    used = (node.value for node in walked(function) if isinstance(node, ast.Attribute) and node.attr in PARTS)
    return any(isinstance(one, ast.Name) and given.get(one.id) is not None for one in used)


def closed_over(node: ast.AST, names: Mapping[str, Reached]) -> Iterator[str]:
    """Yield the paths of the parameters that a closure reads, each once: those of its own names are others."""
    parts = list(walked(node))
    own = {one.arg for one in parts if isinstance(one, ast.arg)}
    own |= {one.id for one in parts if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store)}
    yield from dict.fromkeys(weights_read(node, {name: found for name, found in names.items() if name not in own}))


def entries_of(value: ast.Call) -> list[tuple[str, ast.expr]]:
    """Return what a container of modules is given, by name or place."""
    given = [*value.args]
    if len(given) == 1 and isinstance(given[0], (ast.List, ast.Tuple)):
        given = given[0].elts
    entries: list[tuple[str, ast.expr]] = [(str(i), one) for i, one in enumerate(given)]
    if len(value.args) == 1 and isinstance(value.args[0], ast.Dict):
        pairs = zip(value.args[0].keys, value.args[0].values, strict=True)
        entries = [
            (key.value, one) for key, one in pairs if isinstance(key, ast.Constant) and isinstance(key.value, str)
        ]
    elif len(value.args) == 1 and called_name(value.args[0]) == "dict" and isinstance(value.args[0], ast.Call):
        entries = [(word.arg, word.value) for word in value.args[0].keywords if word.arg]
    return entries


def given_to(function: Function, call: ast.Call, names: Mapping[str, Reached]) -> dict[str, Reached | None]:
    """Return what each argument of a function stands for in a call of it; None for what is no path."""
    static = any(dotted_name(one) == "staticmethod" for one in function.decorator_list)
    method = called_name(call).startswith("self.") and not static
    arguments = [one.arg for one in (*function.args.posonlyargs, *function.args.args)][method:]
    spread = any(isinstance(one, ast.Starred) for one in call.args)
    placed = [] if spread else list(zip(arguments, call.args, strict=False))
    named = [(word.arg, word.value) for word in call.keywords if word.arg]
    found: dict[str, Reached | None] = dict.fromkeys([*arguments, *(one.arg for one in function.args.kwonlyargs)])
    return {**found, **{name: reached_by(value, names) for name, value in (*placed, *named)}}


EXPRESSIONS = ("value", "test", "iter", "exc")
"""Fields of a statement that are expressions of its own."""


def calls_of(node: ast.stmt) -> Iterator[ast.Call]:
    """Yield the calls in a statement itself, outermost first, and not those in blocks under it."""
    waiting = [value for value in map(node.__dict__.get, EXPRESSIONS) if isinstance(value, ast.AST)]
    waiting += [item.context_expr for item in getattr(node, "items", ())]
    for child in waiting:  # grows as it goes
        if isinstance(child, ast.Call):
            yield child
            waiting += [child.func, *child.args, *(word.value for word in child.keywords)]
        elif isinstance(child, ast.Attribute):
            waiting.append(child.value)
        elif not isinstance(child, (ast.Lambda, ast.Name, ast.Constant)):
            waiting += ast.iter_child_nodes(child)
