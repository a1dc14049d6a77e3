"""The configuration file under the flags: what neither the command line nor the environment gives comes from it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import click
from click.core import ParameterSource

from tiecheck.engine.options import find_settings, read_settings
from tiecheck.errors import shown


def codes_option(*names: str, about: str, metavar: str = "CODES", complete: Any = None) -> Callable[..., Any]:
    """Return an option of codes, or of other words, that is given several times or with commas between them."""

    def split(_context: click.Context, _parameter: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
        if not all(part.strip(" ,") for part in value):
            raise click.BadParameter("an empty word names nothing")
        return tuple(code.strip() for part in value for code in part.split(",") if code.strip())

    return click.option(*names, multiple=True, callback=split, shell_complete=complete, metavar=metavar, help=about)


def formats_option(about: str) -> Callable[..., Any]:
    """Return the option of report formats, which is given several times, with `=FILE` for what is written there."""
    names = ("-f", "--output-format", "formats")
    return click.option(*names, multiple=True, metavar="FORMAT[=FILE]", help=about)


def known_number(_context: click.Context, _parameter: click.Parameter, value: float) -> float:
    """Return the number of an option, which `nan` is none of, though no range refuses it."""
    if not value >= 0:
        raise click.BadParameter("nan is no number of seconds")
    return value


def config_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--config` and `--isolated` to a command."""
    isolated = click.option("--isolated", is_flag=True, help="Look for no configuration file.")
    file = click.option(
        "--config",
        metavar="FILE",
        help="The configuration file. [default: the nearest tiecheck.toml or pyproject.toml with a [tool.tiecheck]]",
    )
    return file(isolated(command))


def settle_options(options: dict[str, Any], targets: Iterable[str]) -> dict[str, Any]:
    """Options as they count: flags, then the environment, then the configuration file, then defaults.

    The folders of targets themselves configure nothing. What is wrong in the file, and `--config` beside `--isolated`,
    raises a `UsageError`.
    """
    context = click.get_current_context()
    given = {name for name in options if context.get_parameter_source(name) not in {ParameterSource.DEFAULT, None}}
    fields = _fields(options["config"], targets, isolated=options["isolated"])
    return options | {name: value for name, value in fields.items() if name not in given}


def _fields(file: str | None, targets: Iterable[str], *, isolated: bool) -> dict[str, Any]:
    if file is not None:
        if isolated:
            raise click.UsageError(
                "--isolated looks for no configuration file, and --config names one; give one of them"
            )
        settings = read_settings(file)
        return settings.fields if settings else {}
    if isolated:
        return {}
    settings, passed = find_settings(targets)
    if passed:
        name = shown(passed)
        click.echo(f"{name} lies in the model's own folder and configures nothing; --config {name} reads it", err=True)
    return settings.fields if settings else {}
