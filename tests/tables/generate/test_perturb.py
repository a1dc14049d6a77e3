"""Perturbed configs, sizes that follow them, groups that hang on them, and what config classes make of a section."""

from __future__ import annotations

import pytest
import transformers

from tiecheck.tables.generate.asked_class import AskedClass, lone_names
from tiecheck.tables.generate.config_states import ConfigAsker, config_kind, refused_types
from tiecheck.tables.generate.perturb import Field, Perturber
from tiecheck.tables.generate.probe import Probe, probe_class
from tiecheck.tables.generate.regroup import groups_by_field
from tiecheck.tables.generate.sizes import SizeChanges, sizes_of
from tiecheck.tables.generate.structure import used_fields
from tiecheck.tables.generate.switches import switch_rules
from tiecheck.tables.generate.witnesses import Witness

pytestmark = pytest.mark.filterwarnings("ignore")


def perturber(model_class: type, config_class: type) -> Perturber:
    return Perturber(Probe(model_class, config_class, {}))


def test_a_perturbed_field_is_built() -> None:
    asked = perturber(transformers.LlamaModel, transformers.LlamaConfig)
    field = next(field for field in asked.numbers(()) if field.key == "vocab_size")
    built = asked.built({field: 64})
    assert not isinstance(built, str)
    assert built.shapes["embed_tokens.weight"] == (64, 4096)
    refused = asked.built({Field((), "hidden_act", -1, "silu"): "no such word"})
    assert isinstance(refused, str)


def test_witnesses_follow_one_field_or_a_product_and_parts_speak_for_themselves() -> None:
    found = sizes_of(perturber(transformers.LlamaModel, transformers.LlamaConfig)).witnesses
    assert Witness("embed_tokens.weight", 0, "1", (("vocab_size", 1),), ()) in found
    product = (("head_dim", 1), ("num_key_value_heads", 1))
    assert Witness("layers.0.self_attn.k_proj.weight", 0, "1", product, ()) in found
    headed = sizes_of(perturber(transformers.LlamaForCausalLM, transformers.LlamaConfig))
    assert [part[:3] for part in headed.parts] == [("model", (), "LlamaModel")]
    assert {witness.name for witness in headed.witnesses} == {"lm_head.weight"}
    assert headed.own == ("lm_head",)


def test_a_width_that_cannot_be_changed_alone_is_no_constant() -> None:
    found = sizes_of(perturber(transformers.BambaModel, transformers.BambaConfig)).witnesses
    assert {name for w in found for name, _ in w.powers} == {"vocab_size", "intermediate_size", "mamba_d_conv"}


def test_a_switch_brings_groups_of_its_own() -> None:
    groups, asked = probe_class(transformers.MarianMTModel, transformers.MarianConfig)
    (base, _, hangs), (own, _, only) = groups_by_field(asked, groups)
    shared, apart = base[0], own
    assert hangs[shared.names] == {"f": {"share_encoder_decoder_embeddings": [False]}}
    assert {"c": {"share_encoder_decoder_embeddings": [False]}} in only.values()
    assert {name for group in apart for name in group.names} <= set(shared.names)


def test_a_section_in_each_state() -> None:
    used = {"clip_vision_model": {"hidden_size"}, "llama": {"hidden_size"}, "qwen2_vl_text": {"hidden_size"}}
    asker = ConfigAsker(used)
    vision = asker.record(transformers.LlavaConfig)["s"]["vision_config"]
    assert vision["typed"] == ["clip_vision_model"]
    assert vision["null"] == ["clip_vision_model", {"hidden_size": 1024}]
    assert vision["typeless"] == ["!"]
    assert vision["any"] == 1
    text = asker.record(transformers.Qwen2VLConfig)["s"]["text_config"]
    assert text["fold gone"] == text["fold null"] == ["hidden_size"]
    assert "any" not in text
    assert config_kind(transformers.LlamaConfig) == "llama"


def test_a_default_that_another_field_makes_is_none() -> None:
    asker = ConfigAsker({"llama": {"head_dim", "hidden_size"}})
    assert asker.record(transformers.LlamaConfig)["d"] == {"hidden_size": 4096}


def test_the_types_that_a_field_refuses() -> None:
    found = refused_types(transformers.LlamaConfig)
    assert found["hidden_size"][0] == found["hidden_size"][1] == "1"
    assert found["hidden_size"][3] == "0"
    assert found["tie_word_embeddings"] == "1101111"


def test_a_table_has_the_same_bytes_in_any_order() -> None:
    told = [AskedClass("LlamaModel", "llama", [], [["embed_tokens.weight", 0, "1", {"vocab_size": 1}, {}]], [], {}, [])]
    told.append(AskedClass("LlamaForCausalLM", "llama", [["model", "", "LlamaModel", "llama"]], [], [], {}, []))
    assert used_fields(told) == {"llama": {"vocab_size"}}


def test_a_switch_has_the_sum_that_each_of_its_states_makes() -> None:
    asked = perturber(transformers.GPTBigCodeModel, transformers.GPTBigCodeConfig)
    one_head = [[1, {"n_embd": 1}], [2, {"n_embd": 1, "n_head": -1}]]
    states = [[[True], one_head], [[False], [[3, {"n_embd": 1}]]]]
    (row,) = switch_rules(SizeChanges(asked, ()), [()], set())
    assert row == ["h.0.attn.c_attn.bias", 0, ["multi_query"], states]
    assert switch_rules(SizeChanges(asked, ()), [()], {"multi_query"}) == []


def test_other_names_are_kept_of_the_tensors_that_speak_alone() -> None:
    rows = [[name, 0, "1", {field: 1}, {}] for name, field in (("a", "width"), ("b", "width"), ("c", "depth"))]
    one = AskedClass("M", "m", [], rows, [], {}, [])
    others = {"b": ("base.b", "old.b"), "c": ("old.c", "base.old.c")}
    assert lone_names("base", one, {}, lambda name: others.get(name, ())) == {"c": ["old.c"]}
