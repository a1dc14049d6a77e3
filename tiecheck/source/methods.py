"""Methods as records: what one calls, reads and multiplies by, and its events."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping

from tiecheck.records.source import Method
from tiecheck.source.calls import Function, arguments_of
from tiecheck.source.flow import Flow
from tiecheck.source.paths import Lines, Reached, called_name, dotted_name, reached_by, text_of, walked

HAPPENING = re.compile(
    rb"(\.\w+(\s*[,:][^=\n]*)?|\])\s*=[^=]|weight|bias|init|apply|attr|_module|_parameter|lambda|partial|_\(|state_dict"
)
"""Text without one of which nothing is built, tied or drawn in a method: most `forward` of a model."""


def read_method(name: str, function: Function, functions: Mapping[str, Function], lines: Lines) -> Method:
    """Return the record of a method of a class with some methods."""
    arguments = [argument.arg for argument in arguments_of(function)]
    names = {argument: Reached(argument, ()) for argument in arguments[1:]}
    flow = Flow(functions, {arguments[0]: Reached("", ()), **names} if arguments else {}, lines)
    flow.entered.append(name)
    if name == "__init__" or HAPPENING.search(b"".join(lines[function.lineno - 1 : function.end_lineno])):
        flow.run(function.body)
    used = _Used(arguments[0] if arguments else "self")
    for child in walked(function):
        used.add(child)
    copies = (event for event in flow.events if event.kind in ("clone", "copy", "data", "parameter"))
    copying = {line for event in copies for line, _ in event.branch}
    return Method(
        name=name,
        line=function.lineno,
        column=function.col_offset + 1,
        accepts=function.args.kwarg is not None,
        arguments=tuple(arguments),
        empty=all(map(_is_nothing, function.body)),
        raises=isinstance(function.body[-1], ast.Raise) and all(map(_is_nothing, function.body[:-1])),
        calls=tuple(sorted(used.calls - {""})),
        reads=tuple(sorted(used.reads)),
        events=tuple(flow.events),
        tests=tuple((line, ast.unparse(flow.tests[line])) for line in sorted(copying & set(flow.tests))),
        multiplies=tuple(used.multiplies),
        returns=used.returned[0] if len(used.returned) == 1 else "",
        text=text_of(function, lines) if name == "tie_weights" else "",
    )


class _Used:
    """The calls, reads and products in the expressions of a method."""

    def __init__(self, own: str) -> None:
        self.own = own  # the name of its first argument
        self.calls: set[str] = set()
        self.reads: set[str] = set()
        self.multiplies: list[tuple[str, int, int]] = []
        self.returned: list[str] = []

    def add(self, node: ast.AST) -> None:
        """Add one node, without those below it."""
        if isinstance(node, ast.Attribute):
            if isinstance(node.ctx, ast.Load) and (read := self._under_own(node)):
                self.reads.add(read)
        elif isinstance(node, ast.Call):
            name = called_name(node)
            self.calls.add(name)
            if name in ("getattr", "hasattr") and node.args and dotted_name(node.args[0]) == self.own:
                self.reads.update(str(one.value) for one in node.args[1:2] if isinstance(one, ast.Constant))
            self.multiplies += self._multiplied(node)
        elif isinstance(node, ast.BinOp):
            self.multiplies += self._multiplied(node)
        elif isinstance(node, ast.Return) and node.value is not None:
            call = node.value if isinstance(node.value, ast.Call) else None
            path = self._under_own(call.func if call else node.value)
            self.returned.append(f"{path}()" if path and call else path)

    def _under_own(self, node: ast.AST) -> str:
        root, _, path = dotted_name(node).partition(".")
        return path if root == self.own else ""

    def _multiplied(self, node: ast.Call | ast.BinOp) -> Iterator[tuple[str, int, int]]:
        """Yield the parameter by which a linear layer's operation multiplies: `F.linear(x, w)`, `x @ w.t()`."""
        weight: ast.expr | None = None
        if isinstance(node, ast.BinOp):
            weight = node.right if isinstance(node.op, ast.MatMult) else None
        elif called_name(node).rpartition(".")[2] in ("linear", "matmul", "mm"):
            named = (word.value for word in node.keywords if word.arg == "weight")
            weight = node.args[1] if len(node.args) > 1 else next(named, None)
        found = reached_by(weight, {self.own: Reached("", ())}) if weight is not None else None
        if found is not None and found.parameter:
            yield found.path, node.lineno, node.col_offset + 1


def _is_nothing(node: ast.stmt) -> bool:
    """Tell whether a statement does nothing: `pass`, a docstring, `...`, a bare return."""
    if isinstance(node, ast.Return):
        return node.value is None or (isinstance(node.value, ast.Constant) and node.value.value is None)
    return isinstance(node, ast.Pass) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
