"""`tiecheck rule CODE`: explain a rule."""

from __future__ import annotations

import click

from tiecheck.cli.streams import PlainCommand
from tiecheck.errors import UsageError


@click.command("rule", cls=PlainCommand, short_help="Explain a rule by its code; without a code, list them all.")
@click.argument("code", required=False)
def command(code: str | None) -> None:
    """Explain the rule CODE: what it does, why it is bad, how to mend it, the messages and threads behind it."""
    from tiecheck.render.rules import rule_list, rule_text
    from tiecheck.rules.registry import rule_of

    if code is None:
        click.echo(rule_list())
        return
    try:
        click.echo(rule_text(rule_of(code)))
    except UsageError as error:
        raise click.UsageError(str(error)) from error
