"""`tiecheck compare A B`: the ties of two targets, side by side."""

from __future__ import annotations

import sys
from typing import Any

import click

from tiecheck.cli.check import command as check
from tiecheck.cli.check import turn_output_aside, write_reports
from tiecheck.cli.inspect import READING, WRITING
from tiecheck.cli.settings import settle_options
from tiecheck.cli.streams import PlainCommand
from tiecheck.config.options import Config

SHARED: list[click.Parameter] = [p for p in check.params if p.name in {*READING, *WRITING} - {"values"}]
"""Options that are those of `check`."""


@click.command(
    "compare",
    cls=PlainCommand,
    short_help="Compare the ties of two models: before and after a save, a merge.",
    params=SHARED,
)
@click.argument("before", metavar="A")
@click.argument("after", metavar="B")
@click.option(
    "--values",
    type=click.Choice(["auto", "never", "always"]),
    default="auto",
    show_default=True,
    help="Compare shapes and values too; never: ties alone; always: count every row that differs.",
)
@click.option("-v", "--verbose", is_flag=True, help="Every group and fact, of those that are the same too.")
def command(before: str, after: str, formats: tuple[str, ...], *, verbose: bool, **options: Any) -> None:
    """Compare the ties of A and B: which were lost, which were made, and what else of them differs.

    What a tie means is compared: in a declared tie one stored tensor and two equal ones are the same. Values of the
    tied tensors are compared byte by byte, one float type with another as a cast. A tiny model is compared with its
    reference by --values never, which leaves shapes and values out. Other names that one alone stores are told; they
    are no difference of ties.

    Exit status: 0 equal, 1 different, 2 one cannot be read, or something could not be compared.
    """
    from tiecheck.engine.compare import compare_targets
    from tiecheck.render.reports import COMPARISONS, Style, parse_outputs

    settled = settle_options(options, (before, after))
    config = Config(**{field: settled[field] for field in Config._fields if field in options})
    outputs = parse_outputs(formats, options["output_file"], COMPARISONS)
    with turn_output_aside(config, (before, after)):
        found = compare_targets(before, after, config)
    write_reports(found, outputs, Style(verbose=verbose, color=options["color"]), COMPARISONS)
    sys.exit({True: 0, False: 1, None: 2}[found.equal])
