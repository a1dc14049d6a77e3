"""The options of a Python call as one record, and a check by options that are made already."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from tiecheck.config.options import PLACING, Config, dotted
from tiecheck.errors import UsageError, nearest
from tiecheck.records.report import Report

if TYPE_CHECKING:
    from torch import nn

    from tiecheck.config.contract import Groups

    Ties = Mapping[str, Iterable[Iterable[str]]] | Iterable[Iterable[str]]


def check_with(target: str | os.PathLike[str] | nn.Module, config: Config) -> Report:
    """Check a model by options that are made already; see `check`."""
    from tiecheck.engine.run import run, run_module

    if isinstance(target, (str, os.PathLike)):
        return run((os.fspath(target),), config)
    return run_module(target, config)


def make_config(
    target: Any, *, config: str | os.PathLike[str] | None = None, ties: Ties | None = None, **options: Any
) -> Config:
    """The options of a Python call as the one record; see `check`."""
    for word in options:
        if word not in Config._fields:
            raise TypeError(f"there is no option {word!r}{nearest(word, Config._fields)}")
    for name in ("select", "ignore", "judge_for"):
        if name in options:
            value = options[name]
            options[name] = (value,) if isinstance(value, str) else tuple(value)
    placing = [name for name in PLACING if options.get(name) is not None]
    if placing:
        from tiecheck.placement.asked.options import need_map, read_placing

        options |= read_placing(options, _keyword, text=False)
    if config is not None:
        from tiecheck.engine.settings import read_settings

        settings = read_settings(os.fspath(config))
        options = (settings.fields if settings else {}) | options
    if ties is not None:
        options["ties"], options["ties_from"] = _contract(target, ties), "the ties= that were given"
    if placing:
        need_map(options, placing, _keyword)
    return Config(**options)


def _keyword(field: str) -> str:
    return f"{field}="


def _contract(target: Any, ties: Ties) -> dict[str, Groups]:
    """A contract by class; bare groups are those of the module's class."""
    from tiecheck.config.contract import read_contract, read_groups

    if isinstance(ties, Mapping):
        return read_contract(ties, "ties")
    if isinstance(target, (str, os.PathLike)):
        raise UsageError('for a path ties= names the class: {"MyGPT": [["a.weight", "b.weight"]]}')
    from tiecheck.live.wrappers import own_class

    return {dotted(own_class(target)): read_groups(ties, "ties")}
