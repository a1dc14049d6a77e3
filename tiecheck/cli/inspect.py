"""`tiecheck inspect TARGET...`: the facts, and no judgement."""

from __future__ import annotations

import sys
from typing import Any

import click

from tiecheck.cli.check import command as check
from tiecheck.cli.check import turn_output_aside, write_reports
from tiecheck.cli.settings import settle_options
from tiecheck.cli.streams import PlainCommand
from tiecheck.config.options import PLACING, Config
from tiecheck.engine.run import assemble_report, inspect_targets

READING = (
    *("live", "load", "uses", "inputs", "measure", "trust_remote_code", "values", "revision", "offline", "timeout"),
    *("config", "isolated"),
)
"""Options that say how a target is read."""

WRITING = ("formats", "output_file", "color")
"""Options that say how the report is written."""

JUDGING = ("select", "ignore", "fail_on", "strict", "judge_for", *PLACING)
"""Options of judgement and of a placement, which mean nothing here."""

SHARED: list[click.Parameter] = [p for p in check.params if p.name in ("targets", *READING, *WRITING)]
"""They are those of `check`."""


@click.command("inspect", cls=PlainCommand, short_help="Show the facts about ties and judge nothing.", params=SHARED)
@click.option("-v", "--verbose", is_flag=True, help="Every group, name and loader of a long report.")
def command(targets: tuple[str, ...], formats: tuple[str, ...], *, verbose: bool, **options: Any) -> None:
    """Show what is known of TARGETs: which names are tied and how, who says so, what is stored, how many parameters.

    Of a live model (--live, --load, `module:attribute`) it also asks the installed tools what they see, each beside
    what is really there; with --uses it says which op reads which parameter, as what. The JSON report is that of
    `check`, without findings.

    Exit status: 0 the facts are there, 2 a target, or a layer that was asked for, could not be read.
    """
    from tiecheck.render.reports import FACTS, Style, parse_outputs

    settled = settle_options(options, targets)
    fields = [field for field in Config._fields if field in settled and field not in JUDGING]
    config = Config(**{field: settled[field] for field in fields})
    outputs = parse_outputs(formats, options["output_file"], FACTS)
    with turn_output_aside(config, targets):
        report = assemble_report(inspect_targets(targets, config))
    write_reports(report, outputs, Style(verbose=verbose, color=options["color"]), FACTS)
    sys.exit(2 if report.errors else 0)
