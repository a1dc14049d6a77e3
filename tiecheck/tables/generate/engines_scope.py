"""Names in a constructor of vLLM or SGLang: config levels, flags, and assignments to the head."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import NamedTuple

from tiecheck.tables.generate.engines_ast import (
    FLAG,
    Class,
    Condition,
    dotted_chain,
    mentions_text,
    name_called,
    walked_statements,
)

EMBEDDINGS = ("embed_tokens", "wte", "word_embeddings", "embeddings", "embed_in", "embedding", "tok_embeddings")
HEADS = ("lm_head", "embed_out", "output", "head")
MADE = ("ParallelLMHead", "ReplicatedLinear", "ColumnParallelLinear", "Linear", "RowParallelLinear")
GIVEN = ("config", "vllm_config")
DYNAMIC = "init_vllm_registered_model"
SOURCES = {
    "vllm_config.model_config.hf_config": "",
    "vllm_config.model_config.hf_text_config": "text()",
    "model_config.hf_config": "",
}


class Scope:
    """The config levels that names of one `__init__` stand for, and the flags that were put under a name."""

    def __init__(self, owner: Class, init: ast.FunctionDef) -> None:
        """Reads the assignments of a constructor."""
        self.owner = owner
        self.levels: dict[str, str] = dict(SOURCES)
        self.values: dict[str, ast.expr] = {}
        arguments = {a.arg for a in (*init.args.args, *init.args.kwonlyargs)}
        if "config" in arguments:
            self.levels["config"] = ""
        for statement, above in walked_statements(init.body):
            if isinstance(statement, ast.AnnAssign) and statement.value is not None:
                self._assign([statement.target], statement.value, without_ranks(above))
            elif isinstance(statement, ast.Assign):
                self._assign(statement.targets, statement.value, without_ranks(above))

    def _assign(self, targets: list[ast.expr], value: ast.expr, above: Condition) -> None:
        level = self.level(value)
        for target in targets:
            name = dotted_chain(target)
            if name is None:
                continue
            if level is not None:
                self.levels[name] = level if self.levels.get(name, level) == level else "?"
            elif name in self.levels and name not in SOURCES:
                self.levels[name] = "?"
            if mentions_text(value, FLAG):
                # Set under a condition, it holds one thing or another: a constant is no read of the flag.
                self.values[name] = ast.Constant(None) if above else value

    def level(self, node: ast.expr) -> str | None:
        """The config level an expression stands for; None where that is not seen."""
        name = dotted_chain(node)
        if name is None:
            return None
        if name in self.levels:
            return None if self.levels[name] == "?" else self.levels[name]
        if name.endswith(".get_text_config()") and isinstance(node, ast.Call):
            above = self.level(node.func.value) if isinstance(node.func, ast.Attribute) else None
            return "text()" if above == "" else None
        if isinstance(node, ast.Attribute) and node.attr.endswith("_config"):
            above = self.level(node.value)
            return None if above is None or above == "text()" else f"{above}.{node.attr}".lstrip(".")
        return None

    def given(self, node: ast.expr) -> str | None:
        """The level of the config that an inner model is given, plain or inside vLLM's own config."""
        if dotted_chain(node) == "vllm_config":
            return ""
        if name_called(node) == "with_hf_config" and isinstance(node, ast.Call) and node.args:
            level = self.level(node.args[0])
            return level and f">{level}"
        return self.level(node)

    def flag(self, test: ast.expr) -> tuple[str, str] | None:
        """Level and default of a test that is one read of the flag; None for any other test."""
        name = dotted_chain(test)
        if name in self.values:
            value = self.values[name]
            return None if dotted_chain(value) == name else self.flag(value)
        if isinstance(test, ast.Attribute) and test.attr == FLAG:
            level = self.level(test.value)
            return None if level is None else (level, "-")
        if name_called(test) == "bool" and isinstance(test, ast.Call) and len(test.args) == 1:
            return self.flag(test.args[0])
        if name_called(test) == "getattr" and isinstance(test, ast.Call) and len(test.args) == 3:
            base, key, default = test.args
            level = self.level(base)
            if level is None or not isinstance(key, ast.Constant) or key.value != FLAG:
                return None
            if isinstance(default, ast.Constant) and isinstance(default.value, bool):
                return level, str(int(default.value))
        return None


def without_ranks(conditions: Condition) -> Condition:
    """Conditions without those on pipeline ranks: a model on one device is its first and its last rank."""
    kept = []
    for test, value in conditions:
        parts = test.values if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And) else [test]
        rest = [part for part in parts if not _of_ranks(part)]
        if len(rest) == 1:
            kept.append((rest[0], value))
        elif rest:
            kept.append((test, value))
    return tuple(kept)


def _of_ranks(test: ast.expr) -> bool:
    """Return True where a test asks for a pipeline rank, an encoder alone, or a CPU build: one GPU holds the whole."""
    text = ast.unparse(test)
    ends = ("is_last_rank", "is_first_rank", "pp_size == 1", "world_size == 1")
    return FLAG not in text and (text.endswith(ends) or "encoder_only" in text or "_is_cpu" in text)


def _dead(conditions: Condition) -> bool:
    """Return True where a branch is one of a pipeline of several ranks only."""
    return any(
        ("world_size > 1" in ast.unparse(test) and value)
        or (_of_ranks(test) and not value and "encoder_only" not in ast.unparse(test))
        for test, value in conditions
    )


class Write(NamedTuple):
    """One assignment to the head."""

    ties: bool
    """True where it makes the head the embedding."""
    conditions: Condition
    """The tests it stands under, ranks left out."""


def head_writes(init: ast.FunctionDef) -> Iterator[Write]:
    """Every assignment to the head in a constructor."""
    for statement, above in walked_statements(init.body):
        if not isinstance(statement, ast.Assign) or _dead(above):
            continue
        name = dotted_chain(statement.targets[0]) or ""
        parts = name.split(".")
        if parts[0] != "self" or len(parts) < 2 or parts[1] not in HEADS:
            continue
        value = statement.value
        if name_called(value) in {"PPMissingLayer", "float", "to"} or (
            isinstance(value, ast.Constant) and value.value is None
        ):
            continue
        if parts[1] in HEADS[2:] and name_called(value) not in {*MADE, "tie_weights"}:
            continue
        if isinstance(value, ast.IfExp):
            yield Write(_embedding(value.body), without_ranks((*above, (value.test, True))))
            yield Write(_embedding(value.orelse), without_ranks((*above, (value.test, False))))
        elif len(parts) == 2 or parts[2:] == ["weight"]:
            yield Write(_embedding(value), without_ranks(above))


def _embedding(value: ast.expr) -> bool:
    """Return True where a value is the embedding, or a head tied to it."""
    if name_called(value) == "tie_weights" and isinstance(value, ast.Call) and value.args:
        return _embedding(value.args[0])
    name = (dotted_chain(value) or "").removesuffix(".weight")
    return name.split(".")[-1] in EMBEDDINGS
