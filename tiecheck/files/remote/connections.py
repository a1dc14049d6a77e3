"""The connections of this process, by urllib3: one pool a host, through the proxy that the environment sets."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import cache, lru_cache, partial
from urllib.parse import urlsplit

import urllib3

CONNECTIONS = 64
"""Open connections to one host."""


def opened(url: str, headers: Mapping[str, str], timeout: urllib3.Timeout) -> urllib3.BaseHTTPResponse:
    """The answer to a GET request, its body not yet read; no redirect is followed and nothing tried again.

    Args:
        url: The address.
        headers: Sent along.
        timeout: How long to wait for a connection, and for the next bytes.

    Raises:
        urllib3.exceptions.HTTPError: No connection, or none that holds.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    proxy = _proxy(parts.scheme, host)
    manager = manager_of(os.getpid(), proxy)
    if proxy is not None or not host:
        return manager.request(
            "GET", url, headers=dict(headers), redirect=False, retries=False, preload_content=False, timeout=timeout
        )
    # The manager would parse and join the address again, which is a fifth of what a request costs here.
    return manager.connection_from_host(host, parts.port, parts.scheme).urlopen(
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
    """The proxy that the environment (`HTTPS_PROXY`, `NO_PROXY` ...) or the system sets for a host."""
    return _proxy_by(scheme, host, tuple(map(os.environ.get, _PROXY_WORDS)))


@lru_cache(64)
def _proxy_by(scheme: str, host: str, _environment: tuple[str | None, ...]) -> str | None:
    """The same, looked up once: going through the environment costs a third of a request."""
    from urllib.request import getproxies, proxy_bypass

    proxies = getproxies()
    proxy = proxies.get(scheme) or proxies.get("all")
    return proxy if proxy and not proxy_bypass(host) else None


@cache
def manager_of(_pid: int, proxy: str | None) -> urllib3.PoolManager:
    """The connections of this process: a forked child must not share its parent's."""
    authorities = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or None
    manager: Callable[..., urllib3.PoolManager] = urllib3.PoolManager
    if proxy is not None:
        user = urlsplit(proxy)
        auth = f"{user.username}:{user.password or ''}" if user.username else None
        manager = partial(urllib3.ProxyManager, proxy, proxy_headers=urllib3.make_headers(proxy_basic_auth=auth))
    return manager(num_pools=32, maxsize=CONNECTIONS, block=True, ca_certs=authorities)
