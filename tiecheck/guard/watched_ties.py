"""A remembered tie under an open guard: whether it is whole, and who is to blame where it is not."""

from __future__ import annotations

import weakref
from contextlib import suppress

from torch import Tensor, nn

from tiecheck.guard.remembered_ties import RememberedTie, sample_of
from tiecheck.live.module_graph import ModuleGraph
from tiecheck.live.registrations import looking_at
from tiecheck.live.wrappers import FSDP2, UserNames, own_class, route_of, without_wrappers
from tiecheck.records.life import Break, UserLine
from tiecheck.records.words import TIED


class WatchedTie:
    """One remembered tie of one model."""

    def __init__(self, root: weakref.ref[nn.Module], tie: RememberedTie, seen: UserLine) -> None:
        self.root = root
        self.tie = tie
        self.whole = True
        self.seen = seen
        """The last line after which it was whole."""
        self.blamed: tuple[UserLine, UserLine | None, bool] | None = None
        """The line that broke it, or the two between which that was, and whether it was seen."""
        self.writes: UserLine | None = None
        """The only line that can have broken it, where that was not seen."""
        self.lost: Break | None = None
        """The break that the last look found, in case the model is gone at the next."""
        self._on_meta = False
        self._empty: dict[int, tuple[int, bytes | None]] = {}
        """Version and sample of each tensor that `to_empty` made; no weak reference, or `swap_tensors` would refuse."""
        self._note_empty("")
        held = root()
        self.cls = type(None) if held is None else own_class(held)
        self._inner = root if held is None else weakref.ref(without_wrappers(held))

    def model(self) -> nn.Module | None:
        """Return its model: what a wrapper that is gone had in it, where the tie was broken; None where that is."""
        root = self.root()
        return root if root is not None or self.lost is None else self._inner()

    def model_inside(self) -> nn.Module | None:
        """Return the model without wrappers, which its next wrapper has in it too; None where it is gone."""
        return self._inner()

    def look(self, line: UserLine, did: str) -> None:
        """Note after a line whether it holds, and what became of it where it does not."""
        if self.model() is None:
            return
        self._note_empty(did)
        if self.holds():
            self.whole, self.blamed, self.seen, self.lost = True, None, line, None
        else:
            self.breaks((line, None, True))

    def breaks(self, blamed: tuple[UserLine, UserLine | None, bool]) -> None:
        """Note what became of it, and who is to blame where it was whole before."""
        if self.whole:
            self.whole, self.blamed = False, blamed
        with _left_to_the_end():
            self.lost = self.broken()

    def _note_empty(self, did: str) -> None:
        """Note that a call has given memory to members that were all on meta: torch does that without values only."""
        root = self.model()
        with _left_to_the_end():
            tensors = [self.tie.tensor(root, name) for name in self.tie.names] if root is not None else []
            found = [tensor for tensor in tensors if tensor is not None]
            if self._on_meta and did == "_apply" and not any(tensor.is_meta for tensor in found):
                self._empty = {id(tensor): (tensor._version, sample_of(tensor)) for tensor in found}
            self._on_meta = bool(found) and len(found) == len(tensors) and all(tensor.is_meta for tensor in found)

    def _has_no_values(self, now: list[Tensor]) -> bool:
        """Tell whether nothing was written since into what `to_empty` made."""
        return bool(now) and self._empty == {id(tensor): (tensor._version, sample_of(tensor)) for tensor in now}

    def holds(self) -> bool:
        """Tell quickly whether it is as it was; where its model is gone, or raises, there is nothing to say yet."""
        root = self.model()
        with _left_to_the_end():
            return root is None or self.tie.holds(root)
        return True

    def tensor(self) -> Tensor | None:
        """Return the tied tensor as it is now; None where there is none, or the model raises."""
        root = self.model()
        with _left_to_the_end():
            return self.tie.first_tensor(root) if root is not None and self.tie.kind in TIED else None
        return None

    def owners(self) -> list[nn.Module]:
        """Return the modules on the way to its names; none where the model is gone, or raises."""
        root = self.model()
        with _left_to_the_end():
            return list(self.tie.owners(root)) if root is not None else []
        return []

    def broken(self) -> Break | None:
        """Return what became of it and by whom; None where it is as it was, or that cannot be told.

        Of a model that is gone it is what the last look found.
        """
        root = self.model()
        if root is None:
            return self.lost
        with looking_at(root):
            verdict = self.tie.judge(root) if not self.tie.holds(root) else None
            if verdict is None:
                return None
            moved, graph = self.tie.moved(root), ModuleGraph(root)
            user = UserNames(graph)
            route, sharded = route_of(graph, user), FSDP2 in user.wrappers
            now = [tensor for name in self.tie.names if (tensor := self.tie.tensor(root, name)) is not None]
            empty = self._has_no_values(now)
        since, until, seen = self.blamed or (self.seen, None, False)
        names = tuple(sorted(self.tie.names))
        reason = "which have no values yet" if empty else verdict.reason
        one_memory = verdict.kind == "storage" and len({(t.dtype, t.shape, t.stride()) for t in now}) == 1
        made = Break(names, self.tie.kind, verdict.kind, reason, verdict.parts, since, until, seen)
        made = made._replace(writes=None if seen else self.writes, route=route, sharded=sharded)
        return made._replace(moved=moved, alike=empty or one_memory)


def _left_to_the_end() -> suppress:
    """Keep what a model's own code raises at a look from the user's operation: the end of the block says it."""
    return suppress(Exception, SystemExit)
