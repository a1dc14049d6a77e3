"""Bugs of transformers 5.23 in how it ties: each is produced with the library itself, the damage shown, and found.

The numbers are those of the list of upstream bugs that the project keeps. The slow lane has the control: 4.57.6 loads
the same checkpoint and ties what 5.23 leaves random. `docs/live-zoo.md` lists which classes have which.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from older import run_older
from safetensors.torch import load_file, save_file
from subjects import ClassCandidate, make, truth_of
from torch import nn
from torch.nn.utils import prune
from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel, PreTrainedModel
from zoo import Animal, animal, by_name

import tiecheck
from tiecheck.records.report import TargetReport
from tiecheck.tables.generate.configs import with_flags

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("quiet")]


def checked(target: Any, **options: Any) -> TargetReport:
    """The report on one target, the scale of untrained weights left out."""
    (report,) = tiecheck.check(target, ignore="TIE701", **options).targets
    assert not report.errors
    return report


def found(report: TargetReport, *names: str) -> dict[str, str]:
    """Code -> severity of the findings that name one of some names."""
    return {f.code: f.severity for f in report.findings if set(names) & set(f.names)}


def name_of(model: Any, parameter: nn.Parameter) -> str:
    """The first name of a parameter."""
    return next(name for name, other in model.named_parameters(remove_duplicate=False) if other is parameter)


def head_of(model: Any) -> nn.Parameter:
    """The weight of the output embeddings."""
    return model.get_output_embeddings().weight


def input_of(model: Any) -> nn.Parameter:
    """The weight of the input embeddings."""
    return model.get_input_embeddings().weight


def reloaded(model_class: Any, where: Path, seed: int = 1) -> tuple[Any, set[str]]:
    """The model of a directory, and what was made at random."""
    torch.manual_seed(seed)
    model, information = model_class.from_pretrained(where, output_loading_info=True, local_files_only=True)
    return model, set(information["missing_keys"])


def saved_without(model: Any, where: Path, *names: str) -> None:
    """A checkpoint without some members: what a version that ties them leaves behind.

    A member is known by its values, since composites store it under a name of an older version.
    """
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))  # biases are all zero before
    model.save_pretrained(where)
    tensors = load_file(where / "model.safetensors")
    gone = [model.get_parameter(name) for name in names]
    left = {k: v for k, v in tensors.items() if not any(v.shape == g.shape and torch.equal(v, g) for g in gone)}
    assert len(left) == len(tensors) - len(names), "5.23 itself stores them: it has not tied them"
    save_file(left, where / "model.safetensors", {"format": "pt"})


HAND_TIED = [
    "BartForConditionalGeneration",
    "BertForMaskedLM",
    "BloomForCausalLM",
    "GPT2LMHeadModel",
    "Gemma3ForConditionalGeneration",
    "LlamaForCausalLM",
    "MambaForCausalLM",
    "WhisperForConditionalGeneration",
]


@pytest.mark.parametrize("name", HAND_TIED)
def test_u1_a_hand_tie_under_a_false_flag_is_lost_on_save(tmp_path: Path, name: str) -> None:
    model = animal(by_name(name)).model(value=False)
    own = name_of(model, head_of(model))
    model.get_output_embeddings().weight = input_of(model)
    assert found(checked(model), own).get("TIE305") == "error"
    model.save_pretrained(tmp_path)
    assert own not in load_file(tmp_path / "model.safetensors"), "dropped by the class's keys, whatever the flag"
    again, missing = reloaded(type(model), tmp_path)
    assert own in missing
    assert not torch.equal(head_of(again), head_of(model))
    assert torch.equal(input_of(again), input_of(model))


def test_u1_t5_whose_config_forces_the_flag_keeps_it(tmp_path: Path) -> None:
    model = animal(by_name("T5ForConditionalGeneration")).model(value=False)
    model.get_output_embeddings().weight = input_of(model)
    assert checked(model).status == "pass"
    model.save_pretrained(tmp_path)
    again, missing = reloaded(type(model), tmp_path)
    assert not missing
    assert torch.equal(head_of(again), head_of(model))


RESIZED = ["BartForConditionalGeneration", "PegasusForConditionalGeneration", "SeamlessM4TForTextToText"]


@pytest.mark.parametrize("name", RESIZED)
def test_u2_a_resize_ties_what_the_flag_leaves_apart_and_the_save_drops_it(tmp_path: Path, name: str) -> None:
    model = animal(by_name(name)).model(value=False)
    assert truth_of(model).groups == {}
    model.resize_token_embeddings(input_of(model).shape[0] + 10)
    (names,) = truth_of(model).groups
    assert found(checked(model), *names).get("TIE305") == "error"
    model.save_pretrained(tmp_path)
    again, missing = reloaded(type(model), tmp_path)
    assert missing <= set(names)
    assert any(not torch.equal(again.get_parameter(n), model.get_parameter(n)) for n in names), (
        "random, reported or not"
    )


INERT_BY_DEFAULT = ["BigBirdPegasusForCausalLM", "LukeForMaskedLM", "Pop2PianoForConditionalGeneration"]
INERT_WHEN_ASKED = [
    "EvollaForProteinText2Text",
    "NemotronHForCausalLM",
    "Qwen2AudioForConditionalGeneration",
    "VoxtralForConditionalGeneration",
]


@pytest.mark.parametrize("name", INERT_BY_DEFAULT + INERT_WHEN_ASKED)
def test_u3_the_flag_is_true_and_nothing_ties_the_head(tmp_path: Path, name: str) -> None:
    model = animal(by_name(name)).model(None if name in INERT_BY_DEFAULT else True)
    head = head_of(model)
    assert model.config.tie_word_embeddings is True
    assert head is not input_of(model)
    assert head.shape == input_of(model).shape
    own = name_of(model, head)
    assert "TIE315" in found(checked(model), own)
    saved_without(model, tmp_path, own)
    one, missing = reloaded(type(model), tmp_path, seed=1)
    other, _ = reloaded(type(model), tmp_path, seed=2)
    assert own in missing
    assert not torch.equal(head_of(one), head_of(other)), "random: another head at every load"
    assert "error" in found(checked(tmp_path, live=True), own).values()


FSMT = ("model.decoder.embed_tokens.weight", "model.decoder.output_projection.weight")


def test_u4_fsmt_ties_its_head_by_a_flag_that_used_to_mean_something_else(tmp_path: Path) -> None:
    model = animal(by_name("FSMTForConditionalGeneration")).model()
    members = FSMT
    assert model.config.tie_word_embeddings is False
    assert model.get_parameter(members[0]) is not model.get_parameter(members[1])
    saved_without(model, tmp_path, members[0])
    one, missing = reloaded(type(model), tmp_path, seed=1)
    other, _ = reloaded(type(model), tmp_path, seed=2)
    assert members[0] in missing
    assert not torch.equal(one.get_parameter(members[0]), other.get_parameter(members[0]))
    assert "error" in found(checked(tmp_path, live=True), *members).values()
    assert "TIE315" in found(checked(model), *members)


GATED = [
    ("PegasusForConditionalGeneration", ("model.decoder.embed_tokens.weight", "model.shared.weight")),
    (
        "ProphetNetForConditionalGeneration",
        ("prophetnet.encoder.word_embeddings.weight", "prophetnet.word_embeddings.weight"),
    ),
    ("MarianMTModel", ("model.encoder.embed_tokens.weight", "model.shared.weight")),
    ("BertForMaskedLM", ("cls.predictions.decoder.bias", "cls.predictions.bias")),
]
"""Pairs that 4.57 ties whatever the flag says, and 5 by the flag alone."""


@pytest.mark.parametrize(("name", "members"), GATED)
def test_u5_one_flag_gates_ties_that_have_nothing_to_do_with_the_head(
    tmp_path: Path, name: str, members: tuple[str, str]
) -> None:
    one = animal(by_name(name))
    tied, model = one.model(value=True), one.model(value=False)
    assert tied.get_parameter(members[0]) is tied.get_parameter(members[1])
    assert model.get_parameter(members[0]) is not model.get_parameter(members[1])
    assert "TIE315" in found(checked(model), *members)
    saved_without(model, tmp_path, members[0])
    _, missing = reloaded(type(model), tmp_path)
    assert members[0] in missing
    assert {"error", "warning"} & set(found(checked(tmp_path, live=True), *members).values())


def test_u5_bart_is_untied_by_both_versions_and_no_finding_is_made_of_it() -> None:
    model = animal(by_name("BartForConditionalGeneration")).model(value=False)
    assert checked(model).findings == ()


@pytest.mark.parametrize("name", ["LxmertForPreTraining", "MarianModel", "ProphetNetModel", "ZambaForCausalLM"])
def test_u5_models_without_a_head_of_their_own_and_ties_in_pairs_have_it_too(name: str) -> None:
    """4.57 ties these whatever the flag says; on meta at full size, since the shared layers of Zamba are far apart."""
    model = make(ClassCandidate(name, by_name(name).model_type, ""), "false")
    assert truth_of(model).groups == {}
    assert "TIE315" in {f.code for f in checked(model).findings}


NESTED = [
    "Idefics2ForConditionalGeneration",
    "Idefics3ForConditionalGeneration",
    "LlavaNextForConditionalGeneration",
    "Qwen2AudioForConditionalGeneration",
    "SmolVLMForConditionalGeneration",
    "VideoLlavaForConditionalGeneration",
    "VipLlavaForConditionalGeneration",
    "VoxtralForConditionalGeneration",
]


def with_text_flag(one: Animal) -> Any:
    """A model of a config that says True in its text config alone, through the config's own constructor."""
    config = one.config_class.from_dict(with_flags(one.data, {("text_config",): True}))
    torch.manual_seed(0)
    return one.model_class(config)


@pytest.mark.parametrize("name", NESTED)
def test_u6_a_flag_of_the_text_config_is_not_heard(tmp_path: Path, name: str) -> None:
    model = with_text_flag(animal(by_name(name)))
    assert model.config.text_config.tie_word_embeddings is True
    assert head_of(model) is not input_of(model)
    own = name_of(model, head_of(model))
    report = checked(model)
    assert {"TIE315", "TIE103"} & found(report, own).keys()
    saved_without(model, tmp_path, own)
    again, missing = reloaded(type(model), tmp_path)
    assert own in missing
    assert not torch.equal(head_of(again), head_of(model))
    assert "error" in found(checked(tmp_path, live=True), own).values()


def test_u6_a_config_that_passes_its_text_flag_on_is_no_bug() -> None:
    model = with_text_flag(animal(by_name("LlavaForConditionalGeneration")))
    assert head_of(model) is input_of(model)
    assert checked(model).findings == ()


def test_u9_a_code_predictor_declares_names_that_it_does_not_have() -> None:
    """It inherits the declaration of a class with one head, and has lists of heads and embeddings."""
    name = "Qwen3OmniMoeTalkerCodePredictorModelForConditionalGeneration"
    candidate = by_name(name)
    with pytest.raises(AttributeError, match="embed_tokens"):
        make(candidate, "true")
    model = make(candidate, "false")
    assert model._tied_weights_keys == {"lm_head.weight": "model.embed_tokens.weight"}
    assert not any(hasattr(model.get_submodule(path), "embed_tokens") for path in ("", "model"))
    assert "TIE309" in {f.code for f in checked(model).findings}


def test_u10_a_tie_after_pruning_overwrites_the_mask() -> None:
    """The pattern `decoder.weight` of BERT matches `weight_mask` too: `tie_weights` puts the embedding in its place."""
    model = animal(by_name("BertForMaskedLM")).model()
    head = model.get_output_embeddings()
    prune.random_unstructured(head, "weight", amount=0.5)
    assert set(head.weight_mask.unique().tolist()) == {0.0, 1.0}
    model.tie_weights()
    assert head.weight_mask is input_of(model)
    mask = next(name for name, p in model.named_parameters(remove_duplicate=False) if name.endswith("weight_mask"))
    assert found(checked(model), mask)["TIE313"] == "error"


def llama_config(*, tied: bool) -> LlamaConfig:
    """A tiny config."""
    sizes = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    return LlamaConfig(**sizes, **heads, tie_word_embeddings=tied)


class ListKeys(LlamaForCausalLM):
    """As remote code for 4.x declares its ties."""

    _tied_weights_keys = ["lm_head.weight"]  # noqa: RUF012 - as it is written out there


class NoPostInit(PreTrainedModel):
    """Remote code for 4.x that ties by hand and never calls `post_init`."""

    config_class = LlamaConfig
    _tied_weights_keys = ["lm_head.weight"]  # noqa: RUF012 - as it is written out there

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config)
        self.model = LlamaModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.lm_head.weight = self.model.embed_tokens.weight


class Aliased(LlamaForCausalLM):
    """OLMo's line, as LLaDA-family code still carries it."""

    _tied_weights_keys = None

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config)
        self.lm_head = self.model.embed_tokens


def test_u7_list_keys_build_without_the_flag_alone_and_cannot_be_saved(tmp_path: Path) -> None:
    with pytest.raises(AttributeError, match="'list' object has no attribute 'keys'"):
        ListKeys(llama_config(tied=True))
    model = ListKeys(llama_config(tied=False))
    with pytest.raises(AttributeError, match="'list' object has no attribute 'keys'"):
        model.save_pretrained(tmp_path)
    assert "TIE311" in {f.code for f in checked(model).findings if f.severity == "error"}


def test_u7_list_keys_of_a_class_that_ties_by_itself(tmp_path: Path) -> None:
    model = NoPostInit(llama_config(tied=True))
    with pytest.raises(AttributeError, match="'list' object has no attribute 'keys'"):
        model.save_pretrained(tmp_path)
    LlamaForCausalLM(llama_config(tied=True)).save_pretrained(tmp_path)
    with pytest.raises(AttributeError, match="all_tied_weights_keys"):
        NoPostInit.from_pretrained(tmp_path)
    assert "TIE311" in {f.code for f in checked(model).findings if f.severity == "error"}


REMOTE = """
from transformers import LlamaForCausalLM

class OldSignature(LlamaForCausalLM):
    def tie_weights(self):
        self.lm_head.weight = self.model.embed_tokens.weight
"""


def test_u7_the_old_signature_of_tie_weights_cannot_be_built_and_the_reason_is_told(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    LlamaForCausalLM(llama_config(tied=True)).save_pretrained(tmp_path)
    (tmp_path / "modeling_old.py").write_text(REMOTE)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    config |= {"architectures": ["OldSignature"], "auto_map": {"AutoModelForCausalLM": "modeling_old.OldSignature"}}
    path.write_text(json.dumps(config))
    with pytest.raises(TypeError, match="recompute_mapping"):
        AutoModelForCausalLM.from_pretrained(tmp_path, trust_remote_code=True, local_files_only=True)
    (report,) = tiecheck.check(tmp_path, live=True, trust_remote_code=True).targets
    assert report.status == "error", "a live layer was asked for"
    reasons = [skip.reason for skip in report.skips] + [finding.message for finding in report.findings]
    assert any("recompute_mapping" in reason for reason in reasons)


@pytest.mark.parametrize("tied", [True, False])
def test_u7_a_module_alias_cannot_be_saved(tmp_path: Path, tied: bool) -> None:
    model = Aliased(llama_config(tied=tied))
    with pytest.raises(RuntimeError, match="contained shared tensors"):
        model.save_pretrained(tmp_path)
    names = ("lm_head.weight", "model.embed_tokens.weight")
    said = found(checked(model), *names)
    assert said.get("TIE303") in ("info", "warning")
    assert "TIE304" in said


SCRIPT = Path(__file__).parents[1] / "support" / "loading.py"


def head_pair(model: Any) -> tuple[str, str]:
    """The names of head and embedding."""
    return name_of(model, model.get_output_embeddings().weight), name_of(model, model.get_input_embeddings().weight)


def loaded_by_older(model: Any, where: Path, dropped: str, kept: str) -> list[str]:
    """What 4.57.6 makes of a checkpoint that holds one member of a pair: the outcome and its detail."""
    saved_without(model, where, dropped)
    value = model.get_parameter(kept)
    stored = load_file(where / "model.safetensors")
    name = next(key for key, tensor in stored.items() if tensor.shape == value.shape and torch.equal(tensor, value))
    group = {"names": [dropped, kept], "source": kept, "stored": {kept: name}}
    (where / "cells.json").write_text(json.dumps([{"path": str(where), "groups": [group]}]))
    run = run_older(str(SCRIPT), str(where / "cells.json"))
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.strip().splitlines()[-1])["outcomes"][0]


BY_OLDER: dict[str, Callable[[], tuple[Any, tuple[str, str]]]] = {}


def of(model: Any, pair: tuple[str, str] | None = None) -> tuple[Any, tuple[str, str]]:
    """A model with the member to drop and the one to keep."""
    return model, pair or head_pair(model)


for _name in INERT_BY_DEFAULT:
    BY_OLDER[f"u3-{_name}"] = lambda name=_name: of(animal(by_name(name)).model())
BY_OLDER["u4-FSMT"] = lambda: of(animal(by_name("FSMTForConditionalGeneration")).model(), FSMT)
for _name, _pair in GATED:
    BY_OLDER[f"u5-{_name}"] = lambda name=_name, pair=_pair: of(animal(by_name(name)).model(value=False), pair)
for _name in ("LlavaNextForConditionalGeneration", "VipLlavaForConditionalGeneration"):
    BY_OLDER[f"u6-{_name}"] = lambda name=_name: of(with_text_flag(animal(by_name(name))))


@pytest.mark.slow
@pytest.mark.parametrize("case", BY_OLDER)
def test_4_57_ties_what_5_leaves_random(tmp_path: Path, case: str) -> None:
    model, (dropped, kept) = BY_OLDER[case]()
    assert loaded_by_older(model, tmp_path, dropped, kept) == ["tied", ""]
