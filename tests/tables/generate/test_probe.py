"""What classes of transformers tie under which flags, asked of the classes on meta; and how that becomes table rows."""

from __future__ import annotations

import json

import pytest
import transformers

from tiecheck.tables.generate.inner_models import inner_models, other_groups
from tiecheck.tables.generate.probe import could_tie, mentions_tying, probe_class
from tiecheck.tables.generate.spellings import model_speller
from tiecheck.tables.generate.table import Row, about_of, parse_table, render, shape_digest, shapes_of

pytestmark = pytest.mark.filterwarnings("ignore")

PAIR = ("lm_head.weight", "model.embed_tokens.weight")


def test_a_llama_ties_where_the_flag_is_true() -> None:
    (group,), asked = probe_class(transformers.LlamaForCausalLM, transformers.LlamaConfig)
    assert (group.names, group.source, group.kind) == (PAIR, PAIR[1], "parameter")
    assert group.bits == "010", "silent, true, false"
    assert (group.level, group.exact, group.others, group.aliases) == ((), True, (), ())
    assert could_tie(asked.model)
    assert mentions_tying(transformers.T5ForConditionalGeneration)


def test_a_class_without_a_head_has_no_group() -> None:
    groups, asked = probe_class(transformers.ViTForImageClassification, transformers.ViTConfig)
    assert groups == []
    assert asked.everything(small=True) == {}


def test_only_a_composite_has_inner_models() -> None:
    groups, asked = probe_class(transformers.LlamaForCausalLM, transformers.LlamaConfig)
    assert inner_models(asked, groups) == {PAIR: {}}
    assert other_groups(asked, groups) == []


def test_other_names_of_a_parameter_are_proved_by_the_loader() -> None:
    _, asked = probe_class(transformers.LlavaForConditionalGeneration, transformers.LlavaConfig)
    finder = model_speller(asked.model)
    assert "language_model.lm_head.weight" in finder.spellings("lm_head.weight")
    assert finder.spellings("no.such.weight") == ()


def test_rows_are_written_and_read_back() -> None:
    groups, asked = probe_class(transformers.LlamaForCausalLM, transformers.LlamaConfig)
    shapes = shapes_of(groups, {PAIR[0]: ("head.weight",)}, {PAIR: {}})
    (shape,) = map(json.loads, shapes)
    assert [f"{stem}{shape['x'][0]}" for stem in shape["n"]] == list(PAIR)
    about = about_of(asked.model)
    assert json.loads(about)["h"] == PAIR[0]
    row = Row("LlamaForCausalLM", "llama", shapes, "1", "", about)
    text = render([row, row._replace(model_type="other")], "5.23.0")
    assert parse_table(text) == [row, row._replace(model_type="other")]
    assert shape_digest(shapes[0]) in text
