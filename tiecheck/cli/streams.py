"""The end of a command: its help, its exit status, and what is told where the output or the command itself fails."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from tiecheck.errors import OutOfTimeError, Terminated, TiecheckError, UsageError, near_words, shown

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


class ClosedStream(io.TextIOBase):
    """A standard output that was closed before we began: what is written to it is an error, as it is to a full disk."""

    def write(self, _text: str) -> int:
        """Refuse, by an `OSError`."""
        raise OSError(errno.EBADF, "it is closed")


def telling_option(names: tuple[str, ...], about: str, text: Callable[[click.Context], str]) -> click.Option:
    """Return an option that prints a text and ends the command.

    click's own `--help` and `--version` look for a translation, and every start imports `locale` for that.
    """

    def show(context: click.Context, _parameter: click.Parameter, given: bool) -> None:
        if given and not context.resilient_parsing:
            click.echo(text(context))
            context.exit()

    return click.Option(
        names, help=about, callback=show, is_flag=True, is_eager=True, expose_value=False, allow_from_autoenv=False
    )


_HELP = telling_option(("-h", "--help"), "Show this message and exit.", click.Context.get_help)


FORMS = ("json", "jsonl", "sarif", "junit", "html", "markdown", "github", "gitlab")
OPTIONS = {
    **{f"--{form}": f"-f {form}" for form in FORMS},
    "--format": "-f",
    "--output": "-o",
    "--no-color": "--color never",
    "--fix": "the command `tiecheck fix`",
    "--explain": "the command `tiecheck rule`",
}
"""Names of other tools for an option -> ours."""


def complete_codes(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the codes that begin as what was typed does, for the shell; lists with commas grow by their last word."""
    from click.shell_completion import CompletionItem

    from tiecheck.rules.registry import INDEX

    before, comma, last = incomplete.rpartition(",")
    return [CompletionItem(f"{before}{comma}{code}") for code in INDEX if code.startswith(last.upper())]


def find_option(command: click.Command | None, name: str) -> click.Option | None:
    """Return the option of a command that a word names; None where it has none."""
    options = (one for one in command.params if isinstance(one, click.Option)) if command is not None else ()
    return next((one for one in options if name in (*one.opts, *one.secondary_opts)), None)


def _command_with(context: click.Context, option: str) -> str:
    """Return another command beside this one that has an option; empty where there is none."""
    group = context.parent
    if group is None or not isinstance(group.command, click.Group):
        return ""
    names = group.command.list_commands(group)
    found = (name for name in names if find_option(group.command.get_command(group, name), option))
    return next((f"{group.command_path} {name}" for name in found), "")


class PlainCommand(click.Command):
    """A command with our `--help` and our errors, and a hint where an option is another tool's."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; an error of ours is told in its sentence, with exit status 2."""
        try:
            return super().invoke(ctx)
        except UsageError as error:
            raise click.UsageError(str(error), ctx) from error
        except TiecheckError as error:
            click.echo(f"error: {error}", err=True)
            ctx.exit(2)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse, and tell what was meant by an option that there is not."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            known = {name: name for parameter in self.get_params(ctx) for name in parameter.opts}
            known |= {name: ours for name, ours in OPTIONS.items() if ours[:1] != "-" or ours.split()[0] in known}
            typed = error.option_name
            bare = {name.lstrip("-"): ours for name, ours in known.items()}
            near = [known[typed]] if typed in known else [bare[name] for name in near_words(typed.lstrip("-"), bare)]
            elsewhere = "" if typed in known else _command_with(ctx, typed)
            hint = f"; it is an option of `{elsewhere}`" if elsewhere else f"; did you mean {near[0]}?" if near else ""
            raise click.UsageError(f"No such option: {error.option_name}{hint}", ctx) from error

    def get_help_option(self, ctx: click.Context) -> click.Option:  # noqa: ARG002  # click's signature
        """Return the option."""
        return _HELP


def run_to_exit_status(command: Callable[[], Any]) -> int:
    """Run a command line, out of click's standalone mode, and return the exit status; a sentence tells what fails."""
    try:
        try:
            status = command()
        except SystemExit as end:
            status = end.code
        sys.stdout.flush()
    except click.ClickException as error:
        return _tell(error)
    except click.Abort as stop:  # made by click of an interrupt, and of an end of input that nobody waits for here
        terminated = isinstance(stop.__cause__, Terminated)
        _say("terminated" if terminated else "interrupted")
        return 143 if terminated else 130
    except OSError as error:
        _drop_output()
        _say(f"{error.filename or 'standard output'} cannot be used: {error.strerror or error}")
        return 2
    except (Exception, OutOfTimeError) as error:  # noqa: BLE001  # no traceback, and never the 1 that means findings
        _say(f"tiecheck itself failed, please report it: {type(error).__name__}: {error}")
        return 2
    return status if isinstance(status, int) else 0


def _tell(error: click.ClickException) -> int:
    """Show a usage error as click does, its words without control characters and cut."""
    text = error.format_message()
    if not text.startswith("Usage: "):  # as the help does that answers a bare `tiecheck`
        text = shown(text)
    error.format_message = lambda: text  # type: ignore[method-assign]
    with contextlib.suppress(OSError):
        error.show()
    return error.exit_code


def _say(text: str) -> None:
    with contextlib.suppress(OSError):
        click.echo(f"Error: {shown(text)}", err=True)


def _drop_output() -> None:
    """Let what is still buffered go nowhere: the interpreter would try again at its end, and fail with 120."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
