"""Holds what every view is made from: a live module, and what the tools' walks through it meet, each made once.

A view is a `ToolFunction`: a function of one tool, with the call that runs it, or our reproduction of what a release
that is not installed sees. Both return a `ToolAnswer`, or raise what the tool raises.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from torch import nn

from tiecheck.errors import OutOfTimeError
from tiecheck.live.module_graph import ModuleGraph
from tiecheck.peers.views import module_walks
from tiecheck.records.report import View
from tiecheck.union_find import joined_names

Groups = tuple[tuple[str, ...], ...]

CYCLE_STEPS = 1_000
"""Paths beside a cycle up to which a tool is really run: it goes round with all of them until Python stops it."""


class NotRun(Exception):  # noqa: N818  # what is told is why a tool was left alone, not an error of ours
    """Reason for not running the installed tool."""


class ToolAnswer(NamedTuple):
    """Answer of a tool to a module."""

    groups: Groups = ()
    """The groups it takes for tied, in our order."""
    dropped: tuple[str, ...] = ()
    """The names it leaves out when it saves, sorted."""
    says: bool | None = None
    """Its answer, where it answers yes or no."""


class WalkedModule:
    """A module as the tools meet it. Nothing of it is changed."""

    def __init__(self, module: nn.Module) -> None:
        """Look at any module; what is none raises a `TypeError`."""
        self.module = module
        self.graph = ModuleGraph(module)
        self._again: dict[bool, module_walks.Extent] = {}

    def extent(self, *, once: bool = False) -> module_walks.Extent:
        """Count what a walk would meet; `once` for one along `named_children`."""
        if once not in self._again:
            self._again[once] = module_walks.walk_extent(self.graph, once=once)
        return self._again[once]

    def runnable(self) -> None:
        """Raise `NotRun`, with the reason, for a module on which a tool does not end."""
        size = self.extent()
        try:
            module_walks.refuse_endless_walk(size._replace(endless=False, depth=0))
        except module_walks.Endless as reason:
            raise NotRun(str(reason)) from None
        if size.endless and size.paths > CYCLE_STEPS:
            raise NotRun(f"would go round a cycle with {size.paths} module paths until Python stops it")

    @cached_property
    def tied(self) -> Groups:
        """The groups of names that are one parameter object; `RecursionError` and `Endless` as of any walk."""
        module_walks.refuse_endless_walk(self.extent())
        return ordered_groups(module_walks.names_by_tensor(self.graph))

    @cached_property
    def again(self) -> list[list[str]]:
        """See `module_walks.seen_again`. Raises what `tied` raises, by the paths of `named_children`."""
        module_walks.refuse_endless_walk(self.extent(once=True))
        return module_walks.seen_again(self.graph)

    def of_class(self, name: str) -> bool:
        """Return True if a class of this name is in the ancestry of any of the modules."""
        return any(base.__name__ == name for kind in set(map(type, self.graph.modules)) for base in kind.__mro__)

    @cached_property
    def state(self) -> dict[str, Any]:
        """The module's `state_dict()`, which is what every saver begins with; its tensors are shared, not copied.

        Raises:
            RecursionError: A registered cycle, or a very deep module.
            Endless: Too many names.
            NotRun: It needs every rank of a process group.
            Exception: Whatever the module's own code raises.
        """
        module_walks.refuse_endless_walk(self.extent())
        if self.of_class("FullyShardedDataParallel"):  # FSDP1 (torch 2.13) gathers in its `state_dict()`
            raise NotRun("an FSDP1 module's state_dict() waits for every rank")
        return dict(self.module.state_dict())


class ToolFunction(NamedTuple):
    """One function of one tool, in one range of versions."""

    tool: str
    function: str
    versions: str
    """The range of versions that have this algorithm."""
    look: Callable[[WalkedModule], ToolAnswer] | None = None
    """Our reproduction; None where the installed tool alone is asked."""
    run: Callable[[WalkedModule], ToolAnswer] | None = None
    """Runs the installed tool; None where it cannot be asked by itself."""
    since: tuple[int, ...] = ()
    """The first version that has the algorithm."""
    until: tuple[int, ...] | None = None
    """The first version that no longer has it."""
    asks: Callable[[WalkedModule], bool] = lambda sight: True  # noqa: ARG005
    """True if the tool looks at such a module at all."""


def one_object(sight: WalkedModule) -> ToolAnswer:
    """See every group of names that are one parameter object."""
    return ToolAnswer(sight.tied)


def ordered_groups(groups: Iterable[Iterable[str]]) -> Groups:
    """Return groups in our order: names sorted in a group, groups by first name."""
    return tuple(sorted([tuple(sorted(group)) for group in groups]))


def view_of(
    peer: ToolFunction, work: Callable[[WalkedModule], ToolAnswer], sight: WalkedModule, version: str | None
) -> View:
    """Return the view of what a reproduction or, with its version, the installed tool sees, or raises."""
    seen, error, really = ToolAnswer(), None, version is not None
    try:
        seen = work(sight)
    except NotRun as reason:
        error, really = f"not run: {reason}", False
    except ImportError as reason:  # a release that keeps it elsewhere, or an installation that is broken
        error, really = f"not run: {error_words(reason)}", False
    except module_walks.Endless as reason:
        error, really = ("not run: " if really else "") + str(reason), False
    except (KeyboardInterrupt, OutOfTimeError):
        raise
    except BaseException as raised:  # noqa: BLE001  # a view that raises is shown as raising, sys.exit too
        error = error_words(raised)
    return View(peer.tool, peer.versions, version, really, error, seen.groups, peer.function, seen.dropped, seen.says)


def error_words(error: BaseException) -> str:
    """Word an exception the same from run to run: sets in their order, no addresses, no depths."""
    if isinstance(error, RecursionError):
        return f"RecursionError: {module_walks.RECURSION}"
    text = re.sub(r"\{'[^{}]*'\}", _sorted_set, str(error))
    text = re.sub(r"0x[0-9a-f]{6,}", "0x...", text)
    return f"{type(error).__name__}: {text.strip()}"


def _sorted_set(found: re.Match[str]) -> str:
    """Return the text of a set of names, sorted; a mapping is left as it is."""
    names = found[0][1:-1].split(", ")
    return found[0] if any(": " in name for name in names) else "{" + ", ".join(sorted(names)) + "}"


def groups_from_pairs(pairs: Iterable[Sequence[str]]) -> Groups:
    """Return groups from pairs of names that belong together."""
    return ordered_groups(group for group in joined_names(pairs) if len(group) > 1)
