"""The facts for people: what is really tied first, then what is said, stored, counted and seen. Made for 80 columns."""

from __future__ import annotations

from collections.abc import Iterator
from math import log
from typing import TYPE_CHECKING, TextIO

from tiecheck.peers.views.registry import compare_view
from tiecheck.records.counts import Counts
from tiecheck.records.report import Report, TargetReport, TieEntry, View
from tiecheck.records.uses import Use, Uses, is_plain, names_not_taken
from tiecheck.records.words import HURTS, TIED
from tiecheck.render.lines import NAMES_SHOWN, Line, cut_text, first_names, write_lines
from tiecheck.render.reports import Style
from tiecheck.render.text import STORED, more_names_text, traffic_text
from tiecheck.wording import counted

if TYPE_CHECKING:
    from tiecheck.records.scale import InitScale

GROUPS_SHOWN = 12
"""Tie groups and aliases listed for a target; some detection models have hundreds."""
LABEL = 10
"""Columns of the word before each fact of a group."""

TONES = {"same": "green", "misses": "yellow", "more": "yellow", "differs": "yellow", "raises": "magenta"}
"""The word for a view -> its colour."""

COUNTED = {"unique": "each memory once", "objects": "each Parameter once", "expected": "if every declared tie held"}
"""The ways of counting, in the order of the table."""


def render(report: Report, style: Style, stream: TextIO) -> None:
    """Write the facts as text."""
    lines: list[Line] = []
    for target in report.targets:
        if lines:
            lines.append(Line(""))
        lines += _target(target, style)
    write_lines(lines, style, stream)


def _target(target: TargetReport, style: Style) -> Iterator[Line]:
    of = f"  {target.architecture}" if target.architecture else ""
    yield Line(f"{target.target}{of}", 0, 2, "bold", len(target.target))
    if target.layers:
        yield Line(f"{target.type}; read: {', '.join(target.layers)}", 2, 0, "dim")
    if target.remote:
        yield Line(traffic_text(target.remote), 2, 0, "dim")
    for error in target.errors:
        yield Line(f"error: {error.message}", 2, 2, "bold magenta", 5)
    if target.layers:
        yield from _ties(target, style)
    yield from _aliases(target, style)
    if target.counts:
        yield from _counts(target.counts)
    if target.uses:
        yield from _uses(target.uses, style)
    for scale in target.scale:
        yield from _scale(scale)
    if target.views:
        yield from _views(target, style)
    if target.loaders:
        yield from _loaders(target, style)


def _rest(total: int, shown: int, what: str) -> Iterator[Line]:
    if total > shown:
        yield Line(f"and {total - shown:,} more {what} (-v shows them)", 2, 0, "dim")


def _ties(target: TargetReport, style: Style) -> Iterator[Line]:
    yield Line("ties" if target.ties else "no tie group", 0, 0, "bold")
    shown = len(target.ties) if style.verbose else GROUPS_SHOWN
    for tie in target.ties[:shown]:
        mark = " = " if tie.kind in TIED or (tie.kind is None and tie.declared) else ", "
        names = tie.names if style.verbose else tie.names[:NAMES_SHOWN]
        yield Line(f"{mark.join(names)}{'' if len(names) == tie.names_total else more_names_text(tie)}", 2, 2)
        for label, text in tie_facts(tie):
            yield Line(f"{label:<{LABEL}}{text}", 4, LABEL, "dim", LABEL)
    yield from _rest(len(target.ties), shown, "groups")


def tie_facts(tie: TieEntry) -> Iterator[tuple[str, str]]:
    """Yield what each layer says of a group, under the layer's name."""
    if tie.kind and tie.kind_from == "live":
        yield "live", tie.kind if tie.kind in TIED or tie.kind in ("absent", "unknown") else f"{tie.kind}, not tied"
    elif tie.kind:
        yield "class", f"{tie.kind}, as the class builds it when it ties"
    if tie.declared is not None:
        by = f", by {', '.join(tie.declared_by)}" if tie.declared_by else ""
        yield "declared", f"{'tied' if tie.declared else 'not tied'}{by}"
    if tie.stored == "absent":
        yield "stored", f"once, as {tie.stored_names[0]}" if tie.stored_names else "under no name that is known"
    elif tie.stored:
        how = STORED.get(tie.stored, tie.stored)
        yield "stored", f"{len(tie.stored_names)} times, {how}: {', '.join(tie.stored_names[:NAMES_SHOWN])}"
    if tie.shape is not None:
        size = "" if tie.nbytes is None else f", {tie.nbytes:,} bytes"
        yield "tensor", f"{tie.dtype} {list(tie.shape)}{size}"
    if tie.reason:
        yield "because", tie.reason


def _aliases(target: TargetReport, style: Style) -> Iterator[Line]:
    if not target.aliases:
        return
    yield Line("modules under several paths", 0, 0, "bold")
    shown = len(target.aliases) if style.verbose else GROUPS_SHOWN
    for alias in target.aliases[:shown]:
        paths = alias.paths if style.verbose else alias.paths[:NAMES_SHOWN]
        rest = None if alias.paths_total is None else alias.paths_total - len(paths)
        tail = " and endlessly many more (a cycle)" if rest is None else f" and {rest:,} more" if rest else ""
        yield Line(f"{' = '.join(path or '(the model)' for path in paths)}{tail}  {alias.module}", 2, 2)
    yield from _rest(len(target.aliases), shown, "modules")


def _uses(found: Uses, style: Style) -> Iterator[Line]:
    """Yield what reads each tensor: those of several uses or names, tables, heads and the unread; `-v` all."""
    yield Line(f"uses: what a forward pass on {'; '.join(found.inputs)} reads", 0, 2, "bold", 4)
    if found.stopped:
        yield Line(f"the module's own weights were run, since on meta {found.stopped}", 2, 2, "dim")
    by_names: dict[tuple[tuple[str, ...], str], list[Use]] = {}
    for use in found.uses:
        by_names.setdefault((use.names, use.held), []).append(use)
    chosen = {key: uses for key, uses in by_names.items() if style.verbose or not is_plain(uses)}
    for (names, held), uses in chosen.items():
        title = " = ".join(names[:NAMES_SHOWN]) if names else f"a tensor of elsewhere {list(uses[0].shape)}"
        yield Line(f"{title}{' (not registered)' if held == 'attribute' else ''}", 2, 2)
        for use in uses:
            how = f" by {use.op}" if use.op else ""
            scale = "" if use.scale == 1.0 else f", times {use.scale:.6g}" if use.scale is not None else ", scaled"
            via = f", as {', '.join(use.reached)}" if len(names) > 1 and use.reached else ""
            turned = ", transposed" if use.transposed else ""
            tone = "yellow" if use.role == "unread" else "dim"
            text = f"{use.role}{how}{turned}{'' if use.role in {'other', 'unread'} else scale}{via}"
            yield Line(text, 4, LABEL, tone, len(use.role))
        for name in names_not_taken(uses):
            yield Line(f"no use as {name}", 4, LABEL, "yellow", 6)
    yield from _rest(len(by_names), len(chosen), "tensors with one use")


def _scale(scale: InitScale) -> Iterator[Line]:
    """Yield what a tied matrix's scale makes of the logits: predicted for an untrained model, and measured."""
    state = "looks untrained" if scale.untrained else "is not taken for untrained"
    std = "" if scale.std is None else f"; std {scale.std:.3g}, d_model {scale.width}"
    yield Line(f"scale of {' = '.join(scale.names[:NAMES_SHOWN])}: the model {state}{std}", 0, 2, "bold", 5)
    if scale.drawn:
        yield Line(f"carries {scale.drawn}", 2, 2, "dim")
    rows = (
        ("logits", scale.predicted, scale.measured, "standard deviation over the vocabulary"),
        ("margin", scale.predicted_margin, scale.margin, "own token's logit, less the largest other"),
        (
            "loss",
            scale.predicted_loss,
            scale.loss,
            f"of random tokens; ln({scale.vocabulary}) is {log(scale.vocabulary):.2f}",
        ),
        ("repeats", scale.predicted_sampled, scale.sampled, "chance that top-50 sampling repeats the token"),
    )
    yield Line(f"{'':<{LABEL}}predicted  measured", 2, LABEL, "dim")
    for name, predicted, measured, what in rows:
        cells = ("-" if value is None else f"{value:.3g}" for value in (predicted, measured))
        yield Line(f"{name:<{LABEL}}{next(cells):>9}  {next(cells):>8}  {what}", 2, LABEL, "dim", LABEL)
    if scale.reason:
        yield Line(scale.reason, 2, 2, "dim")


def _counts(counts: Counts) -> Iterator[Line]:
    """Yield a table with a line for each way of counting."""
    heads = ("elements", "trainable", "bytes")
    tallies = [getattr(counts, name) for name in COUNTED]
    rows = [["?" if n is None else f"{n:,}" for n in (t.elements, t.trainable, t.nbytes)] for t in tallies]
    wide = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    cells = ["  ".join(f"{word:>{width}}" for word, width in zip(row, wide, strict=True)) for row in (heads, *rows)]
    yield Line(f"{'parameters':<{LABEL + 2}}{cells[0]}", 0, 0, "bold", 10)
    for (name, what), row in zip(COUNTED.items(), cells[1:], strict=True):
        yield Line(f"{name:<{LABEL}}{row}  {what}", 2, LABEL)
    for reason in counts.reasons:
        yield Line(reason, 2, 2, "dim")


def _views(target: TargetReport, style: Style) -> Iterator[Line]:
    yield Line("views: what other tools take for tied, beside the ties above", 0, 2, "bold", 5)
    ran = {(v.tool, v.function, v.algorithm): v._replace(version=None, ran=False) for v in target.views if v.ran}
    before = ""
    for view in target.views:
        if not view.ran and ran.get((view.tool, view.function, view.algorithm)) == view:
            continue  # the tool itself says the same
        word, detail = _seen(target, view, style)
        title = f"{view.tool} {view.version if view.ran else view.algorithm}"
        what = f" {view.function}" if view.function else ""
        drops = f"leaves out {first_names(view.dropped)}" if view.dropped else ""
        text = "; ".join(part for part in (detail, drops) if part)
        line = f"{word:<{LABEL}}{title}{what}{': ' if text else ''}{text}"
        if line != before:  # neither run nor reproduced, for one reason
            yield Line(line, 2, LABEL, TONES.get(word, "bold"), LABEL)
        before = line


def _seen(target: TargetReport, view: View, style: Style) -> tuple[str, str]:
    """Return a view in a word, and what it misses or has too much."""
    if view.error is not None:
        return "raises" if view.ran else "not run", cut_text(view.error.removeprefix("not run: "), style)
    if view.says is not None:
        return "says yes" if view.says else "says no", ""
    found = compare_view(target.ties, view)
    tied = sum(tie.kind in TIED and tie.kind_from == "live" for tie in target.ties)
    every = "" if tied == 1 else f"all {tied:,} groups"
    missed = every if len(found.missed) == tied else _listed(found.missed) if found.missed else ""
    if not found.more:
        part = f"sees {_listed(view.groups)} alone" if tied == 1 and view.groups else missed
        return ("misses", part) if found.missed else ("same", "")
    kinds = sorted({group.kind for group in found.more if group.kind})
    extra = f"{_listed(tuple(group.names for group in found.more))}, {', '.join([*kinds, 'not tied'])}"
    return ("differs", f"misses {missed or 'it'}; has {extra}") if found.missed else ("more", extra)


def _listed(groups: tuple[tuple[str, ...], ...]) -> str:
    """Return the first of some groups, and how many more there are."""
    rest = len(groups) - 1
    return first_names(groups[0], " = ") + (f" and {counted(rest, 'more group')}" if rest else "")


def _loaders(target: TargetReport, style: Style) -> Iterator[Line]:
    yield Line("loaders, and what becomes of the stored groups in each", 0, 2, "bold", 7)
    width = max(LABEL, *(len(entry.outcome) + 2 for entry in target.loaders))
    titles = [(entry.loader, entry.versions) for entry in target.loaders]
    for entry in sorted(target.loaders, key=lambda e: e.outcome not in HURTS):
        value = {None: "not written", True: "true", False: "false"}[entry.value]
        reads = f", reads {entry.reads}: {value}" if entry.reads else ""
        groups = f" ({entry.groups:,} groups)" if entry.groups > 1 else ""
        if titles.count((entry.loader, entry.versions)) > 1:  # not every group comes out alike
            groups += f" for {first_names(entry.names)}"
        message = f"; {entry.message}" if entry.message and (style.verbose or entry.outcome == "unknown") else ""
        text = f"{entry.outcome:<{width}}{entry.loader} {entry.versions}{groups}{reads}{message}"
        yield Line(text, 2, width, "yellow" if entry.outcome in HURTS else "green", width)
