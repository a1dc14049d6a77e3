"""Names and sizes in words."""

from __future__ import annotations

SHOWN = 6
"""Names listed before "and n more"."""


def listed(names: tuple[str, ...]) -> str:
    """List names in a sentence, capped."""
    if len(names) > SHOWN:
        return f"{', '.join(names[:SHOWN])} and {len(names) - SHOWN} more"
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]


def python_path(name: str) -> str:
    """Return a name as Python reaches it: `layers.0.weight` is `model.layers[0].weight`."""
    return "model" + "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in name.split("."))


def verb_form(verb: str, many: bool) -> str:
    """Return a verb in the third person."""
    return verb if many else f"{verb}s"


def pronoun_for(names: tuple[str, ...]) -> str:
    """Return the pronoun for one name or several."""
    return "it" if len(names) == 1 else "them"


def size(nbytes: int) -> str:
    """Put bytes into words: `14.2 GiB`, `10 GiB`, `512 MiB`, `96 bytes`; rounded to three figures or more."""
    for word, scale in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if nbytes >= scale:
            text = f"{nbytes / scale:,.{1 if nbytes >= 10 * scale else 2}f}"
            return f"{nbytes // scale:,} {word}" if nbytes % scale == 0 else f"{text} {word}"
    return f"{nbytes:,} byte{'' if nbytes == 1 else 's'}"
