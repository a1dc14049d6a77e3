"""What people bring, each layout made by its own tool in three states, with the load of its own library.

A layout is a function from a folder and a state to what is judged and how it loads. What no tool makes here is written
by these lines in the tool's format. `damaged` is the tied one, cut off; the tests do that to each alike.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from rule_failures import set_flag
from safetensors.torch import save_file

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


def _encoder(where: Path, state: str) -> Pair:
    """A T5 encoder, one table under one name or two; a diverged one has two different ones, which are returned."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 64, "d_model": 64, "d_ff": 32, "num_layers": 1, "num_heads": 2, "d_kv": 8}
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
    return table, tensors.get("encoder.embed_tokens.weight", table)


def _embedding(model: Any) -> torch.Tensor:
    return model.get_input_embeddings().weight.detach()


def _tables(model: Any) -> Pair:
    return model.shared.weight.detach(), model.encoder.embed_tokens.weight.detach()


@layout("T5 encoder in one file", loads="transformers")
def _t5(where: Path, state: str) -> Made:
    meant = _encoder(where, state)

    def load() -> Pair:
        found, info = transformers.T5EncoderModel.from_pretrained(where, output_loading_info=True)
        assert not info["missing_keys"]
        return _tables(found)

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


NO_WORDS = {"tokenizer": None, "tokenizer_2": None}


@layout("root of diffusers, Flux", "diffusers")
def _flux(where: Path, state: str) -> Made:
    """A whole Flux: CLIP and T5 beside transformer and VAE; the states are those of its T5."""
    import diffusers

    torch.manual_seed(0)
    sizes = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    clip = transformers.CLIPTextModel(transformers.CLIPTextConfig(**sizes, num_attention_heads=2))
    vae = diffusers.AutoencoderKL(block_out_channels=(4,), norm_num_groups=2, latent_channels=1)
    transformer = diffusers.FluxTransformer2DModel(
        in_channels=4, num_layers=1, num_single_layers=0, attention_head_dim=8, num_attention_heads=1,
        joint_attention_dim=64, pooled_projection_dim=16, axes_dims_rope=(2, 2, 4), patch_size=1,
    )  # fmt: skip
    meant = _encoder(where / "t5", state)
    t5 = transformers.T5EncoderModel.from_pretrained(where / "t5")
    parts = {"text_encoder": clip, "text_encoder_2": t5, "vae": vae, "transformer": transformer}
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    diffusers.FluxPipeline(scheduler=scheduler, **NO_WORDS, **parts).save_pretrained(where / "root")
    weights = where / "root" / "text_encoder_2" / "model.safetensors"
    weights.write_bytes((where / "t5" / "model.safetensors").read_bytes())
    if state == "damaged":
        os.truncate(weights, weights.stat().st_size // 2)

    def load() -> Pair:
        return _tables(diffusers.FluxPipeline.from_pretrained(where / "root", **NO_WORDS).text_encoder_2)

    return Made(where / "root", load, meant, FIVE)


def _root(where: Path) -> Callable[[], Any]:
    """Save a root of sentence-transformers around an encoder in `where / model`; what loads its model again."""
    from sentence_transformers import SentenceTransformer, models

    words(where / "model")
    SentenceTransformer(modules=[models.Transformer(str(where / "model")), models.Pooling(64)]).save(
        str(where / "root")
    )
    stored = where / "root" / "model.safetensors"  # as whoever copies the whole checkpoint into the root leaves it
    stored.write_bytes((where / "model" / "model.safetensors").read_bytes())
    return lambda: SentenceTransformer(str(where / "root"))[0].auto_model


@layout("root of sentence-transformers", "sentence_transformers")
def _sentences(where: Path, state: str) -> Made:
    """A causal model's body as an encoder: no head is wanted, and one that is stored is not loaded."""
    _, model = saved(where / "model", state)
    load = _root(where)
    return Made(where / "root", lambda: _embedding(load()), pair(model)[0])


@layout("root of sentence-transformers, BERT", "sentence_transformers")
def _sentences_bert(where: Path, state: str) -> Made:
    """The body of a masked model whose decoder is tied, stored apart, or another."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 64, "hidden_size": 64, "intermediate_size": 16, "num_hidden_layers": 1}
    tied = state in ("tied", "damaged")
    config = transformers.BertConfig(**sizes, num_attention_heads=2, tie_word_embeddings=tied)
    model = transformers.BertForMaskedLM(config)
    model.save_pretrained(where / "model")
    set_flag(where / "model", state != "untied")
    load = _root(where)
    return Made(where / "root", lambda: _embedding(load()), pair(model)[0])


@layout("root of sentence-transformers, T5", "sentence_transformers")
def _sentences_t5(where: Path, state: str) -> Made:
    """The encoder alone, its table under one name or two; a diverged one has two different ones."""
    meant = _encoder(where / "model", state)
    load = _root(where)
    return Made(where / "root", lambda: _tables(load()), meant, FIVE)


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


NEMO = """
import sys, types
from pathlib import Path
class Quiet:
    def __init__(self, *words, **more): pass
    def __getattr__(self, name): return Quiet()
    def __call__(self, *words, **more): return Quiet()
def quiet(name):
    if name.startswith("__"): raise AttributeError(name)
    return Quiet
told = types.ModuleType("nemo.lightning.one_logger_callback")  # telemetry, which needs an older lightning
told.__getattr__ = quiet
sys.modules[told.__name__] = told
import torch
from nemo.core import ModelPT
from omegaconf import OmegaConf
class Tiny(ModelPT):
    def __init__(self, cfg, trainer=None):
        super().__init__(cfg=cfg, trainer=trainer)
        for name, tensor in torch.load(sys.argv[1]).items():
            self.register_parameter(name.replace(".", "_"), torch.nn.Parameter(tensor))
    def setup_training_data(self, config): pass
    def setup_validation_data(self, config): pass
    @classmethod
    def list_available_models(cls): return None
model = Tiny(OmegaConf.create({"name": "tiny"}))
Path(sys.argv[2]).mkdir()
model.save_to(sys.argv[2] + "/model.nemo")
"""


@layout("NeMo", "nemo", loads="torch")
def _nemo(where: Path, state: str) -> Made:
    """`ModelPT.save_to` writes it; untarred and read by torch, since NeMo restores classes of its packages alone."""
    where.mkdir(exist_ok=True)
    model, tensors = _state_dict(state)
    torch.save(tensors, where / "tensors")
    told = subprocess.run([sys.executable, "-W", "ignore", "-c", NEMO, str(where / "tensors"), str(where / "made")],
                          check=False, capture_output=True, text=True, timeout=300)  # fmt: skip
    assert told.returncode == 0, told.stderr

    def load() -> Pair:
        with tarfile.open(where / "made" / "model.nemo") as archive:
            archive.extractall(where / "found", filter="data")
        found = torch.load(where / "found" / "model_weights.ckpt", weights_only=True)
        return found[EMBEDDING.replace(".", "_")], found[HEAD.replace(".", "_")]

    return Made(where / "made", load, pair(model))


@layout("Megatron", script=True)
def _megatron(where: Path, state: str) -> Made:
    """`mp_rank_00` below an iteration, a first and last stage in one."""
    (where / "iter_0000001" / "mp_rank_00").mkdir(parents=True)
    (where / "latest_checkpointed_iteration.txt").write_text("1")
    torch.save({"model": _state_dict(state)[1]}, where / "iter_0000001/mp_rank_00/model_optim_rng.pt")
    return Made(where)


MEGATRON = """
import sys, torch, torch.distributed as dist
from megatron.core import dist_checkpointing, parallel_state
def main():
    torch.cuda.synchronize = torch.cuda.empty_cache = lambda *words: None  # it asks a GPU that is not there
    torch.cuda.current_device = lambda: "cpu"
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    parallel_state.initialize_model_parallel()
    tensors = torch.load(sys.argv[2])
    if sys.argv[1] == "load":
        tensors = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
    state = {name: dist_checkpointing.ShardedTensor.from_rank_offsets(name, one) for name, one in tensors.items()}
    if sys.argv[1] == "load":
        torch.save(dist_checkpointing.load({"model": state}, sys.argv[3])["model"], sys.argv[4])
    else:
        dist_checkpointing.save({"model": state, "iteration": 1}, sys.argv[3])
if __name__ == "__main__":
    main()
"""


@layout("Megatron, torch_dist", "megatron")
def _megatron_core(where: Path, state: str) -> Made:
    """`megatron.core.dist_checkpointing` saves and loads below an iteration, on gloo in one process."""
    (where / "run" / "iter_0000001").mkdir(parents=True)
    (where / "run" / "latest_checkpointed_iteration.txt").write_text("1")
    model, tensors = _state_dict(state)
    names = [EMBEDDING, *([HEAD] if state in ("untied", "diverged") else [])]
    torch.save({name: tensors[name] for name in names}, where / "tensors")
    (where / "script.py").write_text(MEGATRON)

    def run(what: str) -> None:
        words = [sys.executable, "-W", "ignore", "script.py", what, "tensors", "run/iter_0000001", "found"]
        told = subprocess.run(words, cwd=where, check=False, capture_output=True, text=True, timeout=300)
        assert told.returncode == 0, told.stderr

    def load() -> Pair:
        run("load")
        found = torch.load(where / "found", weights_only=True)
        return found[EMBEDDING], found.get(HEAD, found[EMBEDDING])

    run("save")
    return Made(where / "run", load, pair(model))


@layout("TensorFlow", script=True)
def _tensorflow(where: Path, state: str) -> Made:
    """The signature of HDF5 and no more, beside a config: what is in it is not looked at."""
    saved(where, state)
    (where / "model.safetensors").unlink()
    (where / "tf_model.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + state.encode() * 99)
    return Made(where)


@layout("Flax", "flax")
def _flax(where: Path, state: str) -> Made:
    """The library writes it beside a config; its own reader gives back what is there."""
    from flax import serialization

    model, tensors = _state_dict(state)
    saved(where, state)[0].joinpath("model.safetensors").unlink()
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
