"""TIE606: a draft without its head, or with a stale copy of what it borrowed."""

from __future__ import annotations

from collections.abc import Iterator

from tiecheck.records.artefacts import DraftProblem
from tiecheck.rules.base import Case, Draft, Rule, file_place
from tiecheck.rules.stored.groups import rows_text
from tiecheck.wording import listed


class DraftModelWithoutItsHead(Rule):
    """A draft lacks its head, ties two shapes, or holds a stale copy of its target's embedding or head.

    ## What it does
    Looks at EAGLE-3 drafts, also in the layout of speculators, at draft layers inside a checkpoint
     (`num_nextn_predict_layers`), and with `--target` at the embedding of a draft beside the one of its target.

    ## Why it is bad
    A draft with a `draft_vocab_size` brings its own head: where it is not stored, engines leave it as it was allocated.
    A reduced head cannot be tied to a whole embedding, and the load raises. A stale copy loads without a word, and the
    target accepts few of the draft's tokens.

    ## How to fix it
    Export the draft again with its head, with the flag false where the head is reduced, and with embedding and head of
    the target that it is going to run with.
    """

    code = "TIE606"
    summary = "a draft lacks its head, ties two shapes, or holds a stale copy of what it borrowed"
    severity = "error"
    threads = (
        "sgl-project/sglang#27908",
        "vllm-project/speculators#74",
        "lightseekorg/TorchSpec#38",
        "vllm-project/vllm#27737",
        "vllm-project/vllm#28549",
    )

    def check(self, draft_problems: tuple[DraftProblem, ...]) -> Iterator[Draft]:
        for problem in draft_problems:
            message, note, no_mend = _told(problem)
            yield Draft(
                message,
                problem.names,
                (file_place(problem.file, note),),
                severity="error" if problem.kind in ("no head", "shape") else "warning",
                no_mend=no_mend,
            )

    @staticmethod
    def cases() -> Iterator[Case]:
        from tiecheck.rules.cases import row_comparison

        for kind, names, found in (
            ("no head", ("lm_head.weight",), "error"),
            ("shape", ("lm_head.weight", "embed_tokens.weight"), "error"),
            ("layer", ("model.layers.4.embed_tokens.weight", "model.embed_tokens.weight"), "warning"),
            ("target", ("embed_tokens.weight",), "warning"),
        ):
            compared = row_comparison(rows_differ=3, first=1)
            problem = DraftProblem(kind, names, "model.safetensors", "32", compared)  # type: ignore[arg-type]
            yield Case(kind, {"draft_problems": (problem,)}, (found,))  # type: ignore[arg-type]
        yield Case("a draft with its head", {"draft_problems": ()})
        yield Case("draft layers with equal copies", {"draft_problems": ()})


def _told(problem: DraftProblem) -> tuple[str, str, str]:
    """Return the message of a problem, the note of its place, and the reason why no change of files ends it."""
    rows = rows_text(problem.comparison) if problem.comparison else ""
    if problem.kind == "no head":
        message = (
            f"The draft stores no head, its flag ties none, and its config has {problem.told}: SGLang 0.5.23 takes the "
            "head of the target only where that key is absent, and otherwise leaves the head as it was allocated."
        )
        return message, "lm_head.weight is absent", "the values of the head are not in these files."
    if problem.kind == "shape":
        message = (
            f"The flag ties {listed(problem.names)}, which have the shapes {problem.told}: a class that ties them when "
            "it is built raises a size mismatch when it loads them."
        )
        return message, problem.told, "the flag of a draft with a reduced head has to be false where it is exported."
    if problem.kind == "layer":
        message = (
            f"The draft layer's {problem.names[0]} is a copy of {problem.names[1]}, and {rows}: the draft works with "
            "other values than the model."
        )
        return message, problem.names[0], "which of the two is right the files do not tell."
    message = (
        f"{problem.names[0]} is not the {problem.told} of the target: {rows}. A borrowed embedding is equal to it."
    )
    return message, problem.names[0], "a draft that was trained with an embedding of its own is sound as it is."
