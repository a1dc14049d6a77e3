"""Models broken as the drawn breaks do not: plain modules, contracts, heads of another size, flags, freezes, scales."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from live_failures import Direct, Outer, bart, bert, config, gpt, small_llama
from torch import nn
from transformers import (
    BigBirdPegasusConfig,
    BigBirdPegasusForCausalLM,
    CLIPVisionConfig,
    FSMTConfig,
    FSMTForConditionalGeneration,
    LlamaForCausalLM,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    PreTrainedModel,
)

CONTRACT = {"ties": [["lm_head.weight", "wte.weight"]]}


class Subject(NamedTuple):
    """One broken model, the rules that speak of it, and the alternatives that each has."""

    build: Callable[[], nn.Module]
    alternatives: dict[str, set[str]]
    options: dict[str, Any] = {}  # noqa: RUF012  # never changed

    def __str__(self) -> str:
        return f"{self.build.__name__}{'-contract' * bool(self.options)}"


def never_tied() -> nn.Module:
    return gpt(tied=False)


def one_memory() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 4), nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)]))
    model[1][1].weight = nn.Parameter(model[0].weight.detach())
    return model


def grown_embedding() -> nn.Module:
    model = gpt(tied=True)
    model.wte = nn.Embedding(11, 4)
    return model


def grown_beside_a_bias() -> nn.Module:
    model = nn.Module()
    model.wte, model.lm_head = nn.Embedding(11, 4), nn.Linear(4, 8)
    return model


def transposed_copy() -> nn.Module:
    model = gpt(tied=False)
    model.lm_head.weight = nn.Parameter(model.wte.weight.detach().t().contiguous())
    return model


def slice_of_it() -> nn.Module:
    model = gpt(tied=False)
    model.lm_head.weight = nn.Parameter(model.wte.weight[:5])
    return model


def list_times_n() -> nn.Module:
    return nn.Sequential(nn.ModuleList([nn.Sequential(*([nn.Linear(4, 4)] * 3)), nn.Linear(4, 4)]))


def aliased() -> nn.Module:
    model = nn.Module()
    model.wte = nn.Embedding(8, 4)
    model.box = nn.ModuleDict({"out": model.wte})
    return model


def equal_copy() -> nn.Module:
    model = gpt(tied=False)
    model.lm_head.weight = nn.Parameter(model.wte.weight.detach().clone())
    return model


def two_layers_share() -> nn.Module:
    model = small_llama()
    attention = model.model.layers[0].self_attn
    attention.k_proj.weight = attention.q_proj.weight
    return model


def inner_in_a_list() -> nn.Module:
    return Outer(config())


def head_left() -> nn.Module:
    model = bart()
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach() + 1)
    return model


def decoder_left() -> nn.Module:
    model = bart()
    model.model.decoder.embed_tokens.weight = nn.Parameter(model.lm_head.weight.detach() + 1)
    return model


def second_bias() -> nn.Module:
    model = bert()
    model.cls.predictions.bias = nn.Parameter(torch.ones_like(model.cls.predictions.bias))
    return model


def pair_on_meta() -> nn.Module:
    model = gpt(tied=False)
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.to("meta"))
    return model


class Beside(PreTrainedModel):
    """A declaration whose key matches a second layer as well."""

    config_class = type(config())
    _tied_weights_keys = {"lin": "emb"}  # noqa: RUF012  # as transformers has it

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.emb, self.lin, self.lin2 = (nn.Linear(4, 4, bias=False) for _ in range(3))
        self.post_init()


class Twice(LlamaForCausalLM):
    """A second pair, whose names the declared key matches too."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.aux = nn.ModuleDict({"lm_head": nn.Linear(16, 32, bias=False), "emb": nn.Embedding(32, 16)})


def key_of_two() -> nn.Module:
    return Beside(config())


def dropped_by_a_key() -> nn.Module:
    model = small_llama(Twice)
    model.aux["lm_head"].weight = model.aux["emb"].weight
    return model


def head_on_meta() -> nn.Module:
    state = {name: value for name, value in small_llama().state_dict().items() if name != "lm_head.weight"}
    with torch.device("meta"):
        model = small_llama(tie_word_embeddings=False)
    model.load_state_dict(state, assign=True, strict=False)
    return model


def tied_by_hand() -> nn.Module:
    model = small_llama(tie_word_embeddings=False)
    model.lm_head.weight = model.model.embed_tokens.weight
    return model


def frozen_over_one_memory() -> nn.Module:
    model = small_llama(tie_word_embeddings=False)
    model.lm_head.weight.data = model.model.embed_tokens.weight.data
    return model.requires_grad_(False)


def inner_tied_by_hand() -> nn.Module:
    model = Direct(config(tie_word_embeddings=False))
    model.part.lm_head.weight = model.part.model.embed_tokens.weight
    return model


def short_bias() -> nn.Module:
    model = nn.ModuleDict({"emb": nn.Embedding(40, 16), "head": nn.Linear(16, 32)})
    model["head"].weight = model["emb"].weight
    return model


def short_logits_bias() -> nn.Module:
    model = bart()
    model.set_input_embeddings(nn.Embedding(40, 16, padding_idx=1))
    model.tie_weights()
    return model


def grown_llama() -> nn.Module:
    model = small_llama()
    longer = nn.Embedding(40, 16)
    nn.init.normal_(longer.weight, std=0.02)
    model.set_input_embeddings(longer)
    return model


def frozen_by_attribute() -> nn.Module:
    model = small_llama()
    model.lm_head.requires_grad = False
    return model


def frozen_alone() -> nn.Module:
    model = small_llama()
    model.lm_head.requires_grad_(False)
    return model


def trained_alone() -> nn.Module:
    model = small_llama().requires_grad_(False)
    model.lm_head.requires_grad_(True)
    return model


def normed(way: Callable[[nn.Module], Any]) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        model = nn.ModuleDict({"emb": nn.Embedding(8, 4), "head": nn.Linear(4, 8, bias=False)})
        model["head"].weight = model["emb"].weight
        warnings.filterwarnings("ignore", category=FutureWarning)  # the old weight_norm, which is still used
        way(model["head"])
        return model

    build.__name__ = f"{way.__module__.rpartition('.')[2]}-{way.__name__}"
    return build


class Untrained(nn.Module):
    """A GPT's ends with the embedding's draw."""

    def __init__(self) -> None:
        super().__init__()
        self.wte, self.norm = nn.Embedding(512, 768), nn.LayerNorm(768)
        self.mix = nn.Linear(768, 768)
        self.lm_head = nn.Linear(768, 512, bias=False)
        self.lm_head.weight = self.wte.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.lm_head(self.norm(self.mix(self.wte(ids))))


def flag_of_the_text() -> nn.Module:
    vision = CLIPVisionConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    return LlavaNextForConditionalGeneration(LlavaNextConfig(text_config=config(), vision_config=vision))


_SEQ = {"d_model": 16, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "encoder_layers": 1, "decoder_layers": 1}
_SEQ |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2}


def declares_nothing() -> nn.Module:
    return BigBirdPegasusForCausalLM(BigBirdPegasusConfig(vocab_size=32, **_SEQ))


def gated_since_5() -> nn.Module:
    sizes = {"src_vocab_size": 32, "tgt_vocab_size": 32}
    return FSMTForConditionalGeneration(FSMTConfig(langs=["en", "de"], **sizes, **_SEQ))


BOTH = {"lm_head.weight", "wte.weight"}

SUBJECTS = [
    Subject(never_tied, {"TIE301": BOTH}, CONTRACT),
    Subject(one_memory, {"TIE302": {"tied"}}),
    Subject(grown_embedding, {"TIE306": BOTH}, CONTRACT),
    Subject(grown_beside_a_bias, {"TIE306": BOTH}, CONTRACT),
    Subject(transposed_copy, {"TIE301": {"wte.weight"}}, CONTRACT),  # the only one that fits its module
    Subject(slice_of_it, {"TIE317": {"apart"}}),
    Subject(slice_of_it, {"TIE306": {"wte.weight"}, "TIE317": {"apart"}}, CONTRACT),
    Subject(list_times_n, {"TIE318": {"apart"}}),
    Subject(aliased, {"TIE303": {"apart"}}),
    Subject(equal_copy, {"TIE316": {"tied"}}),
    Subject(two_layers_share, {"TIE304": {"tied", "apart"}}),
    Subject(inner_in_a_list, {"TIE304": {"tied", "apart"}}),
    Subject(head_on_meta, {"TIE314": {"tied"}}),
    Subject(tied_by_hand, {"TIE305": {"tied", "untied"}}),
    Subject(frozen_over_one_memory, {"TIE305": {"tied", "untied"}}),
    Subject(inner_tied_by_hand, {"TIE305": {"tied", "untied"}}),
    Subject(head_left, {"TIE307": {"tied", "untied", "lm_head.weight"}}),
    Subject(decoder_left, {"TIE307": {"tied", "untied", "model.decoder.embed_tokens.weight"}}),
    Subject(second_bias, {"TIE308": {"tied", "untied", "cls.predictions.decoder.bias"}}),
    Subject(pair_on_meta, {"TIE314": {"wte.weight"}}, CONTRACT),
    Subject(key_of_two, {"TIE310": {"source"}}),
    Subject(dropped_by_a_key, {"TIE310": {"apart"}}),
    Subject(short_bias, {"TIE308": {"fitted"}}),
    Subject(short_logits_bias, {"TIE303": set(), "TIE308": {"fitted"}}),
    Subject(grown_llama, {"TIE306": {"tied", "lm_head.weight"}}),
    Subject(frozen_by_attribute, {"TIE312": {"tied", "untied"}}),
    Subject(frozen_alone, {"TIE312": {"untied"}}),
    Subject(trained_alone, {"TIE312": {"untied"}}),
    Subject(normed(nn.utils.spectral_norm), {"TIE313": {"untied"}}),
    Subject(normed(nn.utils.weight_norm), {"TIE302": {"tied"}}),
    Subject(normed(nn.utils.parametrizations.weight_norm), {"TIE302": {"tied"}}),
    Subject(Untrained, {"TIE701": {"drawn"}}),
    Subject(flag_of_the_text, {"TIE315": {"tied", "untied"}}),
    Subject(declares_nothing, {"TIE315": {"untied"}}),
    Subject(gated_since_5, {"TIE315": {"tied"}}),
]
