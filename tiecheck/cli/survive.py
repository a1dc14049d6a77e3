"""`tiecheck survive TARGET`: the ties of a model against the operations of its life."""

from __future__ import annotations

import sys
from typing import Any

import click

from tiecheck.cli.check import command as check
from tiecheck.cli.check import stdout_to_stderr, write_reports
from tiecheck.cli.settings import codes_option, formats_option
from tiecheck.cli.streams import PlainCommand
from tiecheck.errors import MissingExtraError, UsageError

SHARED: list[click.Parameter] = [p for p in check.params if p.name in ("trust_remote_code", "output_file", "color")]
"""Options that are those of `check`."""


@click.command(
    "survive",
    cls=PlainCommand,
    short_help="Put a model through life's operations: which ties survive which.",
    params=SHARED,
)
@click.argument("target", required=False)
@click.option("--load", is_flag=True, help="Load a directory's weights; otherwise its class is built small, at random.")
@codes_option(
    "--operations",
    about="Only these operations or families, with commas, and judge them: a tie that one breaks is a finding.",
    metavar="NAMES",
)
@click.option("--list", "list_", is_flag=True, help="List the operations and exit.")
@formats_option("text, json, markdown or html.")
@click.option("-q", "--quiet", is_flag=True, help="No progress on standard error.")
@click.option("-v", "--verbose", is_flag=True, help="Also what was skipped and why, and each operation as code.")
def command(
    target: str | None, operations: tuple[str, ...], formats: tuple[str, ...], *, list_: bool, **options: Any
) -> None:
    """Put the ties of TARGET through the operations of a model's life, each on a fresh instance, and show a table.

    TARGET is a model directory or `module:attribute`. The class of a directory is built from its config, with two
    layers and few words; --load takes the real model. The model and its files are not changed.

    Exit status: 0 the table is there, whatever it shows; 1 an operation that --operations names broke a tie or lost
    values; 2 there is no model to be had.
    """
    from tiecheck.render.reports import SURVIVALS, Style, parse_outputs

    outputs = parse_outputs(formats, options["output_file"], SURVIVALS)
    registry = _registry()
    if list_:
        from tiecheck.render.lines import Line, write_lines

        shown = (f"{one.name:<30}{one.family:<14}{one.words}" for one in registry.chosen_operations(operations))
        write_lines([Line(text, 0, 6) for text in shown], None, sys.stdout)
        return
    if target is None:
        raise UsageError("a TARGET is wanted, or --list")
    registry.chosen_operations(operations)
    found = _matrix(target, operations, options)
    write_reports(found, outputs, Style(verbose=options["verbose"], color=options["color"]), SURVIVALS)
    sys.exit(_judged(found) if operations else 0)


def _registry() -> Any:
    try:
        from tiecheck.guard.operations import registry
    except ImportError as error:
        raise MissingExtraError("Putting a model through operations", "live") from error
    return registry


def _matrix(target: str, names: tuple[str, ...], options: dict[str, Any]) -> Any:
    from tiecheck.guard.life_targets import live_model_of
    from tiecheck.guard.survival import survive_operations

    show = not options["quiet"] and sys.stderr.isatty()
    with stdout_to_stderr():
        model = live_model_of(target, load=options["load"], trust=options["trust_remote_code"])
        told = (lambda name: click.echo(f"\r\x1b[K{name}", err=True, nl=False)) if show else None
        found = survive_operations(model, operations=names, progress=told)
    if show:
        click.echo("\r\x1b[K", err=True, nl=False)
    return found._replace(target=f"{target}  {found.target}")


def _judged(found: Any) -> int:
    """Judge operations that were named; tell the findings on standard error, and return the exit status."""
    from tiecheck.guard.survival import judge_survival

    report = judge_survival(found)
    for finding in report.findings:
        click.echo(f"{finding.code} {finding.severity}: {finding.message}", err=True)
    return 1 if report.findings else 0
