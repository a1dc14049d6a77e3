"""Checkpoints broken in the ways that have a fix, each beside the model that was meant."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from cases_hf import SMALL, made
from casework import draw
from safetensors.torch import load_file, save_file

_SEQ = {"encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
_SEQ |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
_T5 = {"vocab_size": 96, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
_GPT = {"vocab_size": 96, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}

CLASSES: dict[str, dict[str, Any]] = {
    "LlamaForCausalLM": SMALL,
    "Qwen2ForCausalLM": SMALL,
    "GemmaForCausalLM": {**SMALL, "head_dim": 8},
    "GPT2LMHeadModel": _GPT,
    "OPTForCausalLM": {"vocab_size": 96, "hidden_size": 16, "ffn_dim": 32, "num_hidden_layers": 1,
                       "num_attention_heads": 2, "max_position_embeddings": 32, "word_embed_proj_dim": 16},
    "BartForConditionalGeneration": {"vocab_size": 96, "d_model": 16, "max_position_embeddings": 32, **_SEQ},
    "T5ForConditionalGeneration": {**_T5, "decoder_start_token_id": 0},
    "BertForMaskedLM": {k: v for k, v in SMALL.items() if k != "num_key_value_heads"},
}  # fmt: skip
"""Class -> a small config."""

DEAF = ("BertForMaskedLM", "GemmaForCausalLM", "GPT2LMHeadModel")
"""Those that some loader ties whatever the flag says."""

Tensors = dict[str, torch.Tensor]
Meant = Callable[[torch.Tensor], torch.Tensor]
"""Token ids -> logits of the model that was meant."""


@dataclass(frozen=True)
class Subject:
    """One broken directory and what its fix has to give."""

    title: str
    code: str
    choice: str | None
    write: Callable[[Path], Meant]
    """Writes the broken directory, and returns the logits of the model that was meant."""
    options: dict[str, Any] = field(default_factory=dict)
    remains: tuple[str, ...] = ()
    """Findings that no file can end, since a loader does not listen."""

    def __str__(self) -> str:
        return self.title


def logits_of(model: Any) -> Meant:
    """The logits of a model for some ids, as an encoder-decoder or a decoder takes them."""

    def run(ids: torch.Tensor) -> torch.Tensor:
        more = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
        with torch.no_grad():
            return model(input_ids=ids, **more).logits

    return run


def loaded(directory: Path) -> Any:
    """The model as transformers loads it."""
    config = json.loads((directory / "config.json").read_text())
    cls = getattr(transformers, config["architectures"][0])
    return cls.from_pretrained(directory, local_files_only=True).eval()


def small_model(name: str, **changes: Any) -> Any:
    """A model of random weights."""
    return made(name, 11, **{**CLASSES[name], **changes})


def tied_pair(model: Any) -> tuple[str, str]:
    """The names of the head and of what it is tied to."""
    target, source = next((t, s) for t, s in model.all_tied_weights_keys.items() if t.endswith("weight"))
    return target, source


def _stored_pair(where: Path) -> tuple[str, str]:
    """The names of a LLaVA's head and embedding in its file, which are not those of the class."""
    names = load_file(where / "model.safetensors")
    source = next(name for name in names if name.endswith("embed_tokens.weight"))
    return source.replace("model.embed_tokens", "lm_head"), source


def _flag(where: Path, value: bool | None) -> None:
    path = where / "config.json"
    config = json.loads(path.read_text())
    config.pop("tie_word_embeddings", None)
    if value is not None:
        config["tie_word_embeddings"] = value
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def edit_weights(where: Path, edit: Callable[[Tensors], None]) -> None:
    """Change the tensors of a directory with one file, or with shards: of the shard that holds what is changed."""
    for path in sorted(where.glob("*.safetensors")):
        tensors = load_file(path)
        before = set(tensors)
        try:
            edit(tensors)
        except KeyError:
            continue
        save_file({name: t.clone().contiguous() for name, t in tensors.items()}, path, metadata={"format": "pt"})
        index = where / "model.safetensors.index.json"
        if index.exists():
            told = json.loads(index.read_text())
            for name in before - set(tensors):
                del told["weight_map"][name]
            told["weight_map"] |= dict.fromkeys(tensors, path.name)
            index.write_text(json.dumps(told, indent=2, sort_keys=True) + "\n")


def save_small(model: Any, where: Path, *, sharded: bool = False) -> None:
    """Save a model, as shards where asked for."""
    model.save_pretrained(where, max_shard_size="7KB" if sharded else "5GB")


def diverged(
    name: str, choice: str, *, sharded: bool = False, flag: bool | None = True, code: str = "TIE101"
) -> Subject:
    """A head that was trained on its own under a flag of true, or none: meant untied, or tied and left over."""

    def write(where: Path) -> Meant:
        meant = small_model(name, tie_word_embeddings=choice == "tied")
        save_small(meant, where, sharded=sharded)
        if choice == "tied":
            head, source = tied_pair(meant)
            edit_weights(where, lambda t: t.update({head: draw(t[source].shape, torch.Generator().manual_seed(5))}))
        _flag(where, flag)
        return logits_of(meant)

    options = {"unsafe": True} if choice == "tied" else {}
    remains = ("TIE105",) if name in DEAF and choice == "untied" else ()
    return Subject(f"{name}-{code}-diverged-{choice}{'-sharded' * sharded}", code, choice, write, options, remains)


def flag_lost(name: str, *, renamed: bool = False) -> Subject:
    """A tied model whose flag was set to false; its one tensor under the head's name where asked for."""

    def write(where: Path) -> Meant:
        meant = small_model(name, tie_word_embeddings=True)
        save_small(meant, where)
        head, source = tied_pair(meant)
        if renamed:
            edit_weights(where, lambda t: t.update({head: t.pop(source)}))
        _flag(where, False)
        return logits_of(meant)

    return Subject(f"{name}-flag-lost{'-renamed' * renamed}", "TIE102", "tied", write)


def stray_head(choice: str) -> Subject:
    """A Llama under a flag of false whose head has a name of nobody: its own, or one that is left over."""

    def write(where: Path) -> Meant:
        meant = small_model("LlamaForCausalLM", tie_word_embeddings=choice == "tied")
        save_small(meant, where)
        left = draw((96, 16), torch.Generator().manual_seed(5))
        edit_weights(where, lambda t: t.update({"output.weight": t.pop("lm_head.weight", left)}))
        _flag(where, False)
        return logits_of(meant)

    return Subject(f"llama-stray-head-{choice}", "TIE102", choice, write, {"unsafe": choice == "tied"})


def redundant(name: str, *, sharded: bool = False) -> Subject:
    """A tied model that stores its head too."""

    def write(where: Path) -> Meant:
        meant = small_model(name, tie_word_embeddings=True)
        save_small(meant, where, sharded=sharded)
        head, source = tied_pair(meant)
        edit_weights(where, lambda t: t.update({head: t[source].clone()}))
        return logits_of(meant)

    return Subject(f"{name}-redundant{'-sharded' * sharded}", "TIE106", None, write)


def alias_name(name: str) -> Subject:
    """A tied model stored under its head's name alone."""

    def write(where: Path) -> Meant:
        meant = small_model(name, tie_word_embeddings=True)
        save_small(meant, where)
        head, source = tied_pair(meant)
        edit_weights(where, lambda t: t.update({head: t.pop(source)}))
        return logits_of(meant)

    return Subject(f"{name}-alias-name", "TIE111", None, write)


def wrong_index(name: str) -> Subject:
    """Shards whose index puts a tensor in the wrong one."""

    def write(where: Path) -> Meant:
        meant = small_model(name)
        save_small(meant, where, sharded=True)
        path = where / "model.safetensors.index.json"
        told = json.loads(path.read_text())
        files = list(told["weight_map"].values())
        moved, file = next((n, f) for n, f in told["weight_map"].items() if files.count(f) > 1)
        told["weight_map"][moved] = next(f for f in told["weight_map"].values() if f != file)
        path.write_text(json.dumps(told, indent=2, sort_keys=True) + "\n")
        return logits_of(meant)

    return Subject(f"{name}-wrong-index", "TIE201", None, write)


def unscaled_t5(where: Path) -> Meant:
    """Write a T5 whose false says that logits are not scaled, and which stores its tensor once."""
    save_small(small_model("T5ForConditionalGeneration"), where)
    _flag(where, False)
    return logits_of(loaded(where))


def scaled_mt5(where: Path) -> Meant:
    """Write an mT5 that was saved tied, and whose flag was then set to false."""
    meant = made("MT5ForConditionalGeneration", 11, **_T5, decoder_start_token_id=0, tie_word_embeddings=True)
    save_small(meant, where)
    _flag(where, False)
    return logits_of(meant)


def silent_mt5(where: Path) -> Meant:
    """Write a tied mT5 whose config says nothing: 4.57 ties it, 5 does not."""
    meant = made("MT5ForConditionalGeneration", 11, **_T5, decoder_start_token_id=0, tie_word_embeddings=True)
    save_small(meant, where)
    _flag(where, None)
    return logits_of(meant)


def untied_bias(where: Path) -> Meant:
    """Write what 4.57 saves of an untied BERT: the head's bias is one with its decoder's, and stored once."""
    meant = small_model("BertForMaskedLM", tie_word_embeddings=False)
    with torch.no_grad():
        meant.cls.predictions.decoder.bias.copy_(meant.cls.predictions.bias)
    save_small(meant, where)
    edit_weights(where, lambda t: t.pop("cls.predictions.decoder.bias"))
    return logits_of(meant)


def pop2piano(where: Path) -> None:
    """Write a class that 5 has no tie for any more, tied as 4.57 saves it."""
    save_small(made("Pop2PianoForConditionalGeneration", 11, **_T5, decoder_start_token_id=0), where)
    edit_weights(where, lambda t: t.pop("lm_head.weight"))
    _flag(where, True)


def false_bias(where: Path) -> Meant:
    """Write a masked language model whose flag was lost: 4.57 ties its bias all the same."""
    meant = small_model("BertForMaskedLM", tie_word_embeddings=True)
    save_small(meant, where)
    _flag(where, False)
    return logits_of(meant)


def nested_levels(top: bool | None, inner: bool | None, *, head: str | None = None) -> Any:
    """Return a writer of a LLaVA whose levels disagree: one tensor stored, an equal head, or one of its own."""

    def write(where: Path) -> Meant:
        vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
        vision |= {"image_size": 8, "patch_size": 4, "model_type": "clip_vision_model"}
        tied = head != "own"
        text = {**SMALL, "model_type": "llama", "tie_word_embeddings": tied}
        name = "LlavaForConditionalGeneration"
        meant = made(name, 12, text_config=text, vision_config=vision, tie_word_embeddings=tied, image_token_index=95)
        save_small(meant, where)
        told = json.loads((where / "config.json").read_text())
        for level, value in ((told, top), (told["text_config"], inner)):
            level.pop("tie_word_embeddings", None)
            if value is not None:
                level["tie_word_embeddings"] = value
        (where / "config.json").write_text(json.dumps(told, indent=2) + "\n")
        if head == "equal":
            head_name, source = _stored_pair(where)
            edit_weights(where, lambda t: t.update({head_name: t[source].clone()}))
        return logits_of(meant)

    return write


def subjects() -> Iterator[Subject]:
    """Every subject."""
    for name in CLASSES:
        t5 = name == "T5ForConditionalGeneration"  # a false of its own meaning: logits are not scaled
        bart = name == "BartForConditionalGeneration"  # loaded right by all under its head's name
        yield diverged(name, "tied")
        yield redundant(name)
        if not t5:
            yield diverged(name, "untied")
            yield flag_lost(name)
        if not bart:
            yield alias_name(name)
    yield flag_lost("LlamaForCausalLM", renamed=True)
    for name in ("LlamaForCausalLM", "GPT2LMHeadModel"):
        yield diverged(name, "tied", sharded=True)
        yield diverged(name, "untied", sharded=True)
        yield redundant(name, sharded=True)
        yield wrong_index(name)
    yield Subject("T5-unscaled", "TIE105", "stored", unscaled_t5)
    yield Subject("mt5-scaled", "TIE105", "tied", scaled_mt5)
    yield Subject("Bert-false-bias", "TIE105", "tied", false_bias)
    yield Subject("llava-inner-false", "TIE103", None, nested_levels(True, False))
    yield Subject("mt5-silent", "TIE104", None, silent_mt5)
    yield Subject("bert-untied-bias", "TIE105", None, untied_bias)
    for choice in ("tied", "untied"):
        yield diverged("OPTForCausalLM", choice, flag=None, code="TIE104")
        yield stray_head(choice)
    yield Subject("llava-own-head", "TIE103", "untied", nested_levels(True, False, head="own"))
    yield Subject("llava-equal-tied", "TIE103", "tied", nested_levels(True, False, head="equal"))
    yield Subject("llava-equal-untied", "TIE103", "untied", nested_levels(True, False, head="equal"))
