"""The rehearsal against real loads, in process and in another interpreter; what it refuses, and what it costs."""

from __future__ import annotations

import json
import os
import random
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from drawn_saves import draws
from giant_headers import LLAMA_70B, llama_headers
from lanes import sampled
from older import layer, older_python
from real_loads import differences, older_loads, tell
from safetensors.torch import load_file, save_file
from zoo import animal, by_name, own

import tiecheck
from tiecheck.live.rehearsal import Rehearser, rehearse, shadow_directory, write_shadow
from tiecheck.records.loaders import Rehearsal
from tiecheck.tables.generate.classes import class_candidates
from tiecheck.tables.generate.head_scale import tiny_config
from tiecheck.tables.generate.probe import Probe

pytestmark = pytest.mark.filterwarnings("ignore")

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"

SAMPLE = ("BertForMaskedLM", "LlamaForCausalLM", "LlavaForConditionalGeneration", "MixtralForCausalLM")
SAMPLE += ("T5ForConditionalGeneration", "WhisperForConditionalGeneration")


@pytest.fixture
def llama(tmp_path: Path) -> Callable[..., Path]:
    """Save a tied Llama, with its tensors and its config changed."""

    def make(change: Callable[[dict[str, torch.Tensor]], object] = lambda _: None, **config: Any) -> Path:
        path = tmp_path / "llama"
        animal(by_name("LlamaForCausalLM")).model(True).save_pretrained(path)
        tensors = load_file(path / "model.safetensors")
        change(tensors)
        save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
        data = json.loads((path / "config.json").read_text()) | config
        (path / "config.json").write_text(json.dumps(data))
        return path

    return make


@pytest.fixture(scope="module")
def other() -> Iterator[Rehearser]:
    """Another process of this interpreter, one for all tests: its imports are what takes the time."""
    with Rehearser(sys.executable) as started:
        yield started


@pytest.fixture(scope="module")
def older() -> Iterator[Rehearser]:
    """A process of transformers 4.57."""
    with Rehearser(older_python()) as started:
        yield started


def head_alone(tensors: dict[str, torch.Tensor]) -> None:
    tensors[HEAD] = tensors.pop(EMBEDDING)


@pytest.mark.parametrize("name", sampled(SAMPLE))
def test_a_drawn_directory_is_rehearsed_as_it_loads(tmp_path: Path, name: str) -> None:
    drawn = draws(animal(by_name(name)), tmp_path, random.Random(name), 12)
    found = {words: wrong for words, path in drawn if (wrong := differences(rehearse(str(path)), path, tell))}
    assert found == {}


def drawn_classes(seed: int, count: int) -> list[Any]:
    """Some classes of the library that can be had small."""
    rng, found = random.Random(seed), []
    some = list(class_candidates())
    rng.shuffle(some)
    for candidate in some:
        try:
            if own(candidate):
                found.append(animal(candidate))
        except Exception:  # noqa: BLE001 - needs a further library, or refuses a tiny config
            continue
        if len(found) == count:
            break
    return found


@pytest.mark.slow
def test_forty_drawn_classes_are_rehearsed_as_they_load(tmp_path: Path) -> None:
    found = {}
    for number, one in enumerate(drawn_classes(12, 40)):
        for words, path in draws(one, tmp_path / str(number), random.Random(number), 12):
            if wrong := differences(rehearse(str(path)), path, tell):
                found[f"{one.model_class.__name__}: {words}"] = wrong
    assert found == {}


@pytest.mark.slow
def test_twenty_drawn_classes_are_rehearsed_as_4_57_loads_them(tmp_path: Path) -> None:
    found: dict[str, list[str]] = {}
    with Rehearser(older_python()) as older, older_loads(older_python()) as real:
        for number, one in enumerate(drawn_classes(4, 30)):
            for words, path in draws(one, tmp_path / str(number), random.Random(number), 12):
                told = older.rehearse(str(path))
                if "has no class" in (told.unsure or ""):
                    break
                if wrong := differences(told, path, real):
                    found[f"{one.model_class.__name__}: {words}"] = wrong
    assert found == {}


def test_another_interpreter_says_the_same(llama: Callable[..., Path], other: Rehearser) -> None:
    path = str(llama(head_alone))
    told = other.rehearse(path)
    assert told == rehearse(path)
    assert told.groups == ((HEAD, EMBEDDING),)
    assert told.by_name[EMBEDDING].stored == (HEAD,)
    assert (told.head, told.embedding, told.version) == (HEAD, EMBEDDING, transformers.__version__)


@pytest.mark.slow
def test_4_57_leaves_both_on_meta_where_the_head_is_stored_alone(llama: Callable[..., Path]) -> None:
    told = rehearse(str(llama(head_alone)), python=older_python())
    assert told.version.startswith("4.57")
    assert told.by_name[HEAD].state == "left"
    assert told.groups == ((HEAD, EMBEDDING),)


@pytest.mark.slow
def test_4_57_says_of_a_thrown_away_head_whether_it_differs(llama: Callable[..., Path]) -> None:
    for add, equal in ((0.0, True), (1.0, False)):
        path = llama(lambda t, add=add: t.update({HEAD: t[EMBEDDING] + add}))
        (gone,) = rehearse(str(path), python=older_python()).dropped
        assert (gone.name, gone.equal) == (HEAD, equal)


@pytest.mark.slow
@pytest.mark.parametrize("kept", [(True, False), (False, True), (True, True), (False, False)])
def test_4_57_gives_buffers_one_memory_by_code_of_its_own(tmp_path: Path, kept: tuple[bool, bool]) -> None:
    """SAM's two position matrices: the image's is the source, whichever is stored."""
    image, prompt = "shared_image_embedding", "prompt_encoder.shared_embedding"
    animal(by_name("SamModel")).model(True).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    value = next(tensors.pop(name) for name in list(tensors) if name.endswith("positional_embedding"))
    names = [f"{place}.positional_embedding" for place in (image, prompt)]
    tensors |= {name: value + i for i, (name, there) in enumerate(zip(names, kept, strict=True)) if there}
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with older_loads(older_python()) as real:
        told = rehearse(str(tmp_path), python=older_python())
        assert differences(told, tmp_path, real) == []
    assert {told.by_name[name].state for name in names} == {"loaded" if kept[0] else "random"}
    assert [(gone.name, gone.equal) for gone in told.dropped] == ([(names[1], False)] if all(kept) else [])


@pytest.mark.slow
def test_4_57_refuses_metadata_without_a_format(llama: Callable[..., Path]) -> None:
    path = llama()
    save_file(load_file(path / "model.safetensors"), path / "model.safetensors", metadata={"made": "by hand"})
    told = rehearse(str(path), python=older_python())
    assert told.raised
    assert told.raised[0] == "ValueError"
    assert "Incompatible safetensors file" in told.raised[1]
    assert rehearse(str(path)).raised is None


def test_what_a_load_raises_is_told_in_its_own_words(llama: Callable[..., Path], tmp_path: Path) -> None:
    told = rehearse(str(llama(tie_word_embeddings="false")))
    assert told.raised
    assert "expected bool, got str" in told.raised[1]
    assert told.unsure is None
    told = rehearse(str(llama(lambda t: t.update({EMBEDDING: t[EMBEDDING][:5].clone()}))))
    assert told.raised
    assert "ignore_mismatched_sizes" in told.raised[1]
    path = llama()
    (path / "model.safetensors").unlink()
    told = rehearse(str(path))
    assert told.raised
    assert told.raised[0] == "OSError"
    assert "model.safetensors" in told.raised[1]


def test_values_decide_where_both_are_stored(llama: Callable[..., Path]) -> None:
    def nan(tensors: dict[str, torch.Tensor]) -> None:
        tensors[EMBEDDING][0, 0] = float("nan")
        tensors[HEAD] = tensors[EMBEDDING].clone()

    def zero(tensors: dict[str, torch.Tensor]) -> None:
        tensors[EMBEDDING][0, 0] = 0.0
        tensors[HEAD] = tensors[EMBEDDING].clone()
        tensors[HEAD][0, 0] = -0.0

    assert rehearse(str(llama(nan))).groups == ()
    assert rehearse(str(llama(zero))).groups == ((HEAD, EMBEDDING),)
    unread = rehearse(str(llama(zero)), values=False)
    assert unread.groups == ()
    assert set(unread.undecided[0]) == {HEAD, EMBEDDING}


def test_a_class_that_is_not_there_is_unsure(llama: Callable[..., Path]) -> None:
    told = rehearse(str(llama(architectures=["NoSuchModel"])))
    assert told.unsure == f"transformers {transformers.__version__} has no class NoSuchModel"
    assert rehearse(str(llama(architectures=None))).class_name == "LlamaForCausalLM"


def test_weights_outside_of_the_directory_are_not_read(llama: Callable[..., Path], tmp_path: Path) -> None:
    path = llama()
    (path / "model.safetensors").rename(tmp_path / "elsewhere.safetensors")
    (path / "model.safetensors").symlink_to(tmp_path / "elsewhere.safetensors")
    told = rehearse(str(path))
    assert told.unsure
    assert "outside the target directory, and is not read" in told.unsure


@pytest.mark.parametrize("where", ["here", "other", pytest.param("older", marks=pytest.mark.slow)])
def test_what_a_directory_asks_for_besides_is_refused_and_named(
    llama: Callable[..., Path], tmp_path: Path, where: str, request: pytest.FixtureRequest
) -> None:
    """By the bounds of `rehearse_bounds`, in this process and in a child of an interpreter."""
    asked = rehearse if where == "here" else request.getfixturevalue(where).rehearse
    detr = {"architectures": ["DetrForObjectDetection"], "model_type": "detr", "use_timm_backbone": False}
    detr |= {"backbone_config": None, "use_pretrained_backbone": False}
    outside = llama()
    for word in ("example/backbone", str(outside)):
        (tmp_path / "m").mkdir(exist_ok=True)
        (tmp_path / "m" / "config.json").write_text(json.dumps(detr | {"backbone": word}))
        save_file({"x": torch.ones(1)}, tmp_path / "m" / "model.safetensors", {"format": "pt"})
        told = asked(str(tmp_path / "m"))
        assert word in (told.unsure or "")
        assert "nothing outside is fetched or read" in (told.unsure or "")
    path = llama()
    index = {"metadata": {}, "weight_map": {EMBEDDING: "../secret.safetensors"}}
    (path / "model.safetensors").rename(tmp_path / "secret.safetensors")
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "which is not in the directory" in (asked(str(path)).unsure or "")
    path = llama(num_hidden_layers=10**7)
    assert "num_hidden_layers asks for 10,000,000" in (asked(str(path)).unsure or "")
    path = llama()
    os.mkfifo(path / "generation_config2.json")
    assert "is a pipe or a device" in (asked(str(path)).unsure or "")


@pytest.mark.slow
def test_the_real_kernels_library_is_kept_from_the_hub(llama: Callable[..., Path], monkeypatch) -> None:
    """transformers 4.57 takes kernels up to 0.9, and asks it for the kernel that a config names as its attention."""
    monkeypatch.setenv("PYTHONPATH", layer("kernels==0.9.0"))
    told = rehearse(str(llama(_attn_implementation="kernels-community/flash-attn")), older_python())
    assert "it asks for the kernel kernels-community/flash-attn" in (told.unsure or "")
    assert rehearse(str(llama(attn_implementation="sdpa")), older_python()).unsure is None


def test_links_of_the_hub_cache_are_inside(llama: Callable[..., Path], tmp_path: Path) -> None:
    snapshot, blobs = tmp_path / "models--a--b" / "snapshots" / "1f", tmp_path / "models--a--b" / "blobs"
    snapshot.parent.mkdir(parents=True)
    blobs.mkdir()
    llama().rename(snapshot)
    (snapshot / "model.safetensors").rename(blobs / "0")
    (snapshot / "model.safetensors").symlink_to(blobs / "0")
    assert rehearse(str(snapshot)).groups == ((HEAD, EMBEDDING),)


def test_nothing_of_the_library_stays_changed(llama: Callable[..., Path]) -> None:
    from transformers import core_model_loading as core
    from transformers import modeling_utils as modeling

    before = (modeling.safe_open, core.set_param_for_module, core.deepcopy, torch.equal, socket.socket.connect)
    rehearse(str(llama()))
    rehearse(str(llama(tie_word_embeddings="false")))
    assert before == (modeling.safe_open, core.set_param_for_module, core.deepcopy, torch.equal, socket.socket.connect)


def test_an_interpreter_that_cannot_answer_is_a_reason(llama: Callable[..., Path], tmp_path: Path) -> None:
    path = str(llama())
    assert "does not run" in (rehearse(path, python=str(tmp_path / "none")).unsure or "")
    dumb = tmp_path / "dumb"
    dumb.write_text("#!/bin/sh\necho broken >&2\nexit 3\n")
    dumb.chmod(0o755)
    assert (rehearse(path, python=str(dumb)).unsure or "").endswith("ended without an answer: broken")
    hung = tmp_path / "hung"
    hung.write_text("#!/bin/sh\nsleep 60\n")
    hung.chmod(0o755)
    assert rehearse(path, python=str(hung), timeout=0.5).unsure == "the rehearsal was not done in 0.5 seconds"


def test_an_interpreter_answers_one_directory_after_the_other(llama: Callable[..., Path], other: Rehearser) -> None:
    path = str(llama())
    first, nobodys = other.rehearse(path), other.rehearse(path, class_name="NobodysModel")
    second = other.rehearse(str(llama(tie_word_embeddings="false")))
    assert first.raised is None
    assert "has no class NobodysModel" in (nobodys.unsure or "")
    assert second.raised is not None


def test_a_model_of_141_gb_is_rehearsed_by_its_headers() -> None:
    import resource

    headers = llama_headers(80, 8192, 128256, 28672)
    index = {"weight_map": {name: file for file, entries in headers.items() for name in entries}, "metadata": {}}
    texts = {"config.json": json.dumps(LLAMA_70B), "model.safetensors.index.json": json.dumps(index)}
    rehearse_small(texts)  # the class's module is imported
    before = resource.getrusage(resource.RUSAGE_SELF)
    with shadow_directory(texts, headers) as path:
        assert sum(file.stat().st_size for file in Path(path).iterdir()) > 141e9
        told = rehearse(path, values=False)
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert told.raised is None
    assert told.unsure is None
    assert len(told.held) == 723
    assert set(told.undecided[0]) == {HEAD, EMBEDDING}
    assert after.ru_utime - before.ru_utime < 5
    assert after.ru_maxrss - before.ru_maxrss < 200 * 1024


def rehearse_small(texts: dict[str, str]) -> Rehearsal:
    """Rehearse a directory that has a config and no weights."""
    with shadow_directory({"config.json": texts["config.json"]}, {}) as path:
        return rehearse(path)


def test_a_shadow_is_a_file_of_the_same_header(llama: Callable[..., Path], tmp_path: Path) -> None:
    path = llama()
    real = (path / "model.safetensors").read_bytes()
    size = int.from_bytes(real[:8], "little")
    entries = json.loads(real[8 : 8 + size])
    metadata = entries.pop("__metadata__")
    write_shadow(tmp_path / "shadow.safetensors", entries, metadata)
    shadow = load_file(tmp_path / "shadow.safetensors")
    assert {n: (t.dtype, t.shape) for n, t in shadow.items()} == {
        n: (t.dtype, t.shape) for n, t in load_file(path / "model.safetensors").items()
    }
    with pytest.raises(ValueError, match="no plain file name"), shadow_directory({"../config.json": ""}, {}):
        pass


def test_a_class_that_does_not_hand_on_what_was_loaded_is_unsure_and_does_not_raise(tmp_path: Path) -> None:
    """Jev's own `from_pretrained` (5.23) takes what it gets for the model alone: with the loading info it raises."""
    from transformers import JevForDecision

    config = JevForDecision.config_class
    asked = Probe(JevForDecision, config, {})
    JevForDecision(config.from_dict(tiny_config(asked.full, asked.config, 32, 2))).save_pretrained(tmp_path)
    assert isinstance(JevForDecision.from_pretrained(tmp_path), JevForDecision)
    with pytest.raises(AttributeError, match="'tuple' object"):
        JevForDecision.from_pretrained(tmp_path, output_loading_info=True)
    found = rehearse(str(tmp_path))
    assert "as a class does that takes the model alone" in (found.unsure or "")
    (report,) = tiecheck.check(tmp_path, rehearse=True).targets
    assert not any("raises when it loads" in error.message for error in report.errors)
