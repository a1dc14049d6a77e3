"""The questions that the rules on placement share: whose plan decides, what is bound and split, and the words."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiecheck.records.words import TIED, UNTIED
from tiecheck.rules.cases import PAIR, declared_tie, live_facts
from tiecheck.rules.placement import plans
from tiecheck.rules.placement.plans import placed_pair, plain_placement, plain_plan, plain_proposal

DEVICES = st.sampled_from([None, "cuda:0", "cuda:1", "cpu", "disk", "mps"])
MAPS = st.dictionaries(st.text("ab.", max_size=4), st.sampled_from([0, 1, "cpu", "disk", "cuda:1"]), max_size=30)


@given(st.lists(DEVICES, min_size=2, max_size=5))
def test_a_group_is_split_where_two_of_its_names_have_different_devices(devices: list[str | None]) -> None:
    group = placed_pair(*devices, names=tuple(f"n{n}" for n in range(len(devices))))
    assert plans.is_split(group) == any(a and b and a != b for a, b in product(devices, repeat=2))
    if any(devices):
        words = plans.devices_words(group.names, group.devices)
        for name, device in zip(group.names, devices, strict=True):
            assert (f"{name} on {device}" in words) == (device is not None)


@given(DEVICES.filter(bool))
def test_a_device_is_a_key_as_accelerate_writes_it_and_back(device: str) -> None:
    from tiecheck.placement.map_lookup import device_word

    assert device_word(plans.device_key(device)) == device


@pytest.mark.parametrize("first", ["transformers", "accelerate"])
@pytest.mark.parametrize("plan", ["transformers", "accelerate"])
def test_the_first_plan_decides_and_the_other_is_a_warning_at_most(first, plan) -> None:
    placement = plain_placement(plain_plan(first))
    assert plans.is_aside(plain_plan(plan), placement) == (plan != first)
    assert plans.plan_severity([plain_plan(plan)], placement) == (None if plan == first else "warning")
    assert plans.plan_severity([plain_plan(plan), plain_plan(first)], placement) is None
    assert bool(plans.unfollowed_words(plain_plan(plan), placement)) == (plan != first)


def test_a_given_map_hurts_whoever_follows_it_and_a_plan_its_own_tool() -> None:
    assert plans.hurt_by_plans([plain_plan(), plain_plan("given")], PAIR) is None
    views = plans.hurt_by_plans([plain_plan("accelerate"), plain_plan()], PAIR)
    assert [view.loader for view in views or ()] == ["accelerate", "transformers"]


def test_a_proposal_is_a_map_or_what_is_missing() -> None:
    assert (plans.map_words(plain_placement()), plans.map_edits(plain_placement())) == ("", ())
    placement = plain_placement(proposal=plain_proposal())
    assert plans.map_words(placement).startswith("It keeps every tie together and puts ")
    short = plain_placement(proposal=plain_proposal(device_map={}, lacks=2048, reason="it is too large"))
    assert plans.map_words(short) == (
        "No map keeps every tie together: it is too large. 2 KiB are missing in max_memory."
    )


def test_the_keys_to_change_are_those_in_which_a_given_map_and_the_proposal_differ() -> None:
    given_plan = plain_plan("given", placed_pair("cpu", "cuda:0"))
    target = {**given_plan.device_map, "lm_head": 0}
    placement = plain_placement(given_plan, proposal=plain_proposal(device_map=target))
    assert plans.map_edits(placement) == (plans.keys_edit({"lm_head": 0}),)
    assert plans.map_edits(plain_placement(given_plan)) == ()
    assert plans.map_edits(plain_placement(proposal=plain_proposal(device_map=target))) == (plans.whole_map(target),)


@pytest.mark.parametrize(("origin", "library", "loader"), [
    ("given", "transformers 5.23.0", "accelerate"),
    ("built on meta", "transformers 5.23.0", "transformers"),
    ("loaded", None, "accelerate"),
])  # fmt: skip
def test_a_given_map_is_followed_by_the_loader_of_such_a_target(origin, library, loader) -> None:
    facts = live_facts(origin=origin, library=library)
    placement = plain_placement(plain_plan("given"))
    assert plans.loading_of(placement, facts["live_class"], facts["declared_ties"]).loader == loader
    first = plain_placement(plain_plan("accelerate"))
    assert plans.loading_of(first, facts["live_class"], facts["declared_ties"]).loader == "accelerate"


@pytest.mark.parametrize("kind", sorted(TIED | UNTIED))
@pytest.mark.parametrize("stored", [None, "copy", "separate"])
@pytest.mark.parametrize("by", ["LlamaForCausalLM._tied_weights_keys", "tiecheck.toml"])
def test_only_what_a_class_declares_and_nobody_stores_apart_is_tied_by_a_load(kind, stored, by) -> None:
    facts = live_facts(ties=(), declared=(declared_tie(kind, stored=stored, by=(by,)),))
    group = placed_pair(kind=kind)
    for tool in ("transformers", "accelerate"):
        plan = plain_plan(tool, group)
        loading = plans.loading_of(plain_placement(plan), facts["live_class"], facts["declared_ties"])
        made = tool == "transformers" and stored != "separate" and by.endswith("_keys")
        assert loading.binds(group, plan) == (kind in TIED or made)
