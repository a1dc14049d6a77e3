"""Changes of the files: ways to write the weights, and what lies beside them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st
from safetensors.torch import save_file
from zoo import Tensors

from harness.draft import Draft, Drawn, Mutator
from harness.saves import Save


def _plain(draft: Draft) -> Tensors:
    return {name: value.clone().contiguous() for name, value in draft.tensors.items()}


def _one(name: str, metadata: dict[str, str] | None) -> Callable[[Draft, Path], None]:
    return lambda draft, where: save_file(_plain(draft), where / name, metadata=metadata)


def _pickle(name: str, key: str | None = None) -> Callable[[Draft, Path], None]:
    return lambda draft, where: torch.save({key: _plain(draft)} if key else _plain(draft), where / name)


def _shards(fault: str = "") -> Callable[[Draft, Path], None]:
    def write(draft: Draft, where: Path) -> None:
        tensors = _plain(draft)
        names = sorted(tensors)
        if len(names) < 2:
            return _one("model.safetensors", {"format": "pt"})(draft, where)
        parts = {f"model-0000{i + 1}-of-00002.safetensors": names[i::2] for i in (0, 1)}
        weight_map = {name: file for file, held in parts.items() for name in held}
        member = next((f for f in draft.files.values() if f in tensors), names[0])
        if fault == "unindexed":
            del weight_map[member]
        elif fault == "swapped":
            weight_map[member] = next(file for file in parts if file != weight_map[member])
        elif fault == "phantom":
            weight_map |= {f: weight_map[member] for f in draft.files.values() if f not in tensors}
        elif fault == "twice":
            next(held for file, held in parts.items() if file != weight_map[member]).append(member)
        for file, held in parts.items():
            save_file({n: tensors[n] for n in held}, where / file, metadata={"format": "pt"})
        if fault != "no index":
            head = {} if fault == "no metadata" else {"metadata": {}}
            text = json.dumps({**head, "weight_map": weight_map})
            (where / "model.safetensors.index.json").write_text(text)
        return None

    return write


def _dedup(metadata: dict[str, str]) -> Callable[[Draft, Path], None]:
    """As `safetensors.torch.save_model` writes: one name a tensor, and in the metadata what each other one is."""

    def write(draft: Draft, where: Path) -> None:
        tensors, gone = _plain(draft), dict(metadata)
        for group in draft.save.groups:
            there = sorted(draft.files[name] for name in group if draft.files[name] in tensors)
            kept = there[:1] or [draft.files[group[0]]]
            gone |= {draft.files[name]: kept[0] for name in group if draft.files[name] not in kept}
            for name in there[1:]:
                del tensors[name], draft.tensors[name]
        save_file(tensors, where / "model.safetensors", metadata=gone or None)

    return write


def _both(draft: Draft, where: Path) -> None:
    _one("model.safetensors", {"format": "pt"})(draft, where)
    other = {name: value + 1 if value.is_floating_point() else value for name, value in draft.tensors.items()}
    torch.save(other, where / "pytorch_model.bin")


def _elsewhere(draft: Draft, where: Path) -> None:
    (where / "sub").mkdir()
    _one("sub/model.safetensors", {"format": "pt"})(draft, where)


def _named(draft: Draft, where: Path) -> None:
    _one("custom.safetensors", {"format": "pt"})(draft, where)
    data = json.loads((where / "config.json").read_text()) | {"transformers_weights": "custom.safetensors"}
    (where / "config.json").write_text(json.dumps(data))


LAYOUTS: dict[str, Callable[[Draft, Path], None]] = {
    "one": _one("model.safetensors", {"format": "pt"}),
    "no metadata": _one("model.safetensors", None),
    "no format": _one("model.safetensors", {"made": "by hand"}),
    "tf format": _one("model.safetensors", {"format": "tf"}),
    "save_model": _dedup({}),
    "save_model with format": _dedup({"format": "pt"}),
    "odd name": _one("weights.safetensors", {"format": "pt"}),
    "variant": _one("model.fp16.safetensors", {"format": "pt"}),
    "adapter name": _one("adapter_model.safetensors", {"format": "pt"}),
    "consolidated alone": _one("consolidated.safetensors", {"format": "pt"}),
    "subfolder": _elsewhere,
    "transformers_weights": _named,
    "pickle": _pickle("pytorch_model.bin"),
    "nested pickle": _pickle("pytorch_model.bin", "state_dict"),
    "nested model": _pickle("pytorch_model.bin", "model"),
    "pt": _pickle("model.pt"),
    "both formats": _both,
    "shards": _shards(),
    "shards without index": _shards("no index"),
    "index without metadata": _shards("no metadata"),
    "member unindexed": _shards("unindexed"),
    "member in another shard": _shards("swapped"),
    "phantom members": _shards("phantom"),
    "member twice": _shards("twice"),
}
"""Ways to write the weights."""


@dataclass(frozen=True)
class Layout(Mutator):
    """The weights are written in another way."""

    kind: str

    def apply(self, draft: Draft) -> None:
        draft.layout = self.kind

    @classmethod
    def drawn(cls, save: Save) -> Drawn:
        return st.sampled_from(sorted(LAYOUTS)).map(cls)


def _stale(name: str) -> Callable[[Draft, Path], None]:
    def write(draft: Draft, where: Path) -> None:
        if not (where / name).exists():
            other = {n: t + 1 if t.is_floating_point() else t for n, t in _plain(draft).items()}
            save_file(other, where / name, metadata={"format": "pt"})

    return write


def _text(name: str, data: Any) -> Callable[[Draft, Path], None]:
    def write(draft: Draft, where: Path) -> None:
        (where / name).write_text(json.dumps(data))

    return write


def _adapter(draft: Draft, where: Path) -> None:
    """A LoRA of rank one on a matrix that is no member, beside the model's own files."""
    members = {*draft.files.values()}
    names = [n for n, t in draft.tensors.items() if t.dim() == 2 and n.endswith("proj.weight") and n not in members]
    if not names:
        return
    module = names[0].removesuffix(".weight")
    rows, columns = draft.tensors[names[0]].shape
    start = f"base_model.model.{module}"
    tensors = {f"{start}.lora_A.weight": torch.ones(1, columns), f"{start}.lora_B.weight": torch.ones(rows, 1)}
    save_file(tensors, where / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": [module], "base_model_name_or_path": None}
    (where / "adapter_config.json").write_text(json.dumps(config))


BESIDE: dict[str, Callable[[Draft, Path], None]] = {
    "adapter": _adapter,
    "adapter config alone": _text("adapter_config.json", {"peft_type": "LORA", "r": 1, "target_modules": ["q_proj"]}),
    "consolidated": _stale("consolidated.safetensors"),
    "vendor params": _text("params.json", {"dim": 64, "n_layers": 2, "tied_embeddings": False}),
    "generation config": _text("generation_config.json", {"eos_token_id": 1}),
    "optimizer": lambda draft, where: torch.save({"state": {}, "param_groups": []}, where / "optimizer.pt"),
    "training arguments": lambda draft, where: torch.save({"lr": 1}, where / "training_args.bin"),
    "stale index": _text("pytorch_model.bin.index.json", {"metadata": {}, "weight_map": {"a": "pytorch_model-1.bin"}}),
    "another file": _stale("extra.safetensors"),
    "variant": _stale("model.fp16.safetensors"),
}
"""Files beside the weights."""


@dataclass(frozen=True)
class Beside(Mutator):
    """A file more lies in the directory."""

    kind: str

    def apply(self, draft: Draft) -> None:
        draft.beside.append(self.kind)

    @classmethod
    def drawn(cls, save: Save) -> Drawn:
        return st.sampled_from(sorted(BESIDE)).map(cls)


def write(draft: Draft, where: Path) -> None:
    """Write a directory."""
    where.mkdir(parents=True, exist_ok=True)
    (where / "config.json").write_text(json.dumps(draft.config, indent=1))
    LAYOUTS[draft.layout](draft, where)
    for word in draft.beside:
        BESIDE[word](draft, where)
