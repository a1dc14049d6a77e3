"""The cells of the loader matrix for one class: what is stored of its groups, times what the flags say.

The files are made by transformers 5; `loading.py` tells what 4.57 or 5 makes of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from zoo import Animal, Tensors, flag_edits, tied_model, written

from tiecheck.records.declared import TieSpec
from tiecheck.tables.architectures import load_architecture

STATES = ("source", "targets", "equal", "different", "none", "shapes", "dtypes")
"""What is stored of every group: the source alone, the others alone, all equal, all different, nothing; all, of which
the targets have three rows more, or another dtype."""

SOURCELESS = ("decoder", "sourceless")
"""Of groups with a decoder's embedding: that alone, and all but the source, all different."""


class Place(NamedTuple):
    """A group with the name each member has in a file."""

    tie: TieSpec
    stored: dict[str, str]
    value: torch.Tensor


class Cell(NamedTuple):
    """One directory, and the groups that were changed in it."""

    title: str
    path: Path
    groups: list[dict[str, Any]]

    def plain(self) -> dict[str, Any]:
        """What `loading.py` reads."""
        return {"path": str(self.path), "groups": self.groups}


def cells(one: Animal, where: Path, states: tuple[str, ...] = STATES) -> Iterator[Cell]:
    """Every cell of a class, each in a directory of its own under `where`."""
    base = where / "base"
    tied_model(one).save_pretrained(base)
    config = json.loads((base / "config.json").read_text())
    tensors = load_file(base / "model.safetensors")
    known = load_architecture(config["architectures"][0], config.get("model_type"), config=config)
    places = [held for tie in known.ties if (held := place(tie, tensors)) is not None]
    groups = [{"names": p.tie.names, "source": p.tie.source, "stored": p.stored} for p in places]
    for state in states:
        changed = changed_tensors(tensors, places, state)
        for words, flags in flag_edits(one.levels):
            path = where / f"{state}, {words}"
            path.mkdir()
            save_file(changed, path / "model.safetensors", metadata={"format": "pt"})
            (path / "config.json").write_text(json.dumps(written(config, flags)))
            yield Cell(f"{config['architectures'][0]}: {state}, flag {words}", path, groups)


def place(tie: TieSpec, tensors: Tensors) -> Place | None:
    """Where a group lies in a file; None where none of it does."""
    stored = {n: next((s for s in (n, *tie.spellings.get(n, ())) if s in tensors), n) for n in tie.names}
    value = next((tensors[s] for s in stored.values() if s in tensors), None)
    return None if value is None else Place(tie, stored, value)


def changed_tensors(tensors: Tensors, places: list[Place], state: str) -> Tensors:
    """The tensors of a file with every group stored as a state says."""
    changed = dict(tensors)
    for tie, stored, value in places:
        for i, name in enumerate(tie.names):
            source = name == tie.source
            changed.pop(stored[name], None)
            if state == "none" or (state == "source" and not source) or (state in ("targets", "sourceless") and source):
                continue
            if state == "decoder" and not name.endswith("decoder.embed_tokens.weight"):
                continue
            if state == "shapes" and not source:
                changed[stored[name]] = torch.cat([value, value[:3]])
            elif state == "dtypes" and not source:
                changed[stored[name]] = value.to(torch.bfloat16)
            else:
                changed[stored[name]] = (value + 0.1 * i if state in ("different", "sourceless") else value).clone()
    return changed
