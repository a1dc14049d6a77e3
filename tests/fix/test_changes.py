"""Steps by the file that they change: in the shard that holds a tensor, and refused where none or several do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiecheck.errors import TargetError
from tiecheck.fix.plan import collect_changes
from tiecheck.records.edits import copy_steps, drop_steps, set_flags
from tiecheck.rules.cases import sharded_checkpoint

HELD = {"1.safetensors": ("a", "b"), "2.safetensors": ("c", "d")}
MAP = {name: file for file, names in HELD.items() for name in names}


@given(st.sets(st.sampled_from("abcd")))
def test_a_tensor_goes_from_the_shard_that_holds_it_and_from_the_index(names: set[str]) -> None:
    changes = collect_changes(sharded_checkpoint(HELD, MAP), drop_steps(sorted(names)))
    assert {name for change in changes.shards.values() for name in change.drop} == names
    assert {file for file, change in changes.shards.items() if change.drop} == {MAP[name] for name in names}
    assert changes.drop == names
    assert changes.index_changes == bool(names)


@given(st.sampled_from("abcd"))
def test_a_copy_is_laid_beside_its_source(source: str) -> None:
    changes = collect_changes(sharded_checkpoint(HELD, MAP), copy_steps(source, ["new"]))
    assert {file: change.copies for file, change in changes.shards.items()} == {MAP[source]: {"new": source}}
    assert changes.put == {"new": MAP[source]}
    assert changes.grown == 16


def test_a_flag_changes_no_weights() -> None:
    changes = collect_changes(sharded_checkpoint(HELD, MAP), set_flags(["text_config.tie_word_embeddings"], value=True))
    assert dict(changes.flags) == {("text_config",): {"tie_word_embeddings": True}}
    assert not changes.shards
    assert not changes.index_changes


@pytest.mark.parametrize("steps", [drop_steps(["gone"]), copy_steps("gone", ["new"]), copy_steps("a", ["b"])])
def test_a_step_on_what_is_not_there_or_in_the_way_is_refused(steps) -> None:
    with pytest.raises(TargetError):
        collect_changes(sharded_checkpoint(HELD, MAP), steps)
