"""Makes the tie tables: asks every model class of the installed transformers what it ties.

Run as `python -m tiecheck.tables.generate`, once with transformers 5 and once with 4.57, each of which has a table of
its own. Nothing in them is written by hand.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import warnings
from collections.abc import Iterable

from tiecheck.tables.generate.build import is_older_line
from tiecheck.tables.generate.classes import ClassCandidate, class_candidates, resolve_classes
from tiecheck.tables.generate.head_scale import head_scale_tag, unread_biases
from tiecheck.tables.generate.inner_models import inner_models, other_groups
from tiecheck.tables.generate.probe import Probe, ProbedGroup, probe_class
from tiecheck.tables.generate.regroup import groups_by_field
from tiecheck.tables.generate.spellings import model_speller
from tiecheck.tables.generate.table import OLDER_PATH, PATH, Row, about_of, parse_table, render, shapes_of


def row_of(candidate: ClassCandidate) -> Row:
    """Return the table's row of one class; raises what its default build raises."""
    model_class, config_class = resolve_classes(candidate)
    groups, asked = probe_class(model_class, config_class)
    if not is_older_line() and not hasattr(asked.model, "all_tied_weights_keys"):
        raise ValueError("its constructor ends without post_init, so that from_pretrained raises")
    if not groups:
        return Row(candidate.class_name, candidate.model_type, (), "", "", about_of(asked.model, only_headed=True))
    # What multiplies the logits, and which biases are read, is asked of the newest transformers alone: they are
    # matters of the model, not of the loader.
    names = {name for group in groups for name in group.names}
    tag = "" if is_older_line() else head_scale_tag(asked.model, config_class, asked.full, names)
    shapes: tuple[str, ...] = ()
    for held, built, hangs in groups_by_field(asked, groups):
        shapes += shapes_of(held, spellings_of(built, held), inner_models(built, held), None, hangs)
    for key, model_type, others, built in other_groups(asked, groups):
        inner = {group.names: {key: {model_type: group.bits}} for group in others}
        shapes += shapes_of(others, spellings_of(built, others), inner, built.model)
    biases = [group.names for group in groups if all(name.endswith(".bias") for name in group.names)]
    unread = unread_biases(model_class, config_class, asked.full, biases) if biases and not is_older_line() else []
    tried = ",".join(".".join(level) for level in asked.nested)
    about = about_of(asked.model, unread=unread)
    return Row(candidate.class_name, candidate.model_type, tuple(sorted(shapes)), tag, tried, about)


def spellings_of(asked: Probe, groups: list[ProbedGroup]) -> dict[str, tuple[str, ...]]:
    """The other names of every member of some groups."""
    finder = model_speller(asked.model)
    return {name: finder.spellings(name) for group in groups for name in group.names}


def generate_rows(asked: Iterable[ClassCandidate]) -> tuple[list[Row], dict[ClassCandidate, str]]:
    """Rows of the classes that can be built, and the reasons of those that cannot."""
    rows: list[Row] = []
    failed: dict[ClassCandidate, str] = {}
    for candidate in asked:
        try:
            rows.append(row_of(candidate))
        except Exception as error:  # noqa: BLE001 - any library error is a reason to leave the class out
            failed[candidate] = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
    return rows, failed


def kept_rows(
    before: str, version: str, failed: dict[ClassCandidate, str], asked: set[tuple[str, ...]] | None
) -> list[Row]:
    """Rows of the table so far that stay: what was not asked, and what only a missing library keeps from building.

    So the table need not be made where timm and its like are installed; rows of another transformers never stay.
    """
    if not before.startswith(f"#\ttransformers\t{version}\t"):
        return []
    lacking = {(c.class_name, c.model_type) for c, reason in failed.items() if reason.startswith("ImportError")}
    return [row for row in parse_table(before) if row[:2] in lacking or (asked is not None and row[:2] not in asked)]


def library_version() -> str:
    """The version of the installed transformers; its log is silenced too, and the hub kept out of default configs."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    import transformers

    transformers.logging.set_verbosity_error()
    return str(transformers.__version__)


def write_tie_table(arguments: list[str] | None = None) -> int:
    """Writes the table, or with `--check` compares it; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tiecheck.tables.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where the table differs")
    parser.add_argument("--only", nargs="+", default=(), metavar="MODEL_TYPE", help="ask these model types alone")
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    version, started = library_version(), time.monotonic()
    asked = class_candidates(frozenset(options.only))
    rows, failed = generate_rows(asked)
    for candidate, reason in failed.items():
        print(f"left out: {candidate.class_name} ({candidate.model_type}): {reason}")
    path = OLDER_PATH if is_older_line() else PATH
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    rows += kept_rows(before, version, failed, {c[:2] for c in asked} if options.only else None)
    text = render(rows, version)
    spent = f"{time.monotonic() - started:.0f} s"
    print(f"{len(rows)} rows, {len(text.encode()):,} bytes, {len(failed)} left out, {spent}")
    if options.check:
        print("the table is up to date" if text == before else "the table differs: run it again without --check")
        return int(text != before)
    path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(write_tie_table())
