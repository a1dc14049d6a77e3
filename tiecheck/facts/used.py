"""The facts of the used layer: what a forward pass reads; torch is imported late."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tiecheck.config.options import Config
from tiecheck.facts.registry import fact
from tiecheck.records.words import Unknown

if TYPE_CHECKING:
    from tiecheck.live.build import Built
    from tiecheck.records.uses import TensorGradient, Uses
    from tiecheck.trace.inputs import Inputs


@fact
def traced_uses(built: Built, tracing: Config) -> Uses | Unknown:
    """Uses of each parameter in a forward pass, traced on meta."""
    from tiecheck.trace.uses import trace_uses

    return trace_uses(built.module, _inputs(tracing))


@fact
def gradients(built: Built, tracing: Config) -> tuple[TensorGradient, ...] | Unknown:
    """Gradients of tensors with several uses, and of each use, after one backward pass with real weights."""
    from tiecheck.trace.gradients import compare_gradients

    return compare_gradients(built.module, _inputs(tracing))


def _inputs(tracing: Config) -> Inputs | None:
    """Return the inputs that were asked for; None to make some up."""
    from tiecheck.trace.inputs import given_inputs, inputs_from_file

    given = tracing.inputs
    return inputs_from_file(given) if isinstance(given, str) else None if given is None else given_inputs(given)
