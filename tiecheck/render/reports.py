"""Reports for people and machines: one file a format, and where each is written."""

from __future__ import annotations

import io
import sys
from collections.abc import Collection, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Literal, TextIO

from tiecheck.errors import UsageError, did_you_mean
from tiecheck.records.record import Record
from tiecheck.records.report import Report, Severity

if TYPE_CHECKING:
    from tiecheck.records.fleet import FleetComparison, FleetSummary, TieComparison
    from tiecheck.records.life import SurvivalMatrix

    Shown = Report | TieComparison | FleetSummary | FleetComparison | SurvivalMatrix

FORMATS = {
    name: f"tiecheck.render.{name}"
    for name in (
        "text",
        "concise",
        "json",
        "jsonl",
        "sarif",
        "github",
        "gitlab",
        "junit",
        "markdown",
        "html",
        "svg",
        "mlinter",
    )
}
"""Format -> the module whose `render(report, style, stream)` writes it."""

Detail = Literal["all", "most", "fix", "least", "name"]
"""Length of a finding for people: everything; what most want; a sentence and the fix; a sentence; the rule's name."""

FACTS = {"text": "tiecheck.render.inspect", "json": FORMATS["json"], "jsonl": FORMATS["jsonl"]}
"""The same for a report of facts alone."""

COMPARISONS = {"text": "tiecheck.render.compare", "json": FORMATS["json"]}
"""The same for two targets side by side."""

SURVIVALS = {
    "text": "tiecheck.render.survival",
    "json": FORMATS["json"],
    "markdown": "tiecheck.render.survival_markdown",
    "html": "tiecheck.render.survival_page",
}
"""The same for ties against operations."""

FLEETS = {"text": "tiecheck.render.fleet", "json": FORMATS["json"], "html": "tiecheck.render.fleet_page"}
"""The same for the summary of a fleet."""


class Style(Record):
    """The looks of a report for people."""

    quiet: bool = False
    """Only targets with findings or errors."""
    verbose: bool = False
    """Also the evidence of targets that pass."""
    strict: bool = False
    """True where a skip, or an unknown, makes the exit status 1."""
    color: Literal["auto", "always", "never"] = "auto"
    """Colours: where standard output is a terminal, always, or never."""
    fail_on: Severity = "warning"
    """The mildest severity that fails a target."""


class Output(Record):
    """One report to write."""

    format: str
    """A key of `FORMATS`."""
    file: str | None
    """The file, or None for standard output."""


def parse_outputs(
    formats: tuple[str, ...], output_file: str | None, known: Collection[str] = FORMATS
) -> tuple[Output, ...]:
    """Read what `-f FORMAT`, `-f FORMAT=FILE` and `-o FILE` ask for; the latter is for the format without a file.

    An unknown format, or two formats for standard output, raise a `UsageError`.
    """
    outputs = []
    for text in formats or ("text",):
        name, mark, file = text.partition("=")
        if name not in known:
            raise UsageError(f"there is no output format {name!r}{did_you_mean(name, known)}")
        if mark and not file:
            raise UsageError(f"-f {text} names no file after the =")
        outputs.append(Output(name, file if mark else output_file))
    if sum(output.file is None for output in outputs) > 1:
        raise UsageError("only one format can go to standard output; write the others as FORMAT=FILE")
    return tuple(outputs)


def write_report(
    report: Shown, outputs: tuple[Output, ...], style: Style, formats: Mapping[str, str] = FORMATS
) -> None:
    """Write a report in every format asked for, by the renderers of the command (format -> module).

    A file that cannot be written is a `UsageError`.
    """
    for output in outputs:
        if output.file is None:
            _write(report, formats[output.format], style, sys.stdout)
            continue
        whole = io.StringIO()  # at once, so that an interrupt leaves no half of a report
        _write(report, formats[output.format], style, whole)
        try:
            with open(output.file, "w", encoding="utf-8") as stream:
                stream.write(whole.getvalue())
        except OSError as error:
            raise UsageError(f"{output.file} cannot be written: {error.strerror or error}") from error


def _write(report: Shown, module: str, style: Style, stream: TextIO) -> None:
    import_module(module).render(report, style, stream)
