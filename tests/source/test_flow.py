"""The statements of a class in order (`tiecheck.source.flow`): branches, called methods, other names of a value."""

from __future__ import annotations

import ast
from textwrap import dedent, indent

import pytest

from tiecheck.records.source import ModuleClass
from tiecheck.rules.source.sightings import together
from tiecheck.source.classes import parameter_times, read_tree
from tiecheck.source.flow import RETYING


def class_of(body: str, more: str = "") -> ModuleClass:
    begun = indent(dedent(body), " " * 8)
    text = f"class M(nn.Module):\n    def __init__(self, tie, emb):\n{begun}\n{indent(dedent(more), '    ')}"
    return read_tree("m.py", f"{text}\n# tie", ast.parse(text), ()).classes[0]


def kinds(body: str, more: str = "") -> list[str]:
    method = class_of(f"self.emb = nn.Embedding(9, 4)\n{body}", more).method("__init__")
    assert method is not None
    return [f"{e.kind} {e.target}" for e in method.events[1:]]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("self.head.weight = self.emb.weight", ["share head.weight"]),
        ("a = b = self.emb\nself.head = a", ["alias head"]),
        ("self.a, self.b = self.emb.weight, nn.Linear(2, 2)", ["share a", "build b"]),
        ("self.head = nn.Linear(4, 9) if not tie else self.emb", ["build head", "alias head"]),
        ("head = nn.Linear(4, 9)\nself.head = head", ["build head"]),
        ("self.t = nn.ModuleDict(dict(wte=nn.Embedding(9, 4)))", ["build t", "build t.wte"]),
        ("self.t = nn.ModuleList([nn.Linear(4, 4)])", ["build t", "build t.0"]),
        ("with torch.no_grad():\n    self.head.weight.copy_(self.emb.weight)", ["copy head.weight"]),
        ("for p in self.parameters():\n    p.data.normal_()", ["init *"]),
        ("nn.init.normal_(self.emb.weight)", ["init emb.weight"]),
        ("self.emb.weight.data.uniform_(-1, 1)", ["init emb.weight"]),
        ("self.apply(f)", ["init *"]),
        ("self.out = lambda x: x @ self.emb.weight.t()", ["closure out"]),
        ("self.out = lambda emb: emb.weight.t()", []),
        ("w = self.emb.weight.t()\nself.w = w.detach()", ["plain w"]),
        ("self.w = nn.Parameter(self.emb.weight.t())", ["parameter w"]),
        ("self.emb.weight = self.emb.weight", []),
        ("x = 1\nself.x.y += 1", []),
    ],
)
def test_statements_are_events(body: str, expected: list[str]) -> None:
    assert kinds(body) == expected


def test_methods_that_are_called_are_followed_once() -> None:
    more = "def tie(self):\n    self.head.weight = self.emb.weight\n    self.tie()\n"
    assert kinds("self.tie()\nself.emb = nn.Embedding(9, 4)", more) == ["share head.weight", "build emb"]


def test_two_arms_do_not_happen_together() -> None:
    body = "if tie:\n    self.a = nn.Linear(1, 1)\nelse:\n    self.b = nn.Linear(1, 1)\nself.c = nn.Linear(1, 1)"
    method = class_of(body).method("__init__")
    assert method is not None
    first, second, third = method.events
    assert not together(first, second)
    assert together(first, third)
    early = class_of("if tie:\n    self.a = nn.Linear(1, 1)\n    return\nself.b = nn.Linear(1, 1)").method("__init__")
    assert early is not None
    assert not together(*early.events)


def test_one_object_many_times() -> None:
    tree = ast.parse("a = [Block(1)] * n\nb = 3 * [nn.Linear(1, 2)]\nc = [0] * 3\nd = [f()] * 2\ne = [A(), B()] * 2")
    assert [name for _, name in parameter_times(tree)] == ["Block", "nn.Linear"]


@pytest.mark.parametrize("name", ["tie_weights", "_tie_or_clone_weights", "retie", "post_init", "init_weights"])
def test_what_ties_again_is_known_by_its_name(name: str) -> None:
    assert RETYING.search(name)


@pytest.mark.parametrize("name", ["tier", "properties", "entities", "my_post_init", "untied"])
def test_a_name_with_the_letters_alone_ties_nothing(name: str) -> None:
    assert not RETYING.search(name)
