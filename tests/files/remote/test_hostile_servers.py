"""Servers that answer badly, and addresses with secrets: one sentence, soon, and nothing secret in it."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiecheck.config.options import Config
from tiecheck.errors import TargetError, without_secrets
from tiecheck.files.limits import Account, OutOfTimeError, current
from tiecheck.files.remote import http, timed_answers
from tiecheck.files.remote.http import whole_number
from tiecheck.files.remote.reading import read_address
from tiecheck.targets.parse import parse_target

FILES = {"config.json": b"{}", "model.safetensors": (2).to_bytes(8, "little") + b"{}"}


def says(url: str) -> str:
    with pytest.raises(TargetError) as caught:
        read_address(url, Config())
    assert "\n" not in str(caught.value)
    return str(caught.value)


@given(st.text(st.characters(categories=["Nd", "No", "Nl"]) | st.sampled_from("0123456789+-_ "), max_size=30))
def test_a_number_of_a_header_is_of_plain_digits(text: str) -> None:
    found = whole_number(text)
    assert (found is not None) == (0 < len(text) < 20 and set(text) <= set("0123456789"))


@pytest.mark.parametrize(
    ("value", "told"),
    [("9" * 5000, "says to wait"), ("²", "status 429"), ("nan", "status 429"), ("-5", "status 429"),
     ("20", "says to wait 20 s"),
     ("Mon, 01 Jan 9999999999 00:00:00 GMT", "status 429"), ("Mon, 01 Jan 9999 00:00:00 GMT", "says to wait")],
)  # fmt: skip
def test_whatever_a_busy_server_says_of_waiting(serve, monkeypatch, value: str, told: str) -> None:
    monkeypatch.setattr(http.time, "sleep", lambda _: None)
    server = serve(FILES)
    server.fault = lambda handler: handler.answer(429, b"", {"Retry-After": value}) or True
    assert told in says(f"{server.url}/m/model.safetensors")


def test_waits_of_one_request_count_together(serve, monkeypatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(http.time, "sleep", slept.append)
    server = serve(FILES)
    server.fault = lambda handler: handler.answer(503, b"", {"Retry-After": "10"}) or True
    assert "says to wait 10 s" in says(f"{server.url}/m/model.safetensors")
    assert slept.count(10.0) <= 2  # config and weights, once each


@pytest.mark.parametrize("part", [b"HTTP/1.1 200 OK\r\nx-a: ", b"HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\n"])
def test_a_server_that_drips_headers_or_a_body_is_left(serve, monkeypatch, part: bytes) -> None:
    monkeypatch.setattr(timed_answers, "ANSWER_SECONDS", 0.3)

    def drip(handler: Any) -> bool:
        try:
            handler.wfile.write(part)
            for _ in range(1200):  # a minute
                handler.wfile.write(b" ")
                handler.wfile.flush()
                time.sleep(0.05)
        except OSError:
            pass
        handler.close_connection = True
        return True

    server = serve(FILES)
    server.fault = drip
    begin = time.monotonic()
    assert "does not answer in time" in says(f"{server.url}/m/model.safetensors")
    assert time.monotonic() - begin < 10


def test_the_time_of_a_target_holds_for_what_is_fetched_beside(serve) -> None:
    server = serve(FILES)
    account = Account(1e-9)
    token = current.set(account)
    try:
        with pytest.raises(OutOfTimeError):
            read_address(f"{server.url}/m", Config())
    finally:
        current.reset(token)


def test_a_target_makes_so_many_requests_at_most(serve, monkeypatch) -> None:
    monkeypatch.setattr(http, "REQUESTS", 0)
    server = serve(FILES)
    assert "has taken the 0 requests it may" in says(f"{server.url}/m/model.safetensors")


@pytest.mark.parametrize(("shards", "there"), [(5000, 0), (33, 0), (33, 1), (32, 0)])
def test_an_index_of_files_of_which_none_is_there_is_given_up_soon(serve, shards: int, there: int) -> None:
    names = {f"n{i}": f"s{i:05}.safetensors" for i in range(shards)}
    files = FILES | {"model.safetensors.index.json": json.dumps({"weight_map": names}).encode()}
    files |= {f"s{i:05}.safetensors": files["model.safetensors"] for i in range(there)}
    del files["model.safetensors"]
    server = serve(files)
    if shards > 32 and not there:
        assert says(f"{server.url}/m").endswith(f"names {shards:,} files, and none of the first 32 is there")
        assert len(server.requests) < 40
    else:
        found = read_address(f"{server.url}/m", Config()).checkpoint
        assert found is not None
        assert len(found.missing_files) == shards - there


SECRET = st.text("abcXYZ0189", min_size=12, max_size=16).map(lambda text: f"S3cr{text}")


@given(
    SECRET,
    st.sampled_from(["https://u:{}@host/x", "https://u:{}@[::1]:80/x", "https://[::1]/x?token={}", "https://h/x#{}",
                     "zip://a::https://u:{}@h/x", "simplecache::s3://b/x?k={}", "a?k={}::https://h/x", "u:{}@h::zip://x",
                     "https://u:p/{}@h/x", "https://h/datasets/x?k={}", "https://huggingface.co/a/b/c/d?k={}", "hf://a/b/..?{}",
                     "https://u:{}@h:99999/x", "https://u:{}@h/a b", "://u:{}@h/x", "1x://u:{}@h/x?{}", "s3://k:{}@b/x/config.json"]),
)  # fmt: skip
def test_no_secret_of_an_address_is_printed(secret: str, form: str) -> None:
    address = form.replace("{}", secret)
    assert secret not in without_secrets(address)
    told = []
    try:
        target = parse_target(address)
        told.append(target.text)
        read_address(target.path, Config(offline=True))
    except Exception as error:  # noqa: BLE001  # whatever it is
        told += [str(error), str(getattr(error, "path", ""))]
    assert secret not in " ".join(told)
