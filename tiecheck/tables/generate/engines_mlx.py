"""Head and embedding in mlx-lm's models, read from their source as syntax trees."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path

from tiecheck.tables.generate.engines_ast import (
    FLAG,
    Class,
    Tree,
    Unrecognised,
    class_lineage,
    dotted_chain,
    mentions_text,
    name_called,
    nearest_method,
    walked_statements,
)
from tiecheck.tables.generate.engines_scope import HEADS
from tiecheck.tables.generate.engines_torch import ClassFacts

EMBEDDING = "as_linear"


def mlx_facts(root: Path) -> Mapping[str, ClassFacts]:
    """Model type -> facts of every model file of an mlx-lm tree, aliases of `MODEL_REMAPPING` among them."""
    folder = root / "mlx_lm/models"
    tree = Tree(folder, root)
    found: dict[str, ClassFacts] = {}
    for path in sorted(folder.glob("*.py")):
        model = tree.parse(path).find("Model")
        if model is not None and model.module.path == path:
            found[path.stem] = _facts(model)
    aliases = tree.parse(root / "mlx_lm/utils.py").names["MODEL_REMAPPING"]
    if not isinstance(aliases, ast.Dict):
        raise Unrecognised("MODEL_REMAPPING is no dict")
    for key, value in zip(aliases.keys, aliases.values, strict=True):
        if isinstance(key, ast.Constant) and isinstance(value, ast.Constant):
            found[str(key.value)] = found[str(value.value)]
    return found


def _facts(model: Class) -> ClassFacts:
    try:
        facts = _tie(model)
    except Unrecognised as reason:
        return ClassFacts(f"unknown:{reason}")
    if facts.tie == "inner":
        return _composite(model, facts)
    if facts.tie == "absent":
        return facts
    try:
        head = _sanitized(model)
    except Unrecognised as reason:
        head = f"unknown:{reason}"
    if facts.tie == "never":
        return facts if head == "refuse" else ClassFacts("unknown:a head of its own, yet sanitize names it")
    return facts._replace(head=head)


def _tie(model: Class) -> ClassFacts:
    """Tell what the constructor does: a head under `not flag`, always, or none at all.

    Raises:
        Unrecognised: It is none of the known patterns.
    """
    defined = nearest_method(model, "__init__")
    if defined is None:
        raise Unrecognised("no constructor was found")
    owner, init = defined
    made, inner = [], set()
    for statement, above in walked_statements(init.body):
        if not isinstance(statement, ast.Assign):
            continue
        name = dotted_chain(statement.targets[0]) or ""
        if name.removeprefix("self.") in HEADS and name_called(statement.value):
            made.append(above)
        held = _inner(statement.value)
        if held is not None and name.startswith("self."):
            inner.add((*held, name.removeprefix("self.")))
    if made:
        return _flagged(owner, init, made)
    if len(inner) == 1:
        module, level, _ = inner.pop()
        return ClassFacts("inner", level, inner=module)
    if any(name_called(n) == EMBEDDING for o in class_lineage(model) for n in ast.walk(o.node)):
        if any(mentions_text(o.node, FLAG) for o in class_lineage(model)):
            raise Unrecognised(f"no head of its own, yet the class mentions {FLAG}")
        return ClassFacts("always")
    raise Unrecognised("no assignment of a head was found")


def _inner(value: ast.expr) -> tuple[str, str] | None:
    """The module and config level of `other.Model(other.ModelArgs.from_dict(args.text_config))`."""
    name = dotted_chain(value.func) if isinstance(value, ast.Call) else None
    if name is None or not name.endswith(".Model") or name.count(".") != 1 or not isinstance(value, ast.Call):
        return None
    given = ast.unparse(value.args[0]) if len(value.args) == 1 else ""
    module = name.split(".")[0]
    for level in ("text_config", "llm_config", "language_config"):
        if given == f"{module}.ModelArgs.from_dict(args.{level})":
            return module, level
    return module, "?"


def _flagged(owner: Class, init: ast.FunctionDef, made: list[tuple[tuple[ast.expr, bool], ...]]) -> ClassFacts:
    if all(not above for above in made):
        if _tied_where_absent(owner):
            return ClassFacts("absent")
        if any(mentions_text(o.node, FLAG) for o in class_lineage(owner)):
            raise Unrecognised(f"a head of its own, yet the class mentions {FLAG}")
        return ClassFacts("never")
    for above in made:
        if len(above) != 1:
            raise Unrecognised("the head stands under several conditions")
        test, value = above[0]
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            test, value = test.operand, not value
        if value or dotted_chain(test) not in {f"args.{FLAG}", f"self.args.{FLAG}", f"config.{FLAG}", f"self.{FLAG}"}:
            raise Unrecognised(f"the head stands under {ast.unparse(above[0][0])[:60]}")
    kept = [
        s
        for s, _ in walked_statements(init.body)
        if isinstance(s, ast.Assign) and dotted_chain(s.targets[0]) == f"self.{FLAG}"
    ]
    if any(dotted_chain(s.value) not in {f"args.{FLAG}", f"config.{FLAG}"} for s in kept):
        raise Unrecognised("the flag is set by the model itself")
    return ClassFacts("flag", default=_default(owner))


def _tied_where_absent(owner: Class) -> bool:
    """Tell whether `sanitize` sets the flag of the model, where no head is stored (Gemma3)."""
    defined = nearest_method(owner, "sanitize")
    for statement, above in walked_statements(defined[1].body) if defined is not None else ():
        if isinstance(statement, ast.Assign) and dotted_chain(statement.targets[0]) == f"self.{FLAG}":
            stored = [ast.unparse(test) == "'lm_head.weight' not in weights" and value for test, value in above]
            return stored == [True] and ast.unparse(statement.value) == "True"
    return False


def _default(owner: Class) -> str:
    """Return the flag's value where the config has none: `0`, `1`, or `-` where mlx-lm wants it written.

    Raises:
        Unrecognised: The arguments' class has it in some other way.
    """
    args = owner.module.find("ModelArgs")
    for above in class_lineage(args) if args is not None else ():
        if any(
            isinstance(n, ast.FunctionDef) and n.name == "__post_init__" and mentions_text(n, FLAG)
            for n in above.node.body
        ):
            raise Unrecognised("ModelArgs sets the flag itself")
        for node in above.node.body:
            if isinstance(node, ast.AnnAssign) and dotted_chain(node.target) == FLAG:
                if node.value is None:
                    return "-"
                if isinstance(node.value, ast.Constant) and isinstance(node.value.value, bool):
                    return str(int(node.value.value))
    raise Unrecognised("ModelArgs has no such flag")


def _composite(model: Class, facts: ClassFacts) -> ClassFacts:
    """A composite: its language model's facts, where it hands config and weights on in the one known way."""
    if facts.level == "?":
        return ClassFacts("unknown:its language model is given a config whose level was not seen")
    args = model.module.find("ModelArgs")
    if args is not None and mentions_text(args.node, FLAG):
        return ClassFacts("unknown:its ModelArgs sets the flag of the text config")
    module = model.module.tree.module(facts.inner, model.module.path)
    below = module.find("Model") if module is not None else None
    if below is None:
        return ClassFacts(f"unknown:its language model {facts.inner} was not found")
    found = _facts(below)
    joined = ".".join(part for part in (facts.level, found.level) if part)
    cleaned = nearest_method(model, "sanitize")
    head = found.head
    if (
        cleaned is None
        or mentions_text(cleaned[1], "lm_head")
        or not any(
            name_called(n) == "sanitize" and "language_model" in (dotted_chain(n.func) or "")
            for n in ast.walk(cleaned[1])
            if isinstance(n, ast.Call)
        )
    ):
        head = "unknown:a composite whose sanitize was not recognised"
    return found._replace(level=joined, head=head)


def _sanitized(model: Class) -> str:
    """Tell what happens to a stored head while tied: `skip`, or `refuse` where nothing takes it away.

    Raises:
        Unrecognised: `sanitize` names the head in some other way.
    """
    defined = nearest_method(model, "sanitize")
    if defined is None:
        return "refuse"
    function = defined[1]
    if any(name_called(n) == "sanitize" for n in ast.walk(function)):
        raise Unrecognised("sanitize calls another one")
    named = [
        n
        for n in ast.walk(function)
        if isinstance(n, ast.Constant) and isinstance(n.value, str) and "lm_head" in n.value
    ]
    if not named:
        return "refuse"
    popped: set[ast.AST] = set()
    for statement, above in walked_statements(function.body):
        call = statement.value if isinstance(statement, ast.Expr) else None
        if name_called(call or statement) == "pop" and isinstance(call, ast.Call) and _flag_alone(above):
            popped |= set(ast.walk(statement)) if _names(call.args[0]) else set()
    if all(n in popped for n in named):
        return "skip"
    raise Unrecognised("sanitize names the head in a way that was not recognised")


def _flag_alone(above: tuple[tuple[ast.expr, bool], ...]) -> bool:
    return not above or (len(above) == 1 and above[0][1] and (dotted_chain(above[0][0]) or "").endswith(f".{FLAG}"))


def _names(key: ast.expr) -> bool:
    return isinstance(key, ast.Constant) and key.value in {"lm_head.weight", "language_model.lm_head.weight"}
