"""Building and loading stay within a directory, off the hub, and within what can be built."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file

from tiecheck.errors import TargetError
from tiecheck.files.model_config import read_config
from tiecheck.live.transformers import confined as bounds
from tiecheck.live.transformers.loading import build_for_plan, build_pretrained, unbuilt_problems
from tiecheck.live.transformers.rehearse_bounds import confined
from tiecheck.records.words import Unknown

TINY = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 16,
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}
DETR = {
    "architectures": ["DetrForObjectDetection"],
    "model_type": "detr",
    "use_timm_backbone": False,
    "backbone_config": None,
    "use_pretrained_backbone": False,
}


def written(folder: Path, **data: Any) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(data))
    return str(folder)


def built(root: str, *, load: bool = False) -> Any:
    model = read_config(root)
    assert model is not None
    return build_pretrained(root, model, load=load, trust=False)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A whole Llama, and a file beside its folder that it has no business with."""
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**TINY)).save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "generation_config.json").unlink(missing_ok=True)
    (tmp_path / "outside").mkdir()
    os.rename(tmp_path / "model" / "model.safetensors", tmp_path / "outside" / "secret.safetensors")
    (tmp_path / "outside" / "other.json").write_text("{}")
    return tmp_path / "model"


def says(tiny: Path, words: str, **more: Any) -> None:
    written(tiny, **json.loads((tiny / "config.json").read_text()) | more)
    try:
        found = built(str(tiny), load=True)
    except TargetError as error:
        found = Unknown(str(error))
    assert isinstance(found, Unknown)
    assert words in found.reason


def test_load_of_what_lies_inside(tiny: Path, monkeypatch) -> None:
    os.rename(tiny.parent / "outside" / "secret.safetensors", tiny / "model.safetensors")
    found = built(str(tiny), load=True)
    assert found.lm_head.weight is found.model.embed_tokens.weight
    assert not found.lm_head.weight.is_meta
    monkeypatch.chdir(tiny.parent)
    assert not isinstance(built("model", load=True), Unknown)


def test_link_of_the_hubs_cache_is_inside(tiny: Path) -> None:
    blobs, revision = tiny.parent / "repo" / "blobs", tiny.parent / "repo" / "snapshots" / "abc"
    blobs.mkdir(parents=True)
    revision.mkdir(parents=True)
    os.rename(tiny.parent / "outside" / "secret.safetensors", blobs / "1")
    os.rename(tiny / "config.json", blobs / "2")
    (revision / "model.safetensors").symlink_to("../../blobs/1")
    (revision / "config.json").symlink_to("../../blobs/2")
    assert not isinstance(built(str(revision), load=True), Unknown)


def test_index_that_leads_out(tiny: Path) -> None:
    weight_map = {"weight_map": {"model.embed_tokens.weight": "../outside/secret.safetensors"}, "metadata": {}}
    (tiny / "evil.safetensors.index.json").write_text(json.dumps(weight_map))
    says(tiny, "outside/secret.safetensors", transformers_weights="evil.safetensors.index.json")
    os.rename(tiny / "evil.safetensors.index.json", tiny / "model.safetensors.index.json")
    says(tiny, "nothing outside is read", transformers_weights=None)


@pytest.mark.parametrize(
    "name", ["model.safetensors", "w.safetensors", "generation_config.json", "adapter_config.json"]
)
def test_link_that_leads_out(tiny: Path, name: str) -> None:
    (tiny / name).symlink_to(
        tiny.parent / "outside" / ("other.json" if name.endswith("json") else "secret.safetensors")
    )
    says(tiny, "outside the target directory, and is not read", transformers_weights="w.safetensors")


def test_pipe_does_not_block(tiny: Path) -> None:
    os.mkfifo(tiny / "generation_config.json")
    says(tiny, "is a pipe or a device")


def test_adapters_base_is_not_followed(tiny: Path) -> None:
    """PEFT's file names the model that is loaded instead, where the folder has no config of its own."""
    outside = tiny.parent / "base"
    outside.mkdir()
    save_file({"x": torch.ones(1)}, outside / "model.safetensors")
    with confined(str(tiny)) as refused, pytest.raises(OSError, match="neither fetched nor read"):
        transformers.LlamaForCausalLM.from_pretrained(str(outside), config=transformers.LlamaConfig(**TINY))
    assert str(outside / "model.safetensors") in refused[0]


@pytest.mark.parametrize("backbone", ["example/backbone", "microsoft/resnet-50"])
def test_backbone_of_the_hub_is_refused_and_named(tmp_path: Path, backbone: str) -> None:
    root = written(tmp_path / "m", **DETR, backbone=backbone)
    model = read_config(root)
    assert model is not None
    for found in (built(root), build_for_plan(root, model)):
        assert isinstance(found, Unknown)
        assert backbone in found.reason
        assert "nothing is fetched" in found.reason
    assert unbuilt_problems(root, model, trust=False) == ()


def test_backbone_of_a_path_outside_is_refused_and_named(tmp_path: Path) -> None:
    outside = written(tmp_path / "outside", architectures=["ResNetModel"], model_type="resnet")
    found = built(written(tmp_path / "m", **DETR, backbone=outside))
    assert isinstance(found, Unknown)
    assert outside in found.reason


def test_kernel_is_refused() -> None:
    from transformers.integrations import hub_kernels

    with confined(".") as refused, pytest.raises(OSError, match="kernels-community/mra"):
        hub_kernels.get_kernel("kernels-community/mra", version=1)
    assert refused == ["the kernel kernels-community/mra"]


def test_sockets_are_closed_meanwhile_and_open_again(tmp_path: Path) -> None:
    from huggingface_hub import constants

    before = socket.getaddrinfo, socket.socket.connect, constants.HF_HUB_OFFLINE, constants.HF_HUB_CACHE
    with socket.create_server(("127.0.0.1", 0)) as server:
        with confined(str(tmp_path)) as refused:
            with pytest.raises(OSError, match="neither fetched"):
                socket.create_connection(server.getsockname())
            with socket.socket() as one, pytest.raises(OSError, match="neither fetched"):
                one.connect(server.getsockname())
            with pytest.raises(OSError, match="neither fetched"):
                socket.getaddrinfo("huggingface.co", 443)
            assert constants.is_offline_mode()
        assert refused == ["127.0.0.1", "127.0.0.1", "huggingface.co"]
        socket.create_connection(server.getsockname()).close()
    assert before == (socket.getaddrinfo, socket.socket.connect, constants.HF_HUB_OFFLINE, constants.HF_HUB_CACHE)


@pytest.mark.parametrize(
    ("key", "count"),
    [
        ("num_hidden_layers", 10**7),
        ("num_labels", 10**8),
        ("n_layer", 10**9),
        ("decoder_layers", 10**5),
        ("depths", [2, 2, 10**6]),
        ("num_local_experts", 10**7),
        ("num_hidden_layers", 10**200),
        ("num_classes", 10**7),
        ("layers", 20_000),
    ],
)
def test_what_a_config_asks_for_is_refused_by_its_number(tmp_path: Path, key: str, count: Any) -> None:
    for data in ({key: count}, {"text_config": {key: count}}, {"parts": [{"a": {key: count}}]}):
        with pytest.raises(TargetError, match=f"{key} asks for .*more than the .* that are built"):
            built(written(tmp_path / "m", **TINY | data))


@pytest.mark.parametrize(
    "arguments",
    [
        {"checkpoint_path": "/etc/hostname"},
        {"cache_dir": "/tmp", "depth": 2},
        {"depth": 2, "pretrained_cfg_overlay": {"file": "/etc/hostname"}},
    ],
)
def test_files_that_timm_would_open_are_refused(arguments: dict[str, Any]) -> None:
    timm = {"architectures": ["TimmWrapperModel"], "model_type": "timm_wrapper", "architecture": "resnet18"}
    for data in (timm | {"model_args": arguments}, {"vision_config": timm | {"model_args": arguments}}):
        with pytest.raises(TargetError, match=r"model_args\.\w+ names weights for timm to load"):
            bounds.refuse_counts(data)
    with pytest.raises(TargetError, match=r"config\.json:architecture names weights"):
        bounds.refuse_counts(timm | {"architecture": "local-dir:/srv/other"})
    bounds.refuse_counts(timm | {"model_args": {"depth": 3, "features_only": True}, "_name_or_path": "/srv/here"})


def test_large_models_are_no_hostile_ones(tmp_path: Path) -> None:
    large = {
        "num_hidden_layers": 128,
        "n_routed_experts": 16_384,
        "num_labels": 500_000,
        "vocab_size": 524_288,
        "hidden_size": 16_384,
        "intermediate_size": 10**6,
        "max_position_embeddings": 10**7,
        "rope_theta": 10**9,
        "layer_rope_theta": 10**7,
        "bos_token_id": 10**8,
        "max_length": 10**20,
        "label2id": {"num_layers": 10**7},
    }
    bounds.refuse_counts(large)
    bounds.refuse_counts({"num_hidden_layers": -(10**9), "n_layer": None, "layers": "x", "num_labels": True})
    model = TINY | {name: large[name] for name in ("num_hidden_layers", "vocab_size", "hidden_size", "rope_theta")}
    found = built(written(tmp_path / "m", **model))
    assert found.lm_head.weight.shape == (524_288, 16_384)


def test_configs_of_the_library_are_no_hostile_ones() -> None:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    for name in list(CONFIG_MAPPING)[::7]:
        try:
            data = CONFIG_MAPPING[name]().to_dict()
        except Exception:  # noqa: BLE001  # one that has no defaults
            continue
        bounds.refuse_counts(json.loads(json.dumps(data, default=str)))


def test_modules_are_counted_while_they_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "MOST_MODULES", 5)
    found = built(written(tmp_path / "m", **TINY))
    assert found == Unknown("its config asks for more than the 5 modules that are built")
    torch.nn.Sequential(*[torch.nn.Linear(1, 1) for _ in range(9)])  # and not afterwards


EVERY = Path(__file__).parent / "build_every_class.py"


def reached(step: int) -> dict[str, Any]:
    """What builds of every class of transformers reached, in a process whose hub is on and has a token."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "TRANSFORMERS_"))}
    line = [sys.executable, str(EVERY), str(step)]
    done = subprocess.run(
        line, capture_output=True, text=True, check=False, env=environment | {"HF_TOKEN": "hf_secret"}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("step", [61, pytest.param(1, marks=pytest.mark.slow)])
def test_no_class_of_transformers_reaches_out_when_it_is_built(step: int) -> None:
    found = reached(step)
    assert found["sockets"] == []
    assert found["outside"] == []
    assert found["built"] > 0.8 * found["classes"]
    unnamed = {name: why for name, why in found["unbuilt"].items() if "HF_HUB_OFFLINE" in why}
    assert unnamed == {}
