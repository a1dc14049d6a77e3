"""Runs loads under device maps for real, and puts what came out into the words of `tiecheck.placement.loads.follow`."""

from __future__ import annotations

import gc
import itertools
import json
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import accelerate
import pytest
import torch
import transformers
from safetensors.torch import save_file
from torch import nn

from tiecheck.placement.loads.slots import LoadGroup

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
REST = {"model.layers": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu"}
"""The modules of a Llama that have no tied weight."""


class Came(NamedTuple):
    """What a load came to."""

    error: str | None
    """What was raised, type and text."""
    at: str
    """Whether the load or the forward pass raised."""
    together: tuple[tuple[str, ...], ...]
    """The names by Parameter once the load was over."""
    output: Any = None
    """What a forward pass gave."""


def llama(**options: Any) -> Any:
    sizes = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "tie_word_embeddings": True}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**(sizes | heads | options)))


def bart() -> Any:
    names = ("encoder_layers", "decoder_layers", "encoder_attention_heads", "decoder_attention_heads")
    sizes = dict.fromkeys(names, 1) | {"encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "max_position_embeddings": 32}
    return transformers.BartForConditionalGeneration(transformers.BartConfig(vocab_size=64, d_model=16, **sizes))


def t5() -> Any:
    sizes = {"vocab_size": 64, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    return transformers.T5ForConditionalGeneration(transformers.T5Config(decoder_start_token_id=0, **sizes))


def moe() -> Any:
    sizes = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 1, "moe_intermediate_size": 16}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "num_experts": 2, "num_experts_per_tok": 1}
    config = transformers.Qwen2MoeConfig(shared_expert_intermediate_size=16, tie_word_embeddings=True, **sizes, **heads)
    return transformers.Qwen2MoeForCausalLM(config)


def members(model: Any) -> tuple[str, ...]:
    return tuple(sorted({name for pair in model.all_tied_weights_keys.items() for name in pair}))


def store(model: Any, where: Path, stored: tuple[str, ...], differing: tuple[str, ...], form: str) -> None:
    """A checkpoint of a tied model that stores some members, of which some have values of their own."""
    shutil.rmtree(where, ignore_errors=True)
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(where)
    left_out = set(members(model)) - set(stored)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items() if name not in left_out}
    for name in differing:
        state[name] += 1
    if form == "pickle":
        torch.save(state, where / "pytorch_model.bin")
    elif form == "sharded":
        names = sorted(state)
        files = {name: f"model-0000{i % 2 + 1}-of-00002.safetensors" for i, name in enumerate(names)}
        for file in set(files.values()):
            part = {name: state[name] for name in names if files[name] == file}
            save_file(part, where / file, metadata={"format": "pt"})
        index = {"metadata": {"total_size": 1}, "weight_map": files}
        (where / "model.safetensors.index.json").write_text(json.dumps(index))
    else:
        save_file(state, where / "model.safetensors", metadata={"format": "pt"})


def together(model: nn.Module, names: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    by: dict[int, list[str]] = {}
    for name in names:
        by.setdefault(id(model.get_parameter(name)), []).append(name)
    return tuple(sorted(tuple(sorted(held)) for held in by.values()))


def forward(model: Any) -> torch.Tensor:
    tokens = torch.arange(6)[None]
    more = {"decoder_input_ids": tokens} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        return model(input_ids=tokens, **more).logits


def came(load: Callable[[], Any], names: tuple[str, ...], run: Callable[[Any], Any]) -> Came:
    """Load, look, run."""
    torch.manual_seed(0)
    try:
        model = load()
    except Exception as error:  # noqa: BLE001 - whatever it raises is the answer
        return Came(f"{type(error).__name__}: {error}", "load", ())
    held = together(model, names)
    try:
        return Came(None, "", held, run(model))
    except Exception as error:  # noqa: BLE001 - as above
        return Came(f"{type(error).__name__}: {error}", "forward", held)


def pretrained(cls: Any, where: Path, names: tuple[str, ...], device_map: Any, folder: Path | None) -> Came:
    """`from_pretrained` and a forward pass."""
    options = {"offload_folder": str(folder)} if folder else {}
    return came(lambda: cls.from_pretrained(where, device_map=device_map, **options), names, forward)


class Slot(nn.Module):
    """A module whose output is its weight, so that what a forward pass reads can be seen."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 2))

    def forward(self) -> torch.Tensor:
        return self.weight + 0


class Tied(nn.Module):
    """Slots under some paths, tied by the parameter, by the module, or not."""

    def __init__(self, paths: tuple[str, ...], kind: str) -> None:
        super().__init__()
        self.paths, self.other = paths, Slot()
        first = Slot()
        for i, path in enumerate(paths):
            *above, last = path.split(".")
            parent: nn.Module = self
            for part in above:
                if not hasattr(parent, part):
                    parent.add_module(part, nn.Module())
                parent = parent.get_submodule(part)
            slot = first if i == 0 or kind == "module" else Slot()
            if kind == "parameter":
                slot.weight = first.weight
            parent.add_module(last, slot)

    def forward(self) -> dict[str, torch.Tensor]:
        self.other()
        return {f"{path}.weight": self.get_submodule(path)() for path in self.paths}


def built(paths: tuple[str, ...], kind: str, *, on_meta: bool) -> Tied:
    with torch.device("meta" if on_meta else "cpu"):
        return Tied(paths, kind)


def group_of(paths: tuple[str, ...], kind: str, stored: tuple[str, ...]) -> LoadGroup:
    names = tuple(sorted(f"{path}.weight" for path in paths))
    return LoadGroup(
        names,
        (),
        stored=stored,
        slots=(0,) * len(names) if kind == "module" else (),
        objects=tuple(range(len(names))) if kind == "none" else (),
    )


def store_slots(where: Path, stored: tuple[str, ...], form: str) -> dict[str, float]:
    """A checkpoint in which each tensor is one number; name -> number."""
    where.mkdir(exist_ok=True)
    numbers = {name: 10.0 + i for i, name in enumerate(stored)}
    state = {name: torch.full((3, 2), number) for name, number in numbers.items()} | {"other.weight": torch.ones(3, 2)}
    for old in where.iterdir():
        old.unlink()
    if form == "pickle":
        torch.save(state, where / "pytorch_model.bin")
    else:
        save_file(state, where / "model.safetensors", metadata={"format": "pt"})
    return numbers


def values(tensors: Mapping[str, torch.Tensor], numbers: Mapping[str, float]) -> dict[str, str]:
    """Whose value each tensor has, in the words of `slots.py`."""
    words = {}
    for name, tensor in tensors.items():
        found = [
            f"stored {s}" for s, number in numbers.items() if not tensor.is_meta and bool((tensor == number).all())
        ]
        words[name] = "none" if tensor.is_meta else found[0] if found else "before"
    return words


def in_accelerate(function: str, module: Tied, where: Path, device_map: Any, numbers: Mapping[str, float]) -> Came:
    """One of accelerate's functions, and what a forward pass reads, or what stands there where it does not dispatch."""
    names = tuple(sorted(f"{path}.weight" for path in module.paths))
    folder = where.parent / "offload"
    shutil.rmtree(folder, ignore_errors=True)

    def load() -> nn.Module:
        if function == "dispatch_model":
            return accelerate.dispatch_model(module, device_map, offload_dir=folder)
        if function == "load_checkpoint_and_dispatch":
            return accelerate.load_checkpoint_and_dispatch(
                module, where, device_map=device_map, offload_folder=str(folder)
            )
        accelerate.load_checkpoint_in_model(module, where, device_map=device_map, offload_folder=str(folder))
        return module

    def run(model: Any) -> dict[str, str]:
        if function == "load_checkpoint_in_model":
            return values({name: model.get_parameter(name) for name in names}, numbers)
        with torch.no_grad():
            return values(model(), numbers)

    return came(load, names, run)


def subsets(names: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for size in range(len(names) + 1):
        yield from itertools.combinations(names, size)


@pytest.fixture
def still(monkeypatch):
    """No log, no progress bar, and none of the collections that accelerate makes after each file: they take seconds."""
    monkeypatch.setattr(gc, "collect", lambda *_: 0)
    transformers.logging.disable_progress_bar()
    was = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(was)
    transformers.logging.enable_progress_bar()
