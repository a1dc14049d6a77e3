"""A stored head in the model classes of vLLM and SGLang while head and embedding are tied."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tiecheck.tables.generate.engines_ast import (
    FLAG,
    Class,
    Unrecognised,
    class_lineage,
    dotted_chain,
    mentions_text,
    name_called,
    nearest_method,
    walked_statements,
)

HEAD = "lm_head"


def load_of(found: Class, alias: bool, tie: str, headless: bool) -> str:
    """Tell what `load_weights` does with the head's name: `skip`, `alias`, `load` or `keyerror`.

    Args:
        found: The class.
        alias: Whether `AutoWeightsLoader` skips names that are tied to another.
        tie: How the class ties: a composite that hands all weights on is `pass`.
        headless: Whether a tied model has no head module at all.

    Raises:
        Unrecognised: It is none of the known patterns.
    """
    function = _loader(found)
    automatic = [n for n in ast.walk(function) if name_called(n) == "AutoWeightsLoader"]
    if automatic:
        made = _automatic(function, automatic, alias, tie)
        mapped = _mapped(found)
        if mapped is None:
            raise Unrecognised("its weight mapper names the head in a way that was not recognised")
        if made in {"alias", "load"} and (mapped or headless):
            return "skip" if mapped else "refuse"
        return made
    if tie == "inner":
        return _handed_on(function)
    return _loop(function)


def _mapped(found: Class) -> bool | None:
    """Return True where the class's weight mapper drops the head; None where it names the head in some other way."""
    dropped = False
    for owner in class_lineage(found):
        for node in ast.walk(owner.node):
            if name_called(node) != "WeightsMapper":
                continue
            for table in ast.walk(node):
                for key, value in zip(table.keys, table.values, strict=True) if isinstance(table, ast.Dict) else ():
                    if key is None or not mentions_text(key, HEAD):
                        continue
                    if isinstance(value, ast.Constant) and value.value is None:
                        dropped = True
                    elif not (isinstance(value, ast.Constant) and str(value.value).endswith(f"{HEAD}.")):
                        return None
    return dropped


def _loader(found: Class) -> ast.FunctionDef:
    """`load_weights`, or the method that it hands its weights to when no environment variable says otherwise."""
    defined = nearest_method(found, "load_weights")
    while defined is not None:
        function = defined[1]
        last = function.body[-1]
        call = last.value if isinstance(last, ast.Return | ast.Expr) else None
        name = dotted_chain(call.func) if isinstance(call, ast.Call) else None
        if name is None or not name.startswith("self.") or name.count(".") != 1 or len(function.body) > 3:
            return function
        defined = nearest_method(found, name.split(".")[1])
    raise Unrecognised("no load_weights was found")


def _automatic(function: ast.FunctionDef, calls: list[ast.AST], alias: bool, tie: str) -> str:
    named = [
        n for n in ast.walk(function) if isinstance(n, ast.Constant) and isinstance(n.value, str) and HEAD in n.value
    ]
    if len(calls) != 1:
        raise Unrecognised("it makes several weight loaders")
    call = calls[0]
    skips = (
        next((k.value for k in call.keywords if k.arg == "skip_prefixes"), None) if isinstance(call, ast.Call) else None
    )
    if named:
        listed = isinstance(skips, ast.IfExp | ast.List) and all(n in set(ast.walk(skips)) for n in named)
        appended = isinstance(skips, ast.Name) and _appended(function, skips.id, named)
        if not listed and not appended:
            raise Unrecognised("load_weights names the head in a way that was not recognised")
        if isinstance(skips, ast.IfExp) and not _of_flag(function, skips.test):
            raise Unrecognised(f"the head is skipped under {ast.unparse(skips.test)[:60]}")
        return "skip"
    if skips is not None and not isinstance(skips, ast.List | ast.Constant):
        raise Unrecognised(f"what is skipped is {ast.unparse(skips)[:60]}")
    if tie == "inner":
        return "pass"
    return "alias" if alias else "load"


def _of_flag(function: ast.FunctionDef, test: ast.expr) -> bool:
    """Return True where a test is the tie flag alone, or a local name that holds it."""
    if mentions_text(test, FLAG):
        return not isinstance(test, ast.UnaryOp)
    return isinstance(test, ast.Name) and any(
        isinstance(s, ast.Assign) and dotted_chain(s.targets[0]) == test.id and mentions_text(s.value, FLAG)
        for s, _ in walked_statements(function.body)
    )


def _appended(function: ast.FunctionDef, name: str, named: list[ast.Constant]) -> bool:
    """Return True where the head is put on a list of prefixes under the flag, and nowhere else."""
    kept = set()
    for statement, above in walked_statements(function.body):
        if isinstance(statement, ast.Expr) and name_called(statement.value) in {"append", "extend"}:
            call = statement.value
            onto = isinstance(call, ast.Call) and (dotted_chain(call.func) or "").startswith(f"{name}.")
            if onto and above and _of_flag(function, above[-1][0]) and above[-1][1]:
                kept |= set(ast.walk(statement))
        if (
            isinstance(statement, ast.Assign)
            and dotted_chain(statement.targets[0]) == name
            and mentions_text(statement.value, HEAD)
        ):
            value = statement.value
            if isinstance(value, ast.List) or (isinstance(value, ast.IfExp) and _of_flag(function, value.test)):
                kept |= set(ast.walk(statement))
    return all(n in kept for n in named)


def _handed_on(function: ast.FunctionDef) -> str:
    """A composite without a loader of its own: fine where it hands its weights to the inner model untouched."""
    if mentions_text(function, HEAD):
        raise Unrecognised("a composite whose load_weights names the head")
    last = function.body[-1]
    if (
        len(function.body) == 1
        and isinstance(last, ast.Return | ast.Expr)
        and name_called(last.value or last) == "load_weights"
    ):
        return "pass"
    raise Unrecognised("a composite that sorts its weights itself")


def _loop(function: ast.FunctionDef) -> str:
    """A loop over the weights that looks each name up among the parameters."""
    loop = next((s for s, _ in walked_statements(function.body) if isinstance(s, ast.For) and _over_weights(s)), None)
    if loop is None:
        raise Unrecognised("load_weights has no loop over the weights")
    for statement, above in walked_statements(loop.body):
        if isinstance(statement, ast.Continue) and above and mentions_text(above[-1][0], HEAD) and above[-1][1]:
            if _skips_head(above[-1][0]) and len(above) == 1:
                return "skip"
            raise Unrecognised(f"the head is skipped under {ast.unparse(above[-1][0])[:60]}")
    if _names(function):
        raise Unrecognised("load_weights names the head in a way that was not recognised")
    table = _table_of(function)
    if table is None:
        raise Unrecognised("load_weights looks names up in a way that was not recognised")
    name, whole = table
    if whole:
        return "load"
    found = list(_lookups(loop.body, name, guarded=False))
    if not found:
        raise Unrecognised("load_weights looks names up in a way that was not recognised")
    return "skip" if found[-1] else "keyerror"


def _names(function: ast.FunctionDef) -> bool:
    """Return True where a loader names the head outside of blocks under the flag that only copy the embedding to it."""
    copies: set[ast.AST] = set()
    for node in ast.walk(function):
        if isinstance(node, ast.If) and mentions_text(node.test, FLAG) and not mentions_text(node.test, HEAD):
            inside = [n for s in node.body for n in ast.walk(s)]
            if not any(isinstance(n, ast.Continue | ast.Return | ast.Raise) for n in inside):
                copies |= set(inside)
    return any(
        isinstance(n, ast.Constant) and isinstance(n.value, str) and HEAD in n.value
        for n in ast.walk(function)
        if n not in copies
    )


def _over_weights(loop: ast.For) -> bool:
    return isinstance(loop.target, ast.Tuple) and mentions_text(loop.iter, "weights")


def _skips_head(test: ast.expr) -> bool:
    """Return True where a true flag lets a test hold for the head: `flag and "lm_head.weight" in name`, or a name."""
    parts = test.values if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And) else [test]
    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.Or):
        return any(_skips_head(part) for part in test.values if mentions_text(part, HEAD))
    names = [p for p in parts if not mentions_text(p, FLAG)]
    return len(names) == 1 and _names_head(names[0])


def _names_head(test: ast.expr) -> bool:
    if isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], ast.In | ast.Eq):
        return mentions_text(test, HEAD)
    return name_called(test) in {"startswith", "endswith"} and mentions_text(test, HEAD)


def _table_of(function: ast.FunctionDef) -> tuple[str, bool] | None:
    """The name of the dict of parameters, and whether it has tied ones under every name."""
    for statement, _ in walked_statements(function.body):
        if (
            isinstance(statement, ast.Assign)
            and name_called(statement.value) == "dict"
            and mentions_text(statement.value, "named_parameters")
        ):
            return dotted_chain(statement.targets[0]) or "", "remove_duplicate=False" in ast.unparse(statement.value)
    return None


def _lookups(body: list[ast.stmt], table: str, guarded: bool) -> Iterator[bool]:
    """Return for each look-up of a plain name, in order, whether a test that the table has it guards it."""
    for statement in body:
        if isinstance(statement, ast.If):
            known = _membership(statement.test, table)
            if known is False and isinstance(statement.body[-1], ast.Continue):
                guarded = True
                continue
            yield from _lookups(statement.body, table, guarded or known is True)
            yield from _lookups(statement.orelse, table, guarded or known is False)
        elif isinstance(statement, ast.For):
            yield from _lookups(statement.body, table, guarded)
            yield from _lookups(statement.orelse, table, guarded)
        elif any(_looks_up(node, table) for node in ast.walk(statement)):
            yield guarded or isinstance(statement, ast.Try)


def _looks_up(node: ast.AST, table: str) -> bool:
    return isinstance(node, ast.Subscript) and dotted_chain(node.value) == table and isinstance(node.slice, ast.Name)


def _membership(test: ast.expr, table: str) -> bool | None:
    """True for `name in table`, False for `name not in table`, None for any other test."""
    if not isinstance(test, ast.Compare) or len(test.ops) != 1:
        return None
    if (dotted_chain(test.comparators[0]) or "").removesuffix(".keys()") != table:
        return None
    return True if isinstance(test.ops[0], ast.In) else False if isinstance(test.ops[0], ast.NotIn) else None
