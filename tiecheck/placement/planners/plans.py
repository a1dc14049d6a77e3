"""The plans of the device-map planners of accelerate and transformers, and what they make of a model's ties.

Each is run once; again with every tied module counted once, where it counted one twice and used more than the first
device; and again for each order of the ties that other hash seeds give, where that is asked for. accelerate from 0.34
to 1.15 goes through `set(all names) - set(names without duplicates)` (`find_tied_parameters`), transformers 5 through
`set(all_tied_weights_keys.values())` (`_init_infer_auto_device_map`): a process a seed fills the same sets.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from importlib import import_module
from importlib.util import find_spec
from itertools import islice
from typing import Any

from torch import nn

from tiecheck.peers.views import module_walks
from tiecheck.peers.views.tool_functions import WalkedModule, error_words, ordered_groups
from tiecheck.placement.map_lookup import device_word, differing_devices, splits_a_group
from tiecheck.placement.planners.running import Groups, PlannerCase, Ran, is_pretrained, plan_again, run_planner
from tiecheck.records.placement import Ask, Crash, Plan, Seeds


def plans_and_groups(
    module: nn.Module, ask: Ask, *, planned: nn.Module | None = None, quantizer: Any = None, seeds: int = 0
) -> tuple[tuple[Plan, Groups], ...]:
    """Return the plans of the installed planners without `placed` and `used`, and what each took for one tensor.

    accelerate plans for the tied module, which is not changed; transformers, where it would plan for such a model, for
    `planned`, the model as `from_pretrained` has it then (`build_for_plan`, with its quantizer). Each of the hash seeds
    costs a short process, each order of the ties a run. A planner that raises has that in `crash`. What is no module is
    a `TypeError`; a Python that cannot be started for a seed an `OSError` or `SubprocessError`.
    """
    for_transformers = module if planned is None else planned
    cases = [PlannerCase(module, "accelerate", ask)]
    if is_pretrained(for_transformers):
        cases.append(PlannerCase(for_transformers, "transformers", ask, quantizer))
    if find_spec("accelerate") is None:
        return ()  # transformers' planner needs it too
    sights = {id(case.module): WalkedModule(case.module) for case in cases}
    return tuple([_plan_fully(case, sights[id(case.module)], seeds) for case in cases])


def _plan_fully(case: PlannerCase, sight: WalkedModule, seeds: int) -> tuple[Plan, Groups]:
    """Run a planner, and say what it counted, what comes of that, and what other hash seeds give."""
    try:
        _check_paths(sight)
    except (RecursionError, module_walks.Endless) as error:
        text = f"not run: {error}" if isinstance(error, module_walks.Endless) else error_words(error)
        installed: str = import_module(case.tool).__version__
        return Plan(case.tool, installed, case.ask.strategy, {}, Crash(text, "other", "", ())), ()
    ran = run_planner(case)
    plan = ran.plan
    if plan.crash is None:
        plan = plan._replace(
            counted=ran.watch.counted(ran.placed), doubles=ran.watch.doubles(ran.placed), moved=_moved(case, ran)
        )
    if seeds and ran.started and (plan.crash is None or plan.crash.names):
        meant = {*sight.tied, *_declared(case.module)}
        plan = plan._replace(seeds=plan_under_seeds(case, ran, meant, seeds))
    return plan, () if plan.crash else ran.watch.groups


def _check_paths(sight: WalkedModule) -> None:
    """Refuse a model through which a planner's walk never ends, as `refuse_endless_walk` does."""
    if not sight.graph.several():  # each module has one path, so that there is an end
        module_walks.refuse_endless_walk(sight.extent()._replace(paths=0, names=0))
        return
    module_walks.refuse_endless_walk(sight.extent())
    module_walks.refuse_endless_walk(sight.extent(once=True))


def _moved(case: PlannerCase, ran: Ran) -> dict[str, tuple[str, str]]:
    """Return what stands elsewhere where each tied module is counted once; with all on the first device nothing can."""
    if not ran.watch.doubles(ran.placed) or set(ran.placed.values()) <= {next(iter(ran.plan.memory), None)}:
        return {}
    found = differing_devices(ran.placed, plan_again(case, ran, once=True).placed)
    return {name: (device_word(one), device_word(other)) for name, (one, other) in islice(found.items(), SHOWN)}


def _declared(module: Any) -> Groups:
    """Return the groups that a transformers model declares."""
    held: dict[str, list[str]] = {}
    for target, source in (getattr(module, "all_tied_weights_keys", None) or {}).items():
        held.setdefault(source, [source]).append(target)
    return ordered_groups(held.values())


SECONDS = 120
"""Time that a process may take to sort its set."""

SHOWN = 20
"""Modules that are listed at most where two maps differ."""

_PROGRAM = """
import json, sys
names, less = json.load(sys.stdin)
met = set(names)
json.dump(list(met if less is None else met - set(less)), sys.stdout)
"""


def plan_under_seeds(case: PlannerCase, ran: Ran, meant: Iterable[tuple[str, ...]], count: int) -> Seeds:
    """Plan under the hash seeds 0, 1, 2 and so on, and count the maps that split one of the groups that are `meant`.

    Raises:
        OSError: Python cannot be started.
        subprocess.SubprocessError: It fails or takes too long.
    """
    known: dict[Groups, Ran] = {}
    tried: list[Ran] = []
    for seed in range(count):
        groups = groups_under_seed(case, ran.watch.groups, seed)
        if groups not in known:
            known[groups] = plan_again(case, ran, groups=groups)
        tried.append(known[groups])
    whole = [one for one in tried if one.plan.crash is None]
    placed = [one.placed for one in whole]
    groups_meant = set(meant)
    moving = {name for one in placed[1:] for name in differing_devices(placed[0], one)}
    return Seeds(
        count,
        len({frozenset(one.plan.device_map.items()) for one in whole}),
        tuple(sorted(moving)[:SHOWN]),
        sum([splits_a_group(one, groups_meant) for one in placed]),
        len(tried) - len(whole),
    )


def groups_under_seed(case: PlannerCase, groups: Groups, seed: int) -> Groups:
    """Return the groups of a planner in the order of a PYTHONHASHSEED; no process is asked for a single group."""
    if len(groups) < 2:
        return groups
    if case.tool == "transformers":
        held: dict[str, list[str]] = {}
        for target, source in case.module.all_tied_weights_keys.items():
            held.setdefault(source, [source]).append(target)
        sources = list(case.module.all_tied_weights_keys.values())
        return tuple([tuple(sorted(held[source])) for source in _met(seed, sources, None)])
    names = [name for name, _ in case.module.named_parameters(remove_duplicate=False)]
    kept = [name for name, _ in case.module.named_parameters()]
    member = {name: group for group in groups for name in group}
    return tuple(dict.fromkeys([member[alias] for alias in _met(seed, names, kept)]))


def _met(seed: int, names: Sequence[str], less: Sequence[str] | None) -> list[str]:
    """Return the names of a set, less those of another, as a process with a hash seed lists them."""
    done = subprocess.run(  # noqa: S603  # our own program, and names as data
        [sys.executable, "-P", "-S", "-c", _PROGRAM],  # nothing is imported from the working directory
        input=json.dumps([names, less]),
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=True,
        timeout=SECONDS,
        env={**os.environ, "PYTHONHASHSEED": str(seed), "PYTHONIOENCODING": "utf-8"},
    )
    found: list[str] = json.loads(done.stdout)
    return found
