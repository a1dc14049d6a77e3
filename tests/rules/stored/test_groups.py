"""Readings of a stored group: the cause on which loaders disagree, and how grave it is."""

from __future__ import annotations

from tiecheck.rules.cases import PAIR, group, view
from tiecheck.rules.stored.groups import disputed, endings, gravity, hurt, spoken_for, titles, views_of, who

NESTED = {"reads": "text_config.tie_word_embeddings", "value": False, "ties": False}


def test_the_cause_of_a_dispute() -> None:
    tied, random = view("vllm", "tied"), view("mlx-lm", "head-random", **NESTED)
    assert disputed((tied, random)) == "levels"
    silent = (view("vllm", "tied", value=None), view("mlx-lm", "head-random", value=None, ties=False))
    assert disputed(silent) == "silent"
    false = (view("vllm", "tied", value=False), view("mlx-lm", "head-random", value=False, ties=False))
    assert disputed(false) == "meaning"
    assert disputed((tied, tied)) is None
    assert spoken_for((tied, random))
    assert not spoken_for((tied,))


def test_who_is_hurt_and_how_it_ends() -> None:
    views = (view("vllm", "tied"), view("sglang", "head-random"), view("mlx-lm", "crash", message="Missing 1"))
    assert [one.loader for one in hurt(views)] == ["sglang", "mlx-lm"]
    assert gravity(hurt(views)) is None, "engines alone"
    assert gravity((view("transformers", "head-random", versions="5"),)) == "error"
    assert endings(hurt(views)) == "sglang: the head comes out random. mlx-lm: Missing 1."
    assert titles(views[:2]) == "vllm and sglang"


def test_a_group_finds_its_views_by_its_names() -> None:
    views = (view("vllm", "tied"), view("vllm", "tied", names=("a", "b")))
    assert views_of(group(), views) == views[:1]
    assert group().names == PAIR
    assert who(group()) == "config.json:tie_word_embeddings says"
