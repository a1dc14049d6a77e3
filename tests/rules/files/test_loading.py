"""TIE206 and TIE207: each problem of a load goes to one rule, hurts the versions that have it, and says where."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rule_failures import codes, llama
from safetensors.torch import load_file, save_file

from tiecheck.rules.files.loading import LoaderReadsOtherWeights, LoadWillRaise
from tiecheck.rules.stored.shapes import InvalidTieFlag, load_problem, problem_draft

KINDS = ("name", "nested", "format", "shape", "flag")
VERSIONS = st.sampled_from([("4.57",), ("5",), ("4.57", "5")])


@given(st.lists(st.sampled_from(KINDS), max_size=6))
def test_each_problem_is_one_rules_finding(kinds: list[str]) -> None:
    problems = tuple(load_problem(kind) for kind in kinds)
    rules = (LoaderReadsOtherWeights(), LoadWillRaise())
    drafts = [draft for rule in rules for draft in rule.check(problems)]
    drafts += InvalidTieFlag().check((), problems, (), ())
    assert len(drafts) == len(kinds)


@given(VERSIONS, st.sampled_from(["config.vocab_size is 3", "own.safetensors has no name", "the metadata is bare"]))
def test_a_finding_is_an_error_where_the_newest_has_it_and_names_keep_their_case(versions, why: str) -> None:
    draft = problem_draft(load_problem("name", versions=versions, why=why))
    assert draft.severity == (None if "5" in versions else "warning")
    assert [view.versions for view in draft.hurts] == list(versions)
    assert draft.message.startswith(why if "." in why.split(maxsplit=1)[0] else why[0].upper() + why[1:])
    assert all(f"transformers {version}" in draft.message for version in versions)
    assert draft.locations[0].path == "own"


def test_a_vendors_own_file_name_is_told_and_the_right_one_is_not(tmp_path: Path) -> None:
    llama().save_pretrained(tmp_path)
    assert codes(tmp_path) == []
    (tmp_path / "model.safetensors").rename(tmp_path / "weights.safetensors")
    assert codes(tmp_path) == [f"{LoaderReadsOtherWeights.code} error"]


@pytest.mark.parametrize("rows", [-1, 1, 8])
def test_another_number_of_rows_raises_and_padding_that_the_config_knows_does_not(rows: int, tmp_path: Path) -> None:
    import json

    import torch

    llama().save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    name = "model.embed_tokens.weight"
    tensors[name] = torch.ones(tensors[name].shape[0] + rows, tensors[name].shape[1])
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert codes(tmp_path) == [f"{LoadWillRaise.code} error"]
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"vocab_size": 64 + rows}))
    assert LoadWillRaise.code not in {code.split()[0] for code in codes(tmp_path)}
