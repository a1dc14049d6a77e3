"""TIE601 to TIE604 against PEFT: what is said of a merge, held against the merge, over drawn adapters of tied bases."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig, OFTConfig, PeftModel, PromptTuningConfig, TrainableTokensConfig, get_peft_model
from peft_refusals import skip_what_peft_refuses
from rule_failures import llama
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
)

import tiecheck
from tiecheck.config.options import Config
from tiecheck.engine.run import run
from tiecheck.errors import TargetError
from tiecheck.files.adapter import read_adapter, read_adapter_config, word_list
from tiecheck.records.artefacts import AdapterBase, AdapterTies
from tiecheck.rules.artefacts.merges import AdapterTrainsBothCopies
from tiecheck.rules.cases import llama_group
from tiecheck.stored.adapter_ties import adapter_ties

pytestmark = pytest.mark.filterwarnings("ignore")

IDS = torch.arange(8)[None]
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def trained(base: Path, where: Path, config: Any) -> None:
    """Save an adapter of a base, every weight of it moved."""
    model = get_peft_model(LlamaForCausalLM.from_pretrained(base), config)
    torch.manual_seed(1)
    for parameter in {id(p): p for p in model.parameters() if p.requires_grad}.values():
        parameter.data += torch.randn_like(parameter) * 0.3
    model.save_pretrained(where)


def merge(base: LlamaForCausalLM, adapter: Path) -> tuple[bool, LlamaForCausalLM]:
    """Merge as PEFT does; tell whether the merged model gives the adapter's logits."""
    applied = PeftModel.from_pretrained(base, adapter).eval()
    before = applied(input_ids=IDS).logits
    merged = applied.merge_and_unload()
    return torch.allclose(before, merged(input_ids=IDS).logits, atol=1e-4), merged


def base_of(adapter: Path) -> str:
    """Base that an adapter names, for whoever asks for it."""
    return str(json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"])


def said(adapter: Path, **options: Any) -> dict[str, str]:
    """Codes of what is found of an adapter of the base it names, with their severities."""
    report = tiecheck.check(adapter, **(options or {"base": base_of(adapter)}))
    assert not report.errors
    return {f.code: f.severity for f in report.findings}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """A tied base and an untied one."""
    found = {}
    for tied in (True, False):
        found[tied] = tmp_path_factory.mktemp("base") / str(tied)
        llama(tied=tied).save_pretrained(found[tied])
    return found


def drawn(draw: random.Random) -> tuple[bool, dict[str, Any]]:
    """Options of an adapter, over everything by which it can meet a tie."""
    members = ("embed_tokens", "lm_head")
    options: dict[str, Any] = {"target_modules": ["q_proj", *(m for m in members if draw.random() < 0.3)]}
    if draw.random() < 0.2:
        options["target_modules"] = draw.choice(("all-linear", r".*\.q_proj|lm_head", r".*embed_tokens|.*q_proj"))
    free = [m for m in members if m not in options["target_modules"]]
    saved = [m for m in free if draw.random() < 0.4]
    if saved:
        options["modules_to_save"] = ["head" if m == "lm_head" and draw.random() < 0.3 else m for m in saved]
    elif free and draw.random() < 0.6:
        options["trainable_token_indices"] = draw.choice(
            ([1, 2], {m: [1, 2] for m in free}, {m: [1 + i] for i, m in enumerate(free)})
        )
    if draw.random() < 0.3:
        options["ensure_weight_tying"] = True
    return draw.random() < 0.75, options


@pytest.mark.parametrize("seed", [*range(24), *(pytest.param(n, marks=pytest.mark.slow) for n in range(24, 200))])
def test_a_merge_does_what_was_foretold(seed: int, bases: dict[bool, Path], tmp_path: Path) -> None:
    tied, options = drawn(random.Random(seed))
    try:
        trained(bases[tied], tmp_path, LoraConfig(r=2, task_type="CAUSAL_LM", **options))
        exact, merged = merge(LlamaForCausalLM.from_pretrained(bases[tied]), tmp_path)
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        skip_what_peft_refuses(error)
    found = said(tmp_path, base=str(bases[tied]))
    loses = found.keys() & {"TIE603"} or found.get("TIE601") == "error"
    assert bool(loses) != exact, (options, found)
    parts = "TIE602" in found or found.get("TIE601") in ("warning", "info")
    if tied and not loses:
        one = merged.lm_head.weight is merged.model.embed_tokens.weight
        assert one != parts, (options, found)
        assert merged.config.tie_word_embeddings is one
    elif not tied:
        assert not found


@pytest.mark.parametrize("kind", [IA3Config(target_modules=["q_proj", "lm_head"], feedforward_modules=[]),
                                  OFTConfig(r=0, oft_block_size=4, target_modules=["q_proj", "lm_head"]),
                                  LoraConfig(r=2, use_dora=True, target_modules=["q_proj", "lm_head"])],
                         ids=lambda kind: kind.peft_type)  # fmt: skip
def test_an_update_of_any_kind_is_added_to_the_one_tensor(kind: Any, bases: dict[bool, Path], tmp_path: Path) -> None:
    trained(bases[True], tmp_path, kind)
    exact, merged = merge(LlamaForCausalLM.from_pretrained(bases[True]), tmp_path)
    assert not exact
    before = load_file(bases[True] / "model.safetensors")[EMBEDDING]
    assert not torch.equal(merged.model.embed_tokens.weight, before)
    assert said(tmp_path) == {"TIE603": "warning", "TIE604": "info"}


@pytest.mark.parametrize("targets", [None, ["lm_head"]])
def test_an_adapter_of_tokens_follows_the_tie_from_the_embedding_alone(
    targets: list[str] | None, bases: dict[bool, Path], tmp_path: Path
) -> None:
    trained(bases[True], tmp_path, TrainableTokensConfig(token_indices=[1, 2], target_modules=targets))
    exact, _ = merge(LlamaForCausalLM.from_pretrained(bases[True]), tmp_path)
    assert exact == (targets is None)
    assert said(tmp_path) == ({} if exact else {"TIE601": "error"})


def test_the_way_that_the_text_tells_merges_exactly(bases: dict[bool, Path], tmp_path: Path) -> None:
    trained(bases[True], tmp_path, LoraConfig(r=2, target_modules=["q_proj", "lm_head"], task_type="CAUSAL_LM"))
    assert not merge(LlamaForCausalLM.from_pretrained(bases[True]), tmp_path)[0]
    untied = LlamaForCausalLM.from_pretrained(bases[True], tie_word_embeddings=False)
    with torch.no_grad():
        untied.lm_head.weight.copy_(untied.model.embed_tokens.weight)
    untied.save_pretrained(tmp_path / "untied")
    exact, merged = merge(LlamaForCausalLM.from_pretrained(tmp_path / "untied"), tmp_path)
    assert exact
    assert torch.equal(merged.model.embed_tokens.weight, untied.model.embed_tokens.weight)
    assert said(tmp_path, base=str(tmp_path / "untied")) == {}


def test_copies_are_compared_and_not_only_counted(bases: dict[bool, Path], tmp_path: Path) -> None:
    both = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"])
    get_peft_model(LlamaForCausalLM.from_pretrained(bases[True]), both).save_pretrained(tmp_path)
    assert said(tmp_path) == {}  # as they were made: equal, and nothing to lose
    file = tmp_path / "adapter_model.safetensors"
    tensors = load_file(file)
    tensors["base_model.model.lm_head.weight"][3] += 1
    save_file(tensors, file)
    (finding,) = tiecheck.check(tmp_path, base=base_of(tmp_path)).findings
    assert (finding.code, finding.severity) == (AdapterTrainsBothCopies.code, "warning")
    assert f"1 of {tensors['base_model.model.lm_head.weight'].shape[0]} rows differ, by up to 1" in finding.message
    never = tiecheck.check(tmp_path, base=base_of(tmp_path), values="never")
    assert never.targets[0].status == "unknown"
    config = tmp_path / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"ensure_weight_tying": True}))
    assert said(tmp_path) == {"TIE602": "error"}
    _, merged = merge(LlamaForCausalLM.from_pretrained(bases[True]), tmp_path)
    assert merged.lm_head.weight is merged.model.embed_tokens.weight


def test_repeated_layers_are_told(bases: dict[bool, Path], tmp_path: Path) -> None:
    trained(bases[True], tmp_path, LoraConfig(r=2, target_modules=["q_proj"], layer_replication=[[0, 1], [0, 1]]))
    assert not merge(LlamaForCausalLM.from_pretrained(bases[True]), tmp_path)[0]
    assert said(tmp_path) == {"TIE603": "warning"}


def test_a_head_that_the_base_does_not_have_is_dropped(bases: dict[bool, Path], tmp_path: Path) -> None:
    trained(bases[False], tmp_path / "adapter", LoraConfig(r=2, target_modules=["q_proj", "lm_head"]))
    LlamaModel(llama().config).save_pretrained(tmp_path / "headless")
    applied = PeftModel.from_pretrained(LlamaModel.from_pretrained(tmp_path / "headless"), tmp_path / "adapter")
    assert not any("lm_head" in name for name in applied.state_dict())
    assert said(tmp_path / "adapter", base=str(tmp_path / "headless")) == {"TIE604": "error"}


def test_a_prompt_meets_no_tie(bases: dict[bool, Path], tmp_path: Path) -> None:
    trained(bases[True], tmp_path, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    report = tiecheck.check(tmp_path, base=str(bases[True])).targets[0]
    assert (report.type, report.status, report.findings) == ("adapter", "pass", ())


def test_without_its_base_an_adapter_is_unknown(bases: dict[bool, Path], tmp_path: Path) -> None:
    trained(bases[True], tmp_path, LoraConfig(r=2, target_modules=["lm_head"]))
    config = tmp_path / "adapter_config.json"
    (tmp_path / "link").symlink_to(bases[True])
    away = os.path.relpath(bases[True], tmp_path)
    for base, why in (
        ("org/nothing", "org/nothing"), (None, "names no base"), (str(bases[True]), "own directory"),
        (away, "own directory"), ("link", "own directory"), (f"file://{bases[True]}", "own directory"),
    ):  # fmt: skip
        config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": base}))
        report = tiecheck.check(tmp_path).targets[0]
        assert report.status == "unknown"
        assert why in (report.reason or "")
        assert "--base" in (report.reason or "")
    assert said(tmp_path, base=str(bases[True])) == {"TIE603": "warning", "TIE604": "info"}
    assert said(tmp_path / "adapter_model.safetensors", base=str(bases[True])) == {
        "TIE603": "warning",
        "TIE604": "info",
    }


def test_a_base_whose_tie_is_broken_is_judged_first(bases: dict[bool, Path], tmp_path: Path) -> None:
    trained(bases[True], tmp_path / "adapter", LoraConfig(r=2, target_modules=["lm_head"]))
    model = llama()
    model.save_pretrained(tmp_path / "base")
    tensors = load_file(tmp_path / "base/model.safetensors")
    save_file({**tensors, HEAD: tensors[EMBEDDING] + 1}, tmp_path / "base/model.safetensors", metadata={"format": "pt"})
    report = tiecheck.check(tmp_path / "adapter", base=str(tmp_path / "base")).targets[0]
    assert report.status == "unknown"
    assert "judge it first" in (report.reason or "")


@pytest.mark.parametrize("config", ["[]", "{}", "{", '{"peft_type": 3}'])
def test_a_config_of_another_kind_is_refused_in_a_sentence(config: str, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(config)
    save_file({}, tmp_path / "adapter_model.safetensors")
    (error,) = tiecheck.check(tmp_path).errors
    assert "adapter_config.json" in error.message


def test_an_adapter_is_read_with_what_it_does_to_each_tie(tmp_path: Path) -> None:
    llama().save_pretrained(tmp_path / "base")
    trained(tmp_path / "base", tmp_path / "on", LoraConfig(task_type="CAUSAL_LM", target_modules=["lm_head"]))
    adapter = read_adapter(str(tmp_path / "on"))
    assert (adapter.kind, adapter.base, adapter.saved) == ("LORA", str(tmp_path / "base"), ())
    base = AdapterBase(str(tmp_path / "base"), "LlamaForCausalLM", "llama", (llama_group(),), HEAD, True)
    found = adapter_ties(adapter, base, values=True)
    assert isinstance(found, AdapterTies)
    assert [name for name, _ in found.ties[0].changes] == [HEAD]
    other = trained(tmp_path / "base", tmp_path / "off", LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"]))
    assert other is None
    left = adapter_ties(read_adapter(str(tmp_path / "off")), base, values=True)
    assert isinstance(left, AdapterTies)
    assert all(not tie.changes for tie in left.ties)
    (tmp_path / "off" / "adapter_config.json").write_text("[]")
    with pytest.raises(TargetError, match="holds no JSON object"):
        read_adapter_config(str(tmp_path / "off"))
    assert (word_list("a"), word_list(["a", 1, "b"]), word_list(None)) == (("a",), ("a", "b"), ())


def test_a_base_given_to_what_is_no_adapter_is_an_error(models: Path, tmp_path: Path) -> None:
    for base in (models / "llama-healthy-tied", tmp_path / "nowhere"):
        (report,) = tiecheck.check(models / "llama-healthy-tied", base=str(base)).targets
        assert report.status == "error"
        assert "--base is for adapters" in report.errors[0].message


@pytest.mark.parametrize("option", ["base", "converted_from", "changed_only"])
def test_an_option_for_another_kind_concerns_that_kind_among_several(option: str, models: Path, tmp_path: Path) -> None:
    """`--base DIR models/*`: what is no adapter is judged, and where nothing is one each target says so."""
    whole, plain = str(models / "llama-healthy-tied"), models / "olmo-module-alias"
    source = str(plain / "modeling_olmo.py")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    (tmp_path / "some.gguf").write_bytes(b"GGUF")
    fits = {"base": str(tmp_path / "adapter"), "converted_from": str(tmp_path / "some.gguf"), "changed_only": source}
    config = Config(**{option: "HEAD" if option == "changed_only" else str(models / "llama-untied")})
    beside = next(text for name, text in fits.items() if name not in {option, "base"})
    alone = [report.status for report in run([whole, beside], config)]
    assert alone == ["error", "error"]
    among = [report.status for report in run([whole, fits[option]], config)]
    assert among[0] == "pass"


def refused(base: Path, adapter: Path) -> bool:
    try:
        PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)
    except (KeyError, RuntimeError, ValueError):
        return True
    return False


@pytest.mark.parametrize("case", ["fits", "narrow", "other-class", "copy-gone", "resized"])
def test_an_adapter_that_peft_refuses_is_no_pass(case: str, bases: dict[bool, Path], tmp_path: Path) -> None:
    base, config = bases[True], LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"])
    trained(base, tmp_path / "adapter", config)
    if case == "narrow":
        sizes = {"vocab_size": 64, "hidden_size": 24, "intermediate_size": 8, "num_hidden_layers": 1}
        LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2, tie_word_embeddings=True)).save_pretrained(
            tmp_path
        )
    elif case == "other-class":
        GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=16, n_layer=1, n_head=2)).save_pretrained(tmp_path)
    elif case == "resized":
        grown = LlamaForCausalLM.from_pretrained(base)
        grown.resize_token_embeddings(80)
        grown.save_pretrained(tmp_path)
    elif case == "copy-gone":
        file = tmp_path / "adapter" / "adapter_model.safetensors"
        save_file({n: t for n, t in load_file(file).items() if "lm_head" not in n}, file)
    base = base if case in ("fits", "copy-gone") else tmp_path
    (report,) = tiecheck.check(tmp_path / "adapter", base=str(base)).targets
    assert (report.status == "pass") is not refused(base, tmp_path / "adapter"), (report.status, report.reason)
    assert (case == "fits") is (report.status == "pass")


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
@pytest.mark.parametrize("moved", [True, False])
def test_an_update_of_zeros_changes_nothing(
    *, moved: bool, target: str, bases: dict[bool, Path], tmp_path: Path
) -> None:
    config = LoraConfig(r=2, target_modules=["q_proj", target], task_type="CAUSAL_LM")
    if moved:
        trained(bases[True], tmp_path, config)
    else:
        get_peft_model(LlamaForCausalLM.from_pretrained(bases[True]), config).save_pretrained(tmp_path)
    assert merge(LlamaForCausalLM.from_pretrained(bases[True]), tmp_path)[0] is not moved
    assert ("TIE603" in said(tmp_path)) is moved
