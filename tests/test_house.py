"""The order of the rooms, lazy imports and those for types included; and the goals of the house that were met."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from house import GOALS, ORDER, House

ROOT = Path(__file__).parents[1]
NAMED = re.compile(r"(?<![\w/])(?:tiecheck|tests)/[\w/]+\.(?:py|txt|json)\b")


@pytest.fixture(scope="module")
def house() -> House:
    return House(ROOT, None)


def test_no_modules_import_each_other_in_a_circle(house: House) -> None:
    assert house.circles().members == []


def test_no_module_imports_from_a_room_above_it(house: House) -> None:
    assert house.back().members == []


def test_a_circle_and_a_back_arrow_are_found(tmp_path: Path) -> None:
    for name, text in {
        "__init__": "",
        "engine/__init__": "",
        "engine/run": "from tiecheck.rules import base\n",
        "rules/__init__": "",
        "rules/base": "def check():\n    from tiecheck.engine.run import run\n",
        "records/__init__": "",
        "records/report": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import tiecheck.rules.base\n",
    }.items():
        path = tmp_path / "tiecheck" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    found = House(tmp_path, None)
    assert found.circles().members[0] == "2 modules: tiecheck.engine.run tiecheck.rules.base"
    assert [member.split("  ")[0] for member in found.back().members] == ["records -> rules", "rules -> engine"]


def test_the_order_of_the_script_is_that_of_the_contract() -> None:
    import tomllib

    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = [contract["layers"] for contract in contracts if contract["type"] == "layers"]
    assert ["__init__", *(layer.strip("()") for layer in layers[:-1])] == ORDER.split()


@pytest.mark.parametrize("figure", ["long", "longfiles", "words", "twice", "openers", "unmentioned"])
def test_a_figure_that_was_met_stays_met(house: House, figure: str) -> None:
    found = getattr(house, figure)()
    assert found.number <= GOALS[figure], found.members[:5]


def test_every_file_that_a_page_or_docstring_names_is_there() -> None:
    pages = [ROOT / "CONTRIBUTING.md", ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    code = [file for folder in ("tiecheck", "tests", "docs") for file in (ROOT / folder).rglob("*.py")]
    named = {(page.name, name) for page in (*pages, *code) for name in NAMED.findall(page.read_text(encoding="utf-8"))}
    assert len(named) > 50
    assert sorted(pair for pair in named if not (ROOT / pair[1]).exists()) == []
