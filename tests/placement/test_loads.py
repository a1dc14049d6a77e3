"""The prediction of loads under device maps against the loads themselves, cell by cell."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
import torch
from placing_runs import (
    EMBEDDING,
    HEAD,
    REST,
    Came,
    bart,
    built,
    group_of,
    in_accelerate,
    llama,
    members,
    moe,
    pretrained,
    still,  # noqa: F401 - a fixture
    store,
    store_slots,
    subsets,
    t5,
)

from tiecheck.placement.loads import accelerate as ours
from tiecheck.placement.loads.follow import Load, from_pretrained, loads_under
from tiecheck.placement.loads.slots import Fails, Loaded, LoadGroup, Untold
from tiecheck.records.placement import PlacedLoad
from tiecheck.records.words import Unknown

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("still")]

UNREAD = {"shared.weight", "model.shared.weight"}
"""Containers of T5 and BART that no forward pass calls."""


def differs(real: Came, told: Loaded | Fails | None) -> str | None:
    """How a prediction differs from what came, values left out; None where it does not."""
    if told is None:
        return None
    if isinstance(told, Fails):
        unread = told.reads and set(told.reads) <= UNREAD
        if unread:
            return None if real.error is None else f"raises {real.error}"
        if real.error is None or real.at != ("forward" if told.reads else "load"):
            return f"told {told}, came {real.error}"
        known = real.error.startswith(str(told)) or any(real.error == f"KeyError: {name!r}" for name in told.reads)
        return None if known else f"told {told}, came {real.error}"
    if real.error:
        return f"told no error, came {real.error}"
    held = tuple(sorted(tuple(sorted(names)) for names in told.together))
    return None if held == real.together else f"told {held}, came {real.together}"


def told_of(group: LoadGroup, device_map: Any, form: str) -> Loaded | Fails | None:
    """The prediction; None where it cannot be told."""
    try:
        return from_pretrained(group, device_map, "pickle" if form == "pickle" else "safetensors")
    except Fails as failure:
        return failure
    except Untold:
        return None


def misjudged(real: Came, right: bool, group: LoadGroup, device_map: Any, load: Load) -> str | None:
    """What is wrong with the records made of a load; nothing is, where they do not say what they do not know."""
    for known in {group.equal, None}:
        found = loads_under(device_map, [group._replace(equal=known)], load)
        if any(isinstance(said, Unknown) for said in found) or not group.stored:
            continue
        loads = [said for said in found if isinstance(said, PlacedLoad)]
        alarm = any(not said.harmless for said in loads)
        if alarm != (real.error is not None or not right):
            return f"equal {known}: {loads}, came {real.error}, {right}"
        for said in loads:
            if said.form == "raises" and not str(real.error).startswith(str(said.message).partition(": '")[0]):
                return f"{said.message}, came {real.error}"
    return None


def by_transformers(tmp_path: Any, model: Any, maps: list[Any], cells: Iterable[Any]) -> Counter[str]:
    """Load each cell under each map and hold it against the prediction; how many came to what."""
    cls, names = type(model), members(model)
    counts: Counter[str] = Counter()
    wrong = []
    for stored, differing, form in cells:
        store(model, tmp_path / "model", stored, differing, form)
        group = LoadGroup(
            names, tuple(model.all_tied_weights_keys.items()), stored, None if len(stored) < 2 else not differing
        )
        plain, meant = pretrained(cls, tmp_path / "model", names, None, None), told_of(group, None, form)
        assert differs(plain, meant) is None
        for device_map in maps:
            real = pretrained(cls, tmp_path / "model", names, device_map, tmp_path / "offload")
            told = told_of(group, device_map, form)
            wrong_how = differs(real, told)
            if wrong_how is None and isinstance(told, Loaded) and stored:
                same = all(told.values[n] == meant.values[n] or group.equal for n in names)  # type: ignore[union-attr]
                wrong_how = None if torch.equal(real.output, plain.output) == same else "other logits"
            load = Load("from_pretrained", "pickle" if form == "pickle" else "safetensors")
            right = real.error is None and torch.equal(real.output, plain.output)
            wrong_how = wrong_how or misjudged(real, right, group, device_map, load)
            counts["untold" if told is None else (real.error or "loads").partition(":")[0]] += 1
            if wrong_how:
                wrong.append(f"{form} {stored} {differing} {device_map}: {wrong_how}")
    assert wrong == []
    return counts


def llama_maps() -> Iterator[dict[str, str]]:
    for one, other in itertools.product(("cpu", "disk"), repeat=2):
        yield {"model.embed_tokens": one, "lm_head": other, **REST}
    for one, other in (("cpu", "disk"), ("disk", "cpu")):
        yield {"": one, "lm_head": other}
        yield {"": one, "model.embed_tokens": other}
        yield {"model": one, "lm_head": other}
        yield {"model": one, "lm_head.weight": other}
        yield {"model.embed_tokens.weight": one, "lm_head": other, **REST}
    yield from ({"": "disk"}, {"": "cpu"}, {"model": "disk", "lm_head": "disk"})


LLAMA_CELLS = [((HEAD, EMBEDDING), ()), ((HEAD, EMBEDDING), (HEAD,)), ((EMBEDDING,), ()), ((HEAD,), ()), ((), ())]


EVERY = [pytest.param(False, id="drawn"), pytest.param(True, id="every", marks=pytest.mark.slow)]
"""A quarter or a third of the cells, drawn once and for all, and all of them."""


@pytest.mark.parametrize("every", EVERY)
@pytest.mark.parametrize("form", ["single", "sharded", "pickle"])
def test_a_llama(tmp_path, form: str, every: bool) -> None:
    maps = list(llama_maps()) if form == "single" else list(llama_maps())[:4]
    if form == "single" and not every:
        maps = random.Random(1).sample(maps, len(maps) // 3)
    counts = by_transformers(tmp_path, llama(), maps, [(*cell, form) for cell in LLAMA_CELLS])
    assert {"loads", "KeyError", "ValueError", "NotImplementedError"} <= set(counts)
    assert counts["untold"] < sum(counts.values()) / 10


def test_a_flag_that_is_false_leaves_nothing_to_fail(tmp_path) -> None:
    model = llama(tie_word_embeddings=False)
    assert model.all_tied_weights_keys == {}
    model.save_pretrained(tmp_path / "model")
    plain = pretrained(type(model), tmp_path / "model", (HEAD, EMBEDDING), None, None)
    for one, other in itertools.product(("cpu", "disk"), repeat=2):
        real = pretrained(type(model), tmp_path / "model", (HEAD, EMBEDDING), {"model": one, "lm_head": other}, None)
        assert torch.equal(real.output, plain.output)


def wholes(*modules: str, **more: str) -> list[dict[str, str]]:
    """Every map of some modules onto the CPU and the disk."""
    return [
        dict(zip(modules, ds, strict=True)) | more for ds in itertools.product(("cpu", "disk"), repeat=len(modules))
    ]


def many_cells(names: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], tuple[str, ...], str]]:
    for stored in subsets(names):
        yield stored, (), "single"
        if len(stored) == 2:
            yield stored, stored[:1], "single"


T5_MAPS = wholes("shared", "encoder", "decoder", "lm_head")
BART_MAPS = wholes("model.shared", "model.encoder", "model.decoder", "lm_head", final_logits_bias="cpu")


@pytest.mark.parametrize(("make", "maps"), [(t5, T5_MAPS), (bart, BART_MAPS)], ids=["t5", "bart"])
def test_four_members_sampled(tmp_path, make, maps) -> None:
    model = make()
    counts = by_transformers(tmp_path, model, maps[::5], list(many_cells(members(model)))[1::4])
    assert counts["loads"]


@pytest.mark.slow
@pytest.mark.parametrize(("make", "maps"), [(t5, T5_MAPS), (bart, BART_MAPS)], ids=["t5", "bart"])
def test_four_members(tmp_path, make, maps) -> None:
    model = make()
    counts = by_transformers(tmp_path, model, maps, many_cells(members(model)))
    assert sum(counts.values()) == 2 * 16 * (16 + 6)


def test_a_class_with_weight_conversions(tmp_path) -> None:
    """A mixture of experts stores its experts apart: they are written again for the disk, the tie is as a Llama's."""
    model = moe()
    model.save_pretrained(tmp_path / "model")
    group = LoadGroup((HEAD, EMBEDDING), ((HEAD, EMBEDDING),), (EMBEDDING,))
    plain = pretrained(type(model), tmp_path / "model", group.names, None, None)
    for one, other in itertools.product(("cpu", "disk"), repeat=2):
        device_map = {"model": one, "lm_head": other}
        real = pretrained(type(model), tmp_path / "model", group.names, device_map, tmp_path / "offload")
        assert differs(real, told_of(group, device_map, "single")) is None
        assert real.error or torch.equal(real.output, plain.output)


Cell = tuple[tuple[str, ...], str, bool, tuple[str, ...], dict[str, str], str, str]


def accelerate_cells(all_paths: Iterable[tuple[str, ...]]) -> Iterator[Cell]:
    functions = ("load_checkpoint_in_model", "load_checkpoint_and_dispatch")
    for paths, kind, on_meta in itertools.product(all_paths, ("parameter", "module", "none"), (False, True)):
        names = tuple(sorted(f"{path}.weight" for path in paths))
        for stored in subsets(names):
            if kind == "module" and len(stored) > 1:
                continue  # the last in the file's order wins, with a map or without
            for devices in itertools.product(("cpu", "disk"), repeat=len(paths)):
                device_map = dict(zip(paths, devices, strict=True)) | {"other": "disk"}
                for function in functions:
                    yield paths, kind, on_meta, stored, device_map, function, "safetensors"
                yield paths, kind, on_meta, stored, device_map | {"other": "cpu"}, functions[1], "pickle"
                if not on_meta and not stored:
                    yield paths, kind, on_meta, stored, device_map, "dispatch_model", "safetensors"


def told_by_ours(cell: Cell) -> tuple[tuple[tuple[str, ...], ...], dict[str, str]] | Fails | None:
    paths, kind, on_meta, stored, device_map, function, form = cell
    group = group_of(paths, kind, stored)
    try:
        if function == "load_checkpoint_in_model":
            slots, _ = ours.load_checkpoint_in_model(group, device_map, form, on_meta=on_meta)  # type: ignore[arg-type]
            held, read = slots.together(group.names), {name: slots[name].value for name in group.names}
            return tuple(sorted(tuple(sorted(names)) for names in held)), read
        if function == "dispatch_model":
            out = ours.dispatch_model(group, device_map)
        else:
            out = ours.load_checkpoint_and_dispatch(group, device_map, form, on_meta=on_meta)  # type: ignore[arg-type]
    except Fails as failure:
        return failure
    except Untold:
        return None
    return tuple(sorted(tuple(sorted(names)) for names in out.together)), out.values


def by_accelerate(tmp_path: Any, cells: Iterable[Cell]) -> Counter[str]:
    counts: Counter[str] = Counter()
    wrong = []
    for cell in cells:
        paths, kind, on_meta, stored, device_map, function, form = cell
        told = told_by_ours(cell)
        numbers = store_slots(tmp_path / "model", stored, form)
        real = in_accelerate(function, built(paths, kind, on_meta=on_meta), tmp_path / "model", device_map, numbers)
        if told is None:
            counts["untold"] += 1
            continue
        right = (
            differs(real, told) is None
            if isinstance(told, Fails)
            else real.error is None and (real.together, real.output) == told
        )
        lost = not isinstance(told, Fails) and stored and "before" in told[1].values() and kind == "parameter"
        counts["overwritten" if lost else "right"] += right
        if function != "load_checkpoint_in_model" and kind != "none" and right:
            read = set(real.output.values()) if isinstance(real.output, dict) else set()
            sound = not read & {"before", "none"} if function != "dispatch_model" else read == {"before"}
            load = Load(function, form, on_meta=on_meta)  # type: ignore[arg-type]
            said = misjudged(real, sound, group_of(paths, kind, stored), device_map, load)
            wrong += [f"{cell}: {said}"] if said else []
        if not right:
            wrong.append(f"{cell}: told {told}, came {real}")
    assert wrong == []
    return counts


@pytest.mark.parametrize("every", EVERY)
def test_accelerate_with_two_members(tmp_path, every: bool) -> None:
    cells = list(accelerate_cells((("t.z", "h"),)))
    counts = by_accelerate(tmp_path, cells if every else random.Random(1).sample(cells, len(cells) // 4))
    assert counts["overwritten"] > (5 if every else 0)
    assert counts["right"] > 10 * counts["overwritten"] > counts["untold"]


@pytest.mark.slow
def test_accelerate_with_other_orders_and_three_members(tmp_path) -> None:
    counts = by_accelerate(tmp_path, accelerate_cells((("a", "b"), ("b", "a"), ("t.a", "h", "m.x"))))
    assert counts["overwritten"] > 20


CONTAINER, ENCODER, DECODER = "shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"
T5_GROUP = LoadGroup((DECODER, ENCODER, CONTAINER), ((DECODER, CONTAINER), (ENCODER, CONTAINER)), (CONTAINER,))


def test_a_missing_weight_hurts_where_its_module_is_called() -> None:
    load, device_map = Load("from_pretrained"), {"shared": "cpu", "encoder": "disk", "decoder": "disk"}
    (taken,) = loads_under(device_map, [T5_GROUP], load)
    (seen,) = loads_under(
        device_map, [T5_GROUP], load._replace(called=("encoder.embed_tokens", "decoder.embed_tokens"))
    )
    (later,) = loads_under(device_map, [T5_GROUP], load._replace(called=("decoder.embed_tokens",)))
    (never,) = loads_under(device_map, [T5_GROUP], load._replace(called=("lm_head",)))
    assert [said.message for said in (taken, seen, later)] == [  # type: ignore[union-attr]
        f"KeyError: {name!r}" for name in (DECODER, ENCODER, DECODER)
    ]
    assert isinstance(never, Unknown)
    assert "whether a forward pass reads" in never.reason


def test_a_container_that_is_called_is_read() -> None:
    group = T5_GROUP._replace(stored=(DECODER, ENCODER))
    load, device_map = Load("from_pretrained"), {"shared": "disk", "encoder": "cpu", "decoder": "cpu"}
    (taken,) = loads_under(device_map, [group], load)
    (seen,) = loads_under(device_map, [group], load._replace(called=("shared", "encoder.embed_tokens")))
    assert isinstance(taken, Unknown)
    assert isinstance(seen, PlacedLoad)
    assert (seen.message, seen.at) == (f"KeyError: {CONTAINER!r}", "forward")


def test_a_load_that_raises_is_told_though_a_pass_is_not() -> None:
    """A key of the map that is a parameter: no hook reads it, and the load compares the two all the same."""
    names = ("head.bias", "head.decoder.bias")
    group = LoadGroup(names, (names,), names, equal=True)
    (said,) = loads_under({"head.bias": "disk", "head.decoder": "cpu"}, [group], Load("from_pretrained"))
    assert isinstance(said, PlacedLoad)
    assert (said.form, said.at) == ("raises", "load")
    (both,) = loads_under({"head.bias": "disk", "head.decoder": "disk"}, [group], Load("from_pretrained"))
    assert isinstance(both, Unknown)
