"""Layouts of trainers, quantisers, engines' files and graphs, made as `brought_layouts` has it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from brought_layouts import EMBEDDING, FIVE, HEAD, IDS, Made, Pair, layout, pair, saved, tiny, whole, words
from rule_failures import set_flag

AUTO = transformers.AutoModelForCausalLM


def _trained(where: Path, state: str) -> tuple[dict[str, torch.Tensor], Pair]:
    """Save the config of a state; the tensors that a trainer's model has, and its pair."""
    path, model = saved(where, state)
    (path / "model.safetensors").unlink()
    return {name: tensor.detach() for name, tensor in model.state_dict().items()}, pair(model)


@layout("DCP", loads="torch")
def _dcp(where: Path, state: str) -> Made:
    """`torch.distributed.checkpoint` saves; what `dcp_to_torch_save` makes of it holds both names."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

    tensors, meant = _trained(where / "config", state)
    dcp.save({"model": tensors}, checkpoint_id=where / "run", no_dist=True)

    def load() -> Pair:
        dcp_to_torch_save(where / "run", where / "made.pt")
        found = torch.load(where / "made.pt", weights_only=True)["model"]
        return found[EMBEDDING], found[HEAD]

    return Made(where / "run", load, meant)


@layout("DCP by dcp_to_torch_save", loads="transformers")
def _dcp_made(where: Path, state: str) -> Made:
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

    tensors, meant = _trained(where / "made", state)
    dcp.save(tensors, checkpoint_id=where / "run", no_dist=True)
    dcp_to_torch_save(where / "run", where / "made" / "pytorch_model.bin")
    return Made(where / "made", lambda: whole(where / "made"), meant, FIVE)


@layout("FSDP, sharded", loads="accelerate")
def _fsdp_sharded(where: Path, state: str) -> Made:
    """accelerate's folder over torch's own writer, merged by accelerate."""
    import torch.distributed.checkpoint as dcp

    tensors, meant = _trained(where / "config", state)
    dcp.save(tensors, checkpoint_id=where / "run" / "pytorch_model_fsdp_0", no_dist=True)

    def load() -> Pair:
        from accelerate.utils import merge_fsdp_weights

        merge_fsdp_weights(str(where / "run" / "pytorch_model_fsdp_0"), str(where / "made"), safe_serialization=False)
        found = torch.load(where / "made" / "pytorch_model.bin", weights_only=True)
        return found[EMBEDDING], found[HEAD]

    return Made(where / "run", load, meant)


@layout("FSDP, whole", loads="transformers")
def _fsdp_whole(where: Path, state: str) -> Made:
    """The whole state dict of a model under `fully_shard`, on gloo in one process, beside its config."""
    import torch.distributed as dist
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    path, model = saved(where, state)
    (path / "model.safetensors").unlink()
    meant = tuple(one.clone() for one in pair(model))
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        fully_shard([model.model.embed_tokens, model.lm_head], mesh=mesh)
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        torch.save(get_model_state_dict(fully_shard(model, mesh=mesh), options=options), path / "pytorch_model.bin")
    finally:
        dist.destroy_process_group()
    return Made(path, lambda: whole(path), meant, FIVE)


ZERO = """
import sys, torch, deepspeed
sys.modules["deepspeed.comm.torch"].build_shm_op = lambda: None  # an operator of shared memory, built for minutes
sys.path[:0] = [sys.argv[4]]
from brought_layouts import IDS, pair, tiny
model = tiny(tied=sys.argv[3] in ("tied", "damaged"))
deepspeed.init_distributed(dist_backend="gloo")
adam = {"type": "AdamW", "params": {"lr": 1e-3, "torch_adam": True}}
config = {"train_batch_size": 1, "optimizer": adam, "zero_optimization": {"stage": int(sys.argv[1])}}
engine, *_ = deepspeed.initialize(model=model, model_parameters=list(model.parameters()), config=config)
engine.backward(engine(input_ids=IDS, labels=IDS).loss)
engine.step()
engine.save_checkpoint(sys.argv[2])
with deepspeed.zero.GatheredParameters(list(model.parameters()), enabled=sys.argv[1] == "3"):
    torch.save([one.clone() for one in pair(model)], sys.argv[2] + ".pair")
"""


def zero_run(where: Path, state: str, stage: int) -> Pair:
    """Train one step under ZERO in a process of its own, and save; embedding and head after the step."""
    one = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(29700 + os.getpid() % 200), "RANK": "0", "WORLD_SIZE": "1"}
    subprocess.run(
        [sys.executable, "-c", ZERO, str(stage), str(where), state, str(Path(__file__).parent)],
        env=os.environ | one | {"LOCAL_RANK": "0", "DS_ACCELERATOR": "cpu", "DS_BUILD_OPS": "0"},
        check=True,
        capture_output=True,
        timeout=120,
    )
    embedding, head = torch.load(f"{where}.pair", weights_only=True)
    return embedding, head


def _recovered(run: Path, made: Path) -> Pair:
    from deepspeed.utils.zero_to_fp32 import convert_zero_checkpoint_to_fp32_state_dict as recover

    recover(str(run), str(made))
    found = torch.load(made / "pytorch_model.bin", weights_only=True)
    return found[EMBEDDING], found[HEAD]


def _zero(stage: int) -> None:
    @layout(f"DeepSpeed ZeRO-{stage}", "deepspeed")
    def _(where: Path, state: str) -> Made:
        where.mkdir(exist_ok=True)
        meant = zero_run(where / "run", state, stage)
        return Made(where / "run", lambda: _recovered(where / "run", where / "made"), meant)

    @layout(f"DeepSpeed ZeRO-{stage} by zero_to_fp32", "deepspeed", loads="transformers")
    def _(where: Path, state: str) -> Made:
        _trained(where / "made", state)
        meant = zero_run(where / "run", state, stage)
        _recovered(where / "run", where / "made")
        return Made(where / "made", lambda: whole(where / "made"), meant, FIVE)


for _stage in (1, 2, 3):
    _zero(_stage)


def _generated(path: Path, near: float, **options: Any) -> Made:
    """What the plain model gives; rounding to few bits is far below the distance of another head."""
    model = AUTO.from_pretrained(path / "plain")
    meant = model.eval()(IDS).logits.detach()

    def load() -> torch.Tensor:
        found, info = AUTO.from_pretrained(path / "made", output_loading_info=True, **options)
        assert not info["missing_keys"]
        return found.eval()(IDS).logits.detach().float()

    return Made(path / "made", load, meant, FIVE, near)


def _compressed(where: Path, state: str, scheme: dict[str, Any]) -> Made:
    """llm-compressor without data; diverged has its head quantised under a flag that is set true again."""
    from llmcompressor import oneshot
    from llmcompressor.modifiers.quantization import QuantizationModifier

    saved(where / "plain", "untied" if state == "diverged" else state)
    model = AUTO.from_pretrained(where / "plain")
    ignore = ["lm_head"] if state in ("tied", "damaged") else []
    oneshot(model=model, recipe=QuantizationModifier(ignore=ignore, **scheme))
    model.save_pretrained(where / "made", save_compressed=True)
    if state == "diverged":
        set_flag(where / "made", True)
    return _generated(where, 0.2)


@layout("compressed-tensors, packed", "llmcompressor", loads="transformers")
def _packed(where: Path, state: str) -> Made:
    weights = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32}
    return _compressed(where, state, {"config_groups": {"all": {"targets": ["Linear"], "weights": weights}}})


@layout("compressed-tensors, fp8", "llmcompressor", loads="transformers")
def _fp8(where: Path, state: str) -> Made:
    return _compressed(where, state, {"targets": "Linear", "scheme": "FP8_DYNAMIC"})


def _gptqmodel(where: Path, state: str, backend: str, *, head: bool, **how: Any) -> Made:
    """gptqmodel over drawn ids; the head of an untied model may be quantised, diverged has its flag true again."""
    os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")  # on two cores it takes one, and wants two
    from gptqmodel import GPTQModel, QuantizeConfig

    path, _ = saved(where / "plain", "untied" if state == "diverged" else state)
    words(path)
    asked = QuantizeConfig(bits=4, group_size=32, lm_head=head and state in ("untied", "diverged"), **how)
    model = GPTQModel.load(str(path), asked)
    ids = [[(7 * n + m * m) % 60 for m in range(32)] for n in range(8)]
    model.quantize([{"input_ids": one, "attention_mask": [1] * 32} for one in ids], batch_size=1)
    model.save(str(where / "made"))
    if state == "diverged":
        set_flag(where / "made", True)
    meant = AUTO.from_pretrained(path).eval()(IDS).logits.detach()

    def load() -> torch.Tensor:
        found = GPTQModel.load(str(where / "made"), backend=backend, device="cpu")
        return found.model(IDS).logits.detach().float()

    return Made(where / "made", load, meant, {} if head else FIVE, near=0.3)


@layout("GPTQ", "gptqmodel")
def _gptq(where: Path, state: str) -> Made:
    return _gptqmodel(where, state, "torch", head=True)


@layout("AWQ", "gptqmodel")
def _awq(where: Path, state: str) -> Made:
    """The head stays plain: of one that is to be quantised gptqmodel 7.7 loses the zeros, and raises."""
    return _gptqmodel(where, state, "torch_awq", head=False, quant_method="awq", format="gemm")


@layout("bitsandbytes, 8 bits", "bitsandbytes", loads="transformers bitsandbytes")
def _bnb(where: Path, state: str) -> Made:
    """transformers quantises as it loads; the head is left out by default, and given where it is not tied."""
    words_ = None if state in ("tied", "damaged") else ["embed_tokens"]
    return _quantised(where, state, transformers.BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=words_))


@layout("torchao", "torchao", loads="transformers torchao")
def _torchao(where: Path, state: str) -> Made:
    """Embedding and head quantised with the rest where they are not tied."""
    from torchao.quantization import Int8WeightOnlyConfig

    ends = state in ("untied", "diverged")
    config = transformers.TorchAoConfig(Int8WeightOnlyConfig(), include_input_output_embeddings=ends)
    return _quantised(where, state, config)


def _quantised(where: Path, state: str, config: Any) -> Made:
    """A model that transformers quantised as it loaded it; diverged has its flag true again."""
    saved(where / "plain", "untied" if state == "diverged" else state)
    AUTO.from_pretrained(where / "plain", quantization_config=config, device_map="cpu").save_pretrained(where / "made")
    if state == "diverged":
        set_flag(where / "made", True)
    return _generated(where, 0.2, device_map="cpu")


@layout("MLX", "mlx_lm")
def _mlx(where: Path, state: str) -> Made:
    """`mlx_lm.convert`'s own steps; diverged has its flag true again."""
    import mlx.core as mx
    from mlx_lm import utils

    saved(where / "plain", "untied" if state == "diverged" else state)
    model, config = utils.quantize_model(*utils.load_model(where / "plain"), 32, 8)
    (where / "made").mkdir()
    utils.save_model(where / "made", model)
    utils.save_config(config, where / "made" / "config.json")
    if state == "diverged":
        set_flag(where / "made", True)
    meant = AUTO.from_pretrained(where / "plain").eval()(IDS).logits.detach()

    def load() -> torch.Tensor:
        found, _ = utils.load_model(where / "made")
        return torch.tensor(found(mx.array(IDS.numpy())).astype(mx.float32).tolist())

    return Made(where / "made", load, meant, near=0.2)


@layout("GGUF", "gguf xllamacpp", loads="xllamacpp transformers")
def _gguf(where: Path, state: str) -> Made:
    """The library writes a Llama without or with a head; held against its source, and run by llama.cpp."""
    import gguf

    model = tiny(tied=state in ("tied", "damaged"))
    model.save_pretrained(where / "source")
    embedding, head = pair(model)
    writer = gguf.GGUFWriter(where / "model.gguf", "llama")
    for add, value in (("block_count", 1), ("context_length", 64), ("embedding_length", 64), ("head_count", 2),
                       ("feed_forward_length", 64), ("head_count_kv", 2), ("layer_norm_rms_eps", 1e-6),
                       ("vocab_size", 64), ("rope_dimension_count", 32)):  # fmt: skip
        getattr(writer, f"add_{add}")(value)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(["<unk>", "<s>", "</s>", "<0x0A>", *(f"w{n}" for n in range(60))])
    writer.add_token_scores([0.0] * 64)
    writer.add_token_types([2, 3, 3, 6, *[1] * 60])
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 1)
    for name, tensor in model.state_dict().items():
        if "q_proj" in name or "k_proj" in name:  # llama.cpp turns neighbours, transformers halves
            tensor = tensor.reshape(2, 2, 16, 64).swapaxes(1, 2).reshape(64, 64)  # noqa: PLW2901
        if name not in (HEAD, EMBEDDING):
            writer.add_tensor(f"{names.get_name(name.removesuffix('.weight'))}.weight", tensor.numpy())
    writer.add_tensor("token_embd.weight", embedding.numpy())
    if state in ("untied", "diverged"):
        writer.add_tensor("output.weight", (head + 0.2 * torch.randn_like(head) * (state == "diverged")).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    def load() -> tuple[torch.Tensor, ...]:
        loaded = pair(transformers.LlamaForCausalLM.from_pretrained(where, gguf_file="model.gguf"))
        return *loaded, llama_cpp(where / "model.gguf")

    told = model(IDS).logits[0, -1].detach().log_softmax(-1)
    return Made(where / "model.gguf", load, (embedding, head, told), {"converted_from": str(where / "source")}, 1e-3)


def llama_cpp(path: Path) -> torch.Tensor:
    """Let llama.cpp run a file of 64 tokens over the ids; logarithms of what it expects next."""
    import xllamacpp

    asked = xllamacpp.CommonParams()
    asked.model.path, asked.n_ctx, asked.n_parallel, asked.cpuparams.n_threads = str(path), 64, 1, 1
    words = {"prompt": IDS[0].tolist(), "max_tokens": 1, "logprobs": 64, "temperature": 0.0}
    (answer,) = xllamacpp.Server(asked).handle_completions(words)["choices"]
    (first,) = answer["logprobs"]["content"]
    found = {one["id"]: one["logprob"] for one in first["top_logprobs"]}
    return torch.tensor([found[number] for number in range(64)])


class _Graph(torch.nn.Module):
    def __init__(self, embedding: torch.Tensor, head: torch.Tensor | None) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding.from_pretrained(embedding)
        self.head = torch.nn.Linear(64, 64, bias=False)
        self.head.weight = self.embedding.weight if head is None else torch.nn.Parameter(head)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.embedding(ids)))


@layout("ONNX", "onnx onnxruntime", loads="onnxruntime")
def _onnx(where: Path, state: str) -> Made:
    """torch exports; tied keeps the transpose in the graph, diverged folds it, so that the tie stands there twice."""
    import onnxruntime

    embedding, head = pair(tiny(tied=False))
    model = _Graph(embedding, head if state == "untied" else None).eval()
    where.mkdir(exist_ok=True)
    path, fold = where / "model.onnx", state == "diverged"
    torch.onnx.export(model, (IDS,), path, dynamo=False, do_constant_folding=fold, input_names=["ids"])

    def load() -> torch.Tensor:
        return torch.tensor(onnxruntime.InferenceSession(path).run(None, {"ids": IDS.numpy()})[0])

    return Made(path, load, model(IDS).detach(), near=1e-4)


@layout("ONNX, tables in Constant nodes", "onnx onnxruntime", loads="onnxruntime")
def _onnx_nodes(where: Path, state: str) -> Made:
    """The exported graph, each initializer made a node of the graph by the library's own helpers."""
    import onnx

    made = _onnx(where, state)
    model = onnx.load(made.target)
    nodes = [onnx.helper.make_node("Constant", [], [one.name], value=one) for one in model.graph.initializer]
    rest = list(model.graph.node)
    del model.graph.initializer[:], model.graph.node[:]
    model.graph.node.extend([*nodes, *rest])
    onnx.checker.check_model(model)
    onnx.save(model, made.target)
    return made


OPTIMUM = """
import sys
from optimum.exporters.onnx import main_export
main_export(sys.argv[1], sys.argv[2], task="text-generation-with-past", do_validation=False)
"""


@layout("optimum", "onnxruntime TIECHECK_OPTIMUM", loads="onnxruntime")
def _optimum(where: Path, state: str) -> Made:
    """optimum exports a directory, in a Python with transformers 4, which ties a diverged model first."""
    import onnxruntime

    path, _ = saved(where / "model", state)
    words(path)
    subprocess.run(
        [os.environ["TIECHECK_OPTIMUM"], "-W", "ignore", "-c", OPTIMUM, str(path), str(where / "made")],
        check=True,
        capture_output=True,
        timeout=200,
    )

    def load() -> torch.Tensor:
        session = onnxruntime.InferenceSession(where / "made" / "model.onnx")
        given = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS), "position_ids": IDS}
        feed = {one.name: given[one.name].numpy() for one in session.get_inputs() if one.name in given}
        past = {one.name: torch.zeros(1, 2, 0, 32).numpy() for one in session.get_inputs() if "past" in one.name}
        return torch.tensor(session.run(["logits"], feed | past)[0])

    model = AUTO.from_pretrained(path).eval()
    if state == "diverged":
        model.lm_head.weight = model.model.embed_tokens.weight
    return Made(where / "made", load, model(IDS).logits.detach(), near=1e-3)
