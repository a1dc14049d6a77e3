"""Classes loaded small under device maps, and what the gate says of each load beforehand.

The truth is `from_pretrained(device_map=...)` on the CPU with the disk, and a forward pass after it, against a load
without a map. The maps and the members come from transformers' own tree and declaration, never from tiecheck.
"""

from __future__ import annotations

import contextlib
import copy
import json
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from cells import changed_tensors
from safetensors.torch import save_file
from test_zoo import Animal, Tensors, animal, few_words, tied_model
from truth.mutate import _placed, _untied, saved
from zoo_inputs import Inputs, alike, forward, inputs_for

import tiecheck
from tiecheck.collect.architectures import load_architecture
from tiecheck.data._build import build
from tiecheck.data._classes import Candidate
from tiecheck.data._configs import silent_dict
from tiecheck.data._scale import tiny
from tiecheck.report import TargetReport

RUNNABLE = 4_000_000
"""Parameters of the largest model that is taken for a smaller one because that can be run."""

PATIENCE = 40.0
"""Seconds after which no further map of a class is begun."""

LONGEST = 300
"""Characters of an exception that a row keeps."""

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

FAILS = ("raises in the load", "raises in the forward pass", "gives other results")

DeviceMap = dict[str, Any]


class Ask(NamedTuple):
    """One load."""

    word: str
    """A key of `MAPS`."""
    device_map: DeviceMap | str
    """What `from_pretrained` is given."""
    memory: dict[Any, int] | None = None
    """Its `max_memory`."""


class Plain(NamedTuple):
    """A directory loaded without a map."""

    inputs: Inputs | None
    """What its forward pass takes; None where nothing was found that it takes."""
    outputs: list[torch.Tensor]
    """What it gives for them."""
    called: frozenset[str] = frozenset()
    """The modules that are called."""


class Came(NamedTuple):
    """What a load under a map came to."""

    word: str
    """One of `FAILS`; `is the same` or, without a forward pass, `loads`."""
    text: str = ""
    """The exception."""
    device_map: DeviceMap | None = None
    """The map that it was loaded under."""


class Told(NamedTuple):
    """What the gate says of it."""

    codes: tuple[str, ...]
    """Rules that speak of an error of the placement."""
    messages: tuple[str, ...]
    """What the load is said to raise; empty where nothing is said to."""
    at: str
    """Where: `load` or `forward`."""
    unknown: tuple[str, ...]
    """Why something is not known."""
    proposal: DeviceMap | None
    """Its own map."""
    plan: DeviceMap | None
    """The map that it expects."""

    @property
    def reads(self) -> set[str]:
        """The modules whose weights the forward pass is said to miss."""
        names = [message.partition("KeyError: ")[2].strip("'") for message in self.messages]
        return {name.rpartition(".")[0] for name in names if name}


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


def plain_of(cls: Any, where: Path) -> Plain:
    """A directory loaded without a map; raises what the load raises."""
    torch.manual_seed(0)
    model = cls.from_pretrained(where, local_files_only=True)
    found = inputs_for(model)
    return Plain(None, []) if found is None else Plain(*found, called(model, found[0]))


def again(cls: Any, where: Path, inputs: Inputs | None) -> Plain:
    """The same with inputs that are known."""
    torch.manual_seed(0)
    model = cls.from_pretrained(where, local_files_only=True)
    return Plain(None, []) if inputs is None else Plain(inputs, forward(model, inputs), called(model, inputs))


def called(model: Any, inputs: Inputs) -> frozenset[str]:
    """The paths of the modules that a forward pass calls."""
    seen: set[str] = set()
    hooks = [
        module.register_forward_pre_hook(lambda _, __, name=name: seen.add(name))
        for name, module in model.named_modules(remove_duplicate=False)
    ]
    forward(model, inputs)
    for hook in hooks:
        hook.remove()
    return frozenset(seen)


def load(cls: Any, where: Path, ask: Ask, plain: Plain) -> Came:
    """A directory loaded under a map, and run."""
    with tempfile.TemporaryDirectory() as folder:
        words = {"max_memory": dict(ask.memory)} if ask.memory else {}
        torch.manual_seed(0)
        try:
            model = cls.from_pretrained(
                where, device_map=copy.copy(ask.device_map), offload_folder=folder, local_files_only=True, **words
            )
        except Exception as error:  # noqa: BLE001 - whatever it raises is the answer
            return Came(FAILS[0], _words(error))
        device_map = dict(getattr(model, "hf_device_map", None) or {})
        if plain.inputs is None:
            return Came("loads", "", device_map)
        try:
            outputs = forward(model, plain.inputs)
        except Exception as error:  # noqa: BLE001 - as above
            return Came(FAILS[1], _words(error), device_map)
        return Came("is the same" if alike(outputs, plain.outputs) else FAILS[2], "", device_map)


def _words(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:LONGEST]


def told(where: Path, ask: Ask) -> Told:
    """What the gate says of a load."""
    report = tiecheck.check(where, device_map=copy.copy(ask.device_map), max_memory=ask.memory, select="TIE5")
    target: TargetReport = report.targets[0]
    codes = sorted({f.code for f in target.findings if f.code.startswith("TIE5") and f.severity == "error"})
    unknown = [skip.reason for skip in target.skips if skip.code.startswith("TIE5")]
    unknown += [error.message for error in report.errors]
    placement = target.placement
    raising = [one for one in placement.loads if one.form == "raises"] if placement else []
    first = next((one for one in raising if one.at == "load"), raising[0] if raising else None)
    messages = [one.message or "" for one in raising]
    at = first.at if first else ""
    if placement and placement.plans and placement.plans[0].crash:
        messages, at = [placement.plans[0].crash.error], "load"
    proposal = placement.proposal if placement else None
    return Told(
        tuple(codes),
        tuple(messages),
        at,
        tuple(dict.fromkeys(unknown)),
        dict(proposal.device_map) if proposal and proposal.device_map else None,
        dict(placement.plans[0].device_map) if placement and placement.plans else None,
    )


def judge(said: Told, came: Came, plain: Plain) -> tuple[str, str]:
    """Whether what was said is right, `unknown`, `missed`, a `false alarm`, or cannot be told; and why."""
    fails = came.word in FAILS
    if said.codes:
        if fails:
            return "right", ""
        if said.at == "forward" and plain.inputs is None:
            return "not run", "the error is said of a forward pass, for which no inputs were found"
        if said.at == "forward" and said.reads and said.reads.isdisjoint(plain.called):
            return "not run", "the error is said of a module that these inputs do not come to"
        return "false alarm", ""
    if said.unknown:
        return "unknown", said.unknown[0]
    return ("missed", "") if fails else ("right", "")


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


def runnable(candidate: Candidate) -> Animal:
    """A class made small, and where it can then not be run made small in another way; raises what `animal` raises."""
    one = animal(candidate)
    if inputs_for(tied_model(one).eval()) is not None:
        return one
    config = one.config_class()
    full = silent_dict(config)
    for small in (tiny(full, config, 256, 4), few_words(full, config)):
        other = one._replace(data=small)
        with contextlib.suppress(Exception):
            size = sum(p.numel() for p in build(other.model_class, other.config_class, small).parameters())
            if size <= RUNNABLE and inputs_for(tied_model(other).eval()) is not None:
                return other
    return one


def row_of(candidate: Candidate, plan: Mapping[str, tuple[str, ...]]) -> dict[str, Any]:
    """Every load of a class that a plan names (variant -> maps), judged; or why the class could not be had."""
    row: dict[str, Any] = {"class": candidate.class_name, "model_type": candidate.model_type, "variant": "loads"}
    row |= {"not_built": None, "cells": [], "ran": None, "tied": None}
    begin = time.perf_counter()
    where = Path(tempfile.mkdtemp())
    try:
        store = Store.of(runnable(candidate), where)
        row["cells"] = list(_cells(store, plan, row))
    except Exception as error:  # noqa: BLE001 - a class may refuse a tiny config in any way
        row["not_built"] = _words(error)
    shutil.rmtree(where)
    return row | {"seconds": round(time.perf_counter() - begin, 2)}


def _cells(store: Store, plan: Mapping[str, tuple[str, ...]], row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    cls = store.one.model_class
    inputs: Inputs | None = None
    until = time.perf_counter() + PATIENCE
    for number, (variant, words) in enumerate(plan.items()):
        if number and not store.places:
            continue  # nothing is tied: it is stored once however it is stored
        where = store.directory(variant)
        try:
            plain = again(cls, where, inputs) if number else plain_of(cls, where)
        except Exception as error:  # noqa: BLE001 - then there is no truth
            yield {"variant": variant, "map": "", "word": "no truth", "why": f"a plain load: {_words(error)}"}
            continue
        inputs = plain.inputs
        meta = on_meta(cls, where)
        row["ran"] = plain.inputs is not None
        asks = [ask for ask in maps_of(meta) if ask.word in words]
        row["tied"] = bool(dict(meta.all_tied_weights_keys or {}))
        yield from _under(store, variant, where, plain, asks, until)
        shutil.rmtree(where)


def _under(store: Store, variant: str, where: Path, plain: Plain, asks: list[Ask], until: float) -> Iterator[dict[str, Any]]:
    """One directory under some maps, and under what is proposed for them."""
    tried: list[DeviceMap] = []
    for ask in asks:
        if time.perf_counter() > until:
            yield {"variant": variant, "map": ask.word, "word": "cut", "why": f"more than {PATIENCE:.0f} seconds"}
            continue
        said, came = told(where, ask), load(store.one.model_class, where, ask, plain)
        yield _cell(store, variant, ask, said, came, plain)
        if said.proposal is not None and said.proposal not in tried:
            tried.append(said.proposal)
            ours = Ask("proposal", said.proposal)
            came = load(store.one.model_class, where, ours, plain)
            yield _cell(store, variant, ours, told(where, ours), came, plain) | {"instead": ask.word}


def _cell(store: Store, variant: str, ask: Ask, said: Told, came: Came, plain: Plain) -> dict[str, Any]:
    word, why = judge(said, came, plain)
    if word == "missed":
        other = _control(store, ask)
        if other is not None and other.word in FAILS:
            word, why = "not the tie", f"untied it {other.word} too: {other.text}"
    planned = ask.word == "auto" and came.device_map is not None
    if planned and came.device_map != said.plan:
        why = f"planned {said.plan}, used {came.device_map}"
        word = "other map"
    worded = any(came.text.startswith(message[:80]) for message in said.messages) if said.messages else None
    return {
        "variant": variant,
        "map": ask.word,
        "word": word,
        "why": why[:LONGEST],
        "came": came.word,
        "text": came.text,
        "codes": said.codes,
        "messages": said.messages,
        "worded": worded if word == "right" else None,
        "disk": "disk" in ((came.device_map or said.plan or {}).values()),
        "device_map": None if word == "right" else ask.device_map,
    }


def _control(store: Store, ask: Ask) -> Came | None:
    """The same load of the class with its ties undone, where it can be had so."""
    path = store.untied()
    if path is None:
        return None
    try:
        plain = plain_of(store.one.model_class, path)
    except Exception:  # noqa: BLE001 - no control
        return None
    return load(store.one.model_class, path, ask, plain)
