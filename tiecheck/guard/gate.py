"""`tiecheck.gate`: the check before a model is loaded under a device map, and the look at it afterwards.

```python
tiecheck.gate("path/to/model", device_map="auto", max_memory={0: "10GiB", "cpu": "30GiB"})  # raises, or is silent

with tiecheck.gate("path/to/model") as gate:
    model = gate.watch(AutoModelForCausalLM.from_pretrained("path/to/model", device_map=gate.device_map))

model = tiecheck.gate("path/to/model")(AutoModelForCausalLM.from_pretrained, "path/to/model")
```
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from tiecheck.errors import TiecheckError, UsageError, class_word, did_you_mean
from tiecheck.guard.errors import PlacementError, TieBroken, broken_text, hurting_text, no_map_text, placement_of
from tiecheck.placement.load_outcomes import chosen_map, is_sound, promises_of
from tiecheck.records.placement import Broken, Promise
from tiecheck.records.report import SEVERITIES, Finding, Report, Severity, at_least

if TYPE_CHECKING:
    from torch import nn


M = TypeVar("M")

PLACEMENT_RULES = ("TIE5",)
"""The rules that a gate asks where nobody says which."""


def gate(  # noqa: PLR0913  # what a load takes, and each has a default
    model_or_path: str | os.PathLike[str] | nn.Module,
    *,
    device_map: str | Mapping[str, Any] = "auto",
    max_memory: Mapping[int | str, int | str] | None = None,
    dtype: Any = None,
    no_split: Iterable[str] | None = None,
    hash_seeds: int = 0,
    checkpoint: str | os.PathLike[str] | None = None,
    check: bool = True,
    fail_on: Severity = "warning",
    **options: Any,
) -> Gate:
    """Check before a weight is moved that loading under a device map keeps every tie, and return what verifies it.

    Args:
        model_or_path: What will be loaded: a model directory or whatever `tiecheck TARGET` takes, or a live module.
        device_map: The map, as `from_pretrained` takes it: a strategy, a device, or module -> device.
        max_memory: The memory of each device, as accelerate takes it; None for what this machine has.
        dtype: The element type of the load, torch's word or a `torch.dtype`; None for the model's own.
        no_split: Classes that must stay on one device; None for those that the model's class names.
        hash_seeds: Under how many values of PYTHONHASHSEED to plan again.
        checkpoint: The file or folder that a live module will be loaded from by accelerate.
        check: Whether to raise; otherwise the findings are in `Gate.report`, and `Gate.ok` is the answer.
        fail_on: The mildest severity that raises.
        options: Further keywords of `tiecheck.check`; `select` is `TIE5`, the rules of the placement, unless given.

    Returns:
        The gate, with the map to load with.

    Raises:
        PlacementError: Loading under the map will hurt, with the report.
        TiecheckError: The model cannot be read, or no plan can be made for it.
        UsageError: An option is wrong.
        TypeError: An option does not exist.
    """
    from tiecheck.engine.options import check_with, make_config

    _refuse_wrong(device_map, fail_on)
    options |= {"device_map": device_map, "max_memory": max_memory, "hash_seeds": hash_seeds, "fail_on": fail_on}
    options["dtype"] = None if dtype is None or dtype == "auto" else str(dtype).removeprefix("torch.")
    options["no_split"] = (no_split,) if isinstance(no_split, str) else None if no_split is None else tuple(no_split)
    options["checkpoint"] = None if checkpoint is None else os.fspath(checkpoint)
    report = check_with(model_or_path, make_config(model_or_path, **{"select": PLACEMENT_RULES} | options))
    made = Gate(report, fail_on=fail_on)
    if check:
        made.raise_if_it_hurts()
    return made


class Gate:
    """The verdict before a load, and the look at the load: a context manager, and a callable around a loader."""

    def __init__(self, report: Report, *, fail_on: Severity = "warning") -> None:
        """Open a gate on a report; `tiecheck.gate` makes the report too.

        Args:
            report: The report of one target, with its placement.
            fail_on: The mildest severity that hurts.

        Raises:
            TiecheckError: The target could not be read, or there is no plan.
        """
        self.report = report
        """The report of the check."""
        self.placement = placement_of(report)
        """The plans and what they do to the ties."""
        self._fail_on = fail_on
        self._map = chosen_map(self.placement)
        self._promises = promises_of(report.targets[0], self._map)
        self._watched: list[nn.Module] = []

    @property
    def hurting(self) -> tuple[Finding, ...]:
        """The findings at or above `fail_on`."""
        return tuple(finding for finding in self.report.findings if at_least((finding,), self._fail_on))

    @property
    def ok(self) -> bool:
        """True where nothing was found that hurts, and there is a map."""
        return not self.hurting and bool(self._map)

    @property
    def device_map(self) -> dict[str, int | str]:
        """The map to hand to `from_pretrained` or `dispatch_model`, a new dict each time.

        It is the tool's own plan where that is sound, else the proposal that keeps every tie on one device.

        Raises:
            TiecheckError: There is neither.
        """
        if not self._map:
            raise TiecheckError(no_map_text(self.placement))
        return dict(self._map)

    @property
    def max_memory(self) -> dict[int | str, int] | None:
        """Bytes by device that the plan was made for; None for the machine's own."""
        return None if self.placement.memory is None else dict(self.placement.memory)

    @property
    def promises(self) -> tuple[Promise, ...]:
        """The promises that are verified after the load: one a tie group."""
        return self._promises

    def raise_if_it_hurts(self) -> None:
        """Raise what `tiecheck.gate` raises with `check=True`.

        Raises:
            PlacementError: There are findings at or above `fail_on`.
            TiecheckError: There is no map to load with.
        """
        if self.hurting:
            proposal = self.placement.proposal
            kept = self._map if proposal is None or is_sound(self.placement) else proposal.device_map
            text = hurting_text(self.report.targets[0], self.hurting, self.placement)
            raise PlacementError(text, self.report, kept or None)
        if not self._map:
            raise TiecheckError(no_map_text(self.placement))

    def verify(self, model: nn.Module) -> tuple[Broken, ...]:
        """Return the promises that a loaded model breaks; accelerate's hooks are looked through, nothing is changed.

        Every promised group is still one tensor (behind hooks one memory; on disk equal bytes where the plan said
        disk), and lies where the plan said.

        Args:
            model: The loaded model.

        Returns:
            The broken promises, none where all are kept.

        Raises:
            TiecheckError: If the model's own code raises.
            TypeError: If `model` is no `torch.nn.Module`.
        """
        from tiecheck.guard.verify import broken_promises
        from tiecheck.live.registrations import looking_at

        with looking_at(model):
            return broken_promises(model, self._promises)

    def watch(self, model: M) -> M:
        """Verify a model now, and its ties and places once more when the `with` ends.

        Args:
            model: The loaded model.

        Returns:
            The same model.

        Raises:
            TieBroken: A promise is broken.
            TypeError: If `model` is no `torch.nn.Module`.
        """
        self._insist(model)
        self._watched.append(model)  # type: ignore[arg-type]  # `_insist` has looked
        return model

    def __call__(self, load: Callable[..., M], /, *args: Any, **kwargs: Any) -> M:
        """Load with the gate's map, and verify what came back.

        Args:
            load: `from_pretrained` of a class, accelerate's `dispatch_model` or `load_checkpoint_and_dispatch`, or any
                other function that takes `device_map` and returns the model, alone or first in a tuple. One that
                returns nothing, as `load_checkpoint_in_model`, is given the model.
            args: What it is called with.
            kwargs: Likewise; `device_map` is the gate's unless it is among these.

        Returns:
            What the function returns.

        Raises:
            TieBroken: The loaded model breaks a promise.
            TypeError: No module came back.
            Exception: Whatever the function raises.
        """
        if not _has_device_map(load, args, kwargs):
            kwargs["device_map"] = self.device_map
        loaded = load(*args, **kwargs)
        self.watch(_module_of(loaded, args, kwargs))
        return loaded

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        watched, self._watched = self._watched, []
        if kind is None:
            for model in watched:
                self._insist(model)

    def __repr__(self) -> str:
        state = "ok" if self.ok else f"{len(self.hurting)} findings" if self.hurting else "no map"
        return f"<Gate {self.report.targets[0].target}: {state}, {len(self._promises)} ties>"

    def _insist(self, model: Any) -> None:
        broken = self.verify(model)
        if broken:
            raise TieBroken(broken_text(class_word(type(model)), broken), broken)


def _refuse_wrong(device_map: object, fail_on: str) -> None:
    if device_map is None:
        raise UsageError("device_map=None places nothing; give a strategy ('auto'), a device or a map")
    if fail_on not in SEVERITIES:
        raise UsageError(f"there is no severity {fail_on!r}{did_you_mean(str(fail_on), SEVERITIES)}")


def _has_device_map(load: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Tell whether a call already has its `device_map`, by name or by place."""
    import inspect

    if "device_map" in kwargs:
        return True
    try:
        return "device_map" in inspect.signature(load).bind_partial(*args, **kwargs).arguments
    except (TypeError, ValueError):  # no signature, or a call that will fail by itself
        return False


def _module_of(loaded: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Return the module that a load gave back, or filled."""
    from torch import nn

    candidates = (loaded, *loaded) if isinstance(loaded, tuple) else (loaded,)
    if loaded is None:
        candidates = (*args, *kwargs.values())
    return next((one for one in candidates if isinstance(one, nn.Module)), loaded)
