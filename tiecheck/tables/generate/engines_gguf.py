"""Facts about head and embedding in llama.cpp's converter and loader.

The converter's classes are read as syntax trees, the loader's C++ as text: one function a model, in one style.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
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
    walked_statements,
)

HEAD = "lm_head"
METHODS = (
    "filter_tensors",
    "modify_tensors",
    "generate_extra_tensors",
    "prepare_tensors",
    "get_tensors",
    "index_tensors",
)
NOT_READ = "the loader reads the head in a way that was not recognised"
ROOTS = frozenset({"TextModel", "ModelBase", "MmprojModel"})


class GgufFacts(NamedTuple):
    """The two facts about one architecture."""

    out: str
    """`output.weight` in the loader: `required`, `fallback` (to the embedding), `embedding` (never read)."""
    head: str
    """A stored head in the converter: `keep`, `skip`, `flag` (skipped where the flag is true), `unmapped`."""


def gguf_facts(
    root: Path,
) -> tuple[Mapping[str, GgufFacts | str], Mapping[str, tuple[str, ...]], Mapping[str, str]]:
    """Architecture -> facts or the reason of an unknown; the converter's names of the two tensors; the loaders' way.

    The last by GGUF's own architectures: what each loader does with `output.weight`.
    """
    tree = Tree(root / "conversion", root)
    gguf = root / "gguf-py/gguf"
    tensors = _tensors(gguf / "constants.py")
    written = _gguf_names(gguf / "constants.py")
    loaders = _loaders(root / "src", written)
    names = _dict(root / "conversion/__init__.py", "TEXT_MODEL_MAP")
    found: dict[str, GgufFacts | str] = {}
    for key, value in zip(names.keys, names.values, strict=True):
        if not isinstance(key, ast.Constant) or not isinstance(value, ast.Constant):
            continue
        try:
            found[str(key.value)] = _facts(tree, str(key.value), str(value.value), tensors, loaders)
        except Unrecognised as reason:
            found[str(key.value)] = str(reason)
    mapping = (gguf / "tensor_mapping.py").read_text(encoding="utf-8")
    own = {name: loaders[arch] for arch, name in written.items()}
    return found, {kind: _mapped(mapping, kind) for kind in ("TOKEN_EMBD", "OUTPUT")}, own


def _mapped(text: str, kind: str) -> tuple[str, ...]:
    block = re.search(rf"MODEL_TENSOR\.{kind}: \((.*?)\n        \),", text, re.DOTALL)
    return tuple(re.findall(r'^\s+"([^"]+)",', block[1], re.MULTILINE)) if block else ()


def _dict(path: Path, name: str) -> ast.Dict:
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        targets = [node.target] if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [])
        if any(dotted_chain(t) == name for t in targets) and isinstance(getattr(node, "value", None), ast.Dict):
            found: ast.Dict = node.value  # type: ignore[attr-defined]
            return found
    raise Unrecognised(f"{name} was not found")


def _tensors(path: Path) -> Mapping[str, frozenset[str]]:
    """`MODEL_ARCH` -> the tensors it may have."""
    table = _dict(path, "MODEL_TENSORS")
    return {
        (dotted_chain(k) or "").split(".")[-1]: frozenset((dotted_chain(e) or "").split(".")[-1] for e in v.elts)
        for k, v in zip(table.keys, table.values, strict=True)
        if k is not None and isinstance(v, ast.List)
    }


def _gguf_names(path: Path) -> Mapping[str, str]:
    table = _dict(path, "MODEL_ARCH_NAMES")
    return {
        (dotted_chain(k) or "").split(".")[-1]: str(v.value)
        for k, v in zip(table.keys, table.values, strict=True)
        if k is not None and isinstance(v, ast.Constant)
    }


def _loaders(source: Path, names: Mapping[str, str]) -> Mapping[str, str]:
    """`MODEL_ARCH` -> what its loader does with the head; `unknown:REASON` where that was not recognised."""
    arch = dict(
        re.findall(r'\{\s*(LLM_ARCH_\w+),\s*"([^"]+)"', (source / "llama-arch.cpp").read_text(encoding="utf-8"))
    )
    by_name = {name: key for key, name in arch.items()}
    model = (source / "llama-model.cpp").read_text(encoding="utf-8")
    made: dict[str, str] = {}
    for cases, name in re.findall(r"((?:case LLM_ARCH_\w+:\s*)+)return new (llama_model_\w+)\(", model):
        made |= dict.fromkeys(re.findall(r"LLM_ARCH_\w+", cases), name)
    header = (source / "models/models.h").read_text(encoding="utf-8")
    above = dict(re.findall(r"struct (llama_model_\w+)\s*:\s*public (llama_model_\w+)", header))
    bodies: dict[str, str] = {}
    pattern = re.compile(r"^void (llama_model_\w+)::load_arch_tensors\(.*?\{\n(.*?)^\}", re.DOTALL | re.MULTILINE)
    for path in sorted((source / "models").glob("*.cpp")):
        text = path.read_text(encoding="utf-8")
        used = "build_lora_mm(model.tok_embd" in text  # a graph that multiplies by it has a head
        bodies |= {name: body + "TENSOR_DUPLICATED" * used for name, body in pattern.findall(text)}
    found = {}
    for key, gguf in names.items():
        name = made.get(by_name.get(gguf, ""))
        while name is not None and name not in bodies:
            name = above.get(name)
        found[key] = _loader(bodies[name]) if name is not None else "unknown:its loader was not found"
    return found


def _loader(body: str) -> str:
    """Tell what one `load_arch_tensors` does with `output`."""
    body = re.sub(r"//[^\n]*", "", body)
    lines = re.findall(r"^ *output\s*=\s*(.*?);", body, re.MULTILINE)
    kinds = [re.search(r'LLM_TENSOR_(\w+),\s*"weight"', line) for line in lines]
    flags = [line.rsplit(",", 1)[-1].strip(" )") for line in lines]
    read = [(k[1] if k else "?", f) for k, f in zip(kinds, flags, strict=True)]
    if read == [("OUTPUT", "0")]:
        return "required"
    if read == [("OUTPUT", "TENSOR_NOT_REQUIRED"), ("TOKEN_EMBD", "TENSOR_DUPLICATED")]:
        guarded = re.search(r"if \((?:output == (?:NULL|nullptr)|!output)\)", body)
        return "fallback" if guarded else "unknown:the fallback stands under a condition that was not recognised"
    if read == [("TOKEN_EMBD", "TENSOR_DUPLICATED")]:
        return "embedding"
    if not read and "LLM_TENSOR_OUTPUT," not in body and "TENSOR_DUPLICATED" not in body:
        return "none"
    return f"unknown:{NOT_READ}"


def _facts(
    tree: Tree, name: str, module: str, tensors: Mapping[str, frozenset[str]], loaders: Mapping[str, str]
) -> GgufFacts:
    found = _registered(tree, name, module)
    arch = _arch(found)
    if arch not in tensors or arch not in loaders:
        raise Unrecognised(f"nothing is known of MODEL_ARCH.{arch}")
    if loaders[arch] == "none":
        raise Unrecognised(NOT_READ)
    if loaders[arch].startswith("unknown"):
        raise Unrecognised(loaders[arch].partition(":")[2])
    head = _converted(found)
    return GgufFacts(loaders[arch], "unmapped" if head == "keep" and "OUTPUT" not in tensors[arch] else head)


def _registered(tree: Tree, name: str, module: str) -> Class:
    """The text model's class that registers an architecture."""
    parsed = tree.module(module)
    found = []
    for node in parsed.classes.values() if parsed is not None else ():
        for decorator in node.decorator_list:
            registers = isinstance(decorator, ast.Call) and dotted_chain(decorator.func) == "ModelBase.register"
            given = decorator.args if isinstance(decorator, ast.Call) and registers else []
            if parsed is not None and any(isinstance(a, ast.Constant) and a.value == name for a in given):
                found.append(Class(node.name, parsed, node))
    text = [
        c
        for c in found
        if not any(isinstance(b, ast.Name) and b.id == "MmprojModel" for o in class_lineage(c) for b in o.node.bases)
    ]
    if len(text) != 1:
        raise Unrecognised("the class that registers it was not found")
    return text[0]


def _own(found: Class) -> Iterator[Class]:
    """A class and its bases up to the common ones."""
    return (owner for owner in class_lineage(found) if owner.name not in ROOTS)


def _arch(found: Class) -> str:
    """The `MODEL_ARCH` of a class; draft models, which some classes turn into, are left aside."""
    for owner in _own(found):
        for node in owner.node.body:
            if isinstance(node, ast.Assign) and dotted_chain(node.targets[0]) == "model_arch":
                arch = (dotted_chain(node.value) or "?").split(".")[-1]
                changed = {
                    (dotted_chain(s.value) or "?").split(".")[-1]
                    for above in _own(found)
                    for s in ast.walk(above.node)
                    if isinstance(s, ast.Assign) and dotted_chain(s.targets[0]) == "self.model_arch"
                }
                if changed - {"EAGLE3", "DFLASH", arch}:
                    raise Unrecognised("the converter chooses the architecture at run time")
                return arch
    raise Unrecognised("the converter's class has no model_arch")


def _converted(found: Class) -> str:
    """Tell what the converter's own methods do with the head's name."""
    dropped: set[str] = set()
    for owner in _own(found):
        for node in owner.node.body:
            if isinstance(node, ast.FunctionDef) and node.name in METHODS:
                dropped |= set(_drops(node))
    if len(dropped) > 1:
        raise Unrecognised("the converter names the head in several ways")
    return dropped.pop() if dropped else "keep"


def _drops(function: ast.FunctionDef) -> Iterator[str]:
    """`skip` or `flag` for a return that the head runs into; raises for any other mention of it."""
    seen: set[ast.AST] = set()
    for node in ast.walk(function):
        if isinstance(node, ast.Tuple | ast.Set | ast.List) and mentions_text(node, "embed_tokens"):
            seen |= set(ast.walk(node))
        if isinstance(node, ast.If) and mentions_text(node.test, "is_rerank"):
            seen |= {n for s in node.body for n in ast.walk(s)}
        if isinstance(node, ast.Attribute) and node.attr == "OUTPUT":
            raise Unrecognised("the converter treats the tensor that becomes the output apart")
    for statement, above in walked_statements(function.body):
        if isinstance(statement, ast.Return) and _empty(statement.value) and above:
            tests = [t for t, value in above if value and mentions_text(t, HEAD)]
            if len(tests) == 1 and _plain(tests[0]):
                seen |= set(ast.walk(tests[0]))
                yield _under([(t, v) for t, v in above if t is not tests[0]])
        if isinstance(statement, ast.Expr) and mentions_text(statement, "info"):
            seen |= set(ast.walk(statement))
    if any(
        isinstance(n, ast.Constant) and isinstance(n.value, str) and HEAD in n.value and n not in seen
        for n in ast.walk(function)
    ):
        raise Unrecognised("the converter names the head in a way that was not recognised")


def _under(rest: list[tuple[ast.expr, bool]] | Condition) -> str:
    if not rest:
        return "skip"
    if len(rest) == 1 and rest[0][1] and ast.unparse(rest[0][0]) == f"self.hparams.get('{FLAG}', False)":
        return "flag"
    raise Unrecognised(f"the converter skips the head under {ast.unparse(rest[0][0])[:60]}")


def _empty(value: ast.expr | None) -> bool:
    return (
        value is None
        or (isinstance(value, ast.Constant) and value.value is None)
        or (isinstance(value, ast.List) and not value.elts)
    )


def _plain(test: ast.expr) -> bool:
    """Return True where a test asks for the head's name alone."""
    parts = test.values if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.Or) else [test]
    return all(
        isinstance(p, ast.Compare) and isinstance(p.ops[0], ast.Eq) and dotted_chain(p.left) == "name" for p in parts
    )
