"""The record of a method, and of layers that are deep-copied, as the file has them."""

from __future__ import annotations

import ast

from tiecheck.source.classes import read_tree
from tiecheck.source.copies import copied_layers
from tiecheck.source.methods import arguments_of, read_method

TEXT = """
class Stack(nn.Module):
    def __init__(self, layer, n):
        super().__init__()
        self.layers = nn.ModuleList([copy.deepcopy(layer) for _ in range(n)])

    def forward(self, x, /, mask=None, *, scale=1, **more):
        return F.linear(self.norm(x), self.emb.weight)

    def refuse(self):
        raise NotImplementedError

    def nothing(self):
        pass

class Layer(nn.Module):
    def __init__(self, emb):
        super().__init__()
        self.table = emb

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(8, 4)
        layer = Layer(self.emb)
        self.stack = Stack(layer, 4)
"""


def test_a_method_has_its_arguments_calls_and_products() -> None:
    tree = ast.parse(TEXT)
    assert isinstance(tree.body[0], ast.ClassDef)
    functions = {node.name: node for node in tree.body[0].body if isinstance(node, ast.FunctionDef)}
    assert [one.arg for one in arguments_of(functions["forward"])] == ["self", "x", "mask", "scale"]
    lines = TEXT.encode().splitlines()
    found = {name: read_method(name, node, functions, lines) for name, node in functions.items()}
    forward = found["forward"]
    assert (forward.line, forward.accepts, forward.arguments[0]) == (functions["forward"].lineno, True, "self")
    assert {"F.linear", "self.norm"} <= set(forward.calls)
    assert [path for path, _, _ in forward.multiplies] == ["emb.weight"]
    assert (found["refuse"].raises, found["nothing"].empty, forward.empty) == (True, True, False)


def test_a_layer_that_is_handed_on_to_be_copied_is_told() -> None:
    tree = ast.parse(TEXT)
    lines, classes = TEXT.encode().splitlines(), [node for node in tree.body if isinstance(node, ast.ClassDef)]
    known = read_tree("m.py", TEXT, tree, ()).classes
    (found,) = copied_layers(classes, known, lines)
    assert (found.layer, found.child, found.child_class, found.kept) == ("Layer", "self.emb", "nn.Embedding", True)
    assert list(copied_layers([classes[0], classes[2]], (known[0], known[2]), lines)) == []
