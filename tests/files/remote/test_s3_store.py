"""S3 by its own API, against a server that holds each signature against AWS's description of it."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterator
from urllib.parse import parse_qsl, quote, urlsplit

import pytest
from servers import Files, Handler

from tiecheck.config.options import Config
from tiecheck.errors import TargetError
from tiecheck.files.remote import s3_store
from tiecheck.files.remote.reading import read_address
from tiecheck.files.remote.store import ByteRange, Start

SECRET, TOKEN = "s3cr3t/key", "t0ken=="
ODD = ["a b+c.json", "ü%41~(1)'*.json", "x&y=z;é.json", "tab\there.json", "日本.json"]


def signature(handler: Handler) -> str:
    """Signature Version 4 of a request as it came, by the words of AWS's page on it."""
    told = handler.headers["authorization"]
    fields = dict(part.strip().split("=", 1) for part in told.partition(" ")[2].split(","))
    _, date, region, service, end = fields["Credential"].split("/")
    parts = urlsplit(handler.path)
    query = sorted((quote(k, safe="~"), quote(v, safe="~")) for k, v in parse_qsl(parts.query, keep_blank_values=True))
    signed = fields["SignedHeaders"].split(";")
    lines = ["GET", parts.path, "&".join("=".join(pair) for pair in query)]
    lines += [f"{name}:{handler.headers[name].strip()}" for name in signed]
    lines += ["", ";".join(signed), handler.headers["x-amz-content-sha256"]]
    hashed = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    text = "\n".join(["AWS4-HMAC-SHA256", handler.headers["x-amz-date"], f"{date}/{region}/{service}/{end}", hashed])
    key = f"AWS4{SECRET}".encode()
    for part in (date, region, service, end, text):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return f"{fields['Signature']} {key.hex()}"


class Bucket(Files):
    """A bucket: two files a page, each request by a true signature, in one region; `refuse` answers first."""

    def __init__(self) -> None:
        super().__init__({})
        self.region, self.moved = "us-east-1", 301
        self.public = False
        self.refuse: Iterator[tuple[int, str]] = iter(())
        self.fault = self._serve

    def _serve(self, handler: Handler) -> bool:
        told = handler.headers.get("authorization", "")
        if not self.public:
            ours, theirs = signature(handler).split()
            assert ours == theirs
            assert handler.headers["x-amz-security-token"] == TOKEN
        assert bool(told) is not self.public
        status, code = next(self.refuse, (0, ""))
        if not status and f"/{self.region}/" not in told and not self.public:
            status, code = self.moved, "PermanentRedirect"
        if status:
            body = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
            where = {"location": f"{self.url}/elsewhere", "x-amz-bucket-region": self.region}
            handler.answer(status, body, where if code == "PermanentRedirect" else {})
            return True
        parts = urlsplit(handler.path)
        if not parts.query:
            return False
        asked = dict(parse_qsl(parts.query))
        prefix, last = asked.get("prefix", ""), asked.get("continuation-token", "")
        keys = sorted(path.removeprefix("/b/") for path in self.files)
        keys = [key for key in keys if key.startswith(prefix) and key > last]
        if asked.get("delimiter"):
            keys = [key for key in keys if "/" not in key.removeprefix(prefix)]
        page = "".join(
            f"<Contents><Key>{quote(key, safe='/').replace('%20', '+')}</Key>"
            f'<Size>{len(self.files[f"/b/{key}"])}</Size><ETag>"e"</ETag></Contents>'
            for key in keys[:2]
        )
        last = keys[1].replace("&", "&amp;") if keys[2:] else ""
        more = f"<NextContinuationToken>{last}</NextContinuationToken>"
        space = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
        handler.answer(200, f"<ListBucketResult {space}>{page}{more}</ListBucketResult>".encode())
        return True


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    made = Bucket()
    for name in ("AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_SESSION_TOKEN": TOKEN,
        "AWS_ENDPOINT_URL": made.url,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/dev/null",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(s3_store, "_regions", {})
    s3_store._bucket.cache_clear()
    yield made
    s3_store._bucket.cache_clear()
    made.close()


def settle(monkeypatch: pytest.MonkeyPatch, **settings: object) -> None:
    from fsspec.config import conf

    monkeypatch.setitem(conf, "s3", settings)


@pytest.mark.parametrize("public", [False, True])
def test_odd_names_are_listed_and_come_by_a_true_signature(
    public: bool, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    if public:
        settle(monkeypatch, anon="true")
        bucket.public = True
    bucket.files = {f"/b/m/{name}": name.encode() * 3 for name in ODD} | {"/b/m/below/x": b"x", "/b/m/marker/": b""}
    store = s3_store.open_s3("s3://b/m/")
    assert store is not None
    assert sorted(store.names()) == sorted(ODD)
    assert {path for path, _ in store.listed()} == {*ODD, "below/x"}
    for name in ODD:
        raw = name.encode() * 3
        assert store.small(name, 999) == raw
        assert store.starts([(name, 4)]) == [Start(raw[:4], len(raw))]
        assert store.spans([ByteRange(name, 2, 3)]) == [raw[2:5]]
    assert store.small("none", 9) is None


@pytest.mark.parametrize("status", [301, 307, 400])
def test_a_bucket_in_another_region_is_asked_there(status: int, bucket: Bucket) -> None:
    bucket.region, bucket.moved = "eu-north-1", status
    bucket.files = {"/b/m/config.json": b"{}"}
    store = s3_store.open_s3("s3://b/m")
    assert store is not None
    assert list(store.names()) == ["config.json"]
    assert len(bucket.requests) == 2
    again = s3_store.open_s3("s3://b/m")
    assert again is not None
    assert again.small("config.json", 9) == b"{}"
    assert len(bucket.requests) == 3  # it is known by then
    assert not any("elsewhere" in path for path in bucket.paths())


REFUSED = {
    (403, "AccessDenied"): "s3://b/m cannot be read: the store forbids it (AccessDenied)",
    (400, "ExpiredToken"): "s3://b/m cannot be read: the store refuses it (ExpiredToken)",
    (404, "NoSuchBucket"): "s3://b/m cannot be read: the store refuses it (NoSuchBucket)",
    (301, "PermanentRedirect"): "s3://b/m cannot be read: the store refuses it (PermanentRedirect)",
}


@pytest.mark.parametrize("refused", REFUSED)
def test_what_the_store_refuses_is_one_sentence_without_secrets(refused: tuple[int, str], bucket: Bucket) -> None:
    bucket.files = {"/b/m/config.json": b"{}"}
    bucket.refuse = iter([refused] * 9)
    with pytest.raises(TargetError) as caught:
        read_address("s3://b/m", Config())
    assert str(caught.value) == REFUSED[refused]
    told = f"{caught.value!r} {caught.value.__cause__!r} {caught.value.__context__!r}"
    assert not any(secret in told for secret in (SECRET, TOKEN, "Signature", "Credential"))


def test_a_store_that_fails_is_asked_again(bucket: Bucket) -> None:
    bucket.files = {"/b/m/config.json": b"{}"}
    bucket.refuse = iter([(500, "InternalError"), (503, "SlowDown")])
    store = s3_store.open_s3("s3://b/m")
    assert store is not None
    assert list(store.names()) == ["config.json"]
    assert store.traffic().requests == len(bucket.requests) == 3


def test_without_credentials_it_says_so(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    with pytest.raises(TargetError, match="s3://b/m cannot be read: NoCredentialsError: Unable to locate credentials"):
        s3_store.open_s3("s3://b/m")


LEFT: dict[str, Callable[[pytest.MonkeyPatch], object]] = {
    "settings of fsspec": lambda patch: settle(patch, requester_pays=True),
    "authorities of its own": lambda patch: [
        patch.setenv("AWS_CA_BUNDLE", "/own.pem"),
        patch.setenv("AWS_ENDPOINT_URL", "https://localhost:1"),
    ],
}


@pytest.mark.parametrize("why", LEFT)
def test_what_only_s3fs_does_is_left_to_it(why: str, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    LEFT[why](monkeypatch)
    assert s3_store.open_s3("s3://b/m") is None


@pytest.mark.parametrize(
    "address", ["s3://user:word@b/m", "s3://arn:aws:s3:r:1:accesspoint/x", "s3://b--x-s3/m", "s3://b/m?versionId=1"]
)
def test_addresses_that_only_s3fs_reads_are_left_to_it(address: str, bucket: Bucket) -> None:
    assert s3_store.open_s3(address) is None


def test_an_answer_that_is_no_list(bucket: Bucket) -> None:
    bucket.fault = lambda handler: handler.answer(200, b"<html>welcome") or True
    store = s3_store.open_s3("s3://b/m")
    assert store is not None
    with pytest.raises(TargetError, match="s3://b/m cannot be read: the answer is no list of S3"):
        store.names()
