"""Readings of a stored group: the cause on which loaders disagree, and how grave it is."""

from __future__ import annotations

from tiecheck.rules.cases import PAIR, llama_group, loader_view
from tiecheck.rules.stored.groups import (
    declarer_text,
    endings_text,
    losing_views,
    severity_of,
    spoken_for,
    view_titles,
    views_of,
    why_disputed,
)

NESTED = {"reads": "text_config.tie_word_embeddings", "value": False, "ties": False}


def test_the_cause_of_a_dispute() -> None:
    tied, random = loader_view("vllm", "tied"), loader_view("mlx-lm", "head-random", **NESTED)
    assert why_disputed((tied, random)) == "levels"
    silent = (loader_view("vllm", "tied", value=None), loader_view("mlx-lm", "head-random", value=None, ties=False))
    assert why_disputed(silent) == "silent"
    false = (loader_view("vllm", "tied", value=False), loader_view("mlx-lm", "head-random", value=False, ties=False))
    assert why_disputed(false) == "meaning"
    assert why_disputed((tied, tied)) is None
    assert spoken_for((tied, random))
    assert not spoken_for((tied,))


def test_who_is_hurt_and_how_it_ends() -> None:
    views = (
        loader_view("vllm", "tied"),
        loader_view("sglang", "head-random"),
        loader_view("mlx-lm", "crash", message="Missing 1"),
    )
    assert [one.loader for one in losing_views(views)] == ["sglang", "mlx-lm"]
    assert severity_of(losing_views(views)) is None, "engines alone"
    assert severity_of((loader_view("transformers", "head-random", versions="5"),)) == "error"
    assert endings_text(losing_views(views)) == "sglang: the head comes out random. mlx-lm: Missing 1."
    assert view_titles(views[:2]) == "vllm and sglang"


def test_a_group_finds_its_views_by_its_names() -> None:
    views = (loader_view("vllm", "tied"), loader_view("vllm", "tied", names=("a", "b")))
    assert views_of(llama_group(), views) == views[:1]
    assert llama_group().names == PAIR
    assert declarer_text(llama_group()) == "config.json:tie_word_embeddings says"
