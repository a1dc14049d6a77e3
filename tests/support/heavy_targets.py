"""Targets that are huge, or much work, a generator a kind, with what is due for each; without torch."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

from hostile_targets import LLAMA, Due, Kind, Sound, archive, one_tensor, pickled, placed, safetensors, with_entry
from pickles import metadata, text

HEAVY: dict[str, Kind] = {}


def heavy(make: Kind) -> Kind:
    HEAVY[make.__name__] = make
    return make


MANY = b"\x80\x02" + b"N0" * 2_499_990 + b"}."
"""Five million operations, and nothing else."""


def deflated(raw: bytes, name: str = "data.pkl") -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as made:
        for entry, content in ((name, raw), ("version", b"3\n"), ("byteorder", b"little")):
            made.writestr(f"archive/{entry}", content)
    return out.getvalue()


@heavy
def dense_json(root: Path) -> Iterator[tuple[str, Due]]:
    head, many = {"model.safetensors": one_tensor()}, b"{}," * 33_000_000
    says = "more than the|values in its headers and configs|bytes of"
    placed(root, "header", **{"model.safetensors": safetensors(b'{"a":[' + many[:-30] + b"{}]}")})
    yield "header", Due("error", says)
    entry = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":['
    placed(root, "extra", **{"model.safetensors": safetensors(entry + many[:-120] + b"{}]}}", bytes(4))})
    yield "extra", Due("error", says)
    index = b'{"weight_map":{"a":"model.safetensors"},"metadata":[' + many + many + b"{}]}"
    placed(root, "index", **head, **{"model.safetensors.index.json": index})
    yield "index", Due("pass|unknown")  # model.safetensors comes first
    placed(root, "list", **{"model.safetensors.index.json": b"[[" + many.replace(b"{}", b"[]") + b"[]]]"})
    yield "list", Due("error", says)
    config = b'{"architectures":["LlamaForCausalLM"],"x":[' + many[: 30 << 20] + b"{}]}"
    placed(root, "config", **head)
    (root / "config" / "config.json").write_bytes(config)
    yield "config", Due("error|unknown", says)


@heavy
def one_file_under_many_names(root: Path) -> Iterator[tuple[str, Due]]:
    entries = {f"t{i}": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for i in range(100_000)}
    for count in (25, 400):
        index = {"weight_map": {f"n{i}": "./" * i + "m.safetensors" for i in range(1, count + 1)}}
        placed(root, f"names-{count}", **{"m.safetensors": safetensors(entries), "model.safetensors.index.json": index})
        yield f"names-{count}", Due("fail|error|unknown")


@heavy
def many_operations(root: Path) -> Iterator[tuple[str, Due]]:
    big, model = deflated(MANY), {"model.safetensors": one_tensor()}
    placed(root, "one", **model, **{"optimizer.bin": big})
    placed(root, "thirty", **model, **{f"optimizer_{i}.bin": big for i in range(30)})
    index = {"weight_map": {f"n{i}": "./" * i + "x.bin" for i in range(1, 60)}}
    placed(root, "sixty", **model, **{"x.bin": big, "pytorch_model.bin.index.json": index})
    placed(root, "parts", **model, **{".metadata": pickled(metadata(Sound("a"))), "__0_0.distcp": big})
    for name in ("one", "thirty", "sixty", "parts"):
        yield name, Due("pass|unknown|fail")


@heavy
def nested_or_inflated(root: Path) -> Iterator[tuple[str, Due]]:
    lists = [b"]" * 1_000_000 + b"a" * 999_999]
    placed(root, "lists", **{"pytorch_model.bin": archive(with_entry([text("x")], lists))})
    tuples = [b")" + b"\x85" * 2_000_000]
    placed(root, "tuples", **{"pytorch_model.bin": archive(with_entry([text("x")], tuples))})
    for name in ("lists", "tuples"):
        yield name, Due("pass|unknown|fail|error")
    placed(root, "bomb", **{"pytorch_model.bin": deflated(b"\x80\x02" + b"N0" * (100 << 20) + b"}.")})
    yield "bomb", Due("error", "bytes that are read")
    placed(root, "metadata", **{"model.safetensors": one_tensor(), ".metadata": b"state." * 10_000_000})
    yield "metadata", Due("pass|unknown|fail", "no pickle|bytes that are read")


DETR = {"architectures": ["DetrForObjectDetection"], "model_type": "detr", "use_timm_backbone": False,
        "backbone_config": None, "use_pretrained_backbone": False}  # fmt: skip


@heavy
def configs_that_ask_for_much(root: Path) -> Iterator[tuple[str, Due]]:
    live = {"options": ("--live",), "builds": True}
    placed(root, "labels", **{"config.json": LLAMA | {"num_labels": 10**8}})
    yield "labels", Due("error", "num_labels asks for 100,000,000", **live)
    placed(root, "layers", **{"config.json": LLAMA | {"num_hidden_layers": 10**7}})
    yield "layers", Due("error", "num_hidden_layers asks for 10,000,000", **live)
    placed(root, "backbone", **{"config.json": DETR | {"backbone": "example/backbone"}})
    yield "backbone", Due("error", "example/backbone.*nothing is fetched", **live)
    placed(root, "elsewhere", **{"config.json": {"architectures": ["ResNetModel"], "model_type": "resnet"}})
    placed(root, "path", **{"config.json": DETR | {"backbone": str(root / "elsewhere")}})
    yield "path", Due("error", "elsewhere.*nothing is fetched", **live)
