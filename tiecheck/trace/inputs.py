"""Inputs made up for a forward pass: tokens, pictures, sound, by names of arguments and sizes of the config."""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import os
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from tiecheck.errors import TargetError, foreign_errors

LENGTH = 8
"""Tokens of a made-up text."""

_PICTURE = 512
"""Pixels of the largest side that is tried."""


class Inputs(NamedTuple):
    """Arguments of a forward pass."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def words(self) -> str:
        """Name them with their shapes."""
        named = [("", value) for value in self.args] + [(f"{key} ", value) for key, value in self.kwargs.items()]
        return ", ".join(f"{key}{list(v.shape) if isinstance(v, torch.Tensor) else v}" for key, v in named)


def given_inputs(given: Any) -> Inputs:
    """Return what a user gave as inputs: arguments by name, a tuple of positional ones, or the one there is."""
    if callable(given) and not isinstance(given, (torch.Tensor, Mapping)):
        given = given()
    if isinstance(given, Mapping):
        return Inputs((), dict(given))
    return Inputs(tuple(given) if isinstance(given, (tuple, list)) else (given,), {})


def inputs_from_file(text: str) -> Inputs:
    """Call the function that `file.py:make` names, which returns the inputs. Runs that code.

    What is not there, or raises, is a `TargetError`.
    """
    path, _, name = text.rpartition(":")
    if not path.endswith(".py") or not os.path.isfile(path):
        raise TargetError(f"--inputs wants FILE.py:FUNCTION, and {path or text} is no Python file", path or text)
    spec = importlib.util.spec_from_file_location("_tiecheck_inputs", path)
    if spec is None or spec.loader is None:
        raise TargetError(f"{path} cannot be imported", path)
    module = importlib.util.module_from_spec(spec)
    with foreign_errors(f"the inputs of {text}"):
        spec.loader.exec_module(module)
        if not callable(getattr(module, name, None)):
            raise TargetError(f"{path} has no function {name!r}", path)
        return given_inputs(getattr(module, name))


def made_inputs(module: nn.Module) -> Iterator[Inputs]:
    """Yield inputs that a module may take, the likeliest first: text, then pictures, sound, series, with text or alone.

    A module of another library gets tokens, then values as wide as its first layer.
    """
    named = inspect.signature(module.forward).parameters
    config = getattr(module, "config", None)
    ids = _tokens(config, module)
    text: dict[str, Any] = {n: ids for n in ("input_ids", "decoder_input_ids") if n in named}
    text |= {n: ids for n, p in named.items() if n.endswith("_input_ids") and p.default is p.empty}
    if text:
        yield Inputs((), text)
        yield Inputs((), {"input_ids": ids} | _more(named, ids))
        yield from (Inputs((), text | more) for more in (_more(named, ids), *_instead(named, config, ids)))
    first = next(iter(named.values()), None)
    if first is not None and not text and first.kind is not first.VAR_KEYWORD and not _others(named, config):
        tokens = [ids] if any(isinstance(m, nn.Embedding) for m in module.modules()) else []
        for value in (*tokens, *_values(module), ids):
            yield Inputs((value,), {})
    for other in _others(named, config):
        yield Inputs((), other)
        yield Inputs((), text | other)
        yield Inputs((), other | {"decoder_input_ids": ids})
    with contextlib.suppress(Exception):
        yield Inputs((), dict(module.dummy_inputs))  # type: ignore[arg-type]


def config_parts(config: Any, depth: int = 0) -> Iterator[Any]:
    """Yield a config and the configs in it, the outermost first."""
    if config is None or depth > 3:  # a config in a config in a config
        return
    yield config
    for value in list(vars(config).values()) if hasattr(config, "__dict__") else ():
        if hasattr(value, "to_dict") and hasattr(value, "model_type"):
            yield from config_parts(value, depth + 1)


def _tokens(config: Any, module: nn.Module | None = None) -> torch.Tensor:
    """Return one text of made-up tokens that ends with what the config calls its end."""
    sizes = [s for o in config_parts(config) if isinstance(s := getattr(o, "vocab_size", None), int) and s > 1]
    if not sizes and module is not None:
        sizes = [t.num_embeddings for t in module.modules() if isinstance(t, nn.Embedding) and t.num_embeddings > 1]
    ids = torch.arange(5, 5 + LENGTH)[None] % min(sizes, default=1 << 30)
    ends = [e for o in config_parts(config) if isinstance(e := getattr(o, "eos_token_id", None), int)]
    if ends and 0 <= ends[0] < min(sizes, default=0):
        ids[0, -1] = ends[0]
    return ids


def _more(named: Mapping[str, Any], ids: torch.Tensor) -> dict[str, Any]:
    """Return what some models of text want besides."""
    more: dict[str, Any] = {}
    if "bbox" in named:
        more["bbox"] = torch.zeros(*ids.shape, 4, dtype=torch.long)
    if "lang_ids" in named:
        more["lang_ids"] = torch.zeros(1, dtype=torch.long)
    if "attention_mask" in named:
        more["attention_mask"] = torch.ones_like(ids)
    if "use_cache" in named or any(parameter.kind is parameter.VAR_KEYWORD for parameter in named.values()):
        more["use_cache"] = False
    return more


def _instead(named: Mapping[str, Any], config: Any, ids: torch.Tensor) -> Iterator[dict[str, Any]]:
    """Yield what some models of text want otherwise: texts to choose from, boxes that are no indices, embeddings."""
    if "input_ids" in named:
        yield {"input_ids": ids[None]}
    if "bbox" in named:
        yield _more(named, ids) | {"bbox": torch.zeros(*ids.shape, 4)}
    books = [n for o in config_parts(config) if isinstance(n := getattr(o, "num_codebooks", None), int) and n > 1]
    if books and "decoder_input_ids" in named:
        yield {"decoder_input_ids": ids.expand(books[0], -1)}
    width = getattr(config, "hidden_size", None)
    if isinstance(width, int) and {"inputs_embeds", "input_ids"} <= named.keys():
        yield {"input_ids": None, "inputs_embeds": torch.zeros(1, LENGTH, width)}


def _others(named: Mapping[str, Any], config: Any) -> list[dict[str, Any]]:
    """Return inputs that are no text."""
    found: list[dict[str, Any]] = []
    if "pixel_values" in named:
        for side, channels in _pictures(config):
            found.append({"pixel_values": torch.zeros(1, channels, side, side)})
        found.append({"pixel_values": torch.zeros(1, 1, 3, 64, 64)})
    if "pixel_values_videos" in named:
        found.append({"pixel_values_videos": torch.zeros(1, 16, 3, 224, 224)})
    if "input_values" in named:
        found += [{"input_values": torch.zeros(1, 4000)}, {"input_values": torch.zeros(1, 1, 4000)}]
        found.append({"input_values": _tokens(config)})
    if "input_features" in named:
        for bands, length in _spectra(config):
            found.append({"input_features": torch.zeros(1, bands, length)})
            found.append({"input_features": torch.zeros(1, length, bands)})
    if "flattened_patches" in named:  # a row, a column, and the pixels of a patch
        sizes = [s for o in config_parts(config) if isinstance(s := getattr(o, "patch_embed_hidden_size", None), int)]
        found.append({"flattened_patches": torch.zeros(1, LENGTH, 2 + (sizes[0] if sizes else 768))})
    if "past_values" in named:
        found.append({"past_values": torch.zeros(1, 64, 1)})
    if "inputs_embeds" in named and "input_ids" not in named:
        found.append({"inputs_embeds": torch.zeros(1, LENGTH, getattr(config, "hidden_size", None) or 64)})
    return found


def _pictures(config: Any) -> Iterator[tuple[int, int]]:
    sides: dict[tuple[int, int], None] = {}
    for owner in config_parts(config):
        side = getattr(owner, "image_size", None)
        side = side[0] if isinstance(side, (list, tuple)) and side else side
        if isinstance(side, int) and 0 < side <= _PICTURE:
            sides[side, getattr(owner, "num_channels", 3) or 3] = None
    yield from dict.fromkeys([*sides, (64, 3), (224, 3)])


def _spectra(config: Any) -> Iterator[tuple[int, int]]:
    for owner in config_parts(config):
        bands = getattr(owner, "num_mel_bins", None) or getattr(owner, "feature_projection_input_dim", None)
        length = getattr(owner, "max_source_positions", None)
        if isinstance(bands, int):
            yield bands, 64
            if isinstance(length, int):
                yield bands, 2 * length
    yield 80, 64


def _values(module: nn.Module) -> Iterator[torch.Tensor]:
    """Yield values as wide as the first layer that wants some."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear) and type(layer.in_features) is int and layer.in_features > 0:
            yield torch.zeros(1, layer.in_features)
            yield torch.zeros(1, LENGTH, layer.in_features)
            return
        if isinstance(layer, nn.Conv2d):
            yield torch.zeros(1, layer.in_channels, 32, 32)
            return
        if isinstance(layer, nn.Conv1d):
            yield torch.zeros(1, layer.in_channels, 64)
            return
