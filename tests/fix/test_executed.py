"""Every alternative of every finding that has edits, carried out and really loaded: the logits are those meant."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from fix_subjects import Subject, loaded, logits_of, pop2piano, subjects

import tiecheck
from tiecheck.config.options import Config
from tiecheck.fix.run import FixOptions, fix_target
from tiecheck.records.edits import edit_words

SUBJECTS = list(subjects())


@pytest.mark.parametrize("subject", SUBJECTS, ids=str)
def test_the_model_that_was_meant_comes_back(subject: Subject, tmp_path: Path) -> None:
    meant = subject.write(tmp_path)
    ids = torch.arange(3, 19)[None]
    config, options = Config(select=(subject.code,)), FixOptions(subject.choice, apply=True, rehearse=False)
    outcome = fix_target(str(tmp_path), config, options._replace(**subject.options))
    assert outcome.written, (outcome.left, outcome.undone)
    assert torch.equal(logits_of(loaded(tmp_path))(ids), meant(ids))
    found = tuple(f.code for f in tiecheck.check(tmp_path).findings if f.severity != "info")
    assert found == tuple(finding.code for finding, _ in outcome.left) == subject.remains
    again = fix_target(str(tmp_path), Config(), options)
    assert (again.chosen, again.plan) == ((), None)


def test_a_tie_that_the_library_lost_is_stored(tmp_path: Path) -> None:
    pop2piano(tmp_path)
    assert fix_target(str(tmp_path), Config(), FixOptions(apply=True, rehearse=False)).written
    model = loaded(tmp_path)
    assert torch.equal(model.lm_head.weight, model.shared.weight)


def test_the_subjects_execute_every_alternative() -> None:
    assert {(s.code, s.choice) for s in SUBJECTS} >= {
        *((code, choice) for code in ("TIE101", "TIE104") for choice in ("tied", "untied")),
        *(("TIE103", choice) for choice in (None, "tied", "untied")),
        *(("TIE105", choice) for choice in (None, "tied")),
        ("TIE102", "tied"),  # and `stored`, below
        ("TIE106", None),
        ("TIE111", None),
        ("TIE201", None),
    }


def test_it_is_rehearsed(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "llama-flag-lost", tmp_path / "model")
    outcome = fix_target(str(tmp_path / "model"), Config(), FixOptions("tied", to=str(tmp_path / "fixed")))
    assert outcome.written
    assert outcome.rehearsed is not None
    assert outcome.rehearsed.startswith("transformers ")


@pytest.mark.parametrize("case", [p.name for p in sorted((Path(__file__).parents[2] / "fixtures/models").iterdir())])
def test_nothing_is_offered_for_what_is_right(case: str, models: Path) -> None:
    (target,) = tiecheck.check(models / case).targets
    for finding in target.findings:
        assert finding.help.startswith(edit_words(finding.edits))
        assert finding.fixable == any(edit.safe for edit in finding.edits)
    outcome = fix_target(str(models / case), Config(), FixOptions())
    if target.status == "pass":
        assert (outcome.chosen, outcome.left, outcome.plan) == ((), (), None)


def test_a_level_that_the_config_lacks_is_not_made(models: Path) -> None:
    """A flat config with a new `text_config` of one key would be another model."""
    from tiecheck.records.edits import Edit, fitting_edits, set_flags

    edit = Edit("tied", None, True, set_flags(["text_config.tie_word_embeddings"], value=True))
    assert fitting_edits((edit,), {"tie_word_embeddings": False}) == ()
    assert fitting_edits((edit,), {"text_config": None}) == ()
    assert fitting_edits((edit,), None) == ()
    assert fitting_edits((edit,), {"text_config": {}}) == (edit,)
