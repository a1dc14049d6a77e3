"""Models on a hub: revisions, tokens and where they go, the local cache, and each way to be turned away."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants
from servers import COMMIT

from tiecheck.config.options import Config
from tiecheck.errors import TargetError
from tiecheck.files.remote.hub import HubAddress, hub_address
from tiecheck.files.remote.reading import RemoteModel, read_address
from tiecheck.files.remote.store import GUESS

EMBED = "model.embed_tokens.weight"
LARGE = {EMBED: ("U8", [1, 1_000_000], bytes(1_000_000))}
TOKEN = "hf_secret"


def read(address: str, **options) -> RemoteModel:
    return read_address(address, Config(**options))


def says(address: str, **options) -> str:
    with pytest.raises(TargetError) as caught:
        read(address, **options)
    assert "\n" not in str(caught.value)
    assert TOKEN not in str(caught.value)
    return str(caught.value)


def cached(files: dict[str, bytes], repo: str = "org--name", commit: str = COMMIT, ref: str | None = "main") -> Path:
    """Put files into the cache as huggingface_hub does: links to blobs, and a ref."""
    root = Path(constants.HF_HUB_CACHE) / f"models--{repo}"
    snapshot = root / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (root / "blobs").mkdir()
    for i, (name, raw) in enumerate(files.items()):
        (root / "blobs" / f"blob{i}").write_bytes(raw)
        path = snapshot / name
        path.parent.mkdir(exist_ok=True)
        path.symlink_to(os.path.relpath(root / "blobs" / f"blob{i}", path.parent))
    if ref:
        (root / "refs").mkdir()
        (root / "refs" / ref).write_text(commit)
    return snapshot


class TestAddress:
    @pytest.mark.parametrize(
        ("text", "repo", "revision", "path"),
        [
            ("hf://org/name", "org/name", None, ""),
            ("hf://org/name/", "org/name", None, ""),
            ("hf://models/org/name", "org/name", None, ""),
            ("hf://gpt2", "gpt2", None, ""),
            ("hf://org/name@v1.0", "org/name", "v1.0", ""),
            ("hf://org/name@v1.0/sub/deep", "org/name", "v1.0", "sub/deep"),
            ("hf://org/name/sub", "org/name", None, "sub"),
            ("hf://org/name@refs/pr/1/sub", "org/name", "refs/pr/1", "sub"),
            ("hf://org/name@feature%2Fx/sub", "org/name", "feature/x", "sub"),
            ("https://huggingface.co/org/name", "org/name", None, ""),
            ("https://hf.co/org/name/tree/main/sub", "org/name", "main", "sub"),
            ("https://huggingface.co/org/name/blob/v1/a.safetensors?download=true", "org/name", "v1", "a.safetensors"),
        ],
    )
    def test_parts(self, text: str, repo: str, revision: str | None, path: str) -> None:
        assert hub_address(text) == HubAddress(repo, revision, path)

    @pytest.mark.parametrize("text", ["https://example.org/org/name", "http://huggingface.co.evil/org/name"])
    def test_elsewhere(self, text: str) -> None:
        assert hub_address(text) is None

    @pytest.mark.parametrize(
        "text",
        [
            "hf://datasets/org/name",
            "hf://org/../name",
            "hf://org/name@../x",
            "hf://org/name/a/../b",
            "hf://@x",
            "hf://a b",
        ],
    )
    def test_no_model(self, text: str) -> None:
        with pytest.raises(TargetError, match=r"names no model|is no model"):
            hub_address(text)


class TestReading:
    def test_api_config_and_the_beginning_of_the_weights(self, hub, model) -> None:
        server = hub(files := model(LARGE))
        found = read("hf://org/name")
        api = "/api/models/org/name/revision/main?expand=sha&expand=siblings"
        assert server.paths()[0] == api
        assert sorted(server.paths()[1:]) == [
            f"/org/name/resolve/{COMMIT}/config.json",
            f"/org/name/resolve/{COMMIT}/model.safetensors",
        ]
        assert server.cdn.paths() == ["/cdn/model.safetensors?signature=abc"]
        assert server.cdn.sent == GUESS
        assert found.traffic() == (server.sent + server.cdn.sent, 4)
        assert server.sent < len(files["config.json"]) + 1000
        assert found.checkpoint is not None
        assert list(found.checkpoint.names()) == [EMBED]

    def test_redirect_is_asked_for_once_a_file(self, hub, model) -> None:
        tensors = {f"model.layers.{i}.mlp.weight": ("U8", [1], b"x") for i in range(2000)}
        server = hub(model(LARGE | tensors))
        checkpoint = read("hf://org/name").checkpoint
        assert checkpoint is not None
        assert len(server.cdn.paths()) == 2
        assert len([path for path in server.paths() if path.endswith(".safetensors")]) == 1
        old = ["the signature"]
        server.cdn.fault = lambda h: bool(old) and (h.answer(403, old.pop().encode()) or True)
        tensor = checkpoint.tensor(EMBED)
        assert checkpoint.remote is not None
        assert checkpoint.remote.compare([tensor, tensor]).equal
        assert len([path for path in server.paths() if path.endswith(".safetensors")]) >= 2

    def test_token_stays_with_the_hub(self, hub, model, monkeypatch) -> None:
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        server = hub(model(LARGE), token=TOKEN)
        read("hf://org/name")
        assert {headers["authorization"] for _, headers in server.requests} == {f"Bearer {TOKEN}"}
        assert server.cdn.requests
        assert not any("authorization" in headers for _, headers in server.cdn.requests)

    def test_token_of_the_file(self, hub, model) -> None:
        Path(constants.HF_TOKEN_PATH).write_text(f"{TOKEN}\n")
        hub(model(LARGE), token=TOKEN)
        assert read("hf://org/name").checkpoint is not None

    def test_token_that_is_not_to_be_sent_by_itself(self, hub, model, monkeypatch) -> None:
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
        server = hub(model(LARGE))
        read("hf://org/name")
        assert not any("authorization" in headers for _, headers in server.requests)

    @pytest.mark.parametrize("revision", ["v1.0", "refs/pr/1", COMMIT])
    def test_revisions(self, hub, model, revision: str) -> None:
        server = hub(model(LARGE))
        assert read(f"hf://org/name@{revision}").checkpoint is not None
        assert read("hf://org/name", revision=revision).checkpoint is not None
        assert all(COMMIT in path for path in server.paths() if "/resolve/" in path)

    def test_two_revisions(self, hub, model) -> None:
        hub(model(LARGE))
        assert "names a revision, and --revision names b; give one of them" in says("hf://org/name@a", revision="b")

    def test_folder(self, hub, model) -> None:
        hub({f"sub/deep/{name}": raw for name, raw in model(LARGE).items()})
        assert read("hf://org/name/sub/deep").checkpoint is not None
        assert "there is nothing in hf://org/name/other" in says("hf://org/name/other")
        assert "no config.json, and no weights under the names that are known" in says("hf://org/name")

    def test_file(self, hub, model) -> None:
        hub({f"sub/{name}": raw for name, raw in model(LARGE).items()})
        found = read("hf://org/name@main/sub/model.safetensors")
        assert found.checkpoint is not None
        assert found.config is not None

    def test_index_names_the_shards(self, hub, model) -> None:
        files = model(LARGE)
        index = {"weight_map": {EMBED: "model-1.safetensors", "lm_head.weight": "model-2.safetensors"}}
        files["model-1.safetensors"] = files["model-2.safetensors"] = files.pop("model.safetensors")
        files["model.safetensors.index.json"] = json.dumps(index).encode()
        server = hub(files)
        found = read("hf://org/name")
        assert found.checkpoint is not None
        assert [shard.path for shard in found.checkpoint.shards] == ["model-1.safetensors", "model-2.safetensors"]
        assert len(server.cdn.requests) == 2

    def test_model_that_moved(self, hub, model) -> None:
        server = hub(model(LARGE), repo="new/name")
        route = server.fault
        server.fault = lambda h: (
            h.answer(307, b"", {"Location": h.path.replace("old/name", "new/name")}) or True
            if "old/name" in h.path
            else route(h)
        )
        assert read("hf://old/name").checkpoint is not None


class TestDenied:
    def denied(self, hub, model, status: int, headers: dict[str, str], where: str = "/api/") -> str:
        server = hub(model(LARGE))
        route = server.fault
        server.fault = lambda h: h.answer(status, b"", headers) or True if where in h.path else route(h)
        return says("hf://org/name")

    def test_no_such_model(self, hub, model) -> None:
        server = hub(model(LARGE))
        expected = f"there is no model org/other on {server.url}, or it is private and no token was given (HF_TOKEN)"
        assert says("hf://org/other") == expected

    def test_private_model_and_a_wrong_token(self, hub, model, monkeypatch) -> None:
        hub(model(LARGE), token=TOKEN)
        assert "no token was given" in says("hf://org/name")
        monkeypatch.setenv("HF_TOKEN", "hf_other")
        assert "the token does not reach it" in says("hf://org/name")

    def test_no_such_revision(self, hub, model) -> None:
        server = hub(model(LARGE))
        assert says("hf://org/name@nope") == f"org/name has no revision nope on {server.url}"

    @pytest.mark.parametrize(
        ("status", "headers", "expected"),
        [
            (403, {"X-Error-Code": "GatedRepo"}, "org/name is gated: ask for access on http"),
            (401, {"X-Error-Message": "Invalid credentials in Authorization header"}, "does not know the token"),
            (
                403,
                {"X-Error-Message": "Access to this resource is disabled."},
                "status 403: Access to this resource is",
            ),
            (429, {"Retry-After": "300"}, "is busy (429) and says to wait 300 s"),
            (200, {}, "is not valid JSON"),
        ],
    )
    def test_status_of_the_api(self, hub, model, status: int, headers: dict[str, str], expected: str) -> None:
        assert expected in self.denied(hub, model, status, headers)

    def test_gated_file_of_a_public_page(self, hub, model) -> None:
        assert "is gated" in self.denied(hub, model, 403, {"X-Error-Code": "GatedRepo"}, "/resolve/")

    def test_server_that_is_no_hub(self, hub, model) -> None:
        server = hub(model(LARGE))
        server.fault = lambda h: h.answer(200, b'{"hello": 1}') or True
        assert "does not answer as a model hub does (HF_ENDPOINT)" in says("hf://org/name")


class TestCache:
    def test_offline_and_cached(self, hub, model) -> None:
        server = hub({})
        snapshot = cached(model(LARGE))
        found = read("hf://org/name", offline=True)
        assert found.local == str(snapshot)
        assert found.traffic() == (0, 0)
        assert server.paths() == []

    def test_offline_by_the_environment(self, model, monkeypatch) -> None:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert "hf://org/name is not fetched (HF_HUB_OFFLINE), and revision main is not in" in says("hf://org/name")
        cached(model(LARGE))
        assert read("hf://org/name").local

    def test_offline_and_only_a_part_of_it(self, model) -> None:
        files = model(LARGE)
        index = {"weight_map": {EMBED: "model-1.safetensors", "x": "model-2.safetensors"}}
        files["model-1.safetensors"] = files.pop("model.safetensors")
        cached(files | {"model.safetensors.index.json": json.dumps(index).encode()})
        assert says("hf://org/name", offline=True).endswith("and the hub's cache lacks model-2.safetensors")

    def test_offline_and_no_weights(self, model) -> None:
        cached(model(None))
        assert says("hf://org/name", offline=True).endswith("and the hub's cache lacks the weights")

    def test_offline_folder_file_and_revision(self, model) -> None:
        snapshot = cached({f"sub/{name}": raw for name, raw in model(LARGE).items()}, ref="v1.0")
        assert read("hf://org/name@v1.0/sub", offline=True).local == str(snapshot / "sub")
        file = read("hf://org/name/sub/model.safetensors", offline=True, revision=COMMIT)
        assert file.local == str(snapshot / "sub" / "model.safetensors")
        assert "revision main is not in the hub's cache" in says("hf://org/name/sub", offline=True)

    def test_commit_in_the_cache_needs_no_question(self, hub, model) -> None:
        server = hub({})
        cached(model(LARGE))
        assert read(f"hf://org/name@{COMMIT}").local
        assert server.paths() == []

    def test_branch_is_asked_for_and_its_snapshot_is_used(self, hub, model) -> None:
        files = model(LARGE)
        server = hub(files)
        snapshot = cached(files)
        found = read("hf://org/name")
        assert found.local == str(snapshot)
        assert found.traffic() == (server.sent, 1)

    def test_snapshot_of_an_older_commit_is_not_used(self, hub, model) -> None:
        files = model(LARGE)
        server = hub(files)
        cached(files, commit="f" * 40)
        assert not read("hf://org/name").local
        assert server.cdn.requests

    def test_snapshot_that_lacks_a_file_is_not_used(self, hub, model) -> None:
        files = model(LARGE)
        hub(files)
        cached({"model.safetensors": files["model.safetensors"]})
        assert not read("hf://org/name").local

    def test_load_is_allowed_where_all_is_here(self, model) -> None:
        cached(model(LARGE))
        assert read("hf://org/name", offline=True, load=True).local


class TestProcess:
    """The environment as a user sets it, in a process of its own."""

    def run(self, *arguments: str, **environment: str) -> tuple[int, dict]:
        plain = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy") and not k.startswith("HF_")}
        done = subprocess.run(
            [sys.executable, "-m", "tiecheck", *arguments, "-f", "json"],
            env=plain | environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stderr == ""
        return done.returncode, json.loads(done.stdout)["targets"][0]

    def test_endpoint_token_and_cache(self, hub, model, tmp_path: Path) -> None:
        server = hub(model(LARGE, tie_word_embeddings=True), token=TOKEN)
        status, target = self.run("org/name", HF_ENDPOINT=server.url, HF_TOKEN=TOKEN, HF_HOME=str(tmp_path))
        assert target["errors"] == []
        assert status in {0, 1}
        assert target["remote"] == {"bytes": server.sent + server.cdn.sent, "requests": 4}
        assert target["target"] == "org/name"

    def test_offline_variable(self, model, tmp_path: Path) -> None:
        status, target = self.run("org/name", HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path))
        assert status == 2
        assert "is not fetched (HF_HUB_OFFLINE)" in target["errors"][0]["message"]
        cached(model(LARGE, tie_word_embeddings=True))
        status, target = self.run("org/name", HF_HUB_OFFLINE="1", HF_HUB_CACHE=constants.HF_HUB_CACHE)
        assert target["errors"] == []
        assert target["remote"] == {"bytes": 0, "requests": 0}

    def test_no_hub_at_all(self, tmp_path: Path) -> None:
        status, target = self.run("org/name", HF_ENDPOINT="http://127.0.0.1:9", HF_HOME=str(tmp_path))
        assert status == 2
        assert "no connection to 127.0.0.1" in target["errors"][0]["message"]


class TestLive:
    def test_class_is_built_from_the_config_alone(self, hub, model, tiecheck_cli) -> None:
        files = model(LARGE, num_hidden_layers=1, intermediate_size=4, num_attention_heads=1, hidden_size=2)
        server = hub(files)
        result = tiecheck_cli("hf://org/name", "--live", "-f", "json")
        target = json.loads(result.stdout)["targets"][0]
        assert "live" in target["layers"]
        assert server.cdn.sent == GUESS

    def test_code_of_its_own_is_never_fetched(self, hub, model, tiecheck_cli) -> None:
        server = hub(model(LARGE, auto_map={"AutoModelForCausalLM": "modeling_x.X"}) | {"modeling_x.py": b"1/0"})
        result = tiecheck_cli("hf://org/name", "--live", "-f", "json")
        reasons = [skip["reason"] for skip in json.loads(result.stdout)["targets"][0]["skips"]]
        assert any("is the model's own code, which is never fetched" in reason for reason in reasons)
        assert not any("modeling_x" in path for path in server.paths())
