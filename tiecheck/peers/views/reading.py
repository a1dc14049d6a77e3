"""What follows from views, for rules and reports: plain data in and out, without torch and without the tools."""

from __future__ import annotations

from collections.abc import Iterable

from tiecheck.records.report import View

FIND = "find_tied_parameters"
CHECK = "check_tied_parameters_in_config"

WARNS = (
    ("0.20", "0.20", "0.18-0.33"),
    ("0.21-0.33", "0.21-1.6", "0.18-0.33"),
    ("0.34-1.6", "0.21-1.6", "0.34-"),
    ("1.7-", "1.7-", "0.34-"),
)
"""Versions that warn alike, with the algorithm of the config check and that of the finder they have."""


def missed_by(views: Iterable[View], names: Iterable[str]) -> tuple[View, ...]:
    """The views that do not see that some names are one tensor.

    Args:
        views: What `views_of` returned.
        names: The members of a tie; two or more.

    Returns:
        Those without a group that holds all the names. One that only answers yes or no, and one that raises or does
        not end, is not among them: the latter says so itself.
    """
    wanted = set(names)
    return tuple(
        view
        for view in views
        if view.error is None and view.says is None and not any(wanted <= set(group) for group in view.groups)
    )


def would_warn(views: Iterable[View]) -> tuple[str, ...]:
    """The versions of accelerate that say "The model weights are not tied", though they may well be.

    They say so where the config asks for a tie and not one group is found anywhere in the model.

    Args:
        views: What `views_of` returned.

    Returns:
        Ranges of versions, oldest first.
    """
    here = {(v.function, v.algorithm): v for v in views if v.tool == "accelerate" and not v.ran}
    found = []
    for versions, checks, finds in WARNS:
        asked, seen = here.get((CHECK, checks)), here.get((FIND, finds))
        if asked is not None and asked.says and seen is not None and seen.error is None and not seen.groups:
            found.append(versions)
    return tuple(found)
