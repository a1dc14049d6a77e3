"""Other hash seeds: our orders against the planners really run under them."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys

import pytest
from older import ROOT
from planner_models import ENTANGLED, declared_entangled, entangled, random_ask, random_model

from tiecheck.placement.planners.orders import aliases_here, groups_in_order, numbered, orders_under, sources_here
from tiecheck.placement.planners.plans import plans_of, reproduce, run, seeds, sizes_of
from tiecheck.placement.planners.reproduction import groups_of_tool
from tiecheck.placement.planners.tree import Tree
from tiecheck.records.placement import Ask

ASK = Ask("sequential", ENTANGLED)
VERSIONS = {"accelerate": "1.15.0", "transformers": "5.23.0"}


def really(seed: int) -> dict[str, dict[str, int | str]]:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests/support")])
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests/support/planner_seeds.py")],
        env={**os.environ, "PYTHONPATH": paths, "PYTHONHASHSEED": str(seed), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def ours(module, tool: str, seed: int) -> dict[str, int | str]:
    tree = Tree(module)
    groups = groups_of_tool(tree, tool)
    met = orders_under(tree, seed)[tool == "transformers"]
    order = numbered(groups, groups_in_order(tree, tool, groups, met))
    return dict(reproduce(module, tool, VERSIONS[tool], ASK, order).device_map)


def compare(tried: int) -> dict[str, list[str]]:
    maps: dict[str, list[str]] = {"accelerate": [], "transformers": []}
    for seed in range(tried):
        real = really(seed)
        for tool, module in (("accelerate", entangled()), ("transformers", declared_entangled())):
            found = ours(module, tool, seed)
            assert found == real[tool], (tool, seed)
            maps[tool].append(json.dumps(real[tool], sort_keys=True))
    return maps


def test_the_planners_under_two_seeds():
    maps = compare(2)
    assert len(set(maps["accelerate"])) == 2


@pytest.mark.slow
def test_finding_3_the_map_depends_on_the_hash_seed():
    maps = compare(8)
    assert len(set(maps["accelerate"])) == 7
    assert len(set(maps["transformers"])) > 1
    for tool, module in (("accelerate", entangled()), ("transformers", declared_entangled())):
        told = seeds(module, tool, ASK, 8, version=VERSIONS[tool])
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
    told = seeds(entangled(1), "accelerate", ASK, 5, version="1.15.0")
    assert (told.tried, told.maps, told.moving) == (5, 1, ())


def test_seeds_that_raise_are_counted():
    model = entangled()
    model.first.w0x = model.first.w0  # no crash by itself
    model.w = model.first.w1  # stands on the root
    told = seeds(model, "accelerate", ASK, 3, version="1.15.0")
    assert (told.crashes, told.maps) == (3, 0)


def test_the_order_of_this_process_is_the_planners():
    from accelerate.utils.modeling import find_tied_parameters

    several = 0
    for seed in range(300):
        model = random_model(random.Random(seed), ties=8)
        tree = Tree(model)
        groups = groups_of_tool(tree, "accelerate")
        assert [list(group) for group in groups_in_order(tree, "accelerate", groups)] == find_tied_parameters(model)
        several += len(groups) > 2
    assert several > 50
    tree = Tree(declared_entangled())
    assert sources_here(tree) == list(set(tree.declared.values()))
    assert set(aliases_here(tree)) == set(tree.names) - set(tree.kept)


@pytest.mark.parametrize("seed", range(20))
def test_any_order_of_the_groups_gives_a_plan(seed):
    """An order is numbers of groups; the one of this process gives the installed planner's map."""
    draw = random.Random(seed)
    model = random_model(draw, ties=6, aliases=0)
    ask = random_ask(draw, max(8, sum(one.nbytes for one in sizes_of(model))))._replace(strategy="sequential")
    tree = Tree(model)
    groups = groups_of_tool(tree, "accelerate")
    order = numbered(groups, groups_in_order(tree, "accelerate", groups))
    assert reproduce(model, "accelerate", "1.15.0", ask, order).device_map == run(model, "accelerate", ask).device_map
