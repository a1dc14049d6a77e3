"""TIE606: a draft without its head, or with a stale copy of what it borrowed."""

from __future__ import annotations

from collections.abc import Iterator

from tiecheck.records.artefacts import DraftProblem
from tiecheck.records.report import Severity
from tiecheck.rules.base import Case, Draft, Rule, file_place
from tiecheck.rules.stored.groups import rows_text
from tiecheck.wording import listed


class DraftModelWithoutItsHead(Rule):
    """A draft lacks its head, ties two shapes, or holds a stale copy of its target's embedding or head.

    ## What it does
    Looks at drafts of EAGLE and Medusa, also in the layout of speculators, at draft layers inside a checkpoint
     (`num_nextn_predict_layers`), and with `--target` at embedding and head of a draft beside those of its target.

    ## Why it is bad
    A draft with a `draft_vocab_size` brings its own head: where it is not stored, SGLang leaves it as it was allocated.
    A reduced head cannot be tied to a whole embedding, and the load raises. Without the map of a reduced vocabulary
    (`d2t`) its ids are taken for the target's. A stale copy loads without a word, and the target accepts few of the
    draft's tokens. One in a draft layer is a note: vLLM and SGLang give such a layer the model's own tensors.

    ## How to fix it
    Export the draft again with its head, with the flag false where the head is reduced, and with embedding and head of
    the target that it is going to run with.
    """

    code = "TIE606"
    summary = "a draft lacks its head, ties two shapes, or holds a stale copy of what it borrowed"
    severity = "error"
    threads = (
        "sgl-project/sglang#27908 vllm-project/speculators#74 lightseekorg/TorchSpec#38 vllm-project/vllm#27737 "
        "vllm-project/vllm#28549"
    )

    def check(self, draft_problems: tuple[DraftProblem, ...]) -> Iterator[Draft]:
        for problem in draft_problems:
            message, note, no_mend = _told(problem)
            yield Draft(
                message,
                problem.names,
                (file_place(problem.file, note),),
                severity=MILDER.get(problem.kind),
                no_mend=no_mend,
            )

    @staticmethod
    def cases() -> Iterator[Case]:
        from tiecheck.rules.cases import row_comparison

        for kind, names, found in (
            ("no head", ("lm_head.weight",), "error"),
            ("shape", ("lm_head.weight", "embed_tokens.weight"), "error"),
            ("rows", ("lm_head.weight",), "error"),
            ("map", ("d2t",), "error"),
            ("medusa", ("1.1.weight",), "error"),
            ("layer", ("model.layers.4.embed_tokens.weight", "model.embed_tokens.weight"), "info"),
            ("target", ("embed_tokens.weight",), "warning"),
        ):
            compared = row_comparison(rows_differ=3, first=1)
            problem = DraftProblem(kind, names, "model.safetensors", "32", compared)  # type: ignore[arg-type]
            yield Case(kind, {"draft_problems": (problem,)}, (found,))  # type: ignore[arg-type]
        yield Case("a draft with its head", {"draft_problems": ()})
        yield Case("draft layers with equal copies", {"draft_problems": ()})


MILDER: dict[str, Severity] = {"layer": "info", "target": "warning"}

SILENT = "the files do not tell which of the two is right."
TOLD = {
    "no head": (
        (
            "The draft stores no head, its flag ties none, and its config has {told}: SGLang 0.5.23 takes the head of "
            "the target only where that key is absent, and otherwise leaves the head as it was allocated; vLLM 0.33 "
            "takes the target's, which fits a whole vocabulary alone."
        ),
        "lm_head.weight is absent",
        "the values of the head are not in these files.",
    ),
    "shape": (
        (
            "The flag ties {names}, which have the shapes {told}: a class that ties them when it is built raises a "
            "size mismatch when it loads them."
        ),
        "{told}",
        "the flag of a draft with a reduced head has to be false where it is exported.",
    ),
    "rows": ("{first} does not have the rows that the config gives it ({told}), and does not load.", "{told}", SILENT),
    "map": (
        (
            "The draft has a reduced vocabulary ({told}) and stores no d2t, the map of its ids to the target's: vLLM "
            "0.33, SGLang 0.5 and speculators take its ids for the target's, and it drafts other tokens."
        ),
        "no d2t",
        "the map is not in these files.",
    ),
    "medusa": (
        (
            "The config says {told}, and the files store no {names}: medusa-llm loads without strictness, and those "
            "heads stay copies of the model's own."
        ),
        "{told}",
        "the values of the heads are not in these files.",
    ),
    "layer": (
        (
            "The draft layer's {first} is a copy of {second}, and {rows}. vLLM 0.32 and SGLang 0.5.23 give the layer "
            "the model's own embedding and head, and leave the copy; llama.cpp drafts with it where it runs the layer, "
            "and vLLM in pipeline stages with a copied embedding: fewer of the draft's tokens are accepted."
        ),
        "{first}",
        SILENT,
    ),
    "target": (
        (
            "{first} is not the {told} of the target: {rows}. A borrowed tensor is equal to it; vLLM 0.33 keeps one "
            "that is not."
        ),
        "{first}",
        "a draft that was trained with an embedding of its own is sound as it is.",
    ),
}
"""Kind of a problem -> its message, the note of its place, and the reason why no change of files ends it."""


def _told(problem: DraftProblem) -> list[str]:
    """Return the texts of a problem."""
    words = {
        "told": problem.told,
        "names": listed(problem.names),
        "first": problem.names[0],
        "second": problem.names[-1],
        "rows": rows_text(problem.comparison) if problem.comparison else "",
    }
    return [text.format(**words) for text in TOLD[problem.kind]]
