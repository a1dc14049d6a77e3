"""A rule's text, for the terminal, for the docs and as data: one source, the rule's class."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from tiecheck.render.lines import SEVERITY_TONES, Line
from tiecheck.rules.registry import FAMILIES, OTHER_SEVERITIES, FoundRules, rules_of_family

if TYPE_CHECKING:
    from tiecheck.rules.base import Rule


def rule_text(rule: type[Rule]) -> str:
    """Explain one rule, as Markdown that reads well on a terminal."""
    parts = [f"# {rule.code}: {rule.name}", f"{_first_line(rule)}", _grades(rule)]
    parts += [f"## {title}\n\n{body}" for title, body in rule.text().items()]
    if rule.messages:
        parts.append("## Messages people see\n\n" + "\n".join(f"- `{text}`" for text in rule.messages))
    if rule.threads:
        parts.append("## Where it was met\n\n" + "\n".join(f"- {thread_link(t)}" for t in rule.threads.split()))
    return "\n\n".join(parts)


def found_lines(found: FoundRules) -> Iterator[Line]:
    """Yield what a word leads to: the message with when it is harmless, then one rule in full or several in a list."""
    if found.symptom is not None:
        yield Line(f"Message: {found.symptom.says}", 0, 2, "bold", 8)
        if found.symptom.when:
            yield Line(found.symptom.when, 0, 2, "green")
        yield Line("")
    if len(found.rules) == 1:
        yield from rule_lines(found.rules[0])
    elif found.rules:
        yield from rule_rows(found.rules)
        yield Line(f"`tiecheck rule {found.rules[0].code}` explains one.", 0, 0, "dim")


def rule_lines(rule: type[Rule]) -> Iterator[Line]:
    """Yield one rule in full, rendered: headings, paragraphs, lists, and code that is never wrapped."""
    yield Line(f"{rule.code} {rule.name}", 0, 2, SEVERITY_TONES[rule.severity], len(rule.code))
    yield Line(_grades(rule), 0, 2, "dim")
    for title, body in {"": _about(rule), **rule.text()}.items():
        yield Line("")
        if title:
            yield Line(title, 0, 0, "bold")
        yield from _markdown(body)
    for title, texts in (
        ("Messages people see", [f"`{text}`" for text in rule.messages]),
        ("Where it was met", [thread_link(thread) for thread in rule.threads.split()]),
    ):
        if texts:
            yield Line("")
            yield Line(title, 0, 0, "bold")
            yield from (Line(f"- {_plain(text)}", 2, 2) for text in texts)


def _markdown(text: str) -> Iterator[Line]:
    """Yield the paragraphs, list items and code of a text."""
    for block in re.split(r"\n\s*\n", text.strip("\n")):
        lines = block.splitlines()
        if all(line.startswith("    ") for line in lines):
            yield from (Line(line[4:], 4, 0, whole=True) for line in lines)
            continue
        paragraph: list[str] = []
        for line in lines:
            if line.lstrip().startswith(("- ", "|")) and paragraph:
                yield _paragraph(paragraph)
                paragraph = []
            paragraph.append(line.strip())
        yield _paragraph(paragraph)


def _paragraph(lines: list[str]) -> Line:
    return Line(_plain(" ".join(lines)), 2, 2 if lines[0].startswith("- ") else 0)


def _plain(text: str) -> str:
    """Drop the marks of code around single words; around several they stay, to tell where the code ends."""
    return re.sub(r"`([^`\s]+)`", r"\1", text)


def _about(rule: type[Rule]) -> str:
    """Return what stands before the first heading of a rule's docstring."""
    return " ".join((rule.__doc__ or "").partition("## ")[0].split())


def _grades(rule: type[Rule]) -> str:
    """Return severity, with those that it has in some cases, and confidence in a sentence."""
    others = OTHER_SEVERITIES.get(rule.code)
    severity = f"{rule.severity} ({others} in some cases)" if others else rule.severity
    return f"Severity {severity}, confidence {rule.confidence}."


def rule_rows(rules: tuple[type[Rule], ...]) -> Iterator[Line]:
    """Yield a list of rules, two lines each."""
    for rule in rules:
        others = f" (or {OTHER_SEVERITIES[rule.code]})" if rule.code in OTHER_SEVERITIES else ""
        head = f"{rule.code}  {rule.severity:<8} {rule.name}{others}"
        yield Line(head, 0, 8, SEVERITY_TONES[rule.severity], len(rule.code))
        yield Line(rule.summary, 8, 0, "dim")


def list_lines() -> Iterator[Line]:
    """Yield every rule under its family's title."""
    for digit, (_, title) in FAMILIES.items():
        yield Line(title, 0, 0, "bold")
        yield from rule_rows(rules_of_family(digit))
        yield Line("")


def rules_document(found: FoundRules) -> dict[str, Any]:
    """Return what a word leads to as plain data."""
    symptom = found.symptom
    return {
        "symptom": None if symptom is None else {"message": symptom.says, "when": symptom.when or None},
        "rules": [
            {
                "code": rule.code,
                "name": rule.name,
                "summary": rule.summary,
                "severity": rule.severity,
                "other_severities": OTHER_SEVERITIES.get(rule.code, "").split(", ")
                if rule.code in OTHER_SEVERITIES
                else [],
                "confidence": rule.confidence,
                "needs": list(rule.needs),
                "text": rule.text(),
                "messages": list(rule.messages),
                "threads": [thread_link(thread) for thread in rule.threads.split()],
            }
            for rule in found.rules
        ],
    }


def thread_link(thread: str) -> str:
    """Return a thread's address; GitHub's short form gets its own."""
    if "#" in thread and "://" not in thread:
        repository, _, number = thread.partition("#")
        return f"https://github.com/{repository}/issues/{number}"
    return thread


def _first_line(rule: type[Rule]) -> str:
    return (rule.__doc__ or "").strip().splitlines()[0]
