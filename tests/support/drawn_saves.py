"""Tiny saved models with something drawn at random done to them: to members, names, values, files and flags."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from zoo import Animal, Names, Tensors, flag_edits, tied_model, written

from tiecheck.tables.generate.build import groups_of

Change = Callable[[Tensors, list[Names], random.Random], Tensors]


def _members(tensors: Tensors, groups: list[Names], rng: random.Random) -> tuple[Names, Any]:
    """A group with a value that is stored of it; a single tensor where the class ties nothing."""
    there = [(g, next(n for n in g if n in tensors)) for g in groups if any(n in tensors for n in g)]
    if not there:
        name = rng.choice(sorted(tensors))
        return (name,), tensors[name]
    group, name = rng.choice(there)
    return group, tensors[name]


def subset(tensors: Tensors, groups: list[Names], rng: random.Random) -> Tensors:
    """Any members of a group stored, each equal to the first or not."""
    group, value = _members(tensors, groups, rng)
    kept = {k: v for k, v in tensors.items() if k not in group}
    for name in group:
        if rng.random() < 0.6:
            kept[name] = value.clone() if rng.random() < 0.5 else value + rng.choice((0.1, 1))
    return kept


def odd_values(tensors: Tensors, groups: list[Names], rng: random.Random) -> Tensors:
    """Every member stored, with NaN in all, a zero of another sign, another dtype or one row that differs."""
    group, value = _members(tensors, groups, rng)
    if not value.is_floating_point() or not value.dim():
        return tensors
    kind = rng.choice(("nan", "zero", "dtype", "row"))
    made = dict(tensors)
    for i, name in enumerate(group):
        new = value.clone()
        if kind == "nan":
            new.view(-1)[0] = float("nan")
        elif kind == "zero":
            new.view(-1)[0] = -0.0 if i else 0.0
        elif kind == "dtype" and i:
            new = new.to(torch.float64)
        elif kind == "row" and i:
            new[-1] += 1
        made[name] = new
    return made


def shape(tensors: Tensors, groups: list[Names], rng: random.Random) -> Tensors:
    """A member with rows that the class has not."""
    group, value = _members(tensors, groups, rng)
    more = torch.cat([value, value[:1]]) if value.dim() else value
    return {**tensors, rng.choice(group): more}


def renamed(tensors: Tensors, groups: list[Names], rng: random.Random) -> Tensors:
    """Every name without its first part, with one more, or one tensor under a name of nobody."""
    kind = rng.choice(("off", "on", "one"))
    if kind == "one":
        name = rng.choice(sorted(tensors))
        return {k: v for k, v in tensors.items() if k != name} | {f"{name}_of_nobody": tensors[name]}
    if kind == "on":
        return {f"{rng.choice(('model', 'module', 'base'))}.{k}": v for k, v in tensors.items()}
    cut = {k.partition(".")[2] or k: v for k, v in tensors.items()}
    return cut if len(cut) == len(tensors) else tensors


def fewer(tensors: Tensors, groups: list[Names], rng: random.Random) -> Tensors:
    """Some tensors gone, whatever they are."""
    return {k: v for k, v in tensors.items() if rng.random() < 0.8} or tensors


CHANGES: tuple[Change, ...] = (subset, subset, odd_values, shape, renamed, fewer)


def write_weights(tensors: Tensors, where: Path, rng: random.Random) -> str:
    """Write weights as one file, as two shards, as a pickle, or as a file without a format."""
    tensors = {name: value.contiguous() for name, value in tensors.items()}
    kind = rng.choice(("one", "one", "one", "shards", "pickle", "no format", "bare"))
    if kind == "pickle":
        torch.save(tensors, where / "pytorch_model.bin")
    elif kind == "shards" and len(tensors) > 1:
        names = sorted(tensors)
        parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
        for file, held in parts.items():
            save_file({n: tensors[n] for n in held}, where / file, metadata={"format": "pt"})
        index = {"metadata": {}, "weight_map": {n: file for file, held in parts.items() for n in held}}
        (where / "model.safetensors.index.json").write_text(json.dumps(index))
    else:
        metadata = {"one": {"format": "pt"}, "no format": {"made": "by hand"}}.get(kind)
        save_file(tensors, where / "model.safetensors", metadata=metadata)
    return kind


def draws(one: Animal, where: Path, rng: random.Random, count: int) -> Iterator[tuple[str, Path]]:
    """Directories of a class: untouched, then each with a drawn change, flag and file format."""
    model = tied_model(one)
    groups = sorted(groups_of(model))
    base = where / "base"
    model.save_pretrained(base)
    config = json.loads((base / "config.json").read_text())
    tensors: Tensors = {}
    for file in base.glob("*.safetensors"):
        tensors |= load_file(file)
    yield "untouched", base
    for number in range(count):
        change = rng.choice(CHANGES)
        words, flags = rng.choice(list(flag_edits(one.levels)))
        path = where / str(number)
        path.mkdir()
        kind = write_weights(change(tensors, groups, rng), path, rng)
        data = written(config, flags)
        if rng.random() < 0.1:
            data["tie_word_embeddings"], words = "false", "text"
        (path / "config.json").write_text(json.dumps(data))
        yield f"{change.__name__}, flag {words}, {kind}", path
