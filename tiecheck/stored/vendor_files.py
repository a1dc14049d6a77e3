"""The weights of a vendor's own format beside those of transformers: whether both hold the same embedding."""

from __future__ import annotations

from collections.abc import Iterator

from tiecheck.errors import TargetError
from tiecheck.files.checkpoint import read_checkpoint
from tiecheck.files.compare.equality import compare_opened
from tiecheck.files.compare.spans import OpaqueError, opened_members
from tiecheck.files.local import path_inside
from tiecheck.files.model_config import VENDOR_NAME
from tiecheck.records.declared import VENDOR_FLAG, Architecture, ModelConfig, TieSpec
from tiecheck.records.files import LoadProblem
from tiecheck.records.stored import Checkpoint, StoredTensor

EMBEDDING, HEAD = "tok_embeddings.weight", "output.weight"
"""Names of embedding and head in the files of Meta and Mistral (`consolidated.safetensors`, `consolidated.00.pth`)."""

OURS = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight")
"""Ends of the names that transformers has for it."""


def vendor_architecture(config: ModelConfig) -> Architecture | None:
    """Return what `params.json` declares of embedding and head, by vLLM's reader; None where it says nothing."""
    if config.path != VENDOR_NAME or not isinstance(config.data.get(VENDOR_FLAG), bool):
        return None
    tie = TieSpec((HEAD, EMBEDDING), EMBEDDING, "parameter", False, True, False, (), True, {}, VENDOR_FLAG)
    origin = "vllm 0.33 (transformers_utils/configs/mistral.py)"
    return Architecture(None, True, (tie,), origin, None, embedding=EMBEDDING, head=HEAD)


def vendor_problems(directory: str, names: list[str], checkpoint: Checkpoint) -> Iterator[LoadProblem]:
    """Yield each file of a vendor's format that holds another token embedding than the weights that were read."""
    if checkpoint.format != "safetensors":
        return
    for file in sorted(
        name for name in names if name.startswith("consolidated") and name.endswith((".safetensors", ".pth"))
    ):
        if any(shard.path == file for shard in checkpoint.shards):
            continue
        try:
            other = read_checkpoint(path_inside(directory, file))
        except TargetError:
            continue
        theirs = other.tensor(EMBEDDING) if other is not None else None
        ours = _embedding(checkpoint, theirs) if theirs is not None else None
        if other is None or theirs is None or ours is None:
            continue
        if not _alike(checkpoint, ours, other, theirs):
            yield LoadProblem(
                kind="vendor",
                versions=(),
                outcome="kept-apart",
                message="another embedding than the one that transformers loads",
                why=f"{file} holds {EMBEDDING} with other values than {ours.name} in {ours.file}: who reads the "
                "vendor's format gets another model than transformers gives",
                file=file,
                no_mend="which of the two is right is not written in them; write the stale one anew, or take it away.",
                names=(ours.name, EMBEDDING),
            )


def _alike(ours: Checkpoint, tensor: StoredTensor, theirs: Checkpoint, other: StoredTensor) -> bool:
    """Return False where the bytes of two tensors differ, each in a format of its own; True where they are not told."""
    try:
        with opened_members(ours, (tensor,)) as first, opened_members(theirs, (other,)) as second:
            return compare_opened([*first, *second], tensor, exact=False).alike
    except (OpaqueError, OSError, EOFError):
        return True


def _embedding(checkpoint: Checkpoint, like: StoredTensor) -> StoredTensor | None:
    """Return the token embedding of the weights that were read, where it has the shape and type of another."""
    found = (checkpoint.tensor(name) for name in checkpoint.names() if name.endswith(OURS))
    return next((t for t in found if t is not None and (t.shape, t.dtype) == (like.shape, like.dtype)), None)
