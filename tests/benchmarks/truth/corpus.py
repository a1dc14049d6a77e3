"""The real configs and key lists: judged at full size, and held against the same class loaded tiny.

A pair with an index becomes a checkpoint with true headers and a hole for its data (in the manner that the corpus
explains), judged as it is. The truth is the same class with a small config, saved, with the same members stored under
the same names and the same flags at every level. Bytes in a hole are all zero: two stored members are equal there, so
that a second checkpoint with different members, and a second small one, are made of such a pair.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from loading import load
from safetensors.torch import save_file
from zoo import Animal, Tensors, animal, by_name, tied_model, written

import tiecheck
from tiecheck.records.declared import TieSpec
from tiecheck.tables.architectures import FLAG, load_architecture
from tiecheck.tables.generate.build import build_on_meta, groups_of
from tiecheck.tables.generate.classes import load_config_class
from tiecheck.tables.generate.configs import config_levels, silent_dict
from tiecheck.tables.generate.head_scale import tiny_config
from truth.judge import Pair, words_on
from truth.mutate import saved

CORPUS = Path(__file__).parents[4] / "shared" / "corpus"
"""Where the pairs are: beside the project."""

SIZES = (("embedding_size", "vocab_size"), ("hidden_size", "n_embd", "d_model"))
"""Keys of a config that have the rows and the columns of an embedding."""

BYTES = {"float32": ("F32", 4), "float16": ("F16", 2), "bfloat16": ("BF16", 2)}


class Pairing(NamedTuple):
    """One published model: its config, and the names that it stores."""

    name: str
    """The pair's folder."""
    config: dict[str, Any]
    """The parsed config."""
    weight_map: dict[str, str]
    """Name -> file, a pickle's with the ending of safetensors; empty without an index."""
    tie_fact: str
    """What the manifest says."""
    matrices: tuple[str, ...]
    """The names that the manifest has for embedding and head, those inside a layer left out."""

    @property
    def class_name(self) -> str | None:
        """The class that the config names."""
        names = self.config.get("architectures")
        return names[0] if names else None

    @property
    def model_class(self) -> Any:
        """The class itself; None where transformers has none of that name, or another model type's."""
        found = getattr(transformers, self.class_name or "", None)
        wanted = getattr(getattr(found, "config_class", None), "model_type", None)
        return found if wanted == self.config.get("model_type") else None


class Judged(NamedTuple):
    """One line of the table."""

    name: str
    class_name: str
    tie_fact: str
    members: str
    """Whether the stored members were equal or different; empty where there are not two."""
    verdict: str
    """Status and findings."""
    fits: str
    """Whether the verdict fits `tie_fact`."""
    truth: str
    """What transformers 5 and 4.57 do."""
    correct: str
    """`right`, `unknown`, `wrong`, or why it was not held against anything."""
    seconds: float
    """Of judging."""
    why: tuple[str, ...] = ()
    """The reasons of an unknown or a wrong."""


def pairings(where: Path = CORPUS) -> list[Pairing]:
    """Every pair of the corpus, in the order of its manifest."""
    found = []
    for entry in json.loads((where / "manifest.json").read_text()):
        folder = where / "pairs" / entry["name"]
        index = json.loads((folder / entry["index"]).read_text())["weight_map"] if entry["index"] else {}
        files = {name: file.removesuffix(".bin").removesuffix(".safetensors") for name, file in index.items()}
        config = json.loads((folder / "config.json").read_text())
        matrices = tuple(n for n in (*(entry["emb_keys"] or ()), *(entry["head_keys"] or ())) if ".blocks." not in n)
        named = {name: f"{file}.safetensors" for name, file in files.items()}
        found.append(Pairing(entry["name"], config, named, entry["tie_fact"], matrices))
    return found


def known_ties(pair: Pairing) -> tuple[TieSpec, ...]:
    """The groups that the table has for a pair."""
    return load_architecture(pair.class_name, pair.config.get("model_type"), config=pair.config).ties


def places(pair: Pairing) -> list[dict[str, Any]]:
    """The groups of a pair with the name that each member has in its index, as `loading.py` reads them."""
    names = pair.weight_map
    return [
        {
            "names": tie.names,
            "source": tie.source,
            "stored": {n: next((s for s in (n, *tie.spellings.get(n, ())) if s in names), n) for n in tie.names},
        }
        for tie in known_ties(pair)
    ]


def shapes_of(pair: Pairing) -> dict[str, tuple[int, ...]]:
    """Stored name -> shape, by the class on meta where transformers has it, else of embedding and head by the config.

    What has no name there is left out.
    """
    if pair.model_class is None:
        rows, width = (next((pair.config[k] for k in keys if k in pair.config), 1) for keys in SIZES)
        return dict.fromkeys((n for n in pair.matrices if n in pair.weight_map), (rows, width))
    model = build_on_meta(pair.model_class, pair.model_class.config_class, pair.config)
    own = {name: tuple(p.shape) for name, p in model.named_parameters(remove_duplicate=False)}
    prefix = f"{pair.model_class.base_model_prefix}."
    found = {n: own.get(n, own.get(prefix + n, own.get(n.removeprefix(prefix), ()))) for n in pair.weight_map}
    for group in places(pair):
        found |= {stored: own[name] for name, stored in group["stored"].items() if stored in found and name in own}
    return {name: shape for name, shape in found.items() if shape}


def lay_out(pair: Pairing, where: Path, *, different: bool) -> None:
    """The checkpoint at its full size: true headers, a hole for the data, and the first bytes of the members."""
    dtype, size = BYTES.get(str(pair.config.get("torch_dtype") or pair.config.get("dtype")), BYTES["bfloat16"])
    shapes = shapes_of(pair)
    members = sorted({s for group in places(pair) for s in group["stored"].values()}) if different else []
    where.mkdir(parents=True)
    (where / "config.json").write_text(json.dumps(pair.config, indent=2))
    if not pair.weight_map:
        return
    for file in sorted(set(pair.weight_map.values())):
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        end = 0
        for name in (n for n, f in pair.weight_map.items() if f == file):
            shape = shapes.get(name)  # one byte where it is not known, which is no weight of a size
            begin, end = end, end + (size * torch.Size(shape).numel() if shape else 1)
            wide = [*(shape or (1,))]
            header[name] = {"dtype": dtype if shape else "I8", "shape": wide, "data_offsets": [begin, end]}
        text = json.dumps(header).encode()
        with (where / file).open("wb") as out:
            out.write(len(text).to_bytes(8, "little") + text)
            out.truncate(8 + len(text) + end)
            for name in (n for n in members if n in header):
                out.seek(8 + len(text) + header[name]["data_offsets"][0])
                out.write(bytes([1 + members.index(name)]) * size)
    index = {"metadata": {}, "weight_map": pair.weight_map}
    (where / "model.safetensors.index.json").write_text(json.dumps(index))


def small(pair: Pairing) -> Animal:
    """The class with the pair's own config made small; with its default made small where that does not build."""
    model_class = pair.model_class
    try:
        config = model_class.config_class.from_dict(pair.config)
        one = Animal(
            model_class, load_config_class(config.model_type), tiny_config(silent_dict(config), config, 64, 4), ((),)
        )
        build_on_meta(one.model_class, one.config_class, one.data)
    except Exception:  # noqa: BLE001 - a tiny config is a guess
        return animal(by_name(model_class.__name__))
    return one._replace(levels=((), *config_levels(config)))


def flags_in(data: Mapping[str, Any], level: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], bool]]:
    """Every tie flag of a config with its level."""
    if isinstance(data.get(FLAG), bool):
        yield level, data[FLAG]
    for key, value in data.items():
        if isinstance(value, dict):
            yield from flags_in(value, (*level, key))


def twin(pair: Pairing, where: Path, *, different: bool) -> dict[str, Any]:
    """The small checkpoint with the members and flags of a pair; its config."""
    one = small(pair)
    config, tensors = saved(tied_model(one), where / "made")
    edited = overlaid(written(config, dict.fromkeys(one.levels)), pair.config)
    stored = stored_as(pair, tensors, one.model_class.base_model_prefix, different=different)
    (where / "twin").mkdir()
    (where / "twin" / "config.json").write_text(json.dumps(edited))
    save_file(stored, where / "twin" / "model.safetensors", metadata={"format": "pt"})
    return edited


def overlaid(made: Mapping[str, Any], real: Mapping[str, Any]) -> dict[str, Any]:
    """A small config with everything of the real one but its sizes, and but what quantised it."""
    both = {key: value for key, value in made.items() if not key.startswith("quantization")}
    for key, value in real.items():
        if key.startswith("quantization") or key == "architectures":
            continue
        if isinstance(value, dict) and isinstance(made.get(key), dict):
            both[key] = overlaid(made[key], value)
        elif isinstance(value, bool | str | float | None) or (isinstance(value, dict) and key not in made):
            both[key] = value
    return both


def stored_as(pair: Pairing, tensors: Tensors, prefix: str, *, different: bool) -> Tensors:
    """The tensors of a small model with the members that a pair stores, under its names."""
    changed = dict(tensors)
    for tie, group in zip(known_ties(pair), places(pair), strict=True):
        spelled = {s for name in tie.names for s in (name, *tie.spellings.get(name, ()))}
        value = next((tensors[n] for n in sorted(spelled & tensors.keys())), None)
        for name in spelled & changed.keys():
            del changed[name]
        if value is not None:
            held = [s for s in dict.fromkeys(group["stored"].values()) if s in pair.weight_map]
            changed |= {name: value + 0.1 * i if different else value.clone() for i, name in enumerate(held)}
    if not any(name.startswith(f"{prefix}.") for name in pair.weight_map):
        return {name.removeprefix(f"{prefix}."): tensor for name, tensor in changed.items()}
    return changed


def judged(pair: Pairing, where: Path, four: Any) -> Iterator[Judged]:
    """The lines of one pair.

    Args:
        pair: The pair.
        where: An empty directory.
        four: What transformers 4.57 makes of a cell, given as `loading.py` reads it.
    """
    both = any(len(set(g["stored"].values()) & pair.weight_map.keys()) > 1 for g in places(pair))
    for different in (False, True) if both else (False,):
        words = "different" if different else "equal" if both else ""
        full = where / f"full-{different}"
        lay_out(pair, full, different=different)
        begin = time.perf_counter()
        (report,) = tiecheck.check(full, judge_for=("transformers",)).targets
        line = Judged(
            name=pair.name,
            class_name=pair.class_name or "none",
            tie_fact=pair.tie_fact,
            members=words,
            verdict=told(report),
            fits=fits(report, pair.tie_fact),
            truth="",
            correct="",
            seconds=time.perf_counter() - begin,
            why=tuple(dict.fromkeys(skip.reason for skip in report.skips)) if report.status == "unknown" else (),
        )
        yield held_against_twin(line, pair, full, where / f"tiny-{different}", four, different=different)


def told(report: Any) -> str:
    """Status and findings in a few words."""
    codes = sorted({f"{f.code} {f.severity}" for f in report.findings})
    return ", ".join((report.status, *codes))


def fits(report: Any, tie_fact: str) -> str:
    """Whether the report sees of a pair what the manifest has of it: the flag, and which members are stored."""
    stored = "present" in tie_fact.lower(), "absent" in tie_fact
    entry = next((e for e in report.ties if len(e.names) > 1), None)
    if not any(stored) or entry is None:
        return "nothing to compare"
    here = len(entry.stored_names) > 1, len(entry.stored_names) == 1
    flag = {"tied": True, "untied": False}.get(tie_fact.split(",", maxsplit=1)[0])
    by_flag = any(word.startswith("config.json:") for word in entry.declared_by)
    agreed = stored == here and (entry.declared == flag if flag is not None else not by_flag)
    return "yes" if agreed else "no"


def held_against_twin(line: Judged, pair: Pairing, full: Path, where: Path, four: Any, *, different: bool) -> Judged:
    """The line with what the libraries do with the small one."""
    groups = places(pair)
    if not pair.weight_map:
        return line._replace(correct="no index: nothing is stored")
    if pair.model_class is None:
        return line._replace(correct="no truth: transformers has no such class")
    if not groups:
        return line._replace(correct="no ties in this class")
    where.mkdir()
    config = twin(pair, where, different=different)
    cell = {"path": str(where / "twin"), "groups": groups}
    five: list[Pair] = load(cell)
    older: list[Pair] = four(cell)
    declared = groups_of(build_on_meta(pair.model_class, pair.model_class.config_class, config))
    split = len({*map(repr, dict(flags_in(pair.config)).values())}) > 1
    words = list(words_on(full, groups, five, older, declared, split_flags=split, twin=where / "twin"))
    heard = {word.word for word in words}
    worst = next(word for word in ("wrong", "unknown", "no truth", "right") if word in heard)
    truth = "; ".join(sorted({f"5: {a[0]}, 4.57: {b[0]}" for a, b in zip(five, older, strict=True)}))
    why = dict.fromkeys(f"{w.column}: {w.why}" for w in words if w.why)
    return line._replace(truth=truth, correct=worst, why=(*line.why, *why))
