"""The command line. Each command lives in a module of its own, imported when it is called."""

from __future__ import annotations

import os
import sys
from itertools import pairwise
from typing import Any

import click

from tiecheck._version import __version__
from tiecheck.cli.streams import PlainCommand, find_option, run_to_exit_status, telling_option
from tiecheck.errors import near_words

COMMANDS = {
    "check": "tiecheck.cli.check",
    "inspect": "tiecheck.cli.inspect",
    "compare": "tiecheck.cli.compare",
    "survive": "tiecheck.cli.survive",
    "fleet": "tiecheck.cli.fleet",
    "fix": "tiecheck.cli.fix",
    "baseline": "tiecheck.cli.baseline",
    "rule": "tiecheck.cli.rule",
}
"""Command -> the module that holds it as `command`."""


class LazyGroup(PlainCommand, click.Group):
    """A group that imports a command when it is called, and takes anything that looks like a target for `check`."""

    def main(self, *args: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        """Run the command line; standing alone, end the process with our exit status instead of click's."""
        run: Any = super().main
        if not standalone_mode:
            return run(*args, standalone_mode=False, **extra)
        sys.exit(run_to_exit_status(lambda: run(*args, standalone_mode=False, **extra)))

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's signature
        """Every command, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import one command."""
        if cmd_name not in COMMANDS:
            return None
        from importlib import import_module

        command = import_module(COMMANDS[cmd_name]).command
        assert isinstance(command, click.Command)  # noqa: S101  # ours, and mypy wants to know
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """A command's name wins; else a path or an option means `check`; else it is a misspelt command."""
        first = args[0]
        beside = any(os.path.lexists(word) for word in args[1:])
        typo = not _is_target(first) and (not beside or first in WORDS or bool(near_words(first, COMMANDS, 1, 0.75)))
        if first in COMMANDS or typo:
            try:
                return super().resolve_command(ctx, args)
            except click.UsageError as error:
                raise click.UsageError(
                    f"{first!r} is neither a command nor an existing path{_near(first)}", ctx
                ) from error
        for before, word in pairwise(args):
            value = before.startswith("-") and self._awaiting_option(ctx, before)
            if word in COMMANDS and not value and not os.path.lexists(word):
                raise click.UsageError(f"{word!r} is a command and comes first: tiecheck {word} ...", ctx)
        return "check", self.get_command(ctx, "check"), args

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """`tiecheck --live DIR` is `tiecheck check --live DIR`, and `tiecheck -v fix DIR` is `tiecheck fix -v DIR`."""
        own = {"--help", "-h", "--version"}
        if args and args[0].startswith("-") and args[0] not in own:
            at = self._first_word(ctx, args)
            args = ["check", *args] if at is None else [args[at], *args[:at], *args[at + 1 :]]
        return super().parse_args(ctx, args)

    def _first_word(self, ctx: click.Context, args: list[str]) -> int | None:
        """Return where the first word stands that is neither an option nor the value of one; None for none."""
        option: click.Option | None = None
        for at, word in enumerate(args):
            if word == "--":
                return None
            if word.startswith("-") and len(word) > 1 and (option is None or isinstance(option.flag_value, str)):
                option = self._awaiting_option(ctx, word)
            elif option is None:
                return at
            elif word in COMMANDS and isinstance(option.flag_value, str):
                args[at - 1] += f"={option.flag_value}"  # the value that it may do without
                return at
            else:
                option = None
        return None

    def _awaiting_option(self, ctx: click.Context, word: str) -> click.Option | None:
        """Return the option, of check or else of another command, whose value is the word after this one."""
        names = [word] if word.startswith("--") else [f"-{letter}" for letter in word[1:]]
        for i, name in enumerate(names):
            option = next(filter(None, (find_option(self.get_command(ctx, of), name) for of in COMMANDS)), None)
            if option is not None and not option.is_flag:
                return option if i == len(names) - 1 else None  # `-fjson` holds its value
        return None


def _is_target(word: str) -> bool:
    return os.path.lexists(word) or any(mark in word for mark in "/\\:.")


WORDS = {
    "list-rules": "rule",
    "rules": "rule",
    "explain": "rule",
    "lint": "check",
    "scan": "check",
    "verify": "check",
    "diff": "compare",
    "show": "inspect",
    "repair": "fix",
}
"""Names of other tools for a command -> ours."""


def _near(word: str) -> str:
    near = [WORDS[word]] if word in WORDS else near_words(word, (*COMMANDS, *os.listdir()), 2)
    if word.startswith("models--"):
        return f"; as a hub model it is {word.removeprefix('models--').replace('--', '/')}"
    if not near and word.replace("-", "").isalnum():
        return f"; a hub model is written with its owner, org/{word}"
    return f"; did you mean {' or '.join(near)}?" if near else ""


@click.group(
    cls=LazyGroup,
    params=[telling_option(("--version",), "Show the version and exit.", lambda _: f"tiecheck {__version__}")],
    context_settings={
        "help_option_names": ["-h", "--help"],
        "auto_envvar_prefix": "TIECHECK",
        "max_content_width": 100,
    },
)
def cli() -> None:
    """Find broken weight tying in PyTorch models, and tell the truth about it.

    `tiecheck path/to/model` is short for `tiecheck check path/to/model`.
    """
