"""Two targets side by side: what really was saved before and after, against what transformers makes of both."""

from __future__ import annotations

import copy
import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from fix_subjects import CLASSES, edit_weights, loaded
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_models import groups_of
from torch import nn

import tiecheck
from tiecheck.errors import TargetError, TiecheckError

NAMES = sorted(set(CLASSES) - {"T5ForConditionalGeneration"})  # whose false is no untying

Model = Any


def _build(name: str, *, tied: bool = True) -> Model:
    from cases_hf import made

    return made(name, 3, **CLASSES[name], tie_word_embeddings=tied)


def _pair(model: Model) -> tuple[str, str]:
    return next((t, s) for t, s in model.all_tied_weights_keys.items() if t.endswith("weight"))


def _resaved(model: Model, where: Path) -> None:
    model.save_pretrained(where)
    loaded(where).save_pretrained(where)


def _sharded(model: Model, where: Path) -> None:
    model.save_pretrained(where, max_shard_size="7KB")


def _half(model: Model, where: Path) -> None:
    copy.deepcopy(model).to(torch.bfloat16).save_pretrained(where)


def _merged(model: Model, where: Path) -> None:
    """A LoRA on every linear layer but the head is merged: no tied tensor changes."""
    from peft import LoraConfig, get_peft_model

    head, _ = _pair(model)
    warnings.filterwarnings("ignore", category=FutureWarning)  # peft 0.21 asks transformers 5 for an old name
    linear = [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and f"{n}.weight" != head]
    adapted = get_peft_model(copy.deepcopy(model), LoraConfig(target_modules=linear, init_lora_weights=False))
    adapted.merge_and_unload().save_pretrained(where)


def _stored_twice(model: Model, where: Path) -> None:
    head, source = _pair(model)
    model.save_pretrained(where)
    edit_weights(where, lambda tensors: tensors.update({head: tensors[source].clone()}))


def _row_changed(model: Model, where: Path) -> None:
    changed = copy.deepcopy(model)
    with torch.no_grad():
        changed.get_input_embeddings().weight[-1] += 1
    changed.save_pretrained(where)


def _head_row_changed(model: Model, where: Path) -> None:
    head, source = _pair(model)
    _stored_twice(model, where)

    def edit(tensors: dict[str, torch.Tensor]) -> None:
        tensors[head][-1] += 1
        assert source in tensors

    edit_weights(where, edit)


def _untied(model: Model, where: Path) -> None:
    _build(type(model).__name__, tied=False).save_pretrained(where)


def _resized(model: Model, where: Path) -> None:
    changed = copy.deepcopy(model)
    changed.resize_token_embeddings(100)
    changed.save_pretrained(where)


EQUAL = (_resaved, _sharded, _half, _merged, _stored_twice)
DIFFERENT = (_row_changed, _head_row_changed, _untied, _resized)
WAYS: dict[str, Callable[[Model, Path], None]] = {way.__name__.strip("_"): way for way in (*EQUAL, *DIFFERENT)}


def _truth(before: Path, after: Path) -> bool:
    """Whether the library loads the same ties over the same values, rounded to the narrower type."""
    models = [loaded(where) for where in (before, after)]
    if groups_of(models[0]) != groups_of(models[1]):
        return False
    for names in groups_of(models[0]):
        a, b = (dict(m.named_parameters(remove_duplicate=False))[names[0]] for m in models)
        if a.shape != b.shape or not torch.equal(a.to(b.dtype), b):
            return False
    return True


@settings(max_examples=24, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(name=st.sampled_from(NAMES), way=st.sampled_from(sorted(WAYS)))
def test_drawn_saves_are_told_as_the_library_loads_them(
    tmp_path_factory: pytest.TempPathFactory, name: str, way: str
) -> None:
    root = tmp_path_factory.mktemp("compared")
    model = _build(name)
    model.save_pretrained(root / "before")
    WAYS[way](model, root / "after")
    found = tiecheck.compare(root / "before", root / "after")
    assert found.equal is _truth(root / "before", root / "after")
    assert found.equal is (WAYS[way] in EQUAL)
    back = tiecheck.compare(root / "after", root / "before")
    assert (back.lost, back.made) == ((), ()) or len(back.made) == len(found.lost)
    assert back.equal is found.equal
    shutil.rmtree(root)


@pytest.mark.parametrize("way", sorted(WAYS))
def test_each_way_on_one_class(tmp_path: Path, way: str) -> None:
    model = _build("LlamaForCausalLM")
    model.save_pretrained(tmp_path / "before")
    WAYS[way](model, tmp_path / "after")
    found = tiecheck.compare(tmp_path / "before", tmp_path / "after")
    expected = {
        "row_changed": ("changed", ("values",)),
        "head_row_changed": ("lost", ("kind", "stored")),
        "untied": ("lost", ("declared", "stored")),
        "resized": ("changed", ("shape",)),
    }
    word, differs = expected.get(way, ("same", ()))
    (change,) = getattr(found, word)
    assert change.differs[: len(differs)] == differs
    assert found.equal is (word == "same")


def test_the_changed_row_is_counted(tmp_path: Path) -> None:
    model = _build("LlamaForCausalLM")
    model.save_pretrained(tmp_path / "before")
    _row_changed(model, tmp_path / "after")
    (change,) = tiecheck.compare(tmp_path / "before", tmp_path / "after").changed
    assert change.values is not None
    assert "1 of 96 rows" in change.values


def test_a_tiny_model_and_its_reference_by_ties_alone(tmp_path: Path) -> None:
    model = _build("LlamaForCausalLM")
    model.save_pretrained(tmp_path / "tiny")
    _resized(model, tmp_path / "reference")
    assert tiecheck.compare(tmp_path / "tiny", tmp_path / "reference", values="never").equal
    _untied(model, tmp_path / "untied")
    assert tiecheck.compare(tmp_path / "tiny", tmp_path / "untied", values="never").equal is False


def test_a_module_and_where_it_was_saved(tmp_path: Path) -> None:
    model = _build("GPT2LMHeadModel")
    model.save_pretrained(tmp_path)
    assert tiecheck.compare(model, tmp_path).equal
    with torch.no_grad():
        model.transformer.wte.weight[3] = 0
    assert [c.differs for c in tiecheck.compare(tmp_path, model).changed] == [("values",)]
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    (lost,) = tiecheck.compare(tmp_path, model).lost
    assert "kind" in lost.differs


def test_modules_and_what_find_ties_said_of_them() -> None:
    model = _build("BertForMaskedLM")
    before = tiecheck.find_ties(model)
    assert tiecheck.compare(before, tiecheck.find_ties(copy.deepcopy(model))).equal
    assert tiecheck.compare(model, copy.deepcopy(model)).equal
    broken = copy.deepcopy(model)
    broken.cls.predictions.decoder.weight = nn.Parameter(broken.cls.predictions.decoder.weight.detach().clone())
    for found in (tiecheck.compare(before, tiecheck.find_ties(broken)), tiecheck.compare(model, broken)):
        assert found.equal is False
        assert [change.names for change in found.lost] == [
            ("bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight")
        ]
    assert tiecheck.compare(tiecheck.find_ties(broken), before).made


class Stack(nn.Module):
    """Layers whose weights are tied or not."""

    def __init__(self, *, tied: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        if tied:
            self.layers[2].weight = self.layers[0].weight


def test_a_tie_of_a_plain_module_is_made_and_lost() -> None:
    plain, tied = Stack(tied=False), Stack(tied=True)
    assert [c.names for c in tiecheck.compare(plain, tied).made] == [("layers.0.weight", "layers.2.weight")]
    assert [c.names for c in tiecheck.compare(tied, plain).lost] == [("layers.0.weight", "layers.2.weight")]
    assert tiecheck.compare(plain, plain).equal


def test_a_group_that_one_model_alone_has_is_a_difference(tmp_path: Path) -> None:
    for name in ("LlamaForCausalLM", "BertForMaskedLM"):
        _build(name, tied=False).save_pretrained(tmp_path / name)
    llama, bert = tmp_path / "LlamaForCausalLM", tmp_path / "BertForMaskedLM"
    for one, other in ((llama, bert), (bert, llama), (llama, _build("BertForMaskedLM", tied=False))):
        found = tiecheck.compare(one, other)
        assert found.equal is False
        assert ("lm_head.weight", "model.embed_tokens.weight") in [change.names for change in found.changed]
        assert not found.same


def test_what_cannot_be_compared_is_not_equal(tmp_path: Path) -> None:
    model = _build("LlamaForCausalLM")
    model.save_pretrained(tmp_path / "a")
    with torch.device("meta"):
        empty = type(model)(model.config)
    empty.tie_weights()
    found = tiecheck.compare(tmp_path / "a", empty)
    assert found.equal is None
    assert "on meta" in (found.same[0].untold or "")
    assert tiecheck.compare(tmp_path / "a", empty, values="never").equal
    with pytest.raises(TargetError):
        tiecheck.compare(tmp_path / "a", tmp_path / "missing")
    with pytest.raises(TypeError):
        tiecheck.compare(tmp_path / "a", tmp_path / "a", valus="never")


def test_a_truncated_file_is_an_error(tmp_path: Path) -> None:
    model = _build("LlamaForCausalLM")
    for name in ("a", "b"):
        model.save_pretrained(tmp_path / name)
    file = tmp_path / "b" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-64])
    with pytest.raises(TiecheckError):
        tiecheck.compare(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize(
    ("after", "status", "end"),
    [
        ("llama-redundant-copy", 0, "equal: 1 same"),
        ("llama-diverged-head", 1, "different: 1 lost"),
        ("llama-untied", 1, "different: 1 lost"),
        ("no-such-model", 2, ""),
    ],
)
def test_the_command(tiecheck_cli: Any, models: Path, after: str, status: int, end: str) -> None:
    before = str(models / "llama-healthy-tied")
    result = tiecheck_cli("compare", before, str(models / after))
    assert result.exit_code == status
    assert result.stdout.rstrip().endswith(end)
    if status < 2:
        shape = json.loads((Path(tiecheck.__file__).parent / "render" / "compare.schema.json").read_text())
        told = json.loads(tiecheck_cli("compare", before, str(models / after), "-f", "json").stdout)
        jsonschema.validate(told, shape)
        assert told["comparison"]["equal"] is (status == 0)


def test_single_files_are_compared(tiecheck_cli: Any, models: Path) -> None:
    one = str(models / "llama-healthy-tied" / "model.safetensors")
    other = str(models / "llama-redundant-copy" / "model.safetensors")
    assert tiecheck_cli("compare", one, one).exit_code == 0
    assert tiecheck_cli("compare", one, other).exit_code == 0
