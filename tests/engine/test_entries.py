"""One entry a group: the static layers with the live layer's word, and loaders that come out alike together."""

from __future__ import annotations

from pathlib import Path

import pytest

import tiecheck
from tiecheck.engine.entries import alias_entries, loader_entries, tie_entries
from tiecheck.engine.status import untold_reason
from tiecheck.peers.loaders.registry import MODULES, PLANNERS
from tiecheck.rules.cases import PAIR, declared_tie, live_llama, live_tie, llama_group, loader_view

MODELS = Path(__file__).parents[2] / "fixtures" / "models"


def test_the_live_layer_has_the_last_word_on_a_kind() -> None:
    (entry,) = tie_entries((llama_group(),), live_llama(ties=(), declared=(declared_tie("copy"),)))
    assert (entry.names, entry.kind, entry.kind_from) == (PAIR, "copy", "live")
    (entry,) = tie_entries((llama_group(),), None)
    assert (entry.kind, entry.kind_from) == ("parameter", "table")


def test_what_only_one_layer_knows_has_its_entry() -> None:
    other = live_tie("a.weight", "b.weight")
    names = [entry.names for entry in tie_entries((llama_group(),), live_llama(ties=(live_tie(), other), declared=()))]
    assert names == [other.names, PAIR]
    assert alias_entries(None) == ()


def test_loaders_that_come_out_alike_are_one_entry() -> None:
    views = (loader_view("vllm", "tied"), loader_view("vllm", "tied", names=("a", "b")), loader_view("sglang", "crash"))
    assert [entry.loader for entry in loader_entries(views, None)] == ["vllm", "sglang"]
    assert [entry.loader for entry in loader_entries(views, frozenset({("sglang", "")}))] == ["sglang"]


def test_a_pass_has_to_be_earned_group_by_group() -> None:
    unknown = loader_view("transformers", "unknown", versions="5", message="its names depend on the config")
    known = loader_view("transformers", "tied", versions="4.57")
    engine = loader_view("vllm", "unknown", message="not looked at")
    assert list(untold_reason((llama_group(),), (known, engine), None, None)) == []
    assert list(untold_reason((llama_group(),), (known, engine), None, frozenset({("vllm", "")}))) != []
    (reason,) = untold_reason((llama_group(),), (known, unknown), None, None)
    assert reason.startswith("its names depend on the config; so it is not known what becomes of ")
    guessed = llama_group(declared=None, declared_by=(), inferred=True, reason="there is no config.json")
    assert list(untold_reason((guessed,), (), None, None)) == [
        "lm_head.weight and model.embed_tokens.weight: there is no config.json"
    ]
    assert list(untold_reason((guessed,), (unknown,), live_llama(), None)) == []


def test_each_loader_that_was_asked_for_has_to_know_the_group() -> None:
    """By each pair of loader and versions that can be left out, what is silent is no pass, and is named."""
    told = [loader_view("transformers", "tied", versions="5"), loader_view("vllm", "tied", versions="1")]
    told += [loader_view("vllm", "tied", versions="2"), loader_view("sglang", "tied", versions="1")]
    asked = frozenset((view.loader, view.versions) for view in told)
    assert list(untold_reason((llama_group(),), tuple(told), None, asked)) == []
    for view in told:
        rest = tuple(one for one in told if one is not view)
        (reason,) = untold_reason((llama_group(),), rest, None, asked)
        assert f"nothing is known of this class or group in {view.title}, which --for names" in reason
        assert list(untold_reason((llama_group(),), rest, None, asked - {(view.loader, view.versions)})) == []
    (reason,) = untold_reason((llama_group(),), tuple(told[:1]), None, asked)
    assert "in sglang 1 and vllm, which" in reason, "the versions are said where they tell something"
    other = loader_view("vllm", "tied", versions="1", names=("a", "b"))
    assert list(untold_reason((llama_group(),), (other,), None, frozenset({("vllm", "1")}))) != []


@pytest.mark.parametrize("name", MODULES)
def test_only_planners_are_asked_about_no_checkpoint(name: str) -> None:
    (report,) = tiecheck.check(MODELS / "llama-healthy-tied", judge_for=[name]).targets
    assert (report.status == "pass") is (name not in PLANNERS), report.reason
    (both,) = tiecheck.check(MODELS / "llama-healthy-tied", judge_for=[name, "transformers==5"]).targets
    assert both.status == "pass", "a planner keeps no checkpoint from its pass"


def test_a_class_that_one_of_the_asked_loaders_lacks_is_no_pass() -> None:
    bart = MODELS / "bart-healthy-tied"
    assert tiecheck.check(bart, judge_for=["transformers==5"]).targets[0].status == "pass"
    for asked in (["vllm", "transformers==5"], ["transformers==5", "mlx-lm"]):
        (report,) = tiecheck.check(bart, judge_for=asked).targets
        (lacking,) = {name for name in asked if "transformers" not in name}
        assert report.status == "unknown"
        assert f"nothing is known of this class or group in {lacking}" in (report.reason or "")
