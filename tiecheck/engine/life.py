"""Reports on what a guard or an operation saw, and checks of a model in company: optimizers, other models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tiecheck.config.options import Config
from tiecheck.engine.run import assemble_report, check_target, judge_facts
from tiecheck.errors import UsageError, foreign_errors
from tiecheck.facts.registry import Facts
from tiecheck.records.life import SurvivalMatrix
from tiecheck.records.report import Report, TargetReport
from tiecheck.rules.registry import check_codes
from tiecheck.targets.parse import Target

if TYPE_CHECKING:
    from torch import nn


def life_report(name: str, breaks: tuple[Any, ...], survived: Any = None) -> Report:
    """Return the findings on ties that broke, and on what operations did that were named, as a report on a module."""
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
            others = (beside,) if isinstance(beside, nn.Module) else tuple(beside)
            if any(not isinstance(one, nn.Module) for one in others):
                raise UsageError("beside= takes a torch.nn.Module, or a list of them")
            given["other_models"] = others
        if not isinstance(model, nn.Module):
            raise UsageError("optimizer= and beside= go with a live torch.nn.Module, not with a path")

        def reporting(target: Target, facts: Facts, config: Config) -> TargetReport:
            facts.give(**given)
            return judge_facts(target, facts, config)

        return assemble_report([check_target(model, config, reporting)])
