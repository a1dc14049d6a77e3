"""The filter that spares files from being parsed: nothing that a rule finds is in a file that it leaves out."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest

from tiecheck.errors import TargetError
from tiecheck.records.source import SourceFile
from tiecheck.rules.registry import rules_of_family
from tiecheck.source.reading import parse_source, source_bytes, source_paths

RULES = [rule() for rule in rules_of_family("8")]

IMPORTS = [
    "from torch import nn",
    "import torch.nn as tnn\nfrom torch.nn import *",
    "from .layers import Linear, Table",
    "from mylib import nn\nnn.seed()",
]
"""What a file with modules may begin with; the names of torch are not always said."""

TABLES = ["self.wte", "self.emb", "self.word_embed", "self.shared", "self.m.tok_emb"]
STATEMENTS = {
    "TIE801": [
        "self.head = {t}",
        "setattr(self, 'head', {t})",
        "self.head = getattr(self, 'wte')",
        "self.m.head = {t}",
    ],
    "TIE802": [
        "self.head.weight = Parameter({t}.weight)",
        "self.head.weight.data = {t}.weight.data",
        "setattr(self.head, 'weight', Parameter(getattr({t}, 'weight')))",
        "self.head.load_state_dict({t}.state_dict())  # tie",
        "if config.share: self.head.load_state_dict({t}.state_dict())",
    ],
    "TIE806": ["self.head.weight = {t}.weight; self.head = Linear(4, 9)"],
    "TIE807": ["self.head.weight = {t}.weight"],
    "TIE812": [
        "self.b = _get_clones(self.head, 3)",
        "self.b = copy.deepcopy(self.head)",
        "self.b = clones(self.head, 2)",
    ],
    "TIE813": ["self.b = [Linear(4, 4)] * 3", "self.b = 3 * [nn.Linear(4, 4)]", "self.b = [(Inner(4))] * n"],
    "TIE816": [
        "self.b = self.head.weight.t()",
        "self.b = self.head.bias.detach()",
        "self.b = torch.t(self.head.weight)",
    ],
    "TIE817": ["self.b = lambda x: x @ {t}.weight.T", "self.b = partial(f, self.head.bias)"],
    "TIE818": ["self.b = TransformerEncoder(Inner(self.head), 3)", "self.b = clones(Inner({t}), 3)"],
}
ALONE = {
    "TIE803": "class A(LlamaForCausalLM):\n    _tied_weights_keys = ['a.b']\n",
    "TIE804": "c = C(tied_word_embeddings=True)\n",
    "TIE805": "class A(B):\n    _tied_weights_keys = {'a.b': 'a.b'}\n",
    "TIE814": "class A(PreTrainedModel):\n    _tied_weights_keys = {'a': 'b'}\n    def __init__(self, c): pass\n",
    "TIE815": "class A(LlamaForCausalLM):\n    def tie_weights(self): pass\n",
}
"""Files that import no torch and build nothing."""


def drawn_text(draw: random.Random, code: str) -> str:
    table = draw.choice(TABLES)
    built = draw.choice(["Embedding(9, 4)", "nn.Embedding(9, 4)", "Table(9, 4)"])
    body = [f"{table} = {built}", f"self.head = {draw.choice(['nn.Linear(4, 9)', 'Linear(4, 9)', 'Other(4)'])}"]
    statement = draw.choice(STATEMENTS[code]).format(t=table)
    tie = code == "TIE802" and draw.random() < 0.5
    body += [] if tie else [f"if {draw.choice(['config.share', 'config.tie_head'])}: {statement}"] * (code == "TIE812")
    body += [] if tie or code == "TIE812" else [statement]
    text = f"{draw.choice(IMPORTS)}\n\nclass Inner(Module):\n    def __init__(self, t):\n        self.t = t\n"
    text += "        self.lin = Linear(4, 4)\n\nclass Net(Module):\n    def __init__(self, config):\n"
    text += "".join(f"        {line}\n" for line in body)
    text += f"    def {draw.choice(['tie', 'bind_tied'])}(self):\n        {statement}\n" if tie else ""
    return text + "    def forward(self, x):\n        return self.b\n" * (code == "TIE816")


def findings(text: str, *, book: bool = False) -> list[tuple[str, int | None]]:
    data = text.encode()
    if book:
        cells = [{"cell_type": "code", "source": text.splitlines(keepends=True)}]
        data = json.dumps({"cells": cells}).encode()
    file = parse_source(data, "m.py", notebook=book)
    drafts = [(rule.code, draft) for rule in RULES for draft in rule.check(() if file is None else (file,))]
    return sorted((code, draft.locations[0].line) for code, draft in drafts)


@pytest.mark.parametrize("code", STATEMENTS)
def test_a_drawn_file_with_a_finding_is_let_through(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(code)
    texts = [drawn_text(draw, code) for _ in range(60)]
    books = [draw.random() < 0.3 for _ in texts]
    through = [findings(text, book=book) for text, book in zip(texts, books, strict=True)]
    monkeypatch.setattr("tiecheck.source.reading.may_tell", lambda data: True)
    whole = [findings(text, book=book) for text, book in zip(texts, books, strict=True)]
    for text, one, other in zip(texts, through, whole, strict=True):
        assert one == other, text
    assert sum(any(code == found for found, _ in one) for one in whole) > 5


@pytest.mark.parametrize("code", ALONE)
def test_a_declaration_needs_no_torch(code: str) -> None:
    text = "from transformers import LlamaForCausalLM, PreTrainedModel\n" * (code != "TIE805") + ALONE[code]
    assert code in {found for found, _ in findings(text)}


def test_the_weight_of_an_edge_is_nobodys_parameter() -> None:
    text = "class Path:\n    def __init__(self, edge):\n        self.cost = lambda: edge.weight\n"
    assert findings(text) == []


def lost_in(folder: str, monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], int]:
    """Findings that only whole parsing makes in the files of a folder, and the number of its files."""
    paths = source_paths(folder)
    kept = [path for path in paths if _read(path) is None]
    with monkeypatch.context() as patch:
        patch.setattr("tiecheck.source.reading.may_tell", lambda data: True)
        files = [file for path in kept if (file := _read(path)) is not None and not isinstance(file, TargetError)]
    drafts = [draft for rule in RULES for file in files for draft in rule.check((file,))]
    return [f"{draft.locations[0].path}: {draft.message}" for draft in drafts], len(paths)


def _read(path: str) -> SourceFile | TargetError | None:
    try:
        return parse_source(source_bytes(path, path), path, notebook=path.endswith(".ipynb"))
    except TargetError as error:
        return error


def test_nothing_is_lost_in_our_own_files_and_those_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    for folder in (str(Path(__file__).parents[1]), os.path.join(torch.__path__[0], "nn", "modules")):
        lost, count = lost_in(folder, monkeypatch)
        assert (lost, count > 20) == ([], True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["transformers", "torch", "peft", "accelerate", "lightning", "moto", "sympy", "networkx"]
)
def test_nothing_is_lost_in_an_installed_package(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    package = pytest.importorskip(name)
    assert lost_in(package.__path__[0], monkeypatch)[0] == []
