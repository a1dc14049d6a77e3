"""The conclusions of a check: findings, skips and errors, a target's report, and the whole.

The shape is the JSON contract `tiecheck/1`; `tiecheck/render/report.schema.json` states it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

from tiecheck.records.edits import Edit
from tiecheck.records.loaders import LoaderOutcome
from tiecheck.records.record import Record
from tiecheck.records.words import Kind

if TYPE_CHECKING:  # its records are made for a placement alone, and a start does not pay for them
    from tiecheck.records.counts import Counts
    from tiecheck.records.placement import Placement
    from tiecheck.records.scale import InitScale
    from tiecheck.records.uses import Uses

Severity = Literal["info", "warning", "error"]
SEVERITIES: tuple[Severity, ...] = ("info", "warning", "error")
"""Every severity, mildest first."""

Confidence = Literal["low", "medium", "high"]
Status = Literal["pass", "fail", "unknown", "error"]
PlaceKind = Literal["file", "class", "module", "tensor", "tool"]
"""Sort of thing that a place is: only a `file` has a path, which exists below the target or beside it."""


class Location(Record):
    """A place that bears evidence."""

    path: str
    """File relative to the target, or the target itself; for another kind the name of the thing."""
    line: int | None
    """1-based line, None where the file has none (a binary)."""
    column: int | None
    """1-based column."""
    role: Literal["primary", "related"]
    """`primary` is where a reader looks first; there is one."""
    note: str
    """Reason to look there, in a few words."""
    kind: PlaceKind
    """Sort of thing the path names: a `file` that exists, a `class`, a `module` of the model, a `tensor`, a `tool`."""


class Finding(Record):
    """A disagreement between two layers that costs somebody something."""

    code: str
    """The rule, e.g. `TIE101`."""
    name: str
    """The rule's name, e.g. `trained-head-discarded`."""
    severity: Severity
    """Gravity: info, warning or error."""
    confidence: Confidence
    """Certainty: high where identity or bytes were looked at, medium where names or config were."""
    message: str
    """Description of the problem, with the figures."""
    names: tuple[str, ...]
    """The members it is about, sorted."""
    help: str
    """Advice to fix it: the edits in words, then what no edit does."""
    fixable: bool
    """True where one of the edits is safe."""
    locations: tuple[Location, ...]
    """The evidence, the primary place first."""
    fingerprint: str
    """Stable identity: code, target and names."""
    suppressed: str | None
    """Reason why it is not counted, None where it is."""
    hurts: tuple[str, ...] | None = None
    """The loaders it hurts, with their versions; null where it hurts whoever loads it."""
    edits: tuple[Edit, ...] = ()
    """Alternative fixes as data; empty where no change of files is known to be right."""


class Skip(Record):
    """A rule whose layer was asked for and could not be had. Not a pass, not a finding."""

    code: str
    """The rule."""
    name: str
    """The rule's name."""
    reason: str
    """Reason why it could not judge."""


class Error(Record):
    """Something that kept tiecheck from doing its job."""

    code: str | None
    """The rule that crashed; None where the target could not be read."""
    message: str
    """Description of the failure, naming the file and the cause."""
    path: str | None
    """The file, where there is one."""


class TieEntry(Record):
    """One tie group as reported, every layer side by side."""

    names: tuple[str, ...]
    """The names, sorted; capped where there are very many."""
    names_total: int | None
    """Number of names there really are; null where a registered cycle makes them endless."""
    kind: Kind | None = None
    """Kind in which the names hang together in a live model; null where neither the module nor the tie table tells."""
    kind_from: Literal["live", "table"] | None = None
    """Where the kind is known from: the module itself, or how the class really builds it."""
    stored: Kind | None = None
    """Kind of the stored members, compared; null where no checkpoint was read."""
    stored_names: tuple[str, ...] = ()
    """The members a checkpoint holds, under the names of the file, sorted."""
    declared: bool | None = None
    """True where somebody says that the group is tied; null where nobody says."""
    declared_by: tuple[str, ...] = ()
    """Who says so: file and key, class attribute, or the class's default."""
    shape: tuple[int, ...] | None = None
    """Shape of a member."""
    dtype: str | None = None
    """Element type of a member, torch's word."""
    nbytes: int | None = None
    """Bytes of one member."""
    reason: str | None = None
    """Reason why something about the group is unknown."""
    rows_apart: str | None = None
    """Rows of the stored members that differ, a mark for each of at most 64 bands of them: `.` none, `1` to `9` some,
    by ninths of the largest difference, `?` not measured, a blank not compared; null where none differs or was read,
    and in a check that finds nothing."""


class AliasEntry(Record):
    """One module, with parameters, under several paths."""

    paths: tuple[str, ...]
    """The paths, sorted; capped."""
    paths_total: int | None
    """Number of paths there are; null for a cycle."""
    module: str
    """The module's class."""
    names: tuple[str, ...]
    """The parameter names the alias makes, sorted; capped."""


class View(Record):
    """The tie groups another tool reports for the same model."""

    tool: str
    """The tool."""
    algorithm: str
    """Algorithm of the tool, by the versions that have it."""
    version: str | None
    """The version that was run, null for a reproduction."""
    ran: bool
    """True where the installed tool itself was run."""
    error: str | None
    """Exception it raised, or reason why it would not come to an end or was not run."""
    groups: tuple[tuple[str, ...], ...]
    """The groups, each sorted, in the order of their first names."""
    function: str | None = None
    """Function of the tool that sees so."""
    dropped: tuple[str, ...] = ()
    """The names it leaves out when it saves, sorted."""
    says: bool | None = None
    """Answer of the tool, where all it answers is yes or no; else null."""


class Traffic(Record):
    """The traffic it took to read a remote target."""

    bytes: int
    """Bytes of the bodies that were read."""
    requests: int
    """Requests that were made, redirects and second tries included."""


class TargetReport(Record):
    """Everything about one target."""

    target: str
    """The target as it was given."""
    type: Literal["checkpoint", "module", "source", "adapter", "gguf", "onnx"]
    """Sort of thing it is."""
    status: Status
    """`pass` (checked, nothing at or above `--fail-on`), `fail`, `unknown` or `error`."""
    architecture: str | None = None
    """The model's class."""
    model_type: str | None = None
    """The config's `model_type`."""
    judged_for: tuple[str, ...] | None = None
    """The loaders that `--for` named; null for all of them."""
    layers: tuple[str, ...] = ()
    """The layers that were read: `declared`, `stored`, `live`, `used`."""
    ties: tuple[TieEntry, ...] = ()
    """The tie groups, sorted by first name."""
    aliases: tuple[AliasEntry, ...] = ()
    """Modules under several paths."""
    views: tuple[View, ...] = ()
    """Views of a live module in other tools; empty where none was looked at or they were not asked."""
    loaders: tuple[LoaderOutcome, ...] = ()
    """Outcomes of the stored groups in loaders; empty without a checkpoint."""
    findings: tuple[Finding, ...] = ()
    """Findings, sorted by code and names."""
    skips: tuple[Skip, ...] = ()
    """Rules that could not judge, with the reason."""
    errors: tuple[Error, ...] = ()
    """Errors that kept the target from being checked."""
    rules_run: tuple[str, ...] = ()
    """Codes of the rules that could judge; the JSON report leaves it out."""
    remote: Traffic | None = None
    """Traffic it took to read it; null for a local target."""
    counts: Counts | None = None
    """Parameters it has; null where that was not asked for (`check`) or cannot be told."""
    placement: Placement | None = None
    """Effects of a device map on the ties; null where no placement was asked for or it cannot be told."""
    reason: str | None = None
    """Reason why the status is `unknown`; else null."""
    scale: tuple[InitScale, ...] = ()
    """Scale of each tied matrix, predicted and measured; empty where no measurement was asked for."""
    uses: Uses | None = None
    """Uses of each parameter in a forward pass; null where that was not asked for or cannot be told."""

    def counted(self) -> tuple[Finding, ...]:
        """Return the findings that are not suppressed."""
        return tuple(f for f in self.findings if f.suppressed is None)


class Report(Record):
    """The outcome of one run over any number of targets."""

    version: str
    """tiecheck's version."""
    targets: tuple[TargetReport, ...]
    """In the order given."""
    seconds: float
    """Wall-clock time."""

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Every finding that counts, over all targets."""
        return tuple(f for t in self.targets for f in t.counted())

    @property
    def skips(self) -> tuple[Skip, ...]:
        """Every skip, over all targets."""
        return tuple(s for t in self.targets for s in t.skips)

    @property
    def errors(self) -> tuple[Error, ...]:
        """Every error, over all targets."""
        return tuple(e for t in self.targets for e in t.errors)

    def __str__(self) -> str:
        """Return the text report; the renderer is looked up by its name, whatever made the report."""
        from importlib import import_module

        return str(import_module("tiecheck.render.text").report_text(self))

    def tally(self, severity: Severity) -> int:
        """Count the findings of a severity that are not suppressed."""
        return sum(f.severity == severity for f in self.findings)


def at_least(findings: Iterable[Finding], threshold: Severity) -> bool:
    """Tell whether any finding reaches a threshold."""
    floor = SEVERITIES.index(threshold)
    return any(SEVERITIES.index(f.severity) >= floor for f in findings)


def finding_fingerprint(code: str, target: str, names: Iterable[str]) -> str:
    """Return a stable identity for a finding: code, target and sorted names, never a line number.

    Sixteen hexadecimal digits of a BLAKE2b hash; the parts are joined by NUL, which no path or name holds.
    """
    try:
        from _blake2 import blake2b  # in CPython; `hashlib` brings OpenSSL along, a fifteenth of a start
    except ImportError:
        from hashlib import blake2b
    text = "\0".join((code, target.replace("\\", "/"), *sorted(names)))
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
