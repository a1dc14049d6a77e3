"""Embedding and head of a class that nobody knows: told only where names and shapes leave no doubt."""

from __future__ import annotations

import gc
import time
from typing import Any

import pytest

from tiecheck.records.declared import Flag, ModelConfig
from tiecheck.records.stored import Checkpoint, Group, Shard
from tiecheck.records.words import Unknown
from tiecheck.stored.name_guesses import guess_groups

SHAPES = {2: [8, 4], 1: [8], 4: [8, 3, 4, 4]}


def checkpoint(*names: str, **shapes: list[int]) -> Checkpoint:
    """Headers of some names, each a matrix of eight rows unless another shape is given by its last component."""
    entries = {}
    for name in names:
        shape = shapes.get(name.replace(".", "_"), [8, 4])
        entries[name] = {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}
    return Checkpoint("safetensors", "", (Shard("model.safetensors", 0, entries),), None, {}, (), {})


def config(*values: object, **data: Any) -> ModelConfig:
    flags = tuple(Flag("tie_word_embeddings", () if not i else (f"c{i}",), v, 1, 1) for i, v in enumerate(values))
    return ModelConfig("config.json", {"vocab_size": 8, **data}, flags)


def one(found: tuple[Group, ...] | Unknown) -> Group:
    assert isinstance(found, tuple), found
    (group,) = found
    return group


def why(found: tuple[Group, ...] | Unknown) -> str:
    assert isinstance(found, Unknown), found
    return found.reason


@pytest.mark.parametrize(
    ("embedding", "head"),
    [
        ("model.embed_tokens.weight", "lm_head.weight"),
        ("transformer.wte.weight", "lm_head.weight"),
        ("model.transformer.wte.weight", "model.transformer.ff_out.weight"),
        ("gpt_neox.embed_in.weight", "embed_out.weight"),
        ("tok_embeddings.weight", "output.weight"),
        ("token_embedding.weight", "head.weight"),
        ("word_embeddings.weight", "lm_head.weight"),
        ("tok_emb.weight", "out_head.weight"),
        ("_orig_mod.transformer.wte.weight", "_orig_mod.lm_head.weight"),
    ],
)
def test_names_of_public_code_are_known(embedding: str, head: str) -> None:
    group = one(guess_groups(config(), checkpoint(embedding, head, "norm.weight")))
    assert group.names == tuple(sorted((embedding, head)))
    assert (group.source, group.inferred, group.declared) == (embedding, True, None)


@pytest.mark.parametrize("name", ["lm_head.weight\n", "lm_head.weights", "xlm_head.weight", "lm_head", "weight", ""])
def test_name_that_is_only_like_a_head_is_none(name: str) -> None:
    assert "by name only wte.weight can be a member" in why(guess_groups(config(), checkpoint("wte.weight", name)))


class TestUnknown:
    def test_no_candidate(self) -> None:
        assert "no embedding and no head" in why(guess_groups(config(), checkpoint("a", "b.weight")))

    def test_two_embeddings(self) -> None:
        found = guess_groups(config(), checkpoint("a.embed.weight", "b.embed.weight", "head.weight"))
        assert "more than one embedding or head is possible" in why(found)

    def test_member_alone_without_a_flag(self) -> None:
        assert "by name only wte.weight can be a member" in why(guess_groups(config(), checkpoint("wte.weight")))

    def test_member_alone_and_the_flag_false(self) -> None:
        assert "by name only wte.weight can be a member" in why(guess_groups(config(False), checkpoint("wte.weight")))

    def test_output_of_a_layer_is_no_head(self) -> None:
        names = ("wte.weight", "blocks.0.ff_out.weight", "blocks.11.ff_out.weight")
        assert "by name only wte.weight can be a member" in why(guess_groups(config(), checkpoint(*names)))

    def test_matrix_with_fewer_rows_than_tokens_is_none(self) -> None:
        found = guess_groups(config(vocab_size=9), checkpoint("wte.weight", "head.weight"))
        assert "no embedding and no head" in why(found)

    def test_classifier_of_fewer_rows_is_no_head(self) -> None:
        found = guess_groups(config(), checkpoint("wte.weight", "head.weight", head_weight=[2, 4]))
        assert "by name only wte.weight can be a member" in why(found)

    def test_convolution_is_no_embedding(self) -> None:
        found = guess_groups(config(), checkpoint("embed.weight", "head.weight", embed_weight=[8, 3, 4, 4]))
        assert "by name only head.weight can be a member" in why(found)


class TestDeclared:
    def test_flag_is_taken_over(self) -> None:
        for value in (True, False):
            group = one(guess_groups(config(value), checkpoint("wte.weight", "head.weight")))
            assert (group.declared, group.declared_by) == (value, ("config.json:tie_word_embeddings",))

    def test_member_alone_and_the_flag_true_is_a_tie_stored_once(self) -> None:
        group = one(guess_groups(config(True), checkpoint("wte.weight")))
        assert (group.names, group.declared) == (("wte.weight",), True)

    def test_flags_that_disagree_say_nothing(self) -> None:
        group = one(guess_groups(config(True, False), checkpoint("wte.weight", "head.weight")))
        assert (group.declared, group.flag) == (None, None)
        assert "disagree" in (group.reason or "")

    @pytest.mark.parametrize("value", ["true", None, 1, {}, []])
    def test_what_is_no_truth_value_says_nothing(self, value: object) -> None:
        group = one(guess_groups(config(value), checkpoint("wte.weight", "head.weight")))
        assert group.declared is None

    def test_without_a_config_nobody_says_anything(self) -> None:
        group = one(guess_groups(None, checkpoint("wte.weight", "head.weight")))
        assert (group.declared, group.declared_by) == (None, ())


def test_very_many_candidates_cost_no_more_than_in_proportion() -> None:
    def seconds(count: int) -> float:
        names = [f"{kind}{i}.{last}.weight" for i in range(count) for kind, last in (("a", "embed"), ("b", "head"))]
        held = checkpoint(*names)
        gc.disable()  # a collection takes as long as the heap of all other tests is large
        begin = time.process_time()
        told = why(guess_groups(config(), held))
        spent = time.process_time() - begin
        gc.enable()
        assert "more than one" in told
        return spent

    assert seconds(20_000) < 40 * max(seconds(2_000), 0.005), "ten times the names; a square would be a hundred"


@pytest.mark.parametrize("embedding", ["embed_tokens.weight", "model.wte.weight"])
def test_a_draft_without_its_head_is_told_by_the_flag_and_the_head(embedding: str) -> None:
    config = ModelConfig("config.json", {"vocab_size": 8}, (Flag("tie_word_embeddings", (), False, 1, 1),))
    found = guess_groups(config, checkpoint(embedding, "fc.weight"))
    assert isinstance(found, Unknown)
    assert f"only {embedding} can be a member, tie_word_embeddings is false and no head is stored" in found.reason
