"""The status of a target, and the exit status of a run: told by what the rules answered and what nobody could tell.

A contract that asks for what no target has is an error where it was given to the call, else a word of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from tiecheck.config.options import GIVEN, Config
from tiecheck.errors import OutOfTimeError, TargetError, TiecheckError
from tiecheck.facts.registry import Facts
from tiecheck.files.limits import Account
from tiecheck.peers.loaders.registry import PLANNERS
from tiecheck.records.loaders import LoaderView
from tiecheck.records.record import Record
from tiecheck.records.report import Error, Finding, Report, Skip, Status, TargetReport, Traffic, at_least
from tiecheck.records.stored import Group
from tiecheck.records.words import TIED, Unknown
from tiecheck.targets.parse import Target
from tiecheck.wording import listed

if TYPE_CHECKING:
    from tiecheck.facts.registry import FactName
    from tiecheck.records.live import DeclaredTie, LiveModel


TIES: tuple[FactName, ...] = ("groups", "live", "adapted_ties", "gguf_tie", "conversion", "onnx_copies")
"""Names of the facts that are the ties themselves."""

JUDGED = frozenset({"groups", "live_ties", "declared_ties", "adapted_ties", "gguf_tie", "onnx_copies"})
"""The same as the rules on them ask for it."""


READERS: tuple[tuple[FactName, str, str], ...] = (
    ("gguf", "a GGUF file", "llama.cpp"),
    ("onnx", "an ONNX file", "onnxruntime"),
    ("adapter", "an adapter", "transformers"),
)
"""Fact of a kind that is no checkpoint, the words for it, and the loader by which it is judged."""


class RuleAnswers(Record):
    """The answers of the rules of one target, so far."""

    findings: list[Finding]
    skips: list[Skip]
    errors: list[Error]
    ran: list[str]
    unclear: list[str]
    """Codes of the error-level rules on the ties themselves that could not tell: then it is no pass."""


def unread_report(target: Target, error: BaseException, account: Account) -> TargetReport:
    """Return the report of a target that was not read to its end; a file that changed comes before what it led to."""
    try:
        account.check_files()
    except TargetError as changed:
        error = changed
    path = None
    match error:
        case OutOfTimeError():
            message = f"{target.text} takes more than {account.seconds:g} s (--timeout), and was stopped"
        case GeneratorExit():  # no code of ours raises it
            message = f"looking at what {target.text} builds raised GeneratorExit"
        case MemoryError():
            message = f"{target.text} needs more memory than there is"
        case TiecheckError():
            message, path = str(error), error.path
        case _:
            message = f"tiecheck itself failed, please report it: {type(error).__name__}: {error}"
    moved = [read() for read in account.traffic]
    traffic = Traffic(*map(sum, zip(*moved, strict=True))) if moved else None
    errors = (Error(None, message, path or target.text),)
    return TargetReport(target.text, target.type, "error", errors=errors, remote=traffic)


KINDS = (
    ("base", "--base", "adapter", "adapters"),
    ("converted_from", "--from", "gguf", "GGUF files"),
    ("changed_only", "--changed-only", "source", "sources"),
)
"""Field of an option that concerns one kind of target, its flag, that kind, and the word for it."""


def refuse_misplaced(reports: Iterable[TargetReport], config: Config) -> Iterator[TargetReport]:
    """Yield reports as they are; errors instead where an option is for a kind of target that none of them is."""
    for field, flag, kind, what in KINDS:
        if getattr(config, field) is not None:
            reports = tuple(reports)
            if all(report.type != kind for report in reports):
                reports = [_refused(report, f"{flag} is for {what}, and {report.target} is none") for report in reports]
    yield from reports


def _refused(report: TargetReport, message: str) -> TargetReport:
    if report.status == "error":
        return report
    return TargetReport(report.target, report.type, "error", errors=(Error(None, message, report.target),))


def report_status(
    answers: RuleAnswers, facts: Facts, config: Config, chosen: frozenset[tuple[str, str]] | None
) -> tuple[Status, str | None]:
    """Return the status, and why it is no pass where something is unknown."""
    if answers.errors:
        return "error", None
    if at_least((f for f in answers.findings if f.suppressed is None), config.fail_on):
        return "fail", None
    raised = _raises(facts)
    blind = [fact.reason for name in TIES if name in facts and isinstance(fact := facts.get(name), Unknown)]
    unclear = [skip.reason for skip in answers.skips if skip.code in answers.unclear]
    views, home = facts.known("loaders") or (), _home(facts)
    untold_groups = untold_reason(told_groups(facts), views, facts.known("live"), chosen, home)
    doubts = [
        problem.why
        for problem in facts.known("load_problems") or ()  # with no group, no loader's word bears them
        if (problem.outcome == "unknown" or problem.kind == "newer")  # a note at most, and no pass
        and (chosen is None or any(("transformers", line) in chosen for line in problem.versions))
    ]
    unsaid = [] if config.select or config.ignore else _unsaid(answers.findings, views, chosen, home)
    unlooked = _unlooked(facts, sorted({name for name, _ in chosen or ()}))
    reason = next(iter((*raised, *blind, *unlooked, *untold_groups, *doubts, *unsaid, *unclear)), None)
    if reason is None and answers.ran:
        return "pass", None
    return "unknown", reason or (answers.skips[0].reason if answers.skips else "no rule was run")


def _unlooked(facts: Facts, names: list[str]) -> Iterator[str]:
    """Yield that what the named loaders make of a kind of artefact was not looked at; some names, or none, for all."""
    for kind, what, reader in READERS:
        if kind in facts and names and reader not in names:
            they = "they make" if len(names) > 1 else "it makes"
            yield f"--for names {listed(tuple(names))}, and what {they} of {what} was not looked at"


def _home(facts: Facts) -> str:
    """Return the loader that must be known where none is chosen: transformers, but for what mlx-lm quantised.

    The lines of transformers raise for that: no `quant_method`, or packed words of another shape (4.57.6, 5.23).
    """
    config = facts.known("model_config")
    if config is None or not isinstance(config.data.get("quantization"), dict):
        return "transformers"
    own = config.data.get("quantization_config")
    return "transformers" if isinstance(own, dict) and "quant_method" in own else "mlx-lm"


def _unsaid(
    findings: list[Finding], views: tuple[LoaderView, ...], chosen: frozenset[tuple[str, str]] | None, home: str
) -> Iterator[str]:
    """Yield each group that a loader loses though no rule says so: it is no pass, whoever was to tell."""
    serious = [finding for finding in findings if finding.severity != "info"]
    told = {name for finding in serious for name in finding.names}
    members = {name for view in views for name in view.names}
    accepted = [finding for finding in serious if finding.suppressed is not None]
    whole = [finding.hurts for finding in accepted if members.isdisjoint(finding.names)]  # of a whole load
    for view in views:
        must = view.among(chosen) and (chosen is not None or view.loader == home)
        if must and view.hurts and told.isdisjoint(view.names) and not any(h is None or view.title in h for h in whole):
            why = f" ({view.message})" if view.message else ""
            yield f"{listed(view.names[:4])}: {view.outcome} in {view.title}{why}, and no finding tells it"


def told_groups(facts: Facts) -> tuple[Group, ...]:
    """Return the static groups of a target: a checkpoint's own, those of an adapter's base, or a GGUF file's."""
    base, gguf = facts.known("adapter_base"), facts.known("gguf_tie")
    groups: tuple[Group, ...] = base.groups if base else (gguf.group,) if gguf else facts.known("groups") or ()
    return groups


def _raises(facts: Facts) -> list[str]:
    """Return what transformers raises when it loads this, where a rehearsal heard it."""
    rehearsed = facts.known("rehearsal")
    if rehearsed is None or not rehearsed.raised:
        return []
    return [f"transformers {rehearsed.version} raises when it loads this: {': '.join(rehearsed.raised)}"]


def raised_load(facts: Facts, answers: RuleAnswers, config: Config) -> str | None:
    """Return a raising load that was asked for by name, and that no finding tells."""
    told = answers.errors or at_least(answers.findings, config.fail_on)
    return None if told else next(iter(_raises(facts)), None)


def exit_status(report: Report, config: Config, *, exit_zero: bool = False) -> int:
    """Return 0 for checked and clean, 1 for findings (under `strict` also skips and unknowns), 2 for no answer."""
    if not report.targets or any(t.errors or not t.rules_run for t in report.targets):
        return 2
    blind = report.skips or any(target.status == "unknown" for target in report.targets)
    failed = at_least(report.findings, config.fail_on) or (config.strict and blind)
    return 1 if failed and not exit_zero else 0


def _computed_from_one(claim: DeclaredTie, live: LiveModel | None) -> bool:
    """Return True if the module computes all members of a group from one parameter, as parametrizations do."""
    from tiecheck.live.derived_weights import name_before

    ties = live.ties if live is not None else ()
    return any(tie.kind in TIED and set(claim.names) <= set(map(name_before, tie.names)) for tie in ties)


def untold_reason(
    groups: tuple[Group, ...],
    views: tuple[LoaderView, ...],
    live: LiveModel | None,
    chosen: frozenset[tuple[str, str]] | None,
    home: str = "transformers",
) -> Iterator[str]:
    """Yield what keeps static groups from a pass: who decides, or what becomes of one in a loader that must be known.

    That is one of the chosen, or without any the form's own. The live layer answers for a guessed group.
    """
    for claim in live.declared if live is not None else ():
        if claim.kind == "absent" and (claim.parts or not _computed_from_one(claim, live)):  # replaced, or parted below
            yield f"{listed(claim.names[:4])}: {claim.reason}"
    for group in groups:
        if live is not None and group.inferred:
            continue
        names = listed(group.names[:4])
        if group.declared is None:
            yield f"{names}: {group.reason or 'nobody says whether they are one tensor'}"
        must = [v for v in views if (v.loader == home if chosen is None else v.among(chosen))]
        must = list(views) if chosen is None and not must else must  # a vendor's own format
        blind = [v for v in must if v.outcome == "unknown" and v.names == group.names]
        if blind:
            titles = listed(tuple(view.title for view in blind))
            yield f"{blind[-1].message}; so it is not known what becomes of {names} in {titles}"
        silent = silent_loaders(chosen, [v for v in views if v.names == group.names]) if chosen and views else ()
        if silent:
            yield f"{names}: nothing is known of this class or group in {listed(silent)}, which --for names"


def silent_loaders(chosen: frozenset[tuple[str, str]], views: list[LoaderView]) -> tuple[str, ...]:
    """Return which of the chosen loaders say nothing of a group; without versions where several and all are silent.

    Planners count only where nobody else is chosen.
    """
    silent = chosen - {(view.loader, view.versions) for view in views}
    counted = {pair for pair in silent if pair[0] not in PLANNERS} or (set() if silent < chosen else silent)
    whole = {name for name, _ in counted} - {name for name, _ in chosen - counted}
    several = {name for name in whole if sum(pair[0] == name for pair in counted) > 1}
    return tuple(sorted({name if name in several else f"{name} {versions}".strip() for name, versions in counted}))


def unkept_promises(facts: Facts, config: Config) -> Iterator[str]:
    """Yield what keeps the `ties=` of a call from being judged: no module, none of the class, names that it lacks."""
    if not config.ties or config.ties_from != GIVEN:
        return
    live = facts.get("live") if "live" in facts else Unknown("they are about a module; give one, or live=True")
    if isinstance(live, Unknown):
        yield f"the ties= could not be judged: {live.reason}"
        return
    claims = [claim for claim in live.declared if GIVEN in claim.by]
    if not claims and any(config.ties.values()):
        yield f"the ties= could not be judged: no module in it is of the class {listed(tuple(sorted(config.ties)))}"
    for claim in claims:
        if claim.missing:
            yield f"the ties= name what the model lacks: {listed(claim.missing)}"


def unjudged_contracts(report: Report, config: Config) -> Iterator[str]:
    """Yield a sentence for each class of a configuration file's contract that no model of a run was held to."""
    models = [target for target in report.targets if target.layers and target.type != "source"]
    if not models or config.ties_from == GIVEN:
        return
    promised = [tie.names for target in models for tie in target.ties if config.ties_from in tie.declared_by]
    stored = {target.architecture for target in models if "live" not in target.layers}
    for name, groups in config.ties.items():
        if groups and not any(_within(group, names) for group in groups for names in promised):
            if name.rpartition(".")[2] in stored:
                yield f"{name} is not held to its contract in {config.ties_from}: --live builds what that takes"
            else:
                yield f"no target has the class {name} of {config.ties_from}"


def _within(group: tuple[str, ...], names: tuple[str, ...]) -> bool:
    """Return True if some names are a group's, be it below a module."""
    return all(any(name == one or name.endswith(f".{one}") for name in names) for one in group)
