"""The base of every rule: one small class that carries its code, its text, what it needs and its own cases.

`check` names the facts it wants as parameters and gets them by name (a name that is no fact's is an error when the
class is made); the engine skips the rule, with the reason, where one cannot be had. It yields drafts, or an `Unknown`
where the facts are there and do not tell. Tests, `tiecheck rule`, the docs page and the JSON rule list all come from
the class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from tiecheck.facts.registry import wanted_facts
from tiecheck.records.edits import Edit
from tiecheck.records.loaders import LoaderView
from tiecheck.records.record import Record
from tiecheck.records.report import Confidence, Location, Severity
from tiecheck.records.words import Unknown

if TYPE_CHECKING:
    from tiecheck.facts.registry import FactName


class Draft(Record):
    """A finding before the engine adds what every finding of its rule shares."""

    message: str
    """The sentence on what is wrong, with the figures, in one to three sentences."""
    names: tuple[str, ...]
    """The members it is about."""
    locations: tuple[Location, ...]
    """The evidence, the primary place first."""
    help: str = ""
    """Words for a reader beside the edits, which tell themselves what they do."""
    severity: Severity | None = None
    """Another severity than the rule's default."""
    confidence: Confidence | None = None
    """Another confidence than the rule's default."""
    hurts: tuple[LoaderView, ...] | None = None
    """The loaders that are hurt; None for a finding that hurts whoever loads it.

    With `--for`, a finding that hurts only others becomes a note.
    """
    edits: tuple[Edit, ...] = ()
    """Alternative fixes as data; those that do not fit the config are left out."""
    no_mend: str = ""
    """Reason why no change of these files mends it, as a sentence; told where there are no edits."""


Role = Literal["primary", "related"]


def file_place(
    path: str, note: str, role: Role = "primary", *, line: int | None = None, column: int | None = None
) -> Location:
    """Return a file of the target as evidence, with the 1-based line and column where it has lines."""
    return Location(path, line, column, role, note, "file")


def class_place(name: str, note: str) -> Location:
    """Return a class of the model as the primary evidence."""
    return Location(name, None, None, "primary", note, "class")


def tensor_place(name: str, note: str) -> Location:
    """Return a tensor, by its name, as the primary evidence."""
    return Location(name, None, None, "primary", note, "tensor")


class Case(Record):
    """One situation a rule must find, or must leave alone. Each becomes a test."""

    title: str
    """The situation in words."""
    facts: Mapping[str, Any]
    """The facts by name, as the engine would hand them over."""
    finds: tuple[Severity, ...] = ()
    """The severities of the findings that must come; empty for a case that must stay silent."""
    unknown: bool = False
    """True where the rule must say that it cannot tell."""


class Rule:
    """Base of every rule. A subclass's docstring is its text, under the headings of `SECTIONS`."""

    code: ClassVar[str]
    """`TIE` and three digits; the first digit is the family. Never reused."""
    name: ClassVar[str]
    """The bad pattern in words: the class's own name, `TrainedHeadDiscarded` as `trained-head-discarded`."""
    summary: ClassVar[str]
    """One line: what it finds."""
    severity: ClassVar[Severity]
    confidence: ClassVar[Confidence] = "high"
    messages: ClassVar[tuple[str, ...]] = ()
    """Texts that people see when they have this problem, as the libraries print them."""
    threads: ClassVar[str] = ""
    """Places where it was met, a blank between them: `owner/repository#number` or an address."""

    needs: ClassVar[tuple[FactName, ...]]
    """Names of the facts `check` asks for, read off its parameters."""

    def __init_subclass__(cls) -> None:
        """Name the rule and read what it needs; a parameter of `check` that names no fact raises `TypeError`."""
        if "name" not in cls.__dict__:
            cls.name = "".join(f"-{c.lower()}" if c.isupper() else c for c in cls.__name__).removeprefix("-")
        cls.needs = wanted_facts(cls.check, f"rule {cls.__name__}")[1:]

    check: ClassVar[Callable[..., Iterator[Draft | Unknown]]]
    """Yield what is wrong, from the facts its parameters name. Pure: opens no file and calls no tool."""

    cases: ClassVar[Callable[[], Iterator[Case]]]
    """The rule's own valid and invalid cases."""

    @classmethod
    def text(cls) -> dict[str, str]:
        """Return the docstring by its headings, in order."""
        sections: dict[str, str] = {}
        title = ""
        for line in (cls.__doc__ or "").expandtabs().splitlines():
            stripped = line.strip()
            if stripped.startswith("## "):
                title = stripped[3:].replace("How to mend", "How to fix")
                sections[title] = ""
            elif title:
                sections[title] += line[4:].rstrip() + "\n" if line.startswith("    ") else stripped + "\n"
        return {heading: body.strip("\n") for heading, body in sections.items()}


SECTIONS = ("What it does", "Why it is bad", "How to fix it")
"""The headings every rule's docstring has."""
