"""How rules put names, rows and sizes into words."""

from __future__ import annotations

from tiecheck.facts import Comparison

SHOWN = 6
"""Names listed before "and n more"."""


def listed(names: tuple[str, ...]) -> str:
    """Names in a sentence, capped."""
    if len(names) > SHOWN:
        return f"{', '.join(names[:SHOWN])} and {len(names) - SHOWN} more"
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]


def place(name: str) -> str:
    """A name as Python reaches it: `layers.0.weight` is `model.layers[0].weight`."""
    return "model" + "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in name.split("."))


def plural(verb: str, many: bool) -> str:
    """A verb in the third person."""
    return verb if many else f"{verb}s"


def them(names: tuple[str, ...]) -> str:
    """The pronoun for one name or several."""
    return "it" if len(names) == 1 else "them"


def rows(comparison: Comparison) -> str:
    """How many rows differ, where, and by how much, in words."""
    return _where(comparison) + _how_far(comparison)


def _where(comparison: Comparison) -> str:
    if comparison.rows_differ is None:
        return "their bytes differ"
    of = f"of {comparison.rows:,} rows"
    if comparison.rows_compared < comparison.rows:
        return f"{comparison.rows_differ:,} of the {comparison.rows_compared:,} rows compared differ ({of[3:]} in all)"
    tail = comparison.first_row is not None and comparison.last_row == comparison.rows - 1
    if tail and comparison.first_row and comparison.rows_differ == comparison.rows - comparison.first_row:
        return (
            f"only the last {comparison.rows_differ:,} {of} differ, from row {comparison.first_row:,} on, as after "
            "adding tokens"
        )
    return f"{comparison.rows_differ:,} {of} differ"


def _how_far(comparison: Comparison) -> str:
    """The largest difference, and over how many rows it was looked for where that is not all of them."""
    odd = ", and NaN or infinity stands on one side alone" if comparison.nonfinite else ""
    if comparison.max_difference is None:
        return odd
    far = f"{comparison.max_difference:.3g}"
    measured = comparison.rows_measured
    if measured == comparison.rows_differ:
        return f", by up to {far}{odd}"
    return (
        f", by up to {far} in the {measured:,} of them that were measured" if measured else f", by {far} or more"
    ) + odd


def size(nbytes: int) -> str:
    """Bytes in words: `14.2 GiB`, `10 GiB`, `512 MiB`, `96 bytes`; rounded to three figures or more."""
    for word, scale in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if nbytes >= scale:
            text = f"{nbytes / scale:,.{1 if nbytes >= 10 * scale else 2}f}"
            return f"{nbytes // scale:,} {word}" if nbytes % scale == 0 else f"{text} {word}"
    return f"{nbytes:,} byte{'' if nbytes == 1 else 's'}"
