"""One entry a group: the static layers with the live layer's word, and loaders that come out alike together."""

from __future__ import annotations

from tiecheck.engine.entries import alias_entries, loader_entries, tie_entries
from tiecheck.engine.status import untold_reason
from tiecheck.rules.cases import PAIR, declared_tie, live_llama, live_tie, llama_group, loader_view


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
