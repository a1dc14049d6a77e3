"""Situations that look broken and are not, each really built: no error, no warning, `unknown` where nothing can tell.

The numbers are those of the list of false-positive traps; 2, 3 and 6 are about files alone.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
import transformers
from accelerate import cpu_offload, disk_offload
from peft import LoraConfig, get_peft_model
from subjects import ClassCandidate, make, truth_of
from torch import nn
from zoo import animal, by_name

import tiecheck
from tiecheck.records.report import TargetReport

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("quiet")]

Builder = Callable[[], nn.Module]
TRAPS: dict[str, Builder] = {}


def trap(build: Builder) -> Builder:
    """Add a builder."""
    TRAPS[build.__name__.removeprefix("_").replace("_", "-")] = build
    return build


def report_on(target: Any, **options: Any) -> TargetReport:
    """The report on one target, the scale of untrained weights left out."""
    (report,) = tiecheck.check(target, ignore="TIE701", **options).targets
    assert not report.errors
    return report


def loud(report: TargetReport) -> list[str]:
    """Errors and warnings."""
    return [f"{f.code}: {f.message}" for f in report.findings if f.severity != "info"]


def llama(*, tied: bool = True) -> Any:
    """A tiny Llama."""
    sizes = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, **heads, tie_word_embeddings=tied))


def small(name: str, value: bool | None = None) -> Any:
    """A class of transformers made small."""
    return animal(by_name(name)).model(value)


def attached(**children: nn.Module) -> nn.Module:
    """A module that holds some others."""
    return nn.ModuleDict(children)


@trap
def _01_untied_llama() -> nn.Module:
    return llama(tied=False)


@trap
def _01_untied_on_purpose_with_equal_values() -> nn.Module:
    model = llama(tied=False)
    model.lm_head.weight = nn.Parameter(model.model.embed_tokens.weight.detach().clone())
    return model


@trap
def _01_untied_qwen2_moe() -> nn.Module:
    return small("Qwen2MoeForCausalLM", value=False)


@trap
def _04_encoder_whose_config_says_tied() -> nn.Module:
    return small("BertModel", value=True)


@trap
def _04_decoder_without_a_head() -> nn.Module:
    return small("LlamaModel", value=True)


@trap
def _04_reward_model() -> nn.Module:
    return small("LlamaForSequenceClassification", value=True)


@trap
def _04_t5_encoder() -> nn.Module:
    return small("T5EncoderModel", value=True)


class Functional(nn.Module):
    """A head that is a product with the embedding's weight (OLMo, MPT with `lm_head = None`)."""

    def __init__(self) -> None:
        super().__init__()
        self.wte = nn.Embedding(32, 8)
        self.lm_head = None

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return F.linear(self.wte(ids), self.wte.weight)


class TiedLinear:
    """torchtune's: a plain object that holds the module, and is registered nowhere."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.module.weight)


class Tuned(nn.Module):
    """A decoder of torchtune's kind."""

    def __init__(self) -> None:
        super().__init__()
        self.tok_embeddings = nn.Embedding(32, 8)
        self.output = TiedLinear(self.tok_embeddings)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.output(self.tok_embeddings(ids))


class Aliased(nn.Module):
    """OLMo 0.2: the head's slot is the embedding module, and `forward` never reads the slot."""

    def __init__(self) -> None:
        super().__init__()
        wte = nn.Embedding(32, 8)
        self.transformer = nn.ModuleDict({"wte": wte, "ff_out": wte})

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return F.linear(self.transformer.wte(ids), self.transformer.wte.weight)


TRAPS |= {"05-functional-head": Functional, "05-tied-linear": Tuned, "05-module-alias": Aliased}


@trap
def _07_slice_tie_of_cpm_ant() -> nn.Module:
    return small("CpmAntForCausalLM", value=True)


@trap
def _07_padded_vocabulary() -> nn.Module:
    """Molmo 2 and Mllama: the embedding has more rows than the head."""
    return small("MllamaForConditionalGeneration")


@trap
def _07_head_of_another_width() -> nn.Module:
    return make(ClassCandidate("RemBertForMaskedLM", "rembert", ""), "true")


@trap
def _08_t5_with_the_flag_false() -> nn.Module:
    return small("T5ForConditionalGeneration", value=False)


@trap
def _08_mt5_with_the_flag_false() -> nn.Module:
    return small("MT5ForConditionalGeneration", value=False)


class Phi3V(nn.Module):
    """Phi-3.5-vision: the image embedding holds the word embedding's weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(32, 8)
        self.vision_embed_tokens = nn.Module()
        self.vision_embed_tokens.wte = self.embed_tokens
        self.lm_head = nn.Linear(8, 32, bias=False)


class GatedDelta(nn.Module):
    """One decay under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.A_log = nn.Parameter(torch.zeros(4))
        self.attn = nn.Module()
        self.attn.A_log = self.A_log


TRAPS |= {"09-phi-3-vision": Phi3V, "09-gated-delta-net": GatedDelta}


@trap
def _09_diffusion_gemma_ties_its_backbones() -> nn.Module:
    return make(ClassCandidate("DiffusionGemmaForBlockDiffusion", "diffusion_gemma", ""), "default")


@trap
def _09_zamba_2_shares_its_transformer() -> nn.Module:
    return make(ClassCandidate("Zamba2ForCausalLM", "zamba2", ""), "default")


@trap
def _10_albert() -> nn.Module:
    return small("AlbertForMaskedLM")


class Looped(nn.Module):
    """A universal transformer: one block in a list many times."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)] * 4)


class Linformer(nn.Module):
    """One projection in every layer."""

    def __init__(self) -> None:
        super().__init__()
        project = nn.Linear(16, 4)
        self.layers = nn.ModuleList(nn.ModuleDict({"q": nn.Linear(8, 8), "e": project, "f": project}) for _ in range(3))


class Heads(nn.Module):
    """DETR's box heads, one object or copies by the config."""

    def __init__(self, *, shared: bool) -> None:
        super().__init__()
        head = nn.Linear(8, 4)
        self.bbox_embed = nn.ModuleList([head] * 3 if shared else [copy.deepcopy(head) for _ in range(3)])


class Activations(nn.Module):
    """One activation, one dropout and one norm without weights in several layers."""

    def __init__(self) -> None:
        super().__init__()
        act, drop, norm = nn.GELU(), nn.Dropout(), nn.LayerNorm(8, elementwise_affine=False)
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), act, drop, norm) for _ in range(3))


TRAPS |= {
    "10-looped": Looped,
    "10-linformer": Linformer,
    "10-shared-box-heads": lambda: Heads(shared=True),
    "10-cloned-box-heads": lambda: Heads(shared=False),
    "10-shared-activations": Activations,
}


@trap
def _10_rt_detr_untied_heads_on_meta() -> nn.Module:
    return make(ClassCandidate("RTDetrV2ForObjectDetection", "rt_detr_v2", ""), "default")


@trap
def _11_flattened_parameters() -> nn.Module:
    """Two layers whose parameters are slices of one buffer, as FSDP and ZeRO keep them."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    flat = torch.nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    torch.nn.utils.vector_to_parameters(flat, model.parameters())
    return model


@trap
def _11_flattened_llama() -> nn.Module:
    model = llama()
    flat = torch.nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    torch.nn.utils.vector_to_parameters(flat, model.parameters())
    return model


@trap
def _11_fused_qkv_views() -> nn.Module:
    """A fused matrix with its three parts beside it: the parts are disjoint, and lie inside the whole."""
    model = nn.Module()
    fused = torch.randn(24, 8)
    model.q, model.k, model.v = (nn.Parameter(part) for part in fused.chunk(3))
    return model


@trap
def _11_interleaved_columns() -> nn.Module:
    model = nn.Module()
    base = torch.randn(8, 8)
    model.even, model.odd = nn.Parameter(base[:, ::2]), nn.Parameter(base[:, 1::2])
    return model


@trap
def _11_flat_weights_of_an_lstm() -> nn.Module:
    model = nn.LSTM(4, 4, 2, bidirectional=True)
    model.flatten_parameters()
    return model


@trap
def _12_untied_for_a_rotation() -> nn.Module:
    """SpinQuant's way: a head of its own, the flag set false, and the two matrices changed apart."""
    model = llama()
    model.config.tie_word_embeddings = False
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone() * 1.5)
    return model


@trap
def _12_head_in_fp32_beside_a_bf16_embedding() -> nn.Module:
    model = llama().bfloat16()
    model.config.tie_word_embeddings = False
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().float())
    return model


@trap
def _13_replicas_on_the_first_and_the_last_stage() -> nn.Module:
    """Megatron's: two embeddings of equal values, kept in step by an all-reduce."""
    first = nn.Embedding(32, 8)
    return attached(first=attached(word_embeddings=first), last=attached(word_embeddings=copy.deepcopy(first)))


@trap
def _13_head_borrowed_by_a_multi_token_predictor() -> nn.Module:
    model = nn.Module()
    model.embed, model.lm_head = nn.Embedding(32, 8), nn.Linear(8, 32, bias=False)
    model.mtp = attached(embed=model.embed, shared_head=model.lm_head, proj=nn.Linear(16, 8))
    return model


@trap
def _14_averaged_model() -> nn.Module:
    return torch.optim.swa_utils.AveragedModel(llama())


@trap
def _14_policy_and_frozen_reference() -> nn.Module:
    policy = llama()
    return attached(policy=policy, reference=copy.deepcopy(policy).requires_grad_(False))


@trap
def _14_draft_with_the_embedding_of_its_target() -> nn.Module:
    target = llama()
    draft = nn.Module()
    draft.embed_tokens = copy.deepcopy(target.model.embed_tokens).requires_grad_(False)
    return attached(target=target, draft=draft)


@trap
def _15_zero_biases_and_norms_of_one() -> nn.Module:
    model = nn.Sequential(*(nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8)) for _ in range(3)))
    for block in model:
        nn.init.zeros_(block[0].bias)
    return model


@trap
def _15_untrained_lora_b() -> nn.Module:
    pairs = {str(i): attached(a=nn.Linear(8, 2, bias=False), b=nn.Linear(2, 8, bias=False)) for i in range(3)}
    for pair in pairs.values():
        nn.init.zeros_(pair["b"].weight)
    return attached(**pairs)


@trap
def _15_zero_embedding_and_zero_head_under_a_false_flag() -> nn.Module:
    model = llama(tied=False)
    with torch.no_grad():
        model.lm_head.weight.zero_()
        model.model.embed_tokens.weight.zero_()
    return model


@trap
def _16_tied_on_meta() -> nn.Module:
    with torch.device("meta"):
        return llama()


@trap
def _16_untied_on_meta() -> nn.Module:
    with torch.device("meta"):
        return llama(tied=False)


@trap
def _16_no_elements() -> nn.Module:
    return attached(a=nn.Linear(0, 4, bias=False), b=nn.Linear(0, 4, bias=False))


@trap
def _16_kept_on_the_cpu_by_hooks() -> nn.Module:
    return cpu_offload(llama(), execution_device=torch.device("cpu"))


@trap
def _18_resumed_without_the_alias() -> nn.Module:
    """The de-duplicated state dict lacks the head; what is live afterwards is one tensor."""
    state = llama().state_dict()
    del state["lm_head.weight"]
    model = llama()
    missing = model.load_state_dict(state, strict=False).missing_keys
    assert missing == ["lm_head.weight"]
    return model


@trap
def _19_bias_of_bert() -> nn.Module:
    return small("BertForMaskedLM")


@trap
def _19_bias_of_roberta() -> nn.Module:
    return small("RobertaForMaskedLM")


@trap
def _19_logits_bias_of_marian() -> nn.Module:
    return small("MarianMTModel")


@trap
def _20_one_rotary_cache() -> nn.Module:
    model = attached(first=nn.Linear(4, 4), second=nn.Linear(4, 4))
    cache = torch.arange(8.0)
    for layer in model.values():
        layer.register_buffer("cos", cache)
        layer.register_buffer("mask", cache.bool(), persistent=False)
    return model


@trap
def _20_one_rotary_module() -> nn.Module:
    rotary = nn.Module()
    rotary.register_buffer("inv_freq", torch.ones(4), persistent=False)
    return nn.ModuleList(attached(q=nn.Linear(8, 8), rotary=rotary) for _ in range(3))


@pytest.mark.parametrize("name", TRAPS)
def test_nothing_is_wrong_here(name: str) -> None:
    report = report_on(TRAPS[name]())
    assert loud(report) == []
    assert report.status == "pass", report.reason


@pytest.mark.parametrize("name", ["05-module-alias", "09-phi-3-vision", "10-looped", "10-linformer"])
def test_aliases_are_facts(name: str) -> None:
    model = TRAPS[name]()
    assert {tie.names: tie.kind for tie in tiecheck.find_ties(model)} == truth_of(model).groups
    assert {f.code for f in report_on(model).findings} == {"TIE318" if name == "10-looped" else "TIE303"}


@pytest.mark.parametrize("name", [n for n in TRAPS if n.startswith(("11", "13-rep", "15", "20"))])
def test_none_of_these_holds_a_tie_of_parameters(name: str) -> None:
    ties = tiecheck.find_ties(TRAPS[name]())
    assert [tie for tie in ties if name != "11-flattened-llama"] == []


def test_16_a_tie_that_is_offloaded_to_disk_is_seen_or_unknown(tmp_path: Path) -> None:
    model = llama()
    disk_offload(model, tmp_path, execution_device=torch.device("cpu"))
    report = report_on(model)
    assert loud(report) == []


def test_16_partitioned_parameters_are_unknown() -> None:
    """DeepSpeed's ZeRO-3 is not installed: what it leaves behind is made instead, an empty tensor with an id."""
    model = llama(tied=True)
    model.lm_head.weight = nn.Parameter(torch.empty(0))
    for number, parameter in enumerate(model.parameters()):
        parameter.data = torch.empty(0)
        parameter.ds_id = number
    report = report_on(model)
    assert loud(report) == []
    (entry,) = (e for e in report.ties if "lm_head.weight" in e.names)
    assert entry.kind == "unknown"
    assert "ZeRO-3" in (entry.reason or "")
    assert report.status == "unknown"


@pytest.fixture
def one_rank() -> Iterator[None]:
    """A process group of one, over a file-less store."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.usefixtures("one_rank")
def test_17_sharded_by_fsdp_2(tied: bool) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = fully_shard(llama(tied=tied), mesh=init_device_mesh("cpu", (1,)))
    report = report_on(model)
    assert loud(report) == []
    assert [tie.kind for tie in tiecheck.find_ties(model)] == (["parameter"] if tied else [])


@pytest.mark.usefixtures("one_rank")
def test_17_wrapped_for_data_parallel_training() -> None:
    model = nn.parallel.DistributedDataParallel(llama())
    report = report_on(model)
    assert loud(report) == []
    assert len(report.ties) == 1


def test_12_a_head_quantised_by_itself_is_no_broken_tie() -> None:
    """The head's weight is packed and no parameter any more; the embedding stays as it is."""
    model = llama()
    quantised = torch.ao.quantization.quantize_dynamic(model, {"lm_head"}, dtype=torch.qint8)
    assert not isinstance(quantised.lm_head, nn.Linear)
    assert loud(report_on(quantised)) == []


def test_12_both_copies_under_peft_while_training() -> None:
    config = LoraConfig(target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"])
    model = get_peft_model(llama(tied=False), config)
    assert loud(report_on(model)) == []
