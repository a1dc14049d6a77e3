"""The watched copy of the installed planner: the same maps and the same counting, nothing of the library changed."""

from __future__ import annotations

import random

import accelerate.utils.modeling as planning
import pytest
from accelerate import infer_auto_device_map
from planner_models import ENTANGLED, entangled, random_ask, random_model
from torch import nn

from tiecheck.placement.map_lookup import device_word
from tiecheck.placement.planners.watching import CLEAN, PLANNER, SIZE, PlannerWatch, crash_of, watched_planner

pytestmark = pytest.mark.filterwarnings("ignore")


def outcome(planner, model: nn.Module, memory, blocks):
    try:
        return dict(planner(model, max_memory=dict(memory), no_split_module_classes=blocks))
    except Exception as error:  # noqa: BLE001  # whatever it raises is compared
        return type(error), str(error)


@pytest.mark.parametrize("seed", range(60))
def test_a_watch_changes_no_plan_and_no_function_of_the_library(seed: int) -> None:
    draw = random.Random(seed)
    model = random_model(draw)
    total = sum(parameter.nbytes for _, parameter in model.named_parameters(remove_duplicate=False))
    ask = random_ask(draw, total)
    before = {name: getattr(planning, name) for name in (PLANNER, SIZE, CLEAN)}
    watch = PlannerWatch()
    blocks = list(ask.no_split or ())
    found = outcome(watched_planner(infer_auto_device_map, watch), model, ask.memory, blocks)
    assert found == outcome(infer_auto_device_map, model, ask.memory, blocks)
    assert {name: getattr(planning, name) for name in before} == before
    if isinstance(found, dict):
        placed = watch.placed or {}
        assert {device_word(device) for device in found.values()} == {device_word(d) for d in placed.values()}
        for double in watch.doubles(placed):
            assert double.counted > double.real
            assert double.names
        assert set(watch.counted(placed)) <= {device_word(device) for device in placed.values()}


def test_counting_once_is_counting_each_tied_tensor_once() -> None:
    model = entangled()
    loose: dict[int | str, int] = {0: 10**9}
    counts = {}
    for once in (False, True):
        watch = PlannerWatch(once=once)
        watched_planner(infer_auto_device_map, watch)(model, max_memory=dict(ENTANGLED))
        counts[once] = sum(watch.counted(watch.placed or {}).values())
        assert bool(watch.doubles(watch.placed or {})) or once or counts[False]
    real = sum(parameter.nbytes for parameter in model.parameters())
    assert counts[True] <= counts[False]
    watch = PlannerWatch(once=True)
    watched_planner(infer_auto_device_map, watch)(model, max_memory=loose)
    assert sum(watch.counted(watch.placed or {}).values()) == real


def test_groups_that_are_given_are_planned_with_and_none_are_looked_for() -> None:
    model = entangled()
    groups = [sorted(group) for group in planning.find_tied_parameters(model)]
    orders = [groups, groups[::-1]]
    maps = []
    for order in orders:
        watch = PlannerWatch()
        maps.append(dict(watched_planner(infer_auto_device_map, watch, order)(model, max_memory=dict(ENTANGLED))))
        assert watch.groups == tuple(map(tuple, order))
    assert maps[0] != maps[1], "the order of the ties decides, which is why it can be given"


def test_an_error_of_something_else_is_put_down_to_no_tie() -> None:
    def planner(*_: object, **__: object) -> None:
        raise ValueError("no memory")

    with pytest.raises(ValueError, match="no memory") as caught:
        watched_planner(planner, PlannerWatch())()
    crash = crash_of(caught.value, nn.Linear(1, 1))
    assert (crash.error, crash.cause, crash.names) == ("ValueError: no memory", "other", ())


def test_what_is_no_python_function_is_left_as_it_is() -> None:
    class Planner:
        def __call__(self) -> str:
            return "planned"

    planner = Planner()
    assert watched_planner(planner, PlannerWatch()) is planner
