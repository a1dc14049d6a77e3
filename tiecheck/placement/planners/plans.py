"""What the device-map planners of accelerate and transformers do with a model: run, and reproduced.

The installed planner is run; the reproduction says why it raised, what it counted twice, and what another order of
the tie groups, another release or right counting would have given. It runs only where one of these is asked for.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from tiecheck.placement.planners.filling import Case, plan_fully
from tiecheck.placement.planners.hashing import seeds
from tiecheck.placement.planners.reproduction import Tool, groups_of_tool, reproduce
from tiecheck.placement.planners.running import is_pretrained, run
from tiecheck.placement.planners.sizes import Sized, sizes_of
from tiecheck.placement.planners.tree import Groups, Tree
from tiecheck.records.placement import Ask, Plan

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
        subprocess.SubprocessError: If it fails.
    """
    found = plans_and_groups(module, ask, planned=planned, quantizer=quantizer, seeds=seeds)
    return tuple(plan for plan, _ in found)


def plans_and_groups(
    module: nn.Module, ask: Ask, *, planned: nn.Module | None = None, quantizer: Any = None, seeds: int = 0
) -> tuple[tuple[Plan, Groups], ...]:
    """The same, each plan with the groups of names that its planner took for one tensor. See `plans_of`."""
    for_transformers = module if planned is None else planned
    trees: dict[int, Tree] = {}
    cases = [Case(module, "accelerate", ask, None, trees)]
    if is_pretrained(for_transformers):
        cases.append(Case(for_transformers, "transformers", ask, quantizer, trees))
    if find_spec("accelerate") is None:
        return ()  # transformers' planner needs it too
    plans = [(case, plan_fully(case, seeds)) for case in cases]
    return tuple((plan, () if plan.crash else groups_of_tool(case.tree(), case.tool)) for case, plan in plans)


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
    return groups_of_tool(module if isinstance(module, Tree) else Tree(module), tool)


__all__ = [
    "Sized",
    "groups_seen",
    "plans_and_groups",
    "plans_of",
    "reproduce",
    "run",
    "seeds",
    "sizes_of",
]
