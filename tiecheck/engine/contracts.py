"""A contract that asks for what no target has: an error where it was given to the call, else a word of it."""

from __future__ import annotations

from collections.abc import Iterator

from tiecheck.config.contract import GIVEN
from tiecheck.config.options import Config
from tiecheck.facts.registry import Facts
from tiecheck.records.report import Report
from tiecheck.records.words import Unknown
from tiecheck.wording import listed


def unkept_promises(facts: Facts, config: Config) -> Iterator[str]:
    """Yield what keeps the `ties=` of a call from being judged: no module, none of the class, names that it lacks."""
    if not config.ties or config.ties_from != GIVEN:
        return
    live = facts.get("live") if "live" in facts else Unknown("they are about a module; give one, or live=True")
    if isinstance(live, Unknown):
        yield f"the ties= could not be judged: {live.reason}"
        return
    claims = [claim for claim in live.declared if claim.by == (GIVEN,)]
    if not claims and any(config.ties.values()):
        yield f"the ties= could not be judged: no module in it is of the class {listed(tuple(sorted(config.ties)))}"
    for claim in claims:
        if claim.missing:
            yield f"the ties= name what the model lacks: {listed(claim.missing)}"


def unused_classes(report: Report, config: Config) -> tuple[str, ...]:
    """Return the classes of a configuration file's contract that no live target of a run has."""
    live = [target for target in report.targets if "live" in target.layers]
    if not live or config.ties_from == GIVEN:
        return ()
    promised = [tie.names for target in live for tie in target.ties if config.ties_from in tie.declared_by]
    return tuple(
        name
        for name, groups in config.ties.items()
        if groups and not any(_within(group, names) for group in groups for names in promised)
    )


def _within(group: tuple[str, ...], names: tuple[str, ...]) -> bool:
    """Return True if some names are a group's, be it below a module."""
    return all(any(name == one or name.endswith(f".{one}") for name in names) for one in group)
