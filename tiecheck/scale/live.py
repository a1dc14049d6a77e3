"""Measures what a tied embedding's scale does to untrained logits, in a live module: TIE701's live half."""

from __future__ import annotations

import copy
import math
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from tiecheck.records.scale import InitScale
from tiecheck.records.words import Unknown
from tiecheck.scale import initial_draw
from tiecheck.scale.prediction import own_share, predict_untrained, predicted_deviation
from tiecheck.scale.stored import HARMLESS, NO_NORM, TrainingEvidence, scale_record, untrained_verdict
from tiecheck.trace import forward
from tiecheck.trace.reads import ReadTrace, is_norm_layer

_ELEMENTS = 1 << 24
_CLOSE = 0.01

_ON_META = "on meta: the weights were not looked at"
_SMALL = "no forward pass: the scale does no harm unless the class multiplies its logits"


_NO_HEAD = TrainingEvidence(untrained=False, evidence="its forward makes no logits of this tensor")


class _Head(NamedTuple):
    """Facts on the way from the last normalisation to the logits."""

    scale: float | None
    rms: float | None
    reason: str | None


def live_scale(
    module: nn.Module, names: tuple[str, ...], *, std: float | None = None, measure: bool = False
) -> InitScale | Unknown:
    """Return the scale of a live module's tied tensor, predicted and, where it may do harm, measured.

    A module with weights is judged by them. If it is untrained and the logits' deviation may reach `HARMLESS`, one
    forward pass on random tokens measures it; below, `head_scale` stays None and `predicted` takes it for 1. Only
    names, modes, buffers and random state are read or put back as they were; nothing is written to a parameter. A
    lazy module is measured in a copy. A module on meta is only watched: the head's scale and its normalised input
    are seen, `std` comes from the caller, `untrained` is false because nobody looked.

    Args:
        module: The model, on meta or with weights.
        names: The names of the tied tensor, shape (vocabulary, width): embedding and head, or one functional name.
        std: On meta: the standard deviation of the stored tensor.
        measure: True to run the model whatever its weights look like.

    Returns:
        The record, with a reason where the forward pass failed or the trail from head to logits was lost. Unknown
        where nothing at all can be said. No exception of the model's leaves this function.
    """
    tied = _tied(module, names)
    if isinstance(tied, Unknown):
        return tied
    if not tied.is_meta:
        return _with_weights(module, names, tied, measure=measure)
    if std is None:
        return Unknown("on meta: there are no weights to look at")
    return _on_meta(module, names, tied, std)


def _with_weights(
    module: nn.Module, names: tuple[str, ...], tied: torch.Tensor, *, measure: bool
) -> InitScale | Unknown:
    """Return the record of a module that has weights; a forward pass only where it may show something."""
    if any(p.is_meta and not is_lazy(p) for p in module.parameters()):
        return Unknown("some weights are on meta")
    std = _deviation(tied)
    if not math.isfinite(std):
        return Unknown(f"{names[0]} holds values that are not finite")
    verdict = _verdict(module, tied)
    assumed = predicted_deviation(std, tied.shape[1], 1.0, 1.0)
    known = TrainingEvidence(untrained=False, evidence=verdict.reason) if isinstance(verdict, Unknown) else verdict
    base = scale_record(names, tied.shape, std, known)._replace(drawn=initial_draw.draw_of(_sample(names[0], tied)))
    if measure:
        return _measured(module, names[0], base)
    if assumed < HARMLESS:
        return base._replace(predicted=assumed, reason=_SMALL)
    if isinstance(verdict, Unknown):
        return verdict
    return _measured(module, names[0], base) if verdict.untrained else base


def _tied(module: nn.Module, names: tuple[str, ...]) -> torch.Tensor | Unknown:
    """Return the one tensor behind some names, if it is a plain floating matrix."""
    found: list[torch.Tensor] = []
    for name in names:
        try:
            found.append(module.get_parameter(name))
        except AttributeError:
            return Unknown(f"the module has no parameter {name}")
    tied = found[0]
    if any(other is not tied for other in found):
        return Unknown(f"{', '.join(names)} are not one parameter of the module itself")
    if is_lazy(tied):
        return Unknown(f"{names[0]} is not initialised yet")
    if not _is_plain(tied):
        return Unknown(f"{names[0]} is no plain floating tensor: {type(tied).__name__} of {tied.dtype}, {tied.layout}")
    if tied.dim() != 2 or 0 in tied.shape:  # rows and columns
        return Unknown(f"{names[0]} is no matrix: shape {list(tied.shape)}")
    return tied


@torch.no_grad()
def _deviation(tensor: torch.Tensor) -> float:
    """Return the standard deviation, over evenly spread rows where there are very many elements."""
    step = -(-tensor.numel() // _ELEMENTS)
    return float(tensor.detach()[::step].float().std(correction=0))


@torch.no_grad()
def _verdict(module: nn.Module, tied: torch.Tensor) -> TrainingEvidence | Unknown:
    """Return True if the evidence says that nothing has been trained."""
    norms = 0
    for path, layer in module.named_modules():
        for leaf, parameter in layer.named_parameters(recurse=False):
            name = f"{path}.{leaf}"
            gain = initial_draw.is_norm_gain(name) or (is_norm_layer(layer) and leaf in initial_draw.GAINS)
            offset = initial_draw.is_norm_offset(name) or (is_norm_layer(layer) and leaf in initial_draw.OFFSETS)
            if is_lazy(parameter) or parameter.dim() != 1 or parameter.numel() < 2 or not (gain or offset):
                continue
            if gain and not bool((parameter == 1).all()):
                if bool((parameter == 0).all()):
                    if not _adds_one(layer, parameter):
                        return Unknown(f"{name} is all zero, and the layer could not be seen to add one to it")
                else:
                    return TrainingEvidence(untrained=False, evidence=f"{name} is not all ones")
            if offset and bool((parameter != 0).any()):
                return TrainingEvidence(untrained=False, evidence=f"{name} is not all zeros")
            norms += gain
    return _fresh(module, tied, norms) if norms else Unknown(NO_NORM)


def _adds_one(layer: nn.Module, gain: torch.Tensor) -> bool:
    """Return True if a normalisation layer whose weight is zero gives out normalised values: it adds one (Gemma)."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(4, gain.numel(), generator=generator).to(gain)
    try:
        rms = layer(values).float().square().mean(dim=-1).sqrt()
    except Exception:  # noqa: BLE001 (a layer that wants more than its input tells nothing)
        return False
    return bool(((rms - 1).abs() < _CLOSE).all())


def _fresh(module: nn.Module, tied: torch.Tensor, norms: int) -> TrainingEvidence | Unknown:
    """Return the evidence of the other weights, once every normalisation layer is as it was made."""
    tables = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding)} | {id(tied)}
    named = ((n, p) for n, p in module.named_parameters() if initial_draw.is_plain_matrix(n) and id(p) not in tables)
    plain = {name: p for name, p in named if _is_matrix(p)}
    if not plain and any(is_lazy(p) for p in module.parameters()):
        return TrainingEvidence(
            untrained=True, evidence=f"{norms} normalisation layers are new, lazy layers saw no input yet"
        )
    return untrained_verdict(norms, (_sample(name, plain[name]) for name in initial_draw.evenly_spread(list(plain))))


def _is_matrix(parameter: torch.Tensor) -> bool:
    return _is_plain(parameter) and parameter.dim() == 2 and parameter.numel() >= initial_draw.LEAST  # rows and columns


def _is_plain(parameter: nn.Parameter | torch.Tensor) -> bool:
    """Return True for a dense floating parameter of torch's own class: a sparse one has no elements to sample."""
    dense = type(parameter) is nn.Parameter and parameter.layout is torch.strided
    return dense and parameter.is_floating_point()


def _sample(name: str, tensor: torch.Tensor) -> initial_draw.Sample:
    first, run = initial_draw.run_starts(tensor.numel(), initial_draw.RUNS, initial_draw.RUN)
    where = torch.tensor(first).unsqueeze(1) + torch.arange(run)
    values = tensor.detach().reshape(-1)[where.to(tensor.device)].float().cpu()
    return initial_draw.Sample(name, tuple(tensor.shape), values.tolist())


def _on_meta(module: nn.Module, names: tuple[str, ...], tied: torch.Tensor, std: float) -> InitScale | Unknown:
    """Return the head's scale, watched on meta; nothing if the head's input or its product cannot be followed."""
    passed = forward.run_on_random_tokens(module, tied)
    if isinstance(passed, str) and not _is_encoder(module, names, passed):
        return Unknown(passed)
    if isinstance(passed, str):
        return scale_record(names, tied.shape, std, _NO_HEAD)._replace(predicted=0.0, reason=_NO_HEAD.evidence)
    head = _head(passed.trace, passed.logits, measure=False)
    if head.scale is None or head.rms is None:
        return Unknown(head.reason or "the head could not be followed")
    predicted = predicted_deviation(std, tied.shape[1], head.rms, head.scale)
    base = scale_record(names, tied.shape, std, TrainingEvidence(untrained=False, evidence=_ON_META))
    return base._replace(head_scale=head.scale, hidden_rms=head.rms, predicted=predicted)


def _measured(module: nn.Module, name: str, base: InitScale) -> InitScale:
    """Complete the record of an untrained module by a forward pass."""
    if any(is_lazy(p) for p in module.parameters()):
        try:
            module = copy.deepcopy(module)
        except Exception as error:  # noqa: BLE001 (a model may refuse to be copied in any way)
            return base._replace(reason=f"lazy layers saw no input yet, and no copy can be made: {error}")
    passed = forward.run_on_random_tokens(module, module.get_parameter(name))
    if isinstance(passed, str):
        if _is_encoder(module, base.names, passed):
            return base._replace(predicted=0.0, reason=_NO_HEAD.evidence)
        return base._replace(reason=passed)
    head = _head(passed.trace, passed.logits, measure=True)
    base = base._replace(head_scale=head.scale, hidden_rms=head.rms, reason=head.reason)
    if base.std is not None and head.scale is not None and head.rms is not None:
        predicted = predicted_deviation(base.std, base.width, head.rms, head.scale)
        base = _own_token(module, passed, base._replace(predicted=predicted), predicted)
    shown = forward.logits_figures(passed.logits, passed.ids)
    if isinstance(shown, str):
        return base._replace(reason=base.reason or shown)
    return base._replace(
        measured=shown.deviation, loss=shown.loss, repeats=shown.repeats, margin=shown.margin, sampled=shown.sampled
    )


def _is_encoder(module: nn.Module, names: tuple[str, ...], why: str) -> bool:
    """Return True if a model gives out no logits and registers its tied tensor in embeddings alone: it has no head."""
    owners = [module.get_submodule(name.rpartition(".")[0]) for name in names]
    return why.startswith(forward.NO_LOGITS) and all(isinstance(owner, nn.Embedding) for owner in owners)


def _own_token(module: nn.Module, passed: forward.Pass, base: InitScale, deviation: float) -> InitScale:
    """Complete a prediction by what becomes of each position's own token, where its row could be followed."""
    tied = module.get_parameter(base.names[0])
    scale, added = None, 0.0
    for read in passed.trace.reads:
        table = passed.trace.sources[read.sources[0]]
        if read.role == "embedding" and table is tied:
            scale = read.scale if scale is None else scale
        elif table.dim() > 1 and table.shape[-1] == base.width and (read.role == "embedding" or read.op == "add"):
            added += (_deviation(table) * (read.scale or 1.0)) ** 2
    if scale is None or base.std is None:
        return base
    blocks = max((len(m) for m in module.modules() if isinstance(m, nn.ModuleList)), default=0)
    share = own_share(base.std, scale, added, blocks)
    found = predict_untrained(deviation, base.width, base.vocabulary, share)
    return base._replace(
        embedding_scale=scale,
        share=share,
        predicted_margin=found.margin,
        predicted_loss=found.loss,
        predicted_sampled=found.repeats,
    )


def _head(trace: ReadTrace, logits: torch.Tensor, *, measure: bool) -> _Head:
    """Return the head's scale and the root mean square of its input, as counted from the last normalisation layer."""
    if not trace.heads:
        return _Head(None, None, "no product with the tied tensor was seen in the forward pass")
    reached = trace.reached(logits)
    if reached is None or reached[0] not in trace.heads:
        reached = trace.heads[-1], _ratio(trace, logits) if measure else None
    use, factor = reached
    reason = None if factor is not None else f"the logits are made of the head's product by `{trace.lost or 'unknown'}`"
    before = 1.0 if use.norm is None else use.norm
    rms = None if use.norm is None else 1.0
    if measure and use.hidden is not None:
        rms = float(use.hidden.float().square().mean().sqrt()) / abs(before)
    elif rms is None:
        reason = reason or "the head's input does not come straight from a normalisation layer"
    return _Head(None if factor is None else abs(factor * before * (use.before or math.nan)), rms, reason)


@torch.no_grad()
def _ratio(trace: ReadTrace, logits: torch.Tensor) -> float | None:
    """Return the constant factor between the head's product and the logits, if there is one."""
    product = trace.heads[-1].product
    if product is None or product is logits or product.numel() != logits.numel():
        return None
    ours, theirs = product.reshape(-1).float(), logits.reshape(-1).float()
    factor = float((ours @ theirs) / (ours @ ours))
    error = float((theirs - factor * ours).abs().max() / theirs.abs().max())
    return factor if math.isfinite(factor) and error < _CLOSE else None
