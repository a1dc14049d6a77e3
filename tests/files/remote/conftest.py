"""Servers for the tests, and models as bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from servers import Files, Hub


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No proxy between us and the loopback, and nobody's token or cache."""
    from huggingface_hub import constants

    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_OIDC_RESOURCE"):
        monkeypatch.delenv(name, raising=False)
    home = tmp_path_factory.mktemp("hf")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


@pytest.fixture
def model(make_model: Callable[..., Path]) -> Callable[..., dict[str, bytes]]:
    """A model's files as bytes: a config, and one safetensors file of the given tensors."""

    def make(tensors: dict[str, Any] | None = None, **config: Any) -> dict[str, bytes]:
        root = make_model(tensors, **config)
        return {path.name: path.read_bytes() for path in root.iterdir()}

    return make


@pytest.fixture
def serve() -> Iterator[Callable[..., Files]]:
    """Start a server of some files below `/m/`."""
    servers = []

    def start(files: dict[str, bytes], **options: Any) -> Files:
        servers.append(Files({f"/m/{name}": raw for name, raw in files.items()}, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Hub]]:
    """Start a hub of one model, and make it the one that HF_ENDPOINT names."""
    from huggingface_hub import constants

    hubs = []

    def start(files: dict[str, bytes], repo: str = "org/name", **options: Any) -> Hub:
        hubs.append(Hub(repo, files, **options))
        monkeypatch.setattr(constants, "ENDPOINT", hubs[-1].url)
        return hubs[-1]

    yield start
    for server in hubs:
        server.close()
