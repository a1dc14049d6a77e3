"""TIE621 and TIE622: the head of a GGUF file, by what llama.cpp's loader of its architecture does with it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tiecheck.records.artefacts import Conversion, Gguf, GgufSource, GgufTie, HeadUse, RowFit
from tiecheck.records.report import Severity
from tiecheck.records.stored import Comparison
from tiecheck.records.words import Unknown
from tiecheck.rules.base import Case, Draft, Rule, file_place

HEAD, EMBEDDING = "output.weight", "token_embd.weight"
NO_EDIT = "a tensor of a GGUF file is written by its converter."
CONVERT = "convert_hf_to_gguf.py writes it from the checkpoint that the file came from."


class GgufHeadMissing(Rule):
    """A GGUF file has no `output.weight`, and the loader of its architecture needs one.

    ## What it does
    Looks for `output.weight` in the header, and looks up what llama.cpp's loader of the architecture does without it.
     For most architectures `token_embd.weight` stands in; for some it is an error.

    ## Why it is bad
    The file does not load: `missing tensor 'output.weight'`.

    ## How to fix it
    Convert again from a checkpoint that stores its head: where it is tied, put a copy of the embedding into it under
    the head's name first.
    """

    code = "TIE621"
    summary = "output.weight is absent and the architecture's loader needs it"
    severity = "error"
    messages = (
        "llama_model_load: error loading model: missing tensor 'output.weight'",
        "check_tensor_dims: tensor 'output.weight' not found",
    )
    threads = (
        "ggml-org/llama.cpp#5824 ggml-org/llama.cpp#11345 ggml-org/llama.cpp#12451 ggml-org/llama.cpp#12567 "
        "ggml-org/llama.cpp#13328"
    )

    def check(self, gguf: Gguf, gguf_tie: GgufTie | None) -> Iterator[Draft]:
        if gguf_tie is not None and gguf_tie.use == "required" and gguf_tie.group.missing:
            yield Draft(
                f"{HEAD} is not stored, and llama.cpp's loader of {gguf.architecture} needs it: missing tensor "
                f"'{HEAD}'.",
                (HEAD,),
                (file_place(gguf.checkpoint.shards[0].path, f"{HEAD} is absent"),),
                CONVERT,
                no_mend=NO_EDIT,
            )

    @staticmethod
    def cases() -> Iterator[Case]:
        yield _case("needed and absent", "required", EMBEDDING, finds=("error",))
        yield _case("absent, and the embedding stands in", "fallback", EMBEDDING)
        yield _case("needed and stored", "required", EMBEDDING, HEAD)
        yield _case("absent, and nobody knows", "unknown", EMBEDDING)
        yield Case("no head in it", {**_case("", "none", EMBEDDING).facts, "gguf_tie": None})


class GgufHeadRedundant(Rule):
    """A GGUF file stores `output.weight` although `token_embd.weight` is the head anyway.

    ## What it does
    Compares `output.weight` and `token_embd.weight` byte by byte where both are stored in one type, and finds an
     `output.weight` in architectures whose loader never asks for one.

    ## Why it is bad
    An equal copy costs memory on disk and on the device, and nothing else. Where the loader never asks for the head,
    the file does not load: a tensor is left over.

    ## How to fix it
    Convert again from a checkpoint whose head is tied and not stored.
    """

    code = "TIE622"
    summary = "output.weight equals token_embd.weight, or is there though the loader never asks for it"
    severity = "info"
    messages = ("done_getting_tensors: wrong number of tensors",)
    threads = "ggml-org/llama.cpp#12483 unslothai/unsloth#9929"

    def check(self, gguf: Gguf, gguf_tie: GgufTie | None) -> Iterator[Draft | Unknown]:
        if gguf_tie is None or gguf_tie.group.missing or gguf_tie.use == "unknown":
            return  # whether a copy could be left out, who reads it would have to say
        place = file_place(gguf.checkpoint.shards[0].path, f"{HEAD} and {EMBEDDING}")
        if gguf_tie.use in ("embedding", "none"):
            yield Draft(
                f"{HEAD} is stored, and llama.cpp's loader of {gguf.architecture} never asks for it: the load ends "
                "with done_getting_tensors: wrong number of tensors.",
                (HEAD,),
                (place,),
                CONVERT,
                severity="error",
                no_mend=NO_EDIT,
            )
        elif isinstance(gguf_tie.comparison, Unknown):
            yield gguf_tie.comparison
        elif gguf_tie.comparison is not None and gguf_tie.comparison.equal and not gguf_tie.comparison.constant:
            tensor = gguf_tie.group.tensors[0]
            needs = gguf_tie.use == "required"
            yield Draft(
                f"{HEAD} holds the bytes of {EMBEDDING} ({tensor.dtype}, {tensor.nbytes:,} bytes)"
                f"{', which the loader of the architecture needs' if needs else ', and could be left out'}.",
                (HEAD, EMBEDDING),
                (place,),
                "" if needs else CONVERT,
                no_mend=NO_EDIT,
            )

    @staticmethod
    def cases() -> Iterator[Case]:
        from tiecheck.rules.cases import row_comparison

        both = (EMBEDDING, HEAD)
        yield _case("an equal copy", "fallback", *both, comparison=row_comparison(), finds=("info",))
        yield _case("a copy, and nobody knows who reads it", "unknown", *both, comparison=row_comparison())
        yield _case("never asked for", "embedding", *both, finds=("error",))
        yield _case("another head", "fallback", *both, comparison=row_comparison(rows_differ=9, first=0))
        yield _case("no head", "fallback", EMBEDDING)
        types = Unknown("q6_k and q4_k of one matrix are not alike byte by byte")
        yield _case("of two types", "fallback", *both, comparison=types, unknown=True)


class GgufNotItsSource(Rule):
    """A GGUF file does not hold the embedding or the head of the checkpoint that it is said to be converted from.

    ## What it does
    With `--from DIR`, compares `token_embd.weight` and `output.weight` row by row with embedding and head of that
    checkpoint, quantised blocks dequantised. A row counts where rounding to its type does not explain the difference.

    ## Why it is bad
    A head that was trained apart and is not in the file is replaced by the embedding without a word. A converter that
    went by a flag that is left over, or a file made from the base in place of the fine-tune, gives another model.

    ## How to fix it
    Judge the checkpoint (`tiecheck DIR`), and convert again from one whose flag says what is stored.
    """

    code = "TIE623"
    summary = "a GGUF file holds another embedding or head than the checkpoint that it was converted from"
    severity = "error"
    threads = "huggingface/transformers#45127 huggingface/peft#2025 ggml-org/llama.cpp#2685"

    def check(self, gguf: Gguf, gguf_tie: GgufTie | None, conversion: Conversion) -> Iterator[Draft]:
        source, file = conversion.source, gguf.checkpoint.shards[0].path
        pairs = ((EMBEDDING, conversion.embedding, source.embedding), (HEAD, conversion.head, source.head))
        for name, fit, theirs in pairs:
            if fit is not None and fit.differ:
                yield Draft(
                    f"{name} is not {theirs.name} of {source.place}: {fit.differ:,} of {fit.rows:,} rows, the first of "
                    f"them {fit.first}, differ by more than rounding to the type explains.",
                    (name,),
                    (file_place(file, name),),
                    CONVERT,
                    no_mend=NO_EDIT,
                )
        if conversion.head is None and not source.tied:
            yield Draft(
                f"{source.place} has a head of its own ({source.head.name}), and the file stores no {HEAD}: llama.cpp "
                f"takes {EMBEDDING} for the head, or does not load it.",
                (HEAD,),
                (file_place(file, f"no {HEAD}"),),
                CONVERT,
                no_mend=NO_EDIT,
            )
        types = isinstance(gguf_tie.comparison, Unknown) if gguf_tie is not None else False
        if types and conversion.head is not None and source.tied and not conversion.head.differ:
            yield Draft(
                f"{source.place} is tied, and {HEAD} holds its one matrix once more, in another type than {EMBEDDING}.",
                (HEAD, EMBEDDING),
                (file_place(file, f"{HEAD} and {EMBEDDING}"),),
                severity="info",
                no_mend="a head of a finer type than the embedding is often meant.",
            )

    @staticmethod
    def cases() -> Iterator[Case]:
        from tiecheck.rules.cases import sharded_checkpoint, stored_tensor

        e, h = stored_tensor("model.embed_tokens.weight"), stored_tensor("lm_head.weight")
        tied = GgufSource("base", sharded_checkpoint({"model.safetensors": ()}), e, e)
        fits, apart = RowFit(64, 0, None), RowFit(64, 3, 61)
        types = Unknown("q6_k and q4_k of one matrix are not alike byte by byte")

        def case(title: str, *told: Any, finds: tuple[Severity, ...] = (), comparison: Any = None) -> Case:
            facts = _case("", "fallback", EMBEDDING, HEAD, comparison=comparison).facts
            return Case(title, {**facts, "conversion": Conversion(*told)}, finds)

        yield case("tied, and no head", tied, fits, None)
        yield case("an own head, and it is there", tied._replace(head=h), fits, fits)
        yield case("an own head that is lost", tied._replace(head=h), fits, None, finds=("error",))
        yield case("another embedding", tied, apart, None, finds=("error",))
        yield case("another head", tied._replace(head=h), fits, apart, finds=("error",))
        yield case("tied, and stored in two types", tied, fits, fits, comparison=types, finds=("info",))


def _case(
    title: str,
    use: HeadUse,
    *stored: str,
    comparison: Comparison | Unknown | None = None,
    finds: tuple[Severity, ...] = (),
    unknown: bool = False,
) -> Case:
    """Return a case of a GGUF file that holds some of the two tensors."""
    from tiecheck.rules.cases import llama_group, sharded_checkpoint, stored_tensor

    missing = tuple(name for name in (HEAD, EMBEDDING) if name not in stored)
    tensors = tuple(stored_tensor(name) for name in stored)
    group = llama_group()._replace(names=(HEAD, EMBEDDING), source=EMBEDDING, missing=missing, tensors=tensors)
    gguf = Gguf("llama", "model", sharded_checkpoint({"model.gguf": ()}))
    return Case(title, {"gguf": gguf, "gguf_tie": GgufTie(group, use, comparison)}, finds, unknown)
