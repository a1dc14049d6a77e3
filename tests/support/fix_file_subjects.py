"""Checkpoints whose files or shapes are broken in the ways that have a fix, each beside the model that was meant."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from casework import draw
from fix_subjects import (
    Meant,
    Subject,
    edit_weights,
    loaded,
    logits_of,
    nested_levels,
    save_small,
    small_model,
    tied_pair,
)
from safetensors.torch import load_file, save_file

Tensors = dict[str, torch.Tensor]
LLAMA = "LlamaForCausalLM"
HEAD, SOURCE = "lm_head.weight", "model.embed_tokens.weight"
INDEX = "model.safetensors.index.json"


def tied_llama(where: Path, edit: Callable[[Tensors], None] = lambda _: None, **changes: Any) -> Meant:
    """Write a tied Llama with changed tensors, and return the logits of the one before."""
    meant = small_model(LLAMA, **{"tie_word_embeddings": True, **changes})
    save_small(meant, where)
    edit_weights(where, edit)
    return logits_of(meant)


def other(like: torch.Tensor) -> torch.Tensor:
    """Values of a head that was trained by itself."""
    return draw(like.shape, torch.Generator().manual_seed(5))


def set_config(where: Path, **values: Any) -> None:
    path = where / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}, indent=2, sort_keys=True) + "\n")


def shapes() -> Iterator[Subject]:
    """Members of different shapes and dtypes."""

    def padded(tensors: Tensors) -> None:
        tensors[HEAD] = torch.cat([tensors[SOURCE], torch.zeros(8, tensors[SOURCE].shape[1])])

    def padded_source(tensors: Tensors) -> None:
        padded(tensors)
        tensors[HEAD], tensors[SOURCE] = tensors[SOURCE], tensors[HEAD]

    def cut(tensors: Tensors) -> None:
        tensors[HEAD] = tensors[SOURCE][:-8].clone()

    edits: dict[str, Callable[[Tensors], None]] = {
        "padded-head": padded,
        "padded-source": padded_source,
        "cut-head": cut,
        "transposed-head": lambda t: t.update({HEAD: t[SOURCE].t().contiguous()}),
        "transposed-source": lambda t: t.update({HEAD: t[SOURCE], SOURCE: t[SOURCE].t().contiguous()}),
        "cast-head": lambda t: t.update({HEAD: t[SOURCE].bfloat16()}),
        "cast-source": lambda t: t.update({HEAD: t[SOURCE], SOURCE: t[SOURCE].bfloat16()}),
    }
    for title, edit in edits.items():
        yield Subject(f"llama-{title}", "TIE108", None, lambda where, edit=edit: tied_llama(where, edit))
    unsafe = {"unsafe": True}
    strange = {"longer": lambda t: t.update({HEAD: draw((104, 16), torch.Generator().manual_seed(5))}),
               "cast": lambda t: t.update({HEAD: other(t[SOURCE]).bfloat16()})}  # fmt: skip
    for title, edit in strange.items():
        yield Subject(f"llama-{title}-other", "TIE108", "tied", lambda w, edit=edit: tied_llama(w, edit), unsafe)

    def trained_apart(where: Path) -> Meant:
        meant = small_model(LLAMA, tie_word_embeddings=False)
        with torch.no_grad():
            meant.lm_head.weight.copy_(meant.lm_head.weight.bfloat16().float())
        save_small(meant, where)
        edit_weights(where, lambda t: t.update({HEAD: t[HEAD].bfloat16()}))
        set_config(where, tie_word_embeddings=True)
        return logits_of(meant)

    yield Subject("llama-cast-untied", "TIE108", "untied", trained_apart)

    def more_rows(where: Path) -> Meant:
        run = tied_llama(where)
        set_config(where, vocab_size=99)
        return run

    yield Subject("llama-vocabulary", "TIE207", None, more_rows)


def flattened(name: str) -> Subject:
    """A tied model that was exported with both copies and a false flag."""

    def write(where: Path) -> Meant:
        meant = small_model(name, tie_word_embeddings=True)
        save_small(meant, where)
        head, source = tied_pair(meant)
        edit_weights(where, lambda t: t.update({head: t[source].clone()}))
        set_config(where, tie_word_embeddings=False)
        return logits_of(meant)

    return Subject(f"{name}-flattened", "TIE109", "tied", write)


def odd_flags() -> Iterator[Subject]:
    """Flags that are no truth values."""

    def odd(value: Any, tied: bool, choice: str | None, *, equal: bool = False) -> Subject:
        def write(where: Path) -> Meant:
            meant = small_model(LLAMA, tie_word_embeddings=tied)
            save_small(meant, where)
            if equal:
                edit_weights(where, lambda t: t.update({HEAD: t[SOURCE].clone()}))
            set_config(where, tie_word_embeddings=value)
            return logits_of(meant)

        return Subject(f"llama-flag-{value}-{choice}{'-equal' * equal}", "TIE112", choice, write)

    yield odd(None, True, None)
    yield odd("false", False, "untied")
    yield odd(0, True, "tied", equal=True)
    yield odd("true", True, "untied", equal=True)

    def inner_null(where: Path) -> Meant:
        run = nested_levels(True, True)(where)
        told = json.loads((where / "config.json").read_text())
        told["text_config"]["tie_word_embeddings"] = None
        (where / "config.json").write_text(json.dumps(told, indent=2) + "\n")
        return run

    yield Subject("llava-inner-null", "TIE112", None, inner_null)


def shards() -> Iterator[Subject]:
    """Shards and their index against one another."""

    def unlisted(where: Path) -> Meant:
        meant = small_model(LLAMA, tie_word_embeddings=True)
        save_small(meant, where, sharded=True)
        told = json.loads((where / INDEX).read_text())
        told["weight_map"][HEAD] = told["weight_map"][SOURCE]
        (where / INDEX).write_text(json.dumps(told, indent=2, sort_keys=True) + "\n")
        return logits_of(meant)

    yield Subject("llama-unlisted", "TIE201", None, unlisted)

    def twice(last_is_right: bool | None) -> Callable[[Path], Meant]:
        def write(where: Path) -> Meant:
            meant = small_model(LLAMA, tie_word_embeddings=True)
            save_small(meant, where, sharded=True)
            told = json.loads((where / INDEX).read_text())["weight_map"]
            files = sorted(set(told.values()))
            assert told[SOURCE] == files[0]
            right = load_file(where / files[0])[SOURCE]
            for file, mine in ((files[0], last_is_right is False), (files[-1], bool(last_is_right))):
                tensors = load_file(where / file)
                tensors[SOURCE] = right if mine or last_is_right is None else other(right)
                save_file(tensors, where / file, metadata={"format": "pt"})
            return logits_of(meant)

        return write

    def unindexed(where: Path) -> Meant:
        meant = small_model(LLAMA, tie_word_embeddings=True)
        save_small(meant, where, sharded=True)
        told = json.loads((where / INDEX).read_text())
        del told["weight_map"]["model.norm.weight"]
        (where / INDEX).write_text(json.dumps(told, indent=2, sort_keys=True) + "\n")
        return logits_of(meant)

    yield Subject("llama-unindexed", "TIE201", None, unindexed)
    first, last = "model-00001-of-00005.safetensors", "model-00005-of-00005.safetensors"
    yield Subject("llama-twice-equal", "TIE202", None, twice(None))
    yield Subject("llama-twice-last", "TIE202", last, twice(True), {"unsafe": True})
    yield Subject("llama-twice-first", "TIE202", first, twice(False), {"unsafe": True})


def formats() -> Iterator[Subject]:
    """Two formats beside one another, one of them of before a training."""

    def both(pickle_is_right: bool) -> Callable[[Path], Meant]:
        def write(where: Path) -> Meant:
            meant = small_model(LLAMA, tie_word_embeddings=True)
            save_small(meant, where)
            tensors = load_file(where / "model.safetensors")
            wrong = {**tensors, HEAD: other(tensors[SOURCE])}
            torch.save(tensors if pickle_is_right else wrong, where / "pytorch_model.bin")
            if pickle_is_right:
                save_file(wrong, where / "model.safetensors", metadata={"format": "pt"})
            return logits_of(meant)

        return write

    for right, file in ((False, "model.safetensors"), (True, "pytorch_model.bin")):
        yield Subject(f"llama-formats-{file}", "TIE203", file, both(right), {"unsafe": True})


def as_pickle(where: Path, wrap: Callable[[Tensors], Any] = lambda t: t, name: str = "pytorch_model.bin") -> None:
    """Write a directory's weights as a pickle instead."""
    torch.save(wrap(load_file(where / "model.safetensors")), where / name)
    (where / "model.safetensors").unlink()


def names() -> Iterator[Subject]:
    """Names that no loader looks for: of tensors, of files, within files."""

    def prefixed(
        prefix: str, name: str, code: str = "TIE205", *, sharded: bool = False, pickled: bool = False, **changes: Any
    ) -> Subject:
        def write(where: Path) -> Meant:
            meant = small_model(name, **changes)
            save_small(meant, where, sharded=sharded)
            for path in where.glob("*.safetensors"):
                held = {f"{prefix}{n}": t for n, t in load_file(path).items()}
                save_file(held, path, metadata={"format": "pt"})
            if sharded:
                told = json.loads((where / INDEX).read_text())
                told["weight_map"] = {f"{prefix}{n}": f for n, f in told["weight_map"].items()}
                (where / INDEX).write_text(json.dumps(told, indent=2) + "\n")
            if pickled:
                as_pickle(where)
            return logits_of(meant)

        return Subject(f"{name}-{prefix}{'-sharded' * sharded}{'-pickle' * pickled}", code, None, write)

    yield prefixed("module.", LLAMA)
    yield prefixed("_orig_mod.", "GPT2LMHeadModel", sharded=True)
    yield prefixed("module.", "BertForMaskedLM", pickled=True)
    yield prefixed("model.", LLAMA, "TIE102", sharded=True)  # untied: the head has it too
    yield prefixed("model.", "Qwen2ForCausalLM", "TIE205", tie_word_embeddings=True)

    def renamed(to: str, wrap: Callable[[Tensors], Any] | None = None) -> Subject:
        def write(where: Path) -> Meant:
            run = tied_llama(where)
            if to.endswith(".safetensors"):
                (where / "model.safetensors").rename(where / to)
            else:
                as_pickle(where, wrap or (lambda t: t), to)
            return run

        return Subject(f"llama-as-{to}{'-nested' * (wrap is not None)}", "TIE206", None, write)

    def bare(where: Path) -> Meant:
        return tied_llama(where, lambda t: t.update({"embed_tokens.weight": t.pop(SOURCE)}))

    yield Subject("llama-bare-embedding", "TIE107", None, bare)
    yield renamed("consolidated.safetensors")
    yield renamed("weights.pth")
    yield renamed("weights.ckpt", lambda t: {"state_dict": t, "epoch": 3})
    yield renamed("pytorch_model.bin", lambda t: {"state_dict": t, "epoch": 3})

    def without_format(where: Path) -> Meant:
        run = tied_llama(where)
        save_file(load_file(where / "model.safetensors"), where / "model.safetensors", metadata={"made": "by hand"})
        return run

    yield Subject("llama-no-format", "TIE206", None, without_format)


def pickled_steps() -> Iterator[Subject]:
    """Tensors of a pickle that go, get another name or a second one."""

    def write_with(edit: Callable[[Tensors], None]) -> Callable[[Path], Meant]:
        def write(where: Path) -> Meant:
            run = tied_llama(where, edit)
            as_pickle(where)
            return run

        return write

    alias = write_with(lambda t: t.update({HEAD: t.pop(SOURCE)}))
    yield Subject("llama-pickle-alias-name", "TIE111", None, alias)
    stale = write_with(lambda t: t.update({HEAD: other(t[SOURCE])}))
    yield Subject("llama-pickle-diverged", "TIE101", "tied", stale, {"unsafe": True})


def adapter_beside(where: Path) -> Meant:
    """Write a Llama, and into its directory an adapter with a head of its own."""
    import peft

    run = tied_llama(where)
    asked = peft.LoraConfig(target_modules=["q_proj"], modules_to_save=["lm_head"], task_type="CAUSAL_LM")
    with warnings.catch_warnings(action="ignore"):  # that the head is tied, which is the point
        wrapped = peft.get_peft_model(loaded(where), asked)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "modules_to_save" in name or "lora_B" in name:
                parameter.add_(1.0)
    wrapped.save_pretrained(where, save_embedding_layers=False)
    return run


def file_subjects() -> Iterator[Subject]:
    """Every subject."""
    yield from shapes()
    yield from (flattened(name) for name in (LLAMA, "Qwen2ForCausalLM", "GemmaForCausalLM", "OPTForCausalLM"))
    yield from odd_flags()
    yield from shards()
    yield from formats()
    yield from names()
    yield from pickled_steps()
    yield Subject("llama-adapter-beside", "TIE605", "apart", adapter_beside)
