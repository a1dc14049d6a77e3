"""Reads what a tied embedding's scale does to untrained logits from a safetensors file: TIE701's stored half.

A trained model is told by one normalisation weight, a read of a few kilobytes, because every cold check pays for it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from tiecheck.errors import TargetError
from tiecheck.files.limits import byte_question
from tiecheck.files.local import TensorFiles
from tiecheck.records.declared import Architecture
from tiecheck.records.record import Record
from tiecheck.records.scale import InitScale
from tiecheck.records.stored import Checkpoint, Group, StoredTensor
from tiecheck.records.words import Unknown
from tiecheck.scale import initial_draw

HARMLESS = 1.5
"""Predicted deviation of the logits below which there is nothing to say."""

NO_NORM = "no normalisation layer was recognised that could tell whether the model is trained"
_ZEROS = "the normalisation weights are all zero: an untrained model of a class that adds one to them, or broken"
_NO_SCALE = "what the class multiplies its logits by is not known"

_PROBE = 4096
_STD_RUNS = 256


class TrainingEvidence(Record):
    """Judgement whether anything has been trained."""

    untrained: bool
    """True if the evidence says that nothing has been trained."""
    evidence: str
    """The evidence, in words."""


_ONES: Mapping[str, bytes] = {
    "float64": bytes.fromhex("000000000000f03f"),
    "float32": bytes.fromhex("0000803f"),
    "float16": bytes.fromhex("003c"),
    "bfloat16": bytes.fromhex("803f"),
}
"""What one is stored as, in each dtype of which a deviation is taken."""


def scale_record(
    names: tuple[str, ...], shape: Sequence[int], std: float | None, verdict: TrainingEvidence
) -> InitScale:
    """Return the record of a tied tensor of which nothing was measured but its deviation."""
    (vocabulary, width), unmeasured = shape, [None] * 7
    return InitScale(names, verdict.untrained, verdict.evidence, std, width, vocabulary, *unmeasured)


def is_matrix(shape: tuple[int, ...] | None) -> bool:
    """Tell whether a tensor can be embedding and head at once: two dimensions, a row a token."""
    return shape is not None and len(shape) == 2 and shape[0] > 1 and shape[1] > 1


def group_scales(
    groups: tuple[Group, ...], architecture: Architecture, checkpoint: Checkpoint | None, values: str
) -> tuple[InitScale | Unknown, ...] | Unknown:
    """Return the scale of each tied matrix that is stored; a class without a head has no logits, and none of these."""
    if architecture.known and architecture.head is None and architecture.embedding is not None:
        return ()
    tied = [g for g in groups if g.declared and g.tensors and is_matrix(g.tensors[0].shape) and g.stored != "separate"]
    if not tied or checkpoint is None:
        return ()
    if values == "never":
        return Unknown("the values were not to be read (--values never)")
    if checkpoint.format != "safetensors":
        return Unknown("the scale is read from safetensors only; use --load")
    head = architecture.head_scale
    return tuple(stored_scale(checkpoint, g.names, g.stored_names[0], head) for g in tied)


def stored_scale(
    checkpoint: Checkpoint, names: tuple[str, ...], stored_name: str, head_scale: float | None
) -> InitScale | Unknown:
    """Return the scale of a stored tied tensor, and whether its model is untrained.

    A trained model comes back at once, with `untrained` false, `std` None (the tensor was not read) and no
    prediction. The prediction takes the head's input for normalised (rms 1). Where nobody can say whether the
    model is trained, a scale that does no harm either way is a record (`untrained` false), any other is unknown.

    Args:
        checkpoint: The headers.
        names: The tied group: embedding and head, the class's names.
        stored_name: The name under which the tied tensor is stored, shape (vocabulary, width).
        head_scale: What the class multiplies its logits by; None leaves the prediction open.
    """
    tensor = _readable(checkpoint, stored_name)
    if isinstance(tensor, Unknown):
        return tensor
    try:
        trained = _trained(checkpoint, frozenset((*names, stored_name)))
        if isinstance(trained, Unknown):
            return _harmless(checkpoint, names, tensor, trained, head_scale) or trained
        std = None if not trained.untrained else _deviation(checkpoint, tensor, _STD_RUNS)
    except (OSError, EOFError, TargetError) as error:
        return Unknown(f"weights could not be read: {error}")
    if std is not None and not math.isfinite(std):
        return Unknown(f"{stored_name} holds values that are not finite")
    record = scale_record(names, tensor.shape, std, trained)
    if not trained.untrained or head_scale is None:
        return record._replace(head_scale=head_scale, reason=_NO_SCALE if trained.untrained else None)
    from tiecheck.scale.prediction import predicted_deviation  # a trained model does not pay for it

    predicted = None if std is None else predicted_deviation(std, record.width, 1.0, head_scale)
    return record._replace(head_scale=head_scale, predicted=predicted)


def _harmless(
    checkpoint: Checkpoint, names: tuple[str, ...], tensor: StoredTensor, why: Unknown, head_scale: float | None
) -> InitScale | None:
    """Return the record of a tensor whose scale does no harm, whatever the model is: no need to leave it unknown."""
    if head_scale is None:
        return None
    from tiecheck.scale.prediction import predicted_deviation

    std = _deviation(checkpoint, tensor, initial_draw.RUNS)
    predicted = predicted_deviation(std, tensor.shape[1], 1.0, head_scale)
    if not predicted < HARMLESS:
        return None
    record = scale_record(names, tensor.shape, std, TrainingEvidence(untrained=False, evidence=why.reason))
    return record._replace(head_scale=head_scale, predicted=predicted)


def untrained_verdict(norms: int, samples: Iterable[initial_draw.Sample]) -> TrainingEvidence | Unknown:
    """Judge by samples of the matrices if a model is trained whose normalisation layers are all as they were made."""
    against = initial_draw.no_draw(samples)
    if against == initial_draw.NO_MATRIX:
        return Unknown(f"the normalisation weights are ones, and {against}")
    if against is not None:
        return TrainingEvidence(untrained=False, evidence=f"the normalisation weights are ones, but {against}")
    layers = "1 normalisation layer is" if norms == 1 else f"{norms} normalisation layers are"
    return TrainingEvidence(
        untrained=True, evidence=f"{layers} exactly one with zero biases, other weights are a default draw"
    )


def _readable(checkpoint: Checkpoint, name: str) -> StoredTensor | Unknown:
    """Return the tied tensor's header facts, if elements of it can be read at all."""
    tensor = checkpoint.tensor(name)
    if checkpoint.format != "safetensors" or tensor is None:
        return Unknown(f"{name} is not in a safetensors file that could be read")
    if tensor.dtype not in _ONES:
        return Unknown(f"{name} is stored as {tensor.dtype}, of which no deviation is taken")
    if len(tensor.shape) != 2 or 0 in tensor.shape:  # rows and columns
        return Unknown(f"{name} is no matrix: shape {list(tensor.shape)}")
    return tensor


def _trained(checkpoint: Checkpoint, tied: frozenset[str]) -> TrainingEvidence | Unknown:
    """Judge if the model is trained: by one normalisation weight first, by the rest only if that one is all ones."""
    for shard in checkpoint.shards:
        for name in filter(initial_draw.is_norm_gain, shard.entries):
            tensor = checkpoint.tensor(name)
            if tensor is None or not _is_vector(tensor):
                continue
            match _first_words(checkpoint, tensor):
                case "ones":
                    return _untrained(checkpoint, tied)
                case "zeros":
                    return Unknown(_ZEROS)
            return TrainingEvidence(untrained=False, evidence=f"{name} is not all ones")
    return Unknown(NO_NORM)


@byte_question
def _first_words(checkpoint: Checkpoint, gain: StoredTensor) -> Literal["ones", "zeros", "others"]:
    """Tell what a normalisation weight begins with: of most models that is all that is read."""
    with TensorFiles(checkpoint.root) as files:
        raw = files.read(gain, 0, min(gain.nbytes, _PROBE))
    if not raw.strip(b"\0"):
        return "zeros"
    one = _ONES[gain.dtype]
    return "ones" if raw.startswith(one) and raw == one * (len(raw) // len(one)) else "others"


@byte_question
def _deviation(checkpoint: Checkpoint, tensor: StoredTensor, runs: int) -> float:
    """Return the standard deviation of some runs of a tensor's elements."""
    with TensorFiles(checkpoint.root) as files:
        return initial_draw.sample_deviation(_runs(files, tensor, runs))


@byte_question
def _untrained(checkpoint: Checkpoint, tied: frozenset[str]) -> TrainingEvidence | Unknown:
    """Return the whole evidence, for a model whose first normalisation weight is exactly one."""
    if checkpoint.missing_files:
        return Unknown(f"whether the model is trained cannot be told without {checkpoint.missing_files[0]}")
    norms, matrices = 0, []
    with TensorFiles(checkpoint.root) as files:
        for name in dict.fromkeys(name for shard in checkpoint.shards for name in shard.entries):  # in the files' order
            gain = initial_draw.is_norm_gain(name)
            if gain or initial_draw.is_norm_offset(name):
                tensor = checkpoint.tensor(name)
                if tensor is None or not _is_vector(tensor):
                    continue
                word = _ONES[tensor.dtype] if gain else b"\0"
                if files.read(tensor, 0, tensor.nbytes) != word * (tensor.nbytes // len(word)):
                    return TrainingEvidence(
                        untrained=False, evidence=f"{name} is not all {'ones' if gain else 'zeros'}"
                    )
                norms += gain
            elif name not in tied and initial_draw.is_plain_matrix(name):
                matrices.append(name)
        return untrained_verdict(norms, _samples(checkpoint, files, matrices))


def _samples(checkpoint: Checkpoint, files: TensorFiles, names: list[str]) -> list[initial_draw.Sample]:
    tensors = {name: tensor for name in names if (tensor := checkpoint.tensor(name)) and _is_matrix(tensor)}
    chosen = [tensors[name] for name in initial_draw.evenly_spread(list(tensors))]
    return [initial_draw.Sample(t.name, t.shape, _runs(files, t, initial_draw.RUNS)) for t in chosen]


def _is_vector(tensor: StoredTensor) -> bool:
    return len(tensor.shape) == 1 and tensor.shape[0] > 1 and tensor.dtype in _ONES


def _is_matrix(tensor: StoredTensor) -> bool:
    return len(tensor.shape) == 2 and math.prod(tensor.shape) >= initial_draw.LEAST and tensor.dtype in _ONES


def _runs(files: TensorFiles, tensor: StoredTensor, runs: int) -> list[Sequence[float]]:
    """Read evenly spread runs of a tensor's elements."""
    from tiecheck.files.compare.distance import word_numbers  # a trained model does not pay for it

    size = len(_ONES[tensor.dtype])
    first, run = initial_draw.run_starts(math.prod(tensor.shape), runs, initial_draw.RUN)
    return [word_numbers(files.read(tensor, start * size, run * size), tensor.dtype) for start in first]
