"""What people bring, each layout made by its own tool in three states, with the load of its own library.

A layout is a function from a folder and a state to what is judged and how it loads. What no tool makes here is written
by these lines in the tool's format. `damaged` is the tied one, cut off; the tests do that to each alike.
"""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from rule_failures import set_flag
from safetensors.torch import load_file, save_file

STATES = ("tied", "untied", "diverged", "damaged")
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
SIZES: dict[str, Any] = {"vocab_size": 64, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1,
                         "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 32}  # fmt: skip
IDS = torch.arange(8)[None]
FIVE = {"judge_for": (f"transformers=={transformers.__version__}",)}
"""Judged for the one that loads it here: 4.57 leaves a diverged head out, where 5 keeps both."""

Pair = tuple[torch.Tensor, torch.Tensor]


class Made(NamedTuple):
    """One artefact."""

    target: Path
    """What is judged."""
    load: Callable[[], Any] | None = None
    """Loads it by its own library; None where that cannot be run here."""
    meant: Any = None
    """What `load` has to give, so that nothing is lost."""
    options: dict[str, Any] = {}  # noqa: RUF012
    near: float = 1e-5
    """How far what is loaded may be from what is meant, for formats that round."""


class Layout(NamedTuple):
    """A layout of the list."""

    make: Callable[[Path, str], Made]
    needs: str
    """Libraries that make or load it, or the variable naming a Python with one; empty for torch and transformers."""
    script: bool
    """True where no tool of its own wrote it."""
    loads: str
    """What loads it here; empty where nothing does."""


LAYOUTS: dict[str, Layout] = {}


def layout(name: str, needs: str = "", *, loads: str = "", script: bool = False) -> Callable[[Any], Any]:
    """Add a layout; what makes it loads it too, unless `loads` names another or a script made it."""

    def add(make: Callable[[Path, str], Made]) -> Callable[[Path, str], Made]:
        LAYOUTS[name] = Layout(make, needs, script, loads or ("" if script else needs))
        return make

    return add


def installed(names: str) -> bool:
    """Tell whether the libraries of a layout are here."""
    return all(name in os.environ if name.isupper() else find_spec(name) is not None for name in names.split())


def truth_of(made: Made) -> str:
    """What its own library makes of an artefact: `kept`, `lost`, `refused`, or `not run`."""
    if made.load is None:
        return "not run"
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        found = made.load()
    except (Exception, CheckpointException):  # noqa: BLE001  # whatever a library raises over it is a refusal
        return "refused"
    return "kept" if _near(found, made.meant, made.near) else "lost"


def _near(found: Any, meant: Any, near: float) -> bool:
    if isinstance(found, torch.Tensor):
        return found.shape == meant.shape and bool((found.float() - meant.float()).abs().max() <= near)
    return len(found) == len(meant) and all(_near(one, other, near) for one, other in zip(found, meant, strict=True))


def cut(made: Made) -> None:
    """Cut off the largest file of weights of an artefact at two thirds."""
    below = [made.target, *made.target.rglob("*")]
    files = [path for path in below if path.is_file() and path.suffix not in (".md", ".json", ".py")]
    largest = max(files, key=lambda path: path.stat().st_size)
    os.truncate(largest, largest.stat().st_size * 2 // 3)


def tiny(*, tied: bool) -> transformers.LlamaForCausalLM:
    """A Llama that does not look untrained, wide enough for blocks of 32."""
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES, tie_word_embeddings=tied)).eval()
    model.config.architectures = ["LlamaForCausalLM"]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    return model


def pair(model: Any) -> Pair:
    """Embedding and head of a model."""
    return model.get_input_embeddings().weight.detach(), model.get_output_embeddings().weight.detach()


def saved(where: Path, state: str) -> tuple[Path, transformers.LlamaForCausalLM]:
    """Save the model of a state; diverged are two tensors under a true flag."""
    model = tiny(tied=state in ("tied", "damaged"))
    model.save_pretrained(where)
    set_flag(where, state != "untied")
    return where, model


def words(where: Path) -> None:
    """Save a tokenizer of as many words."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    made = Tokenizer(models.WordLevel({f"w{n}": n for n in range(62)} | {"[UNK]": 62, "[PAD]": 63}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    tokens = {"unk_token": "[UNK]", "pad_token": "[PAD]", "bos_token": "w1", "eos_token": "w2"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=made, **tokens).save_pretrained(where)


def whole(where: Path) -> Pair:
    """Load a directory by transformers; a member that is random is a loss, and raises."""
    model, info = transformers.AutoModelForCausalLM.from_pretrained(where, output_loading_info=True)
    if info["missing_keys"] or info["unexpected_keys"]:
        raise KeyError(info)
    return pair(model)


def _state_dict(state: str) -> tuple[Any, dict[str, torch.Tensor]]:
    model = tiny(tied=state in ("tied", "damaged"))
    return model, {name: tensor.clone() for name, tensor in model.state_dict().items()}


@layout("PEFT", "peft")
def _peft(where: Path, state: str) -> Made:
    """LoRA on the attention; on the head of an untied base; on the tied head alone."""
    from peft import LoraConfig, PeftModel, get_peft_model

    base = tiny(tied=state != "untied")
    base.save_pretrained(where / "base")
    config = LoraConfig(r=2, target_modules=["q_proj"] if state in ("tied", "damaged") else ["lm_head"])
    adapted = get_peft_model(transformers.AutoModelForCausalLM.from_pretrained(where / "base"), config).eval()
    for name, parameter in adapted.named_parameters():
        parameter.data += 0.3 * ("lora_B" in name)
    adapted.save_pretrained(where / "adapter")
    logits = adapted(input_ids=IDS).logits.detach()

    def merged() -> torch.Tensor:
        model = transformers.AutoModelForCausalLM.from_pretrained(where / "base")
        made = PeftModel.from_pretrained(model, where / "adapter").merge_and_unload()
        return made.eval()(input_ids=IDS).logits.detach()

    return Made(where / "adapter", merged, logits, {"base": str(where / "base")}, 1e-3)


@layout("EAGLE 1 and 2", script=True)
def _eagle(where: Path, state: str) -> Made:
    """Embedding and head borrowed; a diverged one is stale. No engine is run here."""
    target, model = saved(where / "target", "untied" if state == "untied" else "tied")
    embedding, head = pair(model)
    config = {**model.config.to_dict(), "architectures": ["LlamaForCausalLMEagle"]}
    tensors = {"embed_tokens.weight": embedding + (0.1 if state == "diverged" else 0), "lm_head.weight": head}
    return Made(_draft(where / "draft", config, tensors), None, None, {"drafts_for": str(target)})


def _draft(where: Path, config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Path:
    where.mkdir(parents=True)
    (where / "config.json").write_text(json.dumps(config))
    more = {"fc.weight": torch.ones(64, 128)}
    save_file({n: t.contiguous().clone() for n, t in (tensors | more).items()}, where / "model.safetensors")
    return where


@layout("EAGLE 3", script=True)
def _eagle3(where: Path, state: str) -> Made:
    """A head of its own; a diverged one has lost the map of its reduced vocabulary."""
    model = tiny(tied=False)
    embedding, head = pair(model)
    rows = 64 if state in ("tied", "damaged") else 32
    config = {**model.config.to_dict(), "architectures": ["LlamaForCausalLMEagle3"], "draft_vocab_size": rows}
    tensors = {"embed_tokens.weight": embedding, "lm_head.weight": head[:rows]}
    if state == "untied":
        tensors["d2t"] = torch.arange(rows)
    return Made(_draft(where / "draft", config, tensors))


@layout("Medusa", script=True)
def _medusa(where: Path, state: str) -> Made:
    """Heads in a pickle; a diverged one has lost a head of three."""
    where.mkdir(exist_ok=True)
    heads = {f"{n}.{m}.weight": torch.randn(64, 64) for n in range(3 - (state == "diverged")) for m in (0, 1)}
    heads = {name.replace(".0.weight", ".0.linear.weight"): tensor for name, tensor in heads.items()}
    (where / "config.json").write_text(json.dumps({"medusa_num_heads": 3, "medusa_num_layers": 1}))
    torch.save(heads, where / "medusa_lm_head.pt")
    return Made(where)


@layout("MTP", script=True)
def _mtp(where: Path, state: str) -> Made:
    """A draft layer with embedding and head once more; a diverged copy of the head is stale."""
    path, model = saved(where / "model", "untied" if state == "untied" else "tied")
    embedding, head = pair(model)
    config = json.loads((path / "config.json").read_text()) | {"num_nextn_predict_layers": 1}
    (path / "config.json").write_text(json.dumps(config))
    stale = head + (0.1 if state == "diverged" else 0)
    more = {"model.layers.1.embed_tokens.weight": embedding, "model.layers.1.shared_head.head.weight": stale}
    tensors = load_file(path / "model.safetensors") | {name: tensor.clone() for name, tensor in more.items()}
    save_file(tensors, path / "model.safetensors", {"format": "pt"})
    return Made(path)


@layout("consolidated with params.json", script=True)
def _consolidated(where: Path, state: str) -> Made:
    where.mkdir(exist_ok=True)
    model, _ = _state_dict("untied")
    embedding, head = pair(model)
    tensors = {"tok_embeddings.weight": embedding.clone(), "norm.weight": torch.ones(64)}
    if state in ("untied", "diverged"):
        tensors["output.weight"] = head.clone()
    save_file(tensors, where / "consolidated.safetensors")
    params = {"dim": 64, "n_layers": 1, "vocab_size": 64, "tied_embeddings": state != "untied"}
    (where / "params.json").write_text(json.dumps(params))
    return Made(where)


@layout("T5 encoder in one file", loads="transformers")
def _t5(where: Path, state: str) -> Made:
    """The encoder of a T5, one table under one name or two; a diverged one has two different ones."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 64, "d_model": 16, "d_ff": 32, "num_layers": 1, "num_heads": 2, "d_kv": 8}
    model = transformers.T5EncoderModel(transformers.T5Config(**sizes)).eval()
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    if state in ("tied", "damaged"):
        del tensors["encoder.embed_tokens.weight"]
    elif state == "diverged":
        tensors["encoder.embed_tokens.weight"] += 0.1
    model.config.architectures = ["T5EncoderModel"]
    model.config.save_pretrained(where)
    save_file(tensors, where / "model.safetensors", {"format": "pt"})
    table = tensors["shared.weight"]

    def load() -> Pair:
        found, info = transformers.T5EncoderModel.from_pretrained(where, output_loading_info=True)
        assert not info["missing_keys"]
        return found.shared.weight.detach(), found.encoder.embed_tokens.weight.detach()

    meant = table, tensors.get("encoder.embed_tokens.weight", table)
    return Made(where, load, meant, FIVE)


@layout("text encoder in one file without a config", script=True)
def _lone(where: Path, state: str) -> Made:
    """A text model as ComfyUI keeps it, in a file alone: without a config nobody says what is tied."""
    where.mkdir(exist_ok=True)
    _, tensors = _state_dict(state)
    if state in ("tied", "damaged"):
        del tensors[HEAD]
    save_file(tensors, where / "qwen_2.5_vl_7b.safetensors")
    return Made(where / "qwen_2.5_vl_7b.safetensors")


@layout("root of diffusers", "diffusers")
def _diffusers(where: Path, state: str) -> Made:
    """A pipeline of a text model alone; its own library saves and loads the root."""
    import diffusers

    class Pipe(diffusers.DiffusionPipeline):  # type: ignore[misc]  # without types
        def __init__(self, text_encoder: Any) -> None:
            super().__init__()
            self.register_modules(text_encoder=text_encoder)

    model = tiny(tied=state in ("tied", "damaged"))
    Pipe(model).save_pretrained(where)
    set_flag(where / "text_encoder", state != "untied")
    return Made(where, lambda: pair(Pipe.from_pretrained(where).text_encoder), pair(model), FIVE)


@layout("root of sentence-transformers", "sentence_transformers")
def _sentences(where: Path, state: str) -> Made:
    """A causal model's body as an encoder: no head is wanted, and one that is stored is not loaded."""
    from sentence_transformers import SentenceTransformer, models

    path, model = saved(where / "model", state)
    words(path)
    made = SentenceTransformer(modules=[models.Transformer(str(path)), models.Pooling(64)])
    made.save(str(where / "root"))
    if state in ("untied", "diverged"):  # as whoever copies the whole checkpoint into the root leaves it
        (where / "root" / "model.safetensors").write_bytes((path / "model.safetensors").read_bytes())

    def load() -> torch.Tensor:
        found = SentenceTransformer(str(where / "root"))[0].auto_model
        return found.get_input_embeddings().weight.detach()

    return Made(where / "root", load, pair(model)[0])


@layout("Whisper's .pt", "whisper")
def _whisper(where: Path, state: str) -> Made:
    """One table by construction; the library refuses a second one, equal (untied) or another (diverged)."""
    import whisper

    dims = {"n_mels": 80, "n_audio_ctx": 4, "n_audio_state": 8, "n_audio_head": 2, "n_audio_layer": 1, "n_vocab": 51865,
            "n_text_ctx": 8, "n_text_state": 8, "n_text_head": 2, "n_text_layer": 1}  # fmt: skip
    torch.manual_seed(0)
    model = whisper.model.Whisper(whisper.model.ModelDimensions(**dims))
    tensors, table = model.state_dict(), model.decoder.token_embedding.weight.detach()
    if state in ("untied", "diverged"):
        tensors["decoder.proj_out.weight"] = table + (state == "diverged")
    where.mkdir(exist_ok=True)
    torch.save({"dims": dims, "model_state_dict": tensors}, where / "tiny.pt")

    def load() -> torch.Tensor:
        return whisper.load_model(str(where / "tiny.pt"), device="cpu").decoder.token_embedding.weight.detach()

    return Made(where / "tiny.pt", load, table)


@layout("NeMo", script=True)
def _nemo(where: Path, state: str) -> Made:
    where.mkdir(exist_ok=True)
    torch.save(_state_dict(state)[1], where / "model_weights.ckpt")
    with tarfile.open(where / "model.nemo", "w") as archive:
        archive.add(where / "model_weights.ckpt", "model_weights.ckpt")
    (where / "model_weights.ckpt").unlink()
    return Made(where)


@layout("Megatron", script=True)
def _megatron(where: Path, state: str) -> Made:
    """`mp_rank_00` below an iteration, a first and last stage in one."""
    (where / "iter_0000001" / "mp_rank_00").mkdir(parents=True)
    (where / "latest_checkpointed_iteration.txt").write_text("1")
    torch.save({"model": _state_dict(state)[1]}, where / "iter_0000001/mp_rank_00/model_optim_rng.pt")
    return Made(where)


@layout("TensorFlow", script=True)
def _tensorflow(where: Path, state: str) -> Made:
    """The signature of HDF5 and no more: what is in it is not looked at."""
    where.mkdir(exist_ok=True)
    (where / "tf_model.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + state.encode() * 99)
    return Made(where)


@layout("Flax", "flax")
def _flax(where: Path, state: str) -> Made:
    """The library writes it; its own reader gives back what is there."""
    from flax import serialization

    model, tensors = _state_dict(state)
    where.mkdir(exist_ok=True)
    (where / "flax_model.msgpack").write_bytes(serialization.to_bytes({n: t.numpy() for n, t in tensors.items()}))

    def load() -> Pair:
        found = serialization.msgpack_restore((where / "flax_model.msgpack").read_bytes())
        return torch.tensor(found[EMBEDDING]), torch.tensor(found[HEAD])

    return Made(where, load, pair(model))


@layout("CTranslate2", "ctranslate2")
def _ctranslate2(where: Path, state: str) -> Made:
    """Its converter writes it, its generator gives the logits that the model gave."""
    import ctranslate2
    import numpy as np

    path, model = saved(where / "model", state)
    words(path)
    ctranslate2.converters.TransformersConverter(str(path)).convert(str(where / "made"))

    def load() -> torch.Tensor:
        found = ctranslate2.Generator(str(where / "made")).forward_batch([IDS[0].tolist()])
        return torch.tensor(np.array(found))

    return Made(where / "made", load, model(IDS).logits.detach(), near=1e-3)
