"""TIE108 and TIE112: members that cannot be one tensor, by shape or dtype, and a tie flag that is no truth value."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tiecheck.records.declared import Flag
from tiecheck.records.files import LoadProblem
from tiecheck.records.loaders import LoaderView
from tiecheck.records.stored import Comparison, Group
from tiecheck.records.words import DISCARDED, RANDOM, Unknown
from tiecheck.rules.base import Case, Draft, Rule, file_place, tensor_place
from tiecheck.rules.stored.groups import (
    declaration_place,
    declarer_text,
    fit_text,
    flags_to_set,
    losing_views,
    stored_places,
    tied_by_intent,
    views_of,
)
from tiecheck.wording import listed

_CAST = "The loader casts before it compares, so that the dtype asked for decides whether they are tied."


def _harmless(group: Group, dtypes: set[str], views: tuple[LoaderView, ...]) -> bool:
    """Tell whether one member is the other in float64, to which no loader casts, or no line of transformers ties them.

    All that load the former get equal values; of the latter all keep both (InternVL by its two flags).
    """
    wider = "float64" in dtypes and group.relation is not None and group.relation.alike
    ours = [view.outcome for view in views if view.loader == "transformers"]
    return wider or (bool(ours) and set(ours) == {"kept-apart"})


class TiedShapeMismatch(Rule):
    """The group is declared as tied, and its members are stored in different shapes or dtypes.

    ## What it does
    Finds groups that the class ties as whole tensors and whose stored members differ in shape (an error) or only in
    dtype (a warning).

    ## Why it is bad
    One tensor has one shape. transformers refuses to load members of different shapes ("size mismatch"); other
    loaders keep the first and drop the rest, or read past the vocabulary. The usual causes are rows that padding
    or added tokens gave to one side only, and a draft model's smaller vocabulary under a flag that is true. With
    different dtypes the loader casts before it compares, so that the dtype you ask for decides whether it ties.

    ## How to fix it
    Give both members one row a token: trim the padding, or resize with `model.resize_token_embeddings(n)` and save
    again, so that the rows and the config's `vocab_size` agree. Turn a transposed matrix back. Of two dtypes delete the
    cast copy; casting it up again makes two different tensors of one (TIE101).
    """

    code = "TIE108"
    summary = "declared tied, stored in different shapes or dtypes: the loader fails or mixes them up"
    severity = "error"
    messages = ("size mismatch for lm_head.weight", "aten::equal: attempted to run this operator with Meta tensors")
    threads = "sgl-project/SpecForge#139 NVIDIA-NeMo/Megatron-Bridge#625 huggingface/transformers#46835"

    def check(self, groups: tuple[Group, ...], loaders: tuple[LoaderView, ...]) -> Iterator[Draft | Unknown]:
        for group in groups:
            if not tied_by_intent(group) or group.inferred or group.misfit or len(group.tensors) < 2:
                continue
            shapes = {tensor.shape for tensor in group.tensors}
            dtypes = {tensor.dtype for tensor in group.tensors}
            if len(shapes) == len(dtypes) == 1 or group.packed:
                continue
            views = views_of(group, loaders)
            what = "shapes" if len(shapes) > 1 else "dtypes"
            forms = ", ".join(f"{t.name} {list(t.shape)} {t.dtype}" for t in group.tensors)
            from tiecheck.rules.stored.fixes import shape_edits

            yield Draft(
                f"{declarer_text(group)} that {listed(group.names)} are one tensor, but they are stored in different "
                f"{what}: "
                f"{forms}{fit_text(group)}. " + ("transformers refuses to load them." if len(shapes) > 1 else _CAST),
                group.stored_names,
                (*stored_places(group, primary=True), declaration_place(group, "related")),
                severity=None if len(shapes) > 1 else "info" if _harmless(group, dtypes, views) else "warning",
                hurts=losing_views(views) or None,
                edits=shape_edits(group, groups, flags_to_set(group, views)),
                no_mend="none of them has the shape that the config builds; load the model where it is whole, give it "
                "one row a token with resize_token_embeddings, and save it again.",
            )

    @staticmethod
    def cases() -> Iterator[Case]:
        from tiecheck.rules.cases import EMBEDDING, HEAD, PAIR, group_facts, llama_group, stored_tensor

        both = llama_group(stored=PAIR)._replace(stored="separate", reason="the members differ in shape or dtype")
        padded = both._replace(tensors=(stored_tensor(HEAD, (128, 16)), stored_tensor(EMBEDDING, (136, 16))))
        yield Case("eight rows of padding on one side", group_facts(padded), finds=("error",))
        cast = both._replace(tensors=(stored_tensor(HEAD), stored_tensor(EMBEDDING)._replace(dtype="bfloat16")))
        yield Case("another dtype", group_facts(cast), finds=("warning",))
        words = cast._replace(tensors=(stored_tensor(HEAD)._replace(dtype="int8"), stored_tensor(EMBEDDING)))
        yield Case("packed words on one side", group_facts(words))
        four = words.tensors[0]._replace(dtype="uint8", shape=(1024, 1))
        yield Case(
            "packed words in a shape of their own", group_facts(words._replace(tensors=(four, words.tensors[1])))
        )
        bits = (four, four._replace(name=EMBEDDING, shape=(512, 1)))
        yield Case("packed words of four bits and of eight", group_facts(words._replace(tensors=bits)))
        exact = Comparison(True, 128, 0, 128, None, None, constant=False, form="cast")
        wide = (stored_tensor(HEAD), stored_tensor(EMBEDDING)._replace(dtype="float64"))
        wider = both._replace(relation=exact, tensors=wide)
        yield Case("the same values in float64", group_facts(wider), finds=("info",))
        yield Case("different on purpose", group_facts(padded._replace(declared=False)))
        yield Case("alike in both", group_facts(both))
        yield Case("stored once", group_facts(llama_group()))


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
        from tiecheck.rules.stored.fixes import valid_flags

        names = groups[0].names if groups else ()
        edits = valid_flags(groups, [name for found in load_problems if found.kind == "flag" for name in found.names])
        lost = tuple(v for v in loaders if v.loader == "transformers" and v.outcome in DISCARDED | RANDOM)
        for found in load_problems:
            if found.kind == "flag":
                draft = problem_draft(found)
                draft = draft._replace(hurts=(*(draft.hurts or ()), *lost))
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
    """Return a problem as a finding: an error where the current transformers has it, a note where it alone has none."""
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
        ((file_place if problem.file else tensor_place)(problem.file or problem.names[0], problem.message),),
        severity="info" if problem.kind in {"newer", "moved"} else None if "5" in problem.versions else "warning",
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
