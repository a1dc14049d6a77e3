"""The structure table against classes that are built from other numbers than it was made of: no size is a misfit."""

from __future__ import annotations

import contextlib
import json
import math
import random
from pathlib import Path
from typing import Any

import pytest

from tiecheck.files.checkpoint import read_checkpoint
from tiecheck.files.model_config import read_config
from tiecheck.records.declared import ModelConfig
from tiecheck.records.stored import Checkpoint
from tiecheck.stored.config_fit import size_problems
from tiecheck.tables.generate.build import build_on_meta
from tiecheck.tables.generate.classes import ClassCandidate, class_candidates, resolve_classes
from tiecheck.tables.generate.perturb import Field, Perturber, SlowClassError
from tiecheck.tables.generate.probe import Probe

pytestmark = pytest.mark.filterwarnings("ignore")
COUPLED = {
    "BambaModel",
    "ClapAudioModel",
    "FalconH1Model",
    "GraniteMoeHybridModel",
    "Mamba2Model",
    "ParakeetForTDT",
    "ZambaModel",
}
"""Classes that once had a size, or a number of heads, that hung on more than the table said."""


def second_configs(asked: Perturber) -> list[dict[Field, Any]]:
    """Draw changes of several numbers at once, heads beyond their width among them, and of the length of lists."""
    fields = [f for level in asked.levels for f in asked.numbers(level) if type(f.value) is int]
    alone = [f for f in fields if isinstance(asked.built({f: f.value * 2}), str)]
    pairs = [{f: f.value * 2, g: g.value * 2} for i, f in enumerate(alone) for g in alone[:i] if f.level == g.level]
    heads = [f for f in fields if "heads" in f.key and f.key.startswith(("n", "mamba"))]
    beyond = [{f: g.value * 2, h: 1} for f in heads for g in fields if "hidden_size" in g.key for h in fields]
    owners = ((level, key, held) for level, owner in asked.owners.items() for key, held in owner.to_dict().items())
    longer = [{Field(level, key, -1, None): [*held, held[-1]]} for level, key, held in owners if _numbers(held)]
    return [{}, {f: f.value * 2 for f in fields}, *pairs, *longer, *(one for one in beyond if len(one) > 1)]


def _numbers(held: object) -> bool:
    return isinstance(held, list) and bool(held) and all(type(one) is int for one in held)


def misfits(where: Path, name: str, model: Any) -> list[str]:
    """Return what is told of a model of which nothing but the header is written."""
    model.config.save_pretrained(where)
    data = json.loads((where / "config.json").read_text())
    (where / "config.json").write_text(json.dumps(data | {"architectures": [name]}))
    entries, end = {}, 0
    for key, value in model.state_dict().items():
        begin, end = end, end + 4 * math.prod(value.shape)
        entries[key] = {"dtype": "F32", "shape": list(value.shape), "data_offsets": [begin, end]}
    header = json.dumps(entries).encode()
    with (where / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + end)
    config, checkpoint = read_config(str(where)), read_checkpoint(str(where))
    assert isinstance(config, ModelConfig)
    assert isinstance(checkpoint, Checkpoint)
    found = size_problems(config, checkpoint)
    return [f"{name}: {one.why}" for one in found if one.outcome == "crash" and "5" in one.versions]


def told_of(where: Path, candidate: ClassCandidate, seconds: float = 6) -> list[str]:
    """Return the misfits that are told of a class under some of its second configs."""
    import time

    model_class, config_class = resolve_classes(candidate)
    asked = Perturber(Probe(model_class, config_class, {}))
    asked.write_out()
    asked.until = time.process_time() + seconds
    told: list[str] = []
    with contextlib.suppress(SlowClassError):
        for changes in second_configs(asked):
            if not isinstance(asked.built(changes), str):
                data = asked.data
                for field, value in changes.items():
                    data = field.put(data, value)
                told += misfits(where, candidate.class_name, build_on_meta(model_class, config_class, data))
    return told


def drawn_classes(number: int) -> list[ClassCandidate]:
    known = sorted({one.class_name: one for one in class_candidates()}.values())
    return [one for one in known if one.class_name in COUPLED] + random.sample(known, number)


@pytest.mark.slow
def test_no_size_of_a_second_config_is_a_misfit(tmp_path: Path) -> None:
    told, asked = [], set()
    for candidate in drawn_classes(12):
        try:
            told += told_of(tmp_path, candidate)
        except (ImportError, ValueError, AttributeError, TypeError, RuntimeError):  # it has no default that builds
            continue
        asked.add(candidate.class_name)
    assert asked >= COUPLED
    assert told == []
