"""Writes docs/verdicts.md from the rows of a run."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from truth.mutate import LARGE, MUTATIONS

COLUMNS = ("5", "4.57", "verdict")
WORDS = ("right", "unknown", "wrong", "no truth")
KINDS = ("as saved", "true", "false", "gone", "nested")

HEAD = """# Verdicts against what the libraries do

Written by `python tests/benchmarks/bench_truth.py --classes --corpus ../shared/corpus --write docs/verdicts.md`; do not
edit it by hand. {versions}

A verdict is compared with what `from_pretrained` of transformers 5 and 4.57 really leaves in the model: which names
are one tensor, which hold what is stored, which are random, and whether it raises. `right` means that tiecheck foretold
it; for the column `verdict`, that whatever is lost in one of the two has an error or a warning, that none says that it
hurts a version that it does not hurt, and that what both load well has neither error nor warning but those with a
ground of their own in the files (different members under a flag that ties them, equal members that nothing ties, flags
at several levels that do not agree). `unknown` means that the report says that it cannot tell, and why. `no truth`
means that the library could not be asked: the class is not in 4.57, or 4.57 cannot load it however it was saved.
"""


def page(rows: list[dict[str, Any]], corpus: list[dict[str, Any]], versions: dict[str, str]) -> str:
    """The whole page."""
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    parts = [
        HEAD.format(versions=f"Run with {named}, Python {platform.python_version()}."),
        "\n".join(_corpus(corpus)),
        "\n".join(_mutations(rows)),
        "\n".join(_reasons(rows)),
        "\n".join(_not_built(rows)),
    ]
    return "\n".join(parts)


def _table(head: Iterable[str], lines: Iterable[Iterable[Any]]) -> Iterator[str]:
    head = list(head)
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for line in lines:
        yield f"| {' | '.join(str(cell).replace('|', '/') for cell in line)} |"


def _corpus(lines: list[dict[str, Any]]) -> Iterator[str]:
    full = [line for line in lines if line["correct"] in WORDS]
    counts = Counter(line["correct"] for line in full)
    slowest = max((line["seconds"] for line in lines), default=0.0)
    yield "## Real configs and key lists\n"
    yield (
        f"{_names(lines)} published models; {_names(full)} of them have an index, and a class that transformers has. "
        "Each of these was laid out at its full size, true headers and a hole for the data, and judged; the truth is "
        "its class made small, saved with the same members under the same names and the same flags at every level, and "
        "loaded by both. Where two members are stored, what they hold is not known: it was tried with equal and with "
        f"different ones. {_counted(counts)}. The slowest took {slowest:.2f} s. Checkpoints that were published as "
        "pickles were laid out as safetensors, and the small ones are not quantised. `fits` says whether the report "
        "sees what the list says of the pair.\n"
    )
    heads = ("model", "class", "what the list says", "members", "verdict", "fits", "5 and 4.57", "correct")
    keys = ("name", "class_name", "tie_fact", "members", "verdict", "fits", "truth", "correct")
    yield from _table(heads, ([line[key] or "" for key in keys] for line in lines))
    yield ""
    reasons = Counter(why for line in lines if line["correct"] != "right" for why in line["why"])
    yield "Why a verdict is unknown:\n"
    yield from (f"- {count} x {why}" for why, count in reasons.most_common())
    yield ""


def _names(lines: list[dict[str, Any]]) -> int:
    return len({line["name"] for line in lines})


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{counts[word]} {word}" for word in WORDS if counts[word] or word == "wrong")


def _mutations(rows: list[dict[str, Any]]) -> Iterator[str]:
    total: Counter[str] = Counter()
    for row in rows:
        total.update(row["counts"])
    built = [row for row in rows if row["counts"]]
    cells = sum(count for key, count in total.items() if key.startswith("cells|"))
    seconds = sum(row["seconds"] for row in rows)
    yield "## Every class that ties, small, saved and changed\n"
    yield (
        f"{len(built)} of the {len(rows)} classes that can tie something could be had small. The first class of each "
        f"shape of ties ({sum(row['every_flag'] for row in built)}) went through every change and every edit of its "
        f"flags (those of nested configs left out above {LARGE:,} parameters), the others "
        f"({sum(not row['every_flag'] for row in built)}) through every change with the flags as saved and false. "
        f"{cells:,} directories, each loaded by both and judged, took {seconds / 60:.0f} minutes of one process of "
        "each; a figure counts tie groups.\n"
    )
    wrong = {column: sum(total[k] for k in total if k.endswith(f"|{column}|wrong")) for column in COLUMNS}
    yield f"Wrong: {', '.join(f'{wrong[c]} ({c})' for c in COLUMNS)}.\n"
    yield from _wrong(built)
    heads = ["change", "flag", *(f"{column}: {word}" for column in COLUMNS for word in WORDS)]
    lines = []
    for mutation, words in MUTATIONS.items():
        for kind in KINDS:
            if total[f"cells|{mutation}|{kind}"]:
                counts = (total[f"{mutation}|{kind}|{column}|{word}"] for column in COLUMNS for word in WORDS)
                lines.append([words, kind, *counts])
    summed = (sum(line[i] for line in lines) for i in range(2, len(heads)))
    yield from _table(heads, [*lines, ["all", "", *summed]])
    yield ""


def _wrong(rows: list[dict[str, Any]]) -> Iterator[str]:
    """The classes with a wrong word, and what their first one is."""
    for row in rows:
        if row["wrong"]:
            words = " ".join(row["wrong"][0].split())
            yield f"- {row['class']}, {len(row['wrong'])}, first: {words}"
    yield ""


def _reasons(rows: list[dict[str, Any]]) -> Iterator[str]:
    total: Counter[str] = Counter()
    classes: dict[str, set[str]] = {}
    for row in rows:
        for key, count in row["reasons"].items():
            short = _short(key)
            total[short] += count
            classes.setdefault(short, set()).add(row["class"])
    for word, title in (("unknown", "Why something is unknown"), ("no truth", "Why there is no truth")):
        yield f"## {title}\n"
        found = [(key.split("|", 2), count, classes[key]) for key, count in total.most_common() if f"|{word}|" in key]
        lines = ([parts[0], count, len(held), parts[2]] for parts, count, held in found)
        yield from _table(("column", "groups", "classes", "reason"), lines)
        yield ""


def _short(key: str) -> str:
    """A reason with the class's own name left out."""
    column, word, why = key.split("|", 2)
    if why.startswith("no class "):
        why = "4.57 does not have the class"
    elif why.startswith("4.57 cannot load what 5 saves"):
        why = "4.57 cannot load what 5 saves: " + why.split(": ")[1]
    elif " does not have " in why:
        why = why.split(" does not have ")[0] + " does not have the class"
    return f"{column}|{word}|{why.splitlines()[0]}"


def _not_built(rows: list[dict[str, Any]]) -> Iterator[str]:
    found: dict[str, list[str]] = {}
    for row in rows:
        if row["not_built"]:
            why = row["not_built"].replace("\n", " ").strip()
            if why.endswith(" parameters"):
                why = "its config stays larger than 10 million parameters"
            found.setdefault(why[:160], []).append(row["class"])
    yield "## Classes that could not be had small\n"
    lines = sorted(found.items(), key=lambda item: (-len(item[1]), item[0]))
    yield from _table(("classes", "why", "which"), ([len(held), why, ", ".join(held)] for why, held in lines))
