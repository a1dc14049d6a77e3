"""Artefacts that the real tool wrote here (mlx-lm, compressed-tensors, DeepSpeed), held against their own loaders."""

from __future__ import annotations

import contextlib
import copy
import itertools
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from rule_failures import llama, set_flag

import tiecheck
from tiecheck.records.report import TargetReport
from tiecheck.tables.generate.classes import class_candidates, resolve_classes
from tiecheck.tables.generate.head_scale import tiny_config
from tiecheck.tables.generate.probe import Probe

pytestmark = pytest.mark.filterwarnings("ignore")

SIZES: dict[str, Any] = {"vocab_size": 64, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1,
                         "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 32}  # fmt: skip
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def judged(where: Path) -> TargetReport:
    (report,) = tiecheck.check(where).targets
    assert not report.errors
    return report


def mlx_packed(name: str, bits: tuple[int, int, int], where: Path, *, tied: bool) -> Path:
    """Save a class of transformers, and pack layers, embedding and head by mlx-lm, each to its bits; 0 is plain."""
    utils = pytest.importorskip("mlx_lm.utils")
    torch.manual_seed(0)
    made = getattr(transformers, name)
    made(made.config_class(**SIZES, tie_word_embeddings=tied)).save_pretrained(where / "plain")
    model, config = utils.load_model(where / "plain")
    layers, embedding, head = bits

    def asked(path: str, _module: object, *_: object) -> Any:
        own = head if "lm_head" in path else embedding if "embed_tokens" in path else layers
        return {"group_size": 64, "bits": own} if own else False

    if any(bits):
        how = {"quant_predicate": asked} if len(set(bits)) > 1 else {}
        model, config = utils.quantize_model(model, config, 64, max(bits), **how)
    (where / "packed").mkdir()
    utils.save_model(where / "packed", model)
    utils.save_config(config, where / "packed" / "config.json")
    return where / "packed"


def mlx_loads(where: Path) -> str:
    """The truth: what mlx-lm makes of a directory."""
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_lm.utils import load_model

    try:
        model, _ = load_model(where)
    except (ValueError, KeyError):
        return "crash"
    names = [name for name, _ in tree_flatten(model.parameters())]
    if any(name.startswith("lm_head.") for name in names):
        return "kept-apart"
    stored = mx.load(str(where / "model.safetensors"))
    return "head-discarded" if HEAD in stored and not mx.array_equal(stored[HEAD], stored[EMBEDDING]) else "tied"


PARTS = tuple(
    f"{module}.{part}" for module in ("lm_head", "model.embed_tokens") for part in ("weight", "scales", "biases")
)


def damaged(where: Path, draw: random.Random) -> str:
    """Change flag or members of a packed directory; what was done."""
    import mlx.core as mx

    tensors = dict(mx.load(str(where / "model.safetensors")))
    done = draw.choice(("nothing", "flag", "copy", "drop"))
    there = [name for name in PARTS if name in tensors]
    if done == "flag":
        config = json.loads((where / "config.json").read_text())
        set_flag(where, not config["tie_word_embeddings"])
    elif done == "copy":
        embedding = {name: t for name, t in tensors.items() if name.startswith("model.embed_tokens.")}
        tensors |= {name.replace("model.embed_tokens", "lm_head"): t for name, t in embedding.items()}
    elif done == "drop":
        for name in draw.sample(there, draw.randint(1, len(there))):
            del tensors[name]
    mx.save_safetensors(str(where / "model.safetensors"), tensors, {"format": "mlx"})
    return done


@pytest.mark.parametrize("seed", [*range(16), *(pytest.param(n, marks=pytest.mark.slow) for n in range(16, 120))])
def test_a_directory_of_mlx_is_told_as_mlx_lm_loads_it(seed: int, tmp_path: Path) -> None:
    draw = random.Random(seed)
    name = draw.choice(("LlamaForCausalLM", "Qwen3ForCausalLM", "Qwen2ForCausalLM"))
    bits = draw.choice((0, 4, 8))
    ends = (bits, bits) if draw.random() < 0.5 else (draw.choice((0, 4, 6)), draw.choice((0, 4, 6)))
    where = mlx_packed(name, (bits, *ends), tmp_path, tied=draw.random() < 0.5)
    done = damaged(where, draw)
    report, truth = judged(where), mlx_loads(where)
    (said,) = {view.outcome for view in report.loaders if view.loader == "mlx-lm"}
    assert said in (truth, "unknown"), (name, done)
    if done == "nothing":
        assert said == truth
        assert report.status == "pass", report.reason
        assert not report.findings
    if report.status == "pass":
        assert truth != "crash"


def mlx_classes() -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """The classes of generative models that mlx-lm has a model of, with a small config; those that build."""
    utils = pytest.importorskip("mlx_lm.utils")
    models = Path(utils.__file__).parent / "models"
    types = {path.stem for path in models.glob("*.py")} | utils.MODEL_REMAPPING.keys()
    for candidate in class_candidates():
        if candidate.model_type in types and candidate.class_name.endswith(GENERATIVE):
            with contextlib.suppress(Exception):  # some do not build by default
                model_class, config_class = resolve_classes(candidate)
                asked = Probe(model_class, config_class, {})
                yield candidate.class_name, model_class, tiny_config(asked.full, asked.config, 64, 2)


GENERATIVE = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
HEADS = ("lm_head.weight", "embed_out.weight", "proj_out.weight")


@pytest.mark.slow
def test_what_mlx_lm_writes_of_any_class_is_no_finding(tmp_path: Path) -> None:
    """By classes that it loads: plain and packed, tied and not, under the names of its own modules."""
    from mlx.utils import tree_flatten

    wrong, judged_ones = {}, 0
    for (name, model_class, small), tied in itertools.product(mlx_classes(), (True, False)):
        data = copy.deepcopy(small)
        for level in (
            data,
            *(held for key, held in data.items() if key.endswith("_config") and isinstance(held, dict)),
        ):
            level["tie_word_embeddings"] = tied
        for bits in (0, 4):
            where = tmp_path / f"{name}-{tied}-{bits}"
            try:  # mlx-lm wants other sizes of some, and keys of 4.x
                mlx_written(model_class, data, bits, where)
                model, _ = import_module("mlx_lm.utils").load_model(where / "packed")
            except (Exception, SystemExit):  # noqa: BLE001  # its OLMo ends the process without a package of its own
                break
            kept = any(
                one.endswith(tuple(f".{head}" for head in HEADS)) or one in HEADS
                for one, _ in tree_flatten(model.parameters())
            )
            report = judged(where / "packed")
            said = {view.outcome for view in report.loaders if view.loader == "mlx-lm"}
            loud = {finding.code for finding in report.findings if finding.severity != "info"} - {"TIE107"}  # SGLang
            judged_ones += 1
            if loud or not said <= {"kept-apart" if kept else "tied", "unknown"}:
                wrong[where.name] = loud, said, kept
    assert wrong == {}
    assert judged_ones > 60


def mlx_written(model_class: Any, data: dict[str, Any], bits: int, where: Path) -> None:
    """Save a model of a class, and let mlx-lm write it, packed if bits are given."""
    utils = import_module("mlx_lm.utils")
    torch.manual_seed(0)
    model_class(model_class.config_class.from_dict(copy.deepcopy(data))).save_pretrained(where / "plain")
    model, config = utils.load_model(where / "plain")
    if bits:
        model, config = utils.quantize_model(model, config, 32, bits)
    (where / "packed").mkdir()
    utils.save_model(where / "packed", model)
    utils.save_config(config, where / "packed" / "config.json")


@pytest.mark.parametrize(("tied", "ignored"), [*itertools.product((True, False), repeat=2)])
def test_compressed_tensors_are_told_as_transformers_loads_them(*, tied: bool, ignored: bool, tmp_path: Path) -> None:
    quantization = pytest.importorskip("compressed_tensors.quantization")
    from compressed_tensors.compressors import ModelCompressor

    model = llama(tied=tied)
    weights = quantization.QuantizationArgs(num_bits=4, group_size=16, strategy="group", symmetric=True)
    scheme = quantization.QuantizationScheme(targets=["Linear"], weights=weights)
    ignore, form = ["lm_head"] * ignored, "pack-quantized"
    config = quantization.QuantizationConfig(config_groups={"all": scheme}, ignore=ignore, format=form)
    quantization.apply_quantization_config(model, config)
    for module in model.modules():
        if hasattr(module, "weight_scale"):
            rows = module.weight.detach().reshape(len(module.weight), -1, 16)
            module.weight_scale.data = (rows.abs().amax(-1) / 7).clamp(min=1e-6)
    compressor = ModelCompressor.from_pretrained_model(model, quantization_format=form)
    compressor.compress_model(model)
    model.save_pretrained(tmp_path)
    compressor.update_config(tmp_path)
    report = judged(tmp_path)
    load = transformers.AutoModelForCausalLM.from_pretrained
    if tied and not ignored:  # a tied head without a weight
        with pytest.raises(AttributeError, match="weight"):
            load(tmp_path)(torch.arange(4)[None])
        assert [f.code for f in report.findings if f.severity != "info"] == ["TIE611"]
        return
    found, info = load(tmp_path, output_loading_info=True)
    assert found(torch.arange(4)[None]).logits.isfinite().all()
    assert not info["missing_keys"]
    assert report.status == ("pass" if ignored else "unknown"), (
        report.reason
    )  # a packed head of its own is not followed
    assert report.ties[0].declared is tied
    if ignored:
        assert (found.lm_head.weight is found.model.embed_tokens.weight) is tied


ZERO = """
import sys, torch, deepspeed
sys.modules["deepspeed.comm.torch"].build_shm_op = lambda: None  # an operator of shared memory, built for minutes
sys.path[:0] = [sys.argv[3]]
from rule_failures import llama
torch.manual_seed(0)
model = llama()
deepspeed.init_distributed(dist_backend="gloo")
adam = {"type": "AdamW", "params": {"lr": 1e-3, "torch_adam": True}}
config = {"train_batch_size": 1, "optimizer": adam, "zero_optimization": {"stage": int(sys.argv[1])}}
engine, *_ = deepspeed.initialize(model=model, model_parameters=list(model.parameters()), config=config)
ids = torch.arange(4)[None]
engine.backward(engine(input_ids=ids, labels=ids).loss)
engine.step()
engine.save_checkpoint(sys.argv[2])
"""


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_what_deepspeed_writes_is_named_and_its_recovery_judged(stage: int, tmp_path: Path) -> None:
    pytest.importorskip("deepspeed")
    run, support = tmp_path / "run", str(Path(__file__).parents[2] / "support")
    one = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(29700 + stage), "RANK": "0", "WORLD_SIZE": "1"}
    subprocess.run(
        [sys.executable, "-c", ZERO, str(stage), str(run), support],
        env=os.environ | one | {"LOCAL_RANK": "0", "DS_ACCELERATOR": "cpu"},
        check=True,
        capture_output=True,
        timeout=300,
    )
    (error,) = tiecheck.check(run).errors
    assert "DeepSpeed" in error.message
    assert "zero_to_fp32.py" in error.message
    from deepspeed.utils.zero_to_fp32 import convert_zero_checkpoint_to_fp32_state_dict as recover

    with pytest.raises(RuntimeError, match="share memory"):  # both names are recovered, over one memory
        recover(str(run), str(tmp_path / "safe"), safe_serialization=True)
    recover(str(run), str(tmp_path / "made"))
    config = llama().config
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(tmp_path / "made")
    report = judged(tmp_path / "made")
    model, info = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "made", output_loading_info=True)
    assert (model.lm_head.weight is model.model.embed_tokens.weight, info["missing_keys"]) == (True, set())
    assert report.status == "pass"
    assert set(report.ties[0].stored_names) == {HEAD, EMBEDDING}
