"""Inputs for a forward pass of any class, found by trying: what a plain load takes twice with the same result."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from tiecheck.tables.generate.configs import config_objects

Inputs = dict[str, Any]

LONGEST = 1500
"""Pairs of frames of the longest spectrum that is tried; Whisper takes no other number than its own."""


def forward(model: Any, inputs: Inputs) -> list[torch.Tensor]:
    """Every floating tensor of the output, under one seed: some classes draw in evaluation too."""
    torch.manual_seed(0)
    with torch.no_grad():
        return list(_tensors(model(**inputs), 0))


def _tensors(value: Any, depth: int) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        if value.is_floating_point():
            yield value
    elif depth < 4:
        items = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()
        for item in items:
            yield from _tensors(item, depth + 1)


def alike(some: list[torch.Tensor], others: list[torch.Tensor]) -> bool:
    """Whether two outputs are the same, but for the last bits: weights on the disk may be aligned in another way."""
    return len(some) == len(others) and all(
        a.shape == b.shape and torch.allclose(a.float(), b.float(), rtol=1e-4, atol=1e-5, equal_nan=True)
        for a, b in zip(some, others, strict=True)
    )


def inputs_for(model: Any) -> tuple[Inputs, list[torch.Tensor]] | None:
    """Inputs that a model takes, and what it gives; None where none was found."""
    for inputs in _tries(model):
        with contextlib.suppress(Exception):
            first = forward(model, inputs)
            if first and alike(first, forward(model, inputs)):
                return inputs, first
    return None


def _tries(model: Any) -> Iterator[Inputs]:
    """Text, then images, then sound, alone and with text."""
    named = inspect.signature(model.forward).parameters
    ids = torch.tensor([[5, 6, 7, 8, 9, 10, 11, 12]])
    text: Inputs = {name: ids for name in ("input_ids", "decoder_input_ids") if name in named}
    if text:
        yield text
        yield text | {"bbox": torch.zeros(1, 8, 4, dtype=torch.long)} if "bbox" in named else text
        yield {"input_ids": ids}
        yield from _with_an_end(model, ids)
        if "lang_ids" in named:
            yield text | {"lang_ids": torch.zeros(1, dtype=torch.long)}
    others = list(_others(model, named))
    for other in others:
        yield other
        yield text | other
        yield other | {"decoder_input_ids": ids}
    with contextlib.suppress(Exception):
        yield dict(model.dummy_inputs)


def _with_an_end(model: Any, ids: torch.Tensor) -> Iterator[Inputs]:
    """Text that ends with the token which a classifier of an encoder and decoder looks for."""
    for _, owner in config_objects(model.config):
        end = getattr(owner, "eos_token_id", None)
        if isinstance(end, int):
            ended = ids.clone()
            ended[0, -1] = end
            yield {"input_ids": ended}


def _others(model: Any, named: Mapping[str, Any]) -> Iterator[Inputs]:
    if "pixel_values" in named:
        for side, channels in _images(model.config):
            yield {"pixel_values": torch.linspace(-1, 1, channels * side * side).reshape(1, channels, side, side)}
        yield {"pixel_values": torch.linspace(-1, 1, 3 * 64 * 64).reshape(1, 1, 3, 64, 64)}
    if "input_values" in named:
        yield {"input_values": torch.linspace(-1, 1, 4000)[None]}
        yield {"input_values": torch.linspace(-1, 1, 4000)[None, None]}
        yield {"input_values": torch.tensor([[5, 6, 7, 8]])}
    if "input_features" in named:
        for bands, length in _bands(model.config):
            features = torch.linspace(-1, 1, bands * length).reshape(1, bands, length)
            yield {"input_features": features}
            yield {"input_features": features.mT}
    if "past_values" in named:
        yield {"past_values": torch.linspace(-1, 1, 64)[None, :, None]}
    if "inputs_embeds" in named:
        yield {"inputs_embeds": torch.linspace(-1, 1, 8 * _width(model)).reshape(1, 8, -1)}


def _width(model: Any) -> int:
    width = getattr(model.config.get_text_config(), "hidden_size", 64)
    return width if isinstance(width, int) else 64


def _images(config: Any) -> Iterator[tuple[int, int]]:
    sides = []
    for _, owner in config_objects(config):
        side = getattr(owner, "image_size", None)
        side = side[0] if isinstance(side, (list, tuple)) and side else side
        if isinstance(side, int) and 0 < side <= 448:
            sides.append((side, getattr(owner, "num_channels", 3) or 3))
    yield from dict.fromkeys([*sides, (64, 3), (224, 3)])


def _bands(config: Any) -> Iterator[tuple[int, int]]:
    """Bands and lengths of a spectrum: what is short first, for attention over thousands of frames takes minutes."""
    for _, owner in config_objects(config):
        bands = getattr(owner, "num_mel_bins", None) or getattr(owner, "feature_projection_input_dim", None)
        length = getattr(owner, "max_source_positions", None)
        if isinstance(bands, int):
            yield bands, 64
            if isinstance(length, int) and length <= LONGEST:
                yield bands, 2 * length
    yield 80, 64
