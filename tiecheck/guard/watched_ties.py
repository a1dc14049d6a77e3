"""A remembered tie under an open guard: whether it is whole, and who is to blame where it is not."""

from __future__ import annotations

import weakref
from contextlib import suppress

from torch import Tensor, nn

from tiecheck.guard.remembered_ties import RememberedTie
from tiecheck.live.registrations import looking_at
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

    def holds(self) -> bool:
        """Tell quickly whether it is as it was; where its model is gone, or raises, there is nothing to say yet."""
        root = self.root()
        with _left_to_the_end():
            return root is None or self.tie.holds(root)
        return True

    def tensor(self) -> Tensor | None:
        """Return the tied tensor as it is now; None where there is none, or the model raises."""
        root = self.root()
        with _left_to_the_end():
            return self.tie.first_tensor(root) if root is not None and self.tie.kind in TIED else None
        return None

    def owners(self) -> list[nn.Module]:
        """Return the modules on the way to its names; none where the model is gone, or raises."""
        root = self.root()
        with _left_to_the_end():
            return list(self.tie.owners(root)) if root is not None else []
        return []

    def broken(self) -> Break | None:
        """Return what became of it and by whom; None where it is as it was, or that cannot be told."""
        root = self.root()
        if root is None:
            return None
        with looking_at(root):
            verdict = self.tie.judge(root)
            moved = self.tie.moved(root) if verdict is not None else ()
        if verdict is None:
            return None
        since, until, seen = self.blamed or (self.seen, None, False)
        names = tuple(sorted(self.tie.names))
        made = Break(names, self.tie.kind, verdict.kind, verdict.reason, verdict.parts, since, until, seen)
        return made._replace(moved=moved)


def _left_to_the_end() -> suppress:
    """Keep what a model's own code raises at a look from the user's operation: the end of the block says it."""
    return suppress(Exception, SystemExit)
