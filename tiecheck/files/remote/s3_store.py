"""S3 by its own API: botocore finds credentials, region and endpoint, our HTTP client signs and asks.

For one request s3fs takes the time of ten, and botocore's signature as long as all else that a request costs. What
somebody has told fsspec of S3 is left to it, but that a bucket is public. A signature (version 4) stands in the headers
of a request, never in its address.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import re
import time
from collections.abc import Collection, Iterator, Mapping
from functools import lru_cache
from hashlib import sha256
from threading import Lock
from typing import Any, NamedTuple, NoReturn
from urllib.parse import parse_qsl, quote, unquote_plus, urlencode, urlsplit
from xml.etree import ElementTree as ET

from tiecheck.errors import MissingExtraError, TargetError, exception_line
from tiecheck.files.remote.http import AUTHORITIES, Answer, fetch_signed
from tiecheck.files.remote.store import TrafficMeter
from tiecheck.files.remote.web_directory import WebStore

PAGE_BYTES = 16 * 1024 * 1024
"""Bytes of one page of a listing; a thousand files with the longest names take some four million."""

NOTHING = sha256(b"").hexdigest()
"""The digest of a request's body: none has one."""

ELSEWHERE = frozenset({301, 307, 400})
"""Answers that may name the region that a bucket is in, if it is another."""


class _Bucket(NamedTuple):
    url: str
    region: str
    service: str
    credentials: Any

    def headers(self, url: str) -> Mapping[str, str]:
        """Return the headers that sign a GET request; none for a bucket that anyone may read."""
        if self.credentials is None:
            return {}
        who = self.credentials.get_frozen_credentials()
        at, now = urlsplit(url), time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        plain = at.port is None or at.port == {"http": 80, "https": 443}[at.scheme]
        host = at.netloc.rpartition(":")[0] if plain and at.port else at.netloc
        signed = {"host": host.lower(), "x-amz-content-sha256": NOTHING, "x-amz-date": now}  # sorted
        if who.token:
            signed["x-amz-security-token"] = who.token
        fields = "".join(f"{name}:{value}\n" for name, value in signed.items())
        query = "&".join(sorted(at.query.split("&"), key=lambda pair: pair.partition("=")))
        names, scope = ";".join(signed), f"{now[:8]}/{self.region}/{self.service}/aws4_request"
        asked = sha256(f"GET\n{at.path}\n{query}\n{fields}\n{names}\n{NOTHING}".encode()).hexdigest()
        text = f"AWS4-HMAC-SHA256\n{now}\n{scope}\n{asked}"
        proof = hmac.digest(_key(who.secret_key, scope), text.encode(), "sha256").hex()
        del signed["host"]  # the connection gives it
        made = f"AWS4-HMAC-SHA256 Credential={who.access_key}/{scope}, SignedHeaders={names}, Signature={proof}"
        return {**signed, "authorization": made}


@lru_cache(64)
def _key(secret: str, scope: str) -> bytes:
    """Return the key of one day, region and service."""
    key = f"AWS4{secret}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


_lock = Lock()
_regions: dict[str, str] = {}
"""Bucket -> its region, where that turned out to be another than the settings say."""


@lru_cache(64)
def _bucket(name: str, region: str | None, public: bool) -> _Bucket | None:
    """Return a bucket by the settings that AWS's tools share; None where they ask for more than we do."""
    from botocore import UNSIGNED
    from botocore.config import Config
    from botocore.exceptions import NoCredentialsError
    from botocore.session import Session

    session = Session()
    credentials = None if public else session.get_credentials()
    if credentials is None and not public:
        raise NoCredentialsError
    client = session.create_client("s3", region, config=Config(signature_version=UNSIGNED if public else "s3v4"))
    some = client.generate_presigned_url("get_object", {"Bucket": name, "Key": "-"})
    url, _, query = some.partition("?")
    trusted = session.get_config_variable("ca_bundle")
    ours = next(filter(None, map(os.environ.get, (*AUTHORITIES, "SSL_CERT_FILE"))), None)
    if url.startswith("https:") and trusted not in {None, ours}:
        return None
    _, _, region, service, _ = dict(parse_qsl(query)).get("X-Amz-Credential", f"//{region}//").split("/")
    return _Bucket(url[:-1], region, service, credentials)


@contextlib.contextmanager
def _botocore(label: str) -> Iterator[None]:
    """Turn whatever botocore raises into one sentence."""
    try:
        yield
    except ImportError as error:
        raise MissingExtraError("Reading s3:// addresses", package="s3fs") from error
    except Exception as error:
        raise TargetError(f"{label} cannot be read: {exception_line(error)}", label) from error


def _find(name: str, label: str, *, public: bool) -> _Bucket | None:
    with _lock, _botocore(label):
        return _bucket(name, _regions.get(name), public)


def open_s3(address: str) -> S3Store | None:
    """Return the store of a folder of a bucket; None where that is for s3fs."""
    from fsspec.config import conf

    settings = conf.get("s3", {})
    scheme, _, path = address.partition("://")
    name, _, folder = path.partition("/")
    plain = re.fullmatch(r"[\w.-]+", name) and not name.endswith("--x-s3") and "?" not in folder
    if scheme != "s3" or not plain or conf.get("s3a") or settings.keys() - {"anon"}:
        return None
    bucket = _find(name, address, public=bool(settings.get("anon")))
    return None if bucket is None else S3Store(name, folder, bucket)


class S3Store(WebStore):
    """A folder of a bucket."""

    def __init__(self, name: str, folder: str, bucket: _Bucket) -> None:
        super().__init__("", label=f"s3://{name}/{folder}".rstrip("/"))
        self._name, self._bucket = name, bucket
        self._prefix = f"{folder.rstrip('/')}/".lstrip("/")

    def names(self) -> Collection[str]:
        """Return the names of the files in it."""
        found = {name for name, _ in self.listed("/")}
        if not found:
            raise TargetError(f"there is no {self._label}, or it is empty", self._label)
        return found

    def listed(self, delimiter: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
        """Give the files in it and below by their paths, sorted, each with size and etag; with `/` those in it."""
        asked = {"list-type": "2", "encoding-type": "url", "prefix": self._prefix, "delimiter": delimiter}
        while True:
            self._meter = self._meter if delimiter else TrafficMeter()  # a whole bucket is nobody's target
            query = urlencode(sorted(asked.items()), quote_via=quote)
            answer = self._ask(f"?{query}", self._label, {}, PAGE_BYTES)
            if answer.status != 200:
                self._refuse(answer, self._label)
            try:
                page = ET.fromstring(answer.body)  # noqa: S314  # expat itself limits what entities become
                for entry in page.iterfind("{*}Contents"):
                    key, size, etag = (entry.findtext(f"{{*}}{field}", "") for field in ("Key", "Size", "ETag"))
                    path = unquote_plus(key).removeprefix(self._prefix)
                    if path and path[-1] != "/":
                        yield path, {"size": int(size), "ETag": etag}
            except (ET.ParseError, ValueError) as error:
                raise TargetError(f"{self._label} cannot be read: the answer is no list of S3", self._label) from error
            asked["continuation-token"] = page.findtext("{*}NextContinuationToken", "")
            if not asked["continuation-token"]:
                return

    def _get(self, name: str, headers: Mapping[str, str], limit: int) -> Answer:
        return self._ask(quote(self._prefix + name, safe="/~"), self._path(name), headers, limit)

    def _ask(self, path: str, label: str, headers: Mapping[str, str], limit: int) -> Answer:
        """Make a request, and once more in the bucket's own region where the store names another."""
        answer = self._ask_once(path, label, headers, limit)
        region = answer.headers.get("x-amz-bucket-region", self._bucket.region)
        if answer.status not in ELSEWHERE or region == self._bucket.region:
            return answer
        _regions[self._name] = region
        self._bucket = _find(self._name, label, public=self._bucket.credentials is None) or self._bucket
        return self._ask_once(path, label, headers, limit)

    def _ask_once(self, path: str, label: str, headers: Mapping[str, str], limit: int) -> Answer:
        url = self._bucket.url + path
        with _botocore(label):
            signed = {**self._bucket.headers(url), **headers}
        return fetch_signed(url, label, limit=limit, headers=signed, meter=self._meter)

    def _refuse(self, answer: Answer, label: str) -> NoReturn:
        code = re.search(rb"<Code>(\w+)</Code>", answer.body)
        said = code[1].decode() if code else f"status {answer.status}"
        verb = "forbids" if answer.status == 403 else "refuses"
        raise TargetError(f"{label} cannot be read: the store {verb} it ({said})", label)
