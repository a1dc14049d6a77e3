"""tiecheck's word on one cell held against what transformers 5 and 4.57 made of it, group by group.

Whether an error or warning has its own ground is told from the files and the libraries, never from tiecheck's facts:
`declared` comes from building the class on meta, `stored` from the tensors themselves.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from loading import stored_tensors

from tiecheck.config.options import Config
from tiecheck.engine.run import judge_facts
from tiecheck.facts.opening import facts_of
from tiecheck.records.loaders import LoaderView
from tiecheck.records.report import Finding, TargetReport
from tiecheck.records.words import Unknown
from tiecheck.stored.groups import any_layer
from tiecheck.targets.parse import parse_target

ASK = Config(select=("TIE1", "TIE2"), judge_for=("transformers",))
"""What is asked of tiecheck: the rules on files, for the two loaders that were run."""

HURTS = {"head-random", "embedding-random", "head-discarded", "crash"}
"""The outcomes of `loading.py` that cost somebody something."""

GENERAL = {"member-discarded": {"head-discarded"}, "member-random": {"head-random", "embedding-random"}}
"""The matrix's word for a group without a head -> the words `loading.py` has for it."""

Pair = list[str]
"""An outcome of `loading.py` and its detail."""

NAME = re.compile(r"\b[A-Za-z_]\w*(?:\.\w+)+\b")


class Group(NamedTuple):
    """One group of a cell, and all that is known of it without tiecheck."""

    names: tuple[str, ...]
    """The names of the class."""
    known_as: frozenset[str]
    """The names of the class and of the file."""
    declared: bool
    """Whether the class, built on meta from the config of the cell, has them as one parameter."""
    alike: bool | None
    """Whether the stored members are equal in shape, dtype and bytes; None where fewer than two are stored."""
    form: bool
    """Whether the stored members have one shape and dtype."""
    five: Pair
    """What transformers 5 makes of it; the outcome is `unknown` where that could not be told."""
    four: Pair
    """The same of 4.57."""


class Word(NamedTuple):
    """How tiecheck did on one group, in one column of the table."""

    column: str
    """`5` and `4.57` for the matrix, `verdict` for findings and status."""
    word: str
    """`right`, `unknown`, `wrong`, or `no truth` where the library itself could not be asked."""
    why: str
    """The reason of an unknown, or what is wrong."""


def words_on(
    path: Path,
    groups: list[dict[str, Any]],
    five: list[Pair],
    four: list[Pair],
    declared: Iterable[tuple[str, ...]],
    *,
    split_flags: bool,
    twin: Path | None = None,
) -> Iterator[Word]:
    """How tiecheck does on a directory.

    Args:
        path: The directory that is judged.
        groups: Its groups, as `loading.py` reads them.
        five: What transformers 5 makes of each.
        four: What 4.57 makes of each.
        declared: The names that are one parameter in the class as built from the config.
        split_flags: Whether the flags of its config differ from level to level.
        twin: The small directory that was loaded in its stead, where that is another.
    """
    target = parse_target(str(path))
    facts = facts_of(target, ASK)
    report = judge_facts(target, facts, ASK)
    views = facts.get("loaders")
    embedding = facts.get("architecture").embedding
    tensors = stored_tensors(twin or path)
    held = [_group(g, tensors, a, b, list(declared)) for g, a, b in zip(groups, five, four, strict=True)]
    for versions in ("5", "4.57"):
        said = {} if isinstance(views, Unknown) else {frozenset(v.names): v for v in views if v.versions == versions}
        blind = views.reason if isinstance(views, Unknown) else "the group is not in the report"
        crash = any(view.outcome == "crash" for view in said.values())
        for group in held:
            yield _matrix(versions, group, said.get(frozenset(group.names)), blind, embedding, crash=crash)
    for group in held:
        yield _verdict(
            report, group, _blind(() if isinstance(views, Unknown) else views, group), split_flags=split_flags
        )
    for error in report.errors:
        yield Word("verdict", "wrong", f"error: {error.message}")


def _group(
    plain: dict[str, Any],
    tensors: dict[str, torch.Tensor],
    five: Pair,
    four: Pair,
    declared: list[tuple[str, ...]],
) -> Group:
    there = [tensors[name] for name in dict.fromkeys(plain["stored"].values()) if name in tensors]
    form = len({(t.shape, t.dtype) for t in there}) < 2
    return Group(
        names=tuple(plain["names"]),
        known_as=frozenset((*plain["names"], *plain["stored"].values())),
        declared=any(set(plain["names"]) <= set(members) for members in declared),
        alike=None if len(there) < 2 else form and all(torch.equal(there[0], t) for t in there[1:]),
        form=form,
        five=five,
        four=four,
    )


def _matrix(
    versions: str, group: Group, view: LoaderView | None, blind: str, embedding: str | None, *, crash: bool
) -> Word:
    outcome, detail = group.five if versions == "5" else group.four
    if outcome == "unknown":
        return Word(versions, "no truth", detail)
    if view is None or view.outcome == "unknown":
        return Word(versions, "unknown", plain_reason((view.message if view else blind) or "no reason was given"))
    fits = GENERAL.get(view.outcome, {view.outcome})
    if {view.outcome, outcome} == {"head-random", "embedding-random"}:  # OpenAI GPT's source is its head
        fits = {outcome} if (view.outcome == "embedding-random") == (embedding in detail.split(",")) else fits
    if outcome in fits or (outcome == "crash" and crash):
        return Word(versions, "right", "")
    return Word(versions, "wrong", f"{group.names[:4]}: {view.outcome}, and it is {outcome} ({detail[:200]})")


def plain_reason(text: str) -> str:
    """A reason with the names taken out, so that it can be counted."""
    return NAME.sub("NAME", text)


def _blind(views: Iterable[LoaderView], group: Group) -> dict[str, str]:
    """The versions whose outcome for a group is not known -> the reason."""
    return {v.versions: v.message for v in views if v.outcome == "unknown" and v.message and v.names == group.names}


def _verdict(report: TargetReport, group: Group, blind: dict[str, str], *, split_flags: bool) -> Word:
    asked = {version: pair[0] for version, pair in (("5", group.five), ("4.57", group.four)) if pair[0] != "unknown"}
    hurt = [version for version, outcome in asked.items() if outcome in HURTS]
    mine = [f for f in report.findings if f.severity != "info" and _is_about(f, group)]
    for finding in mine:
        for version in asked.keys() - set(hurt):
            if f"transformers {version}" in (finding.hurts or ()):
                return Word("verdict", "wrong", f"{finding.code} says that it hurts {version}: {_both(group)}")
    if hurt:
        told = mine or any(f.code == "TIE108" and f.severity == "error" for f in report.findings)
        return Word("verdict", "right", "") if told else _silent(report, group, blind, hurt)
    if not asked:
        return Word("verdict", "no truth", group.five[1])
    groundless = [f for f in mine if not has_ground(f, group, split_flags=split_flags)]
    if groundless:
        return Word("verdict", "wrong", f"{groundless[0].code} ({groundless[0].severity}) for nothing: {_both(group)}")
    reason = unclear(report, group) if report.status == "unknown" and not mine else None
    return Word("verdict", "unknown", reason) if reason else Word("verdict", "right", "")


def _silent(report: TargetReport, group: Group, blind: dict[str, str], hurt: list[str]) -> Word:
    """The word on a group of which something is lost, where no error and no warning says so."""
    reason = unclear(report, group)
    if reason is None and all(version in blind for version in hurt):
        reason = plain_reason(blind[hurt[0]])
    return Word("verdict", "unknown", reason) if reason else Word("verdict", "wrong", f"silent: {_both(group)}")


def _both(group: Group) -> str:
    five, four = (f"{outcome} ({detail[:120]})" for outcome, detail in (group.five, group.four))
    return f"{group.names[:4]}: 5 makes it {five}, 4.57 {four}"


def _is_about(finding: Finding, group: Group) -> bool:
    """Whether a finding is about a group; a prefix before every name is about all of them."""
    return finding.code == "TIE205" or not group.known_as.isdisjoint(finding.names)


def has_ground(finding: Finding, group: Group, *, split_flags: bool) -> bool:
    """Whether an error or warning on a group that both libraries load well has a ground of its own."""
    differ, hurts = group.alike is False, finding.hurts or ()
    split = {group.five[0], group.four[0]} == {"tied", "kept-apart"}
    only_four = group.four[0] == "unknown" and "transformers 4.57" in hurts and "transformers 5" not in hurts
    return {
        "TIE101": group.declared and differ and group.form,
        "TIE103": finding.severity == "warning" and (split_flags or split),
        "TIE108": group.declared and not group.form,
        "TIE109": not group.declared and group.alike is True,
    }.get(finding.code, False) or only_four


def unclear(report: TargetReport, group: Group) -> str | None:
    """Why tiecheck says that it cannot tell, where it says so of this group."""
    entry = next((e for e in report.ties if not group.known_as.isdisjoint(e.names)), None)
    entry = entry or next((e for e in report.ties if any_layer(e.names) == any_layer(group.names)), None)
    if entry is not None and entry.reason and (entry.declared is None or entry.stored == "unknown"):
        return plain_reason(entry.reason)
    for skip in report.skips:
        if entry is None or any(name in skip.reason for name in group.known_as):
            return plain_reason(skip.reason)
    return None
