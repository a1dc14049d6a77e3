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
            return [c.body for c in within if lines[c.name] == step.line]
        methods = [m for c in within for m in c.body.body if isinstance(m, cst.FunctionDef)]
        return [m for m in methods if m.name.value == step.names[1] and lines[m.name] == step.line]
    wanted = step.instead_of.split()
    if wanted[0] == "def":
        found = [n for n in lines if isinstance(n, cst.FunctionDef) and lines[n.name] == step.line and not n.decorators]
        return [
            n for n in found if module.code_for_node(n.with_changes(leading_lines=())).split()[: len(wanted)] == wanted
        ]
    near = [n for n, line in lines.items() if line == step.line and _text(module, n).split() == wanted]
    whole = [n for n in near if isinstance(n, cst.BaseSmallStatement)]
    parts = [n for n in near if isinstance(n, cst.BaseExpression)]
    return (whole or parts) if len(whole) < 2 else []  # of two that are alike on one line, which is meant is not told


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
        if isinstance(original, cst.SimpleStatementSuite):
            return self._suite(original, updated, step)
        if isinstance(original, (cst.IndentedBlock, cst.Module)):
            return self._block(updated, step)
        if step is None or isinstance(original, cst.BaseSmallStatement):  # its line or suite replaces it
            return updated
        if isinstance(original, cst.FunctionDef):
            return self._method(updated, step)
        new = cst.parse_expression(self._code(step), config=self.module.config_for_parsing)
        return new.with_changes(lpar=[*updated.lpar, *new.lpar], rpar=[*new.rpar, *updated.rpar])

    def _line(self, original: Any, updated: Any) -> Any:
        """Return the statements of a line after their steps; what comes after the first stands on lines of its own."""
        steps = [self.steps.get(id(part)) for part in original.body]
        parts = self._parts(steps, updated)
        if not any(step and step.code for step in steps):
            return _in_a_row(updated, parts) if parts else updated.with_changes(body=[self.gone])
        line, *rest = [[part.with_changes(semicolon=cst.MaybeSentinel.DEFAULT)] for part in parts]
        return cst.FlattenSentinel([updated.with_changes(body=line), *(cst.SimpleStatementLine(body=b) for b in rest)])

    def _suite(self, original: Any, updated: Any, step: Step | None) -> Any:
        """Return what stands behind a colon on one line, after its steps; on lines of its own with a method below."""
        suite = _in_a_row(updated, self._parts([self.steps.get(id(part)) for part in original.body], updated))
        if step is None:
            return suite
        lines = [cst.SimpleStatementLine([p.with_changes(semicolon=cst.MaybeSentinel.DEFAULT)]) for p in suite.body]
        return self._block(cst.IndentedBlock(lines, header=suite.trailing_whitespace), step)

    def _parts(self, steps: Sequence[Step | None], updated: Any) -> list[Any]:
        """Return the small statements of a line or suite after the step of each."""
        both = zip(steps, updated.body, strict=True)
        new = [[part] if step is None else self._parsed(step) if step.code else [] for step, part in both]
        return [part for some in new for part in some]

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
            inner = made.body.with_changes(indent=block.indent)
            body.append(made.with_changes(leading_lines=[cst.EmptyLine(indent=False)], body=inner))
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
        suite = isinstance(function.body, cst.SimpleStatementSuite)
        body = list(function.body.body)
        last = body[-1].body if isinstance(body[-1], cst.SimpleStatementLine) else [body[-1]]
        place = len(body) - isinstance(last[-1], cst.Return)
        new: list[Any] = self._parsed(step)
        if not suite:
            new = [cst.SimpleStatementLine(body=[part]) for part in new]
        if len(last) == 1 and isinstance(last[0], cst.Pass):  # what it stood for is there now
            old = body.pop()
            new[0] = new[0] if suite else old.with_changes(body=new[0].body)  # the comments around it stay
        body = [*body[:place], *new, *body[place:]]
        return function.with_changes(
            body=_in_a_row(function.body, body) if suite else function.body.with_changes(body=body)
        )


def _in_a_row(line: Any, parts: list[Any]) -> Any:
    """Return a line or suite with other small statements, between which semicolons stand."""
    if list(line.body) == parts:
        return line
    between = cst.Semicolon(whitespace_after=cst.SimpleWhitespace(" "))
    parts = parts or [cst.Pass()]
    row = [p if isinstance(p.semicolon, cst.Semicolon) else p.with_changes(semicolon=between) for p in parts[:-1]]
    return line.with_changes(body=[*row, parts[-1].with_changes(semicolon=cst.MaybeSentinel.DEFAULT)])
