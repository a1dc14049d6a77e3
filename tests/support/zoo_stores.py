"""Classes made small and saved in several ways, and the device maps that they are loaded under.

The maps and the members come from transformers' own tree and declaration, never from tiecheck.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from cells import changed_tensors
from safetensors.torch import save_file
from truth.mutate import _placed, _untied, saved
from zoo import Animal, Tensors, animal, few_words, tied_model
from zoo_inputs import inputs_for

from tiecheck.tables.architectures import load_architecture
from tiecheck.tables.generate.build import build_on_meta
from tiecheck.tables.generate.classes import ClassCandidate
from tiecheck.tables.generate.configs import silent_dict
from tiecheck.tables.generate.head_scale import tiny_config

RUNNABLE = 4_000_000
"""Parameters of the largest model that is taken for a smaller one because that can be run."""

VARIANTS = {
    "once": "tied and stored once, as the class saves it",
    "equal": "every member stored, all equal",
    "target": "the targets stored and not the source",
    "pickle": "stored once, as a pickle",
}

MAPS = {
    "cpu": "everything on the CPU",
    "targets": "the targets on the disk",
    "sources": "the sources on the disk",
    "members": "all members on the disk, the rest on the CPU",
    "auto": '`device_map="auto"` with 60 % of the memory that it takes',
    "proposal": "what the gate proposes in place of one of these",
    "half": "every other child of the root on the disk",
}

DeviceMap = dict[str, Any]


class Ask(NamedTuple):
    """One load."""

    word: str
    """A key of `MAPS`."""
    device_map: DeviceMap | str
    """What `from_pretrained` is given."""
    memory: dict[Any, int] | None = None
    """Its `max_memory`."""


class Store(NamedTuple):
    """A class that was saved tied, and what else is made of it."""

    one: Animal
    config: dict[str, Any]
    tensors: Tensors
    places: list[Any]
    where: Path

    @classmethod
    def of(cls, one: Animal, where: Path) -> Store:
        """Save a class; raises what it raises."""
        config, tensors = saved(tied_model(one), where / "base")
        untied = _untied(one, where / "untied")
        apart = untied[1] if untied else {}
        known = load_architecture(config["architectures"][0], config.get("model_type"), config=config)
        places = [held for tie in known.ties if (held := _placed(tie, tensors, apart)) is not None]
        return cls(one, config, tensors, places, where)

    def directory(self, variant: str) -> Path:
        """A directory of a variant."""
        path = self.where / variant
        path.mkdir(exist_ok=True)
        (path / "config.json").write_text(json.dumps(self.config))
        state = {"equal": "equal", "target": "targets"}.get(variant)
        tensors = changed_tensors(self.tensors, self.places, state) if state else self.tensors
        if variant == "pickle":
            torch.save(tensors, path / "pytorch_model.bin")
        else:
            save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
        return path

    def untied(self) -> Path | None:
        """The class saved with every flag false, its values as drawn; None where it refuses, or stays tied."""
        path = self.where / "untied"
        if not (path / "config.json").exists():
            return None
        return None if dict(on_meta(self.one.model_class, path).all_tied_weights_keys or {}) else path


def on_meta(cls: Any, where: Path) -> Any:
    """A directory's class on meta."""
    config = cls.config_class.from_pretrained(where)
    with torch.device("meta"):
        return cls(config)


def runnable(candidate: ClassCandidate) -> Animal:
    """A class made small, and where it can then not be run made small in another way; raises what `animal` raises."""
    one = animal(candidate)
    if inputs_for(tied_model(one).eval()) is not None:
        return one
    config = one.config_class()
    full = silent_dict(config)
    for small in (tiny_config(full, config, 256, 4), few_words(full, config)):
        other = one._replace(data=small)
        with contextlib.suppress(Exception):
            size = sum(p.numel() for p in build_on_meta(other.model_class, other.config_class, small).parameters())
            if size <= RUNNABLE and inputs_for(tied_model(other).eval()) is not None:
                return other
    return one


def maps_of(model: Any) -> Iterator[Ask]:
    """The maps of a model on meta, by its own declaration."""
    yield Ask("cpu", {"": "cpu"})
    pairs = dict(getattr(model, "all_tied_weights_keys", None) or {})
    targets, sources = set(pairs), set(pairs.values()) - set(pairs)
    total = sum(tensor.nbytes for tensor in {id(p): p for p in model.parameters()}.values())
    if pairs:
        yield Ask("targets", spread(model, targets))
        yield Ask("sources", spread(model, sources))
        yield Ask("members", spread(model, targets | sources))
    else:
        children = [name for name, _ in model.named_children()]
        yield Ask("half", spread(model, {n for n, _ in model.named_parameters() if n.split(".")[0] in children[1::2]}))
    yield Ask("auto", "auto", {"cpu": int(0.6 * total)})


def spread(model: Any, names: set[str]) -> DeviceMap:
    """A map with the modules that hold some names on the disk and all else on the CPU, in as few keys as can be."""
    found: DeviceMap = {}
    owners = {name.rpartition(".")[0] for name in names}

    def walk(module: Any, path: str) -> None:
        below = [owner for owner in owners if owner == path or owner.startswith(f"{path}." if path else "")]
        leaf = not any(child is not None for child in module._modules.values())
        if path and (not below or leaf):
            found[path] = "disk" if below else "cpu"
            return
        for attribute, tensor in [*module._parameters.items(), *module._buffers.items()]:
            if tensor is not None:
                name = f"{path}.{attribute}".lstrip(".")
                found[name] = "disk" if name in names else "cpu"
        for label, child in module._modules.items():
            if child is not None:
                walk(child, f"{path}.{label}".lstrip("."))

    walk(model, "")
    return found
