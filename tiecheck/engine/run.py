"""From a target to its report: collect facts on demand, hand them to rules, put the answers together.

The only orchestrator. Rules never see a reader, readers never judge, and a fact is made once, when the first rule asks
for it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from typing import TYPE_CHECKING

from tiecheck._version import __version__
from tiecheck.config.options import Config
from tiecheck.engine.findings import apply_rule
from tiecheck.engine.status import (
    TIES,
    RuleAnswers,
    raised_load,
    refuse_misplaced,
    report_status,
    told_groups,
    unkept_promises,
    unread_report,
)
from tiecheck.errors import OutOfTimeError, TargetError, class_word, foreign_errors, shown, without_secrets
from tiecheck.facts.registry import Facts
from tiecheck.files.limits import Account, current
from tiecheck.peers.loaders.registry import parse_for
from tiecheck.records.report import Error, Report, TargetReport
from tiecheck.records.stored import Checkpoint
from tiecheck.records.words import Unknown
from tiecheck.rules.registry import check_codes, select_rules
from tiecheck.targets.parse import Target, given_path, parse_target, targets_below

if TYPE_CHECKING:
    from torch import nn

    from tiecheck.engine.verdict_cache import VerdictCache
    from tiecheck.facts.registry import FactName

    Reporting = Callable[[Target, Facts, Config], TargetReport]
    """Makes the report of a target of its facts: `judge_facts` or `describe_facts`."""

ASKED: dict[FactName, str] = {
    "placement": "no placement could be judged",
    "rehearsal": "no load could be rehearsed",
    "live": "the model could not be built",
    "traced_uses": "the forward pass could not be followed",
}
"""Facts of the layers that are asked for by name -> the beginning of the error where one cannot be had."""


def run(targets: Iterable[str | nn.Module], config: Config) -> Iterator[TargetReport]:
    """Check some targets, as typed or live modules, and yield the report of one after another.

    A wrong option raises a `UsageError` before the first target is read.
    """
    return refuse_misplaced(_reports(targets, config, judge_facts), config)


def inspect_targets(targets: Iterable[str | nn.Module], config: Config) -> Iterator[TargetReport]:
    """Gather the facts of some targets and judge none of them: what `tiecheck inspect` shows.

    Reports have no findings and skips, but counts, and what the installed tools see in a live module. A layer that was
    asked for and could not be had is an error of its target.
    """
    return refuse_misplaced(_reports(targets, config, describe_facts), config)


def _reports(targets: Iterable[str | nn.Module], config: Config, reporting: Reporting) -> Iterator[TargetReport]:
    check_codes((*config.select, *config.ignore))
    _chosen(config)
    if config.baseline:
        from tiecheck.engine.suppressions import read_baseline

        read_baseline(config.baseline)
    wholes = _wholes(targets, config)
    ahead = tuple(islice(wholes, 2)) if config.cache and reporting is judge_facts else ()
    cache = None
    if len(ahead) > 1:
        from tiecheck.engine.verdict_cache import open_cache

        cache = open_cache(config)
    with contextlib.closing(cache) if cache is not None else contextlib.nullcontext():
        for count, target in enumerate(chain(ahead, wholes)):
            yield check_target(target, config, reporting, one_of_many=count > 0, cache=cache)


def _wholes(targets: Iterable[str | nn.Module], config: Config) -> Iterator[str | nn.Module]:
    """Yield what some targets stand for, a model that is named by each of its shards once."""
    seen: set[str] = set()
    for target in chain.from_iterable(_below(target, config) for target in targets):
        whole = _whole_model(target)
        if whole is not target:
            if whole in seen:
                continue  # `model/*.safetensors`
            seen.add(whole)  # type: ignore[arg-type]  # a shard's index
        yield whole


def _below(target: str | nn.Module, config: Config) -> Iterator[str | nn.Module]:
    """Yield what a target stands for: itself, or the models in or below a directory."""
    path = given_path(target)
    if path is not None:
        built = config.live or config.load or config.rehearse
        yield from targets_below(path, recursive=config.recursive, built=built)
    else:
        yield target


def _whole_model(target: str | nn.Module) -> str | nn.Module:
    """Return the index of the model that a file is one shard of; any other target as it is."""
    path = given_path(target)
    if path is None or not path.endswith((".safetensors", ".bin")):
        return target
    from tiecheck.files.checkpoint import index_of_shard

    return index_of_shard(path) or target


def assemble_report(reports: Iterable[TargetReport]) -> Report:
    """Return the reports of all targets as one, with the seconds that they took."""
    begin = time.perf_counter()
    return Report(__version__, tuple(reports), time.perf_counter() - begin)


def check_target(
    given: str | nn.Module,
    config: Config,
    reporting: Reporting | None = None,
    *,
    one_of_many: bool | Account = False,
    cache: VerdictCache | None = None,
) -> TargetReport:
    """Return the report of one target, typed or a module; whatever keeps it from being read is an error of its report.

    `reporting` makes it of the facts (`judge_facts`). `one_of_many` looks if one that is alike came before, and keeps
    the verdict for those that come; an account may have the names that the directory was listed with a moment ago, and
    tells afterwards what was read. A cache has the verdicts of earlier runs, and gets this one.
    """
    path = given_path(given)
    if path is None:
        return _check_module(given, config, reporting or judge_facts)  # type: ignore[arg-type]  # no path
    looked = cache.look_at(path) if cache is not None else None
    if looked is not None and looked.report is not None:
        return looked.report
    reporting = reporting or judge_facts
    account = one_of_many if isinstance(one_of_many, Account) else Account(config.timeout)
    account.listed = account.listed if account is one_of_many else (path, bool(one_of_many))
    token = current.set(account)
    target = None
    try:
        sight = None
        if one_of_many and reporting is judge_facts and not (config.allow or config.baseline):
            from tiecheck.engine.repeats import keep_verdict, look_at, once_for_twins

            sight = look_at(path, config, account)
            if sight is not None and sight.report is not None:
                account.check_files()
                if cache is not None and looked is not None:
                    cache.keep(looked, account, sight.report)
                return sight.report
            reporting = once_for_twins(reporting)
        target = parse_target(path)
        report, weights = _judge_path(target, config, reporting)
        account.check_files()
        if sight is not None:
            keep_verdict(sight, config, weights, account, report)
        if cache is not None and looked is not None and weights is not None and not weights.missing_files:
            cache.keep(looked, account, report)
    except (Exception, OutOfTimeError, GeneratorExit) as error:  # noqa: BLE001  # the other targets are judged
        return unread_report(target or Target(without_secrets(path), "checkpoint", path, None), error, account)
    else:
        return report
    finally:
        current.reset(token)


def _judge_path(target: Target, config: Config, reporting: Reporting) -> tuple[TargetReport, Checkpoint | None]:
    """Return the report of what stands at a path or address, and the weights there."""
    from tiecheck.facts import opening

    facts = opening.facts_of(target, config)
    builds = target.type == "module" or config.trust_remote_code
    with foreign_errors(f"looking at what {target.text} builds") if builds else contextlib.nullcontext():
        return reporting(target, facts, config), facts.known("checkpoint")


def _check_module(module: nn.Module, config: Config, reporting: Reporting) -> TargetReport:
    """Return the report of a live module; what its own code raises, or takes too long over, is an error of it."""
    from tiecheck.facts.opening import module_facts
    from tiecheck.live.registrations import looking_at

    name = class_word(type(module))
    target = Target(name, "module", name, None)
    account = Account(config.timeout)
    token = current.set(account)
    try:
        with looking_at(module):
            return reporting(target, module_facts(module, config), config)
    except (TargetError, OutOfTimeError) as error:
        return unread_report(target, error, account)
    finally:
        current.reset(token)


def judge_facts(target: Target, facts: Facts, config: Config) -> TargetReport:
    """Run the selected rules over the facts of one target."""
    outcome = RuleAnswers([], [], [], [], [])
    chosen = _chosen(config)
    for rule in select_rules(config.select, config.ignore, facts):  # a layer that was not asked for is no skip either
        apply_rule(rule, facts, target, outcome, chosen)
    for name, words in ASKED.items():  # what was asked for by name and cannot be had must not let pass
        asked = {"live": config.wants_live, "rehearsal": config.wants_rehearsal}.get(name, True) and name in facts
        if asked and not outcome.errors and isinstance(layer := facts.get(name), Unknown):
            outcome.errors.append(Error(None, shown(f"{words}: {layer.reason}"), target.text))
    if raised := raised_load(facts, outcome, config):
        outcome.errors.append(Error(None, raised, target.text))
    if config.ties:
        outcome.errors.extend(Error(None, shown(told), target.text) for told in unkept_promises(facts, config))
    outcome.errors.extend(Error(None, str(e), e.path) for e in facts.known("unread_sources") or ())
    if "sources" in facts or config.allow or config.baseline:
        from tiecheck.engine.suppressions import settle_suppressions

        settle_suppressions(outcome, facts, target, config)
    status, reason = report_status(outcome, facts, config, chosen)
    known = _known(target, facts, config)
    told = {name for finding in outcome.findings for name in finding.names}
    return known._replace(
        placement=facts.known("placement") if "placement" in facts else None,
        # rows of members that may differ are nobody's matter
        ties=tuple(tie if told.intersection(tie.names) else tie._replace(rows_apart=None) for tie in known.ties),
        status=status,
        reason=reason,
        findings=tuple(sorted(outcome.findings, key=lambda f: (f.code, f.names))),
        skips=tuple(outcome.skips),
        errors=tuple(outcome.errors),
        rules_run=tuple(outcome.ran),
    )


def describe_facts(target: Target, facts: Facts, config: Config) -> TargetReport:
    """Return the facts of one target, unjudged: counts and views among them, which no rule has asked for."""
    found = read_ties(target, facts, config)._replace(
        views=facts.known("tool_views") or (), counts=facts.known("counts")
    )
    lost = facts.get("traced_uses") if "traced_uses" in facts and not found.errors else None
    if not isinstance(lost, Unknown):
        return found
    told = Error(None, shown(f"{ASKED['traced_uses']}: {lost.reason}"), target.text)
    return found._replace(status="error", errors=(told,))


def read_ties(target: Target, facts: Facts, config: Config) -> TargetReport:
    """Return what each layer says of the ties of one target, unjudged; an error where no layer can tell."""
    found = [facts.get(name) for name in TIES if name in facts]
    lost = [value.reason for value in found if isinstance(value, Unknown)]
    if facts.known("live") is not None:
        lost = []  # what the files do not tell, the module does
    lost += map(str, facts.known("unread_sources") or ())
    return _known(target, facts, config)._replace(
        status="error" if lost else "unknown",
        errors=tuple(Error(None, reason, target.text) for reason in dict.fromkeys(lost)),
    )


def _known(target: Target, facts: Facts, config: Config) -> TargetReport:
    """Return a report of the layers alone: nothing judged, nothing found."""
    from tiecheck.engine import entries

    base = facts.known("adapter_base")
    model = base or facts.known("model_config")
    live = facts.known("live")
    return TargetReport(
        target.text,
        "adapter" if "adapter" in facts else target.type,
        "unknown",
        architecture=(model.class_name if model else None) or (live.class_name if live else None),
        model_type=model.model_type if model else None,
        judged_for=config.judge_for or None,
        layers=entries.known_layers(facts),
        ties=(*entries.tie_entries(told_groups(facts), live), *entries.written_entries(facts)),
        aliases=entries.alias_entries(live),
        loaders=entries.loader_entries(facts.known("loaders") or (), _chosen(config)),
        remote=facts.known("remote"),
        uses=facts.known("traced_uses"),
        scale=entries.measured_scales(facts, config),
    )


def _chosen(config: Config) -> frozenset[tuple[str, str]] | None:
    """Return the loaders that `--for` names, as name and versions; None where every loader counts."""
    if not config.judge_for:
        return None
    return parse_for(config.judge_for)
