"""`tiecheck fleet SOURCE...`: many models, one table, one summary."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn

import click

from tiecheck.cli.check import command as check
from tiecheck.cli.check import write_reports
from tiecheck.cli.settings import formats_option, settle_options
from tiecheck.cli.streams import PlainCommand
from tiecheck.config.options import Config
from tiecheck.engine.run import run
from tiecheck.errors import UsageError, without_secrets
from tiecheck.wording import listed

if TYPE_CHECKING:
    from tiecheck.fleet.rows import Judged
    from tiecheck.fleet.run import Fleet, Outcome
    from tiecheck.render.reports import Output

JUDGING = ("select", "ignore", "judge_for", "fail_on", "strict", "values", "offline", "timeout")
"""Options by which each model is judged."""

SHARED: list[click.Parameter] = [
    p for p in check.params if p.name in (*JUDGING, "exit_zero", "output_file", "config", "isolated", "quiet", "color")
]
"""Options that are those of `check`."""

EVERY = 0.5
"""Seconds between two looks of the progress on a terminal; elsewhere a line comes 60 times as seldom."""


@click.command("fleet", cls=PlainCommand, short_help="Judge many models: one table, one summary.", params=SHARED)
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option("--results", metavar="FILE", help="Write a row a model and a row a finding to out.jsonl or out.parquet.")
@click.option("--resume", is_flag=True, help="Go on with the results that are there; what is unchanged is skipped.")
@click.option(
    "--engine",
    type=click.Choice(["local", "ray", "dask"]),
    default="local",
    show_default=True,
    help="Where models are judged: this machine, or a cluster.",
)
@click.option("--address", metavar="ADDRESS", help="The cluster of --engine. [default: one is started here]")
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Worker processes. [default: this one alone]")
@formats_option("text (default), json or html, the summary; jsonl, a row a model as they come; repeatable.")
def command(sources: tuple[str, ...], formats: tuple[str, ...], **options: Any) -> None:
    """Judge every model of SOURCEs, as `tiecheck MODEL` judges it, and tell how many came out how.

    A SOURCE is a directory, which is searched for models; a glob; a file with a target a line (.txt, .list, or .jsonl
    with `target`); hf://organisation; an address of a store (s3://bucket/models); or one model. `tiecheck fleet compare
    OLD NEW` tells what differs between two tables of results, with exit status 1 where something does.

    Exit status: 0 all checked and clean, 1 findings, 2 a model or a source could not be read.
    """
    from tiecheck.fleet.results import Results
    from tiecheck.fleet.rows import options_mark
    from tiecheck.fleet.run import EnginePlace, Fleet
    from tiecheck.render.reports import FLEETS, Style, parse_outputs

    if sources[0] == "compare":
        _compare(sources[1:], formats, options)
    if options["address"] and options["engine"] == "local":
        raise UsageError("--address names a cluster; give --engine ray or dask too")
    if options["resume"] and not options["results"]:
        raise UsageError("--resume goes on with results; give --results FILE too")
    settled = settle_options(options, sources)
    fields = (*JUDGING, "allow", "baseline")  # of the last two what a configuration file says
    config = Config(**{field: settled[field] for field in fields if field in settled})
    outputs = parse_outputs(formats, options["output_file"], (*FLEETS, "jsonl"))
    _check_rules(config)
    results = None
    if options["results"]:
        results = Results(options["results"], options_mark(config), resume=options["resume"])
        if results.dropped:
            click.echo(f"{results.dropped} parts of {results.path} cannot be read, and are dropped", err=True)
    place = EnginePlace(options["engine"], options["address"], options["workers"])
    told = _progress(sources, options["quiet"])
    with _rows_shown(outputs) as show:

        def seen(fleet: Fleet, judged: Judged) -> None:
            show(judged.lines)
            told(fleet)

        outcome = Fleet(sources, config, place, results, seen).run()
    summaries = tuple(output for output in outputs if output.format != "jsonl")
    write_reports(outcome.summary, summaries, Style(color=options["color"]), FLEETS)
    sys.exit(_exit_status(outcome, config, sources, exit_zero=options["exit_zero"]))


def _compare(tables: tuple[str, ...], formats: tuple[str, ...], options: dict[str, Any]) -> NoReturn:
    """Compare two tables of results, and end with 0 where they are equal, else with 1."""
    from tiecheck.fleet.results import compare_tables
    from tiecheck.render.reports import FLEETS, Style, parse_outputs

    if len(tables) != 2:
        raise UsageError("fleet compare takes two tables of results: OLD NEW (a directory of that name is ./compare)")
    outputs = parse_outputs(formats, options["output_file"], ("text", "json"))
    found = compare_tables(*tables)
    write_reports(found, outputs, Style(color=options["color"]), FLEETS)
    sys.exit(0 if found.equal else 1)


def _check_rules(config: Config) -> None:
    """Refuse wrong rules and loaders before the first model is read."""
    next(run((), config), None)


@contextlib.contextmanager
def _rows_shown(outputs: tuple[Output, ...]) -> Iterator[Callable[[bytes], None]]:
    """Give what writes the models' rows to where `-f jsonl` wants them."""
    wanted = next((output for output in outputs if output.format == "jsonl"), None)
    if wanted is None:
        yield lambda _lines: None
        return
    with contextlib.ExitStack() as stack:
        stream = sys.stdout
        if wanted.file is not None:
            try:
                stream = stack.enter_context(open(wanted.file, "w", encoding="utf-8"))
            except OSError as error:
                raise UsageError(f"{wanted.file} cannot be written: {error.strerror or error}") from error

        def show(lines: bytes) -> None:
            rows = (line for line in lines.decode().splitlines(keepends=True) if line.startswith('{"row":"model"'))
            stream.writelines(rows)
            stream.flush()

        yield show


def _progress(sources: tuple[str, ...], quiet: bool) -> Callable[[Fleet], None]:
    """Return what tells on standard error how far a run is."""
    from tiecheck.fleet.lines import count_lines

    if quiet:
        return lambda _fleet: None
    terminal = sys.stderr.isatty()
    total = count_lines(sources)
    last = time.monotonic()

    def told(fleet: Fleet) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < (EVERY if terminal else 60 * EVERY):
            return
        last = now
        done = fleet.judged + fleet.failed
        rate = done / fleet.seconds
        text = f"{done:,} judged, {fleet.tally.plain['status fail']:,} fail, {fleet.failed:,} could not be read"
        text += f", {fleet.skipped:,} skipped; {rate:,.0f} a second"
        if total and rate:
            text += f", {max(0, total - done - fleet.skipped) / rate:,.0f} s to go"
        with contextlib.suppress(OSError):
            click.echo(f"\r{text}\x1b[K" if terminal else text, err=True, nl=not terminal)

    return told


def _exit_status(outcome: Outcome, config: Config, sources: tuple[str, ...], *, exit_zero: bool) -> int:
    """Return the exit status by the rules of `check`, and say what kept the run from its end."""
    found = outcome.summary
    if outcome.stopped is not None:
        click.echo("stopped by a signal; --resume goes on", err=True)
        return 128 + outcome.stopped
    if outcome.problem is not None:
        click.echo(f"Error: {outcome.problem}", err=True)
        return 2
    if not found.run.listed:
        click.echo(f"Error: there is no model in {listed(tuple(map(without_secrets, sources)))}", err=True)
    if found.unchecked or not sum(found.status.values()):
        return 2
    blind = config.strict and (found.skips or found.status["unknown"])
    return 1 if (found.status["fail"] or blind) and not exit_zero else 0
