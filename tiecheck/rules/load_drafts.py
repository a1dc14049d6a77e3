"""Problems of a whole load as findings, for the rules on files and on flags."""

from __future__ import annotations

from typing import Any

from tiecheck.records.files import LoadProblem
from tiecheck.records.loaders import LoaderView
from tiecheck.rules.base import Draft, file_place
from tiecheck.wording import listed


def problem_draft(problem: LoadProblem) -> Draft:
    """Return a problem as a finding: an error where the current transformers has it."""
    views = tuple(
        LoaderView("transformers", versions, problem.outcome, problem.message, "run", problem.names, None, None, None)
        for versions in problem.versions
    )
    titles = listed(tuple(view.title for view in views))
    name = any(mark in problem.why.partition(" ")[0] for mark in "._")  # which is as it is written
    why = problem.why if name else f"{problem.why[:1].upper()}{problem.why[1:]}"
    return Draft(
        f"{why} ({titles}: {problem.message}).",
        problem.names,
        (file_place(problem.file, problem.message),),
        problem.mend,
        severity=None if "5" in problem.versions else "warning",
        hurts=views,
    )


def load_problem(kind: str, **changes: Any) -> LoadProblem:
    """Return a problem for a rule's cases."""
    plain = LoadProblem(
        "name",
        ("4.57", "5"),
        "crash",
        "OSError",
        "own.safetensors has no name",
        "own",
        "rename it",
        ("lm_head.weight",),
    )
    return plain._replace(**{"kind": kind, **changes})
