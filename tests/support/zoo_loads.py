"""Directories loaded by `from_pretrained`, without a map and under one, and run."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from zoo_inputs import Inputs, alike, forward, inputs_for
from zoo_stores import Ask, DeviceMap

LONGEST = 300
"""Characters of an exception that a row keeps."""

FAILS = ("raises in the load", "raises in the forward pass", "gives other results")


class Plain(NamedTuple):
    """A directory loaded without a map."""

    inputs: Inputs | None
    """What its forward pass takes; None where nothing was found that it takes."""
    outputs: list[torch.Tensor]
    """What it gives for them."""
    called: frozenset[str] = frozenset()
    """The modules that are called."""


class Came(NamedTuple):
    """What a load under a map came to."""

    word: str
    """One of `FAILS`; `is the same` or, without a forward pass, `loads`."""
    text: str = ""
    """The exception."""
    device_map: DeviceMap | None = None
    """The map that it was loaded under."""


def plain_of(cls: Any, where: Path) -> Plain:
    """A directory loaded without a map; raises what the load raises."""
    torch.manual_seed(0)
    model = cls.from_pretrained(where, local_files_only=True)
    found = inputs_for(model)
    return Plain(None, []) if found is None else Plain(*found, called(model, found[0]))


def again(cls: Any, where: Path, inputs: Inputs | None) -> Plain:
    """The same with inputs that are known."""
    torch.manual_seed(0)
    model = cls.from_pretrained(where, local_files_only=True)
    return Plain(None, []) if inputs is None else Plain(inputs, forward(model, inputs), called(model, inputs))


def called(model: Any, inputs: Inputs) -> frozenset[str]:
    """The paths of the modules that a forward pass calls."""
    seen: set[str] = set()
    hooks = [
        module.register_forward_pre_hook(lambda _, __, name=name: seen.add(name))
        for name, module in model.named_modules(remove_duplicate=False)
    ]
    forward(model, inputs)
    for hook in hooks:
        hook.remove()
    return frozenset(seen)


def load(cls: Any, where: Path, ask: Ask, plain: Plain) -> Came:
    """A directory loaded under a map, and run."""
    with tempfile.TemporaryDirectory() as folder:
        words = {"max_memory": dict(ask.memory)} if ask.memory else {}
        torch.manual_seed(0)
        try:
            model = cls.from_pretrained(
                where, device_map=copy.copy(ask.device_map), offload_folder=folder, local_files_only=True, **words
            )
        except Exception as error:  # noqa: BLE001 - whatever it raises is the answer
            return Came(FAILS[0], words_of(error))
        device_map = dict(getattr(model, "hf_device_map", None) or {})
        if plain.inputs is None:
            return Came("loads", "", device_map)
        try:
            outputs = forward(model, plain.inputs)
        except Exception as error:  # noqa: BLE001 - as above
            return Came(FAILS[1], words_of(error), device_map)
        return Came("is the same" if alike(outputs, plain.outputs) else FAILS[2], "", device_map)


def words_of(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:LONGEST]
