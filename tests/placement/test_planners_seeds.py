"""Other hash seeds: what is told of them against the planners really run under them."""

from __future__ import annotations

import json
import random
import subprocess

import pytest
from planner_models import ENTANGLED, declared_entangled, entangled, random_model
from planner_runs import plans_of
from seeded import under_seed

from tiecheck.placement.planners.plans import groups_under_seed, plan_under_seeds
from tiecheck.placement.planners.running import PlannerCase, plan_again, run_planner
from tiecheck.records.placement import Ask, Seeds

ASK = Ask("sequential", ENTANGLED)


def told_of(module, tool: str, count: int, ask: Ask = ASK) -> Seeds:
    case = PlannerCase(module, tool, ask)  # type: ignore[arg-type]
    ran = run_planner(case)
    return plan_under_seeds(case, ran, ran.watch.groups, count)


def ours(module, tool: str, seed: int) -> dict[str, int | str]:
    case = PlannerCase(module, tool, ASK)  # type: ignore[arg-type]
    ran = run_planner(case)
    groups = groups_under_seed(case, ran.watch.groups, seed)
    return dict(plan_again(case, ran, groups=groups).plan.device_map)


def compare(reals: list[dict[str, dict[str, int | str]]]) -> dict[str, list[str]]:
    """What we say of seeds from 0 on against the planners really run under them; return their maps."""
    maps: dict[str, list[str]] = {"accelerate": [], "transformers": []}
    for seed, real in enumerate(reals):
        for tool, module in (("accelerate", entangled()), ("transformers", declared_entangled())):
            found = ours(module, tool, seed)
            assert found == real[tool], (tool, seed)
            maps[tool].append(json.dumps(real[tool], sort_keys=True))
    return maps


def test_the_planners_under_two_seeds(two_seeds):
    maps = compare([said["planners"] for said in two_seeds])
    assert len(set(maps["accelerate"])) == 2


@pytest.mark.slow
def test_finding_3_the_map_depends_on_the_hash_seed():
    maps = compare([under_seed(seed, ["planners"])["planners"] for seed in range(8)])
    assert len(set(maps["accelerate"])) == 7
    assert len(set(maps["transformers"])) > 1
    for tool, module in (("accelerate", entangled()), ("transformers", declared_entangled())):
        told = told_of(module, tool, 8)
        assert told.maps == len(set(maps[tool]))
        moving = set()
        for text in maps[tool]:
            moving |= {key for key, device in json.loads(text).items() if json.loads(maps[tool][0]).get(key) != device}
        assert told.moving
        assert {name.split(".")[0] for name in told.moving} <= {name.split(".")[0] for name in moving}


def test_seeds_are_told_with_a_plan():
    (plan,) = plans_of(entangled(), ASK, seeds=8)
    assert plan.seeds.tried == 8
    assert plan.seeds.maps == 7
    assert plan.seeds.crashes == 0
    assert plan.seeds.splits == 0
    assert "part0x.rest" in plan.seeds.moving
    assert plans_of(entangled(), ASK)[0].seeds is None


def test_one_group_asks_no_process(monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("a process was started"))
    told = told_of(entangled(1), "accelerate", 5)
    assert (told.tried, told.maps, told.moving) == (5, 1, ())


def test_seeds_that_raise_are_counted():
    model = entangled()
    model.first.w0x = model.first.w0  # no crash by itself
    model.w = model.first.w1  # stands on the root
    told = told_of(model, "accelerate", 3)
    assert (told.crashes, told.maps) == (3, 0)


def test_the_groups_are_the_same_in_any_order():
    several = 0
    for seed in range(100):
        case = PlannerCase(random_model(random.Random(seed), ties=8), "accelerate", ASK)
        groups = run_planner(case).watch.groups
        if len(groups) > 2 and several < 10:
            several += 1
            assert sorted(groups_under_seed(case, groups, seed)) == sorted(groups)
    assert several == 10


def test_no_module_of_the_working_directory_is_imported(tmp_path, monkeypatch):
    for name in ("json", "sitecustomize", "encodings", "codecs"):
        (tmp_path / f"{name}.py").write_text("open('ran', 'w').close()")
    monkeypatch.chdir(tmp_path)
    ours(entangled(), "accelerate", 1)
    assert not (tmp_path / "ran").exists()


def test_the_planner_goes_by_the_order_that_it_is_given():
    case = PlannerCase(entangled(), "accelerate", ASK)
    ran = run_planner(case)
    same = plan_again(case, ran, groups=ran.watch.groups)
    assert same.plan.device_map == ran.plan.device_map
    assert plan_again(case, ran, groups=ran.watch.groups[::-1]).watch.groups == ran.watch.groups[::-1]
