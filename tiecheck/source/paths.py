"""Expressions as paths: `self.model.embed.weight.t()` is the path `model.embed.weight`, taken through `t`."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping

from tiecheck.records.record import Record
from tiecheck.records.source import EventKind

SAME = frozenset(
    {"detach", "data", "to", "cuda", "cpu", "float", "half", "bfloat16", "type", "type_as", "requires_grad_"}
)
"""Attributes and methods after which values are the same; what they do to identity is told by the form."""

DERIVING = SAME | {
    "t", "T", "mT", "transpose", "permute", "contiguous", "clone", "view", "reshape", "squeeze", "unsqueeze", "numpy",
    "swapaxes", "flatten", "narrow", "expand", "tolist", "copy",
}  # fmt: skip
"""Attributes and methods whose result is made of the tensor's values."""

PARAMETER = frozenset({"Parameter", "UninitializedParameter"})
PARTS = ("weight", "bias")
"""Last parts of a path that name a parameter of a module."""


Lines = list[bytes]
"""Lines of a file in UTF-8, which is what the columns of `ast` count in."""

Values = Mapping[str, list[ast.expr]]
"""Local names, each with all that it was made of."""


class Reached(Record):
    """The tensor or module that an expression is, or is made of."""

    path: str
    form: tuple[str, ...]
    """Operations on it on the way, innermost first; empty where it is the very object."""

    @property
    def parameter(self) -> bool:
        """True for a module's parameter, as its name tells."""
        return self.path.rpartition(".")[2] in PARTS


def walked(node: ast.AST) -> Iterator[ast.AST]:
    """Yield a node and all below it, as `ast.walk` does but for the contexts, in half of its time."""
    waiting = [node]
    for one in waiting:  # grows as it goes
        yield one
        kind = one.__class__
        if kind is ast.Name or kind is ast.Constant:
            continue
        if kind is ast.Attribute:
            waiting.append(one.value)  # type: ignore[attr-defined]
            continue
        for field in one._fields:
            value = getattr(one, field, None)
            if value.__class__ is list:
                waiting += [child for child in value if isinstance(child, ast.AST)]
            elif isinstance(value, ast.AST) and field != "ctx":
                waiting.append(value)


def dotted_name(node: ast.AST) -> str:
    """Return `a.b.c` of a chain of names and attributes; empty for any other expression."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return ""
    return ".".join([node.id, *reversed(parts)])


def called_name(node: ast.AST) -> str:
    """Return the dotted name that a call calls; `super().x` for a method of the base; empty for what is no call."""
    if not isinstance(node, ast.Call):
        return ""
    function = node.func
    if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Call):
        inner = dotted_name(function.value.func)
        return f"super().{function.attr}" if inner == "super" else ""
    return dotted_name(function)


def reached_by(node: ast.AST, names: Mapping[str, Reached]) -> Reached | None:  # noqa: PLR0911  # a return a sort of node
    """Return what an expression is or is made of; None where no path is seen. `self` stands for the empty path."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Attribute):
        inner = reached_by(node.value, names)
        if inner is None:
            return None
        if node.attr in ("data", "T", "mT") and inner.path:
            return inner._replace(form=(*inner.form, node.attr))
        return Reached(_joined(inner.path, node.attr), inner.form) if not inner.form else None
    if isinstance(node, ast.Subscript):
        return _element(node, names)
    if isinstance(node, ast.Call):
        return _result(node, names)
    return reached_by(node.value, names) if isinstance(node, ast.NamedExpr) else None


def _element(node: ast.Subscript, names: Mapping[str, Reached]) -> Reached | None:
    """Return an element of a container of modules, or a slice of a tensor."""
    inner = reached_by(node.value, names)
    if inner is None or not inner.path:
        return None
    if inner.parameter or inner.form:
        return inner._replace(form=(*inner.form, "slice"))
    if isinstance(node.slice, ast.Constant) and node.slice.value in PARTS:
        return None  # the entry of a plain dictionary: a module has it as an attribute
    if isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, (int, str)):
        return Reached(_joined(inner.path, str(node.slice.value)), ())
    return Reached(_joined(inner.path, f"[{ast.unparse(node.slice)}]"), ())


def _result(node: ast.Call, names: Mapping[str, Reached]) -> Reached | None:  # noqa: PLR0911  # a return a sort of call
    """Return what the result of a call is made of."""
    name = called_name(node)
    if name == "getattr" and len(node.args) >= 2 and isinstance(node.args[1], ast.Constant):
        inner = reached_by(node.args[0], names)
        return Reached(_joined(inner.path, str(node.args[1].value)), ()) if inner and not inner.form else None
    last = name.rpartition(".")[2]
    if last in ("deepcopy", "copy", "Parameter", "Buffer") and node.args:
        given, done = node.args[0], [last]
        if isinstance(given, ast.BinOp) and isinstance(given.right, ast.Constant):  # `nn.Parameter(w * 1.0)`
            given, done = given.left, ["clone", last]
        inner = reached_by(given, names)
        return inner._replace(form=(*inner.form, *done)) if inner and inner.path else None
    if not isinstance(node.func, ast.Attribute):
        return None
    if name.startswith(("torch.", "np.", "numpy.")) and node.args and last in DERIVING:
        inner = reached_by(node.args[0], names)
    else:
        inner = reached_by(node.func.value, names)
        last = node.func.attr
    if inner is None:
        return None
    if last in DERIVING and inner.path:
        return inner._replace(form=(*inner.form, last))
    if last in ("get_input_embeddings", "get_output_embeddings", "get_encoder", "get_decoder") and not inner.form:
        return Reached(_joined(inner.path, f"{last}()"), ())
    return None


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def plain_part(node: ast.expr, names: Mapping[str, Reached]) -> ast.expr | None:
    """Return the part of an expression that is the parameter or module itself, without what is done to it.

    None where no such part is written: a local name stands for a copy.
    """
    part: ast.AST = node
    while (found := reached_by(part, names)) is not None and not isinstance(part, ast.NamedExpr):
        if not found.form:
            return part if isinstance(part, ast.expr) else None
        if isinstance(part, ast.Call) and isinstance(part.func, ast.Attribute) and reached_by(part.func.value, names):
            part = part.func.value
        elif isinstance(part, ast.Call) and part.args:
            part = part.args[0]
        elif isinstance(part, (ast.Attribute, ast.Subscript)):
            part = part.value
        else:
            return None
    return None


def written_sides(
    place: ast.AST, whole: ast.expr | None, names: Mapping[str, Reached], lines: Lines
) -> tuple[str, tuple[str, ...]]:
    """Return the text of a statement that does one thing, and of its two sides without operations on them."""
    if isinstance(place, ast.Assign) and len(place.targets) == 1 and not isinstance(place.value, ast.IfExp):
        target, value = place.targets[0], place.value
    elif isinstance(place, ast.Call) and place is whole and isinstance(place.func, ast.Attribute):
        target, value = place.func.value, place.args[0]
        if isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) and value.func.attr == "state_dict":
            value = value.func.value
    elif isinstance(place, ast.Expr) and isinstance(place.value, ast.Compare):
        target, value = place.value.left, place.value.comparators[0]
    else:
        return "", ()
    parts = [plain_part(one, names) for one in (target, value)]
    end = ".weight" if called_name(place).endswith("load_state_dict") else ""
    sides = tuple(f"{text_of(part, lines)}{end}" for part in parts if part is not None)
    return text_of(place, lines), sides if len(sides) == len(parts) else ()


CLONERS = frozenset({"_get_clones", "get_clones", "_clones", "clones"})
"""Functions that deep-copy a module many times, as they are named where everybody has them."""


def copied_each(node: ast.AST) -> ast.expr | None:
    """Return what is deep-copied many times: by `_get_clones(x, n)` or `[deepcopy(x) for ...]`; None for all else."""
    if isinstance(node, (ast.ListComp, ast.GeneratorExp)) and isinstance(node.elt, ast.Call):
        made = called_name(node.elt).rpartition(".")[2] == "deepcopy"
        return node.elt.args[0] if made and node.elt.args else None
    cloning = isinstance(node, ast.Call) and called_name(node).rpartition(".")[2] in CLONERS
    return node.args[0] if cloning and isinstance(node, ast.Call) and node.args else None


def text_of(node: ast.expr | ast.stmt, lines: Lines) -> str:
    """Return the text of a node as it stands in its file."""
    first, last = node.lineno - 1, (node.end_lineno or node.lineno) - 1
    rows = lines[first : last + 1]
    rows[-1] = rows[-1][: node.end_col_offset]
    rows[0] = rows[0][node.col_offset :]
    return b"".join(rows).decode()


def weights_read(node: ast.AST, names: Mapping[str, Reached]) -> Iterator[str]:
    """Yield the paths of the parameters that an expression reads anywhere in it."""
    for child in walked(node):
        if isinstance(child, ast.Attribute) and child.attr in PARTS:
            found = reached_by(child, names)
            if found is not None and not found.form and "." in found.path:
                yield found.path


def keeps(node: ast.AST, path: str, names: Mapping[str, Reached], values: Values, seen: set[str]) -> bool:
    """Tell whether an expression is given a module itself, or its parameter: what it returns may hold that still.

    `weight_norm(self.head)`, `torch.compile(self.head)`, `self.head.eval()` and the same by way of local names, each of
    which is followed once (`seen`).
    """
    found = reached_by(node, names)
    if found is not None and found.path:
        whole = found.path == path and not {"deepcopy", "copy"} & set(found.form)
        return whole or (found.parameter and found.path.rpartition(".")[0] == path and not found.form)
    if isinstance(node, ast.Name):
        made = () if node.id in seen else values.get(node.id, ())
        seen.add(node.id)
        return any(keeps(one, path, names, values, seen) for one in made)
    if isinstance(node, ast.Attribute):
        return isinstance(node.value, ast.Call) and keeps(node.value, path, names, values, seen)
    if not isinstance(node, ast.Call):
        return any(keeps(child, path, names, values, seen) for child in ast.iter_child_nodes(node))
    given = [*node.args, *(word.value for word in node.keywords)]
    if isinstance(node.func, ast.Attribute):
        owner = reached_by(node.func.value, names)
        given += [node.func.value] if owner is None or not owner.parameter else []
    return any(keeps(one, path, names, values, seen) for one in given)


def kind_of_event(written: Reached, found: Reached) -> EventKind:
    """Return the sort of event where one path is assigned what is, or is made of, another."""
    if not found.form:
        return "share" if found.parameter else "alias"
    if found.parameter and (written.parameter or "Parameter" in found.form):
        return "parameter"
    if found.parameter:
        return "plain" if "Buffer" not in found.form else "build"
    return "clone" if found.form[-1] in ("deepcopy", "copy") else "build"
