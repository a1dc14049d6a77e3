"""What a guard, a callback or an operation saw, judged by the rules of a model's life."""

from __future__ import annotations

from typing import Any

from tiecheck.config.options import Config
from tiecheck.engine.run import assemble_report, judge_facts
from tiecheck.facts.registry import Facts
from tiecheck.records.report import Report
from tiecheck.targets.parse import Target


def life_report(name: str, breaks: tuple[Any, ...]) -> Report:
    """Return the findings on ties that broke, as a report on a module."""
    target = Target(name, "module", name, None)
    return assemble_report([judge_facts(target, Facts({"tie_breaks": breaks}), Config())])
