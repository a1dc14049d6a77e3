"""Stores that fsspec reads: a real S3 API on loopback, and fsspec's own memory."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

import pytest

from tiecheck.config.options import Config
from tiecheck.errors import MissingExtraError, TargetError
from tiecheck.files.remote import s3_store
from tiecheck.files.remote.reading import RemoteModel, read_address
from tiecheck.files.remote.store import GUESS

EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"
LARGE = {EMBED: ("U8", [1, 3_000_000], bytes(3_000_000))}


def read(address: str, **options) -> RemoteModel:
    return read_address(address, Config(**options))


def says(address: str, **options) -> str:
    with pytest.raises(TargetError) as caught:
        read(address, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class Bucket:
    """A bucket of a real S3 API on loopback, whose answers are counted at the door."""

    def __init__(self, url: str) -> None:
        import boto3

        self.client = boto3.client("s3", endpoint_url=url, region_name="us-east-1")
        self.client.create_bucket(Bucket="models")
        self.asked: list[tuple[str, str, str | None]] = []
        self.sent = 0

    def put(self, files: dict[str, bytes], prefix: str = "m/") -> None:
        for name, raw in files.items():
            self.client.put_object(Bucket="models", Key=prefix + name, Body=raw)
        self.asked.clear()
        self.sent = 0


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    app = DomainDispatcherApplication(create_backend_app)
    found: list[Bucket] = []

    def counted(environ, start_response):
        asked = (environ["REQUEST_METHOD"], environ["PATH_INFO"], environ.get("HTTP_RANGE"))
        pieces = list(app(environ, start_response))
        if found:
            found[0].asked.append(asked)
            found[0].sent += sum(map(len, pieces)) if asked[0] == "GET" else 0
        return pieces

    import threading

    server = make_server("127.0.0.1", 0, counted, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    for name, value in {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_ENDPOINT_URL": url,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    s3_store._bucket.cache_clear()
    import urllib.request

    urllib.request.urlopen(urllib.request.Request(f"{url}/moto-api/reset", method="POST")).close()
    found.append(Bucket(url))
    yield found[0]
    server.shutdown()
    server.server_close()
    thread.join()


class TestS3:
    def test_listing_config_and_the_beginning_of_the_weights(self, bucket: Bucket, model) -> None:
        bucket.put(files := model(LARGE, tie_word_embeddings=True))
        found = read("s3://models/m")
        assert found.checkpoint is not None
        assert list(found.checkpoint.names()) == [EMBED]
        assert found.config is not None
        ranges = sorted(r or "" for method, path, r in bucket.asked if path.endswith(".safetensors"))
        assert ranges == [f"bytes=0-{GUESS - 1}"]
        listings = [path for _, path, _ in bucket.asked if not path.endswith((".safetensors", ".json"))]
        assert len(listings) <= 1
        assert bucket.sent < GUESS + len(files["config.json"]) + 3000
        assert found.traffic() == (bucket.sent, 3)

    def test_shards_and_a_long_header(self, bucket: Bucket, model) -> None:
        tensors = {f"model.layers.{i}.mlp.weight": ("U8", [1], b"x") for i in range(2000)} | LARGE
        raw = model(tensors)["model.safetensors"]
        index = {"weight_map": {EMBED: "a.safetensors", HEAD: "b.safetensors", "x": "gone.safetensors"}}
        bucket.put({"a.safetensors": raw, "b.safetensors": raw, "i.safetensors.index.json": json.dumps(index).encode()})
        found = read("s3://models/m/i.safetensors.index.json")
        assert found.checkpoint is not None
        assert [len(shard.entries) for shard in found.checkpoint.shards] == [2001, 2001]
        assert found.checkpoint.missing_files == ("gone.safetensors",)
        header = 8 + int.from_bytes(raw[:8], "little")
        assert bucket.sent < 2 * (header + GUESS)

    def test_values_by_ranges(self, bucket: Bucket, model) -> None:
        raw = bytes(range(256)) * 8192
        bucket.put(model({EMBED: ("U8", [8, 262_144], raw), HEAD: ("U8", [8, 262_144], raw)}))
        checkpoint = read("s3://models/m").checkpoint
        assert checkpoint is not None
        assert checkpoint.remote is not None
        tensors = [checkpoint.tensor(EMBED), checkpoint.tensor(HEAD)]
        assert checkpoint.remote.compare(tensors).equal

    def test_nothing_there(self, bucket: Bucket) -> None:
        assert says("s3://models/none").startswith("there is no s3://models/none, or it is empty")
        assert "there is no s3://models/none/model.safetensors" in says("s3://models/none/model.safetensors")

    def test_no_such_bucket(self, bucket: Bucket) -> None:
        assert "s3://other/m" in says("s3://other/m")

    def test_pickle(self, bucket: Bucket) -> None:
        bucket.put({"config.json": b"{}", "pytorch_model.bin": bytes(100_000)})
        assert "is a pickle, which is never read" in read("s3://models/m").refused
        assert not any(path.endswith(".bin") for _, path, _ in bucket.asked)


class TestMemory:
    @pytest.fixture
    def put(self):
        import fsspec

        fs = fsspec.filesystem("memory")

        def write(files: dict[str, bytes]) -> None:
            for name, raw in files.items():
                fs.pipe_file(f"/m/{name}", raw)

        yield write
        fs.store.clear()

    def test_directory_and_file(self, put, model) -> None:
        put(model(LARGE))
        for address in ("memory://m", "memory://m/", "memory://m/model.safetensors"):
            found = read(address)
            assert found.checkpoint is not None
            assert list(found.checkpoint.names()) == [EMBED]
            assert found.config is not None

    def test_empty_file(self, put) -> None:
        put({"model.safetensors": b""})
        assert "is truncated: it has 0 bytes" in says("memory://m")

    def test_config_beyond_the_limit(self, put) -> None:
        put({"config.json": bytes(34_000_000)})
        assert "has 34,000,000 bytes, more than" in says("memory://m")

    def test_file_that_shrinks_meanwhile(self, put, model, monkeypatch) -> None:
        from fsspec.implementations.memory import MemoryFileSystem

        put(model(LARGE))
        monkeypatch.setattr(MemoryFileSystem, "cat_ranges", lambda self, paths, *_, **__: [b"x" for _ in paths])
        assert "ends too early: 1 bytes came of" in says("memory://m")

    def test_whatever_a_library_raises_is_one_sentence(self, put, monkeypatch) -> None:
        from fsspec.implementations.memory import MemoryFileSystem

        def fail(*_: object, **__: object) -> None:
            raise PermissionError("no\nway")

        monkeypatch.setattr(MemoryFileSystem, "ls", fail)
        assert says("memory://m") == "memory://m cannot be read: the store forbids it (no way)"


class TestKinds:
    def test_unknown_kind(self) -> None:
        assert "foo:// is no kind of address that is known" in says("foo://x/y")

    def test_library_that_is_not_installed(self, monkeypatch) -> None:
        monkeypatch.setitem(sys.modules, "gcsfs", None)
        with pytest.raises(
            MissingExtraError, match=r"Reading gs:// addresses needs another package: pip install gcsfs"
        ):
            read("gs://bucket/m")
