"""A tie, a broken one, and a copy that is meant as one, each in many spellings, against what torch makes of them."""

from __future__ import annotations

import random
from itertools import product
from textwrap import indent
from typing import Any

import pytest
import torch

from tiecheck.rules.base import Draft
from tiecheck.rules.source.modules import HeadInClosure
from tiecheck.rules.source.sharing import CopyInsteadOfShare, ModuleAliasAssignment
from tiecheck.rules.source.sightings import source_facts

IMPORTS = """
import copy
from dataclasses import dataclass
import torch
from torch import nn
"""
BUILT = """v, d = 12, 8
self.wte = nn.Embedding(v, d)
self.head = nn.Linear(d, v, bias=False)
"""
HOMES = {
    "constructor": "class Model(nn.Module):\n    def __init__(self, tie=True):\n        super().__init__()\n{body}",
    "dataclass": (
        "@dataclass(eq=False)\nclass Model(nn.Module):\n    tie: bool = True\n\n    def __post_init__(self):\n"
        "        super().__init__()\n        tie = self.tie\n{body}"
    ),
    "method": (
        "class Model(nn.Module):\n    def __init__(self, tie=True):\n        super().__init__()\n"
        "        self.begin(tie)\n\n"
        "    def begin(self, tie):\n{body}"
    ),
}
"""Where a class builds what it has; `body` stands two levels in."""

WAYS = {
    "as it is": ("self.head", "self.wte.weight", "{line}"),
    "a walrus above": ("self.head", "w", "if (w := self.wte.weight) is not None:\n    {line}"),
    "a walrus inside": ("self.head", "(w := self.wte.weight)", "{line}"),
    "a nested function": ("self.head", "self.wte.weight", "def begin_head():\n    {line}\nbegin_head()"),
    "its arguments": ("one", "other.weight", "def same(one, *, other):\n    {line}\nsame(self.head, other=self.wte)"),
    "a loop": ("h", "self.wte.weight", "for h in [self.head]:\n    {line}"),
    "a loop over pairs": ("h", "e.weight", "for h, e in ((self.head, self.wte),):\n    {line}"),
    "a head of a function": (
        "self.head",
        "self.wte.weight",
        "def make():\n    return nn.Linear(d, v, bias=False)\nself.head = make()\n{line}",
    ),
}
"""Head and table as one spells them, and what stands around the statement."""

LINES = {
    "{h}.weight = {w}": None,
    "{h}.weight = nn.Parameter({w})": "error",
    "{h}.weight.data = {w}.data": "error",
    "{h}.weight = nn.Parameter({w}.detach().clone())": "info",
    "# the two are tied\nwith torch.no_grad():\n    {h}.weight.copy_({w})": "error",
    "# not tied\nwith torch.no_grad():\n    {h}.weight.copy_({w})": None,
    "# the two are tied,\n# by their values\n{h}.weight = nn.Parameter({w}.detach().clone())": "error",
}
"""Statement -> how it is told. What is not told is a tie, or said to be none."""


def written(home: str, body: str) -> str:
    return IMPORTS + HOMES[home].format(body=indent(body, " " * 8)) + "\n"


def told_of(text: str) -> list[Draft]:
    return list(CopyInsteadOfShare().check(source_facts(text)["sources"]))


def ties(text: str, *, tie: bool = True) -> bool:
    space: dict[str, Any] = {}
    exec(text, space)
    model = space["Model"](tie=tie)
    return model.head.weight is model.wte.weight


@pytest.mark.parametrize(("home", "way", "line"), [*product(HOMES, WAYS, LINES)])
def test_a_statement_is_told_however_it_is_spelt(home: str, way: str, line: str) -> None:
    head, table, around = WAYS[way]
    said = line.format(h=head, w=table)
    deep = "    " if "\n    {line}" in around else ""
    text = written(home, BUILT + around.replace("{line}", said.replace("\n", f"\n{deep}")))
    assert ties(text) == (line == "{h}.weight = {w}")
    drafts = told_of(text)
    assert [draft.severity or "error" for draft in drafts] == ([LINES[line]] if LINES[line] else []), text
    for edit in (edit for draft in drafts for edit in draft.edits):
        (step,) = edit.steps
        assert step.instead_of
        assert step.code
        assert ties(text.replace(step.instead_of, step.code)), step.code


FLAGS = [("tie", True), ("not tie", False), ("tie is True", True), ("tie == False", False), ("self.no_tie", False)]
FLAGS += [("not tie and v > 3", False), ("getattr(self, 'tie_it', True)", True), ("not getattr(self, 'tie_it')", False)]
"""A condition, and whether a tie is asked for where it is true."""

ARMS = [
    "if {test}:\n    {first}\nelse:\n    {second}",
    "if {test}:\n    {first}\nelif v > 2:\n    {second}",
    "if {test}:\n    {first}\n    return\n{second}",
    "if v > 2:\n    if {test}:\n        {first}\n    else:\n        {second}",
]
COPIES = ["nn.Parameter(self.wte.weight.detach().clone())", "nn.Parameter(self.wte.weight.data)"]


@pytest.mark.parametrize("seed", range(60))
def test_a_copy_where_no_tie_is_wanted_is_not_told(seed: int) -> None:
    """Drawn: the flag and how it is asked, the arms, the copy, what stands in the other arm, and the place."""
    draw = random.Random(seed)
    (test, asks), copied = draw.choice(FLAGS), draw.choice(COPIES)
    tied, copying = "self.head.weight = self.wte.weight", f"self.head.weight = {copied}"
    arms = [draw.choice([tied, "pass"]), draw.choice([copying, "self.begin_head()"])]
    first, second = arms if asks else arms[::-1]
    body = f"{BUILT}self.tie_it, self.no_tie = tie, not tie\n"
    body += draw.choice(ARMS).format(test=test, first=first, second=second)
    text = written(draw.choice([*HOMES]), body)
    if "begin_head" in body:
        text += f"\n    def begin_head(self):\n        {copying}\n"
    assert told_of(text) == [], text
    assert not ties(text, tie=False)
    assert ties(text) == (arms[0] == tied)


@pytest.mark.parametrize("copied", COPIES)
@pytest.mark.parametrize("home", HOMES)
def test_what_is_left_of_a_tie_that_failed_is_not_told(home: str, copied: str) -> None:
    tied, copying = "self.head.weight = self.wte.weight", f"self.head.weight = {copied}"
    for lines in (
        f"try:\n    {tied}\nexcept AttributeError:\n    {copying}",
        f"try:\n    self.wte.table\nexcept AttributeError:\n    {copying}\nelse:\n    {tied}",
        f"if tie:\n    try:\n        {tied}\n    except TypeError:\n        {copying}",
        f"match v:\n    case 12:\n        {tied}\n    case _:\n        {copying}",
        f"self.head.weight = self.wte.weight if v > 2 else {copied}",
    ):
        text = written(home, BUILT + lines)
        assert told_of(text) == [], text
        assert ties(text) == ("table" not in lines)
    split = f"if tie:\n    if v < 2:\n        {tied}\n    else:\n        {copying}"
    assert len(told_of(written(home, BUILT + split))) == 1, "the flag asks for a tie, and mostly there is none"
    alone = written(home, f"{BUILT}# tied\ntry:\n    {copying}\nexcept AttributeError:\n    pass")
    assert [draft.severity for draft in told_of(alone)] == ["info" if "clone" in copied else None]


@pytest.mark.parametrize(("test", "asks"), FLAGS)
@pytest.mark.parametrize("copied", COPIES[:2])
def test_a_copy_under_a_flag_is_told_where_it_asks_for_a_tie(test: str, asks: bool, copied: str) -> None:
    body = f"{BUILT}self.tie_it, self.no_tie = tie, not tie\nif {test}:\n    self.head.weight = {copied}"
    text = written("constructor", body)
    assert not ties(text, tie=asks)
    assert [draft.severity or "error" for draft in told_of(text)] == ["error"] * asks


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ("self.head = (e := self.wte)", True),
        ("self.head, e = self.wte, 3", True),
        ("for self.head in [self.wte]:\n    pass", True),
        ("def table():\n    return self.wte\nself.head = table()", None),
        ("self.head = (e := nn.Linear(d, v))", False),
    ],
)
def test_a_module_in_the_heads_place(line: str, kept: bool | None) -> None:
    """What a function returns is followed where it is a call of a class."""
    text = written("constructor", f"{BUILT}{line}")
    space: dict[str, Any] = {}
    exec(text, space)
    model = space["Model"]()
    assert (model.head is model.wte) == (kept is not False)
    found = list(ModuleAliasAssignment().check(source_facts(text)["sources"]))
    assert len(found) == (kept is True)


@pytest.mark.parametrize(
    ("line", "closes"),
    [
        ("def logits(x):\n    return x @ self.wte.weight.t()", True),
        ("def logits(x):\n    w = self.wte.weight\n    return x @ w.t()", True),
        ("def logits(x, wte=None):\n    self = wte\n    return x if wte is None else x @ self.wte.weight.t()", False),
        ("def logits(x):\n    return self.head(x)", False),
    ],
)
def test_a_nested_function_as_head_closes_over_the_weight(line: str, closes: bool) -> None:
    text = written("constructor", f"{BUILT}{line}\nself.logits = logits")
    found = list(HeadInClosure().check(source_facts(text)["sources"]))
    assert len(found) == closes
    if closes:
        space: dict[str, Any] = {}
        exec(f"{text}\nmodel = Model()\ntwin = copy.deepcopy(model)\ntwin.wte.weight.data.zero_()", space)
        assert space["twin"].logits(torch.ones(1, 8)).any(), "the copy reads the original"


def test_one_helper_for_several_modules_has_no_edit() -> None:
    """What is right for one call of a helper, or one round of a loop, is not for the next."""
    same = "def same(one):\n    one.weight = nn.Parameter(self.wte.weight)\nsame(self.head)\nsame(self.other)"
    loop = "for one in (self.head, self.other):\n    one.weight = nn.Parameter(self.wte.weight)"
    for lines in (same, loop):
        text = written("constructor", f"{BUILT}self.other = nn.Linear(d, v)\n{lines}")
        drafts = told_of(text)
        assert {draft.names[0] for draft in drafts} == {"head.weight", "other.weight"}
        assert not any(draft.edits for draft in drafts)


def test_loops_within_loops_and_functions_that_call_one_another_end() -> None:
    body = "".join(f"{'    ' * n}for a{n} in (self.wte, self.head, 1, 2, 3, 4, 5, 6):\n" for n in range(18))
    text = written("constructor", f"{BUILT}{body}{'    ' * 18}a3.weight = nn.Parameter(self.wte.weight)")
    assert len(told_of(text)) <= 1
    calls = "".join(f"def f{n}(one):\n    f{n - 1}(one)\n    f{n - 1}(one)\n" for n in range(1, 40))
    deep = f"{BUILT}def f0(one):\n    one.weight = nn.Parameter(self.wte.weight)\n{calls}f39(self.head)\nf2(self.head)"
    assert len(told_of(written("constructor", deep))) == 1
