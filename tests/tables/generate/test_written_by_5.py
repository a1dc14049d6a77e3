"""The configs that one release writes, and what another makes of them: here of a config with a key that is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from tiecheck.tables.generate import written_by_5
from tiecheck.tables.generate.classes import class_candidates
from tiecheck.tables.generate.written_by_5 import config_refusals, save_written


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    llama = [one for one in class_candidates(frozenset({"llama"})) if one.class_name == "LlamaForCausalLM"]
    monkeypatch.setattr(written_by_5, "class_candidates", lambda: llama)
    path = tmp_path / "written.jsonl"
    save_written(path)
    return path


def test_a_class_is_written_small_and_builds_as_it_was_written(written: Path) -> None:
    (line,) = written.read_text().splitlines()
    candidate, data, shapes, names = json.loads(line)
    assert "LlamaForCausalLM" in candidate
    model = LlamaForCausalLM(LlamaConfig.from_dict(dict(data)))
    assert {name: list(value.shape) for name, value in model.named_parameters()} == shapes
    assert set(names) == {name for name, shape in shapes.items() if len(shape) > 1}
    assert config_refusals(written) == {}


def test_the_one_key_that_keeps_a_class_from_being_built_is_told(written: Path) -> None:
    candidate, data, shapes, names = json.loads(written.read_text())
    written.write_text(json.dumps([candidate, data | {"hidden_act": "no such function"}, shapes, names]))
    ((kind, told),) = config_refusals(written).items()
    assert "llama" in kind.lower()
    assert told == {"n": [["hidden_act", "no such function"]]}


def test_another_size_has_no_remedy(written: Path) -> None:
    candidate, data, shapes, names = json.loads(written.read_text())
    name = next(iter(shapes))
    written.write_text(json.dumps([candidate, data, shapes | {name: [1]}, names]))
    assert list(config_refusals(written).values()) == [{"x": "another size"}]


def test_a_matrix_that_is_stored_where_nobody_looks_for_it_is_told(written: Path) -> None:
    candidate, data, shapes, names = json.loads(written.read_text())
    moved = [name.replace("model.layers.0", "model.tower.layers.0") for name in names]
    written.write_text(json.dumps([candidate, data, shapes, moved]))
    first = next(name for name in moved if "tower" in name)
    assert config_refusals(written) == {"llama": {"v": {"LlamaForCausalLM": first}}}
    written.write_text(json.dumps([candidate, data, shapes, [*names, "model.tower.weight"]]))
    assert config_refusals(written) == {}, "what is left over costs nothing"


def test_a_key_of_a_section_is_told_with_the_section(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stops the class inside is the section's own, wherever it stands; a section that is asked itself is left."""
    llava = [one for one in class_candidates(frozenset({"llava"})) if one.class_name == "LlavaForConditionalGeneration"]
    monkeypatch.setattr(written_by_5, "class_candidates", lambda: llava)
    path = tmp_path / "written.jsonl"
    save_written(path)
    candidate, data, shapes, names = json.loads(path.read_text())
    data["text_config"]["hidden_act"] = "no such function"
    path.write_text(json.dumps([candidate, data, shapes, names]))
    assert config_refusals(path) == {"llava": {"x": "KeyError"}}
    monkeypatch.setattr(written_by_5, "is_mapped", lambda _: False)
    assert config_refusals(path) == {"llama": {"n": [["hidden_act", "no such function"]]}}


def test_modules_that_are_to_stay_in_float32_are_needed(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LlamaForCausalLM, "_keep_in_fp32_modules_strict", ["gate"], raising=False)
    monkeypatch.setattr(LlamaForCausalLM, "_keep_in_fp32_modules", {"norm"}, raising=False)
    assert config_refusals(written) == {"llama": {"k": ["gate", "norm"]}}
