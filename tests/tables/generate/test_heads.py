"""Heads of tasks: what follows the labels, what nothing moves, and what a task refuses that its base model takes."""

from __future__ import annotations

import pytest
import transformers

from tiecheck.tables.generate.heads import head_witnesses, refused_switches
from tiecheck.tables.generate.perturb import Perturber
from tiecheck.tables.generate.probe import Probe
from tiecheck.tables.generate.sizes import InnerModel, held_in, own_modules, parts_of
from tiecheck.tables.structure import class_structure

ROWS = [
    ("BertForMultipleChoice", ("1", {})),
    ("BertForNextSentencePrediction", ("2", {})),
    ("BertForTokenClassification", ("1", {"num_labels": 1})),
    ("GPT2ForSequenceClassification", ("1", {"num_labels": 1})),
    ("YolosForObjectDetection", ("1+1", {"num_labels": 1})),
]


def asked(name: str) -> tuple[Perturber, tuple[InnerModel, ...]]:
    model_class = getattr(transformers, name)
    found = Perturber(Probe(model_class, model_class.config_class, {}))
    return found, parts_of(found.model, held_in(found.model.config, found.levels))


@pytest.mark.parametrize(("name", "told"), ROWS)
def test_the_rows_of_a_head_are_in_the_table_as_they_are_found(name: str, told: tuple[str, dict[str, int]]) -> None:
    found, parts = asked(name)
    (witness,) = head_witnesses(found, tuple(f"{p.prefix}." for p in parts), own_modules(found.model, parts))
    assert (witness.factor, dict(witness.powers)) == told
    (_, row) = class_structure(name, found.config.model_type) or ("", {})
    assert [witness.name, witness.axis, *told] in row["w"]


@pytest.mark.parametrize(
    ("name", "refused"),
    [("HubertForCTC", [("add_adapter", True, ())]), ("Wav2Vec2ForCTC", []), ("BertForTokenClassification", [])],
)
def test_a_switch_that_a_task_alone_refuses_is_found(name: str, refused: list[object]) -> None:
    found, parts = asked(name)
    assert refused_switches(found, parts) == refused


def test_a_class_whose_time_is_up_tells_nothing_of_its_head() -> None:
    found, parts = asked("BertForTokenClassification")
    found.until = 0.0
    assert head_witnesses(found, tuple(f"{p.prefix}." for p in parts), own_modules(found.model, parts)) == []
    assert refused_switches(found, parts) == []
