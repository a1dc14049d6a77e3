"""Two tables of a fleet: which models came, went, broke or were fixed in between."""

from __future__ import annotations

from tiecheck.fleet.results import read_row_groups
from tiecheck.records.fleet import FleetChange, FleetComparison


def compare_tables(before: str, after: str) -> FleetComparison:
    """Compare two tables by the verdict and the rules of each model. Holds the older one's verdicts in memory.

    Raises:
        TiecheckError: One of them cannot be read.
    """
    verdicts: dict[tuple[str, tuple[str, ...]], tuple[str, tuple[str, ...]]] = {}
    old = {}
    for *_, row in read_row_groups(before):
        verdict = row["status"], tuple(row["codes"])
        old[row["target"]] = verdicts.setdefault(verdict, verdict)  # few verdicts, many models
    new: list[str] = []
    changed: list[FleetChange] = []
    same = 0
    for *_, row in read_row_groups(after):
        was = old.pop(row["target"], None)
        if was is None:
            new.append(row["target"])
        elif was == (row["status"], tuple(row["codes"])):
            same += 1
        else:
            status, codes = was
            appeared, ended = (set(row["codes"]) - set(codes), set(codes) - set(row["codes"]))
            changed.append(
                FleetChange(row["target"], status, row["status"], tuple(sorted(appeared)), tuple(sorted(ended)))
            )
    changed.sort(key=lambda change: (change.after != "fail", change.before == "fail", change.target))
    equal = not (old or new or changed)
    return FleetComparison(before, after, same, tuple(changed), tuple(sorted(new)), tuple(sorted(old)), equal)
