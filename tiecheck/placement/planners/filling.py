"""A run's plan, with what only the reproduction can tell, which runs no more than it has to."""

from __future__ import annotations

from importlib import import_module
from typing import Any, NamedTuple

from torch import Tensor

from tiecheck.live.registrations import paused_collector
from tiecheck.peers.views.paths import Endless
from tiecheck.peers.views.sight import told
from tiecheck.placement.map_lookup import device_word
from tiecheck.placement.planners.hashing import seeds_of
from tiecheck.placement.planners.releases import Release, release_of
from tiecheck.placement.planners.reproduction import Subject, Tool, groups_of_tool, plan_of, sizer_of, subject_of
from tiecheck.placement.planners.running import Ran, run_fully
from tiecheck.placement.planners.sizes import accelerate_width, sizes
from tiecheck.placement.planners.tree import Tree
from tiecheck.placement.planners.twice import may_double, may_mistake
from tiecheck.records.placement import Ask, Crash, Plan


class Case(NamedTuple):
    """One planner and what it is asked."""

    module: Any
    """The model it plans for."""
    tool: Tool
    """Whose planner."""
    ask: Ask
    """What is asked for."""
    quantizer: Any
    """transformers' quantizer, where there is one."""
    trees: dict[int, Tree]
    """The trees that were made, by the module's id: two planners may plan for one module."""

    def tree(self) -> Tree:
        """The model's tree.

        Raises:
            Exception: As `Tree`.
        """
        found = self.trees.get(id(self.module))
        if found is None:
            found = self.trees[id(self.module)] = Tree(self.module)
        return found

    def subject(self, tree: Tree, ran: Ran) -> Subject:
        """The model ready to be planned with again, under the memory that the run had."""
        return subject_of(
            self.module, self.tool, self.ask, quantizer=self.quantizer, allowed=ran.plan.memory, tree=tree
        )


def plan_fully(case: Case, seeds: int) -> Plan:
    """Run a planner, and say why it raised, what it counted, and what other hash seeds give.

    Args:
        case: The planner and what it is asked.
        seeds: Under how many hash seeds to plan beside.

    Raises:
        TypeError: If the module is no `nn.Module`.
        OSError: If Python cannot be started for another hash seed.
        subprocess.SubprocessError: If it fails.
    """
    installed: str = import_module(case.tool).__version__
    try:
        with paused_collector():
            tree = case.tree()
    except (RecursionError, Endless) as error:
        text = f"not run: {error}" if isinstance(error, Endless) else told(error)
        return Plan(case.tool, installed, case.ask.strategy, {}, Crash(text, "other", "", (), ()))
    ran = run_fully(case.module, case.tool, case.ask, quantizer=case.quantizer)
    release = release_of(case.tool, installed)
    if release is None or not ran.started:
        return ran.plan  # too old to be known, or it raised before anything was placed
    with paused_collector():
        plan = _filled(case, tree, ran, release)
    if seeds and (plan.crash is None or plan.crash.names):
        plan = plan._replace(seeds=seeds_of(case.subject(tree, ran), release, seeds))
    return plan


def _filled(case: Case, tree: Tree, ran: Ran, release: Release) -> Plan:
    """A plan with its crash explained, its counting, and what was counted twice."""
    plan = ran.plan
    if plan.crash is None and ran.placed is not None:
        groups = groups_of_tool(tree, case.tool, release)
        doubled = not release.once and may_double(groups)
        if not doubled and not may_mistake(groups, ran.placed):
            return plan._replace(counted=_counted(case, tree, ran))
    try:
        ours = plan_of(case.subject(tree, ran), release, plan.version)
    except Exception:  # noqa: BLE001  # it raised over a size or a device, before anything was placed
        return plan
    if plan.crash is not None:
        same = ours.crash is not None and ours.crash.error == plan.crash.error
        return plan._replace(crash=ours.crash) if same else plan
    if dict(ours.device_map) != dict(plan.device_map):
        return plan  # a planner that does not do what we know of it: nothing is said of its counting
    return plan._replace(counted=ours.counted, doubles=ours.doubles, moved=ours.moved)


def _counted(case: Case, tree: Tree, ran: Ran) -> dict[str, int]:
    """Bytes on each device as the planner counted them, where it counted nothing twice."""
    placed = ran.placed or {}
    if case.quantizer is not None:
        of = sizes(tree, sizer_of(case.module, tree, case.tool, case.ask.dtype, case.quantizer)).of
        nbytes = [of.get(name, 0) for name in placed]
    elif case.tool == "accelerate":
        nbytes = tree.bytes_of(placed, accelerate_width(case.ask.dtype))
    else:
        nbytes = tree.bytes_of(placed, Tensor.element_size, tree.declared or ())
    found: dict[str, float] = {}
    for device, size in zip(placed.values(), nbytes, strict=True):
        found[device_word(device)] = found.get(device_word(device), 0) + size
    return {device: int(size) for device, size in found.items() if size}
