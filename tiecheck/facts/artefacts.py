"""The facts of what people bring beside whole models of transformers: adapters and GGUF files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from tiecheck.facts.registry import fact
from tiecheck.records.adapters import Adapter, AdapterBase, AdapterTies
from tiecheck.records.gguf import Conversion, Gguf, GgufSource, GgufTie
from tiecheck.records.words import Unknown

if TYPE_CHECKING:
    from tiecheck.records.drafts import DraftModel, DraftProblem
    from tiecheck.records.onnx import OnnxCopies, OnnxGraph
    from tiecheck.records.stored import Checkpoint

    Values = Literal["auto", "never", "always"]


@fact
def adapted_ties(adapter: Adapter, adapter_base: AdapterBase, values: Values) -> AdapterTies | Unknown:
    """Return what an adapter does to each tie of its base."""
    from tiecheck.stored.adapter_ties import adapter_ties

    return adapter_ties(adapter, adapter_base, values=values != "never")


@fact
def draft_problems(draft: DraftModel, checkpoint: Checkpoint, values: Values) -> tuple[DraftProblem, ...]:
    """Return what a draft lacks, and the copies that are not what they were borrowed from."""
    from tiecheck.stored.drafts import find_draft_problems

    return find_draft_problems(draft, checkpoint, values=values != "never")


@fact
def gguf_tie(gguf: Gguf, values: Values) -> GgufTie | Unknown | None:
    """Return embedding and head of a GGUF file; None for an architecture without a head."""
    from tiecheck.peers.loaders.llama_cpp import head_use
    from tiecheck.stored.gguf_ties import read_gguf_tie

    return read_gguf_tie(gguf, head_use(gguf.architecture), values=values != "never")


@fact
def conversion(gguf: Gguf, gguf_tie: GgufTie | None, gguf_source: GgufSource, values: Values) -> Conversion | Unknown:
    """Return embedding and head of a GGUF file beside those of what it was converted from."""
    if values == "never":
        return Unknown("the bytes were not to be read (--values never)")
    from tiecheck.stored.gguf_source import compare_conversion

    return compare_conversion(gguf, gguf_tie, gguf_source)


@fact
def onnx_copies(onnx: OnnxGraph, values: Values) -> OnnxCopies | Unknown:
    """Return the embedding tables that stand in an ONNX file once more, as they are or transposed."""
    if values == "never":
        return Unknown("the bytes were not to be read (--values never)")
    from tiecheck.stored.onnx_ties import find_onnx_copies

    return find_onnx_copies(onnx)
