"""TIE309, 310 and 311: what a class declares about its ties, and what the installed transformers reads from it."""

from __future__ import annotations

from collections.abc import Iterator

from tiecheck.records.edits import Edit, python_edit
from tiecheck.records.live import KeyProblem
from tiecheck.records.words import Unknown
from tiecheck.rules.base import Case, Draft, Rule, class_place
from tiecheck.rules.cases import key_problem
from tiecheck.rules.live.mends import source_edits
from tiecheck.wording import listed, with_article

UNREAD = ("list", "signature", "uninitialised")
"""Forms that transformers 5 cannot read or call."""


class DeclaredKeyMatchesNothing(Rule):
    """A declared key, pattern or source names no parameter, or names itself.

    ## What it does
    Holds each pair of `_tied_weights_keys` against the names of the model, as transformers 5 expands them: a key that
    matches nothing, a source that matches nothing, and a key that is its own source. Names that pruning or an adapter
    has moved count as there. Under a false flag nothing reads the keys yet, and it is a note. A contract of your own
    that names what the model does not have is found too.

    ## Why it is bad
    A pair that names itself ties nothing, and nothing is said: two tensors are trained where one was meant, and a
    checkpoint that holds one of them loads the other at random. A name that is not there raises an AttributeError or a
    ValueError while the model is built, far from the line that is wrong. A module whose name ends in "weight..." is
    taken for a parameter, by a pattern that is not anchored.

    ## How to fix it
    Write the names as `model.named_parameters()` gives them, the target on the left and the source on the right:
    `_tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}`.
    """

    code = "TIE309"
    summary = "a declared key, pattern or source names no parameter, or names itself"
    severity = "error"
    messages = ("There is an issue with your definition of `tie_weights_keys`", "has no attribute")
    threads = "huggingface/transformers#48238 NVIDIA/Model-Optimizer#2071 unslothai/unsloth#6540"

    def check(self, key_problems: tuple[KeyProblem, ...]) -> Iterator[Draft | Unknown]:
        for problem in key_problems:
            if problem.form not in ("nothing", "itself"):
                continue
            if problem.form == "nothing" and problem.source is None:
                yield _absent(problem)
                continue
            pair = f'"{problem.key}": "{problem.source}"'
            what = "names itself" if problem.form == "itself" else "names no parameter on one side"
            raised = f" transformers raises {problem.raised}" if problem.raised and problem.flag else ""
            yield Draft(
                f"{problem.class_name}._tied_weights_keys has {pair}, which {what}: it ties nothing.{_end(raised)}",
                tuple(dict.fromkeys(_placed(problem, word) for word in (problem.key, problem.source or problem.key))),
                (class_place(problem.class_name, pair),),
                severity=None if problem.flag is not False else "info",
                edits=source_edits((problem,)),
                no_mend="which parameters were meant is not known; model.named_parameters() has those there are.",
            )

    @staticmethod
    def cases() -> Iterator[Case]:
        yield Case("a source that is not there", {"key_problems": (key_problem("nothing"),)}, finds=("error",))
        itself = key_problem("itself", source="lm_head.weight", raised=None)
        yield Case("a key that is its own source", {"key_problems": (itself,)}, finds=("error",))
        own = key_problem("nothing", key="head.weight", source=None, class_name="[tool.tiecheck.ties]", raised=None)
        yield Case("a contract that names what is not there", {"key_problems": (own,)}, finds=("error",))
        yield Case("under a false flag", {"key_problems": (key_problem("nothing", flag=False),)}, finds=("info",))
        yield Case("a list is another rule's matter", {"key_problems": (key_problem("list"),)})
        yield Case("keys that fit", {"key_problems": ()})


class DeclaredKeyMatchesTooMuch(Rule):
    """A declared key is used as a pattern, and matches names beside the one meant.

    ## What it does
    Finds plain names in `_tied_weights_keys` that transformers 5 expands as patterns (`lin` matches `lin2.weight`), and
    real, undeclared ties whose members a key of another group matches when the model is saved.

    ## Why it is bad
    In the expansion the names beside are tied too, or the counts do not fit and a ValueError is raised. On a save the
    members are dropped by the pattern, without a word, and no load brings them back.

    ## How to fix it
    Write whole parameter names, with `.weight`: then they are taken as they stand. Anchor a pattern with `$`.
    """

    code = "TIE310"
    summary = "a key used as a pattern matches names beside the one meant"
    severity = "warning"
    messages = ("There is an issue with your definition of `tie_weights_keys`",)
    threads = "huggingface/transformers#46566 huggingface/accelerate#3308 huggingface/accelerate#2324"

    def check(self, key_problems: tuple[KeyProblem, ...]) -> Iterator[Draft | Unknown]:
        for problem in key_problems:
            if problem.form == "beside":
                what = f"also matches {listed(problem.names)}"
                raised = f" transformers raises {problem.raised}" if problem.raised and problem.flag else ""
                cost = raised or " They are tied as well."
            elif problem.form == "drops":
                what = f"matches members of {listed(problem.names)}, which are one parameter and declared by nobody"
                cost = " save_pretrained drops all but one of them, and a load makes the dropped ones at random."
            else:
                continue
            off = problem.flag is False and problem.form == "beside"
            yield Draft(
                f'"{problem.key}" in {problem.class_name}._tied_weights_keys {what}.{_end(cost)}',
                problem.names,
                (class_place(problem.class_name, f'"{problem.key}" is a pattern'),),
                severity="info" if off else None,
                edits=(*source_edits((problem,)), *_apart(problem)),
                no_mend="which names were meant is not known: a pattern has to match as many targets as sources.",
            )

    @staticmethod
    def cases() -> Iterator[Case]:
        beside = key_problem("beside", key="lin", source="emb", names=("lin2.weight",), raised=None)
        yield Case("lin matches lin2", {"key_problems": (beside,)}, finds=("warning",))
        yield Case("under a false flag", {"key_problems": (beside._replace(flag=False),)}, finds=("info",))
        drops = key_problem(
            "drops", source=None, names=("aux.lm_head.weight", "aux.emb.weight"), flag=False, raised=None
        )
        yield Case("a save drops another tie by it", {"key_problems": (drops,)}, finds=("warning",))
        yield Case("a key that matches nothing", {"key_problems": (key_problem("nothing"),)})
        yield Case("keys that fit", {"key_problems": ()})


class ListFormTiedKeys(Rule):
    """The class was written for transformers 4, and the installed one cannot read its word on ties.

    ## What it does
    Finds `_tied_weights_keys` as a list or another collection without sources, a `tie_weights` method without the
    arguments that transformers 5 gives it, and an `__init__` that calls no `post_init()`, on any `PreTrainedModel` in
    the module. Where the class cannot even be built because of it, `--live` says so instead of the bare exception.

    ## Why it is bad
    With the flag true the model cannot be built: `AttributeError: 'list' object has no attribute 'keys'`, or a
    TypeError about `recompute_mapping`. With the flag false it builds, trains, and fails at the first save. Without
    `post_init()` it builds and saves, and every `from_pretrained` of it fails.

    ## How to fix it
    Write a mapping from target to source, `_tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}`, and
    `def tie_weights(self, missing_keys=None, recompute_mapping=True)`, or leave the method out: the mapping does its
    work. End `__init__` with `self.post_init()`. To stay on 4.x, pin `transformers<5`.
    """

    code = "TIE311"
    summary = "_tied_weights_keys, or tie_weights, in a form of 4.x that the installed transformers cannot read"
    severity = "error"
    messages = (
        "AttributeError: 'list' object has no attribute 'keys'",
        "object has no attribute 'all_tied_weights_keys'",
        "tie_weights() got an unexpected keyword argument 'recompute_mapping'",
    )
    threads = (
        "huggingface/transformers#44861 LG-AI-EXAONE/EXAONE-3.5#7 PrimeIntellect-ai/prime-rl#1998 "
        "unslothai/unsloth#6540 NVIDIA-NeMo/Automodel#1631 ML-GSAI/LLaDA#130 vllm-project/compressed-tensors#577"
    )

    def check(self, key_problems: tuple[KeyProblem, ...]) -> Iterator[Draft | Unknown]:
        for problem in key_problems:
            if problem.form == "list":
                what = f"{problem.class_name}._tied_weights_keys is {with_article(problem.key)}, which names no sources"
            elif problem.form == "signature":
                what = f"{problem.class_name}.{problem.key} lacks the arguments that transformers 5 gives it"
            elif problem.form == "uninitialised":
                what = f"{problem.class_name}.__init__ ends without post_init(), which collects what is tied"
            else:
                continue
            when = {
                "list": "at the first save" if problem.flag is False else None,
                "uninitialised": "when it is loaded",
            }
            built = when.get(problem.form) or "when it is built"
            yield Draft(
                f"{what}: {built} it fails with {problem.raised}.",
                problem.names or (problem.key,),
                (class_place(problem.class_name, problem.key),),
                edits=source_edits(p for p in key_problems if p.class_name == problem.class_name and p.form in UNREAD),
                no_mend="which embedding is the source is not known, and the keys have to name it.",
            )

    @staticmethod
    def cases() -> Iterator[Case]:
        yield Case("a list", {"key_problems": (key_problem("list"),)}, finds=("error",))
        yield Case(
            "a list under a false flag: the save fails",
            {"key_problems": (key_problem("list", flag=False),)},
            finds=("error",),
        )
        yield Case(
            "tie_weights(self)",
            {"key_problems": (key_problem("signature", key="tie_weights(self)"),)},
            finds=("error",),
        )
        late = key_problem("uninitialised", key="__init__", names=(), wanted="self.post_init()")
        yield Case("no post_init()", {"key_problems": (late,)}, finds=("error",))
        idle = key_problem("inert", key="tie_weights", source=None, names=(), raised=None)
        yield Case("a tie_weights that does nothing, and takes its arguments", {"key_problems": (idle,)})
        yield Case("a mapping that names nothing is another rule's", {"key_problems": (key_problem("nothing"),)})
        yield Case("a mapping", {"key_problems": ()})


def _apart(problem: KeyProblem) -> tuple[Edit, ...]:
    """Return the way to tensors of their own for a tie that nobody declares."""
    if problem.form != "drops":
        return ()
    lines = (f"{path} = copy.deepcopy({path})" for path in problem.paths[1:])
    return (python_edit("apart", "they are meant to be apart", "import copy", *lines),)


def _absent(problem: KeyProblem) -> Draft:
    """A name of the user's own contract that the model does not have."""
    return Draft(
        f"{problem.class_name} says that {listed(problem.names)} are one tensor, and the model has no {problem.key}: "
        "the group cannot be held.",
        problem.names,
        (class_place(problem.class_name, problem.key),),
        no_mend="which parameters are meant is not known; model.named_parameters() has those there are.",
    )


def _placed(problem: KeyProblem, word: str) -> str:
    """A declared word under the path of its model."""
    return f"{problem.model}.{word}" if problem.model else word


def _end(text: str) -> str:
    """A sentence that ends."""
    return text if not text or text.endswith(".") else f"{text}."
