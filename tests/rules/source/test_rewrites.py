"""The lines that fix a source, executed: drawn lists become the mappings they should, and modules one each."""

from __future__ import annotations

import ast
import random

import pytest

from tiecheck.records.source import SourceFile
from tiecheck.rules.source.keys import mapped_keys
from tiecheck.rules.source.rewrites import one_each, renamed
from tiecheck.rules.source.sightings import source_facts

CLASS = """
from transformers import PreTrainedModel

class Net(PreTrainedModel):
    _tied_weights_keys = {keys}

    def __init__(self, config):
        super().__init__(config)
{built}
"""


def source_of(text: str) -> SourceFile:
    return source_facts(text)["sources"][0]


@pytest.mark.parametrize("seed", range(12))
def test_a_drawn_list_becomes_a_mapping_of_its_names(seed: int) -> None:
    """Drawn: how many heads share the embedding, how the list is written, and whether one source is not told."""
    draw = random.Random(seed)
    heads = [f"head_{i}" for i in range(draw.randint(1, 4))]
    told = draw.random() < 0.75
    built = ["self.wte = nn.Embedding(8, 4)", *(f"self.{head} = nn.Linear(4, 8, bias=False)" for head in heads)]
    built += [f"self.{head}.weight = self.wte.weight" for head in (heads if told else heads[1:])]
    quote, mark = draw.choice("'\""), draw.choice(["[]", "()"])
    joined = draw.choice([", ", ",  # kept\n        "]).join(f"{quote}{head}.weight{quote}" for head in heads)
    keys = f"{mark[0]}{joined},{mark[1]}"
    file = source_of(CLASS.format(keys=keys, built="\n".join(f"        {line}" for line in built)))
    owner = file.classes[0]
    assert owner.keys is not None
    edits = mapped_keys(file, owner, owner.keys)
    if not told:
        assert edits == ()
        return
    (step,) = edits[0].steps
    assert step.instead_of == f"_tied_weights_keys = {keys}"
    value = ast.literal_eval(str(step.code).partition("=")[2].strip())
    assert value == {f"{head}.weight": "wte.weight" for head in heads}
    assert list(value) == [f"{head}.weight" for head in heads]
    assert str(step.code).count("# kept") == keys.count("# kept")
    assert (",}" in str(step.code)) == (mark == "[]" or len(heads) > 1), "the comma of a tuple of one goes with it"


@pytest.mark.parametrize("count", [1, 3])
def test_one_each_is_as_many_objects_as_the_product_has_places(count: int) -> None:
    file = source_of(CLASS.format(keys="{}", built=""))
    (step,) = one_each(file, 1, f"[list()] * {count}", "list()", str(count))[0].steps
    before, after = eval(str(step.instead_of)), eval(str(step.code))  # two lines of ours
    assert before == after
    assert len({id(one) for one in before}) == 1
    assert len({id(one) for one in after}) == count


def test_a_name_is_spelt_right_where_it_begins_a_statement_or_stands_alone() -> None:
    file = source_of(CLASS.format(keys="{}", built=""))
    statement = '_tied_weight_keys = {"_tied_weight_keys": 1}'
    (step,) = renamed(file, "Net", "_tied_weight_keys", "_tied_weights_keys", 1, statement)[0].steps
    assert step.code == '_tied_weights_keys = {"_tied_weight_keys": 1}'
    (step,) = renamed(file, "", "tie_word_embedding", "tie_word_embeddings", 1)[0].steps
    assert (step.instead_of, step.code) == ("tie_word_embedding", "tie_word_embeddings")
