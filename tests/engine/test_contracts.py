"""A contract that asks for what no target has: an error of the call, and a word of a run."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from live_failures import gpt
from torch import nn

import tiecheck
from tiecheck.cli.main import cli
from tiecheck.config.options import Config
from tiecheck.engine.status import unjudged_contracts

PAIR = ("lm_head.weight", "wte.weight")


@pytest.mark.parametrize(
    ("ties", "says"),
    [
        ([("lm_head.weight", "wte.weigth")], "name what the model lacks: wte.weigth"),
        ({"MyGPT": [("head.weight", "wte.weight")]}, "name what the model lacks: head.weight"),
        ({"YourGPT": [PAIR]}, "no module in it is of the class YourGPT"),
    ],
)
def test_ties_given_to_a_call_that_the_model_lacks_are_an_error(ties: object, says: str) -> None:
    report = tiecheck.check(gpt(tied=True), ties=ties)  # type: ignore[arg-type]  # of both forms
    assert report.targets[0].status == "error"
    assert says in report.errors[0].message


@pytest.mark.parametrize(("tied", "status"), [(True, "pass"), (False, "fail")])
def test_a_contract_that_fits_is_judged(*, tied: bool, status: str) -> None:
    model = nn.ModuleDict({"inner": gpt(tied=tied)})
    assert tiecheck.check(model, ties={"MyGPT": [PAIR]}, ignore=("TIE7",)).targets[0].status == status


def test_a_path_without_a_live_layer_cannot_be_held_to_it(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    report = tiecheck.check(tmp_path, ties={"MyGPT": [PAIR]})
    assert any("give one, or live=True" in error.message for error in report.errors)


MODULE = """
from torch import nn

class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.wte = nn.Embedding(8, 4)
        self.lm_head = nn.Linear(4, 8, bias=False)
        self.lm_head.weight = self.wte.weight
"""


def test_a_class_of_the_file_that_no_target_has_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gpt.py").write_text(MODULE)
    pair, other = '[["lm_head.weight", "wte.weight"]]', '[["head.weight", "emb.weight"]]'
    (tmp_path / "pyproject.toml").write_text(f"[tool.tiecheck.ties]\nBase = {pair}\nBaes = {other}\n")
    result = CliRunner().invoke(cli, ["gpt.py:Base", "--ignore", "TIE7"])
    assert result.exit_code == 0, result.output
    assert "no target has the class Baes of pyproject.toml" in result.stderr
    assert "class Base of" not in result.stderr


def test_a_class_of_a_file_that_no_target_was_held_to_is_told(models: Path) -> None:
    ties = {"MyGPT": (PAIR,), "my.LlamaForCausalLM": (("a.weight", "b.weight"),), "Empty": ()}
    told = Config(ties=ties, ties_from="pyproject.toml")
    nobody = [f"no target has the class {name} of pyproject.toml" for name in ties if name != "Empty"]
    assert list(unjudged_contracts(tiecheck.check(gpt(tied=True)), told)) == nobody  # nobody promised there
    stored = tiecheck.check(models / "llama-healthy-tied")
    assert list(unjudged_contracts(stored, told)) == [
        nobody[0],
        "my.LlamaForCausalLM is not held to its contract in pyproject.toml: --live builds what that takes",
    ]
    for nothing in (tiecheck.check(models / "nowhere"), tiecheck.check(__file__), stored._replace(targets=())):
        assert not [*unjudged_contracts(nothing, told)]  # no model was looked at


def test_a_star_stands_for_one_part_of_a_name() -> None:
    import copy

    from torch import nn

    import tiecheck

    layer = nn.ModuleDict({"q": nn.Linear(4, 4), "rel_bias": nn.Embedding(4, 4)})
    model = nn.Module()
    model.layers = nn.ModuleList(copy.deepcopy(layer) for _ in range(3))
    group = [["layers.*.rel_bias.weight"]]
    (finding,) = tiecheck.check(model, ties=group).findings
    assert finding.code == "TIE301"
    assert len(finding.names) == 3
    for step in finding.edits[0].steps:
        exec(step.code, {"model": model})
    assert tiecheck.check(model, ties=group).targets[0].status == "pass"
    for wrong, words in (
        ("layers.*.rel_bais.weight", "no name"),
        ("layers.0.*.weight.*", "no name"),
        ("*.0.q.weight", "a tie has two"),
    ):
        report = tiecheck.check(model, ties=[[wrong]])
        assert words in report.errors[0].message
