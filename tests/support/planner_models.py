"""Random little models whose names hold one another, with ties and aliases, for the planners to trip over."""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import nn

from tiecheck.records.placement import Ask

LABELS = ("a", "ba", "head", "lm_head", "emb", "out_emb", "t", "model", "0", "10")
ATTRIBUTES = ("weight", "w", "t", "emb")
STRATEGIES = ("auto", "balanced", "balanced_low_0", "sequential")


class Block(nn.Module):
    """A container; a class that may be named as one that stays whole."""


class Layer(Block):
    """Another."""


def random_model(draw: random.Random, *, deepest: int = 3, ties: int = 4, aliases: int = 2) -> nn.Module:
    """A tree of up to some dozens of modules, with parameters and buffers of several types."""
    root = _grown(draw, deepest)
    modules = [m for m in root.modules() if m is not root]
    owners = [m for m in root.modules() if m._parameters]
    for _ in range(draw.randint(0, ties)):
        if len(owners) > 1:
            one, other = draw.choice(owners), draw.choice(owners)
            attribute = draw.choice([*other._parameters, draw.choice(ATTRIBUTES)])
            if attribute not in other._buffers and attribute not in other._modules:
                setattr(other, attribute, one._parameters[draw.choice(list(one._parameters))])
    for _ in range(draw.randint(0, aliases)):
        if modules:
            module, place = draw.choice(modules), draw.choice([root, *modules])
            label = draw.choice(LABELS)
            free = label not in place._parameters and label not in place._buffers
            if free and not any(inner is place for inner in module.modules()):
                place.add_module(label, module)
    return root


def _grown(draw: random.Random, deepest: int) -> nn.Module:
    module = draw.choice((Block, Layer, Block))()
    for attribute in draw.sample(ATTRIBUTES, draw.choice((0, 0, 1, 1, 2)) if deepest else draw.randint(0, 2)):
        size = draw.choice((0, 1, 2, 3, 8, 8, 16, 40))
        dtype = draw.choice((torch.float32, torch.float32, torch.bfloat16))
        module.register_parameter(attribute, nn.Parameter(torch.empty(size, dtype=dtype, device="meta")))
    if draw.random() < 0.15:
        dtype = draw.choice((torch.float32, torch.bool, torch.int64))
        module.register_buffer("kept", torch.empty(draw.choice((1, 8, 30)), dtype=dtype, device="meta"))
    if deepest:
        for label in draw.sample(LABELS, draw.randint(0 if deepest < 3 else 1, 4)):
            if label not in module._parameters:
                module.add_module(label, _grown(draw, deepest - 1))
    return module


def random_ask(draw: random.Random, total: int) -> Ask:
    """Some memory, of which a model takes all, some or nearly nothing."""
    memory: dict[int | str, int] = {}
    for gpu in range(draw.choice((0, 1, 2, 2, 3, 4))):
        memory[gpu] = int(total * draw.choice((0, 0.05, 0.2, 0.4, 0.6, 1, 2)))
    if draw.random() < 0.8:
        memory["cpu"] = int(total * draw.choice((0, 0.3, 0.6, 1, 3)))
    if draw.random() < 0.2:
        memory["disk"] = total
    no_split = draw.choice((None, (), ("Layer",), ("Layer", "Block"), ("Linear",)))
    dtype = draw.choice((None, None, None, "float16", "float32"))
    return Ask(draw.choice(STRATEGIES), memory, no_split, dtype)


def plain(device_map: Any) -> dict[str, Any]:
    """A map as a dict: the order of its entries is no part of what is compared."""
    return dict(device_map)


def random_pretrained(draw: random.Random) -> Any:
    """A transformers model of a random tree, with declared ties that may or may not be real."""
    from transformers import PretrainedConfig, PreTrainedModel

    class Holder(PreTrainedModel):
        config_class = PretrainedConfig

        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.post_init()

    grown = random_model(draw, ties=2, aliases=draw.choice((0, 0, 1)))
    model = Holder(PretrainedConfig())
    for label, parameter in grown._parameters.items():
        model.register_parameter(label, parameter)
    for label, child in grown._modules.items():
        if not hasattr(model, label):
            model.add_module(label, child)
    for label, buffer in grown._buffers.items():
        model.register_buffer(label, buffer)
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    keys = {}
    for _ in range(draw.choice((0, 1, 2, 3, 6)) if len(names) > 1 else 0):
        target, source = draw.sample(names, 2)
        if source not in keys and target not in keys.values():
            keys[target] = source
    model.all_tied_weights_keys = keys
    model._no_split_modules = draw.choice((None, set(), {"Layer"}, {"Layer", "Block"}))
    if draw.random() < 0.15 and names:
        model._no_placement_params = [draw.choice(names).rpartition(".")[2], "emb", "w"]
    return model


def entangled(parts: int = 6) -> nn.Module:
    """One module whose parameters are tied into several others, so that the order of the ties decides which is split.

    Under `{0: 2850, 1: 2000, "cpu": 10000}` accelerate makes 7 maps of it in 8 hash seeds.
    """
    model = nn.Module()
    model.first = nn.Module()
    for number in range(parts):
        model.first.register_parameter(f"w{number}", nn.Parameter(torch.empty(4, 4, device="meta")))
    for number in range(parts):
        part = nn.Module()
        part.own = nn.Linear(4, 4, bias=False, device="meta")
        part.rest = nn.Linear(4 * (number + 1), 8, bias=False, device="meta")
        part.own.weight = model.first._parameters[f"w{number}"]
        model.add_module(f"part{number}x", part)
    return model


ENTANGLED: dict[int | str, int] = {0: 2850, 1: 2000, "cpu": 10_000}


def declared_entangled() -> Any:
    """The same as a transformers model that declares its ties."""
    from transformers import PretrainedConfig, PreTrainedModel

    class Entangled(PreTrainedModel):
        config_class = PretrainedConfig

        def __init__(self, config: Any) -> None:
            super().__init__(config)
            made = entangled()
            for label, child in made.named_children():
                self.add_module(label, child)
            self.post_init()

    model = Entangled(PretrainedConfig())
    model.all_tied_weights_keys = {f"part{number}x.own.weight": f"first.w{number}" for number in range(6)}
    return model
