"""Writes docs/gate-zoo.md from the rows of a run of `bench_gate_zoo.py`."""

from __future__ import annotations

import platform
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from live_zoo_page import _reasons, _table
from zoo_loads import FAILS
from zoo_stores import MAPS, VARIANTS

Row = dict[str, Any]
Cell = dict[str, Any]

WORDS = ("right", "unknown", "not run", "not the tie", "missed", "false alarm", "other map")
WRONG = WORDS[4:]
NONE = ("no truth", "cut")
"""Words of loads that were not made, or have nothing to be held against."""

HEAD = """# The gate's word on loads, over every class

Written by `python tests/benchmarks/bench_gate_zoo.py --run --write docs/gate-zoo.md`; do not edit it by
hand. {versions}

Every class of the tie table that is built from its own config, and a sample of those that tie nothing, is made small,
saved, and loaded with `from_pretrained(device_map=..., offload_folder=...)` on the CPU with the disk. What
`tiecheck.check(DIR, device_map=...)` says beforehand is compared with it: an error of TIE501, TIE508, TIE510 or TIE511
against an exception in the load or in the first forward pass, or other results than those of a load without a map; no
error against a load that gives the same results.

- `right`: they agree. `unknown`: the report says that it does not know.
- `not run`: the error is said of a forward pass, and no inputs were found that come to the module.
- `not the tie`: the load fails, nothing was said, and it fails alike when the class is saved untied.
- `missed`, `false alarm`; `other map`: transformers planned another map than the report has.
"""


def page(rows: list[Row], versions: dict[str, str]) -> str:
    """The whole page."""
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    parts = [HEAD.format(versions=f"Run with {named}, Python {platform.python_version()}.")]
    sections = (_counts(rows), _maps(rows), _came(rows), _wrong(rows), _proposals(rows), _why(rows), _absent(rows))
    return "\n".join([*parts, *("\n".join(section) + "\n" for section in sections), _time(rows)]) + "\n"


def _cells(rows: Iterable[Row]) -> list[tuple[Row, Cell]]:
    return [(row, cell) for row in rows for cell in row["cells"] if cell["word"] not in NONE]


def _built(rows: Iterable[Row]) -> list[Row]:
    return [row for row in rows if not row["not_built"]]


def _counts(rows: list[Row]) -> Iterator[str]:
    yield "## What was loaded\n"
    groups = {
        "the first class of each shape of ties": [row for row in rows if row["part"] == "first"],
        "other classes that tie": [row for row in rows if row["part"] == "other"],
        "a sample of those that do not": [row for row in rows if row["part"] == "untied"],
    }
    head = ("", "classes", "had small", "run forward", "directories", "loads", *WORDS)
    yield from _table(head, ([words, *_count(part)] for words, part in (groups | {"all": rows}).items()))
    yield ""


def _count(rows: list[Row]) -> list[int]:
    cells = _cells(rows)
    words = Counter(cell["word"] for _, cell in cells)
    built = _built(rows)
    saved = {(row["class"], row["model_type"], cell["variant"]) for row, cell in cells}
    return [len(rows), len(built), sum(row["ran"] is True for row in built), len(saved), len(cells)] + [
        words[word] for word in WORDS
    ]


def _maps(rows: list[Row]) -> Iterator[str]:
    yield "## By what is stored, and the map\n"
    counts = Counter((cell["variant"], cell["map"], cell["word"]) for _, cell in _cells(rows))
    there = {(variant, word) for variant, word, _ in counts}
    lines = (
        [VARIANTS[variant], MAPS[word], *(counts[variant, word, judged] for judged in WORDS)]
        for variant in VARIANTS
        for word in MAPS
        if (variant, word) in there
    )
    yield from _table(("stored", "map", *WORDS), lines)
    yield (
        "\nThe classes that are the first of their shape of ties are loaded under all of these, the others tied and "
        "stored once, and with the targets alone under one map.\n"
    )


def _came(rows: list[Row]) -> Iterator[str]:
    yield "## What came of the loads\n"
    cells = [cell for _, cell in _cells(rows)]
    counts = Counter((cell["came"], "an error" if cell["codes"] else "no error") for cell in cells)
    words = [*FAILS, "is the same", "loads"]
    yield from _table(
        ("it", "an error is said", "none is said"),
        ([word, counts[word, "an error"], counts[word, "no error"]] for word in words),
    )
    disk = sum(bool(cell["disk"]) for cell in cells)
    worded = [cell["worded"] for cell in cells if cell["worded"] is not None]
    yield (
        f"\n`loads` has no forward pass after it. {disk} of the {len(cells)} loads put something on the disk. Of "
        f"{len(worded)} exceptions that were rightly foretold {sum(worded)} have the foretold words.\n"
    )


def _wrong(rows: list[Row]) -> Iterator[str]:
    found = [(row, cell) for row, cell in _cells(rows) if cell["word"] in WRONG]
    yield f"## Wrong: {len(found)}\n"
    for row, cell in found:
        codes = ", ".join(cell["codes"]) or "nothing"
        came = f"{cell['came']} {cell['text']}".strip()
        yield f"- {row['class']}, {cell['variant']}, {cell['map']}: {cell['word']} ({codes}; it {came}) {cell['why']}"
    yield ""


def _proposals(rows: list[Row]) -> Iterator[str]:
    cells = [(row, cell) for row, cell in _cells(rows) if cell["map"] == "proposal"]
    came = Counter(cell["came"] for _, cell in cells)
    yield "## The maps that are proposed\n"
    yield (
        f"{len(cells)} maps were proposed in place of one that fails, and loaded: {came['is the same']} give the same "
        f"results, {came['loads']} load and were not run, {sum(came[word] for word in FAILS)} fail.\n"
    )
    for row, cell in cells:
        if cell["came"] in FAILS:
            yield f"- {row['class']}, {cell['variant']}, in place of {cell['instead']}: {cell['came']}: {cell['text']}"
    yield ""


def _why(rows: list[Row]) -> Iterator[str]:
    for word, title in (
        ("unknown", "Unknown, and why"),
        ("not run", "Not run, and why"),
        ("not the tie", "What fails without a tie as well"),
        ("no truth", "No truth"),
        ("cut", "Maps left out"),
    ):
        yield f"## {title}\n"
        found: dict[str, list[str]] = {}
        for row in rows:
            for cell in row["cells"]:
                if cell["word"] == word:
                    found.setdefault(_short(cell["why"]), []).append(row["class"])
        lines = sorted(found.items(), key=lambda item: -len(item[1]))
        yield from _table(
            ("loads", "classes", "why", "which"),
            ([len(names), len(set(names)), why, _some(names)] for why, names in lines),
        )
        yield ""


def _short(why: str) -> str:
    """A reason without the names of one class."""
    why = re.sub(r"(?<![\w'])[a-z_0-9]+(\.[a-z_0-9]+)+", "NAME", why)
    why = re.sub(r"'[a-zA-Z_0-9]+(\.[a-zA-Z_0-9]+)+'", "NAME", why)
    return re.sub(r"\d{3,}", "N", why)[:160]


def _some(names: list[str]) -> str:
    each = sorted(set(names))
    return ", ".join(each[:5]) + (f" and {len(each) - 5} more" if len(each) > 5 else "")


def _absent(rows: list[Row]) -> Iterator[str]:
    yield "## Not to be had small, and why\n"
    yield from _table(("classes", "why", "which"), _reasons(rows))
    still = sorted(row["class"] for row in _built(rows) if row["ran"] is False)
    yield f"\nBuilt, and no inputs were found that a forward pass takes ({len(still)}): {', '.join(still)}.\n"


def _time(rows: list[Row]) -> str:
    slow = sorted(rows, key=lambda row: -row["seconds"])[:5]
    named = ", ".join(f"{row['class']} {row['seconds']:.0f} s" for row in slow)
    return f"## Time\n\n{sum(row['seconds'] for row in rows) / 60:.0f} minutes of one process, slowest: {named}."
