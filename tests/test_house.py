"""The order of the rooms: no module imports against it, lazily or for types, and none imports itself in a circle."""

from __future__ import annotations

from pathlib import Path

import pytest
from house import ORDER, House

ROOT = Path(__file__).parents[1]


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
