"""A rule's text, for the terminal and for the docs: one source, the rule's class."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tiecheck.rules.base import Rule


def rule_text(rule: type[Rule]) -> str:
    """Explain one rule, as Markdown that reads well on a terminal."""
    parts = [
        f"# {rule.code}: {rule.name}",
        f"{_first_line(rule)}",
        f"Severity {rule.severity}, confidence {rule.confidence}. Needs: {', '.join(rule.needs)}.",
    ]
    parts += [f"## {title}\n\n{body}" for title, body in rule.text().items()]
    if rule.messages:
        parts.append("## Messages people see\n\n" + "\n".join(f"- `{text}`" for text in rule.messages))
    if rule.threads:
        parts.append("## Where it was met\n\n" + "\n".join(f"- {thread_link(t)}" for t in rule.threads))
    return "\n\n".join(parts)


def rule_list() -> str:
    """List every rule in one line each, under its family's title."""
    from tiecheck.rules.registry import FAMILIES, rules_of_family

    blocks = []
    for digit, (_, title) in FAMILIES.items():
        lines = [
            f"{rule.code}  {rule.severity:<8} {rule.name}\n        {rule.summary}" for rule in rules_of_family(digit)
        ]
        blocks.append(f"{title}\n" + "\n".join(lines))
    return "\n\n".join(blocks)


def thread_link(thread: str) -> str:
    """Return a thread's address; GitHub's short form gets its own."""
    if "#" in thread and "://" not in thread:
        repository, _, number = thread.partition("#")
        return f"https://github.com/{repository}/issues/{number}"
    return thread


def _first_line(rule: type[Rule]) -> str:
    return (rule.__doc__ or "").strip().splitlines()[0]
