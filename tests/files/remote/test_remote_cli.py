"""Remote targets from the command line: report, exit status, and that nothing secret or weighty gets out."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from servers import Hub

import tiecheck

EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"
SCHEMA = Path(tiecheck.__file__).parent / "render" / "report.schema.json"
PAIR = {EMBED: ("F32", [4, 2], bytes(32)), HEAD: ("F32", [4, 2], bytes(range(32)))}
TIED = {EMBED: ("F32", [4, 2], bytes(range(32)))}


def target(result) -> dict:
    document = json.loads(result.stdout)
    jsonschema.validate(document, json.loads(SCHEMA.read_text()))
    return document["targets"][0]


def test_json_tells_what_was_moved(serve, model, tiecheck_cli) -> None:
    server = serve(model(TIED, tie_word_embeddings=True))
    result = tiecheck_cli(f"{server.url}/m", "-f", "json")
    assert target(result)["remote"] == {"bytes": server.sent, "requests": 2}
    assert (result.exit_code, target(result)["status"]) == (0, "pass")


def test_text_tells_it_with_v_alone(serve, model, tiecheck_cli) -> None:
    server = serve(model(TIED, tie_word_embeddings=True))
    assert f"fetched {server.sent:,}" not in tiecheck_cli(f"{server.url}/m").stdout
    server.sent = 0
    result = tiecheck_cli(f"{server.url}/m", "-v")
    assert f"fetched {server.sent:,} bytes in 2 requests" in result.stdout


def test_local_target_has_null(make_model, tiecheck_cli) -> None:
    assert target(tiecheck_cli(str(make_model(TIED)), "-f", "json"))["remote"] is None


def test_stored_copies_are_unknown_and_no_finding(serve, model, tiecheck_cli) -> None:
    server = serve(model(PAIR, tie_word_embeddings=True))
    result = tiecheck_cli(f"{server.url}/m", "-f", "json")
    found = target(result)
    assert found["ties"][0]["stored"] == "unknown"
    assert found["ties"][0]["reason"] == "the bytes are on a remote store; --values always reads them"
    assert (found["status"], found["findings"], result.exit_code) == ("unknown", [], 0)


def test_values_always_finds_the_trained_head(serve, model, tiecheck_cli) -> None:
    server = serve(model(PAIR, tie_word_embeddings=True))
    result = tiecheck_cli(f"{server.url}/m", "--values", "always", "-f", "json")
    assert [finding["code"] for finding in target(result)["findings"]] == ["TIE101"]
    assert result.exit_code == 1


def test_verdict_is_the_local_one(serve, model, make_model, tiecheck_cli) -> None:
    server = serve(model(PAIR, tie_word_embeddings=True))
    remote = target(tiecheck_cli(f"{server.url}/m", "--values", "always", "-f", "json"))
    local = target(tiecheck_cli(str(make_model(PAIR, tie_word_embeddings=True)), "-f", "json"))
    assert [f["code"] for f in remote["findings"]] == [f["code"] for f in local["findings"]]
    apart = {"reason": None, "rows_apart": None}  # over a network the first difference ends a comparison
    assert [tie | apart for tie in remote["ties"]] == [tie | apart for tie in local["ties"]]


@pytest.mark.parametrize("form", ["text", "json"])
def test_secrets_are_in_no_report(serve, model, tiecheck_cli, form: str) -> None:
    server = serve(model(TIED))
    for path in ("/m", "/none", "/m/config.json"):
        address = server.url.replace("//", "//me:hidden@") + f"{path}?signature=hidden"
        assert "hidden" not in tiecheck_cli(address, "-v", "-f", form).output
    assert "hidden" not in tiecheck_cli("https://me:hidden@host/a b", "x::https://me:hidden@host/", "-f", form).output


@pytest.mark.parametrize("arguments", [["org/name", "--offline"], ["s3://b/m", "--offline"], ["foo://b/m"]])
def test_what_cannot_be_read_is_2(tiecheck_cli, arguments: list[str], tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = tiecheck_cli(*arguments)
    assert result.exit_code == 2
    assert result.stdout.startswith("error")


def test_remote_pickle_is_2_and_says_why(serve, tiecheck_cli) -> None:
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
    server = serve({"config.json": json.dumps(config).encode(), "pytorch_model.bin": b"\x80\x02."})
    result = tiecheck_cli(f"{server.url}/m")
    assert "is a pickle, which is never read" in " ".join(result.stdout.split())
    assert server.sent < 200


def test_index_of_remote_pickles_is_no_missing_shard(serve, tiecheck_cli) -> None:
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "tie_word_embeddings": False}
    index = {"weight_map": {EMBED: "a.bin", HEAD: "b.bin"}}
    files = {"config.json": config, "pytorch_model.bin.index.json": index}
    server = serve({name: json.dumps(data).encode() for name, data in files.items()})
    found = target(tiecheck_cli(f"{server.url}/m", "-f", "json"))
    assert found["findings"] == []
    assert found["ties"][0]["stored_names"] == [HEAD, EMBED]
    assert "in a pickle on a remote store, which is never read" in found["ties"][0]["reason"]


def test_revision(hub, model, tiecheck_cli, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    server: Hub = hub(model(TIED, tie_word_embeddings=True))
    assert tiecheck_cli("org/name", "--revision", "v1.0").exit_code == 0
    assert server.paths()[0].startswith("/api/models/org/name/revision/v1.0?")
    assert tiecheck_cli("org/name", "--revision", "v2.0").exit_code == 2


def test_python_door(hub, model, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    hub(model(TIED, tie_word_embeddings=True))
    report = tiecheck.check("org/name")
    assert report.targets[0].remote is not None
    assert report.targets[0].remote.requests == 4


def test_inspect_reads_the_headers_alone(serve, model, tiecheck_cli) -> None:
    server = serve(model(PAIR, tie_word_embeddings=True))
    found = target(tiecheck_cli("inspect", f"{server.url}/m", "-f", "json"))
    assert found["remote"] == {"bytes": server.sent, "requests": 2}
    assert "fetched" in tiecheck_cli("inspect", f"{server.url}/m").stdout
