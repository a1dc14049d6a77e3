"""The options of the gate before `device_map=` once one of them is given, and their place in the help."""

from __future__ import annotations

from typing import Any

import click
from click.core import ParameterSource

from tiecheck.config.options import PLACING
from tiecheck.placement.asked.options import need_map, read_placing


def write_options(command: click.Command, context: click.Context, formatter: click.HelpFormatter) -> None:
    """Write the options of a command, those of a placement last and under a heading of their own."""
    own: list[tuple[str, str]] = []
    others: list[tuple[str, str]] = []
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context) if isinstance(parameter, click.Option) else None
        if record is not None:
            (own if parameter.name in PLACING else others).append(record)
    for title, records in (("Options", others), ("Placement, the gate before device_map", own)):
        with formatter.section(title):
            formatter.write_dl(records)


def settle_placing(settled: dict[str, Any]) -> dict[str, Any]:
    """Read the options of a placement: those that were typed, over those of a configuration file (`settle_options`).

    One that is wrong, or has no `--device-map` to it, raises a `UsageError`.
    """
    context = click.get_current_context()
    fields = [field for field in PLACING if field in settled and field != "device_map_from"]
    typed = [field for field in fields if context.get_parameter_source(field) not in {ParameterSource.DEFAULT, None}]
    left = {field: settled[field] or None for field in fields if field not in typed}
    left["hash_seeds"] = left.get("hash_seeds") or 0
    found = settled | left | read_placing({field: settled[field] for field in typed}, _option, text=True)
    need_map(found, typed, _option)
    return found


def _option(field: str) -> str:
    return f"--{field.replace('_', '-')}"
