"""Each rule against its failure as the real libraries produce it, and the traps next to it, which stay silent.

The thread numbers are those of the rules; the letters in the test ids name the failures as the project counts them.
"""

from __future__ import annotations

import copy
import math
from pathlib import Path

import cases_gpt2
import pytest
import torch
import transformers
from accelerate import init_empty_weights
from rule_failures import codes, gpt2, llama, set_flag
from safetensors.torch import load_file, save_file
from torch import nn

import tiecheck


class TestStored:
    """TIE1xx: transformers saves, tiecheck reads, and transformers' own reload is the ground truth."""

    def test_head_trained_apart_and_saved_with_the_flag_still_true(self, tmp_path: Path) -> None:
        model = llama()
        model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
        with torch.no_grad():
            model.lm_head.weight += 1
        model.save_pretrained(tmp_path)
        assert codes(tmp_path) == ["TIE101 error"]
        reloaded = transformers.LlamaForCausalLM.from_pretrained(tmp_path)
        assert reloaded.lm_head.weight is not reloaded.model.embed_tokens.weight, "transformers 5 keeps both"
        reloaded.tie_weights()
        assert reloaded.lm_head.weight is reloaded.model.embed_tokens.weight, "and any later tie throws the head away"

    def test_added_tokens_trained_in_the_embedding_alone(self, tmp_path: Path) -> None:
        model = llama()
        model.resize_token_embeddings(67)
        model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
        with torch.no_grad():
            model.model.embed_tokens.weight[64:] += 1
        model.save_pretrained(tmp_path)
        (finding,) = tiecheck.check(tmp_path).findings
        assert finding.code == "TIE101"
        assert "only the last 3 of 67 rows differ, from row 64 on" in finding.message

    @pytest.mark.parametrize("value", [False, None], ids=["flag-false", "flag-absent"])
    def test_flag_lost_on_the_way(self, tmp_path: Path, value: bool | None) -> None:
        llama().save_pretrained(tmp_path)
        set_flag(tmp_path, value)
        assert codes(tmp_path) == ["TIE102 error"]
        _, information = transformers.LlamaForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
        assert information["missing_keys"] == {"lm_head.weight"}

    def test_gpt2_without_the_flag_ties_by_default(self, tmp_path: Path) -> None:
        gpt2().save_pretrained(tmp_path)
        set_flag(tmp_path, None)
        assert codes(tmp_path) == []
        _, information = transformers.GPT2LMHeadModel.from_pretrained(tmp_path, output_loading_info=True)
        assert not information["missing_keys"]

    def test_state_dict_written_whole_by_a_fine_tuning_script(self, tmp_path: Path) -> None:
        model = llama()
        model.save_pretrained(tmp_path)
        save_file({k: v.clone() for k, v in model.state_dict().items()}, tmp_path / "model.safetensors")
        assert codes(tmp_path) == ["TIE106 info"]

    def test_state_dict_of_torch_save_keeps_the_tie(self, tmp_path: Path) -> None:
        model = llama()
        model.save_pretrained(tmp_path)
        (tmp_path / "model.safetensors").unlink()
        torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
        assert codes(tmp_path) == []
        (entry,) = tiecheck.check(tmp_path).targets[0].ties
        assert entry.stored == "storage"

    @pytest.mark.parametrize(("make", "found"), [(llama, "TIE109 info"), (gpt2, "TIE109 warning")])
    def test_untied_and_saved_before_any_training(self, tmp_path: Path, make, found: str) -> None:
        model = make()
        model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
        model.config.tie_word_embeddings = False
        model.save_pretrained(tmp_path)
        assert codes(tmp_path) == [found]

    def test_untied_on_purpose(self, tmp_path: Path) -> None:
        llama(tied=False).save_pretrained(tmp_path)
        assert codes(tmp_path, live=True) == []

    def test_shard_that_was_not_downloaded(self, tmp_path: Path) -> None:
        llama(tied=False).save_pretrained(tmp_path, max_shard_size="6KB")
        shards = sorted(tmp_path.glob("model-*.safetensors"))
        assert len(shards) > 2
        holder = next(s for s in shards if "lm_head.weight" in load_file(s))
        holder.unlink()
        report = tiecheck.check(tmp_path)
        assert [f.code for f in report.findings] == ["TIE201"]
        (entry,) = report.targets[0].ties
        assert entry.stored == "unknown"
        assert holder.name in (entry.reason or "")

    def test_one_decoder_layer_stored_in_another_dtype_is_nobodys_business(self, tmp_path: Path) -> None:
        model = llama()
        model.model.layers[0].half()
        model.save_pretrained(tmp_path)
        assert codes(tmp_path) == []


class TestLoaded:
    """What a user sees who loads: the rules on files and on the live model must not contradict each other."""

    def test_head_trained_apart_gets_no_advice_that_would_destroy_it(self, tmp_path: Path) -> None:
        model = llama()
        model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach() + 1)
        model.save_pretrained(tmp_path)
        assert codes(tmp_path, load=True) == ["TIE101 error"]

    def test_t5_with_a_head_of_its_own(self, tmp_path: Path) -> None:
        model = t5()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.01 * torch.randn_like(parameter))
        model.lm_head.weight = nn.Parameter(torch.randn_like(model.lm_head.weight))
        model.save_pretrained(tmp_path)
        set_flag(tmp_path, False)
        for options in ({}, {"live": True}, {"load": True}):
            assert codes(tmp_path, **options) == []
        (entry,) = tiecheck.check(tmp_path, load=True).targets[0].ties
        assert (entry.kind, entry.names_total, len(entry.names)) == ("separate", 4, 4)

    def test_copy_made_after_loading_is_still_found(self, tmp_path: Path) -> None:
        llama().save_pretrained(tmp_path)
        model = transformers.LlamaForCausalLM.from_pretrained(tmp_path)
        model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
        assert codes(model) == ["TIE301 error"]


class TestNoPassWithoutProof:
    """What cannot be told is unknown, and fails under `--strict`."""

    @staticmethod
    def judged(directory: Path, *options: str) -> tuple[str, int]:
        from click.testing import CliRunner

        from tiecheck.cli.main import cli

        status = tiecheck.check(directory).targets[0].status
        return status, CliRunner().invoke(cli, [str(directory), "--strict", *options]).exit_code

    def test_names_with_the_prefix_of_a_compiled_model(self, tmp_path: Path) -> None:
        model = llama(tied=False)
        model.save_pretrained(tmp_path)
        tensors = {f"_orig_mod.{name}": tensor.clone() for name, tensor in model.state_dict().items()}
        save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
        assert self.judged(tmp_path) == ("fail", 1)
        assert codes(tmp_path) == ["TIE205 error"]

    def test_neither_member_stored(self, tmp_path: Path) -> None:
        model = llama(tied=False)
        model.save_pretrained(tmp_path)
        names = {"lm_head.weight", "model.embed_tokens.weight"}
        tensors = {k: v.clone() for k, v in model.state_dict().items() if k not in names}
        save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
        assert self.judged(tmp_path) == ("fail", 1)
        assert codes(tmp_path) == ["TIE102 error"]

    def test_flag_that_is_text(self, tmp_path: Path) -> None:
        llama().save_pretrained(tmp_path)
        set_flag(tmp_path, "false")
        assert self.judged(tmp_path) == ("unknown", 1)

    def test_bytes_that_were_not_to_be_read(self, tmp_path: Path) -> None:
        model = llama()
        model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach() + 1)
        model.save_pretrained(tmp_path)
        assert self.judged(tmp_path, "--values", "never", "--select", "TIE1") == ("fail", 1)


class TestShapes:
    """TIE108: members that cannot be one tensor."""

    @staticmethod
    def rewrite(directory: Path, head: torch.Tensor) -> None:
        tensors = load_file(directory / "model.safetensors")
        save_file(tensors | {"lm_head.weight": head}, directory / "model.safetensors", metadata={"format": "pt"})

    def test_rows_of_padding_on_one_side(self, tmp_path: Path) -> None:
        llama().save_pretrained(tmp_path)
        self.rewrite(tmp_path, torch.randn(72, 16))
        assert codes(tmp_path) == ["TIE108 error"]
        with pytest.raises(RuntimeError, match=r"size mismatch|mismatched"):
            transformers.LlamaForCausalLM.from_pretrained(tmp_path)

    def test_head_in_another_dtype(self, tmp_path: Path) -> None:
        model = llama()
        model.save_pretrained(tmp_path)
        self.rewrite(tmp_path, model.lm_head.weight.detach().to(torch.bfloat16))
        assert codes(tmp_path) == ["TIE108 warning"]
        wide = transformers.LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
        narrow = transformers.LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
        tied = [m.lm_head.weight is m.model.embed_tokens.weight for m in (wide, narrow)]
        assert tied == [False, True], "the dtype asked for decides"

    def test_different_rows_untied_on_purpose(self, tmp_path: Path) -> None:
        llama(tied=False).save_pretrained(tmp_path)
        self.rewrite(tmp_path, torch.randn(72, 16))
        assert codes(tmp_path) == []


def assign(model: nn.Module) -> nn.Module:
    """L01: every name gets a tensor of its own."""
    model.load_state_dict({k: v.clone() for k, v in model.state_dict().items()}, assign=True)
    return model


def emptied(model: nn.Module) -> nn.Module:
    """L02: built on meta, then given memory name by name."""
    with torch.device("meta"):
        fresh = type(model)(model.config)
    fresh.to_empty(device="cpu")
    fresh.load_state_dict(model.state_dict())
    return fresh


def copied(model: nn.Module) -> nn.Module:
    """M03: a hand-written loader that copies where it should share."""
    model.lm_head = copy.deepcopy(model.lm_head)
    return model


def converted(model: nn.Module) -> nn.Module:
    """L04: a conversion that makes a new parameter for each registration, as `.to(xla)` does."""
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        return model.double()
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(False)


def replaced(model: nn.Module) -> nn.Module:
    """M02: the embedding is swapped, the head stays behind."""
    model.model.embed_tokens = nn.Embedding(64, 16)
    return model


class TestLive:
    """TIE3xx on live models of transformers, broken by torch and accelerate themselves."""

    @pytest.mark.parametrize("breaking", [assign, emptied, copied, converted, replaced])
    def test_declared_tie_that_something_took_apart(self, breaking) -> None:
        assert codes(breaking(llama())) == ["TIE301 error"]

    @pytest.mark.parametrize("breaking", [assign, emptied, copied, converted])
    def test_tie_weights_mends_it(self, breaking) -> None:
        model = breaking(llama())
        model.tie_weights()
        assert codes(model) == []

    @pytest.mark.parametrize(
        "share",
        [
            lambda m: setattr(m.lm_head.weight, "data", m.model.embed_tokens.weight.data),
            lambda m: setattr(m.lm_head, "weight", nn.Parameter(m.model.embed_tokens.weight)),
            lambda m: setattr(m.lm_head, "weight", nn.Parameter(m.model.embed_tokens.weight.detach())),
        ],
        ids=["data", "new-parameter", "detach"],
    )
    @pytest.mark.parametrize("tied", [True, False], ids=["flag-true", "flag-false"])
    def test_memory_is_shared_and_the_parameter_is_not(self, share, tied: bool) -> None:
        model = llama(tied=False)
        model.config.tie_word_embeddings = tied
        share(model)
        assert codes(model) == ["TIE302 error"]
        loss = model(torch.tensor([[1, 2, 3]]), labels=torch.tensor([[1, 2, 3]])).loss
        loss.backward()
        assert model.lm_head.weight.grad is not model.model.embed_tokens.weight.grad, "two gradients: not tied"

    def test_tied_autoencoder_by_a_transposed_parameter(self) -> None:
        model = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 8))
        model[1].weight = nn.Parameter(model[0].weight.t())
        assert codes(model) == ["TIE302 error"]

    def test_weight_norm_after_tying(self) -> None:
        model = llama()
        nn.utils.parametrizations.weight_norm(model.lm_head)
        report = tiecheck.check(model, select="TIE302")
        (finding,) = report.findings
        assert "weight_norm" in finding.message
        assert "lm_head.parametrizations.weight.original1" in finding.names

    def test_init_empty_weights_makes_a_storage_tie_on_meta_that_is_only_a_note(self) -> None:
        with init_empty_weights():
            model = transformers.LlamaForCausalLM(llama().config)
        assert "TIE302 error" not in codes(model)

    def test_hand_tie_under_a_false_flag_is_lost_by_the_next_save(self, tmp_path: Path) -> None:
        model = llama(tied=False)
        model.lm_head.weight = model.model.embed_tokens.weight
        assert codes(model) == ["TIE305 error"]
        model.save_pretrained(tmp_path)
        _, information = transformers.LlamaForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
        assert information["missing_keys"] == {"lm_head.weight"}
        assert codes(tmp_path) == ["TIE102 error"], "what the save left behind is found as well"

    def test_hand_tie_with_the_flag_set_is_sound(self) -> None:
        model = llama(tied=False)
        model.lm_head.weight = model.model.embed_tokens.weight
        model.config.tie_word_embeddings = True
        assert codes(model) == []


def t5() -> transformers.T5ForConditionalGeneration:
    """An untrained tied T5 at T5's own init: N(0, 1) embeddings, and a head that scales by 1/sqrt(d_model)."""
    torch.manual_seed(0)
    config = transformers.T5Config(vocab_size=512, d_model=64, d_kv=16, d_ff=64, num_layers=1, num_heads=4)
    return transformers.T5ForConditionalGeneration(config)


class TestTraining:
    """TIE701: the GPT-2 thread, and the models whose large embeddings do no harm."""

    @pytest.mark.parametrize(
        ("sizes", "predicted"),
        [
            pytest.param(cases_gpt2.SMALL, 8.0, id="d64"),
            pytest.param(cases_gpt2.MIDDLE, 16.0, id="d256"),
            pytest.param({}, 27.7, id="the-thread", marks=pytest.mark.slow),
        ],
    )
    def test_embedding_draw_on_a_tied_head(self, sizes: dict[str, int], predicted: float) -> None:
        model = cases_gpt2.build("head_from_embedding", **sizes)
        (finding,) = tiecheck.check(model).findings
        assert (finding.code, finding.severity) == ("TIE701", "error")
        width, vocabulary = model.config.d_model, model.config.vocab_size
        assert f"deviate by {predicted} as predicted (std * sqrt({width}))" in finding.message
        assert f"ln({vocabulary}) = {math.log(vocabulary):.2f}" in finding.message
        measured = float(finding.message.partition(" measured")[0].rpartition(" ")[2])
        assert measured == pytest.approx(predicted, rel=0.05)
        loss = float(finding.message.partition(" nats")[0].rpartition(" ")[2])
        assert loss > 4 * math.log(vocabulary)

    @pytest.mark.parametrize(
        "make",
        [
            lambda: cases_gpt2.build("embedding_from_head", **cases_gpt2.SMALL),
            lambda: cases_gpt2.build("embedding_from_head", **cases_gpt2.MIDDLE),
            t5,
            lambda: transformers.GPT2LMHeadModel(
                transformers.GPT2Config(vocab_size=512, n_embd=64, n_layer=1, n_head=2)
            ),
        ],
        ids=["linear-draw-d64", "linear-draw-d256", "t5", "transformers-gpt2"],
    )
    def test_other_untrained_models_are_silent(self, make) -> None:
        assert codes(make()) == []

    def test_trained_model_with_a_large_embedding_is_silent(self) -> None:
        model = cases_gpt2.build("head_from_embedding", **cases_gpt2.SMALL)
        cases_gpt2.train(model, 30)
        assert codes(model) == []


def accelerate_018_to_033(model: nn.Module) -> list[str]:
    """The aliases that accelerate's walk of 0.18 to 0.33 saw: children once a parent, parameters once a child."""
    catalogue = {name for name, _ in model.named_parameters()}
    found = []

    def walk(module: nn.Module, prefix: str) -> None:
        found.extend(prefix + n for n, _ in module.named_parameters() if prefix + n not in catalogue)
        for name, child in module.named_children():
            walk(child, f"{prefix}{name}.")

    for name, child in model.named_children():
        walk(child, f"{name}.")
    return found


class TestAlias:
    """TIE303: what it says of accelerate, against accelerate's walk as it was and as it is."""

    @staticmethod
    def model(*, siblings: bool) -> nn.Module:
        model = nn.Module()
        model.transformer = nn.ModuleDict({"wte": nn.Embedding(8, 4), "ln": nn.LayerNorm(4)})
        (model.transformer if siblings else model).add_module("ff_out", model.transformer["wte"])
        return model

    @pytest.mark.parametrize(("siblings", "says"), [(True, "before 0.34 reports nothing"), (False, "in every version")])
    def test_alias_and_who_sees_it(self, siblings: bool, says: str) -> None:
        from accelerate.utils import find_tied_parameters

        model = self.model(siblings=siblings)
        (finding,) = tiecheck.check(model).findings
        assert (finding.code, finding.severity) == ("TIE303", "info")
        assert says in finding.message
        assert bool(accelerate_018_to_033(model)) == (not siblings)
        assert len(find_tied_parameters(model)) == 1, "the installed one sees both"


class SharedBlocks(nn.Module):
    """One block used three times: a looped transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(4, 4)] * 3)


class WithTeacher(nn.Module):
    """A student and its frozen, equal teacher."""

    def __init__(self) -> None:
        super().__init__()
        self.student = nn.Linear(4, 4)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)


class SharedBuffer(nn.Module):
    """A rotary cache that two layers hold."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Module(), nn.Module()
        cache = torch.arange(4.0)
        self.first.register_buffer("cache", cache)
        self.second.register_buffer("cache", cache)


class Flattened(nn.Module):
    """Two parameters that are disjoint slices of one buffer, as FSDP, ZeRO and flattened RNNs keep them."""

    def __init__(self) -> None:
        super().__init__()
        flat = torch.randn(32)
        self.a = nn.Parameter(flat[:16].view(4, 4))
        self.b = nn.Parameter(flat[16:].view(4, 4))


class Functional(nn.Module):
    """A head that is a product with the embedding's weight, and no second parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Embedding(32, 4)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(self.emb(ids), self.emb.weight)


def masked_bert() -> nn.Module:
    """BERT with its head's bias beside the tied weight."""
    sizes = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return transformers.BertForMaskedLM(transformers.BertConfig(**sizes, intermediate_size=32))


def albert() -> nn.Module:
    """ALBERT, whose layers are one module called many times."""
    sizes = {"vocab_size": 64, "hidden_size": 16, "embedding_size": 8, "num_hidden_layers": 3}
    return transformers.AlbertForMaskedLM(
        transformers.AlbertConfig(**sizes, num_attention_heads=2, intermediate_size=32)
    )


@pytest.mark.parametrize(
    "make",
    [
        SharedBlocks,
        WithTeacher,
        SharedBuffer,
        Flattened,
        Functional,
        masked_bert,
        albert,
        lambda: llama(tied=False),
        lambda: copy.deepcopy(llama()),
        lambda: llama().half(),
        lambda: llama().requires_grad_(False),
        lambda: nn.LSTM(4, 4, 2),
        lambda: nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)),
        lambda: nn.DataParallel(llama()),
        lambda: torch.optim.swa_utils.AveragedModel(llama()),
    ],
    ids=[
        "shared-blocks",
        "teacher",
        "shared-buffer",
        "disjoint-views",
        "functional-head",
        "bert",
        "albert",
        "untied",
        "deepcopy",
        "half",
        "frozen",
        "lstm",
        "plain",
        "data-parallel",
        "averaged",
    ],
)
def test_traps_get_no_error_and_no_warning(make) -> None:
    assert [found for found in codes(make()) if not found.endswith("info")] == []
