"""Every cell of one class: a save, what is changed in its tensors, and what is changed in its flags."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from cells import Place, changed_tensors, place
from safetensors.torch import load_file, save_file
from zoo import Animal, Tensors, flag_edits, tied_model, written

from tiecheck.records.declared import TieSpec
from tiecheck.tables.architectures import FLAG, load_architecture
from tiecheck.tables.generate.configs import Level

STATES = {
    "source": "the source alone (the head dropped)",
    "targets": "the targets alone (the embedding dropped)",
    "equal": "an equal copy added",
    "different": "a different copy added",
    "none": "nothing of the group stored",
    "shapes": "copies with three rows more",
    "dtypes": "copies in bfloat16",
}
"""What `cells.changed_tensors` makes of every group."""

WHOLE = {
    "bf16": "the whole file in bfloat16",
    "module": "`module.` before every name",
    "compiled": "`_orig_mod.` before every name",
    "base": "the base model's own checkpoint",
    "shards: source": "the source alone, one shard a tensor group",
    "shards: equal": "an equal copy in another shard",
    "shards: different": "a different copy in another shard",
}
"""What is done to the file as a whole, under the flags as they were saved."""

SAVED = {"saved tied": "saved tied", "saved untied": "saved untied"}

MUTATIONS = SAVED | STATES | WHOLE
"""Every mutation, in the order of the table, in words."""

EVERY_FLAG = ("saved tied", "saved untied", "source", "targets", "equal", "different", "none")
"""The mutations that are crossed with the flags at the top; the rest keeps the flags as saved."""

NESTED = ("source", "equal", "different")
"""Those crossed with the flags of nested configs too."""


TOP = ("as saved", "true", "false", "gone")
"""The edits of the flag at the top, in words."""

Edit = tuple[str, dict[Level, bool | None]]
"""An edit of the flags in words, and as `written` takes it."""

Save = tuple[dict[str, Any], Tensors]
"""A config and the tensors beside it."""

LARGE = 3_000_000
"""Parameters from which on a class, which could not be had smaller, is spared the flags of nested configs."""


class Cell(NamedTuple):
    """One directory, which the next cell of the same generator overwrites."""

    mutation: str
    """A key of `MUTATIONS`."""
    flags: str
    """The edit of the flags in words."""
    path: Path
    """The directory."""
    groups: list[dict[str, Any]]
    """The tie groups: `names`, `source`, and `stored`, the name of each member in the file."""
    config: dict[str, Any]
    """The config as written."""

    @property
    def kind(self) -> str:
        """The kind of the edit, for the table."""
        return self.flags if self.flags in TOP else "nested"

    @property
    def split_flags(self) -> bool:
        """Whether the flags of several levels, those that are silent included, do not say the same."""
        said = [self.config.get(FLAG)]
        said += [held.get(FLAG) for held in self.config.values() if isinstance(held, dict)]
        return len(set(map(repr, said))) > 1

    def plain(self) -> dict[str, Any]:
        """What `loading.py` reads."""
        return {"path": str(self.path), "groups": self.groups}


def mutations(one: Animal, where: Path, *, every_flag: bool = True) -> Iterator[Cell]:
    """Every cell of a class, in one directory after another, each gone once the next is asked for.

    Args:
        one: The class.
        where: An empty directory.
        every_flag: Whether every edit of the flags is made; else `as saved` and `false` alone.

    Raises:
        Exception: Whatever the class raises where it cannot be built or saved at all.
    """
    config, tensors = saved(tied_model(one), where / "base")
    apart = _untied(one, where / "untied")
    known = load_architecture(config["architectures"][0], config.get("model_type"), config=config)
    places = [held for tie in known.ties if (held := _placed(tie, tensors, apart[1] if apart else {})) is not None]
    large = not every_flag or sum(tensor.numel() for tensor in tensors.values()) > LARGE
    kept = ("as saved", "false") if not every_flag else TOP
    edits = [(words, flags) for words, flags in flag_edits(one.levels) if not large or words in kept]
    yield from _crossed(edits, where, "saved tied", (config, tensors), groups_in(places))
    if apart:
        yield from _crossed(edits, where, "saved untied", apart, groups_in(places))
    for state in STATES:
        yield from _crossed(edits, where, state, (config, changed_tensors(tensors, places, state)), groups_in(places))
    path = where / "whole"
    for words in WHOLE:
        changed, groups = _whole(words, tensors, places, one.model_class.base_model_prefix)
        path.mkdir()
        (path / "config.json").write_text(json.dumps(config))
        if words.startswith("shards"):
            _write_shards(changed, places, path)
        else:
            save_file(changed, path / "model.safetensors", metadata={"format": "pt"})
        yield Cell(words, "as saved", path, groups, config)
        shutil.rmtree(path)


def groups_in(places: list[Place]) -> list[dict[str, Any]]:
    """The groups as `loading.py` reads them."""
    return [{"names": p.tie.names, "source": p.tie.source, "stored": p.stored} for p in places]


def saved(model: Any, where: Path) -> Save:
    """The config and the tensors that a model saves, none of them constant: a fresh zero must not pass for loaded."""
    model.save_pretrained(where)
    tensors = load_file(where / "model.safetensors")
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.numel() and bool((tensor == tensor.flatten()[0]).all()):
            tensors[name] = tensor + 0.02 * torch.randn_like(tensor)
    return json.loads((where / "config.json").read_text()), tensors


def _untied(one: Animal, where: Path) -> Save | None:
    """What the class saves with every flag false; None where it refuses the flag."""
    with contextlib.suppress(AttributeError, ValueError):
        return saved(one.model(False), where)
    return None


def _placed(tie: TieSpec, tensors: Tensors, apart: Tensors) -> Place | None:
    """Where a group lies, each member under the name that the class itself saves it under."""
    held = place(tie, tensors)
    other = place(tie, apart)
    if held is None or other is None:
        return held
    return held._replace(stored={n: s if s in tensors else other.stored[n] for n, s in held.stored.items()})


def _crossed(edits: list[Edit], where: Path, state: str, held: Save, groups: list[dict[str, Any]]) -> Iterator[Cell]:
    """One state of the tensors under every edit of the flags that the state is crossed with."""
    config, tensors = held
    path = where / "cell"
    path.mkdir()
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    seen = set()
    for words, flags in edits if state in EVERY_FLAG else edits[:1]:
        if words not in TOP and state not in NESTED:
            continue
        edited = written(config, flags)
        text = json.dumps(edited)
        if text not in seen:
            seen.add(text)
            (path / "config.json").write_text(text)
            yield Cell(state, words, path, groups, edited)
    shutil.rmtree(path)


def _whole(words: str, tensors: Tensors, places: list[Place], prefix: str) -> tuple[Tensors, list[dict[str, Any]]]:
    groups = groups_in(places)
    if words == "bf16":
        return {k: v.to(torch.bfloat16) if v.is_floating_point() else v for k, v in tensors.items()}, groups
    if words in ("module", "compiled"):
        start = "module." if words == "module" else "_orig_mod."
        return {start + k: v for k, v in tensors.items()}, _renamed(groups, lambda name: start + name)
    if words == "base":
        start = f"{prefix}."
        kept = {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}
        if kept:
            return kept, _renamed(groups, lambda name: name.removeprefix(start) if name.startswith(start) else name)
        return tensors, groups  # the base model itself, or a class without one
    return changed_tensors(tensors, places, words.removeprefix("shards: ")), groups


def _renamed(groups: list[dict[str, Any]], new: Any) -> list[dict[str, Any]]:
    return [g | {"stored": {name: new(stored) for name, stored in g["stored"].items()}} for g in groups]


def _write_shards(tensors: Tensors, places: list[Place], path: Path) -> None:
    """Three shards: the sources, the other members, and everything else, with their index."""
    sources = {p.stored[p.tie.source] for p in places}
    others = {name for p in places for name in p.stored.values()} - sources
    parts = [{k for k in tensors if k in part} for part in (sources, others)]
    parts = [part for part in (*parts, set(tensors) - parts[0] - parts[1]) if part]
    weight_map = {}
    for i, part in enumerate(parts, 1):
        file = f"model-{i:05}-of-{len(parts):05}.safetensors"
        save_file({name: tensors[name] for name in sorted(part)}, path / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    size = sum(t.numel() * t.element_size() for t in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(weight_map.items()))}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
