"""What the device-map planners of accelerate and transformers do with a model: run, and reproduced.

The installed planner is run; the reproduction says why it raised, what it counted twice, and what another order of
the tie groups, another release or right counting would have given. It runs only where one of these is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from tiecheck.facts_placement import Ask, Crash, Plan
from tiecheck.peers.planners.hashing import seeds, seeds_of
from tiecheck.peers.planners.maps import word
from tiecheck.peers.planners.releases import Release, release_of
from tiecheck.peers.planners.reproduction import (
    Subject,
    Tool,
    groups_of_tool,
    plan_of,
    reproduce,
    subject_of,
)
from tiecheck.peers.planners.running import Ran, is_pretrained, run, run_fully
from tiecheck.peers.planners.sizes import Sized, accelerate_sizer, sizes, sizes_of, transformers_sizer
from tiecheck.peers.planners.tree import Groups, Tree, tree_of
from tiecheck.peers.planners.twice import may_double
from tiecheck.peers.views.paths import Endless
from tiecheck.peers.views.sight import told

if TYPE_CHECKING:
    from torch import nn


def plans_of(
    module: nn.Module, ask: Ask, *, planned: nn.Module | None = None, quantizer: Any = None, seeds: int = 0
) -> tuple[Plan, ...]:
    """The plans of the installed planners, with everything but `placed` and `used`.

    Args:
        module: The model as it is used, tied; it is not changed.
        ask: What is asked for.
        planned: The model as `from_pretrained` has it when it plans (`build_for_plan`), where there is one:
            transformers then plans for that, else for `module`.
        quantizer: The quantizer that goes with `planned`.
        seeds: Under how many hash seeds to plan beside; each costs a short process.

    Returns:
        accelerate's plan, and transformers' where that would plan for such a module; of those that are installed. A
        planner that raises has that in `crash`.

    Raises:
        TypeError: If `module` is no `nn.Module`.
        OSError: If Python cannot be started for another hash seed.
    """
    asked: list[tuple[Any, Tool]] = [(module, "accelerate")]
    for_transformers = module if planned is None else planned
    if is_pretrained(for_transformers):
        asked.append((for_transformers, "transformers"))
    return tuple(
        _plan(subject, tool, ask, quantizer if tool == "transformers" else None, seeds)
        for subject, tool in asked
        if _installed("accelerate") and _installed(tool)
    )


def groups_seen(module: nn.Module | Tree, tool: Tool) -> Groups:
    """The groups of names that a planner of today takes for one tensor, in our order.

    Args:
        module: The module that it plans for, or its `Tree`.
        tool: Whose planner: accelerate goes by what is one parameter, transformers by what is declared.

    Raises:
        TypeError: If `module` is no `nn.Module`.
        RecursionError: A registered cycle, or modules within modules deeper than Python recurses.
        Endless: Aliases that make more paths than can be walked.
    """
    return groups_of_tool(module if isinstance(module, Tree) else tree_of(module), tool)


def _installed(tool: str) -> bool:
    try:
        version(tool)
    except PackageNotFoundError:
        return False
    return True


def _plan(module: Any, tool: Tool, ask: Ask, quantizer: Any, count: int) -> Plan:
    """Run a planner, and add what only the reproduction can tell."""
    installed = version(tool)
    try:
        tree = tree_of(module)
    except (RecursionError, Endless) as error:
        text = f"not run: {error}" if isinstance(error, Endless) else told(error)
        return Plan(tool, installed, ask.strategy, {}, Crash(text, "other", "", (), ()))
    ran = run_fully(module, tool, ask, quantizer=quantizer)
    release = release_of(tool, installed)
    groups = groups_of_tool(tree, tool, release)
    if release is None:
        return ran.plan
    plan = _filled(ran, module, tree, release, groups, ask, quantizer)
    if count and ran.plan.memory:
        subject = _subject(ran, module, tree, tool, ask, quantizer)
        plan = plan._replace(seeds=seeds_of(subject, release, count))
    return plan


def _filled(
    ran: Ran, module: Any, tree: Tree, release: Release, groups: Sequence[Sequence[str]], ask: Ask, quantizer: Any
) -> Plan:
    """A plan with its crash explained, its counting and what was counted twice."""
    plan = ran.plan
    tool: Any = plan.tool
    if plan.crash is None and ran.placed is not None and (release.once or not may_double(groups)):
        counted = _counted(ran, module, tree, tool, ask, quantizer)
        return plan._replace(counted=counted)
    if not plan.memory:
        return plan  # it raised before anything was placed
    ours = plan_of(_subject(ran, module, tree, tool, ask, quantizer), release, plan.version)
    if plan.crash is not None:
        same = ours.crash is not None and ours.crash.error == plan.crash.error
        return plan._replace(crash=ours.crash) if same else plan
    if dict(ours.device_map) != dict(plan.device_map):
        return plan  # a planner that does not do what we know of it: nothing is said of its counting
    return plan._replace(counted=ours.counted, doubles=ours.doubles, moved=ours.moved)


def _subject(ran: Ran, module: Any, tree: Tree, tool: Tool, ask: Ask, quantizer: Any) -> Subject:
    known = tree if tool == "accelerate" else module
    return subject_of(known, tool, ask, quantizer=quantizer, allowed=ran.plan.memory)


def _counted(ran: Ran, module: Any, tree: Tree, tool: Tool, ask: Ask, quantizer: Any) -> dict[str, int]:
    """Bytes on each device as the planner counted them, where it counted nothing twice."""
    size = accelerate_sizer(ask.dtype)
    if tool == "transformers":
        size = transformers_sizer(module, quantizer, tree.declared)
    of = sizes(tree, size).of
    found: dict[str, float] = {}
    for name, device in (ran.placed or {}).items():
        found[word(device)] = found.get(word(device), 0) + of.get(name, 0)
    return {device: int(nbytes) for device, nbytes in found.items() if nbytes}


__all__ = [
    "Sized",
    "groups_seen",
    "plans_of",
    "reproduce",
    "run",
    "seeds",
    "sizes_of",
]
