"""The facts of the used layer: what a forward pass reads; torch is imported late."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tiecheck.config.options import Config
from tiecheck.facts.registry import fact
from tiecheck.records.words import Unknown

if TYPE_CHECKING:
    from tiecheck.live.build import Built
    from tiecheck.records.uses import Uses


@fact
def uses(built: Built, tracing: Config) -> Uses | Unknown:
    """Uses of each parameter in a forward pass, traced on meta."""
    from tiecheck.trace.inputs import given_inputs, inputs_from_file
    from tiecheck.trace.uses import trace_uses

    given = tracing.inputs
    inputs = inputs_from_file(given) if isinstance(given, str) else None if given is None else given_inputs(given)
    return trace_uses(built.module, inputs)
