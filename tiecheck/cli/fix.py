"""`tiecheck fix TARGET`: show what would fix a model directory, or do it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from tiecheck.cli.settings import codes_option, config_options, settle_options
from tiecheck.cli.streams import PlainCommand, complete_codes
from tiecheck.config.options import Config
from tiecheck.records.edits import Edit
from tiecheck.records.report import Finding
from tiecheck.targets.parse import parse_target

if TYPE_CHECKING:
    from tiecheck.fix.run import FixOutcome
    from tiecheck.fix.sources import SourceOutcome

HEARD = ("select", "judge_for", "fail_on")
"""Options of a check that say what is to be fixed."""


@click.command(
    "fix", cls=PlainCommand, short_help="Fix a model directory or sources: show the change; --apply or --to write it."
)
@click.argument("target", metavar="TARGET")
@click.option("--apply", is_flag=True, help="Write the change, in place.")
@click.option(
    "--to", metavar="NEWDIR", help="Write a fixed copy there; weights that stay are shared where they can be."
)
@click.option("--choose", metavar="WORD", help="Decide what only you can tell: untied, tied, or another word it names.")
@click.option("--unsafe", is_flag=True, help="Also make changes that delete stored values or change the model.")
@codes_option("--select", about="Fix these findings only, notes among them.", complete=complete_codes)
@codes_option("--for", "judge_for", about="The loaders that matter, as of check.", metavar="LOADERS")
@click.option("--backup", is_flag=True, help="Keep each file that changes, as NAME.orig.")
@config_options
def command(target: str, apply: bool, to: str | None, choose: str | None, **options: Any) -> None:
    """Fix the findings in TARGET, and show the change: nothing is written without --apply or --to.

    TARGET is a model directory, or a Python file, a notebook or a directory of them, which are edited by libcst.

    The new files are written beside the old, judged, and where transformers is installed their load is rehearsed; only
    a fix that ends its finding and brings no other takes their place. Notes are fixed where --select names them.

    Exit status: 0 nothing is left to fix, 1 something is, 2 it could not be judged or written.
    """
    from tiecheck.fix.run import FixOptions, fix_target

    if apply and to is not None:
        raise click.UsageError("--apply fixes in place and --to a copy; give one of them")
    settled = settle_options(options, (target,))
    config = Config(**{field: settled[field] for field in HEARD if field in settled})
    wanted = FixOptions(choose, options["unsafe"], apply, to, options["backup"])
    asks = ask_user if sys.stdin.isatty() and sys.stdout.isatty() else None
    if os.path.exists(target) and (source := parse_target(target)).type == "source":
        from tiecheck.fix.sources import fix_sources

        if to is not None:
            raise click.UsageError("--to makes a copy of a model directory; sources are fixed in place")
        edited = fix_sources(source, config, wanted, asks)
        tell_unused(choose, (*edited.chosen, *edited.left))
        sys.exit(show_sources(edited, target))
    outcome = fix_target(target, config, wanted, asks)
    tell_unused(choose, (*outcome.chosen, *outcome.left))
    sys.exit(show_outcome(outcome, wanted.to or target))


def tell_unused(word: str | None, told: Iterable[tuple[Finding, object]]) -> None:
    """Tell of a word of `--choose` that nothing here offers: misspelt, or of a fix that was made before."""
    from tiecheck.fix.run import DECISIONS

    if word is not None and word not in {*DECISIONS, *(edit.choice for finding, _ in told for edit in finding.edits)}:
        click.echo(f"--choose {word} decides nothing here", err=True)


def ask_user(finding: Finding) -> Edit | None:
    """Ask on the terminal which alternative is right."""
    words = {edit.choice: edit for edit in finding.edits}
    click.echo(f"{finding.code}: {finding.message}\n{finding.help}", err=True)
    answer = click.prompt("Which", type=click.Choice([*words, "neither"]), default="neither", err=True)
    return words.get(answer)


def show_outcome(outcome: FixOutcome, place: str) -> int:
    """Print what was or would be done, and return the exit status."""
    told = [outcome.recovered] if outcome.recovered else []
    told += [f"{finding.code} {finding.name}: {edit.choice}" for finding, edit in outcome.chosen]
    left = [f"{finding.code} {finding.name}: left, {reason}" for finding, reason in outcome.left]
    left += [f"not kept: {reason}" for reason in outcome.undone]
    left += [f"stays: {what}" for what in outcome.stays]
    show_change(told, "" if outcome.plan is None else outcome.plan.diff(), [*left, _end(outcome, place)])
    return 1 if outcome.left or outcome.stays or (outcome.chosen and not outcome.written) else 0


def show_sources(outcome: SourceOutcome, place: str) -> int:
    """Print what was or would be done to sources, and return the exit status."""

    def where(finding: Finding) -> str:
        first = finding.locations[0]
        return f"{finding.code} {finding.name} ({first.path}{f':{first.line}' if first.line else ''})"

    told = [f"{where(finding)}: {edit.choice}" for finding, edit in outcome.chosen]
    left = [f"{where(finding)}: left, {reason}" for finding, reason in outcome.left]
    if outcome.chosen:
        left.append(f"fixed: {place}" if outcome.written else "nothing is written; --apply does it in place")
    else:
        left.append("nothing is changed" if outcome.left else "nothing to fix")
    show_change(told, outcome.diff, left)
    return 1 if outcome.left or (outcome.chosen and not outcome.written) else 0


def show_change(told: list[str], diff: str, left: list[str]) -> None:
    """Print a change between the sentences on it, which are wrapped."""
    from tiecheck.render.lines import Line, write_lines

    before = [Line(text, 0, 2) for text in told]
    after = [Line(part, 2 if i else 0, 2) for text in left for i, part in enumerate(text.split("\n"))]
    write_lines([*before, *(Line(text, whole=True) for text in diff.splitlines()), *after], None, sys.stdout)


def _end(outcome: FixOutcome, place: str) -> str:
    """Tell how it ended."""
    if outcome.written and outcome.after is not None:
        ended = ", ".join(dict.fromkeys(finding.code for finding, _ in outcome.chosen))
        open_still = dict.fromkeys(f.code for f in outcome.after.counted() if f.severity != "info")
        told = (
            f"{', '.join(open_still)} {'stays' if len(open_still) == 1 else 'stay'}"
            if open_still
            else (f"judged again: {outcome.after.status}")
        )
        return f"fixed: {ended} in {place} ({told}; rehearsed: {outcome.rehearsed})"
    if outcome.undone:
        return f"{outcome.before.target} is as it was"
    if outcome.chosen:
        return "nothing is written; --apply does it in place, --to NEWDIR in a copy"
    if not outcome.left and outcome.before.status == "unknown":
        return f"nothing to fix that is known; whether it is right is not: tiecheck {outcome.before.target} says why"
    return "nothing is changed" if outcome.left else "nothing to fix"
