"""The statements of a function in order, as events: who holds which tensor after each."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence

from tiecheck.records.source import Branch, Event, EventKind
from tiecheck.source.calls import Function, calls_of, closed_over, entries_of, given_to, writes_to
from tiecheck.source.paths import (
    PARAMETER,
    Lines,
    Reached,
    called_name,
    copied_each,
    keeps,
    kind_of_event,
    reached_by,
    walked,
    written_sides,
)

DEPTH = 4
"""Calls of the class's own methods that are followed into one another."""

FOLLOWED = 64
"""Calls that are followed of one method, and rounds of its loops: each way through all of them would have no end."""

LISTS = frozenset({"ModuleList", "Sequential", "ModuleDict"})
INITIALISERS = frozenset(
    {"apply", "post_init", "init_weights", "reset_parameters", "_init_weights", "initialize_weights", "load_state_dict"}
)
RETYING = re.compile(r"(?i)(?:^|_|re)tie(?!r)|^(?:post_init|init_weights)$")
"""Names of what ties again, or may."""

DRAWS = frozenset({"uniform_", "normal_", "zero_", "fill_", "trunc_normal_"})
WRITTEN = frozenset({"share", "alias", "data", "parameter", "copy", "compare", "build", "clone", "closure"})
"""Sorts of events that may have to be written otherwise."""

BLOCKS = ("body", "orelse", "finalbody")


class Flow:
    """One way through a function and the methods of its class that it calls."""

    def __init__(self, functions: Mapping[str, Function], names: dict[str, Reached], lines: Lines) -> None:
        """Begin with the methods of a class (none for a function), what local names stand for, and the lines."""
        self.functions, self.names, self.lines = functions, names, lines
        self.inner: dict[str, Function] = {}  # functions that are defined on the way
        self.classes: dict[str, str] = {}  # local name -> the class that it was built of
        self.values: dict[str, list[ast.expr]] = {}  # local name -> all that it was made of
        self.events: list[Event] = []
        self.branch: Branch = ()
        self.tests: dict[int, ast.expr] = {}  # line of an `if` -> its condition
        self.entered: list[str] = []
        self.followed = 0
        self.whole: ast.expr | None = None  # the expression that is all of a statement
        self.many = False  # whether a statement is there for several modules, and no edit suits them all

    def run(self, body: Sequence[ast.stmt]) -> None:
        """Add the events of some statements."""
        for statement in body:
            self._statement(statement)

    def _statement(self, node: ast.stmt) -> None:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            self.inner[node.name] = node
            return
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None:
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                self._assign(target, node.value, node)
        if isinstance(node, ast.AugAssign):  # `weight.data *= 0.02`: the values are no draw any more
            scaled = reached_by(node.target, self.names)
            if scaled is not None and scaled.parameter:
                self._add("init", scaled.path, None, node)
        if isinstance(node, (ast.If, ast.Match, ast.Try)):
            self._arms(node)
            return
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Compare):
            self._compared(node, node.value)
        self.whole = node.value if isinstance(node, ast.Expr) else None
        for call in calls_of(node):
            self._call(call)
        blocks = BLOCKS[1:] if isinstance(node, ast.For) and self._rounds(node) else BLOCKS
        for block in blocks:
            self.run(getattr(node, block, ()))

    def _rounds(self, node: ast.For) -> bool:
        """Add the events of a loop over things that are written out, once for each; False for any other loop."""
        given = node.iter.elts if isinstance(node.iter, (ast.List, ast.Tuple)) else []
        if not given or self.followed + len(given) > FOLLOWED:
            return False
        self.followed += len(given)
        many, self.many = self.many, self.many or len(given) > 1
        for one in given:
            self._assign(node.target, one, node)
            self.run(node.body)
        self.many = many
        return True

    def _compared(self, node: ast.Expr, value: ast.Compare) -> None:
        """Add the event of `a.weight == b.weight` as a statement, where `=` was meant."""
        if len(value.ops) == 1 and isinstance(value.ops[0], ast.Eq):
            one, other = (reached_by(side, self.names) for side in (value.left, value.comparators[0]))
            if one is not None and other is not None and one.parameter and other.parameter:
                self._add("compare", one.path, other, node)

    def _arms(self, node: ast.If | ast.Match | ast.Try) -> None:
        if isinstance(node, ast.If):
            self.tests[node.lineno] = node.test
            for part in walked(node.test):
                if isinstance(part, ast.Call):
                    self._call(part)
                elif isinstance(part, ast.NamedExpr):
                    self._local(part.target.id, part.value)
            arms: list[Sequence[ast.stmt]] = [node.body, node.orelse]
        elif isinstance(node, ast.Match):
            arms = [case.body for case in node.cases]
        else:
            arms = [[*node.body, *node.orelse, *node.finalbody], *(handler.body for handler in node.handlers)]
        for number, arm in enumerate(arms):
            before, self.branch = self.branch, (*self.branch, (node.lineno, number))
            self.run(arm)
            self.branch = before
        leaving = next((i for i, arm in enumerate(arms) if arm and isinstance(arm[-1], (ast.Return, ast.Raise))), None)
        if leaving is not None and isinstance(node, ast.If):  # what follows is the other arm
            self.branch = (*self.branch, (node.lineno, 1 - leaving))

    def _assign(self, target: ast.expr, value: ast.expr, place: ast.stmt) -> None:
        if isinstance(target, (ast.Tuple, ast.List)):
            if isinstance(value, (ast.Tuple, ast.List)) and len(value.elts) == len(target.elts):
                for one, other in zip(target.elts, value.elts, strict=True):
                    self._assign(one, other, place)
            return
        if isinstance(value, ast.IfExp):
            self.tests[value.lineno] = value.test
            for number, arm in enumerate((value.body, value.orelse)):
                before, self.branch = self.branch, (*self.branch, (value.lineno, number))
                self._assign(target, arm, place)
                self.branch = before
            return
        if isinstance(value, ast.NamedExpr):
            self._local(value.target.id, value.value)
        if isinstance(target, ast.Name):
            self._local(target.id, value)
            return
        written = reached_by(target, self.names)
        if written is not None and written.path:
            self._write(written, value, place)

    def _local(self, name: str, value: ast.expr) -> None:
        """Remember what a local name stands for."""
        self.values.setdefault(name, []).append(value)
        self.classes.pop(name, None)
        found = reached_by(value, self.names)
        if found is not None and found.path:
            self.names[name] = found
            return
        self.names.pop(name, None)
        built = called_name(self._made_by(value))
        if built and built.rpartition(".")[2][:1].isupper():
            self.classes[name] = built

    def _function(self, name: str) -> Function | None:
        """Return the function of the class, or of this function, that a name calls."""
        return self.functions.get(name[5:]) if name.startswith("self.") else self.inner.get(name)

    def _made_by(self, value: ast.expr) -> ast.expr:
        """Return the call of a class that a function has as its one `return`, for a call of the function."""
        function = self._function(called_name(value))
        returned = [node.value for node in walked(function) if isinstance(node, ast.Return)] if function else []
        made = returned[0] if len(returned) == 1 else None
        return made if made and called_name(made).rpartition(".")[2][:1].isupper() else value

    def _write(self, written: Reached, value: ast.expr, place: ast.AST) -> None:
        """Add the event of an assignment to a path."""
        found = reached_by(value, self.names)
        if found is not None and found.path == written.path:
            if isinstance(value, ast.Name) and not found.form:  # `self.emb = emb`, the argument of that name
                self._add("alias", written.path, found, place)
            return
        if written.form:
            if written.form[-1] == "data":
                self._add("data" if found and found.parameter else "init", written.path, found, place)
            return
        if found is not None and found.path:
            self._add(kind_of_event(written, found), written.path, found, place)
            return
        self._other_value(written.path, value, place)

    def _other_value(self, path: str, value: ast.expr, place: ast.AST) -> None:
        """Add the event of a value that is no path: something built, a list of modules, a closure."""
        closure: ast.AST | None = self.inner.get(value.id) if isinstance(value, ast.Name) else None
        if closure or isinstance(value, ast.Lambda) or called_name(value).rpartition(".")[2] == "partial":
            for read in closed_over(closure or value, self.names):
                self._add("closure", path, Reached(read, ()), place)
            return
        called, value = value, self._made_by(value)
        form = "kept" if any(keeps(one, path, self.names, self.values, set()) for one in (called, value)) else ""
        if isinstance(value, ast.Name) and value.id in self.classes:
            self._event("build", path, self.classes[value.id], place, form)
            return
        built = called_name(value)
        last = built.rpartition(".")[2]
        if isinstance(value, ast.Call) and last[:1].isupper():
            self._event("build", path, built, place, form)
            if last in LISTS:
                self._inside(path, value)
        elif last not in PARAMETER:
            self._event("build", path, "", place, form)  # something else, whatever it is: the name is bound anew
        part = copied_each(value.args[0] if last in LISTS and isinstance(value, ast.Call) and value.args else value)
        if part is not None and (copied := reached_by(part, self.names)) and copied.path:
            self._add("clone", path, copied, place)

    def _inside(self, path: str, value: ast.Call) -> None:
        """Add the modules that a container is given by name or place."""
        for name, one in entries_of(value):
            built = called_name(one)
            if built and built.rpartition(".")[2][:1].isupper():
                self._event("build", f"{path}.{name}", built, one)

    def _call(self, node: ast.Call) -> None:
        """Add the events of a call, and follow it into a method of the class."""
        name = called_name(node)
        last = node.func.attr if isinstance(node.func, ast.Attribute) else name
        owner = reached_by(node.func.value, self.names) if isinstance(node.func, ast.Attribute) else None
        if isinstance(node.func, ast.Attribute) and node.func.attr.endswith("_") and owner and owner.parameter:
            source = reached_by(node.args[0], self.names) if node.args and node.func.attr == "copy_" else None
            self._add("copy" if source else "init", owner.path, source, node)
        elif isinstance(node.func, ast.Attribute) and node.func.attr in DRAWS and ".init." not in name and not owner:
            self._add("init", "*", None, node)  # of a loop over parameters()
        elif ".init." in f".{name}" and node.args:
            filled = reached_by(node.args[0], self.names)
            if filled is not None and filled.parameter:
                self._add("init", filled.path, None, node)
        elif function := self._function(name):
            if self._enter(function, node):
                return
        elif last in INITIALISERS and isinstance(node.func, ast.Attribute):
            self._loaded(node, owner if last == "load_state_dict" else None)
            self._add("init", owner.path if owner and owner.path else "*", None, node)
        elif last in ("setattr", "register_parameter", "register_module", "add_module"):
            self._registered(node, last, owner)
        if RETYING.search(last):
            self._event("retie", owner.path if owner else "", name or last, node)

    def _loaded(self, node: ast.Call, owner: Reached | None) -> None:
        """Add the event of `head.load_state_dict(table.state_dict())`, which copies what the other holds."""
        state = node.args[0] if node.args else None
        if isinstance(state, ast.Name):
            made = self.values.get(state.id, [])
            state = made[0] if len(made) == 1 else None
        read = state.func if isinstance(state, ast.Call) and isinstance(state.func, ast.Attribute) else None
        table = reached_by(read.value, self.names) if read is not None and read.attr == "state_dict" else None
        if owner is None or table is None or not owner.path or not table.path or owner.form or table.form:
            return
        assigned = any(word.arg == "assign" for word in node.keywords)
        weight = Reached(f"{table.path}.weight", ())
        self._add("parameter" if assigned else "copy", f"{owner.path}.weight", weight, node)

    def _registered(self, node: ast.Call, last: str, owner: Reached | None) -> None:
        """Add the event of `setattr(module, "weight", ...)` and its kind."""
        given = node.args if last == "setattr" else [node.func, *node.args]
        if len(given) != 3 or not isinstance(given[1], ast.Constant) or not isinstance(given[1].value, str):
            return
        base = reached_by(given[0], self.names) if last == "setattr" else owner
        if base is not None and not base.form:
            self._write(Reached(f"{base.path}.{given[1].value}".lstrip("."), ()), given[2], node)

    def _enter(self, function: Function, call: ast.Call) -> bool:
        """Add the events of a function of the class, or of this one; False where that would lead too far."""
        if function.name in self.entered or function.name == "forward":
            return True
        if len(self.entered) >= DEPTH or self.followed == FOLLOWED:
            return False
        self.followed += 1
        outer = self.names, self.inner, self.many
        given = given_to(function, call, self.names)
        if function is self.functions.get(function.name):
            self.names = {key: found for key, found in self.names.items() if not found.path}
            self.inner = {}
        self.names = {key: found for key, found in {**self.names, **given}.items() if found}
        self.many = self.many or writes_to(function, given)
        self.entered.append(function.name)
        self.run(function.body)
        self.entered.pop()
        self.names, self.inner, self.many = outer
        return True

    def _add(self, kind: EventKind, target: str, found: Reached | None, place: ast.AST) -> None:
        path, form = (found.path, " ".join(found.form)) if found else ("", "")
        self._event(kind, target, path, place, form)

    def _event(self, kind: EventKind, target: str, source: str, place: ast.AST, form: str = "") -> None:
        line, column = getattr(place, "lineno", 1), getattr(place, "col_offset", 0) + 1
        told = kind in WRITTEN and not self.many
        statement, sides = written_sides(place, self.whole, self.names, self.lines) if told else ("", ())
        self.events.append(Event(kind, target, source, line, column, self.branch, form, statement, sides))
