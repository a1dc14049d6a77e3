"""Models on a plain HTTP server: what is moved, what is refused, and one sentence for each way a server can fail."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path
from typing import Any

import pytest
import urllib3

from tiecheck.config.options import Config
from tiecheck.errors import TargetError
from tiecheck.files.remote import http, timed_answers
from tiecheck.files.remote.reading import RemoteModel, read_address
from tiecheck.files.remote.store import GUESS
from tiecheck.records.words import Unknown

EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"
SMALL = {EMBED: ("F32", [4, 2], bytes(32))}


def large(nbytes: int) -> dict[str, Any]:
    return {EMBED: ("U8", [1, nbytes], bytes(nbytes))}


def read(url: str, **options: Any) -> RemoteModel:
    return read_address(url, Config(**options))


def says(url: str, **options: Any) -> str:
    with pytest.raises(TargetError) as caught:
        read(url, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class TestTraffic:
    def test_one_request_a_file_and_64_kib_of_the_weights(self, serve, model) -> None:
        files = model(large(5_000_000), tie_word_embeddings=True)
        server = serve(files)
        found = read(f"{server.url}/m")
        assert sorted(server.paths()) == ["/m/config.json", "/m/model.safetensors"]
        assert server.sent == GUESS + len(files["config.json"])
        assert found.traffic() == (server.sent, 2)
        assert found.checkpoint is not None
        assert list(found.checkpoint.names()) == [EMBED]
        assert found.config is not None
        assert found.config.flags[0].value is True

    def test_longer_header_takes_a_second_request_for_the_rest_alone(self, serve, model) -> None:
        tensors = {f"model.layers.{i}.mlp.weight": ("U8", [1], b"x") for i in range(2000)} | large(1_000_000)
        server = serve(files := model(tensors))
        header = 8 + int.from_bytes(files["model.safetensors"][:8], "little")
        assert header > GUESS
        found = read(f"{server.url}/m/model.safetensors")
        assert server.paths().count("/m/model.safetensors") == 2
        assert server.sent == header + len(files["config.json"])
        assert found.checkpoint is not None
        assert len(list(found.checkpoint.names())) == 2001

    def test_whole_small_file_takes_one_request(self, serve, model) -> None:
        server = serve(files := model(SMALL))
        read(f"{server.url}/m")
        assert server.sent == len(files["model.safetensors"]) + len(files["config.json"])

    def test_shards_are_fetched_side_by_side_and_bounded(self, serve, model) -> None:
        one = model(large(200_000))["model.safetensors"]
        names = [f"model-{i:05}-of-00040.safetensors" for i in range(40)]
        index = {"weight_map": {f"layer.{i}": name for i, name in enumerate(names)}}
        server = serve(dict.fromkeys(names, one) | {"model.safetensors.index.json": json.dumps(index).encode()})
        server.gather(9, lambda handler: "-of-00040" in handler.path)
        found = read(f"{server.url}/m/model.safetensors.index.json")
        assert 8 < server.most <= 33
        assert found.checkpoint is not None
        assert len(found.checkpoint.shards) == 40
        assert server.sent <= 40 * (GUESS + 8 + int.from_bytes(one[:8], "little")) + 10_000

    def test_index_says_how_long_the_headers_are_at_least(self, serve, model) -> None:
        tensors = {f"model.layers.{i}.mlp.weight": ("U8", [1], b"x") for i in range(1500)} | large(1_000_000)
        files = model(tensors)
        index = json.dumps({"weight_map": dict.fromkeys(tensors, "model.safetensors")}).encode()
        server = serve({"a.safetensors.index.json": index, "model.safetensors": files["model.safetensors"]})
        header = 8 + int.from_bytes(files["model.safetensors"][:8], "little")
        assert header > GUESS
        read(f"{server.url}/m/a.safetensors.index.json")
        assert server.paths().count("/m/model.safetensors") == 1
        assert server.sent <= len(index) + header + GUESS

    def test_shard_that_is_not_there(self, serve, model) -> None:
        files = model(SMALL)
        index = {"weight_map": {EMBED: "model.safetensors", HEAD: "gone.safetensors"}}
        server = serve(files | {"x.safetensors.index.json": json.dumps(index).encode()})
        found = read(f"{server.url}/m/x.safetensors.index.json")
        assert found.checkpoint is not None
        assert found.checkpoint.missing_files == ("gone.safetensors",)

    def test_standard_names_are_tried_in_the_loaders_order(self, serve) -> None:
        server = serve({"config.json": b"{}"})
        assert read(f"{server.url}/m/").checkpoint is None
        assert [path for path in server.paths() if "config" not in path] == [
            "/m/model.safetensors",
            "/m/model.safetensors.index.json",
            "/m/pytorch_model.bin",
            "/m/pytorch_model.bin.index.json",
        ]

    def test_pickle_is_never_read(self, serve) -> None:
        server = serve({"config.json": b"{}", "pytorch_model.bin": b"\x80\x02" + bytes(1_000_000)})
        found = read(f"{server.url}/m")
        assert "is a pickle, which is never read from a remote store" in found.refused
        assert server.sent < 100
        assert "is a pickle" in says(f"{server.url}/m/pytorch_model.bin")

    def test_index_of_pickles_gives_the_names(self, serve) -> None:
        index = {"weight_map": {EMBED: "a.bin", HEAD: "b.bin"}}
        server = serve({"pytorch_model.bin.index.json": json.dumps(index).encode(), "a.bin": b"", "b.bin": b""})
        found = read(f"{server.url}/m")
        assert found.checkpoint is not None
        assert found.checkpoint.format == "pickle"
        assert set(found.checkpoint.names()) == {EMBED, HEAD}
        assert not any(path.endswith("/a.bin") for path in server.paths())

    def test_query_goes_along_and_is_not_shown(self, serve, model) -> None:
        server = serve(model(SMALL))
        read(f"{server.url}/m?sig=secret")
        assert all(path.endswith("?sig=secret") for path in server.paths())
        assert "secret" not in says(f"{server.url}/none?sig=secret")

    def test_password_is_sent_and_not_shown(self, serve, model) -> None:
        server = serve(model(SMALL))
        read(server.url.replace("//", "//me:pass@") + "/m")
        assert {headers["authorization"] for _, headers in server.requests} == {"Basic bWU6cGFzcw=="}
        assert "pass" not in says(server.url.replace("//", "//me:pass@") + "/none")

    def test_names_are_quoted(self, serve, model) -> None:
        files = model(SMALL)
        index = {"weight_map": {EMBED: "a b#c?.safetensors"}}
        server = serve(
            {"a b#c?.safetensors": files["model.safetensors"], "i.safetensors.index.json": json.dumps(index).encode()}
        )
        assert read(f"{server.url}/m/i.safetensors.index.json").checkpoint is not None


class TestFaults:
    def answer(self, serve, model, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> str:
        server = serve(model(SMALL))
        server.fault = lambda handler: "model" in handler.path and (handler.answer(status, body, headers) or True)
        return says(f"{server.url}/m/model.safetensors")

    def test_server_that_ignores_ranges_is_left_after_the_header(self, serve, model) -> None:
        server = serve(files := model(large(64_000_000)))
        whole = files["model.safetensors"]
        server.fault = lambda handler: "model" in handler.path and (handler.answer(200, whole) or True)
        found = read(f"{server.url}/m")
        assert found.checkpoint is not None
        assert found.checkpoint.shards[0].entries.keys() == {EMBED}
        assert found.traffic().bytes == GUESS + len(files["config.json"])
        time.sleep(0.1)
        assert server.sent < 16_000_000  # what fits in the buffers of the loopback, of 64 MB

    def test_tail_from_a_server_that_ignores_ranges(self, serve, model) -> None:
        tensors = {f"model.layers.{i}.mlp.weight": ("U8", [1], b"x") for i in range(2000)}
        server = serve(files := model(tensors))
        server.fault = lambda h: "model" in h.path and (h.answer(200, files["model.safetensors"]) or True)
        assert "the server ignores ranges" in says(f"{server.url}/m")

    def test_no_size_at_all(self, serve, model) -> None:
        def endless(handler: Any) -> bool:
            handler.send_response(200)
            handler.send_header("Connection", "close")
            handler.end_headers()
            handler.wfile.write(bytes(GUESS + 100))
            handler.close_connection = True
            return True

        server = serve(model(SMALL))
        server.fault = lambda handler: "model" in handler.path and endless(handler)
        assert "does not say how large the file is" in says(f"{server.url}/m/model.safetensors")

    @pytest.mark.parametrize(
        ("status", "headers", "expected"),
        [
            (401, {}, "the server wants to know who asks"),
            (403, {}, "the server forbids it"),
            (500, {}, "answers with status 500"),
            (206, {}, "does not say which range"),
            (206, {"Content-Range": "bytes 0-3/*"}, "does not say which range"),
            (206, {"Content-Range": "bytes 4-7/100"}, "another range"),
            (206, {"Content-Range": "bytes 3-0/100"}, "a range that cannot be"),
            (206, {"Content-Range": "bytes 0-3/2"}, "a range that cannot be"),
            (206, {"Content-Range": "bytes 0-99/100"}, "ends too early: 4 bytes came of 100"),
            (206, {"Content-Range": "bytes 0-3/4", "Content-Encoding": "gzip"}, "sends it compressed"),
            (416, {}, "is truncated: it has 0 bytes"),
            (404, {}, "there is no"),
            (429, {"Retry-After": "3600"}, "is busy (429) and says to wait 3600 s"),
            (302, {"Location": "ftp://x/y"}, "redirects to no HTTP address"),
            (302, {"Location": "http://[x/y"}, "redirects to no HTTP address"),
            (302, {"Location": "http://x:port/y"}, "redirects to no HTTP address"),
            (302, {}, "more than 5 redirects"),
        ],
    )
    def test_status(self, serve, model, status: int, headers: dict[str, str], expected: str) -> None:
        body = b"abcd" if status == 206 else b""
        assert expected in self.answer(serve, model, status, body, headers)

    def test_busy_server_is_asked_again_after_the_time_it_names(self, serve, model) -> None:
        server = serve(model(SMALL))
        busy = iter((True, True))  # whichever two come first: they are made side by side
        server.fault = lambda h: next(busy, False) and (h.answer(429, b"", {"Retry-After": "0"}) or True)
        found = read(f"{server.url}/m/model.safetensors")
        assert found.traffic().requests == len(server.requests) == 4

    def test_server_that_stays_busy(self, serve, model, monkeypatch) -> None:
        monkeypatch.setattr(http.time, "sleep", lambda _: None)
        assert "answers with status 503" in self.answer(serve, model, 503)

    def test_body_that_breaks_off(self, serve, model, monkeypatch) -> None:
        monkeypatch.setattr(http.time, "sleep", lambda _: None)

        def broken(handler: Any) -> bool:
            handler.send_response(206)
            handler.send_header("Content-Range", "bytes 0-999/1000")
            handler.send_header("Content-Length", "1000")
            handler.end_headers()
            handler.wfile.write(b"abc")
            handler.close_connection = True
            return True

        server = serve(model(SMALL))
        server.fault = lambda handler: "model" in handler.path and broken(handler)
        assert "ended the connection too early" in says(f"{server.url}/m/model.safetensors")
        assert server.paths().count("/m/model.safetensors") == http.TRIES

    def test_server_that_never_answers(self, serve, model, monkeypatch) -> None:
        monkeypatch.setattr(http, "TIMEOUT", urllib3.Timeout(connect=1, read=0.1))
        server = serve(model(SMALL))
        server.latency = 1.0
        assert "does not answer in time" in says(f"{server.url}/m/model.safetensors")

    def test_server_that_drips(self, serve, model, monkeypatch) -> None:
        monkeypatch.setattr(timed_answers, "ANSWER_SECONDS", 0.2)

        def drip(handler: Any) -> bool:
            handler.send_response(206)
            handler.send_header("Content-Range", "bytes 0-999/1000")
            handler.send_header("Content-Length", "1000")
            handler.end_headers()
            for _ in range(20):
                handler.wfile.write(b"x")
                time.sleep(0.05)
            handler.close_connection = True
            return True

        server = serve(model(SMALL))
        server.fault = lambda handler: "model" in handler.path and drip(handler)
        assert "does not answer in time" in says(f"{server.url}/m/model.safetensors")

    def test_nobody_listens(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        assert "no connection to 127.0.0.1: " in says(f"http://127.0.0.1:{port}/m")

    @pytest.mark.parametrize(
        "address",
        ["http://[x/m", "http://host:port/m", "http://host:99999/m", "http://host:0/m", f"http://{'x' * 300}/m"],
    )
    def test_address_that_cannot_be(self, address: str) -> None:
        assert "is no address that can be read" in says(address) or "no connection to" in says(address)

    def test_config_alone(self) -> None:
        assert "is a config alone; name its directory" in says("http://127.0.0.1:9/m/config.json")

    def test_page_instead_of_a_config(self, serve) -> None:
        assert "is not valid JSON" in says(f"{serve({'config.json': b'<html>'}).url}/m")

    def test_config_beyond_the_limit_is_not_read(self, serve) -> None:
        server = serve({"config.json": bytes(40_000_000)})
        assert "has 40,000,000 bytes, more than the 33,554,432 that are read" in says(f"{server.url}/m")

    def test_git_lfs_pointer(self, serve) -> None:
        server = serve({"model.safetensors": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"})
        assert "is a Git LFS pointer" in says(f"{server.url}/m")

    def test_empty_file(self, serve) -> None:
        assert "is truncated: it has 0 bytes" in says(f"{serve({'model.safetensors': b''}).url}/m")


class TestTls:
    @pytest.fixture
    def certificate(self, tmp_path: Path) -> str:
        """A certificate for 127.0.0.1 that nobody has signed but itself, with its key."""
        import datetime as dt
        import ipaddress

        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "loopback")])
        now = dt.datetime.now(dt.UTC)
        made = (
            x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
            .sign(key, hashes.SHA256())
        )
        path = tmp_path / "server.pem"
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
        return str(path)

    def test_certificate_that_is_not_trusted(self, serve, model, certificate: str) -> None:
        server = serve(model(SMALL), certificate=certificate)
        assert "127.0.0.1 cannot prove who it is (TLS): " in says(f"{server.url}/m")
        assert server.paths() == []

    def test_authorities_of_the_environment(self, serve, model, certificate: str, monkeypatch) -> None:
        http.manager_of.cache_clear()
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", certificate)
        try:
            assert read(f"{serve(model(SMALL), certificate=certificate).url}/m").checkpoint is not None
        finally:
            http.manager_of.cache_clear()

    def test_https_is_not_left_for_http(self, serve, model, certificate: str, monkeypatch) -> None:
        http.manager_of.cache_clear()
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", certificate)
        plain = serve(model(SMALL))
        server = serve({}, certificate=certificate)
        server.fault = lambda handler: handler.answer(302, b"", {"Location": plain.url + handler.path}) or True
        try:
            assert "redirects from https to http" in says(f"{server.url}/m/model.safetensors")
        finally:
            http.manager_of.cache_clear()
        assert plain.paths() == []


class TestProxy:
    def test_proxy_of_the_environment_is_asked(self, serve, model, monkeypatch) -> None:
        files = model(SMALL)
        proxy = serve({})
        proxy.files = {f"/m/{name}": raw for name, raw in files.items()}  # by the path of the absolute address
        monkeypatch.setenv("http_proxy", proxy.url)
        assert read("http://models.invalid/m").checkpoint is not None
        assert set(proxy.paths()) == {
            "http://models.invalid/m/config.json",
            "http://models.invalid/m/model.safetensors",
        }

    def test_hosts_without_a_proxy(self, serve, model, monkeypatch) -> None:
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        assert read(f"{serve(model(SMALL)).url}/m").checkpoint is not None


class TestOptions:
    @pytest.mark.parametrize(("option", "word"), [("load", "--load"), ("trust_remote_code", "--trust-remote-code")])
    def test_what_needs_the_model_here(self, serve, model, option: str, word: str) -> None:
        server = serve(model(SMALL))
        assert f"{word} needs the model here; download it" in says(f"{server.url}/m", **{option: True})
        assert server.paths() == []

    def test_revision_of_what_has_none(self) -> None:
        assert "--revision names a revision of one" in says("http://127.0.0.1:9/m", revision="x")

    def test_offline(self) -> None:
        assert "is not fetched (--offline)" in says("http://127.0.0.1:9/m", offline=True)


class TestValues:
    def facts(self, serve, model, head, values, *, embed=bytes(8_000_000), together=0):
        from tiecheck.facts.opening import facts_of
        from tiecheck.targets.parse import parse_target

        shape = [4, len(embed) // 16]
        server = serve(model({EMBED: ("F32", shape, embed), HEAD: ("F32", shape, head)}, tie_word_embeddings=True))
        if together:
            server.gather(together, lambda handler: handler.headers["Range"] not in {None, f"bytes=0-{GUESS - 1}"})
        facts = facts_of(parse_target(f"{server.url}/m"), Config(values=values))
        groups = facts.get("groups")
        assert not isinstance(groups, Unknown)
        return groups[0], server

    def test_bytes_are_not_read_by_default(self, serve, model) -> None:
        group, server = self.facts(serve, model, bytes(8_000_000), "auto")
        assert group.stored == "unknown"
        assert group.reason == "the bytes are on a remote store; --values always reads them"
        assert server.sent < GUESS + 1000

    def test_equal(self, serve, model) -> None:
        group, server = self.facts(serve, model, bytes(8_000_000), "always")
        assert group.stored == "copy"
        assert group.comparison.constant
        assert 16_000_000 <= server.sent < 17_000_000

    def test_equal_and_not_constant(self, serve, model) -> None:
        raw = bytes(range(250)) * 32_000
        group, _ = self.facts(serve, model, raw, "always", embed=raw)
        assert group.stored == "copy"
        assert not group.comparison.constant

    def test_different_everywhere_costs_samples(self, serve, model) -> None:
        group, server = self.facts(serve, model, b"\1" * 8_000_000, "always", together=9)
        assert group.stored == "separate"
        assert server.sent < GUESS + 8 * 2 * 4096 + 1000
        assert server.most > 8

    def test_one_byte_that_differs_is_found(self, serve, model) -> None:
        head = bytearray(8_000_000)
        head[7_654_321] = 1
        group, _ = self.facts(serve, model, bytes(head), "always")
        assert group.stored == "separate"

    def test_never(self, serve, model) -> None:
        group, _ = self.facts(serve, model, bytes(8_000_000), "never")
        assert group.reason == "the bytes were not to be read (--values never)"
