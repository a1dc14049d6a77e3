"""Prints what tiecheck says of real classes beside what transformers loads: `python tests/benchmarks/bench_zoo.py`.

One line a change of the files; `right` includes silence where nothing is wrong, `unknown` is a verdict that says why
there is none. `--classes` takes the first classes only: the whole zoo takes a quarter of an hour on one core.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch
import transformers

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from zoo import Animal, zoo
from zoo_truth import changed, untouched

VERDICTS = ("right", "unknown", "wrong")


def rows(one: Animal, where: Path, *, edits: bool) -> Iterator[tuple[str, str, list[str]]]:
    """The variant, the verdict on it, and what is wrong."""
    for value in (None, True, False):
        try:
            model = one.model(value)
        except (AttributeError, ValueError):
            continue
        flag = "as it is" if value is None else str(value).lower()
        found = list(untouched(one, model, where / str(value)))
        yield f"untouched, flag {flag}", "wrong" if found else "right", found
    if edits:
        for words, found, unknown in changed(one, where / "changed", lambda *_: True):
            level = words.split(", ", 1)[1]
            short = level if level in ("as saved", "true", "false", "gone") else "nested flags"
            name = f"{words.split(',', maxsplit=1)[0]}; flag {short}"
            yield name, "wrong" if found else "unknown" if unknown else "right", found


def main() -> None:
    """Run everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--classes", type=int, help="how many classes, the first in order")
    parser.add_argument("--edits", action="store_true", help="change the saved files too")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    counts: dict[str, Counter[str]] = {}
    classes, begin = 0, time.perf_counter()
    for candidate, one in itertools.islice(zoo(), options.classes):
        classes += 1
        with tempfile.TemporaryDirectory() as where, contextlib.suppress(AttributeError):
            for variant, verdict, found in rows(one, Path(where), edits=options.edits):
                counts.setdefault(variant, Counter())[verdict] += 1
                for words in found:
                    print(f"{candidate.class_name} ({candidate.model_type}), {variant}: {words}")
    print(f"{classes} classes, {time.perf_counter() - begin:.0f} s")
    print(f"{'':44}" + "".join(f"{verdict:>9}" for verdict in VERDICTS))
    for variant, seen in counts.items():
        print(f"{variant:44}" + "".join(f"{seen[verdict]:9}" for verdict in VERDICTS))


if __name__ == "__main__":
    main()
