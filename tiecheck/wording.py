"""Names and sizes in words."""

from __future__ import annotations

from collections.abc import Collection
from keyword import iskeyword

SHOWN = 6
"""Names listed before "and n more"."""


def listed(names: tuple[str, ...]) -> str:
    """List names in a sentence, capped."""
    if len(names) > SHOWN:
        return f"{', '.join(names[:SHOWN])} and {len(names) - SHOWN} more"
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]


def python_path(name: str, keyed: Collection[str] = ()) -> str:
    """Return a name, or a module's path, as Python reaches it: `layers.0.weight` is `model.layers[0].weight`.

    In dictionaries (`keyed`, by path) a number is a text.
    """
    text, path = "model", ""
    for part in name.split("."):
        if part.isidentifier() and not iskeyword(part):
            text += f".{part}"
        else:
            text += f"[{part}]" if part.isdigit() and path not in keyed else f'["{part}"]'
        path = f"{path}.{part}" if path else part
    return text


def counted(number: int, word: str) -> str:
    """Return a number of things: `1 model`, `2,000 models`."""
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def with_article(word: str) -> str:
    """Return a word after `a` or `an`."""
    return f"{'an' if word[:1] in set('aeioAEIO') else 'a'} {word}"


def verb_form(verb: str, many: bool) -> str:
    """Return a verb in the third person."""
    return verb if many else f"{verb}es" if verb.endswith("o") else f"{verb}s"


def pronoun_for(names: tuple[str, ...]) -> str:
    """Return the pronoun for one name or several."""
    return "it" if len(names) == 1 else "them"


def size(nbytes: int) -> str:
    """Put bytes into words: `14.2 GiB`, `10 GiB`, `512 MiB`, `96 bytes`; rounded to three figures or more."""
    for word, scale in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if nbytes >= scale:
            text = f"{nbytes / scale:,.{1 if nbytes >= 10 * scale else 2}f}"
            return f"{nbytes // scale:,} {word}" if nbytes % scale == 0 else f"{text} {word}"
    return counted(nbytes, "byte")


def cause_of(names: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """Return where some names part, and how they go on there: ties of one cause part alike.

    `layers.0.mlp.up.weight` and `layers.1.mlp.up.weight` part below `layers`, into `0` and `1`; numbers above that are
    taken for alike, so that the same tie in each layer is one.
    """
    parts = [name.split(".") for name in names]
    depth = 0
    while all(len(one) > depth + 1 for one in parts) and len({one[depth] for one in parts}) == 1:
        depth += 1
    above = ".".join("*" if part.isdigit() else part for part in parts[0][:depth])
    return above, tuple(dict.fromkeys(one[depth] for one in parts))
