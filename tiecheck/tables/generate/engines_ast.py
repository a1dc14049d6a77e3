"""Reading classes of an engine's source tree without importing it: classes by name, bases, methods, conditions."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

FLAG = "tie_word_embeddings"


class Unrecognised(Exception):  # noqa: N818 - a reason, not a failure
    """A pattern that the reader does not know; its text is the reason of an `unknown`."""


class Class(NamedTuple):
    """One class of the tree."""

    name: str
    """Its name."""
    module: Module
    """The file that defines it."""
    node: ast.ClassDef
    """Its definition."""


class Module:
    """One parsed file: its classes, and where its imported names come from."""

    def __init__(self, path: Path, tree: Tree) -> None:
        """Parses one file of a tree."""
        self.path, self.tree = path, tree
        body = ast.parse(path.read_text(encoding="utf-8"))
        self.classes = {n.name: n for n in ast.walk(body) if isinstance(n, ast.ClassDef)}
        self.functions = {n.name: n for n in body.body if isinstance(n, ast.FunctionDef)}
        self.names: dict[str, ast.expr] = {}
        self.imports: dict[str, tuple[str, str]] = {}
        for node in ast.walk(body):
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    self.imports[alias.asname or alias.name] = (node.module or "", alias.name)
        for statement in body.body:
            if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
                self.names[statement.targets[0].id] = statement.value

    def find(self, name: str) -> Class | None:
        """A class by the name it has in this file, imports followed."""
        if name in self.classes:
            return Class(name, self, self.classes[name])
        if name in self.imports:
            dotted, original = self.imports[name]
            module = self.tree.module(dotted, self.path)
            return module.find(original) if module is not None else None
        return None


class Tree:
    """A folder of model files, parsed as they are asked for."""

    def __init__(self, folder: Path, root: Path) -> None:
        """A tree of the folder that holds one file (or package) a model, below the root of the packages."""
        self.folder, self.root = folder, root
        self._parsed: dict[Path, Module] = {}

    def module(self, dotted: str, beside: Path | None = None) -> Module | None:
        """The file of a module path: from the root, beside the asking file, or in the folder; None for others."""
        places = [self.root, *([beside.parent] if beside is not None else []), self.folder]
        for place in places if dotted else ():
            path = place.joinpath(*dotted.split("."))
            for file in (path.with_name(f"{path.name}.py"), path / "__init__.py"):
                if file.is_file() and file != beside:
                    return self.parse(file)
        return None

    def parse(self, path: Path) -> Module:
        """A file, parsed once."""
        if path not in self._parsed:
            self._parsed[path] = Module(path, self)
        return self._parsed[path]


def class_lineage(found: Class) -> Iterator[Class]:
    """A class and its bases that the tree has, nearest first."""
    yield found
    for base in found.node.bases:
        if isinstance(base, ast.Name) and base.id != found.name:
            above = found.module.find(base.id)
            if above is not None:
                yield from class_lineage(above)


def nearest_method(found: Class, name: str) -> tuple[Class, ast.FunctionDef] | None:
    """The nearest definition of a method, with the class that has it."""
    for owner in class_lineage(found):
        for node in owner.node.body:
            if isinstance(node, ast.FunctionDef) and node.name == name:
                return owner, node
    return None


def dotted_chain(node: ast.AST) -> str | None:
    """`a.b.c` for a chain of attributes, with `()` after what is called without arguments."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        above = dotted_chain(node.value)
        return f"{above}.{node.attr}" if above else None
    if isinstance(node, ast.Call) and not node.args and not node.keywords:
        above = dotted_chain(node.func)
        return f"{above}()" if above else None
    return None


Condition = tuple[tuple[ast.expr, bool], ...]
"""The tests above a statement, outermost first, each with the value it has there."""


def walked_statements(body: list[ast.stmt], above: Condition = ()) -> Iterator[tuple[ast.stmt, Condition]]:
    """Every statement below a body with the conditions it stands under; nested functions are left out."""
    for statement in body:
        yield statement, above
        if isinstance(statement, ast.If):
            yield from walked_statements(statement.body, (*above, (statement.test, True)))
            yield from walked_statements(statement.orelse, (*above, (statement.test, False)))
        elif isinstance(statement, ast.For | ast.While | ast.With):
            yield from walked_statements(statement.body, above)
            yield from walked_statements(getattr(statement, "orelse", []), above)
        elif isinstance(statement, ast.Try):
            for block in (statement.body, *(h.body for h in statement.handlers), statement.orelse, statement.finalbody):
                yield from walked_statements(block, above)


def mentions_text(node: ast.AST, text: str) -> bool:
    """Return True where a string constant, attribute or name below a node contains a text."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.Constant) and isinstance(inner.value, str) and text in inner.value:
            return True
        if (isinstance(inner, ast.Attribute) and text in inner.attr) or (
            isinstance(inner, ast.Name) and text in inner.id
        ):
            return True
    return False


def name_called(node: ast.AST) -> str:
    """The last part of what a call calls; empty for other nodes."""
    if not isinstance(node, ast.Call):
        return ""
    return (dotted_chain(node.func) or "").split(".")[-1]
