"""Head and embedding in vLLM's and SGLang's model classes, read from their source as syntax trees."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from tiecheck.tables.generate.engines_ast import (
    FLAG,
    Class,
    Condition,
    Tree,
    Unrecognised,
    class_lineage,
    dotted_chain,
    mentions_text,
    name_called,
)
from tiecheck.tables.generate.engines_load import load_of
from tiecheck.tables.generate.engines_scope import DYNAMIC, EMBEDDINGS, GIVEN, Scope, Write, head_writes


class ClassFacts(NamedTuple):
    """The fields of a line of the table: a class's tie, its flag and its head."""

    tie: str
    """`flag`, `always`, `never`, `inner`; `unknown:REASON` otherwise."""
    level: str = ""
    """The config level that the flag is read from, dotted; `text()` for `get_text_config()`, and `>` before a level
    that the top one is copied to before it is read."""
    default: str = "-"
    """Value it takes an absent flag for: `0`, `1`, or `-` where it reads the attribute outright."""
    head: str = "-"
    """A stored head while tied: `skip`, `alias`, `load`, `keyerror`; `unknown:REASON` otherwise."""
    inner: str = ""
    """The class that holds embedding and head, for a composite; empty where the config names it."""


def tie_of(found: Class) -> ClassFacts:
    """Read what a class's constructor does with the head.

    Raises:
        Unrecognised: It is none of the known patterns.
    """
    for owner in class_lineage(found):
        init = next((n for n in owner.node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
        if init is None:
            continue
        made = list(head_writes(init))
        if made:
            return _judge(Scope(owner, init), made)
        inner = _inner_of(owner, init)
        if inner is not None:
            return inner
        if "super" not in ast.unparse(init):
            break
    if _headless(found):
        return ClassFacts("always", head="none")
    raise Unrecognised("no assignment of a head was found")


def _headless(found: Class) -> bool:
    """Return True where the class makes its logits from the embedding itself, without a head module."""
    return any(
        name_called(node) == "logits_processor"
        and isinstance(node, ast.Call)
        and any((dotted_chain(a) or "").split(".")[-1] in EMBEDDINGS for a in node.args)
        for owner in class_lineage(found)
        for node in ast.walk(owner.node)
    )


def _judge(scope: Scope, made: list[Write]) -> ClassFacts:
    """Judge how a class ties, by all the assignments to its head."""
    ties = [w for w in made if w.ties]
    own = [w for w in made if not w.ties]
    if not ties and all(not w.conditions for w in own):
        return ClassFacts("never")
    if not ties:
        if len(own) != 1:
            raise Unrecognised(f"the head stands under {_text(own[0].conditions)}")
        return ClassFacts("flag", *_asked(scope, own[0].conditions, "head", False), head="none")
    if any(not w.conditions for w in ties):
        if any(w.conditions for w in own):
            raise Unrecognised("tied and own head both without a common condition")
        return ClassFacts("always")
    found = {_asked(scope, write.conditions, "tie", True) for write in ties}
    if len(found) != 1:
        raise Unrecognised("the tie stands under several flags")
    return ClassFacts("flag", *found.pop())


def _asked(scope: Scope, conditions: Condition, what: str, wanted: bool) -> tuple[str, str]:
    """Level and default of the one flag that an assignment stands under.

    Raises:
        Unrecognised: It stands under something else.
    """
    if len(conditions) == 1:
        test, value = conditions[0]
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            test, value = test.operand, not value
        read = scope.flag(test)
        if read is not None and value is wanted:
            return read
    raise Unrecognised(f"the {what} stands under {_text(conditions)}")


def _text(conditions: Condition) -> str:
    return " and ".join(ast.unparse(t) if v else f"not ({ast.unparse(t)})" for t, v in conditions)[:90]


def _inner_of(owner: Class, init: ast.FunctionDef) -> ClassFacts | None:
    """The language model that a composite builds, where it builds exactly one that is seen."""
    scope, found = Scope(owner, init), set()
    for node in ast.walk(init):
        if not isinstance(node, ast.Call):
            continue
        if name_called(node) == DYNAMIC:
            found.add(_registered(scope, node))
            continue
        name = name_called(node)
        inner = owner.module.find(name) if isinstance(node.func, ast.Name) else None
        if inner is not None and name.endswith(("ForCausalLM", "LMHeadModel")) and node.args + node.keywords:
            given = node.args[0] if node.args else next((k.value for k in node.keywords if k.arg in GIVEN), None)
            level = scope.given(given) if given is not None else None
            if level is None:
                raise Unrecognised(f"{name} is given a config whose level was not seen")
            found.add(ClassFacts("inner", level, inner=name))
    if len(found) > 1:
        raise Unrecognised("it builds several language models")
    return found.pop() if found else None


def _registered(scope: Scope, node: ast.Call) -> ClassFacts:
    """Return what vLLM's helper for inner models is asked to build."""
    given = {k.arg: k.value for k in node.keywords}
    level = scope.level(given["hf_config"]) if "hf_config" in given else ""
    level = level and f">{level}"
    if level is None:
        raise Unrecognised(f"the inner model's config is {ast.unparse(given['hf_config'])[:60]}")
    named = given.get("architectures")
    if named is not None and (dotted_chain(named) or "").endswith("_config.architectures"):
        named = None
    if isinstance(named, ast.List) and len(named.elts) == 1 and isinstance(named.elts[0], ast.Constant):
        return ClassFacts("inner", level, inner=str(named.elts[0].value))
    if named is not None:
        raise Unrecognised(f"the inner model is {ast.unparse(named)[:60]}")
    return ClassFacts("inner", level)


def class_facts(found: Class, alias: bool, classes: Mapping[str, Class]) -> ClassFacts:
    """Return the table's fields of one class.

    Args:
        found: The class.
        alias: Whether the engine's `AutoWeightsLoader` skips names that are tied to another.
        classes: The engine's classes by architecture, for a composite that names its language model.
    """
    try:
        tie = tie_of(found)
    except Unrecognised as reason:
        return ClassFacts(f"unknown:{reason}")
    try:
        head = load_of(found, alias, tie.tie, tie.head == "none")
    except Unrecognised as reason:
        head = f"unknown:{reason}"
    if tie.tie == "never":
        return _never(found, head)
    if tie.tie != "inner" or not tie.inner:
        return tie._replace(head=head)
    inner = classes.get(tie.inner) or found.module.find(tie.inner)
    if inner is None or inner.name == found.name:
        return ClassFacts(f"unknown:its language model {tie.inner} was not found")
    below = class_facts(inner, alias, classes)
    joined = ".".join(part for part in (tie.level.lstrip(">"), below.level) if part)
    joined = f">{joined}" if tie.level.startswith(">") and below.tie == "flag" else joined
    return below._replace(level=joined, head=below.head if head == "pass" else head, inner=below.inner)


def _never(found: Class, head: str) -> ClassFacts:
    """A head of its own, unless the class asks for the flag elsewhere or copies the embedding while it loads."""
    if any(mentions_text(owner.node, FLAG) for owner in class_lineage(found)):
        return ClassFacts(f"unknown:a head of its own, yet the class mentions {FLAG}")
    return ClassFacts("never", head=head if head.startswith("unknown") else "-")


def vllm_classes(root: Path) -> tuple[Mapping[str, Class], bool]:
    """Architecture -> class of a vLLM source tree, and whether its weight loader skips tied names."""
    models = root / "vllm/model_executor/models"
    tree = Tree(models, root)
    registry = tree.parse(models / "registry.py").names
    found: dict[str, Class] = {}
    for table in ("_MULTIMODAL_MODELS", "_TEXT_GENERATION_MODELS"):
        entries = registry[table]
        if not isinstance(entries, ast.Dict):
            raise Unrecognised(f"{table} is no dict")
        for key, value in zip(entries.keys, entries.values, strict=True):
            if not isinstance(key, ast.Constant) or not isinstance(value, ast.Tuple):
                continue
            module, name = (str(e.value) for e in value.elts if isinstance(e, ast.Constant))
            path = root.joinpath(*module.split(".")) if "." in module else models / module
            file = path.with_suffix(".py") if path.with_suffix(".py").is_file() else path / "__init__.py"
            here = tree.parse(file).find(name) if file.is_file() else None
            if here is not None:
                found[str(key.value)] = here
    return found, "_get_tied_embedding_params" in (models / "utils.py").read_text(encoding="utf-8")


def sglang_classes(root: Path) -> Mapping[str, Class]:
    """Architecture -> class of a SGLang source tree: what its files name as `EntryClass`."""
    tree = Tree(root / "sglang/srt/models", root)
    found: dict[str, Class] = {}
    for path in sorted(tree.folder.glob("*.py")):
        module = tree.parse(path)
        entry = module.names.get("EntryClass")
        names = entry.elts if isinstance(entry, ast.List | ast.Tuple) else [entry] if entry is not None else []
        for name in names:
            here = module.find(name.id) if isinstance(name, ast.Name) else None
            if here is not None:
                found[here.name] = here
    return found
