"""The planners' device map by our own code, for any order of the tie groups, any release, and right counting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from tiecheck.live.registrations import paused_collector
from tiecheck.peers.views.paths import Endless
from tiecheck.peers.views.sight import told
from tiecheck.placement.map_lookup import device_in, device_word
from tiecheck.placement.planners.balance import balanced, in_order
from tiecheck.placement.planners.crashes import crash_of
from tiecheck.placement.planners.early import early
from tiecheck.placement.planners.maps import SHOWN, cleaned, differing
from tiecheck.placement.planners.orders import groups_in_order
from tiecheck.placement.planners.releases import RELEASES, Release, joined, release_of
from tiecheck.placement.planners.sizes import Sizes, accelerate_sizer, sizes, transformers_sizer
from tiecheck.placement.planners.state import Counting, Key, Setting
from tiecheck.placement.planners.tree import Groups, Sizer, Tree, declared_groups, groups_of
from tiecheck.placement.planners.walk import Tripped, Walk, modern
from tiecheck.records.placement import Ask, Crash, Double, Plan

Tool = Literal["accelerate", "transformers"]


class Subject(NamedTuple):
    """A model for one tool, ready to be planned with again and again."""

    tool: Tool
    """Whose planner."""
    tree: Tree
    """The model."""
    sizes: Sizes
    """Its bytes, as the tool counts them."""
    no_split: tuple[str, ...]
    """Class names that stay whole."""
    memory: Mapping[Key, Any]
    """Bytes by device, balanced, in the order in which they are filled."""
    strategy: str
    """What was asked for."""
    dtype: str | None
    """The type that accelerate was told the weights will have."""

    def under(self, release: Release) -> Subject:
        """The same with the bytes that a release counts."""
        if release.exempt or self.dtype is None or self.tool == "transformers":
            return self
        return self._replace(sizes=sizes(self.tree, accelerate_sizer(self.dtype, exempt=False)))


def sizer_of(module: Any, tree: Tree, tool: Tool, dtype: str | None, quantizer: Any) -> Sizer:
    """How a tool counts a tensor."""
    if tool == "accelerate":
        return accelerate_sizer(dtype)
    return transformers_sizer(module, quantizer, tree.declared)


def subject_of(  # noqa: PLR0913  # what is known already need not be found again
    module: Any,
    tool: Tool,
    ask: Ask,
    *,
    quantizer: Any = None,
    allowed: Mapping[Key, Any] | None = None,
    tree: Tree | None = None,
) -> Subject:
    """Look at a module for one tool.

    Args:
        module: The module.
        tool: Whose planner.
        ask: What is asked for; the memory must be given, there or in `allowed`.
        quantizer: transformers' quantizer, where there is one.
        allowed: The memory after balancing, where it is known already.
        tree: The module's tree, where it was made already.

    Raises:
        Exception: What the tool raises before it places anything.
    """
    tree = Tree(module) if tree is None else tree
    named = tree.no_split if tool == "transformers" or ask.no_split is None else ask.no_split
    no_split = named or ()
    counted = sizes(tree, sizer_of(module, tree, tool, ask.dtype, quantizer))
    if allowed is None:
        allowed = in_order(ask.memory or {})
        if ask.strategy != "sequential":
            low_zero = ask.strategy == "balanced_low_0"
            allowed = balanced(tool, tree, counted, allowed, no_split, low_zero=low_zero)
        if quantizer is not None:
            allowed = quantizer.adjust_max_memory(allowed)
    if tool == "transformers" and tree.declared is None:  # a class that does not call `post_init()`
        raise AttributeError(f"{type(module).__name__!r} object has no attribute 'all_tied_weights_keys'")
    return Subject(tool, tree, counted, no_split, in_order(allowed), ask.strategy, ask.dtype)


def reproduce(  # noqa: PLR0913, PLR0917  # each is a question of its own
    module: Any,
    tool: Tool,
    version: str,
    ask: Ask,
    order: Sequence[int] | None = None,
    counting: Counting = "theirs",
    *,
    quantizer: Any = None,
    allowed: Mapping[Key, Any] | None = None,
) -> Plan:
    """What a planner gives, without running it.

    Args:
        module: The module; it is not changed.
        tool: Whose planner.
        version: The tool's version; how memory is balanced is that of accelerate 1.15 and transformers 5.23.
        ask: What is asked for; the memory must be given, there or in `allowed`.
        order: The order in which it goes through the groups of `groups_of_tool`; None for the one that it has in this
            process, which depends on the hash seed.
        counting: `right` to count a module that is tied in several ways once.
        quantizer: transformers' quantizer, where there is one.
        allowed: The memory after balancing, where it is known already.

    Returns:
        The plan, without what is logged and without `placed`, `used` and `seeds`.

    Raises:
        ValueError: For a version that is not known.
    """
    release = release_of(tool, version)
    if release is None:
        raise ValueError(f"what {tool} {version} does is not known")
    with paused_collector():
        try:
            subject = subject_of(module, tool, ask, quantizer=quantizer, allowed=allowed)
        except Exception as error:  # noqa: BLE001  # what the planner raises
            return Plan(tool, version, ask.strategy, {}, _raised(error))
        return plan_of(subject.under(release), release, version, order, counting)


def plan_of(
    subject: Subject,
    release: Release,
    version: str,
    order: Sequence[int] | None = None,
    counting: Counting = "theirs",
) -> Plan:
    """Plan with a model that was looked at. See `reproduce`."""
    walked = walk_of(subject, release, order, counting)
    if isinstance(walked, Tripped):
        crash = crash_of(walked)._replace(versions=raising(subject, order))
        return Plan(subject.tool, version, subject.strategy, {}, crash, memory=dict(subject.memory))
    written = written_of(subject, release, walked.placed)
    plan = Plan(
        subject.tool,
        version,
        subject.strategy,
        written,
        memory=dict(subject.memory),
        counted={device_word(device): int(nbytes) for device, nbytes in walked.counted().items()},
        doubles=doubles_of(walked),
    )
    if plan.doubles and counting == "theirs":
        plan = plan._replace(moved=moved_of(subject, release, order, walked))
    return plan


def walk_of(
    subject: Subject, release: Release, order: Sequence[int] | None = None, counting: Counting = "theirs"
) -> Walk | Tripped:
    """Place everything; where the planner raises, what it trips over."""
    groups: Sequence[tuple[str, ...]] = groups_of_tool(subject.tree, subject.tool, release)
    if release.again:
        groups = subject.tree.again  # these versions go through them in the order of the model
    elif order is None:
        groups = groups_in_order(subject.tree, subject.tool, tuple(groups))
    else:
        groups = tuple(groups[number] for number in order)
    setting = Setting(
        subject.tree, subject.sizes.of, groups, frozenset(subject.no_split), subject.memory, release, counting
    )
    walk = Walk(setting)
    try:
        (early if release.early else modern)(walk)
        if subject.tool == "transformers":
            _look_up(walk, written_of(subject, release, walk.placed))
    except Tripped as tripped:
        return tripped
    return walk


def _look_up(walk: Walk, written: Mapping[str, Key]) -> None:
    """Ask for the device of every declared name, as transformers does at the end.

    Raises:
        Tripped: One has none; the name in the message is empty, as it goes up to the root before it gives up.
    """
    for group in walk.setting.groups:
        for name in group:
            if device_in(written, name) is None:
                error = "ValueError: The `device_map` does not contain the module ."
                raise Tripped(error, None, name, walk)


def groups_of_tool(tree: Tree, tool: Tool, release: Release | None = None) -> Groups:
    """The groups a planner goes by, in our order."""
    if tool == "transformers":
        return declared_groups(tree)
    return tuple(sorted(tree.again)) if release is not None and release.again else groups_of(tree)


def raising(subject: Subject, order: Sequence[int] | None = None) -> tuple[str, ...]:
    """The versions of the tool that raise on a model under the memory of a plan."""
    found = []
    for release in RELEASES:
        if release.tool != subject.tool:
            continue
        if isinstance(walk_of(subject.under(release), release, None if release.again else order), Tripped):
            found.append(release)
    return joined(found)


def doubles_of(walk: Walk) -> tuple[Double, ...]:
    """Where a walk counted a module for more than one name."""
    return tuple(
        Double(one.name, device_word(one.device), one.tied, int(one.counted), int(one.real)) for one in walk.twice
    )


def moved_of(subject: Subject, release: Release, order: Sequence[int] | None, walk: Walk) -> dict[str, tuple[str, str]]:
    """What stands elsewhere when each tied module is counted once; at most `SHOWN` modules."""
    right = walk_of(subject, release, order, "right")
    if isinstance(right, Tripped):
        return {}
    found = differing(walk.placed, right.placed)
    return {name: (device_word(here), device_word(there)) for name, (here, there) in list(found.items())[:SHOWN]}


def _raised(error: BaseException) -> Crash:
    """A crash before anything was placed."""
    text = f"not run: {error}" if isinstance(error, Endless) else told(error)
    return Crash(text, "other", "", (), ())


def written_of(subject: Subject, release: Release, placed: dict[str, Key]) -> dict[str, Key]:
    """The map as the tool writes it: cleaned, but for a transformers model with `_no_placement_params`."""
    return dict(placed) if release.escapes and subject.tree.no_placement is not None else cleaned(placed)
