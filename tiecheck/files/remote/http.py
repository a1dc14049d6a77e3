"""One GET at a time over HTTP, by urllib3: redirects, retries, limits and time are ours to decide, and all is counted.

A token goes to the host it is for and to no other: it is dropped at a redirect that leaves the scheme, host or port.
A body is read as far as it was asked for, and the connection closed where more would come: a server that ignores
`Range` moves no weights.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping
from functools import cache, lru_cache, partial
from http.client import HTTPException
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urljoin, urlsplit

import urllib3
from urllib3.exceptions import HTTPError, MaxRetryError, NewConnectionError, ProtocolError, SSLError
from urllib3.exceptions import TimeoutError as StalledError

from tiecheck._version import __version__
from tiecheck.errors import TargetError, without_secrets
from tiecheck.files.limits import REQUESTS, WAIT_SECONDS, target_account
from tiecheck.files.remote.timed_answers import POOLS, TimedAnswer

if TYPE_CHECKING:
    from tiecheck.files.remote.store import TrafficMeter

TIMEOUT = urllib3.Timeout(connect=10.0, read=15.0)
"""Seconds to wait for a connection, and for the next bytes."""

HOPS = 5
"""Redirects that are followed."""

TRIES = 4
"""Tries of a request that a busy server or a lost connection fails."""

BUSY = frozenset({429, 502, 503, 504})
CHUNK = 256 * 1024

AUTHORITIES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
"""Variables that name certificate authorities, before those of OpenSSL."""

CONNECTIONS = 64
"""Open connections to one host."""


class Answer(NamedTuple):
    """The last answer of a server."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    """As much of the body as was wanted."""
    whole: bool
    """True where that is all of it."""
    url: str
    """Where it came from in the end; a signature may be in it."""


_OURS = {"accept-encoding": "identity", "user-agent": f"tiecheck/{__version__}"}


class _Asked(NamedTuple):
    """One request, and what was asked for."""

    url: str
    headers: Mapping[str, str]
    limit: int
    label: str
    api: bool = False


def fetch_answer(url: str, label: str, *, limit: int, headers: Mapping[str, str], meter: TrafficMeter) -> Answer:
    """Make a GET request, follow its redirects, wait a little where the server is busy; at most `limit` bytes are read.

    User and password in the address are sent as basic authentication, `Authorization` to this host only; the label has
    no secrets. A status of 400 and more is an answer too; none that can be used is a `TargetError`.
    """
    return _fetch(_Asked(url, {**_OURS, **headers}, limit, label), meter)


def fetch_signed(url: str, label: str, *, limit: int, headers: Mapping[str, str], meter: TrafficMeter) -> Answer:
    """Make a GET request to the API of a store, where a redirect is an answer, and 500 the word of a busy server."""
    return _fetch(_Asked(url, {**_OURS, **headers}, limit, label, api=True), meter)


def _fetch(asked: _Asked, meter: TrafficMeter) -> Answer:
    label = asked.label
    attempt = 0
    hops = 0
    waited = 0.0
    while True:
        attempt += 1
        target_account().check_time()
        if meter.read().requests >= REQUESTS:
            raise TargetError(f"{label} is not read: the target has taken the {REQUESTS:,} requests it may", label)
        try:
            answer = _once(asked, meter)
        except TargetError:
            raise
        except (HTTPError, OSError) as error:
            if attempt < TRIES and _lost(error):
                time.sleep(0.1 * 2**attempt)
                continue
            raise TargetError(f"{label} cannot be read: {_why(error, asked.url)}", label) from error
        except (ValueError, OverflowError, HTTPException) as error:
            raise TargetError(
                f"{label} cannot be read: the answer is no sound HTTP ({_short(error)})", label
            ) from error
        if (answer.status in BUSY or (asked.api and answer.status == 500)) and attempt < TRIES:
            waited += _wait(answer, attempt, waited, label)
        elif answer.status in {301, 302, 303, 307, 308} and not asked.api:
            hops += 1
            if hops > HOPS:
                raise TargetError(f"{label} cannot be read: more than {HOPS} redirects", label)
            asked, attempt = _redirected(asked, answer), 0
        else:
            return answer


def _once(asked: _Asked, meter: TrafficMeter) -> Answer:
    """Make one request; an answer with an error or a redirect is read as far as its sentence goes."""
    try:
        response = _open_url(asked.url, asked.headers, TIMEOUT)
    except BaseException:
        meter.add(0)
        raise
    body = bytearray()
    whole = False
    try:
        limit = asked.limit if response.status < 300 else min(asked.limit, 4096)
        while len(body) < limit:
            piece = response.piece(min(CHUNK, limit - len(body)))
            if not piece:
                whole = True
                break
            body += piece
        else:
            whole = response.length == 0 or (response.length is None and not response.piece(1))
        return Answer(response.status, response.headers, bytes(body), whole, asked.url)
    finally:
        meter.add(len(body))
        response.leave(whole=whole)


def _redirected(asked: _Asked, answer: Answer) -> _Asked:
    """Return the request a redirect leads to; secrets stay behind where it leaves the host, and https is not left."""
    old = urlsplit(asked.url)
    try:
        url = urljoin(asked.url, answer.headers.get("location", ""))
        new = urlsplit(url)
        same = (old.scheme, old.hostname, old.port) == (new.scheme, new.hostname, new.port)
    except ValueError as error:
        raise TargetError(
            f"{asked.label} cannot be read: the server redirects to no HTTP address", asked.label
        ) from error
    if new.scheme not in {"http", "https"} or not new.hostname:
        raise TargetError(f"{asked.label} cannot be read: the server redirects to no HTTP address", asked.label)
    if old.scheme == "https" and new.scheme == "http":
        raise TargetError(f"{asked.label} cannot be read: the server redirects from https to http", asked.label)
    headers = asked.headers if same else {k: v for k, v in asked.headers.items() if k.lower() not in _SECRET}
    return asked._replace(url=url, headers=headers)


_SECRET = frozenset({"authorization", "cookie", "proxy-authorization"})


def _wait(answer: Answer, attempt: int, waited: float, label: str) -> float:
    """Wait as long as the server says, and return those seconds; refused where a check has not so much patience."""
    said = answer.headers.get("retry-after", "").strip()
    seconds: float = 0.25 * 2**attempt
    if said.isdecimal() and said.isascii():
        seconds = float(said[:20])
    elif said:
        with contextlib.suppress(HTTPError, ValueError, OverflowError):
            seconds = max(0.0, float(urllib3.Retry().parse_retry_after(said)))
    if waited + seconds > min(WAIT_SECONDS, target_account().left):
        raise TargetError(
            f"{label} cannot be read now: the server is busy ({answer.status}) and says to wait {seconds:.0f} s", label
        )
    time.sleep(seconds)
    return seconds


def whole_number(text: str) -> int | None:
    """Return the number that some digits of a header are; None for anything else, and for more than 64 bits have."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else None


def _lost(error: Exception) -> bool:
    """Tell whether a connection broke, which a second try may mend; a certificate that is not trusted stays so."""
    return isinstance(error, ProtocolError) and not isinstance(error, SSLError)


def _why(error: Exception, url: str) -> str:
    """Say a failure in a few words."""
    cause = error.reason if isinstance(error, MaxRetryError) and error.reason else error
    host = urlsplit(url).hostname
    if isinstance(cause, SSLError):
        return f"{host} cannot prove who it is (TLS): {_short(cause)}; SSL_CERT_FILE names other authorities"
    if isinstance(cause, StalledError) and not isinstance(cause, NewConnectionError):
        return f"{host} does not answer in time"
    if isinstance(cause, ProtocolError):
        return f"{host} ended the connection too early ({_short(cause)})"
    return f"no connection to {host}: {_short(cause)}"


def _short(error: BaseException) -> str:
    """Return the last words of an exception: urllib3 puts its object before them."""
    inner: BaseException = error
    while inner.args and isinstance(inner.args[-1], BaseException):
        inner = inner.args[-1]
    text = " ".join(str(inner).split()).rpartition(">: ")[2].rpartition("): ")[2]
    return without_secrets(text)[:200] or type(inner).__name__


def _open_url(url: str, headers: Mapping[str, str], timeout: urllib3.Timeout) -> TimedAnswer:
    """Return the answer to a GET request, its body not yet read; no redirect is followed and nothing tried again.

    Without a connection, or one that holds, it raises urllib3's `HTTPError`.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    proxy = _proxy(parts.scheme, host)
    manager = manager_of(os.getpid(), proxy)
    if proxy is not None or not host:
        return manager.request(  # type: ignore[return-value]  # by the connections of POOLS
            "GET", url, headers=dict(headers), redirect=False, retries=False, preload_content=False, timeout=timeout
        )
    # The manager would parse and join the address again, which is a fifth of what a request costs here.
    return manager.connection_from_host(host, parts.port, parts.scheme).urlopen(  # type: ignore[return-value]
        "GET",
        (parts.path or "/") + ("?" + parts.query if parts.query else ""),
        headers=dict(headers),
        redirect=False,
        retries=False,
        preload_content=False,
        timeout=timeout,
        assert_same_host=False,
    )


_PROXY_WORDS = tuple(
    spelt for word in ("http_proxy", "https_proxy", "all_proxy", "no_proxy") for spelt in (word, word.upper())
)


def _proxy(scheme: str, host: str) -> str | None:
    """Return the proxy that the environment (`HTTPS_PROXY`, `NO_PROXY` ...) or the system sets for a host."""
    return _proxy_by(scheme, host, tuple(map(os.environ.get, _PROXY_WORDS)))


@lru_cache(64)
def _proxy_by(scheme: str, host: str, _environment: tuple[str | None, ...]) -> str | None:
    """Look it up once: going through the environment costs a third of a request."""
    from urllib.request import getproxies, proxy_bypass

    proxies = getproxies()
    proxy = proxies.get(scheme) or proxies.get("all")
    return proxy if proxy and not proxy_bypass(host) else None


@cache
def manager_of(_pid: int, proxy: str | None) -> urllib3.PoolManager:
    """Return the connections of this process: a forked child must not share its parent's."""
    authorities = next(filter(None, map(os.environ.get, AUTHORITIES)), None)
    manager: Callable[..., urllib3.PoolManager] = urllib3.PoolManager
    if proxy is not None:
        user = urlsplit(proxy)
        auth = f"{user.username}:{user.password or ''}" if user.username else None
        manager = partial(urllib3.ProxyManager, proxy, proxy_headers=urllib3.make_headers(proxy_basic_auth=auth))
    made = manager(num_pools=32, maxsize=CONNECTIONS, block=True, ca_certs=authorities)
    made.pool_classes_by_scheme = POOLS
    return made
