"""Groups by the config: switches of a class, and the models that a composed class is made of."""

from __future__ import annotations

from typing import Any

from tiecheck.tables.architectures import load_architecture, load_older
from tiecheck.tables.composed import other_parts, switched_shapes, with_part
from tiecheck.tables.generate.build import build_on_meta, groups_of


def names_of(class_name: str, config: dict[str, Any]) -> list[tuple[str, ...]]:
    found = load_architecture(class_name, config["model_type"], config=config)
    assert found.known
    return [tie.names for tie in found.ties]


def test_a_switch_of_the_class_parts_its_group() -> None:
    whole = names_of("MarianMTModel", {"model_type": "marian"})
    parted = names_of("MarianMTModel", {"model_type": "marian", "share_encoder_decoder_embeddings": False})
    assert len(whole[0]) == 4
    assert parted == [("lm_head.weight", "model.decoder.embed_tokens.weight")]
    odd = names_of("MarianMTModel", {"model_type": "marian", "share_encoder_decoder_embeddings": 0})
    assert odd == whole, "a number is no truth value here"
    older = load_older("MarianMTModel", "marian", config={"share_encoder_decoder_embeddings": False})
    assert parted[0] in {tie.names for tie in older.ties}


def test_several_switches_at_once_leave_the_names_open() -> None:
    shapes: list[dict[str, Any]] = [{"n": ["a"], "f": {"x": [False], "y": [True]}}, {"n": ["b"], "c": {"x": [False]}}]
    assert switched_shapes(shapes, {}) == shapes[:1]
    assert switched_shapes(shapes, {"x": False}) == shapes[1:]
    assert switched_shapes(shapes, {"x": False, "y": True}) == [shapes[1] | {"e": "no"}]
    counted: list[dict[str, Any]] = [{"n": ["a"], "h": {"inner.n": 8}}]
    assert switched_shapes(counted, {"inner": {"n": 8}}) == counted
    assert switched_shapes(counted, {"inner": {"n": 9}}) == [counted[0] | {"e": "no"}]


def test_a_part_has_the_groups_of_its_own_class() -> None:
    """Whatever decoder stands in it, the names are those of the model that transformers builds."""
    import transformers

    for kind in ("gpt2", "roberta", "electra"):
        decoder = {"model_type": kind, "is_decoder": True, "add_cross_attention": True, "tie_word_embeddings": True}
        config = {"model_type": "encoder-decoder", "encoder": {"model_type": "bert"}, "decoder": decoder}
        model = build_on_meta(transformers.EncoderDecoderModel, transformers.EncoderDecoderConfig, config)
        assert sorted(names_of("EncoderDecoderModel", config)) == sorted(groups_of(model)), kind


def test_a_part_that_nobody_knows_leaves_the_class_unknown() -> None:
    config = {"model_type": "rag", "generator": {"model_type": "t5"}, "question_encoder": {"model_type": "dpr"}}
    (part,) = other_parts("RagTokenForGeneration", "rag", config)
    assert (part.prefix, part.class_name) == ("rag.generator.", "T5ForConditionalGeneration")
    (names,) = names_of("RagTokenForGeneration", config)
    assert names[2:] == ("rag.generator.lm_head.weight", "rag.generator.shared.weight")
    whole = load_architecture("RagTokenForGeneration", "rag")
    gone = with_part(whole, part, lambda *_: load_architecture("NoSuchClass", None))
    assert not gone.known
    assert "generator" in gone.origin
