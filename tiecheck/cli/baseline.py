"""`tiecheck baseline TARGET...`: accept today's findings, so that only new ones fail."""

from __future__ import annotations

import sys
from typing import Any

import click

from tiecheck.cli.check import command as check
from tiecheck.cli.check import turn_output_aside
from tiecheck.cli.inspect import READING
from tiecheck.cli.settings import settle_options
from tiecheck.cli.streams import PlainCommand
from tiecheck.config.options import PLACING, Config
from tiecheck.engine.run import assemble_report, run
from tiecheck.errors import shown
from tiecheck.wording import counted

JUDGING = ("select", "ignore", "judge_for", "fail_on")
"""Options that say what a finding is."""

SHARED: list[click.Parameter] = [p for p in check.params if p.name in ("targets", *READING, *JUDGING)]
"""Options that are those of `check`."""


@click.command(
    "baseline", cls=PlainCommand, short_help="Accept today's findings: only new ones fail from then on.", params=SHARED
)
@click.option(
    "-o", "--output-file", metavar="FILE", default="tiecheck-baseline.json", show_default=True, help="Write it there."
)
def command(targets: tuple[str, ...], output_file: str, **options: Any) -> None:
    """Judge TARGETs as `check` does and write what fails them to a file, which `check --baseline FILE` accepts.

    An entry is a rule, a target and its names, never a line. Those that fit nothing any more are found (TIE901).

    Exit status: 0 written, 2 a target could not be judged, and nothing is written.
    """
    from tiecheck.engine.suppressions import baseline_text

    settled = settle_options(options, targets)
    fields = [f for f in Config._fields if f in settled and f not in (*PLACING, "baseline")]
    config = Config(**{field: settled[field] for field in fields})
    with turn_output_aside(config, targets):
        report = assemble_report(run(targets, config))
    for told in report.errors:
        click.echo(f"error: {shown(told.message)}", err=True)
    if report.errors:
        sys.exit(2)
    text = baseline_text(report, config)
    try:
        with open(output_file, "w", encoding="utf-8") as stream:
            stream.write(text)
    except OSError as error:
        raise click.UsageError(f"{output_file} cannot be written: {error.strerror or error}") from error
    found, judged = counted(text.count('"fingerprint"'), "finding"), counted(len(report.targets), "target")
    click.echo(f"{output_file}: {found} accepted, of {judged}")
    click.echo(f"check with --baseline {output_file}, and only what is new fails", err=True)
