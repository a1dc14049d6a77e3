"""Drafts, draft layers and `consolidated` files, made as `brought_layouts` has it; vLLM loads them where it is."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from brought_layouts import Made, layout, pair, saved, tiny
from safetensors.torch import load_file, save_file
from vllm_loads import vllm_loads

TOKENS = 3
"""Heads of Medusa."""


def _by_vllm(
    names: str, model: Path, draft: Path | None = None, *, rows: int | None = None, **drafts: Any
) -> Callable[[], Any] | None:
    """Loads a draft beside its target, and picks parameters, without padded rows; None where there is no vLLM."""
    if "TIECHECK_VLLM" not in os.environ:
        return None
    asked = {"model": str(draft or model), "num_speculative_tokens": 1} | drafts

    def load() -> tuple[torch.Tensor, ...]:
        found = vllm_loads(model, asked)
        return tuple(found[name][:rows] for name in names.split())

    return load


def _write(where: Path, config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Path:
    where.mkdir(parents=True, exist_ok=True)
    (where / "config.json").write_text(json.dumps(config))
    save_file({n: t.contiguous().clone() for n, t in tensors.items()}, where / "model.safetensors", {"format": "pt"})
    return where


def _layer(tensors: dict[str, torch.Tensor], prefix: str, without: str = "-") -> dict[str, torch.Tensor]:
    """The first layer of a model, below another prefix."""
    found = {name: one for name, one in tensors.items() if ".layers.0." in name and without not in name}
    return {name.replace("model.layers.0.", prefix): one for name, one in found.items()}


@layout("EAGLE 1 and 2", script=True, loads="vllm")
def _eagle(where: Path, state: str) -> Made:
    """The embedding once more, the head the target's; a diverged embedding is stale, and vLLM keeps it."""
    target, model = saved(where / "target", "untied" if state == "untied" else "tied")
    embedding, head = pair(model)
    config = {**model.config.to_dict(), "architectures": ["EagleLlamaForCausalLM"]}
    tensors = {"embed_tokens.weight": embedding + (0.1 if state == "diverged" else 0), "fc.weight": torch.ones(64, 128)}
    tensors |= _layer(model.state_dict(), "layers.0.", "input_layernorm")
    draft = _write(where / "draft", config, tensors)
    load = _by_vllm("model.embed_tokens.weight lm_head.weight", target, draft, method="eagle")
    return Made(draft, load, (embedding, head), {"drafts_for": str(target)})


def _reduced(state: str) -> tuple[Any, dict[str, torch.Tensor], torch.Tensor]:
    """A model, what an EAGLE-3 draft stores of embedding, head and map, and the offsets that are meant."""
    model = tiny(tied=False)
    embedding, head = pair(model)
    rows = 64 if state in ("tied", "damaged") else 32
    tensors = {"embed_tokens.weight": embedding, "lm_head.weight": head[:rows]}
    if state == "untied":
        tensors["d2t"] = torch.arange(rows)
    return model, tensors, torch.arange(rows)


@layout("EAGLE 3", script=True, loads="vllm")
def _eagle3(where: Path, state: str) -> Made:
    """A head of its own; a diverged one has lost the map of its reduced vocabulary."""
    target, _ = saved(where / "target", "untied")
    model, tensors, offsets = _reduced(state)
    rows = len(tensors["lm_head.weight"])
    config = {**model.config.to_dict(), "architectures": ["LlamaForCausalLMEagle3"], "draft_vocab_size": rows}
    wide = {n: t.repeat(1, 2) if n[-13:-7] in ("q_proj", "k_proj", "v_proj") else t
            for n, t in _layer(model.state_dict(), "midlayer.").items()}  # fmt: skip
    more = {
        "fc.weight": torch.ones(64, 192),
        "norm.weight": torch.ones(64),
        "midlayer.hidden_norm.weight": torch.ones(64),
    }
    draft = _write(where / "draft", config, tensors | wide | more)
    names, meant = "lm_head.weight", (tensors["lm_head.weight"],)
    if rows < 64:
        names, meant = f"{names} draft_id_to_target_id", (*meant, offsets)
    return Made(draft, _by_vllm(names, target, draft, rows=rows, method="eagle3"), meant)


@layout("Medusa", script=True, loads="vllm")
def _medusa(where: Path, state: str) -> Made:
    """Heads in a pickle; a diverged one has lost a head of three."""
    target, _ = saved(where / "target", "untied")
    torch.manual_seed(0)
    heads = {f"{n}.{m}.weight": torch.randn(64, 64) for n in range(TOKENS) for m in (0, 1)}
    meant = tuple(heads[f"{n}.1.weight"] for n in range(TOKENS))
    heads = {name.replace(".0.weight", ".0.linear.weight"): tensor for name, tensor in heads.items()}
    heads |= {f"{n}.0.linear.bias": torch.randn(64) for n in range(TOKENS)}
    config = {"model_type": "medusa", "architectures": ["MedusaModel"], "hidden_size": 64, "vocab_size": 64}
    config |= {"num_heads": TOKENS, "num_hidden_layers": 1, "medusa_num_heads": TOKENS, "medusa_num_layers": 1}
    draft = where / "draft"
    draft.mkdir()
    (draft / "config.json").write_text(json.dumps(config))
    stored = {name: one for name, one in heads.items() if state != "diverged" or name[0] != "2"}
    torch.save(stored, draft / "medusa_lm_head.pt")
    names = " ".join(f"lm_heads.{n}.weight" for n in range(TOKENS))
    load = _by_vllm(names, target, draft, method="medusa", num_speculative_tokens=TOKENS)
    return Made(draft, load, meant)


@layout("MTP", script=True, loads="vllm")
def _mtp(where: Path, state: str) -> Made:
    """A GLM whose draft layer has embedding and head once more; untied lacks them, diverged has stale ones."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 64, "hidden_size": 64, "intermediate_size": 64, "moe_intermediate_size": 32, "head_dim": 32,
             "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2, "n_routed_experts": 2,
             "num_experts_per_tok": 1, "first_k_dense_replace": 0}  # fmt: skip
    model = transformers.Glm4MoeForCausalLM(transformers.Glm4MoeConfig(**sizes, tie_word_embeddings=False))
    model.save_pretrained(where)
    embedding, head = pair(model)
    ones = {f"{name}.weight": torch.ones(64) for name in ("enorm", "hnorm", "shared_head.norm")}
    copies = {"embed_tokens.weight": embedding, "shared_head.head.weight": head}
    more = ones | {"eh_proj.weight": torch.ones(64, 128)}
    more |= {name: one + (state == "diverged") for name, one in copies.items() if state != "untied"}
    stored = load_file(where / "model.safetensors")
    stored |= _layer(stored, "model.layers.1.") | {f"model.layers.1.{name}": one for name, one in more.items()}
    _write(where, json.loads((where / "config.json").read_text()) | {"num_nextn_predict_layers": 1}, stored)
    names = "model.embed_tokens.weight model.layers.1.shared_head.head.weight"
    return Made(where, _by_vllm(names, where, method="mtp"), (embedding, head))


MISTRAL = {"model.embed_tokens": "tok_embeddings", "lm_head": "output", "self_attn.q_proj": "attention.wq",
           "self_attn.k_proj": "attention.wk", "self_attn.v_proj": "attention.wv", "self_attn.o_proj": "attention.wo",
           "mlp.gate_proj": "feed_forward.w1", "mlp.down_proj": "feed_forward.w2", "mlp.up_proj": "feed_forward.w3",
           "post_attention_layernorm": "ffn_norm", "input_layernorm": "attention_norm"}  # fmt: skip


@layout("consolidated with params.json", script=True, loads="vllm")
def _consolidated(where: Path, state: str) -> Made:
    """A whole model in Mistral's names; of a diverged one vLLM drops the head."""
    where.mkdir(exist_ok=True)
    model = tiny(tied=state in ("tied", "damaged"))
    tensors = {}
    for name, tensor in model.state_dict().items():
        renamed = name
        for theirs, ours in MISTRAL.items():
            renamed = renamed.replace(theirs, ours)
        tensors[renamed.removeprefix("model.")] = tensor.clone()
    if state in ("tied", "damaged"):
        del tensors["output.weight"]
    save_file(tensors, where / "consolidated.safetensors")
    sizes = {"dim": 64, "n_layers": 1, "head_dim": 32, "hidden_dim": 64, "n_heads": 2, "n_kv_heads": 2}
    more = {"norm_eps": 1e-6, "rope_theta": 1e4, "max_position_embeddings": 64, "tied_embeddings": state != "untied"}
    params = sizes | more | {"vocab_size": 64}
    (where / "params.json").write_text(json.dumps(params))

    def load() -> Any:
        found = vllm_loads(where, load_format="mistral", config_format="mistral")
        return found["model.embed_tokens.weight"], found["lm_head.weight"]

    return Made(where, load if "TIECHECK_VLLM" in os.environ else None, pair(model))


@layout("speculators", "speculators")
def _speculators(where: Path, state: str) -> Made:
    """The library saves and loads an eagle3; diverged has lost the maps of its reduced vocabulary."""
    from speculators.config import SpeculatorsConfig, VerifierConfig
    from speculators.models.eagle3 import Eagle3DraftModel, Eagle3SpeculatorConfig
    from speculators.proposals.greedy import GreedyTokenProposalConfig

    model, tensors, offsets = _reduced(state)
    model.save_pretrained(where / "target")
    rows = len(tensors["lm_head.weight"])
    config = Eagle3SpeculatorConfig(
        transformer_layer_config=model.config,
        draft_vocab_size=rows,
        eagle_aux_hidden_state_layer_ids=[0],
        speculators_config=SpeculatorsConfig(
            algorithm="eagle3",
            proposal_methods=[GreedyTokenProposalConfig(proposal_type="greedy", speculative_tokens=1)],
            default_proposal_method="greedy",
            verifier=VerifierConfig(name_or_path=str(where / "target"), architectures=["LlamaForCausalLM"]),
        ),
    )
    draft = Eagle3DraftModel(config)
    draft.load_state_dict(tensors, strict=False)
    if state == "untied":
        draft.t2d[2 * offsets] = True
    draft.save_pretrained(where / "draft")
    if rows < 64 and state == "diverged":
        file = where / "draft/model.safetensors"
        save_file({n: t for n, t in load_file(file).items() if n not in ("d2t", "t2d")}, file, {"format": "pt"})

    def load() -> tuple[Any, ...]:
        found = Eagle3DraftModel.from_pretrained(where / "draft")
        return (found.embed_tokens.weight, found.lm_head.weight, *([found.d2t] if rows < 64 else []))

    return Made(where / "draft", load, (*pair(model)[:1], tensors["lm_head.weight"], *([offsets] if rows < 64 else [])))
