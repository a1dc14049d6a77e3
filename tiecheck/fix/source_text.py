"""Steps carried out on the text of a Python file by libcst: what they do not name stays as it is, to the byte."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import libcst as cst
from libcst.metadata import MetadataWrapper, PositionProvider

from tiecheck.errors import TargetError
from tiecheck.records.edits import Step

Places = list[tuple[cst.CSTNode, Step]]


def edited_text(text: str, steps: Sequence[Step], shown: str) -> tuple[str, tuple[Step, ...]]:
    """Return a Python text, with its own line ends, after some `edit-source` steps, and the steps whose place it lacks.

    A text that does not parse raises a `TargetError`.
    """
    try:
        wrapper = MetadataWrapper(cst.parse_module(text), unsafe_skip_copy=True)
        positions = wrapper.resolve(PositionProvider)
    except (cst.ParserSyntaxError, RecursionError) as error:
        raise TargetError(f"{shown} cannot be parsed by libcst: {str(error).splitlines()[0]}", shown) from error
    module = wrapper.module
    lines = {node: place.start.line for node, place in positions.items()}
    found = [(_dedented(step, positions), _places(module, lines, step)) for step in steps]
    editor = _Editor(module, [(node, step) for step, nodes in found for node in nodes])
    missed = tuple(step for step, (_, nodes) in zip(steps, found, strict=True) if not nodes)
    return module.visit(editor).code, missed


def _dedented(step: Step, positions: Mapping[cst.CSTNode, Any]) -> Step:
    """Return a step with its code as it would stand at the left margin: libcst adds the indent of its block."""
    kinds = (cst.SimpleStatementLine, cst.BaseCompoundStatement)
    around = [
        at for node, at in positions.items() if isinstance(node, kinds) and at.start.line <= step.line <= at.end.line
    ]
    indent = max(around, key=lambda at: at.start.line).start.column if around else 0
    first, *rest = (step.code or "").split("\n")
    lines = [line[indent:] if not line[:indent].strip() else line for line in rest]
    return step._replace(code=step.code and "\n".join((first, *lines)))


def _places(module: cst.Module, lines: dict[cst.CSTNode, int], step: Step) -> list[cst.CSTNode]:
    """Return the nodes that a step changes: statements before expressions, so that no part of a whole is taken."""
    if step.instead_of is None:
        within = [n for n in lines if isinstance(n, cst.ClassDef) and n.name.value == step.names[0]]
        if len(step.names) == 1:
            return [c.body for c in within if lines[c.name] == step.line and isinstance(c.body, cst.IndentedBlock)]
        methods = [m for c in within for m in c.body.body if isinstance(m, cst.FunctionDef)]
        return [m for m in methods if m.name.value == step.names[1] and lines[m.name] == step.line]
    wanted = step.instead_of.split()
    if wanted[0] == "def":
        found = [n for n in lines if isinstance(n, cst.FunctionDef) and lines[n.name] == step.line and not n.decorators]
        return [
            n for n in found if module.code_for_node(n.with_changes(leading_lines=())).split()[: len(wanted)] == wanted
        ]
    near = [n for n, line in lines.items() if line == step.line and _text(module, n).split() == wanted]
    kinds = (cst.BaseSmallStatement, cst.BaseExpression)
    return next((some for kind in kinds if (some := [n for n in near if isinstance(n, kind)])), [])


def _text(module: cst.Module, node: cst.CSTNode) -> str:
    """Return the code of a node without parentheses around it, which an expression that replaces it takes over."""
    if not isinstance(node, (cst.BaseSmallStatement, cst.BaseExpression)):
        return ""
    bare = node.with_changes(lpar=[], rpar=[]) if isinstance(node, cst.BaseExpression) else node
    return str(module.code_for_node(bare)).rstrip("; \t\\")


class _Editor:
    """A visitor of libcst that puts new nodes in the place of some."""

    def __init__(self, module: cst.Module, places: Places) -> None:
        self.module = module
        self.steps = {id(node): step for node, step in places}
        self.gone = cst.Pass()  # stands where a line was, until its comments are with the next one

    def on_visit(self, _: cst.CSTNode) -> bool:
        """Go on into every node."""
        return True

    def on_visit_attribute(self, node: cst.CSTNode, attribute: str) -> None:
        """Do nothing before an attribute."""

    def on_leave_attribute(self, node: cst.CSTNode, attribute: str) -> None:
        """Do nothing after an attribute."""

    def on_leave(self, original: cst.CSTNode, updated: Any) -> Any:
        """Return what stands in the place of a node."""
        step = self.steps.get(id(original))
        if isinstance(original, cst.SimpleStatementLine):
            return self._line(original, updated)
        if isinstance(original, (cst.IndentedBlock, cst.Module)):
            return self._block(updated, step)
        if step is None:
            return updated
        if isinstance(original, cst.FunctionDef):
            return self._method(updated, step)
        if isinstance(original, cst.BaseExpression):
            new = cst.parse_expression(self._code(step), config=self.module.config_for_parsing)
            return new.with_changes(lpar=[*updated.lpar, *new.lpar], rpar=[*new.rpar, *updated.rpar])
        return updated if step.code else cst.RemoveFromParent()

    def _line(self, original: Any, updated: Any) -> Any:
        """Return the statements of a line after their steps; what comes after the first stands on lines of its own."""
        steps = [self.steps.get(id(part)) for part in original.body]
        if not any(step and step.code for step in steps):
            return updated if updated.body else updated.with_changes(body=[self.gone])
        parts = [part for part, step in zip(original.body, steps, strict=True) if not step or step.code]
        new = [self._parsed(step) if (step := self.steps.get(id(part))) else [part] for part in parts]
        first, *rest = [part for some in new for part in some]
        alone = [[part.with_changes(semicolon=cst.MaybeSentinel.DEFAULT)] for part in (first, *rest)]
        line = updated.with_changes(body=alone[0])
        return cst.FlattenSentinel([line, *(cst.SimpleStatementLine(body=body) for body in alone[1:])])

    def _parsed(self, step: Step) -> list[Any]:
        """Return the small statements of a step's code."""
        made = cst.parse_module(self._code(step), config=self.module.config_for_parsing)
        return [part for line in made.body for part in line.body]

    def _code(self, step: Step) -> str:
        """Return a step's code with the line ends of the file."""
        return (step.code or "").replace("\n", self.module.default_newline)

    def _block(self, block: Any, step: Step | None) -> Any:
        """Return a block without the lines that are empty now, whose comments stay, and with a method at its end."""
        body: list[Any] = []
        above: list[Any] = []
        for line in block.body:
            if isinstance(line, cst.SimpleStatementLine) and line.body[0] is self.gone:
                end = line.trailing_whitespace.comment
                above += [*line.leading_lines, *([cst.EmptyLine(comment=end)] if end else [])]
            else:
                body.append(line.with_changes(leading_lines=[*above, *line.leading_lines]) if above else line)
                above = []
        if step is not None:
            made: Any = cst.parse_statement(self._code(step), config=self.module.config_for_parsing)
            body.append(made.with_changes(leading_lines=[cst.EmptyLine(indent=False)]))
        if not body and isinstance(block, cst.IndentedBlock):
            body = [cst.parse_statement("pass")]
        return block.with_changes(body=body, footer=[*above, *block.footer])

    def _method(self, function: Any, step: Step) -> Any:
        """Return a method with another first line, or nothing in its place, or with one more statement at its end."""
        if step.instead_of is None:
            return self._ended(function, step)
        if step.code is None:
            return cst.RemoveFromParent()
        made: Any = cst.parse_statement(f"{self._code(step)} pass", config=self.module.config_for_parsing)
        return function.with_changes(params=made.params)

    def _ended(self, function: Any, step: Step) -> Any:
        """Return a method with one more statement, before a `return` at its end."""
        body = list(function.body.body)
        ends = isinstance(function.body, cst.IndentedBlock) and isinstance(body[-1], cst.SimpleStatementLine)
        place = len(body) - 1 if ends and isinstance(body[-1].body[-1], cst.Return) else len(body)
        new = [cst.SimpleStatementLine(body=[part]) for part in self._parsed(step)]
        if not isinstance(function.body, cst.IndentedBlock):
            return function
        if ends and len(body[-1].body) == 1 and isinstance(body[-1].body[0], cst.Pass):
            last = body.pop()  # what it stood for is there now; the comments around it stay
            new[0] = last.with_changes(body=new[0].body)
        return function.with_changes(body=function.body.with_changes(body=[*body[:place], *new, *body[place:]]))
