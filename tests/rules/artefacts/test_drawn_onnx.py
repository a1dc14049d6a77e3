"""Drawn ONNX graphs of an embedding and its head: a table that stands there twice is told, whatever the way."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import tiecheck

SEED = 20261130
Graph = tuple[list[onnx.NodeProto], dict[str, np.ndarray]]
WAYS: dict[str, Callable[[np.ndarray], Graph]] = {}
TWICE = {"equal", "transposed", "gemm", "copy_turned_in_the_graph", "through_identity", "split", "in_branches", "cast",
         "dequantised"}  # fmt: skip


def way(made: Callable[[np.ndarray], Graph]) -> Callable[[np.ndarray], Graph]:
    """Add a way to write the head."""
    WAYS[made.__name__.strip("_")] = made
    return made


def product(matrix: str, out: str = "logits") -> onnx.NodeProto:
    return helper.make_node("MatMul", ["x", matrix], [out])


def turned(table: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(table.T)


@way
def _shared(table: np.ndarray) -> Graph:
    return [helper.make_node("Transpose", ["wte"], ["t"], perm=[1, 0]), product("t")], {}


@way
def _equal(table: np.ndarray) -> Graph:
    return [helper.make_node("Gemm", ["x", "head"], ["logits"], transB=1)], {"head": table}


@way
def _gemm(table: np.ndarray) -> Graph:
    return [helper.make_node("Gemm", ["x", "head"], ["logits"])], {"head": turned(table)}


@way
def _transposed(table: np.ndarray) -> Graph:
    return [product("head")], {"head": turned(table)}


@way
def _apart(table: np.ndarray) -> Graph:
    return [product("head")], {"head": turned(table) + 1}


@way
def _copy_turned_in_the_graph(table: np.ndarray) -> Graph:
    return [helper.make_node("Transpose", ["head"], ["t"], perm=[1, 0]), product("t")], {"head": table}


@way
def _through_identity(table: np.ndarray) -> Graph:
    return [helper.make_node("Identity", ["head"], ["h"]), product("h")], {"head": turned(table)}


@way
def _split(table: np.ndarray) -> Graph:
    parts = {f"h{n}": np.ascontiguousarray(part) for n, part in enumerate(np.split(table.T, 2, axis=1))}
    joined = helper.make_node("Concat", ["l0", "l1"], ["logits"], axis=-1)
    return [product("h0", "l0"), product("h1", "l1"), joined], parts


@way
def _split_of_another(table: np.ndarray) -> Graph:
    nodes, parts = _split(table)
    return nodes, parts | {"h1": parts["h1"] + 1}


@way
def _quantised(table: np.ndarray) -> Graph:
    words = np.clip(np.rint(turned(table) * 40), -127, 127).astype("i1")
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("MatMulInteger", ["q", "head", "z", "zero"], ["sum"]),
        helper.make_node("Cast", ["sum"], ["logits"], to=TensorProto.FLOAT),
    ]
    return nodes, {"head": words, "zero": np.array(0, "i1")}


@way
def _cast(table: np.ndarray) -> Graph:
    """The head read through a cast that keeps its numbers."""
    return [helper.make_node("Cast", ["head"], ["h"], to=TensorProto.FLOAT), product("h")], {"head": turned(table)}


@way
def _dequantised(table: np.ndarray) -> Graph:
    """Words and a scale, from which rows are gathered and by which activations are multiplied."""
    words = np.clip(np.rint(table * 40), -127, 127).astype("i1")
    held = {"rows": words, "head": turned(words), "scale": np.array(1 / 40, "f4")}
    nodes = [helper.make_node("DequantizeLinear", [name, "scale"], [f"{name}_f"]) for name in ("rows", "head")]
    return [*nodes, helper.make_node("Gather", ["rows_f", "ids"], ["y"]), product("head_f")], held


@way
def _in_branches(table: np.ndarray) -> Graph:
    """As the merged decoders of optimum have both of their graphs in one."""

    def branch(name: str) -> onnx.GraphProto:
        return helper.make_graph([product("head", name)], name, [], [value(name)])

    made = helper.make_node("If", ["flag"], ["logits"], then_branch=branch("a"), else_branch=branch("b"))
    return [made], {"head": turned(table)}


def value(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", "ids", "rows"])


def drawn(path: Path, draw: random.Random, name: str) -> None:
    """Write a graph, its initialisers in some order, within the file or beside it."""
    shape = draw.choice(((16, 4), (8, 8)))
    table = np.random.default_rng(draw.randrange(1 << 30)).standard_normal(shape).astype("f4")
    nodes, more = WAYS[name](table)
    held = [numpy_helper.from_array(array, n) for n, array in {"wte": table, **more}.items()]
    draw.shuffle(held)
    given = [helper.make_tensor_value_info("ids", TensorProto.INT64, [1, 3])]
    if name == "in_branches":
        given.append(helper.make_tensor_value_info("flag", TensorProto.BOOL, []))
    nodes.insert(0, helper.make_node("Gather", ["wte", "ids"], ["x"]))
    graph = helper.make_graph(nodes, "g", given, [value("logits")], held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    outside = draw.random() < 0.3
    onnx.save(model, path, save_as_external_data=outside, location="m.data", size_threshold=0)


@pytest.mark.parametrize("name", list(WAYS))
def test_a_table_that_stands_there_twice_is_told(name: str, tmp_path: Path) -> None:
    for seed in range(6):
        path = tmp_path / f"{seed}" / "m.onnx"
        path.parent.mkdir()
        drawn(path, random.Random(SEED + seed), name)
        report = tiecheck.check(path).targets[0]
        assert [f.code for f in report.findings] == ["TIE631"] * (name in TWICE)
        assert report.status == ("fail" if name in TWICE else "pass")


@pytest.mark.parametrize("name", ["shared", "transposed", "apart", "cast"])
def test_data_beside_the_graph_may_lie_in_many_files_and_is_refused_where_one_is_cut(name: str, tmp_path: Path) -> None:
    path, draw = tmp_path / "m.onnx", random.Random(SEED)
    drawn(path, draw, name)
    onnx.save(onnx.load(path), path, save_as_external_data=True, all_tensors_to_one_file=False, size_threshold=0)
    report = tiecheck.check(path).targets[0]
    assert [f.code for f in report.findings] == ["TIE631"] * (name in TWICE)
    cut = draw.choice(sorted(one for one in tmp_path.iterdir() if one.suffix == "" and one.stat().st_size))
    cut.write_bytes(cut.read_bytes()[:-1])
    with pytest.raises(ValueError, match="exceeds"):
        onnx.load(path)
    (error,) = tiecheck.check(path).errors
    assert cut.name in error.message
