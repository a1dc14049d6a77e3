"""Tiny saved models to mutate: classes drawn from the whole library, under configs that change their structure."""

from __future__ import annotations

import contextlib
import copy
import functools
import json
import random
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from older import older_python
from safetensors.torch import load_file
from subjects import every
from zoo import LARGEST, Animal, Names, Tensors, animal, own

from tiecheck.live.rehearsal import rehearse
from tiecheck.tables.architectures import load_architecture
from tiecheck.tables.generate.build import build_on_meta, groups_of
from tiecheck.tables.generate.classes import ClassCandidate, load_config_class
from tiecheck.tables.generate.configs import LAYERS, config_objects, dict_at_level, silent_dict, with_flags
from tiecheck.tables.generate.head_scale import tiny_config

Variant = tuple[tuple[str, Any], ...]
"""Dotted config keys and the values that they have instead of the tiny default's."""

PARTS = {
    "text_config": ("llama", "gemma", "opt", "gpt2", "qwen2"),
    "decoder": ("bert", "gpt2", "opt", "roberta", "trocr"),
    "encoder": ("bert", "roberta", "vit", "wav2vec2"),
    "generator": ("bart", "t5"),
}
"""Sections of composite configs, and model types to put there."""

UNTIED = 0.03
"""The share that is taken of the classes without a tie in the table; most classes have none."""

OLDER = "saved by"
"""A key of a variant that is none of the config: the line of transformers that saves it."""

TRIES = 6
"""Builds on meta that are tried to find the variants of a class."""


class Save(NamedTuple):
    """What `save_pretrained` wrote for one class under one config."""

    class_name: str
    model_type: str
    module: str
    variant: Variant
    config: dict[str, Any]
    tensors: Tensors
    groups: tuple[Names, ...]
    """The groups that the class ties under this config or, with its flags set, could tie."""
    files: dict[str, str]
    """Member of a group -> its name in a file."""
    prefix: str
    """The class's `base_model_prefix`."""
    levels: tuple[tuple[str, ...], ...]
    """The nested levels of the config, the top first."""

    def __repr__(self) -> str:
        return f"{self.class_name}({self.model_type}, {dict(self.variant)})"


@functools.cache
def all_classes() -> tuple[ClassCandidate, ...]:
    """Return every class with every model type that it goes with."""
    return tuple(every())


@functools.cache
def animal_of(class_name: str, model_type: str, module: str) -> Animal:
    """The class, small."""
    return animal(ClassCandidate(class_name, model_type, module))


@functools.lru_cache(maxsize=512)
def _saved(class_name: str, model_type: str, module: str, variant: str) -> Save:
    return _save(class_name, model_type, module, tuple((k, v) for k, v in json.loads(variant)))


def saved(class_name: str, model_type: str, variant: Variant = (), module: str = "") -> Save:
    """Return a class as it is saved under a variant; raises whatever the class raises."""
    return _saved(class_name, model_type, module, json.dumps(variant))


def varied(one: Animal, variant: Variant) -> dict[str, Any]:
    """Return the tiny config of a class with some keys set; a section's new model type brings its own tiny config."""
    data = copy.deepcopy(one.data)
    for dotted, value in variant:
        *path, key = dotted.split(".")
        if dotted == OLDER:
            continue
        if key == "model_type" and path:
            config = load_config_class(value)()
            inner = tiny_config(silent_dict(config), config, 64, 4) | {"model_type": value}
            more = {"is_decoder": True, "add_cross_attention": True} if path[-1] == "decoder" else {}
            dict_at_level(data, tuple(path[:-1]))[path[-1]] = inner | more
        else:
            dict_at_level(data, tuple(path))[key] = value
    return data


def _save(class_name: str, model_type: str, module: str, variant: Variant) -> Save:
    one = animal_of(class_name, model_type, module)
    data = varied(one, variant)
    built = build_on_meta(one.model_class, one.config_class, data)
    if sum(parameter.numel() for parameter in built.parameters()) > LARGEST:
        raise ValueError(f"{class_name} is too large under {variant}")
    most = set(groups_of(built))
    with contextlib.suppress(Exception):  # a class may refuse the flag
        tied = groups_of(
            build_on_meta(one.model_class, one.config_class, with_flags(data, dict.fromkeys(one.levels, True)))
        )
        most |= {names for names in tied if not any(set(names) <= set(other) for other in most)}
    with tempfile.TemporaryDirectory() as where:
        older = OLDER in dict(variant)
        config, tensors = (_written_older if older else _written)(one, data, Path(where, "as"))
        files = _names_in_files(Path(where, "as"))
        if any(name != file for name, file in files.items()) and not all(n in files for g in most for n in g):
            with contextlib.suppress(Exception):
                apart = with_flags(data, dict.fromkeys(one.levels, False))
                _written(one, apart, Path(where, "apart"))
                files = _names_in_files(Path(where, "apart")) | files
    groups = tuple(sorted(most))
    members = {name: files.get(name, name) for names in groups for name in names}
    prefix = getattr(one.model_class, "base_model_prefix", "") or ""
    return Save(class_name, model_type, module, variant, config, tensors, groups, members, prefix, one.levels)


def _written(one: Animal, data: dict[str, Any], where: Path) -> tuple[dict[str, Any], Tensors]:
    torch.manual_seed(0)
    from tiecheck.tables.generate.build import config_of

    one.model_class(config_of(one.model_class, one.config_class, data)).save_pretrained(where)
    return _read(where)


@functools.cache
def _older_process() -> subprocess.Popen[str]:
    script = str(Path(__file__).with_name("save_older.py"))
    return subprocess.Popen([older_python(), script], stdin=-1, stdout=-1, stderr=subprocess.DEVNULL, text=True)


def _written_older(one: Animal, data: dict[str, Any], where: Path) -> tuple[dict[str, Any], Tensors]:
    process = _older_process()
    assert process.stdin
    assert process.stdout
    asked = {"class_name": one.model_class.__name__, "config": data, "directory": str(where)}
    print(json.dumps(asked), file=process.stdin, flush=True)
    if wrong := process.stdout.readline().strip():
        raise RuntimeError(wrong)
    return _read(where)


def _read(where: Path) -> tuple[dict[str, Any], Tensors]:
    tensors: Tensors = {}
    for file in where.glob("*.safetensors"):
        tensors |= load_file(file)
    return json.loads((where / "config.json").read_text()), tensors


def _names_in_files(where: Path) -> dict[str, str]:
    """Parameter -> the one stored tensor that it holds; of several names of one, the one that is most like it."""
    told = [held for held in rehearse(str(where)).held if len(held.stored) == 1]
    return {max(held.names, key=lambda name: _alike(name, held.stored[0])): held.stored[0] for held in told}


def _alike(name: str, stored: str) -> tuple[bool, int]:
    same = next(
        (i for i, pair in enumerate(zip(name[::-1], stored[::-1], strict=False)) if len({*pair}) > 1), len(name)
    )
    return name == stored, same


def _shape_of(one: Animal, data: dict[str, Any]) -> Any:
    model = build_on_meta(one.model_class, one.config_class, data)
    return frozenset(name for name, _ in model.named_parameters(remove_duplicate=False)), frozenset(groups_of(model))


def variants(one: Animal, rng: random.Random, count: int) -> Iterator[Variant]:
    """Yield the default and then configs of a class whose model has other names, groups or ties than it."""
    yield ()
    seen = {_shape_of(one, one.data)}
    changes = list(_changes(one))
    rng.shuffle(changes)
    changes.sort(key=lambda change: "tie" not in change[0] and "share" not in change[0])  # these first
    for change in changes[: TRIES + count]:
        with contextlib.suppress(Exception):  # a class may refuse any value
            shape = _shape_of(one, varied(one, (change,)))
            if shape not in seen:
                seen.add(shape)
                count -= 1
                yield (change,)
        if count <= 1:
            return


def _changes(one: Animal) -> Iterator[tuple[str, Any]]:
    for level, owner in config_objects(one.config_class.from_dict(copy.deepcopy(one.data))):
        where = "".join(f"{key}." for key in level)
        yield f"{where}tie_word_embeddings", not getattr(owner, "tie_word_embeddings", False)
        for name, value in owner.to_dict().items():
            if type(value) is bool and name != "tie_word_embeddings":
                yield f"{where}{name}", not value
            elif type(value) is int and LAYERS.search(name):
                yield f"{where}{name}", 1
        for key in PARTS.keys() & ({level[-1]} if level else set()):
            yield from ((f"{where}model_type", kind) for kind in PARTS[key] if kind != owner.model_type)


def pool(seed: int, classes: int, each: int = 3, *, older: bool = False) -> Iterator[Save]:
    """Yield saves of as many classes as can be had small; few of those that the table knows no tie of.

    Args:
        seed: Chooses the classes and their configs.
        classes: The number of classes.
        each: Configs of each, the default among them.
        older: Whether the default is also saved by transformers 4.57.
    """
    rng, built = random.Random(seed), 0
    found = list(all_classes())
    rng.shuffle(found)
    for candidate in found:
        mine: list[Save] = []
        with contextlib.suppress(Exception):  # a further library is needed, or a tiny config is refused
            ties = load_architecture(candidate.class_name, candidate.model_type).ties
            if not ties and rng.random() > UNTIED:
                continue
            if not own(candidate) and not candidate.module:
                continue
            one = animal_of(*candidate)
            saved_older = [((OLDER, "4.57"),)] if older and not candidate.module else []
            for variant in [*variants(one, rng, each), *saved_older]:
                with contextlib.suppress(Exception):
                    mine.append(saved(candidate.class_name, candidate.model_type, variant, candidate.module))
        if mine:
            built += 1
            yield from mine
        if built == classes:
            return
