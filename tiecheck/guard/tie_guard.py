"""`tiecheck.guard`: a block of anyone's code, and the tie that it broke, with the operation and the user's line.

```python
with tiecheck.guard(model) as g:  # remembers what is tied now; no contract is wanted
    model = g.watch(prepare(model))  # what came back, under its new names, has to have the ties still
    train(model)
```
"""

from __future__ import annotations

import sys
import warnings
import weakref
from contextlib import ContextDecorator, suppress
from types import FrameType, TracebackType
from typing import Any, Literal, Self, TypeVar

from torch import Tensor, nn

from tiecheck.errors import TargetError, UsageError, class_word
from tiecheck.guard.errors import TieBroken, TieWarning
from tiecheck.guard.remembered_ties import RememberedTie, remember_ties, sample_of
from tiecheck.guard.renamed_copies import renamed_ties
from tiecheck.guard.tying_again import retie
from tiecheck.guard.unseen_writes import unseen_write
from tiecheck.guard.watched_calls import (
    start_watching,
    stop_watching,
    user_line,
    watch_data_assignments,
    watch_deletions,
)
from tiecheck.guard.watched_ties import WatchedTie
from tiecheck.live.registrations import looking_at
from tiecheck.live.wrappers import class_name, without_wrappers
from tiecheck.records.life import Break, Overwritten, UserLine
from tiecheck.records.report import Report
from tiecheck.records.words import TIED
from tiecheck.wording import listed

M = TypeVar("M")
OnBreak = Literal["raise", "warn", "retie"]
ON_BREAK = ("raise", "warn", "retie")
SHOWN = 8


def guard(*models: nn.Module, on_break: OnBreak = "raise") -> TieGuard:
    """Remember what is tied in models now, and say at the end of a block which tie broke, by what, on which line.

    Args:
        models: Modules whose ties are to hold: shared modules, parameters, buffers and memory, and plain lists of
            another module's parameters. On meta too. None where the block is to build them, see `TieGuard.watch`.
        on_break: What to do about a broken tie at the end of the block: `raise` a `TieBroken`, `warn`, or `retie`,
            which ties again where no value can be lost by it and raises elsewhere.

    Returns:
        A context manager, which is a decorator of functions as well.

    Raises:
        TiecheckError: A model's own code raises, or `on_break` is no such word.
        TypeError: One of them is no `torch.nn.Module`.
    """
    if on_break not in ON_BREAK:
        raise UsageError(f"on_break= must be one of {', '.join(ON_BREAK)}, not {on_break!r}")
    for model in models:
        with looking_at(model):
            pass
    return TieGuard(models, on_break)


class TieGuard(ContextDecorator):
    """An open block: its watched ties, and after it what broke."""

    def __init__(self, models: tuple[nn.Module, ...], on_break: OnBreak) -> None:
        """Keep the models; `tiecheck.guard` is the way to make one."""
        self._models = models
        self._on_break = on_break
        self._watched: list[WatchedTie] = []
        self.modules: set[int] = set()
        """Identities of the modules in which a registration may concern a tie."""
        self.tensors: set[int] = set()
        """Identities of the tied tensors, as they were at the last look."""
        self.overwritten: list[Overwritten] = []
        """Tied tensors whose values an initialiser drew anew."""
        self.broken: tuple[Break, ...] = ()
        """Ties that were broken at the last look."""
        self._entered = False

    def __enter__(self) -> Self:
        self._watched, self.modules, self.overwritten, self.broken = [], set(), [], ()
        line = user_line(sys._getframe(1), did="the beginning of the block")
        for model in self._models:
            with looking_at(model):
                self._remember(model, line)
        self._entered = True
        self._keep_watch()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        __tracebackhide__ = True
        stop_watching(self)
        try:
            if error is None:
                self._look(sys._getframe(1), ends=True)
            elif not isinstance(error, TieBroken):
                with suppress(TargetError):  # the block's own error says more than that of a second look
                    if broken := self._judge():
                        error.add_note(self._text(broken))
        finally:
            self.close()

    def close(self) -> None:
        """Take the guard away without a look."""
        stop_watching(self)
        self._entered, self._watched, self.modules, self.tensors = False, [], set(), set()

    def watch(self, model: M) -> M:
        """Watch a model too, as a loader, a wrapper or a copy gave it back.

        What was tied in a model watched before has to be tied in this one under the same names, those of wrappers
        left out, or under those of a copy's tensors with its values; what else is tied in it is watched from now on.
        A `TieWarning` tells of a copy in which the members cannot be placed.

        Returns:
            The same model.

        Raises:
            TypeError: It is no `torch.nn.Module`.
        """
        __tracebackhide__ = True
        with looking_at(model):
            self._remember(model, user_line(sys._getframe(1), did="g.watch"))  # type: ignore[arg-type]
            self._keep_watch()
        return model

    def verify(self) -> tuple[Break, ...]:
        """Look at every tie now, as the end of the block does, and do what `on_break` says.

        Returns:
            What is broken, where it only warns; after `retie` what it has tied again.

        Raises:
            TieBroken: Something is broken, under `raise`; or it cannot be tied again without losing a value.
        """
        __tracebackhide__ = True
        return self._look(sys._getframe(1))

    def _look(self, frame: FrameType, *, ends: bool = False) -> tuple[Break, ...]:
        __tracebackhide__ = True
        self.before(frame, ends=ends)
        self.broken = self._judge()
        if not self.broken:
            return ()
        if self._on_break == "retie":
            left = [(one, why) for one, root, tie in self._broken() if (why := retie(root, tie, one)) is not None]
            if left:
                raise TieBroken(self._text(tuple(one for one, _ in left), left[0][1]), tuple(one for one, _ in left))
            for one in self._watched:
                one.whole, one.blamed, one.lost = True, None, None
        elif self._on_break == "warn":
            line = user_line(frame)
            warnings.warn_explicit(self._text(self.broken), TieWarning, line.path, line.line)
        else:
            raise TieBroken(self._text(self.broken), self.broken)
        return self.broken

    @property
    def report(self) -> Report:
        """Findings on what was broken, and where (TIE401, TIE403)."""
        from tiecheck.engine.options import life_report

        names = [class_name(model) for model in self._models] or ["the watched models"]
        return life_report(", ".join(names), tuple(self.broken))

    def before(self, frame: FrameType | None = None, *, ends: bool = False) -> None:
        """Look whether something has broken a tie that nobody saw, before the next thing is done, or the block ends."""
        changed = [one for one in self._watched if one.whole and not one.holds()]
        if changed:
            now = user_line(frame or sys._getframe(2))
            for one in changed:
                starts, steps = one.seen.operation in STARTS, one.seen.operation.endswith("step")  # a loop comes again
                same = (one.seen.path, one.seen.line) == (now.path, now.line) and not starts and not steps
                until = None if ends and not starts else now  # it ends on the line of its `with`
                one.writes = None if same else unseen_write(one.seen, now, ends=ends)
                one.breaks((one.seen, None, True) if same else (one.seen, until, False))

    def after(self, did: str) -> None:
        """Look which ties hold after something was done, and remember the line that did it."""
        now = user_line(sys._getframe(2), did=did) if self._watched else None
        for one in self._watched:
            assert now is not None  # noqa: S101  # there is one to watch
            one.look(now, did)
        self._note_members()

    def steps(self) -> None:
        """Look before the step of an optimizer: whoever broke a tie unseen did it after this line, or before it."""
        self.before()
        now = user_line(sys._getframe(2), did="step")
        for one in self._watched:
            one.seen = now if one.whole else one.seen

    def before_draw(self) -> dict[int, tuple[Tensor, object]]:
        """Return dtype and a few values of every tensor that is tied."""
        held: dict[int, tuple[Tensor, object]] = {}
        for one in self._watched:
            tensor = one.tensor() if one.whole else None
            if tensor is not None:
                held[id(one)] = tensor, (tensor.dtype, sample_of(tensor))
        return held

    def after_draw(self, values: dict[int, tuple[Tensor, Any]], did: str) -> None:
        """Note the tied tensors whose values an initialiser drew anew, and did not cast."""
        for one in self._watched:
            tensor, (dtype, before) = values.get(id(one), (None, (None, None)))
            if tensor is None or before is None or tensor.dtype != dtype or sample_of(tensor) == before:
                continue
            found = Overwritten(one.tie.names, user_line(sys._getframe(2), did=did))
            if found not in self.overwritten:
                self.overwritten.append(found)
                text = f"{listed(found.names)} are one tensor, and {found.by.operation} has drawn its values anew"
                warnings.warn_explicit(text, TieWarning, found.by.path, found.by.line)

    def _remember(self, model: nn.Module, line: UserLine) -> None:
        """Remember the ties of a model, and hold those of the models before it against its names."""
        root = weakref.ref(model)
        before = self._watched
        known = [one for one in before if one.root() is model]
        promised = {one.tie.names: one.tie for one in before if one.root() is not model}
        own = remember_ties(model)
        covered = [set(one.tie.names) for one in known]
        for tie in promised.values():
            found = tie.place_in(model)
            if found is None:
                known += [] if known else renamed_ties(self._watched, tie, model, line)
                continue
            prefix, place = found
            covered.append({prefix + name for name in tie.names})
            old = [one for one in before if one.tie is tie and one.root() is not place]
            inner = without_wrappers(place)
            given_up = [one for one in old if not (one.whole and one.holds()) and one.model_inside() is not inner]
            if len(old) == sum(one.tie is tie for one in before):
                more = WatchedTie(weakref.ref(place), tie, line)
                if not more.holds():
                    more.breaks((line._replace(operation="what g.watch was given"), None, True))
                known.append(more)
            before = [one for one in before if one not in given_up]
        fresh = [tie for tie in own if not any(set(tie.names) <= names for names in covered)]
        self._watched = [one for one in before if one.root() is not model] + known
        self._watched += [WatchedTie(root, tie, line) for tie in fresh]

    def _note_members(self) -> None:
        """Note which modules and tensors matter, as they are now."""
        self.tensors = {id(tensor) for one in self._watched if (tensor := one.tensor()) is not None}
        owners = [module for one in self._watched for module in one.owners()]
        self.modules.update(map(id, owners))
        watch_deletions(owners)

    def _keep_watch(self) -> None:
        """Watch what happens in the open block from the first tie on: before it there is nothing to lose."""
        if self._entered and self._watched:
            start_watching(self)
            self._note_members()
            if any(one.tie.kind not in TIED for one in self._watched):
                watch_data_assignments()

    def _broken(self) -> list[tuple[Break, nn.Module | None, RememberedTie]]:
        """Return what is broken, once for a model and what wraps it."""
        found: dict[tuple[int, tuple[str, ...]], tuple[Break, nn.Module | None, RememberedTie]] = {}
        for one in self._watched:
            root, made = one.model(), one.broken()
            if made is not None:
                held = None if root is None else without_wrappers(root)
                found.setdefault((id(held), made.names), (made, root, one.tie))
        return list(found.values())

    def _judge(self) -> tuple[Break, ...]:
        return tuple(one for one, _, _ in self._broken())

    def _text(self, broken: tuple[Break, ...], why: str = "") -> str:
        from tiecheck.rules.life.broken import break_text

        live = (one for one in self._watched if one.lost is not None or one.root() is not None)
        roots = dict.fromkeys(class_word(one.cls) for one in live)
        lines = [f"{', '.join(roots) or 'a model'} has lost {len(broken)} of its ties"]
        for one in broken[:SHOWN]:
            lines += [f"  {line}" for line in break_text(one)]
        if len(broken) > SHOWN:
            lines.append(f"  and {len(broken) - SHOWN} more")
        return "\n".join([*lines, f"  not tied again: {why}"] if why else lines)


STARTS = ("the beginning of the block", "g.watch")
