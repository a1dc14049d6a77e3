"""Names that stand in several shards."""

from __future__ import annotations

from tiecheck.rules.cases import sharded_checkpoint
from tiecheck.stored.members import find_repeated_names


def test_a_name_in_two_shards_is_told_with_both_and_the_index() -> None:
    held = sharded_checkpoint(
        {"1.safetensors": ("a", "b"), "2.safetensors": ("b", "c")},
        {"a": "1.safetensors", "b": "2.safetensors", "c": "2.safetensors"},
    )
    (found,) = find_repeated_names(held, "never")
    assert (found.name, [tensor.file for tensor in found.tensors]) == ("b", ["1.safetensors", "2.safetensors"])


def test_a_name_in_a_shard_that_the_index_does_not_name_is_none() -> None:
    held = sharded_checkpoint(
        {"1.safetensors": ("a",), "2.safetensors": ("c",)}, {"a": "1.safetensors", "c": "1.safetensors"}
    )
    assert find_repeated_names(held, "never") == ()
