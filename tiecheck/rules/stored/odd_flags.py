"""TIE112: a tie flag that is no truth value; and any problem of a whole load as a finding."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tiecheck.records.declared import Flag
from tiecheck.records.files import LoadProblem
from tiecheck.records.loaders import LoaderView
from tiecheck.records.stored import Group
from tiecheck.records.words import RANDOM
from tiecheck.rules.base import Case, Draft, Rule, file_place
from tiecheck.wording import listed


class InvalidTieFlag(Rule):
    """A tie flag is null, a text or a number.

    ## What it does
    Finds `tie_word_embeddings` with a value that is neither true nor false, at the top of the config or in one of the
    configs inside that the class builds.

    ## Why it is bad
    transformers 5 validates the type and refuses the whole config, at any level. 4.57 asks only whether Python takes
    the value for true: the text "false" ties, and null does not, so that a head that is not stored comes out random.

    ## How to fix it
    Write true or false, without quotes: true where the checkpoint stores one tensor for the group.
    """

    code = "TIE112"
    summary = "a flag that is null, a text or a number: transformers 5 refuses it, 4.57 takes it for what Python does"
    severity = "error"
    messages = ("StrictDataclassFieldValidationError: Validation error for field 'tie_word_embeddings'",)

    def check(
        self,
        groups: tuple[Group, ...],
        load_problems: tuple[LoadProblem, ...],
        flags: tuple[Flag, ...],
        loaders: tuple[LoaderView, ...],
    ) -> Iterator[Draft]:
        names = groups[0].names if groups else ()
        from tiecheck.rules.stored.fixes import valid_flags

        edits = valid_flags(groups, [name for found in load_problems if found.kind == "flag" for name in found.names])
        random = tuple(v for v in loaders if v.loader == "transformers" and v.outcome in RANDOM)
        for found in load_problems:
            if found.kind == "flag":
                draft = problem_draft(found)
                draft = draft._replace(hurts=(*(draft.hurts or ()), *random))
                where = next((f for f in flags if found.why.startswith(f"{f.dotted} is ")), None)
                place = file_place(found.file, found.message, line=where.line, column=where.column) if where else None
                places = (place,) if place else draft.locations
                yield draft._replace(names=names or draft.names, locations=places, edits=edits)

    @staticmethod
    def cases() -> Iterator[Case]:
        from tiecheck.rules.cases import llama_group, tie_flag

        odd = load_problem(
            "flag", versions=("5",), why="tie_word_embeddings is null, neither true nor false", file="config.json"
        )
        yield Case(
            "null",
            {
                "groups": (llama_group(),),
                "load_problems": (odd,),
                "flags": (tie_flag(True)._replace(value=None),),
                "loaders": (),
            },
            finds=("error",),
        )
        plain: dict[str, Any] = {"groups": (), "flags": (tie_flag(True),), "loaders": ()}
        yield Case("a truth value", {"load_problems": (), **plain})
        yield Case("another rule's matter", {"load_problems": (load_problem("name"),), **plain})


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
        severity=None if "5" in problem.versions else "warning",
        hurts=views,
        edits=problem.edits,
        no_mend=problem.no_mend,
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
        "its names are not those of the class.",
        ("lm_head.weight",),
    )
    return plain._replace(**{"kind": kind, **changes})
