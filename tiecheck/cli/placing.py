"""The options of the gate before `device_map=`: what a model is going to be placed by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
from click.core import ParameterSource

from tiecheck.config import PLACING

OPTIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    (
        "--device-map",
        {
            "metavar": "MAP",
            "help": "Judge this placement: auto, balanced, balanced_low_0, sequential, a device (cpu, cuda:1, 0), or a "
            "JSON file of module to device. Implies --live.",
        },
    ),
    (
        "--max-memory",
        {
            "multiple": True,
            "metavar": "DEVICE=SIZE",
            "help": "The memory of a device: 0=10GiB, cpu=30GiB, disk=1000GB; repeatable. No such device has to be "
            "here. [default: what this machine has]",
        },
    ),
    (
        "--dtype",
        {"metavar": "TYPE", "help": "The element type to plan for, as bfloat16. [default: the one it is loaded in]"},
    ),
    (
        "--no-split",
        {
            "multiple": True,
            "metavar": "CLASS",
            "help": "A class that must stay on one device; repeatable. [default: those that the model names]",
        },
    ),
    (
        "--hash-seeds",
        {"type": int, "metavar": "N", "help": "Plan again under N values of PYTHONHASHSEED, a process each."},
    ),
    (
        "--checkpoint",
        {"metavar": "PATH", "help": "What accelerate is going to load a `module:attribute` target with."},
    ),
)
"""Option -> what click is told of it. All but the first need it."""


class Grouped(click.Command):
    """A command whose help lists the options of a placement under a heading of their own."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, those of a placement last."""
        own: list[tuple[str, str]] = []
        others: list[tuple[str, str]] = []
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx) if isinstance(parameter, click.Option) else None
            if record is not None:
                (own if parameter.name in PLACING else others).append(record)
        for title, records in (("Options", others), ("Placement, the gate before device_map", own)):
            with formatter.section(title):
                formatter.write_dl(records)


def placing_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a placement to a command."""
    for name, words in reversed(OPTIONS):
        command = click.option(name, **words)(command)
    return command


def settle_placing(settled: dict[str, Any]) -> dict[str, Any]:
    """The options of a placement read: those that were typed, over those that a configuration file gave.

    Args:
        settled: What `settle` made of the options of the current command.

    Raises:
        UsageError: One of them is wrong, or there is no `--device-map` to the others.
    """
    context = click.get_current_context()
    fields = [field for field in PLACING if field in settled and field != "device_map_from"]
    typed = [field for field in fields if context.get_parameter_source(field) not in {ParameterSource.DEFAULT, None}]
    left = {field: settled[field] or None for field in fields if field not in typed}
    left["hash_seeds"] = left.get("hash_seeds") or 0
    if not typed:
        return settled | left
    from tiecheck.placing_options import need_map, read_placing

    found = settled | left | read_placing({field: settled[field] for field in typed}, _option, text=True)
    need_map(found, typed, _option)
    return found


def _option(field: str) -> str:
    return f"--{field.replace('_', '-')}"
