"""The order of the tie groups, which is that of a set of names, and so of PYTHONHASHSEED.

accelerate from 0.34 to 1.15 walks through `set(all names) - set(names without duplicates)` (`find_tied_parameters`);
transformers 5 through `set(all_tied_weights_keys.values())` (`_init_infer_auto_device_map`). A set's order depends on
the hashes and on how the set was filled, so the same sets are made here in the same way.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from tiecheck.placement.planners.tree import Groups, Tree

SECONDS = 120
"""How long a process may take to sort its sets."""

# The sets are made as the tools make them: from the keys of one dict less those of another, and from a dict's values.
_PROGRAM = """
import json, sys
names, kept, declared = json.load(sys.stdin)
every, once = dict.fromkeys(names), dict.fromkeys(kept)
tied = set(every.keys()) - set(once.keys())
targets = set(dict(declared).values())
json.dump([list(tied), list(targets)], sys.stdout)
"""


def aliases_here(tree: Tree) -> list[str]:
    """The further names in the order in which accelerate meets them in this process."""
    every, once = dict.fromkeys(tree.names), dict.fromkeys(tree.kept)
    return list(set(every.keys()) - set(once.keys()))


def sources_here(tree: Tree) -> list[str]:
    """The sources of declared ties in the order in which transformers meets them in this process."""
    return list(set(dict(tree.declared or {}).values()))


def orders_under(tree: Tree, seed: int) -> tuple[list[str], list[str]]:
    """The same two lists in a process with another hash seed.

    Args:
        tree: The model.
        seed: The value of PYTHONHASHSEED.

    Raises:
        OSError: The process cannot be started.
        subprocess.SubprocessError: It fails, or takes longer than `SECONDS`.
    """
    words = json.dumps([tree.names, tree.kept, list((tree.declared or {}).items())])
    done = subprocess.run(  # noqa: S603  # our own program, and names as data
        [sys.executable, "-S", "-c", _PROGRAM],
        input=words,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=True,
        timeout=SECONDS,
        env={**os.environ, "PYTHONHASHSEED": str(seed), "PYTHONIOENCODING": "utf-8"},
    )
    aliases, sources = json.loads(done.stdout)
    return aliases, sources


def groups_in_order(tree: Tree, tool: str, groups: Groups, met: Sequence[str] | None = None) -> list[tuple[str, ...]]:
    """Groups in the order in which a tool goes through them.

    Args:
        tree: The model.
        tool: Which tool.
        groups: Its groups.
        met: The names as `aliases_here` or `sources_here` lists them under some seed; None for this process.
    """
    if len(groups) < 2:
        return list(groups)
    if tool == "transformers":
        met = sources_here(tree) if met is None else met
        by_source = _by_source(tree)
        return [by_source[source] for source in met]
    met = aliases_here(tree) if met is None else met
    member = {name: group for group in groups for name in group}
    return list(dict.fromkeys(member[alias] for alias in met))


def _by_source(tree: Tree) -> dict[str, tuple[str, ...]]:
    held: dict[str, list[str]] = {}
    for target, source in (tree.declared or {}).items():
        held.setdefault(source, [source]).append(target)
    return {source: tuple(sorted(names)) for source, names in held.items()}


def numbered(groups: Groups, ordered: Sequence[Any]) -> list[int]:
    """An order of groups as numbers."""
    place = {group: number for number, group in enumerate(groups)}
    return [place[tuple(group)] for group in ordered]
