"""Each failure of the live rules, really produced by the library, and found; and its neighbours, left alone."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.optim.swa_utils import AveragedModel
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    BigBirdPegasusConfig,
    BigBirdPegasusForCausalLM,
    CLIPVisionConfig,
    FSMTConfig,
    FSMTForConditionalGeneration,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    PreTrainedModel,
)

import tiecheck

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def config(**changes: Any) -> LlamaConfig:
    small = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    return LlamaConfig(
        **small, num_attention_heads=2, num_key_value_heads=2, **({"tie_word_embeddings": True} | changes)
    )


def llama(cls: type[Any] = LlamaForCausalLM, **changes: Any) -> Any:
    return cls(config(**changes))


def bart(**changes: Any) -> Any:
    layers = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    sizes = {"vocab_size": 32, "d_model": 16, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    return BartForConditionalGeneration(BartConfig(**sizes, **layers, **changes))


def bert() -> Any:
    return BertForMaskedLM(
        BertConfig(vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    )


def found(model: nn.Module, **options: Any) -> dict[str, str]:
    """Code -> severity of what is said of a model; nothing may crash or be skipped."""
    (report,) = tiecheck.check(model, **options).targets
    assert report.errors == ()
    return {finding.code: finding.severity for finding in report.findings}


def said(model: nn.Module, code: str) -> str:
    """The message of the one finding of a code."""
    (finding,) = [f for f in tiecheck.check(model).findings if f.code == code]
    return finding.message


def reloaded(model: Any, folder: Path) -> tuple[Any, set[str]]:
    """What comes back of a model, and the names that transformers says were missing."""
    model.save_pretrained(folder)
    again, info = type(model).from_pretrained(folder, output_loading_info=True)
    return again, set(info["missing_keys"])


# TIE304


def test_a_tie_that_nobody_declares_cannot_be_saved(tmp_path: Path) -> None:
    model = llama()
    attention = model.model.layers[0].self_attn
    attention.k_proj.weight = attention.q_proj.weight
    assert found(model) == {"TIE304": "warning"}
    assert "save_pretrained raises RuntimeError" in said(model, "TIE304")
    with pytest.raises(RuntimeError, match="shared tensors"):
        model.save_pretrained(tmp_path)


class Outer(PreTrainedModel):
    """A model that keeps another one in a list, where its `post_init` does not look."""

    config_class = LlamaConfig

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.parts = nn.ModuleList([LlamaForCausalLM(config)])
        self.post_init()


class Direct(PreTrainedModel):
    """The same with the inner model as a direct attribute."""

    config_class = LlamaConfig

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.part = LlamaForCausalLM(config)
        self.post_init()


def test_an_inner_models_tie_is_lost_where_the_outer_does_not_hear_of_it(tmp_path: Path) -> None:
    outer = Outer(config())
    assert found(outer) == {"TIE304": "warning"}
    again, missing = reloaded(outer, tmp_path / "list")
    assert missing == {"parts.0.lm_head.weight"}
    assert not torch.equal(again.parts[0].lm_head.weight, outer.parts[0].lm_head.weight)

    direct = Direct(config())
    assert found(direct) == {}
    again, missing = reloaded(direct, tmp_path / "direct")
    assert missing == set()
    assert again.part.lm_head.weight is again.part.model.embed_tokens.weight


def test_a_tie_in_a_plain_module_is_nobodys_to_declare() -> None:
    plain = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4)})
    plain["b"].weight = plain["a"].weight
    assert found(plain) == {}


# TIE305, nested


def test_a_hand_tie_against_an_inner_models_flag(tmp_path: Path) -> None:
    direct = Direct(config(tie_word_embeddings=False))
    direct.part.lm_head.weight = direct.part.model.embed_tokens.weight
    assert found(direct) == {"TIE305": "error"}
    _, missing = reloaded(direct, tmp_path)
    assert missing == {"part.lm_head.weight"}


# TIE306


def test_an_embedding_of_another_size_leaves_the_head_behind() -> None:
    model = llama()
    model.set_input_embeddings(nn.Embedding(40, 16))
    assert found(model) == {"TIE306": "error"}
    assert model(torch.tensor([[39]])).logits.shape[-1] == 32, "the new tokens cannot be predicted"
    resized = llama()
    resized.resize_token_embeddings(40)
    assert found(resized) == {}


class Swapped(LlamaForCausalLM):
    """Takes its words in by an embedding of its own, which the tie does not reach."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.new_tokens = nn.Embedding(config.vocab_size, config.hidden_size)

    def get_input_embeddings(self) -> nn.Module:
        return self.new_tokens


def test_the_getter_returns_an_embedding_beside_the_tie() -> None:
    model = llama(Swapped)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert found(model) == {"TIE306": "error"}
    assert "new_tokens.weight" in said(model, "TIE306")


# TIE307


@pytest.mark.parametrize("member", ["lm_head", "model.decoder.embed_tokens"])
def test_one_member_of_a_larger_group_leaves(member: str) -> None:
    model = bart()
    assert found(model) == {}
    owner = model.get_submodule(member)
    owner.weight = nn.Parameter(owner.weight.detach().clone())
    assert found(model) == {"TIE307": "error"}
    assert f"{member}.weight is not" in said(model, "TIE307")


def test_set_input_embeddings_leaves_the_head_of_a_bart_behind() -> None:
    model = bart()
    model.set_input_embeddings(nn.Embedding(32, 16, padding_idx=1))
    assert model.lm_head.weight is not model.model.shared.weight
    assert found(model) == {"TIE307": "error", "TIE303": "info"}, "the swap registers one module three times"


# TIE308


def test_a_second_bias_beside_a_tied_weight() -> None:
    model = bert()
    assert found(model) == {}
    head = model.cls.predictions
    head.decoder.bias = nn.Parameter(torch.ones(32))
    assert found(model) == {"TIE308": "error"}


def test_a_tied_head_whose_bias_has_the_old_length() -> None:
    model = nn.ModuleDict({"emb": nn.Embedding(40, 16), "head": nn.Linear(16, 32)})
    model["head"].weight = model["emb"].weight
    with pytest.raises(RuntimeError, match="must match"):
        model["head"](torch.zeros(2, 16))
    assert found(model) == {"TIE308": "error"}


def test_the_logits_bias_of_a_bart_that_was_grown_by_hand() -> None:
    model = bart()
    model.set_input_embeddings(nn.Embedding(40, 16, padding_idx=1))
    model.tie_weights()
    with pytest.raises(RuntimeError, match="must match"):
        model(torch.tensor([[3, 4]]))
    assert found(model) == {"TIE308": "error", "TIE303": "info"}
    model = bart()
    model.resize_token_embeddings(40)
    assert found(model) == {"TIE303": "info"}


# TIE309, TIE310, TIE311


def keyed(keys: Any, **methods: Any) -> type[Any]:
    return type("Keyed", (LlamaForCausalLM,), {"_tied_weights_keys": keys, **methods})


def test_a_key_that_names_itself_ties_nothing_in_silence() -> None:
    model = llama(keyed({HEAD: HEAD}))
    assert model.lm_head.weight is not model.model.embed_tokens.weight
    assert found(model)["TIE309"] == "error"


@pytest.mark.parametrize(
    ("keys", "raised"),
    [
        ({HEAD: "model.embed_token.weight"}, AttributeError),
        ({"lm_haed.weight": EMBEDDING}, AttributeError),
        ({"lm_hea(d|t).weight": "model.embed.weight"}, ValueError),
        ({HEAD: EMBEDDING, "layers.*head": EMBEDDING}, ValueError),
    ],
)
def test_a_key_that_names_nothing_keeps_the_model_from_being_built(keys: Any, raised: type[Exception]) -> None:
    with pytest.raises(raised):
        llama(keyed(keys))
    assert found(llama(keyed(keys), tie_word_embeddings=False)) == {"TIE309": "info"}
    model = llama(keyed(keys), tie_word_embeddings=False)
    model.config.tie_word_embeddings = True
    (report,) = tiecheck.check(model).targets
    assert "TIE309" in {f.code for f in report.findings if f.severity == "error"}


class Weighted(PreTrainedModel):
    """A module whose name holds "weight": 5.23 takes its key for a parameter's."""

    config_class = LlamaConfig
    _tied_weights_keys = {"a.weighted_head": "a.b_weight_"}  # noqa: RUF012  # as transformers has it

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.a = nn.ModuleDict({"weighted_head": nn.Linear(4, 4), "b_weight_": nn.Linear(4, 4)})
        self.post_init()


def test_a_module_whose_name_holds_weight_is_taken_for_a_parameter() -> None:
    with pytest.raises(AttributeError):
        Weighted(config())
    assert found(Weighted(config(tie_word_embeddings=False))) == {"TIE309": "info"}


class Beside(PreTrainedModel):
    """`lin` as a pattern matches `lin2` too."""

    config_class = LlamaConfig
    _tied_weights_keys = {"lin": "emb"}  # noqa: RUF012  # as transformers has it

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.emb = nn.Linear(4, 4, bias=False)
        self.lin = nn.Linear(4, 4, bias=False)
        self.lin2 = nn.Linear(4, 4, bias=False)
        self.post_init()


def test_a_key_matches_a_name_that_begins_like_the_one_meant() -> None:
    model = Beside(config())
    assert model.lin2.weight is model.emb.weight, "transformers ties it too"
    assert found(model) == {"TIE310": "warning"}
    assert "lin2.weight" in said(model, "TIE310")


def test_a_key_drops_another_tie_that_nobody_declares(tmp_path: Path) -> None:
    class Twice(LlamaForCausalLM):
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.aux = nn.ModuleDict({"lm_head": nn.Linear(16, 32, bias=False), "emb": nn.Embedding(32, 16)})

    model = llama(Twice)
    model.aux["lm_head"].weight = model.aux["emb"].weight
    assert found(model) == {"TIE310": "warning"}
    _, missing = reloaded(model, tmp_path)
    assert missing == {"aux.lm_head.weight"}


@pytest.mark.parametrize("keys", [[HEAD], (HEAD,), {HEAD}])
def test_a_list_of_keys_is_of_the_4x_line(keys: Any, tmp_path: Path) -> None:
    with pytest.raises(AttributeError, match="has no attribute 'keys'"):
        llama(keyed(keys))
    model = llama(keyed(keys), tie_word_embeddings=False)
    assert found(model)["TIE311"] == "error"
    with pytest.raises(AttributeError, match="has no attribute 'keys'"):
        model.save_pretrained(tmp_path)


def test_a_tie_weights_of_the_4x_line_is_called_with_what_it_does_not_take() -> None:
    def tie_weights(self: Any) -> None: ...

    with pytest.raises(TypeError, match="recompute_mapping"):
        llama(keyed({HEAD: EMBEDDING}, tie_weights=tie_weights))
    model = llama()
    model.__class__ = keyed({HEAD: EMBEDDING}, tie_weights=tie_weights)
    assert found(model) == {"TIE311": "error"}

    def open_ended(self: Any, **kwargs: Any) -> None: ...

    model.__class__ = keyed({HEAD: EMBEDDING}, tie_weights=open_ended)
    assert found(model) == {}


OLD_CODE = """
from transformers import LlamaConfig, LlamaForCausalLM

class OldConfig(LlamaConfig):
    model_type = "old-llama"

class OldForCausalLM(LlamaForCausalLM):
    config_class = OldConfig
    {body}
"""


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ('_tied_weights_keys = ["lm_head.weight"]', "TIE311"),
        ("def tie_weights(self): pass", "TIE311"),
        ('_tied_weights_keys = {"lm_head.weight": "model.embed.weight"}', "TIE309"),
    ],
)
def test_a_directory_whose_own_code_cannot_be_built(tmp_path: Path, body: str, code: str) -> None:
    llama().save_pretrained(tmp_path)
    (tmp_path / "modeling_old.py").write_text(OLD_CODE.format(body=body))
    text = (tmp_path / "config.json").read_text()
    text = text.replace('"LlamaForCausalLM"', '"OldForCausalLM"').replace(
        '"model_type": "llama"', '"model_type": "old-llama"'
    )
    auto = '{"AutoConfig": "modeling_old.OldConfig", "AutoModelForCausalLM": "modeling_old.OldForCausalLM"}'
    (tmp_path / "config.json").write_text(text.replace("{", f'{{"auto_map": {auto},', 1))
    (report,) = tiecheck.check(tmp_path, trust_remote_code=True).targets
    assert {f.code: f.severity for f in report.findings if f.code.startswith("TIE3")} == {code: "error"}
    assert report.status == "fail"


# TIE312


def test_requires_grad_on_a_module_freezes_nothing() -> None:
    model = llama()
    model.lm_head.requires_grad = False
    assert model.lm_head.weight.requires_grad
    assert found(model) == {"TIE312": "warning"}
    model.lm_head.requires_grad_(False)
    assert found(model) == {"TIE312": "info"}, "now the embedding is frozen as well, and it alone"


def test_training_the_head_alone_trains_the_embedding() -> None:
    model = llama()
    model.requires_grad_(False)
    assert found(model) == {}
    model.lm_head.requires_grad_(True)
    assert model.model.embed_tokens.weight.requires_grad
    assert found(model) == {"TIE312": "info"}


def test_casting_the_head_casts_the_embedding() -> None:
    model = llama().bfloat16()
    assert found(model) == {}
    model.lm_head.float()
    assert model.model.embed_tokens.weight.dtype is torch.float32
    assert found(model) == {"TIE312": "info"}


# TIE313


def test_pruning_one_side_of_a_tie() -> None:
    model = llama()
    prune.l1_unstructured(model.lm_head, "weight", 0.5)
    assert not torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)
    assert found(model)["TIE313"] == "error"
    assert model.lm_head.weight_orig is model.model.embed_tokens.weight


def test_pruning_by_a_mask_of_ones_changes_nothing() -> None:
    model = llama()
    prune.identity(model.lm_head, "weight")
    assert found(model) == {}


def test_the_old_spectral_norm_on_one_side() -> None:
    model = nn.ModuleDict({"emb": nn.Embedding(8, 4), "head": nn.Linear(4, 8, bias=False)})
    model["head"].weight = model["emb"].weight
    nn.utils.spectral_norm(model["head"])
    assert found(model) == {"TIE313": "error"}


def test_a_parametrization_without_an_inverse_on_one_side() -> None:
    class Twice(nn.Module):
        def forward(self, weight: torch.Tensor) -> torch.Tensor:
            return 2 * weight

    model = nn.ModuleDict({"emb": nn.Embedding(8, 4), "head": nn.Linear(4, 8, bias=False)})
    model["head"].weight = model["emb"].weight
    nn.utils.parametrize.register_parametrization(model["head"], "weight", Twice())
    assert found(model) == {"TIE313": "error"}


def test_weight_norm_makes_two_parameters_over_one_memory() -> None:
    model = nn.ModuleDict({"emb": nn.Embedding(8, 4), "head": nn.Linear(4, 8, bias=False)})
    model["head"].weight = model["emb"].weight
    parametrizations.weight_norm(model["head"])
    assert found(model) == {"TIE302": "error"}


def test_a_parametrization_that_transposes_for_its_layer_is_meant() -> None:
    class Transpose(nn.Module):
        def forward(self, weight: torch.Tensor) -> torch.Tensor:
            return weight.t()

    model = nn.ModuleDict({"enc": nn.Linear(8, 3, bias=False), "dec": nn.Linear(3, 8, bias=False)})
    model["dec"].weight = model["enc"].weight
    nn.utils.parametrize.register_parametrization(model["dec"], "weight", Transpose(), unsafe=True)
    assert model["dec"](model["enc"](torch.ones(1, 8))).shape == (1, 8)
    assert found(model) == {"TIE313": "info"}
    assert "adapter" not in said(model, "TIE313")


# TIE314


def test_a_model_that_was_tied_on_meta_and_loaded_by_one_name() -> None:
    whole = llama()
    state = {name: value for name, value in whole.state_dict().items() if name != HEAD}
    with torch.device("meta"):
        model = llama()
    model.load_state_dict(state, assign=True, strict=False)
    assert model.lm_head.weight.is_meta
    out = F.linear(torch.ones(1, 16), model.lm_head.weight)
    assert not out.is_meta, "torch returns memory that nobody wrote"
    assert found(model) == {"TIE314": "error"}
    model.tie_weights()
    assert found(model) == {}


def test_what_accelerate_offloads_is_looked_up_in_its_map(tmp_path: Path) -> None:
    from accelerate import cpu_offload, disk_offload

    model = llama()
    cpu_offload(model, execution_device="cpu")
    assert model.lm_head.weight is not model.model.embed_tokens.weight
    assert model.lm_head.weight.is_meta
    assert found(model) == {}
    (tie,) = tiecheck.check(model).targets[0].ties
    assert (tie.kind, "accelerate" in (tie.reason or "")) == ("parameter", True)

    model = llama()
    disk_offload(model, tmp_path, execution_device="cpu")
    (report,) = tiecheck.check(model).targets
    assert (report.findings, report.status) == ((), "unknown")
    assert report.ties[0].kind == "unknown", "two files with equal bytes, written from one tensor or from two"

    for change in (torch.ones_like, torch.clone):
        broken = llama()
        broken.lm_head.weight = nn.Parameter(change(broken.lm_head.weight.detach()))
        cpu_offload(broken, execution_device="cpu")
        assert found(broken) == {"TIE301": "error"}


# TIE315


def big_bird() -> BigBirdPegasusConfig:
    sizes = {"vocab_size": 32, "d_model": 16, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "encoder_layers": 1}
    return BigBirdPegasusConfig(**sizes, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2)


def test_a_class_that_lost_its_declaration(tmp_path: Path) -> None:
    model = BigBirdPegasusForCausalLM(big_bird())
    assert model.config.tie_word_embeddings is True
    assert found(model) == {"TIE315": "info"}
    model.save_pretrained(tmp_path)
    assert all(f.severity == "info" for f in tiecheck.check(tmp_path, live=True).findings if f.code == "TIE315")

    model.lm_head.weight = model.get_input_embeddings().weight  # as 4.57 has it, which saves the embedding alone
    model._tied_weights_keys = {"lm_head.weight": "model.decoder.embed_tokens.weight"}
    model.save_pretrained(tmp_path)
    _, info = BigBirdPegasusForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert set(info["missing_keys"]) == {HEAD}
    (finding,) = [f for f in tiecheck.check(tmp_path, live=True).findings if f.code == "TIE315"]
    assert finding.severity == "error"


def test_a_flag_in_the_text_config_that_the_class_does_not_read() -> None:
    text = config()
    vision = CLIPVisionConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    model = LlavaNextForConditionalGeneration(LlavaNextConfig(text_config=text, vision_config=vision))
    assert model.lm_head.weight is not model.get_input_embeddings().weight
    assert found(model) == {"TIE315": "info"}
    assert "config.text_config.tie_word_embeddings is true" in said(model, "TIE315")


def test_a_tie_that_one_flag_gates_since_transformers_5() -> None:
    layers = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    sizes = {"src_vocab_size": 32, "tgt_vocab_size": 32, "d_model": 16, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    model = FSMTForConditionalGeneration(FSMTConfig(langs=["en", "de"], **sizes, **layers))
    assert model.config.tie_word_embeddings is False
    assert found(model) == {"TIE315": "info"}
    assert "4.57 ties them" in said(model, "TIE315")


# What wraps a model


def wrapped() -> list[Any]:
    return [
        pytest.param(torch.compile, id="compile"),
        pytest.param(nn.DataParallel, id="DataParallel"),
        pytest.param(AveragedModel, id="AveragedModel"),
        pytest.param(lambda model: AveragedModel(torch.compile(model)), id="two of them"),
    ]


@pytest.mark.parametrize("wrap", wrapped())
def test_wrappers_do_not_hide_a_broken_tie_and_names_are_the_users(wrap: Any) -> None:
    model = llama()
    assert found(wrap(model)) == {}
    tiecheck.assert_tied(wrap(copy.deepcopy(model)), HEAD, EMBEDDING)
    model.lm_head.weight = nn.Parameter(torch.ones(32, 16))
    (report,) = tiecheck.check(wrap(model)).targets
    (finding,) = report.findings
    assert (finding.code, finding.names) == ("TIE301", (HEAD, EMBEDDING))
    assert report.architecture == "LlamaForCausalLM"
    assert [tie.names for tie in report.ties] == [(HEAD, EMBEDDING)]


# The user's own contract


def test_a_contract_of_the_users_own_is_held() -> None:
    model = nn.ModuleDict({"emb": nn.Embedding(8, 4), "head": nn.Linear(4, 8, bias=False)})
    assert found(model) == {}
    assert found(model, ties=[["emb.weight", "head.weight"]]) == {"TIE301": "error"}
    model["head"].weight = model["emb"].weight
    assert found(model, ties=[["emb.weight", "head.weight"]]) == {}


# What other tools miss


@pytest.mark.parametrize(
    ("loaders", "severity"),
    [("accelerate==0.33", "warning"), ("accelerate==0.17", "warning"), ("accelerate==1.15", "info"), ("vllm", "info")],
)
def test_an_alias_among_siblings_matters_to_who_plans_with_an_old_accelerate(loaders: str, severity: str) -> None:
    model = nn.Module()
    model.wte = nn.Embedding(8, 4)
    model.ff_out = model.wte
    assert found(model) == {"TIE303": "info"}
    assert found(model, judge_for=loaders) == {"TIE303": severity}
    apart = nn.ModuleDict({"inner": nn.ModuleDict({"wte": nn.Embedding(8, 4)})})
    apart["ff_out"] = apart["inner"]["wte"]
    assert found(apart, judge_for=loaders) == {"TIE303": "info"}, "an alias across parents is seen by every version"


def gpt(*, tied: bool) -> Any:
    class MyGPT(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wte = nn.Embedding(8, 4)
            self.lm_head = nn.Linear(4, 8, bias=False)
            if tied:
                self.lm_head.weight = self.wte.weight

    return MyGPT()


def test_a_contract_that_names_what_is_not_there_is_no_pass() -> None:
    for ties in ([["lm_head.weigth", "wte.weight"]], [["head.weight", "lm_head.weight", "wte.weight"]]):
        assert found(gpt(tied=True), ties=ties) == {"TIE309": "error"}


def test_a_contract_holds_wherever_its_class_stands() -> None:
    ties = {"MyGPT": [["lm_head.weight", "wte.weight"]]}
    for wrap in (nn.Sequential, torch.compile, lambda model: nn.ModuleDict({"model": model}), nn.DataParallel):
        assert found(wrap(gpt(tied=True)), ties=ties) == {}
        assert found(wrap(gpt(tied=False)), ties=ties) == {"TIE301": "error"}


# What a reader who followed the mends met


def test_a_head_that_is_a_view_of_the_embedding_is_not_tied(tmp_path: Path) -> None:
    model = llama()
    model.lm_head.weight = nn.Parameter(model.lm_head.weight[:20])
    assert found(model) == {"TIE306": "error"}
    with pytest.raises(RuntimeError, match="shared tensors"):
        model.save_pretrained(tmp_path)


def test_a_head_that_was_taken_away_for_its_features_is_no_wrong_declaration(tmp_path: Path) -> None:
    model = llama()
    model.lm_head = nn.Identity()
    assert found(model) == {}
    model.save_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("wrap", "call"),
    [
        (lambda model: model, "model.tie_weights()"),
        (nn.DataParallel, "model.module.tie_weights()"),
        (lambda model: nn.ModuleDict({"lm": model}), "model.lm.tie_weights()"),
    ],
)
def test_the_mend_can_be_called_on_what_was_checked(wrap: Any, call: str) -> None:
    inner = llama()
    inner.lm_head.weight = nn.Parameter(inner.lm_head.weight.detach().clone())
    model = wrap(inner)
    (finding,) = tiecheck.check(model).findings
    assert f" {call} " in finding.help
    eval(call.replace("model.lm.", "model['lm'].") if isinstance(model, nn.ModuleDict) else call, {"model": model})
    assert found(model) == {}


def test_a_factory_that_cannot_be_built_says_which_line_its_class_is_of(tmp_path: Path) -> None:
    source = OLD_CODE.format(body='_tied_weights_keys = ["lm_head.weight"]')
    source += """
def build():
    return OldForCausalLM(OldConfig(vocab_size=8, hidden_size=4, intermediate_size=4, num_hidden_layers=1,
                                    num_attention_heads=1, tie_word_embeddings=True))
"""
    (tmp_path / "old.py").write_text(source)
    (error,) = tiecheck.check(f"{tmp_path / 'old.py'}:build").targets[0].errors
    assert "OldForCausalLM's `_tied_weights_keys` is of the transformers 4 line (tiecheck rule TIE311)" in error.message


def test_an_alias_that_is_also_reached_by_another_parent_is_seen_by_every_accelerate() -> None:
    model = nn.Module()
    layer = nn.Linear(4, 4)
    model.box = nn.ModuleList([layer] * 3)
    model.dec = nn.Module()
    model.dec.box = model.box
    assert not [f for f in tiecheck.check(model).findings if "reports nothing" in f.message]
