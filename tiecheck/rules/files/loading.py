"""TIE206 and TIE207: what transformers does not load as it stands, whatever its ties."""

from __future__ import annotations

from collections.abc import Iterator

from tiecheck.records.files import LoadProblem
from tiecheck.rules.base import Case, Draft, Rule, file_place
from tiecheck.rules.stored.odd_flags import load_problem, problem_draft


class LoaderReadsOtherWeights(Rule):
    """The weights of the directory are not what transformers loads from it.

    ## What it does
    Looks at a model directory as `from_pretrained` does: whether the file has one of the names that it looks for,
    whether a pickle's tensors stand at the top and not below a key like `state_dict`, and whether the metadata of a
    single safetensors file names its `format`, without which transformers 4.57 refuses it (a warning). A vendor's own
    file beside it (`consolidated.safetensors`) with another embedding is a warning too.

    ## Why it is bad
    Everything else in the report is about tensors that this loader never sees. A file under another name is an
    `OSError`; of a nested state dict not one name is known, and every weight is made at random without an error.

    ## How to fix it
    Rename the file to `model.safetensors`, save the inner state dict alone, or write the file again with
    `metadata={"format": "pt"}`. What is named on the command line itself is judged without this rule.
    """

    code = "TIE206"
    summary = "file names, a nested state dict or a missing format send a loader to other weights, or to none"
    severity = "error"
    messages = ("no file named model.safetensors", "Incompatible safetensors file. File metadata is not")
    threads = ("vllm-project/vllm#40765",)

    def check(self, load_problems: tuple[LoadProblem, ...]) -> Iterator[Draft]:
        yield from (problem_draft(found) for found in load_problems if found.kind in ("name", "nested", "format"))
        for found in load_problems:
            if found.kind == "vendor":
                place = file_place(found.file, found.message)
                yield Draft(f"{found.why}.", found.names, (place,), severity="warning", no_mend=found.no_mend)

    @staticmethod
    def cases() -> Iterator[Case]:
        yield Case("a vendor's own file name", {"load_problems": (load_problem("name"),)}, finds=("error",))
        yield Case("a nested state dict", {"load_problems": (load_problem("nested"),)}, finds=("error",))
        older = load_problem("format", versions=("4.57",))
        yield Case("no format in the metadata", {"load_problems": (older,)}, finds=("warning",))
        beside = load_problem("vendor", versions=())
        yield Case("a vendor's file with other values", {"load_problems": (beside,)}, finds=("warning",))
        yield Case("nothing in the way", {"load_problems": ()})
        yield Case("another rule's matter", {"load_problems": (load_problem("flag"),)})


class LoadWillRaise(Rule):
    """The config and the tensors do not fit each other, or the library refuses the config.

    ## What it does
    Holds the sizes of stored tensors against the numbers in `config.json` that make them, as the class builds them:
    rows of the embedding against `vocab_size`, widths, heads and intermediate sizes of every model inside, with the
    library's own defaults where a section is missing. It also finds values of a type that transformers 5 refuses (null
    for a number, a text for a truth value), and sections that lack the model type they need. Quantised files and
    classes that the table lacks are left out. For transformers 4.57 it finds a head beside names of which none has the
    base model's prefix.

    ## Why it is bad
    `from_pretrained` ends in `size mismatch`, or before that in a validation error. The usual causes are tokens that
    were added without the config being saved again, a config taken from another size of the model, a section such as
    `vision_config` that was lost, and padding that a training framework left in. A file without prefixes is the base
    model's own for 4.57: it calls it corrupted where a head is in it; 5 asks name by name.

    ## How to fix it
    Write the number that the tensors have into `config.json`; or load where the model is whole, resize with
    `resize_token_embeddings`, and save both. Names get their prefix from `save_pretrained`.
    """

    code = "TIE207"
    summary = "stored tensors do not have the sizes that the config builds, or the library refuses the config"
    severity = "error"
    messages = ("size mismatch for model.embed_tokens.weight", "You set `ignore_mismatched_sizes` to `False`")
    threads = ()

    def check(self, load_problems: tuple[LoadProblem, ...]) -> Iterator[Draft]:
        yield from (problem_draft(found) for found in load_problems if found.kind in ("shape", "prefix", "field"))

    @staticmethod
    def cases() -> Iterator[Case]:
        yield Case("99 rows under a vocab_size of 102", {"load_problems": (load_problem("shape"),)}, finds=("error",))
        older = load_problem("prefix", versions=("4.57",))
        yield Case("null for a number", {"load_problems": (load_problem("field", versions=("5",)),)}, finds=("error",))
        yield Case("the head beside names without a prefix", {"load_problems": (older,)}, finds=("warning",))
        yield Case("nothing in the way", {"load_problems": ()})
        yield Case("another rule's matter", {"load_problems": (load_problem("name"),)})
