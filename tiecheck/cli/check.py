"""`tiecheck check TARGET...`: judge."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from tiecheck.cli.settings import codes_option, config_options, formats_option, known_number, settle_options
from tiecheck.cli.streams import PlainCommand, complete_codes
from tiecheck.config.options import LONGEST, PLACING, Config
from tiecheck.engine.run import assemble_report, run
from tiecheck.engine.status import exit_status, unjudged_contracts
from tiecheck.errors import TargetError, shown
from tiecheck.records.edits import COMMIT, WORK
from tiecheck.records.report import Report, TargetReport
from tiecheck.targets.parse import stored_models_below
from tiecheck.wording import counted

if TYPE_CHECKING:
    from tiecheck.render.reports import Output, Shown, Style


class CheckCommand(PlainCommand):
    """A command whose help lists the options of a placement apart."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, grouped."""
        from tiecheck.cli.placement import write_options

        write_options(self, ctx, formatter)


@click.command("check", cls=CheckCommand, short_help="Judge models: which names are tied, how, and what is wrong.")
@click.argument("targets", nargs=-1, required=True, metavar="TARGET...")
@click.option("--live", is_flag=True, help="Also build the class, on meta and without weights, and rehearse its load.")
@click.option("--load", is_flag=True, help="Also load the weights. Implies --live.")
@click.option("--trust-remote-code", is_flag=True, help="Let a directory's own modeling file run. Implies --live.")
@click.option("--rehearse", is_flag=True, help="Also run transformers' own from_pretrained, without reading weights.")
@click.option(
    "--python", metavar="PATH", help="Rehearse with the transformers of this interpreter. Implies --rehearse."
)
@click.option("--recursive", is_flag=True, help="Judge every model below a directory, each folder for itself.")
@click.option("--base", metavar="DIR", help="The base of an adapter. [default: the one it names, in the hub's cache]")
@click.option("--uses", is_flag=True, help="Also trace a forward pass on meta: what reads what. Implies --live.")
@click.option(
    "--inputs", metavar="FILE.py:FUNCTION", help="What that function returns is what the pass is given. Implies --uses."
)
@click.option("--target", "drafts_for", metavar="DIR", help="The model of a draft, to compare their embeddings.")
@click.option("--from", "converted_from", metavar="DIR", help="The checkpoint that a GGUF file was converted from.")
@click.option("--measure", is_flag=True, help="Also run the model and measure its logits. Implies --load and --uses.")
@codes_option("--select", about="Run these rules only (TIE1, TIE301).", complete=complete_codes)
@codes_option("--ignore", about="Leave these rules out.", complete=complete_codes)
@click.option(
    "--changed-only",
    is_flag=False,
    flag_value="HEAD",
    metavar="[REV]",
    help="Of sources, judge only the files that git says changed, since HEAD or since the branch left REV.",
)
@codes_option(
    *("--for", "judge_for"),
    about="The loaders that matter (transformers==4.57,vllm); what hurts only others becomes a note.",
    metavar="LOADERS",
)
@click.option(
    "--fail-on",
    type=click.Choice(["info", "warning", "error"]),
    default="warning",
    show_default=True,
    help="The mildest severity that makes the exit status 1.",
)
@click.option("--strict/--no-strict", help="Exit with 1 when a rule had to be skipped, or a verdict is unknown.")
@click.option("--exit-zero", is_flag=True, help="Exit with 0 in spite of findings; what cannot be checked stays 2.")
@click.option(
    "--values",
    type=click.Choice(["auto", "never", "always"]),
    default="auto",
    show_default=True,
    help="Read tensor bytes to compare stored copies; always: count every row that differs.",
)
@formats_option(
    "text (default), concise, json, jsonl, sarif, github, gitlab, junit, markdown, html, svg (pictures) or "
    "mlinter (JSON as transformers' linter has it); repeatable, with =FILE it is written there."
)
@click.option("-o", "--output-file", metavar="FILE", help="Write the report there instead of standard output.")
@click.option("--revision", metavar="REV", help="The branch, tag or commit of a hub model. [default: main]")
@click.option("--offline/--no-offline", help="Fetch nothing: a hub model comes from the local cache, or not at all.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, max=LONGEST),
    callback=known_number,
    default=300,
    show_default=True,
    metavar="SECONDS",
    help="Seconds that one target may take, what is built or loaded for it included; 0 for no end.",
)
@click.option(
    "--device-map",
    metavar="MAP",
    help="Judge this placement: auto, balanced, balanced_low_0, sequential, a device (cpu, cuda:1, 0), or a JSON file "
    "of module to device. Implies --live.",
)
@click.option(
    "--max-memory",
    multiple=True,
    metavar="DEVICE=SIZE",
    help="The memory of a device: 0=10GiB, cpu=30GiB, disk=1000GB; repeatable. No such device has to be here. "
    "[default: what this machine has]",
)
@click.option("--dtype", metavar="TYPE", help="The element type to plan for. [default: the one it is loaded in]")
@click.option(
    "--no-split",
    multiple=True,
    metavar="CLASS",
    help="A class that must stay on one device; repeatable. [default: those that the model names]",
)
@click.option(
    "--hash-seeds", type=int, metavar="N", help="Plan again under N values of PYTHONHASHSEED, a process each."
)
@click.option("--checkpoint", metavar="PATH", help="What accelerate is going to load a `module:attribute` target with.")
@click.option(
    "--cache/--no-cache",
    default=True,
    help="Of several targets, tell those that nothing has touched since from the cache of verdicts. [default: cache]",
)
@click.option("--baseline", metavar="FILE", help="Accept the findings in this file, which `tiecheck baseline` wrote.")
@config_options
@click.option("-q", "--quiet", is_flag=True, help="Only targets with findings or errors, and the last line.")
@click.option("-v", "--verbose", is_flag=True, help="Also the evidence of targets that pass.")
@click.option(
    "--color", type=click.Choice(["auto", "always", "never"]), default="auto", show_default=True, help="Colours."
)
def command(targets: tuple[str, ...], formats: tuple[str, ...], **options: Any) -> None:
    """Judge TARGETs: model directories, weights files, hub ids, addresses, sources, or `module:attribute` to build.

    A directory is read by its headers and config, and by bytes where two members of a group are stored; of a remote
    model only headers and config are fetched, and bytes with `--values always`. Nothing is imported and no code is run
    unless --live, --load, --uses, --measure, --rehearse, --trust-remote-code or --device-map asks for it.
    `module:attribute` and `file.py:attribute` run that code.

    Exit status: 0 checked and clean, 1 findings, 2 something could not be checked.
    """
    from tiecheck.render.reports import Style, parse_outputs

    style = Style(quiet=options["quiet"], verbose=options["verbose"], color=options["color"])
    settled = settle_options(options, targets)
    placing = any(settled.get(field) not in (None, ()) for field in PLACING)
    if placing:
        from tiecheck.cli.placement import settle_placing

        settled = settle_placing(settled)
    fields = [field for field in Config._fields if field in settled and (placing or field not in PLACING)]
    config = Config(**{field: settled[field] for field in fields})
    style = style._replace(strict=config.strict, fail_on=config.fail_on)
    outputs = parse_outputs(formats, options["output_file"])
    with turn_output_aside(config, targets):
        report = assemble_report(_told_progress(run(targets, config), targets, style))
    write_reports(report, outputs, style)
    if config.ties:
        for told in unjudged_contracts(report, config):
            click.echo(told, err=True)
    tell_left_fixes(targets)
    if not config.recursive:
        tell_unjudged_models(report)
    sys.exit(exit_status(report, config, exit_zero=options["exit_zero"]))


TICK = 1.0
"""Seconds between two words of progress, and before the first one."""


def _told_progress(reports: Iterable[TargetReport], targets: tuple[str, ...], style: Style) -> Iterator[TargetReport]:
    """Hand reports on, and tell a terminal on standard error what is looked at, and for how long; nothing stays."""
    if style.quiet or not (sys.stderr and sys.stderr.isatty()) or os.environ.get("TERM") == "dumb":
        yield from reports
        return
    from threading import Event, Thread

    ended, begin, count, told = Event(), time.monotonic(), 0, False

    def tell() -> None:
        nonlocal told
        while not ended.wait(TICK):
            told = True
            name = shown(targets[count])[-50:] if count < len(targets) else ""
            which = f"{count + 1}/{len(targets)} {name}" if name else f"{count} done"
            click.echo(f"\r\x1b[K{which}, {time.monotonic() - begin:.0f} s", err=True, nl=False)

    teller = Thread(target=tell, daemon=True)
    teller.start()
    try:
        for count, report in enumerate(reports, 1):  # noqa: B007  # the teller reads it
            yield report
    finally:
        ended.set()
        teller.join()
        click.echo("\r\x1b[K" if told else "", err=True, nl=False)


def tell_left_fixes(targets: tuple[str, ...]) -> None:
    """Tell on standard error of what an interrupted fix left in a directory before it changed any file of the model."""
    for target in targets:
        left = os.path.join(target, WORK)
        if os.path.isdir(left) and not os.path.exists(os.path.join(left, COMMIT)):
            click.echo(f"note: {left} is left by a fix that was interrupted; `tiecheck fix` clears it away", err=True)


def tell_unjudged_models(report: Report) -> None:
    """Tell on standard error of the models that lie below a directory of sources, which was judged as sources alone."""
    for target in report.targets:
        if target.type == "source" and os.path.isdir(target.target):
            count = 0
            with contextlib.suppress(TargetError):  # more folders than are looked at
                count = sum(1 for _ in stored_models_below(target.target))
            if count:
                below = f"{counted(count, 'model')} below {shown(target.target)} {'were' if count > 1 else 'was'}"
                click.echo(f"note: {below} not judged; --recursive judges them", err=True)


def turn_output_aside(config: Config, targets: tuple[str, ...]) -> contextlib.AbstractContextManager[None]:
    """Turn standard output aside where code that is not ours may run, since it may print."""
    if not (config.wants_live or config.wants_rehearsal) and not any(":" in text for text in targets):
        return contextlib.nullcontext()
    return stdout_to_stderr()


@contextlib.contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """Keep standard output for the report alone: what a model's code prints goes to standard error.

    The descriptor is turned as well, for what is written past `sys.stdout` (C code, child processes).
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError, ValueError, AttributeError):  # a closed stream, or one that is no file
            sys.stdout.flush()
        with contextlib.suppress(OSError):
            saved = os.dup(1)
            stack.callback(os.close, saved)
            os.dup2(2, 1)
            stack.callback(os.dup2, saved, 1)
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        yield


def write_reports(
    report: Shown, outputs: tuple[Output, ...], style: Style, formats: Mapping[str, str] | None = None
) -> None:
    """Write the reports; a reader who has seen enough (`| head`) does not change the verdict."""
    from tiecheck.render.reports import FORMATS, write_report

    try:
        write_report(report, outputs, style, formats or FORMATS)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
