"""Our runs of the installed planners: every kind of tie, the OLMo thread, and random models."""

from __future__ import annotations

import logging
import random
import warnings
from pathlib import Path
from typing import Any

import pytest
from declared_models import STATES, Config, Declared, Undeclared, rewrapped
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from planner_asks import asks_of
from planner_models import random_ask, random_model, random_pretrained
from planner_runs import agree, counting_once, plans_of, total_bytes
from planner_runs import given as really_given
from torch import nn
from zoo_of_ties import every_row

from tiecheck.files.model_config import read_config
from tiecheck.live.transformers.loading import build_pretrained
from tiecheck.peers.views.registry import ask_tools, would_warn
from tiecheck.placement.map_lookup import device_in, device_word
from tiecheck.placement.planners.plans import plans_and_groups
from tiecheck.placement.planners.running import PlannerCase, run_planner
from tiecheck.records.placement import Ask, Plan

pytestmark = pytest.mark.filterwarnings("ignore")

NOT_TIED = "The model weights are not tied."
FIXTURES = Path(__file__).parents[2] / "fixtures" / "models"


def run(module: Any, tool: Any, ask: Ask) -> Plan:
    """One tool's plan, as it is run."""
    return run_planner(PlannerCase(module, tool, ask)).plan


def hold(module: Any, tool: Any, ask: Ask) -> Plan:
    """A run gives what the installed planner gives to others, and the warning is foretold."""
    plan = run(module, tool, ask)
    agree(plan, module, ask)
    if tool == "accelerate" and (plan.crash is None or plan.memory):
        warned = any(text.startswith(NOT_TIED) for text in plan.logged)
        assert warned == ("1.7-" in would_warn(ask_tools(module)))
    return plan


@every_row
def test_every_kind_of_tie(built):
    _, module = built
    total = 2000
    for ask in asks_of(total):
        hold(module, "accelerate", ask)


@pytest.mark.parametrize("model_class", [Declared, Undeclared])
@pytest.mark.parametrize("flag", [True, False])
def test_every_state_of_a_declared_tie(flag, model_class):
    warned = 0
    for change in [None, *(state[0] for state in STATES)]:
        model = model_class(Config(tie_word_embeddings=flag))
        if change is not None:
            change(model)
        for ask in asks_of(400):
            hold(model, "accelerate", ask)
            hold(model, "transformers", ask)
        warned += any(text.startswith(NOT_TIED) for text in run(model, "accelerate", asks_of(400)[0]).logged)
    assert bool(warned) == flag


@pytest.mark.parametrize("form", ["olmo-functional-head", "olmo-module-alias", "olmo-parameter-tie"])
def test_the_olmo_thread(form):
    root = str(FIXTURES / form)
    model = build_pretrained(root, read_config(root), load=True, trust=True)
    total = sum(p.numel() * 4 for p in model.parameters())
    for ask in asks_of(total):
        hold(model, "accelerate", ask)
        hold(model, "transformers", ask)
    plan = plans_of(model, asks_of(total)[0])[0]
    crashed = plan.crash is not None
    warned = any(text.startswith(NOT_TIED) for text in plan.logged)
    assert (crashed, warned) == (False, False)
    tight = plans_of(model, Ask("sequential", {0: total // 2, "cpu": total}))[0]
    if form == "olmo-module-alias":
        # `ff_out` is `wte` itself beside it in one ModuleDict: `named_children()` does not list it.
        assert tight.crash.cause == "sibling"
        assert tight.crash.names == ("model.transformer.ff_out.weight", "model.transformer.wte.weight")
    else:
        assert tight.crash is None


@given(st.integers(0, 2**32), st.integers(0, 2**32))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_random_modules(shape, memory):
    model = random_model(random.Random(shape))
    total = total_bytes(model)
    hold(model, "accelerate", random_ask(random.Random(memory), total))


@given(st.integers(0, 2**32), st.integers(0, 2**32))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_random_transformers_models(shape, memory):
    model = random_pretrained(random.Random(shape))
    total = total_bytes(model)
    hold(model, "transformers", random_ask(random.Random(memory), total))


@given(st.integers(0, 2**32), st.integers(0, 2**32))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@example(301136, 0)  # half a byte is counted twice
def test_what_is_counted_twice_and_what_comes_of_it(shape, memory):
    model = random_model(random.Random(shape), ties=8)
    ask = random_ask(random.Random(memory), total_bytes(model))
    plan = plans_of(model, ask)[0]
    if plan.crash is not None:
        assert (plan.counted, plan.doubles, plan.moved) == ({}, (), {})
        return
    with counting_once():
        right, error = really_given("accelerate", model, ask)
    if not plan.doubles:
        assert plan.moved == {}  # though that counts more where a tie is counted at none of its places
        return
    if error is not None:
        assert plan.moved == {}
        return
    for double in plan.doubles:
        assert double.counted > double.real
        assert device_word(device_in(plan.device_map, double.module)) == double.device
    for name, (here, there) in plan.moved.items():
        assert device_word(device_in(plan.device_map, name)) == here
        assert device_word(device_in(right, name)) == there
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    apart = [name for name in names if device_in(right, name) != device_in(plan.device_map, name)]
    assert bool(apart) == bool(plan.moved)


@given(st.integers(0, 2**32), st.integers(0, 2**32))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_what_is_counted_on_each_device(shape, memory):
    model = random_model(random.Random(shape), ties=0, aliases=0)
    for module in model.modules():
        module._buffers.clear()  # accelerate 1.15 loses those of a module that it splits
    ask = random_ask(random.Random(memory), total_bytes(model))._replace(dtype=None)
    plan = plans_of(model, ask)[0]
    if plan.crash is None:
        held: dict[str, int] = {}
        for name, tensor in model.named_parameters():
            device = device_word(device_in(plan.device_map, name))
            held[device] = held.get(device, 0) + tensor.numel() * tensor.element_size()
        assert plan.counted == {device: nbytes for device, nbytes in held.items() if nbytes}


def test_nothing_reaches_the_user_and_nothing_is_changed(caplog, recwarn):
    model = Declared(Config(tie_word_embeddings=True))
    rewrapped(model)
    memory: dict[int | str, int] = {0: 100, 1: 100, "cpu": 1000}
    logger = logging.getLogger("accelerate.utils.modeling")
    before = (list(logger.handlers), logger.propagate, logger.level, logging.root.manager.disable)
    with caplog.at_level(logging.DEBUG), warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        plans = plans_of(model, Ask("auto", memory))
    assert any(text.startswith(NOT_TIED) for text in plans[0].logged)
    assert memory == {0: 100, 1: 100, "cpu": 1000}
    assert not caplog.records
    assert not shown
    assert not recwarn.list
    assert before == (list(logger.handlers), logger.propagate, logger.level, logging.root.manager.disable)


def test_what_is_logged_is_kept_though_the_user_has_logging_off():
    model = Declared(Config(tie_word_embeddings=True))
    rewrapped(model)
    logging.disable(logging.CRITICAL)
    try:
        plan = run(model, "accelerate", Ask("sequential", {"cpu": 10_000}))
    finally:
        logging.disable(logging.NOTSET)
    assert any(text.startswith(NOT_TIED) for text in plan.logged)
    assert len(plan.logged) == len(set(plan.logged))


def test_buffers_that_fit_nowhere_are_warned_of():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(400))
    plan = run(model, "accelerate", Ask("sequential", {0: 100, "cpu": 20_000}))
    assert any("bytes of buffer for offloaded layers" in text for text in plan.logged)


def test_the_machines_own_memory():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    for plan in plans_of(model, Ask("auto", None)):
        assert plan.memory["cpu"] > 0
        assert plan.counted == {"cpu": 160}


def test_a_memory_that_names_the_disk():
    """accelerate 1.15 asks torch for a device of that name, unless the strategy is `sequential`."""
    model = nn.Linear(4, 4)
    memory: dict[int | str, int] = {0: 1000, "cpu": 1000, "disk": 1000}
    plan = plans_of(model, Ask("auto", memory))[0]
    assert plan.crash.error.startswith("RuntimeError: Expected one of")
    assert plan.crash.cause == "other"
    assert plans_of(model, Ask("sequential", memory))[0].crash is None


def test_an_unknown_device():
    plan = plans_of(nn.Linear(4, 4), Ask("sequential", {"gpu": 1000}))[0]
    assert plan.crash.error.startswith("ValueError: Device gpu is not recognized")


def test_a_cycle_and_a_chain_that_never_ends():
    model = nn.Module()
    model.child = nn.Linear(2, 2)
    model.child.parent = model
    plan = plans_of(model, Ask("auto", {0: 1000}))[0]
    assert plan.crash.error == "RecursionError: maximum recursion depth exceeded"
    top = nn.Linear(2, 2)
    for _ in range(64):
        above = nn.Module()
        above.a, above.b = nn.Sequential(top), nn.Sequential(top)
        top = above
    plan = plans_of(top, Ask("auto", {0: 1000}))[0]
    assert plan.crash.error.startswith("not run: would ")


def seen(model: Any, tool: str) -> Any:
    """The groups that a planner took for one tensor, in our order."""
    found = plans_and_groups(model, Ask("sequential", {0: 10**6}))
    return tuple(sorted(next(groups for plan, groups in found if plan.tool == tool)))


def test_groups_seen():
    model = Declared(Config(tie_word_embeddings=True))
    rewrapped(model)
    assert seen(model, "accelerate") == ()
    assert seen(model, "transformers") == (("emb.weight", "lin.weight"),)
    model.lin.weight = model.emb.weight
    model.more = nn.Linear(2, 2)
    model.inner = nn.Module()
    model.inner.again = model.more
    assert seen(model, "accelerate") == (
        ("emb.weight", "lin.weight"),
        ("inner.again.bias", "more.bias"),
        ("inner.again.weight", "more.weight"),
    )


def test_the_installed_functions_are_left_alone():
    from accelerate.utils import modeling

    before = dict(vars(modeling))
    plans_of(random_model(random.Random(3)), Ask("auto", {0: 100, "cpu": 1000}), seeds=2)
    assert dict(vars(modeling)) == before


def test_a_planner_without_the_helper_that_counts(monkeypatch):
    """As accelerate 1.0 and 1.1: the map is told, and nothing of its counting."""
    from accelerate.utils import modeling

    inside = modeling.infer_auto_device_map

    def wrapped(*args: Any, **words: Any) -> Any:
        return inside(*args, **words)

    monkeypatch.setattr(modeling, "infer_auto_device_map", wrapped)
    monkeypatch.delitem(wrapped.__globals__, "get_module_size_with_ties", raising=False)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    (plan,) = plans_of(model, Ask("sequential", {0: 10**6}))
    assert (dict(plan.device_map), plan.counted, plan.doubles) == ({"": 0}, {}, ())


def test_a_planner_asks_for_what_the_class_says():
    model = Declared(Config(tie_word_embeddings=True))
    model.sub2 = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model._no_split_modules = {"Sequential"}
    ask = Ask("sequential", {0: 400, "cpu": 1000})
    split = dict(run(model, "accelerate", ask._replace(no_split=())).device_map)
    whole = dict(run(model, "accelerate", ask).device_map)
    assert "sub2" in whole
    assert split != whole
    assert dict(run(model, "accelerate", ask._replace(no_split=("Sequential",))).device_map) == whole
