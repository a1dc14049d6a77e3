"""The guard against every break of real classes: it raises where the tie is one no more, told without tiecheck.

The ways and the classes are those of `test_breaks.py`; which are taken is drawn, and the slow lane takes all.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any

import breaks
import pytest
from breaks import BREAKS, Group, NotHereError
from states import state_of
from zoo import animal, by_name, tied_model

import tiecheck
from tiecheck.tables.architectures import load_architecture

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("quiet")]

SAMPLE = (
    "BartForConditionalGeneration",
    "BertForMaskedLM",
    "GPT2LMHeadModel",
    "LlamaForCausalLM",
    "LlavaForConditionalGeneration",
    "T5ForConditionalGeneration",
)


def groups_of(model: Any) -> Iterator[Group]:
    """The tied groups of a model, each with a member to break."""
    known = dict(model.named_parameters(remove_duplicate=False))
    for tie in tiecheck.find_ties(model):
        if tie.kind == "parameter" and known.keys() >= set(tie.names):
            yield Group(tie.names, tie.names[0])


def told(original: Any, group: Group, way: str) -> tuple[str, str | None, bool]:
    """What is true after a break, what the guard says of the line, and whether it says anything."""
    model = copy.deepcopy(original)
    try:
        with tiecheck.guard(model) as g:
            after, _ = BREAKS[way].do(model, group)
            if after is not model:
                g.watch(after)
    except tiecheck.TieBroken as broken:
        ours = [one for one in broken.broken if set(one.names) & set(group.names)]
        assert ours, "the group that was broken is among those that are told"
        assert ours[0].since is not None
        return state_of(after, group.names), ours[0].since.path, True
    return state_of(after, group.names), None, False


def held_against_the_truth(name: str, ways: list[str]) -> int:
    original = tied_model(animal(by_name(name)))
    done = 0
    for group in groups_of(original):
        for way in ways:
            try:
                state, path, raised = told(original, group, way)
            except NotHereError:
                continue
            done += 1
            assert raised == (state != "one"), (name, group.names, way, state)
            if raised:
                assert path in (breaks.__file__, __file__), (name, way, path)
    return done


@pytest.mark.parametrize("name", SAMPLE)
def test_drawn_breaks_of_a_class(name: str) -> None:
    draw = random.Random(f"{name}-4")
    assert held_against_the_truth(name, draw.sample(sorted(BREAKS), 9)) >= 5


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLE)
def test_every_break_of_a_class(name: str) -> None:
    assert load_architecture(name, None).ties
    assert held_against_the_truth(name, sorted(BREAKS)) > 15
