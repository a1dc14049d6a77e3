"""What a planner gives under other hash seeds.

accelerate from 0.34 to 1.15 goes through `set(all names) - set(names without duplicates)` (`find_tied_parameters`);
transformers 5 through `set(all_tied_weights_keys.values())` (`_init_infer_auto_device_map`). The order of a set depends
on the hashes and on how it was filled: a process a seed fills the same sets, and the installed planner is run here with
the groups in that order.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence

from tiecheck.placement.map_lookup import differing, splits
from tiecheck.placement.planners.running import Case, Groups, Ran, plan_again
from tiecheck.records.placement import Seeds

SECONDS = 120
"""How long a process may take to sort its set."""

SHOWN = 20
"""Modules that are listed at most where two maps differ."""

_PROGRAM = """
import json, sys
names, less = json.load(sys.stdin)
met = set(names)
json.dump(list(met if less is None else met - set(less)), sys.stdout)
"""


def plan_under_seeds(case: Case, ran: Ran, meant: Iterable[tuple[str, ...]], count: int) -> Seeds:
    """Plan under the hash seeds 0, 1, 2 and so on.

    Args:
        case: The planner and what it is asked.
        ran: What it gave in this process.
        meant: The groups that a map must not split.
        count: How many seeds.

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
    moving = {name for one in placed[1:] for name in differing(placed[0], one)}
    return Seeds(
        count,
        len({frozenset(one.plan.device_map.items()) for one in whole}),
        tuple(sorted(moving)[:SHOWN]),
        sum([splits(one, groups_meant) for one in placed]),
        len(tried) - len(whole),
    )


def groups_under_seed(case: Case, groups: Groups, seed: int) -> Groups:
    """Return the groups of a planner in the order of a hash seed; no process is asked where there is none.

    Args:
        case: The planner.
        groups: Its groups.
        seed: The value of PYTHONHASHSEED.
    """
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
        [sys.executable, "-S", "-c", _PROGRAM],
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
