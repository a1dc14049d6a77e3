"""Faults planted into transformers' own files and fixed: the text beside the edit stays, the class builds as it did."""

from __future__ import annotations

import pytest
import transformers
from bench_planted import IDIOMS, Place, drawn, places
from lanes import sampled
from planted_fixes import fixed_file

FIXED = {f"TIE8{n:02}" for n in (*range(1, 9), *range(10, 16), 17)}
ONE_EACH = {
    "a list of keys": 5,
    "a misspelt declaration": 5,
    "`.data =` the parameter": 5,
    "`[Layer()] * n`": 1,
    "the embedding's draw": 5,
    "a key mapped to itself": 5,
    "tied, and rebound": 5,
    "a closure": 5,
    "`tie_weights(self)` of 4.x": 17,
    "`to_empty()`": 5,
}
"""Idiom -> a seed that draws a class of a GPT for which the fix can be proved."""


def wrong_in(name: str, every: list[Place], each: int, seed: int) -> tuple[list[str], int, int]:
    """What is wrong with some fixes of an idiom, how many there are, and of how many the class was built."""
    transformers.logging.set_verbosity_error()
    code = IDIOMS[name][0]
    wrong, done, built = [], 0, 0
    for place, text, line in drawn(name, every, each, seed):
        end = fixed_file(place.path, "Plain" if "class Plain" in text else place.cls.name, text, code, line)
        wrong += [f"{place.path}:{line}: {one}" for one in end.wrong]
        done, built = done + end.done, built + end.built
    return wrong, done, built


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", sampled(ONE_EACH))
def test_a_planted_fault_is_fixed_and_the_class_builds(name: str) -> None:
    assert wrong_in(name, list(places("gpt*")), 1, ONE_EACH[name]) == ([], 1, 1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_every_planted_idiom_is_fixed_or_left_as_it_is() -> None:
    every = list(places())
    for name, (code, _) in IDIOMS.items():
        wrong, done, built = wrong_in(name, every, 8 if code == "TIE803" else 3, 7)
        assert wrong == []
        assert (done > 0) == (built > 0) == (code in FIXED), name
