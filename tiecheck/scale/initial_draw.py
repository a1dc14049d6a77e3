"""Tells if weights still are the draw they were initialised with: names of normalisation layers, moments of samples.

Nothing here reads a file or a module. The stored and the live half of TIE701's fact judge by the same words.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from tiecheck.records.record import Record
from tiecheck.records.scale import InitScale
from tiecheck.records.words import Unknown

MATRICES = 6
"""Weight matrices that are looked at, spread over the model."""

RUNS = 32
"""Runs of neighbouring elements that are taken from one matrix."""

RUN = 256
"""Elements in a run."""

LEAST = 256
"""A matrix with fewer elements says nothing about how it was drawn."""

DRAWN = 0.1
"""Part by which the deviation of a draw may miss the one that was asked for."""

LEVELS = 3
"""Configs in configs that are looked into."""

GAINS = ("weight", "scale", "gamma", "g")
"""Names of a normalisation layer's weight."""

OFFSETS = ("bias", "beta", "b")
"""Names of its bias."""

_TABLE = r"(?i)embed|emb\b|pos|wpe|wte|relative|rotary|token_type|shared\."  # a trained model never has it compiled
_DEVIATION = r"init.*(std|range)$"
_COMMON = (0.02, 0.01, 0.005, 0.006, 0.04, 0.05, 0.1, 1.0)


class Sample(Record):
    """Elements of one matrix, in runs of neighbours."""

    name: str
    shape: tuple[int, ...]
    """Its shape, two numbers."""
    runs: Sequence[Sequence[float]]
    """The elements: up to `RUNS` runs of up to `RUN` neighbours."""


class _Moments(Record):
    size: int
    std: float
    kurtosis: float


def is_norm_gain(name: str) -> bool:
    """Return True for the name of a normalisation layer's weight (`ln_f.weight`, `final_norm.weight`)."""
    return _is_norm(name, GAINS)


def is_norm_offset(name: str) -> bool:
    """Return True if a parameter's name is that of a normalisation layer's bias."""
    return _is_norm(name, OFFSETS)


def is_plain_matrix(name: str) -> bool:
    """Return True if a name may be that of a layer's weight matrix: no table of embeddings, no normalisation layer."""
    return name.endswith(".weight") and not re.search(_TABLE, name) and not is_norm_gain(name)


def evenly_spread(names: Sequence[str], count: int = MATRICES) -> list[str]:
    """Return at most `count` of some names, evenly spread, the first and the last among them."""
    if len(names) <= count:
        return list(names)
    return [names[i * (len(names) - 1) // (count - 1)] for i in range(count)]


def drawn_by_config(config: Mapping[str, Any], std: float, depth: int = 0) -> str | None:
    """Return the key of a config whose value is the deviation of a draw (`initializer_range`), at any level.

    A deviation that is null is not set: the class leaves its embedding at the draw of `nn.Embedding`, of 1.
    """
    for key, value in config.items():
        if isinstance(value, dict) and depth < LEVELS:
            below = drawn_by_config(value, std, depth + 1)
            if below is not None:
                return f"{key}.{below}"
        elif value is None and re.search(_DEVIATION, str(key)):
            if abs(std - 1) < DRAWN:
                return key
        elif "init" in str(key) and type(value) in (int, float) and value > 0 and abs(std / value - 1) < DRAWN:
            return key
    return None


def run_starts(elements: int, runs: int, run: int) -> tuple[list[int], int]:
    """Return the first elements of evenly spread runs over a tensor, and the length of a run.

    A tensor smaller than the sample is taken whole.
    """
    if elements <= runs * run:
        whole = max(1, min(run, elements))
        return list(range(0, elements - whole + 1, whole)), whole
    return [i * (elements - run) // (runs - 1) for i in range(runs)], run


def sample_deviation(runs: Iterable[Sequence[float]]) -> float:
    """Return the standard deviation of all elements of some runs."""
    values = [value for run in runs for value in run]
    mean = _mean(values)
    return math.sqrt(_mean([(value - mean) * (value - mean) for value in values]))


def _mean(values: Sequence[float]) -> float:
    """Return the mean, and no number where the values are so large, or infinite, that there is none."""
    try:
        return math.fsum(values) / len(values)
    except (OverflowError, ValueError):
        return math.nan


def draw_of(sample: Sample) -> str | None:
    """Name the default draw that a matrix carries, the side of a tie that won; None for any other."""
    moments = _moments(sample.runs)
    slack = max(0.03, 4 / math.sqrt(2 * max(1, moments.size)))
    if moments.std == 0 or not _one_draw(sample.runs, moments):
        return None
    if abs(moments.std - 1) < slack and moments.kurtosis > 2.2:  # a uniform draw has 1.8
        return "the normal draw of nn.Embedding (standard deviation 1)"
    bound = 1 / math.sqrt(sample.shape[1])
    if abs(moments.std * math.sqrt(3) / bound - 1) < slack and moments.kurtosis < 2.2:
        return f"the uniform draw of nn.Linear (bound 1/sqrt({sample.shape[1]}))"
    return None


NO_MATRIX = "there is no weight matrix that could tell whether the model is trained"


def no_draw(samples: Iterable[Sample]) -> str | None:
    """Say why some matrices are no default draw; None where all of them look like one.

    A default draw is uniform or (truncated) normal, equally wide everywhere in the matrix, and its deviation is
    one that initialisers give: a function of the fan (nn.Linear: 1/sqrt(3 fan_in)), a usual constant (0.02), or
    the very deviation of another matrix. Constant matrices (zeros) speak neither for nor against.

    Training in pure bfloat16 makes this necessary: normalisation weights stay at exactly one, since steps below half
    a unit in the last place are rounded away, while the rows of the matrices drift apart within twenty steps.
    """
    seen: list[tuple[Sample, _Moments]] = []
    for sample in samples:
        moments = _moments(sample.runs)
        if moments.std == 0:
            continue
        if not _one_draw(sample.runs, moments):
            return f"{sample.name} does not have the distribution of a fresh draw"
        seen.append((sample, moments))
    if not seen:
        return NO_MATRIX
    for sample, moments in seen:
        expected = [*_fans(sample.shape), *_COMMON, *(m.std for s, m in seen if s is not sample)]
        slack = max(0.03, 4 / math.sqrt(2 * moments.size))
        if not any(abs(moments.std / std - 1) < slack for std in expected):
            return f"the deviation of {sample.name}, {moments.std:.4g}, is none that initialisers give"
    return None


@lru_cache(4096)
def _is_norm(name: str, leaves: tuple[str, ...]) -> bool:
    head, _, leaf = name.rpartition(".")
    if leaf not in leaves:
        return False
    word = (head.rpartition(".")[2] or head).lower()
    batch = word.startswith("bn") and word[2:].isdecimal()
    return batch or word == "bn" or "norm" in word or "_ln_" in word or word.startswith("ln") or word.endswith("ln")


def _moments(runs: Sequence[Sequence[float]]) -> _Moments:
    values = [value for run in runs for value in run]
    count = len(values)
    mean = _mean(values)
    squares = [(value - mean) * (value - mean) for value in values]
    variance = _mean(squares)
    if not variance > 0:
        return _Moments(count, 0.0, 0.0)
    fourth = _mean([square * square for square in squares])
    return _Moments(count, math.sqrt(variance), fourth / variance / variance)


def _one_draw(runs: Sequence[Sequence[float]], moments: _Moments) -> bool:
    """Return True if values are uniform (kurtosis 1.8) or (truncated) normal (2.2 to 3), and runs equally wide."""
    error = math.sqrt(24 / moments.size)
    uniform = abs(moments.kurtosis - 1.8) < max(0.1, 2 * error)
    normal = 2.2 < moments.kurtosis < 3 + max(0.15, 4 * error)  # truncated at two deviations: 2.37
    if not (uniform or normal):
        return False
    if len(runs) < 8 or len(runs[0]) < 64:  # too few to compare
        return True
    widths = [sample_deviation([run]) ** 2 for run in runs]
    mean = math.fsum(widths) / len(widths)
    spread_of = math.fsum((width - mean) ** 2 for width in widths) / (len(widths) - 1)
    expected = (moments.kurtosis - 1) / len(runs[0]) * mean**2
    return spread_of < expected * (1 + 5 * math.sqrt(2 / (len(runs) - 1)))


def _fans(shape: tuple[int, ...]) -> list[float]:
    """Return deviations that initialisers make of two fans, either orientation (nn.Linear, GPT-2's Conv1D)."""
    rows, columns = shape
    fans = [math.sqrt(gain / fan) for fan in (rows, columns) for gain in (1 / 3, 1.0, 2.0)]
    return [*fans, math.sqrt(2 / (rows + columns))]


def with_own_draw(
    found: tuple[InitScale | Unknown, ...] | Unknown, config: Mapping[str, Any]
) -> tuple[InitScale | Unknown, ...] | Unknown:
    """Return scales with the key of a library's config by which its own class draws the matrix so."""
    if isinstance(found, Unknown) or not config:
        return found
    return tuple(
        one if isinstance(one, Unknown) or one.std is None else one._replace(own=drawn_by_config(config, one.std))
        for one in found
    )
