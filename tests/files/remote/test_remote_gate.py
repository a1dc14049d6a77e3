"""The gate on a remote model: by its config and headers, without a byte of its weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tiecheck

MEMORY = {0: "30KB", 1: "30KB", "cpu": "1GB"}


@pytest.fixture
def llama(models: Path) -> dict[str, bytes]:
    return {name: (models / "llama-healthy-tied" / name).read_bytes() for name in ("config.json", "model.safetensors")}


def test_the_plan_is_that_of_the_downloaded_model(
    serve: Callable[..., Any], llama: dict[str, bytes], models: Path
) -> None:
    server = serve(llama)
    remote = tiecheck.check(f"{server.url}/m/", device_map="auto", max_memory=MEMORY)
    assert not remote.errors
    local = tiecheck.check(str(models / "llama-healthy-tied"), device_map="auto", max_memory=MEMORY)
    assert remote.targets[0].placement == local.targets[0].placement
    assert remote.targets[0].remote.requests == 2  # type: ignore[union-attr]  # config and header


def test_a_map_that_fails_is_told_from_afar(serve: Callable[..., Any], llama: dict[str, bytes]) -> None:
    report = tiecheck.check(f"{serve(llama).url}/m/", device_map={"model": "cpu", "lm_head": "disk"})
    assert [finding.code for finding in report.findings] == ["TIE511"]


def test_the_dtype_is_that_of_the_header_where_the_config_names_none(
    serve: Callable[..., Any], llama: dict[str, bytes]
) -> None:
    config = json.loads(llama["config.json"])
    config.pop("dtype", None)
    config.pop("torch_dtype", None)
    server = serve(llama | {"config.json": json.dumps(config).encode()})
    placement = tiecheck.check(f"{server.url}/m/", device_map="auto", max_memory=MEMORY).targets[0].placement
    assert placement is not None
    assert placement.plans[0].placed[0].nbytes == 6144
