"""TIE112: a tie flag that is no truth value."""

from __future__ import annotations

from collections.abc import Iterator

from tiecheck.records.declared import Flag
from tiecheck.records.files import LoadProblem
from tiecheck.records.stored import Group
from tiecheck.rules.base import Case, Draft, Rule, file_place
from tiecheck.rules.load_drafts import load_problem, problem_draft


class InvalidTieFlag(Rule):
    """A tie flag is null, a text or a number.

    ## What it does
    Finds `tie_word_embeddings` with a value that is neither true nor false, at the top of the config or in one of the
    configs inside that the class builds.

    ## Why it is bad
    transformers 5 validates the type and refuses the whole config, at any level. 4.57 asks only whether Python takes
    the value for true: the text "false" ties, and null does not, so that a head that is not stored comes out random.

    ## How to mend it
    Write true or false, without quotes: true where the checkpoint stores one tensor for the group.
    """

    code = "TIE112"
    name = "invalid-tie-flag"
    summary = "a flag that is null, a text or a number: transformers 5 refuses it, 4.57 takes it for what Python does"
    severity = "error"
    messages = ("StrictDataclassFieldValidationError: Validation error for field 'tie_word_embeddings'",)

    def check(
        self, groups: tuple[Group, ...], load_problems: tuple[LoadProblem, ...], flags: tuple[Flag, ...]
    ) -> Iterator[Draft]:
        names = groups[0].names if groups else ()
        for found in load_problems:
            if found.kind == "flag":
                draft = problem_draft(found)
                where = next((f for f in flags if found.why.startswith(f"{f.dotted} is ")), None)
                place = file_place(found.file, found.message, line=where.line, column=where.column) if where else None
                yield draft._replace(names=names or draft.names, locations=(place,) if place else draft.locations)

    @staticmethod
    def cases() -> Iterator[Case]:
        from tiecheck.rules.cases import llama_group, tie_flag

        odd = load_problem(
            "flag", versions=("5",), why="tie_word_embeddings is null, neither true nor false", file="config.json"
        )
        yield Case(
            "null",
            {"groups": (llama_group(),), "load_problems": (odd,), "flags": (tie_flag(True)._replace(value=None),)},
            finds=("error",),
        )
        yield Case("a truth value", {"groups": (), "load_problems": (), "flags": (tie_flag(True),)})
        yield Case("another rule's matter", {"groups": (), "load_problems": (load_problem("name"),), "flags": ()})
