"""Embedding and head of a GGUF file, under the names that llama.cpp gives them."""

from __future__ import annotations

from typing import cast, get_args

from tiecheck.files.compare.equality import compare_bytes
from tiecheck.records.artefacts import Gguf, GgufTie, HeadUse
from tiecheck.records.stored import Comparison, Group
from tiecheck.records.words import Kind, Unknown

HEAD, EMBEDDING = "output.weight", "token_embd.weight"
SAYS = {
    "required": "output.weight has to be there",
    "fallback": "token_embd.weight stands in for an absent output.weight",
    "embedding": "token_embd.weight is the head",
}


def read_gguf_tie(gguf: Gguf, use: str, *, values: bool) -> GgufTie | Unknown | None:
    """Return the tie of a GGUF file; None for an architecture without a head.

    Args:
        gguf: The file.
        use: The word of the engine table for its architecture, or `unknown:REASON`.
        values: True where tensor bytes may be read.
    """
    held = tuple(t for name in (HEAD, EMBEDDING) if (t := gguf.checkpoint.tensor(name)) is not None)
    stored = tuple(tensor.name for tensor in held)
    if gguf.kind != "model" or EMBEDDING not in stored:
        what = f"a GGUF file of type {gguf.kind}" if gguf.kind != "model" else f"GGUF tensors without {EMBEDDING}"
        return Unknown(f"{what} is no whole model, and holds no tie")
    if use == "none" and HEAD not in stored:
        return None
    word, _, why = use.partition(":")
    known = cast("HeadUse", word if word in get_args(HeadUse) else "unknown")
    found: Comparison | Unknown | None = None
    if len(held) == 2:
        found = Unknown("the bytes were not to be read (--values never)")
        if len({(t.dtype, t.shape) for t in held}) > 1:
            found = Unknown(f"{held[0].dtype} and {held[1].dtype} of one matrix are not alike byte by byte")
        elif values:
            found = compare_bytes(gguf.checkpoint, held)
    kind: Kind = "absent" if len(held) < 2 else "unknown" if not isinstance(found, Comparison) else "separate"
    if isinstance(found, Comparison) and found.equal:
        kind = "copy"
    tied = known in ("fallback", "embedding") if HEAD not in stored else False
    group = Group(
        names=(HEAD, EMBEDDING),
        source=EMBEDDING,
        declared=None if known == "unknown" else tied,
        declared_by=(f"llama.cpp's loader of {gguf.architecture}: {SAYS[known]}",) if known in SAYS else (),
        stored=kind,
        stored_names=stored,
        missing=() if HEAD in stored else (HEAD,),
        tensors=held,
        comparison=found if isinstance(found, Comparison) else None,
        reason=_unknown_loader(gguf.architecture, why) if known == "unknown" else None,
    )
    return GgufTie(group, known, found)


def _unknown_loader(architecture: str, why: str) -> str:
    """Tell why it is not known what llama.cpp's loader of an architecture does."""
    return why if architecture in why else f"llama.cpp's loader of {architecture}: {why or 'not known'}"
