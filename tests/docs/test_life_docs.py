"""The page on the life of a tie: its code runs, its message is the one that is printed, its commands parse."""

from __future__ import annotations

import copy
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from rule_failures import llama
from torch import nn
from transformers import TrainingArguments

import tiecheck
from tiecheck.cli.survive import command

PAGE = (Path(__file__).parents[2] / "docs" / "life.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
PYTHON = [text for word, text in BLOCK.findall(PAGE) if word == "python"]


def scope(tmp_path: Path) -> dict[str, Any]:
    """What the page's code finds there: a model that keeps its tie, and what is done with it."""
    model = llama()
    data = [{"input_ids": torch.arange(4), "labels": torch.arange(4)}]
    return {
        "model": model,
        "prepare": lambda model: model.float(),
        "wrap": copy.deepcopy,
        "train": lambda model: None,
        "args": TrainingArguments(str(tmp_path), max_steps=1, report_to=[], use_cpu=True, disable_tqdm=True),
        "data": data,
        "optimizer": torch.optim.AdamW(model.parameters()),
        "reference": copy.deepcopy(model),
    }


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("number", range(len(PYTHON)))
def test_the_code_of_the_page_runs(number: int, tmp_path: Path) -> None:
    held = scope(tmp_path)
    exec(compile(PYTHON[number], "life.md", "exec"), held)
    if "trainer" in held:
        held["trainer"].train()
    if "report" in held:
        assert held["report"].targets[0].status == "pass"


def test_the_code_of_the_page_finds_a_break(tmp_path: Path) -> None:
    for number, how in ((0, AssertionError), (1, tiecheck.TieBroken)):
        held = scope(tmp_path)
        held["prepare"] = lambda model: setattr(model, "lm_head", copy.deepcopy(model.lm_head))
        with pytest.raises(how, match="lm_head"):
            exec(compile(PYTHON[number], "life.md", "exec"), held)


@pytest.mark.filterwarnings("ignore")
def test_the_recipe_for_adapters_finds_a_merge_that_parts_them(tmp_path: Path) -> None:
    held = scope(tmp_path)
    (recipe,) = (text for text in PYTHON if "LoraConfig" in text)
    saving = recipe.replace('["q_proj", "v_proj"]', '["q_proj", "v_proj"], modules_to_save=["lm_head"]')
    with pytest.raises(tiecheck.TieBroken, match=r"lm_head\.weight"):
        exec(compile(saving, "life.md", "exec"), held)


class MyGPT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wte, self.lm_head = nn.Embedding(8, 4), nn.Linear(4, 8, bias=False)
        self.lm_head.weight = self.wte.weight


def test_the_message_is_the_one_that_is_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (shown,) = (text for word, text in BLOCK.findall(PAGE) if word == "text")
    line = re.search(r"train\.py:12: (.*)", shown)
    assert line is not None
    script = tmp_path / "train.py"
    script.write_text("\n" * 11 + f"{line[1]}\n")
    monkeypatch.chdir(tmp_path)
    model = MyGPT()
    with pytest.raises(tiecheck.TieBroken) as caught, tiecheck.guard(model):
        exec(compile(script.read_text(), str(script), "exec"), {"model": model, "copy": copy})
    assert str(caught.value) == shown.strip()


def test_an_operation_of_the_page_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    held: dict[str, Any] = {}
    exec(compile(PYTHON[-1], "life.md", "exec"), held)

    class Entry:
        name = "quantise-head"

        def load(self) -> Any:
            return held["quantise_head"]

    monkeypatch.setattr("importlib.metadata.entry_points", lambda **_: [Entry()])
    (row,) = tiecheck.survive(MyGPT(), operations=["quantise-head"]).operations
    assert not row.cells[0].kept
    (entry,) = (tomllib.loads(text) for word, text in BLOCK.findall(PAGE) if word == "toml")
    assert entry["project"]["entry-points"]["tiecheck.operations"]["quantise-head"].endswith(":quantise_head")


def test_the_commands_parse() -> None:
    (shown,) = (text for word, text in BLOCK.findall(PAGE) if word == "console")
    for line in shown.splitlines():
        name, *arguments = line.removeprefix("$ tiecheck ").split()
        assert name == "survive"
        command.make_context("survive", arguments)


def test_the_fixture_watches_a_block(tiecheck: Any) -> None:
    model = MyGPT()
    with pytest.raises(AssertionError, match=r"lm_head\.weight"), tiecheck(model).guard():
        model.lm_head = nn.Linear(4, 8)
