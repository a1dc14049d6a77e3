"""TIE611 and TIE612: tied models quantised on one side, twice, or with a skip list that leaves the head out.

The formats are written here in the layout of their libraries; bitsandbytes itself runs where it is installed.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from rule_failures import llama
from safetensors.torch import load_file, save_file

import tiecheck
from tiecheck.files.checkpoint import read_checkpoint
from tiecheck.records.artefacts import QuantisedMember, QuantisedTie
from tiecheck.rules.artefacts.quantised import SkipListMissesAlias
from tiecheck.rules.cases import llama_group
from tiecheck.stored.quantised import quantised_ties

HEAD, EMBEDDING = "lm_head", "model.embed_tokens"
Tensors = dict[str, torch.Tensor]


def gptq(name: str, seed: int) -> Tensors:
    words = torch.randint(
        -(2**31), 2**31 - 1, (2, 64), generator=torch.Generator().manual_seed(seed), dtype=torch.int32
    )
    beside = {"qzeros": words[:1, :8].clone(), "scales": torch.ones(1, 64).half(), "g_idx": torch.zeros(16).int()}
    return {f"{name}.qweight": words, **{f"{name}.{part}": tensor for part, tensor in beside.items()}}


def packed(name: str, seed: int) -> Tensors:
    words = torch.full((64, 2), seed, dtype=torch.int32)
    words[0] = 7
    return {
        f"{name}.weight_packed": words,
        f"{name}.weight_scale": torch.ones(64, 1),
        f"{name}.weight_shape": torch.tensor([64, 16]),
    }


def fp8(name: str, seed: int) -> Tensors:
    values = torch.randn(64, 16, generator=torch.Generator().manual_seed(seed)).to(torch.float8_e4m3fn)
    return {f"{name}.weight": values, f"{name}.weight_scale": torch.ones(1)}


def bnb4(name: str, seed: int) -> Tensors:
    words = torch.randint(0, 255, (512, 1), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    beside = {"absmax": torch.ones(16), "quant_map": torch.ones(16)}
    beside["quant_state.bitsandbytes__nf4"] = torch.zeros(77, dtype=torch.uint8)
    return {f"{name}.weight": words, **{f"{name}.weight.{part}": tensor for part, tensor in beside.items()}}


def bnb8(name: str, seed: int) -> Tensors:
    words = torch.randint(-127, 127, (64, 16), generator=torch.Generator().manual_seed(seed), dtype=torch.int8)
    return {
        f"{name}.weight": words,
        f"{name}.SCB": torch.ones(64),
        f"{name}.weight_format": torch.tensor(0, dtype=torch.uint8),
    }


def mlx(name: str, seed: int) -> Tensors:
    words = torch.full((64, 2), seed).to(torch.uint32)
    return {
        f"{name}.weight": words,
        f"{name}.scales": torch.ones(64, 1),
        f"{name}.biases": torch.full((64, 1), float(seed)),
    }


def torchao(name: str, seed: int) -> Tensors:
    """Int8Tensor as transformers 5.23 writes it with torchao 0.18."""
    words = torch.randint(-127, 127, (64, 16), generator=torch.Generator().manual_seed(seed), dtype=torch.int8)
    beside = {"scale": torch.ones(64, 1), "zero_point": torch.zeros(64, 1, dtype=torch.int8)}
    return {f"{name}._weight_qdata": words, **{f"{name}._weight_{part}": tensor for part, tensor in beside.items()}}


FORMATS = (gptq, packed, fp8, bnb4, bnb8, mlx, torchao)


def write(where: Path, *, tied: bool = True, **named: Tensors) -> list[tuple[str, str]]:
    """Save a Llama with some of its tensors in other forms; what is found of it in TIE6."""
    llama(tied=tied).save_pretrained(where)
    tensors = load_file(where / "model.safetensors")
    for parts in named.values():
        module = next(iter(parts)).rpartition(".")[0].removesuffix(".weight")
        tensors.pop(f"{module}.weight", None)
        tensors |= parts
    save_file(tensors, where / "model.safetensors", metadata={"format": "pt"})
    config = where / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"quantization_config": {"quant_method": "x"}}))
    report = tiecheck.check(where)
    assert not report.errors
    odd = {f.code for f in report.findings if f.severity == "error"}
    assert not odd & {"TIE101", "TIE108"}  # packed words are no numbers, and have a shape of their own
    return [(f.code, f.severity) for f in report.findings if f.code.startswith("TIE6")]


@pytest.mark.parametrize("make", FORMATS)
def test_a_tie_with_one_side_quantised_is_told(make: Callable[[str, int], Tensors], tmp_path: Path) -> None:
    assert write(tmp_path / "head", head=make(HEAD, 1)) == [("TIE611", "warning")]
    assert write(tmp_path / "untied", tied=False, head=make(HEAD, 1)) == []
    assert write(tmp_path / "lone", embedding=make(EMBEDDING, 1)) == []  # one tie on the quantised matrix


@pytest.mark.parametrize("make", FORMATS)
def test_two_quantised_copies_are_compared_part_by_part(make: Callable[[str, int], Tensors], tmp_path: Path) -> None:
    apart = write(tmp_path / "apart", head=make(HEAD, 1), embedding=make(EMBEDDING, 2))
    assert apart == [("TIE611", "warning")]
    scaled = make(HEAD, 2)
    last = max(scaled)
    scaled[last] = (scaled[last].float() + 1).to(scaled[last].dtype)
    assert write(tmp_path / "scaled", head=scaled, embedding=make(EMBEDDING, 2)) == [("TIE611", "warning")]
    equal = write(tmp_path / "equal", head=make(HEAD, 2), embedding=make(EMBEDDING, 2))
    assert equal == ([("TIE611", "warning")] if make is mlx else [])  # mlx-lm raises over a tied head's scales


def test_two_formats_are_told(tmp_path: Path) -> None:
    assert write(tmp_path, head=gptq(HEAD, 1), embedding=packed(EMBEDDING, 1)) == [("TIE611", "warning")]


def skipping(where: Path, words: list[str] | None, *, bits: int = 8, tied: bool = True) -> list[str]:
    """Save a tied Llama with the config of bitsandbytes; the codes in TIE6."""
    llama(tied=tied).save_pretrained(where)
    quantised = {"quant_method": "bitsandbytes", f"load_in_{bits}bit": True, "llm_int8_skip_modules": words}
    config = where / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"quantization_config": quantised}))
    return [f.code for f in tiecheck.check(where).findings if f.code.startswith("TIE6")]


LISTS = (None, [], ["embed_tokens"], ["q_proj"], ["lm_head"], ["head"], ["lm_head", "q_proj"], ["model"], ["lm_hea"])


@pytest.mark.parametrize("words", LISTS, ids=str)
def test_a_skip_list_without_the_head_is_told_as_the_library_takes_it(words: list[str] | None, tmp_path: Path) -> None:
    from transformers.quantizers.quantizers_utils import should_convert_module

    converts = words is not None and should_convert_module(HEAD, words)
    assert skipping(tmp_path, words) == [SkipListMissesAlias.code] * converts
    assert skipping(tmp_path / "untied", words, tied=False) == []


@pytest.mark.parametrize("words", LISTS, ids=str)
@pytest.mark.filterwarnings("ignore")
def test_bitsandbytes_raises_where_it_is_told(words: list[str] | None, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    told = skipping(tmp_path, words)
    llama().save_pretrained(tmp_path / "plain")
    config = transformers.BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=words)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "plain", quantization_config=config, device_map="cpu"
    )
    with pytest.raises(AttributeError) if told else contextlib.nullcontext():
        model(input_ids=torch.arange(4)[None])
    assert told in ([], ["TIE612"])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("untied", [True, False])
def test_torchao_is_told_as_transformers_loads_it(*, untied: bool, whole: bool, tied: bool, tmp_path: Path) -> None:
    pytest.importorskip("torchao")
    from torchao.quantization import Int8WeightOnlyConfig

    llama(tied=tied).save_pretrained(tmp_path / "plain")
    options = {"include_input_output_embeddings": whole, "untie_embedding_weights": untied}
    config = transformers.TorchAoConfig(Int8WeightOnlyConfig(), **options)
    load = transformers.AutoModelForCausalLM.from_pretrained
    load(tmp_path / "plain", quantization_config=config, device_map="cpu").save_pretrained(tmp_path / "made")
    model, info = load(tmp_path / "made", device_map="cpu", output_loading_info=True)
    report = tiecheck.check(tmp_path / "made").targets[0]
    assert ("TIE102" in {f.code for f in report.findings}) is bool(info["missing_keys"])
    if report.status == "pass":
        assert all(tie.declared is (model.lm_head.weight is model.model.embed_tokens.weight) for tie in report.ties)


@pytest.mark.parametrize("make", FORMATS)
def test_a_member_is_told_with_its_form_and_its_parts(make: Callable[[str, int], Tensors], tmp_path: Path) -> None:
    write(tmp_path, head=make(HEAD, 1), embedding=make(EMBEDDING, 2))
    stored = read_checkpoint(str(tmp_path))
    assert stored is not None
    (tie,) = quantised_ties((llama_group(),), stored, None, f"{HEAD}.weight", values=True)
    assert isinstance(tie, QuantisedTie)
    assert (tie.alike, tie.unskipped) == (False, None)
    for member, module in zip(tie.members, (HEAD, EMBEDDING), strict=True):
        assert isinstance(member, QuantisedMember)
        assert member.form
        assert {part.name for part in member.parts} == set(make(module, 1))
    (unread,) = quantised_ties((llama_group(),), stored, None, None, values=False)
    assert unread.alike is None
    assert quantised_ties((llama_group(declared=False),), stored, None, None, values=True) == ()
