"""Suppressions that take nothing back."""

from __future__ import annotations

from collections.abc import Iterator

from tiecheck.records.suppressions import Unused
from tiecheck.records.words import Unknown
from tiecheck.rules.base import Case, Draft, Rule, file_place


class UnusedSuppression(Rule):
    """A comment, an allowance or a baseline's entry is for a finding that is not there.

    ## What it does
    Finds `# tiecheck: ignore[...]` comments in sources, `[[tool.tiecheck.allow]]` of the configuration file, and
    entries of a baseline that take no finding back, where the rules they name could judge the target.

    ## Why it is bad
    What they were written for is fixed, or has another name. They would hide the next finding of that rule in that
    place.

    ## How to fix it
    Delete them; a baseline is written again by `tiecheck baseline`.
    """

    code = "TIE901"
    summary = "an ignore comment, an allowance or a baseline's entry that matches nothing"
    severity = "warning"

    def check(self, suppressions: tuple[Unused, ...]) -> Iterator[Draft | Unknown]:
        for one in suppressions:
            yield Draft(
                f"{one.what[:1].upper()}{one.what[1:]} takes nothing back: no finding fits it any more.",
                (one.what,),
                (file_place(one.path, "it stands here", line=one.line, column=1 if one.line else None),),
                no_mend="a comment or an allowance is its author's; tiecheck baseline writes one without the entry.",
            )

    @staticmethod
    def cases() -> Iterator[Case]:
        comment = Unused("the comment on line 3", "model.py", 3)
        entry = Unused("the entry for TIE101 in models/a", "tiecheck-baseline.json", None)
        yield Case("a comment and an entry", {"suppressions": (comment, entry)}, finds=("warning", "warning"))
        yield Case("all are used", {"suppressions": ()})
        yield Case("there are none", {"suppressions": ()})
