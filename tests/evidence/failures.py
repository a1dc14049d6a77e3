"""The page of failures: what people met, the rule, and the test that produces it or the issue that it waits for.

`python docs/generate.py` writes docs/evidence/failures.md from failures.tsv.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "evidence" / "failures.md"


class Failure(NamedTuple):
    """One failure, or with a number for its id one trap."""

    ident: str
    title: str
    rules: str
    test: str
    waits: str

    @property
    def trap(self) -> bool:
        """True for a situation that only looks broken."""
        return self.ident.isdigit()


def read_failures() -> list[Failure]:
    """Read every failure and trap, in their order."""
    lines = (Path(__file__).with_name("failures.tsv")).read_text().splitlines()
    return [Failure(*line.split("\t")) for line in lines]


def page_text(failures: list[Failure], known: frozenset[str]) -> str:
    """Return the page; a rule that is not there yet stands in brackets.

    Args:
        failures: Failures and traps.
        known: The codes of the rules that there are.
    """
    met = [one for one in failures if not one.trap]
    found = [one for one in met if one.test]
    lines = ["# Failures that people met, and traps", ""]
    lines += [
        "`python docs/generate.py`, from tests/evidence/failures.tsv; ids are of the list behind the rules.",
        "",
    ]
    full = sum(not one.waits for one in found)
    lines += [f"{len(met)} failures: {len(found)} are produced by a test and found, {full} of them in full;"]
    lines += [f"{len(met) - len(found)} wait. Rules in brackets are reserved and not there yet.", ""]
    for title, those in (("Failures", met), ("Traps: no error, no warning", [one for one in failures if one.trap])):
        lines += [f"## {title}", "", "| id | what | rule | test | waits for |", "|---|---|---|---|---|"]
        for one in those:
            rules = " ".join(code if code in known else f"({code})" for code in one.rules.split())
            test = f"`{one.test}`" if one.test else ""
            lines.append(f"| {one.ident} | {one.title} | {rules} | {test} | {one.waits} |")
        lines.append("")
    return "\n".join(lines)
