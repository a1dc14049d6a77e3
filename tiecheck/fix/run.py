"""A fix from end to end: judge, choose, plan, write beside, judge again, and only then take the old files' place."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator

from tiecheck.config.options import Config
from tiecheck.engine.run import check_target
from tiecheck.errors import TargetError, UsageError, near_words
from tiecheck.fix import refusals, writing
from tiecheck.fix.plan import FixPlan, make_plan
from tiecheck.fix.verdicts import HIDING, Chosen, Heard, hear_loads, hold_against
from tiecheck.records.edits import CHOICES, COMMIT, WORK, Edit, edit_words, file_edits
from tiecheck.records.record import Record
from tiecheck.records.report import Finding, TargetReport, at_least
from tiecheck.rules.registry import check_codes

Ask = Callable[[Finding], Edit | None]
"""Asks the user for one of a finding's alternatives; None leaves it."""


DECISIONS = {"tied", "untied"}
"""Words of `--choose` that say what every group is to be."""


class FixOptions(Record):
    """Choices of what to fix, and how far to go."""

    choice: str | None = None
    """The user's decision where an edit needs one."""
    unsafe: bool = False
    """True where edits may be made that lose stored values."""
    apply: bool = False
    """True where files are written."""
    to: str | None = None
    """The new directory that gets the fixed copy; None to fix in place."""
    backup: bool = False
    """True where originals are kept beside the new files."""
    rehearse: bool = True
    """True where the load is rehearsed, if transformers is installed."""


class FixOutcome(Record):
    """The end of a fix."""

    before: TargetReport
    """The verdict on the target as it was."""
    chosen: Chosen
    """The findings that have a fix, each with the alternative taken."""
    left: tuple[tuple[Finding, str], ...]
    """The findings that stay, each with the reason."""
    plan: FixPlan | None
    """Changes to be made; None where there are none."""
    undone: tuple[str, ...] = ()
    """Reasons why the fix was not kept."""
    after: TargetReport | None = None
    """The verdict on the fixed files; None where none were written."""
    rehearsed: str | None = None
    """The version of transformers that was heard, or the reason why none was."""
    stays: tuple[str, ...] = ()
    """Wrongs of the load that were there before, and are."""
    recovered: str | None = None
    """Words on an interrupted fix that was found."""

    @property
    def written(self) -> bool:
        """True where the new files are in place."""
        return self.after is not None and not self.undone


def fix_target(
    target: str, config: Config, options: FixOptions, ask: Ask | None = None, step: writing.Hook = lambda _: None
) -> FixOutcome:
    """Fix one model directory, or show what would be done; with `select` in the config notes are fixed as well.

    `ask` asks for a decision that is the user's, None leaves such findings; `step` is called between any two writes.
    What cannot be judged or written raises a `TargetError`.
    """
    if not os.path.isdir(target):
        raise TargetError(f"{target} is no directory on this machine; a fix changes the files of one", target)
    check_codes(config.select)
    if options.apply and options.to is None:
        refusals.refuse_unwritable(target)
    with refusals.locked_folder(target):
        recovered = writing.recover_interrupted(target) if os.access(target, os.W_OK) else None
        refusals.refuse_partial(target)
        old = _watched(target)
        refusals.refuse_open(target, tuple(old))
        before = _judged(target, config._replace(select=()))  # all of it, to see what a fix brings
        found = [f._replace(edits=file_edits(f.edits)) for f in before.counted()]  # code is not ours to run
        chosen, left = choose_edits(found, config, options, ask)
        refuse_word(options.choice, (*chosen, *left))
        if not chosen:
            return FixOutcome(before, chosen, left, None, recovered=recovered)
        plan = make_plan(target, (s for _, edit in chosen for s in edit.steps))
        outcome = FixOutcome(before, chosen, left, plan, recovered=recovered)
        if not options.apply and options.to is None:
            return outcome
        return _carried_out(outcome, old, config, options, step)


def _watched(target: str) -> dict[str, list[int]]:
    """Return the identities of all files of a directory, to see whether one changes meanwhile."""
    names = tuple(name for name in os.listdir(target) if os.path.isfile(os.path.join(target, name)))
    return refusals.file_identities(target, names)


def _judged(target: str, config: Config) -> TargetReport:
    report = check_target(target, config)
    if report.errors:
        raise TargetError(report.errors[0].message, target)
    return report


def choose_edits(
    findings: Iterable[Finding], config: Config, options: FixOptions, ask: Ask | None
) -> tuple[Chosen, tuple[tuple[Finding, str], ...]]:
    """Return the findings to be fixed, each with the way to take, and those that stay, each with the reason."""
    chosen, left = [], []
    for finding in findings:
        wanted = finding.code.startswith(config.select) if config.select else at_least((finding,), config.fail_on)
        if not wanted:
            continue  # by itself a note is left alone: nothing is wrong with the model
        answer = _choice(finding, options, ask)
        if isinstance(answer, str):
            left.append((finding, answer))
        else:
            chosen.append((finding, answer))
    return tuple(chosen), tuple(left)


def refuse_word(word: str | None, told: Iterable[tuple[Finding, object]]) -> None:
    """Raise a `UsageError` for a word that no finding has, with those on offer, and for one that no fix ever has.

    What has no fix of `tied` or `untied` is left, and told.
    """
    edits = [edit for finding, _ in told for edit in finding.edits]
    if word is None or word in {*DECISIONS, *(edit.choice for edit in edits)}:
        return
    if offered := dict.fromkeys(edit.choice for edit in edits if edit.when is not None):
        raise UsageError(f"--choose {word} is not on offer here; what is: {', '.join(offered)}")
    if "." not in word and word not in CHOICES:
        near = [f"did you mean {choice}?" for choice in near_words(word, CHOICES)]
        raise UsageError(
            f"--choose {word} is no word of a fix; {''.join(near) or 'a finding that offers some names them'}"
        )


def _choice(finding: Finding, options: FixOptions, ask: Ask | None) -> Edit | str:
    """Return the alternative to take, or the reason to take none."""
    if not finding.edits:
        return f"{finding.help[:1].lower()}{finding.help[1:]}"
    sure = [edit for edit in finding.edits if edit.when is None]
    named = [edit for edit in finding.edits if edit.choice == options.choice]
    edit = named[0] if named else sure[0] if sure else ask(finding) if ask is not None else None
    if edit is not None and {options.choice, edit.choice} == DECISIONS:
        return f"its fix is {edit.choice}, and --choose says {options.choice}"
    if edit is None:
        ways = (f"--choose {e.choice}{'' if e.safe else ' --unsafe'}: {edit_words((e,))}" for e in finding.edits)
        other = f"it has no fix called {options.choice}; " if options.choice is not None else ""
        return "\n".join((f"{other}the decision is yours:", *ways))
    if not edit.safe and not options.unsafe:
        what = "changes the model" if edit.steps[0].kind == "edit-source" else "deletes stored values"
        return f"--choose {edit.choice} {what}; --unsafe allows that"
    return edit


def _carried_out(
    outcome: FixOutcome, old: dict[str, list[int]], config: Config, options: FixOptions, step: writing.Hook
) -> FixOutcome:
    """Stage a plan, judge it, and let it take the old files' place where it is better."""
    plan = outcome.plan
    assert plan is not None  # noqa: S101  # there are edits
    with _staged(plan, options.to, step) as stage:
        after = check_target(stage, config._replace(select=()))
        heard = hear_loads(plan.root, stage, outcome.chosen) if options.rehearse else Heard()
        verdict = hold_against(outcome.chosen, outcome.before, after, config)
        undone = (*verdict.worse, *heard.worse)
        refusals.refuse_changed(plan.root, old)
        if not undone and options.to is not None:
            writing.commit_copy(stage, options.to, step)
        elif not undone:
            writing.commit_in_place(plan, old, backup=options.backup, step=step)
    outcome = outcome._replace(undone=undone, after=after, rehearsed=heard.by)
    if undone:
        return outcome
    there = {(finding.code, finding.names): finding for finding in after.counted()}
    left: list[tuple[Finding, str]] = []
    for finding, reason in outcome.left:
        now = there.get((finding.code, finding.names))
        if now is not None and now.edits and not finding.edits:
            left.append((now, f"its fix shows now, and is another step: {now.help}"))
        elif now is not None or (finding.code in HIDING and not heard.sound):  # what ends a load may be hidden now
            left.append((finding, reason))
    return outcome._replace(left=(*left, *verdict.left), stays=heard.stays)


@contextlib.contextmanager
def _staged(plan: FixPlan, to: str | None, step: writing.Hook) -> Iterator[str]:
    """Stage a plan, and leave nothing behind of what did not get its place."""
    parent, name = os.path.split(os.path.abspath(to or ""))
    rest = os.path.join(plan.root, WORK) if to is None else os.path.join(parent, f".{name}{WORK}")
    try:
        yield writing.stage_in_place(plan, step) if to is None else writing.stage_copy(plan, to, step)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise TargetError(
            f"{plan.root} was not fixed: {where}{error.strerror or error}; it is as it was", plan.root
        ) from error
    finally:
        if not os.path.exists(os.path.join(rest, COMMIT)):
            shutil.rmtree(rest, ignore_errors=True)
