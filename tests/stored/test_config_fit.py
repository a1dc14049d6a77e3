"""A config beside the tensors that it was saved with, and with one of its numbers changed: told by its own name."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tiecheck.files.checkpoint import read_checkpoint
from tiecheck.files.model_config import read_config
from tiecheck.records.declared import ModelConfig
from tiecheck.records.files import LoadProblem
from tiecheck.records.stored import Checkpoint
from tiecheck.stored.config_fit import LINES, size_problems

WIDTHS = ("hidden_size", "intermediate_size", "vocab_size")


def problems(model: ModelConfig, checkpoint: Checkpoint, **changed: object) -> list[LoadProblem]:
    return list(size_problems(model._replace(data=model.data | changed), checkpoint))


@pytest.fixture(scope="module")
def llama() -> tuple[ModelConfig, Checkpoint]:
    where = str(Path(__file__).parents[2] / "fixtures" / "models" / "llama-healthy-tied")
    model, checkpoint = read_config(where), read_checkpoint(where)
    assert isinstance(model, ModelConfig)
    assert isinstance(checkpoint, Checkpoint)
    return model, checkpoint


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=st.sampled_from(WIDTHS), more=st.integers(1, 64).map(lambda n: 16 * n))
def test_a_size_that_is_not_the_stored_one_crashes_both_lines(llama, key: str, more: int) -> None:
    model, checkpoint = llama
    assert problems(model, checkpoint) == []
    (found,) = problems(model, checkpoint, **{key: model.data[key] + more})
    (name,) = found.names
    assert (found.kind, found.outcome, found.versions) == ("shape", "crash", LINES)
    assert f"{key} {model.data[key] + more}" in found.why
    assert model.data[key] in checkpoint.tensor(name).shape


def test_heads_that_do_not_divide_the_width_are_named(llama) -> None:
    model, checkpoint = llama
    (found,) = problems(model, checkpoint, num_attention_heads=3)
    assert (found.kind, found.outcome, found.names) == ("field", "crash", ("num_attention_heads",))


@pytest.mark.parametrize("value", [None, 0])
def test_a_size_that_is_not_told_is_open_and_no_crash(llama, value: object) -> None:
    found = problems(*llama, hidden_size=value)
    assert {one.outcome for one in found} == {"unknown"}


def test_a_class_that_the_table_lacks_has_no_sizes(llama) -> None:
    assert problems(*llama, architectures=["NobodysModel"], model_type="nobodys", vocab_size=1) == []
