"""Ties that transformers 4.57 makes, 5 does not, and no group tells: what becomes of them is unknown, and no pass.

Held against 5.23 and 4.57.6 (`PreTrainedModel.tie_weights`, and loads of what each saved).
"""

from __future__ import annotations

from collections.abc import Iterator

from tiecheck.records.declared import Architecture, ModelConfig
from tiecheck.records.stored import Checkpoint
from tiecheck.stored.config_values import architecture_of
from tiecheck.tables.architectures import older_has

BOTH = ("4.57", "5")
LISTS_OF_HEADS = ("MusicgenForCausalLM", "MusicgenMelodyForCausalLM")
"""Classes whose head is a list of matrices, which a tie flag makes 4.57 look into as if it were one."""

VILT_BIAS = ("mlm_score.bias", "mlm_score.decoder.bias")
"""The two names of its head's bias: 4.57 ties and saves the first, 5 has only the second."""


def untold_ties(model: ModelConfig, checkpoint: Checkpoint) -> Iterator[tuple[tuple[str, ...], str, tuple[str, ...]]]:
    """Yield the lines of transformers in which the end of a tie is not told, the reason, and its tensors."""
    if not older_has(model.class_name, model.model_type) and model.class_name not in LISTS_OF_HEADS:
        return
    if model.data.get("tie_encoder_decoder") is True and model.data.get("is_encoder_decoder", True):
        yield BOTH, "tie_encoder_decoder is true: 4.57 makes encoder and decoder one, and 5 does not", ()
    if model.data.get("tie_word_embeddings") is True and model.class_name in LISTS_OF_HEADS:
        yield ("4.57",), "tie_word_embeddings is true, and 4.57 raises AttributeError: its heads are a list", ()
    if model.class_name == "ViltForMaskedLM" and sum(name in checkpoint for name in VILT_BIAS) == 1:
        own, inner = VILT_BIAS
        there, line, read = (own, "5", inner) if own in checkpoint else (inner, "4.57", own)
        yield (line,), f"{there} is stored, and {line} reads {read}", VILT_BIAS
    older, newest = architecture_of(model, older=True), architecture_of(model)
    yield from _inner_ties(model, older, newest, checkpoint)


def _inner_ties(
    model: ModelConfig, older: Architecture, newest: Architecture, checkpoint: Checkpoint
) -> Iterator[tuple[tuple[str, ...], str, tuple[str, ...]]]:
    """Yield the tie of an inner language model that 4.57 holds whole, and 5 without its head (Voxtral)."""
    pair = {older.head, older.embedding}
    own = {newest.head, newest.embedding}
    if newest.ties or newest.head is None or newest.head in checkpoint or None in own or pair == own:
        return
    for tie in older.ties:
        said = next((f.value for f in model.flags if (f.key, f.level) == (tie.key, tie.level)), None)
        tied = tie.on if said is True else tie.off if said is False else tie.silent
        spelled = [(name, *tie.spellings.get(name, ())) for name in tie.names]
        whole = all(any(name in checkpoint for name in names) for names in spelled)
        if tied and pair <= set(tie.names) and not whole:
            key = ".".join((*tie.level, tie.key))
            yield ("5",), f"by {key} 4.57 ties {' and '.join(tie.names)}, and 5 does not", tie.names
