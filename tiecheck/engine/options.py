"""The options of a Python call, or of a configuration file, as one record, and a check by options made already."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from tiecheck.config.discovery import Settings, search_settings
from tiecheck.config.options import (
    GIVEN,
    LONGEST,
    PLACING,
    VALUES,
    Config,
    Groups,
    class_path,
    read_contract,
    read_groups,
)
from tiecheck.engine.run import assemble_report, check_target, judge_facts, run
from tiecheck.errors import UsageError, did_you_mean, foreign_errors
from tiecheck.facts.registry import Facts
from tiecheck.peers.loaders.registry import parse_for
from tiecheck.records.report import SEVERITIES, Report, TargetReport
from tiecheck.rules.registry import check_codes
from tiecheck.targets.parse import Target, given_path

if TYPE_CHECKING:
    from torch import nn

    Ties = Mapping[str, Iterable[Iterable[str]]] | Iterable[Iterable[str]]


PATHS = frozenset({"python", "base", "drafts_for", "converted_from", "changed_only", "baseline", "revision"})
"""Options that take a path or a name."""


def check_with(target: str | os.PathLike[str] | nn.Module, config: Config) -> Report:
    """Check a model by options that are made already; see `check`."""
    path = given_path(target)
    return assemble_report(run((target if path is None else path,), config))  # type: ignore[arg-type]


def make_config(
    target: Any, *, config: str | os.PathLike[str] | None = None, ties: Ties | None = None, **options: Any
) -> Config:
    """Return the options of a Python call as the one record, those that are None as if not given; see `check`."""
    for word in options:
        if word not in Config._fields:
            raise TypeError(f"there is no option {word!r}{did_you_mean(word, Config._fields)}")
    options = {name: value for name, value in options.items() if value is not None}
    _check_words(options)
    for name in options.keys() & {"select", "ignore", "judge_for", "allow"}:
        options[name] = _several(name, options[name])
    for name in options.keys() & PATHS:
        options[name] = _path(name, options[name])
    placing = [name for name in PLACING if options.get(name) is not None]
    if placing:
        from tiecheck.placement.asked.options import need_map, read_placing

        options |= read_placing(options, _keyword, text=False)
    if config is not None:
        settings = read_settings(_path("config", config))
        options = (settings.fields if settings else {}) | options
    if ties is not None:
        options["ties"], options["ties_from"] = _contract(target, ties), GIVEN
    if placing:
        need_map(options, placing, _keyword)
    return Config(**options)


def _check_words(options: Mapping[str, Any]) -> None:
    """Refuse a value that is none of its option's words, or no number of seconds."""
    for name, words in (("values", VALUES), ("fail_on", SEVERITIES)):
        if name in options and options[name] not in words:
            raise UsageError(f"{name}= must be one of {', '.join(words)}, not {options[name]!r}")
    seconds = options.get("timeout", 0)
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds <= LONGEST:
        raise UsageError(f"timeout= must be a number of seconds, 0 for no end, not {seconds!r}")


def _several(name: str, value: Any) -> tuple[Any, ...]:
    """Return one or several values of an option as a tuple."""
    from tiecheck.records.suppressions import Allowance

    kind: type = Allowance if name == "allow" else str
    several = (value,) if isinstance(value, kind) or not isinstance(value, Iterable) else tuple(value)
    if not all(isinstance(one, kind) for one in several):
        raise UsageError(f"{name}= takes a {kind.__name__} or a list of them, not {value!r}")
    return several


def _path(name: str, value: Any) -> str:
    """Return the path or name that an option takes."""
    if not isinstance(value, (str, os.PathLike)):
        raise UsageError(f"{name}= takes a path or a name, not {value!r}")
    return str(os.fspath(value))


def _keyword(field: str) -> str:
    return f"{field}="


def _contract(target: Any, ties: Ties) -> dict[str, Groups]:
    """Return a contract by class; bare groups are those of the module's class."""
    if isinstance(ties, Mapping):
        return read_contract(ties, "ties")
    if given_path(target) is not None:
        raise UsageError('for a path ties= names the class: {"MyGPT": [["a.weight", "b.weight"]]}')
    from tiecheck.live.registrations import looking_at
    from tiecheck.live.wrappers import own_class

    with looking_at(target):
        return {class_path(own_class(target)): read_groups(ties, "ties")}


def read_settings(path: str, *, asked: bool = True) -> Settings | None:
    """Read one configuration file, its codes, loaders and placements held against what there is.

    See `config.file.parse_settings`.
    """
    from tiecheck.config.file import Checks, parse_settings

    return parse_settings(path, Checks(check_codes, parse_for, _placing), asked=asked)


def find_settings(targets: Iterable[str] = ()) -> tuple[Settings | None, str | None]:
    """Find the nearest configuration file; see `config.discovery.search_settings`."""
    return search_settings(lambda path: read_settings(path, asked=False), targets)


def _placing(given: dict[str, Any], folder: str) -> dict[str, Any]:
    from tiecheck.placement.asked.options import read_placing

    return read_placing(given, lambda field: field.replace("_", "-"), text=True, folder=folder)


def life_report(name: str, breaks: tuple[Any, ...], survived: Any = None) -> Report:
    """Return the findings on ties that broke, and on what operations did that were named, as a report on a module."""
    from tiecheck.records.life import SurvivalMatrix

    target = Target(name, "module", name, None)
    nothing = SurvivalMatrix(name, (), (), ())
    facts = Facts({"tie_breaks": breaks, "survived": survived if survived is not None else nothing})
    return assemble_report([judge_facts(target, facts, Config())])


def check_beside(model: nn.Module, config: Config, optimizer: Any = None, beside: Any = None) -> Report:
    """Check a live model, what optimizers (one or several) hold of it, and what it shares with other models.

    Whatever has `param_groups` is an optimizer; what is no such thing, or no model, raises a `UsageError`.
    """
    from torch import nn

    with foreign_errors("looking at what was given with the model"):
        check_codes((*config.select, *config.ignore))
        given: dict[str, Any] = {}
        if optimizer is not None:
            held = tuple(optimizer) if isinstance(optimizer, (list, tuple)) else (optimizer,)
            if any(not isinstance(getattr(one, "param_groups", None), list) for one in held):
                raise UsageError("optimizer= takes a torch optimizer, or a list of them")
            given["stepped_by"] = held
        if beside is not None:
            others = (beside,) if isinstance(beside, nn.Module) or not isinstance(beside, Iterable) else tuple(beside)
            if any(not isinstance(one, nn.Module) for one in others):
                raise UsageError("beside= takes a torch.nn.Module, or a list of them")
            given["other_models"] = others
        if not isinstance(model, nn.Module):
            raise UsageError("optimizer= and beside= go with a live torch.nn.Module, not with a path")

        def reporting(target: Target, facts: Facts, config: Config) -> TargetReport:
            facts.give(**given)
            return judge_facts(target, facts, config)

        return assemble_report([check_target(model, config, reporting)])
