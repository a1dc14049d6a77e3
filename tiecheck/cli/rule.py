"""`tiecheck rule [CODE|TEXT]`: explain a rule, or find the rules behind a message."""

from __future__ import annotations

import sys

import click

from tiecheck.cli.streams import PlainCommand, complete_codes


@click.command("rule", cls=PlainCommand, short_help="Explain a rule, or find the rules behind a pasted message.")
@click.argument("text", required=False, nargs=-1, shell_complete=complete_codes, metavar="[CODE|TEXT]")
@click.option("-f", "--output-format", type=click.Choice(["text", "json"]), default="text", help="text or json.")
def command(text: tuple[str, ...], output_format: str) -> None:
    """Explain the rule of a CODE or a name; or tell which rules a pasted message, or a symptom in words, leads to.

    Of a message it says first when it is harmless. Without a word all rules are listed.
    """
    from tiecheck.render.lines import write_lines
    from tiecheck.render.rules import found_lines, list_lines, rules_document
    from tiecheck.rules.registry import FoundRules, all_rules, code_rules

    asked = " ".join(text).strip()
    known = code_rules(asked) if asked else all_rules()
    if known:
        found = FoundRules(known, None)
    else:
        from tiecheck.rules.search import search_rules

        found = search_rules(asked)
    if output_format == "json":
        import json

        json.dump(rules_document(found), sys.stdout, indent=1)
        sys.stdout.write("\n")
        return
    lines = found_lines(found) if asked else list_lines()
    write_lines(list(lines), None, sys.stdout)
