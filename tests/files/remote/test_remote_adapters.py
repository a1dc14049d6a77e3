"""Adapters behind an address: judged by their headers, with a base of the hub or of this machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from peft import LoraConfig, get_peft_model
from rule_failures import llama
from safetensors.torch import load, save
from servers import Files, Hub

import tiecheck
from tiecheck.cli.main import cli

pytestmark = pytest.mark.filterwarnings("ignore")
BASE = "org/base"


@pytest.fixture
def adapter(tmp_path: Path) -> Callable[..., dict[str, bytes]]:
    def make(base: str = BASE, **options: Any) -> dict[str, bytes]:
        model = llama()
        model.save_pretrained(tmp_path / "base")
        model.name_or_path = base
        made = get_peft_model(model, LoraConfig(r=2, task_type="CAUSAL_LM", **options))
        made.save_pretrained(tmp_path / "adapter")
        return {path.name: path.read_bytes() for path in (tmp_path / "adapter").iterdir()}

    return make


def told(target: str, **options: Any) -> dict[str, str]:
    report = tiecheck.check(target, **options)
    assert not report.errors, report.errors
    assert report.targets[0].type == "adapter"
    return {f.code: f.severity for f in report.findings}


UPDATE, SAVED = (
    {"target_modules": ["q_proj", "lm_head"]},
    {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
)


@pytest.mark.parametrize(
    ("options", "found"), [(UPDATE, "TIE603"), (SAVED, "TIE601"), ({"target_modules": ["q_proj"]}, "")]
)
def test_an_adapter_on_a_web_server_is_judged_with_the_base_that_is_named(
    options: dict, found: str, adapter: Callable, serve: Callable[..., Files], tmp_path: Path
) -> None:
    files = adapter(**options)
    server = serve(files)
    codes = told(f"{server.url}/m/", base=str(tmp_path / "base"))
    assert {code for code in codes if code != "TIE604"} == ({found} if found else set())
    alone = tiecheck.check(f"{server.url}/m/").targets[0]
    assert (alone.type, alone.status) == ("adapter", "unknown")
    assert "--base" in (alone.reason or "")


def test_an_adapter_of_the_hub_has_its_base_from_the_hub(
    adapter: Callable, hub: Callable[..., Hub], tmp_path: Path
) -> None:
    files = adapter(base="org/name", **UPDATE)
    base = {path.name: path.read_bytes() for path in (tmp_path / "base").iterdir()}
    files |= {"value_head.safetensors": files["adapter_model.safetensors"], "pytorch_model.bin": b"a value head too"}
    hub({**base, **{f"lora/{name}": raw for name, raw in files.items()}})
    assert told("hf://org/name@main/lora") == {"TIE603": "warning", "TIE604": "info"}
    report = tiecheck.check("hf://org/name@main/lora", base=str(tmp_path / "base"))
    assert {f.code for f in report.findings} == {"TIE603", "TIE604"}


def test_copies_on_a_server_are_compared(adapter: Callable, serve: Callable[..., Files], tmp_path: Path) -> None:
    files = adapter(target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"])
    options = {"base": str(tmp_path / "base"), "values": "always"}
    assert told(f"{serve(files).url}/m/", **options) == {}
    tensors = load(files["adapter_model.safetensors"])
    tensors["base_model.model.lm_head.weight"][3] += 1
    address = f"{serve({**files, 'adapter_model.safetensors': save(tensors)}).url}/m/"
    assert told(address, **options) == {"TIE602": "warning"}
    assert tiecheck.check(address, base=options["base"]).targets[0].status == "unknown"  # nobody asked for the bytes


def test_what_is_no_adapter_or_broken_is_a_sentence(
    adapter: Callable, serve: Callable[..., Files], model: Callable, tmp_path: Path
) -> None:
    whole = serve(model())
    files = adapter(**UPDATE)
    lacking = serve({"adapter_config.json": files["adapter_config.json"]})
    pickled = serve({"adapter_config.json": files["adapter_config.json"], "adapter_model.bin": b"x"})
    odd = serve({**files, "adapter_config.json": b"[]"})
    for server, options, said in (
        (whole, ["--base", str(tmp_path / "base")], "--base is for adapters"),
        (lacking, [], "no weights of it"),
        (pickled, [], "pickle"),
        (odd, [], "no adapter's config"),
    ):
        out = CliRunner().invoke(cli, [f"{server.url}/m/", *options])
        assert (out.exit_code, said in " ".join(out.output.split())) == (2, True), out.output
