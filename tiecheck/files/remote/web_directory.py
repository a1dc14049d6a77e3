"""A directory on an HTTP server: no listing, so the standard names are asked for."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import cache
from os import getpid
from typing import NoReturn, TypeVar
from urllib.parse import quote, unquote, urlsplit, urlunsplit

import urllib3

from tiecheck.errors import TargetError, without_secrets
from tiecheck.files.limits import target_account
from tiecheck.files.remote.http import Answer, fetch_answer, whole_number
from tiecheck.files.remote.store import ByteRange, Start, TrafficMeter, target_meter
from tiecheck.records.report import Traffic

THREADS = 32
"""Requests in flight at once, over all targets of this process."""

T = TypeVar("T")


class WebStore:
    """Files below one HTTP address."""

    def __init__(
        self,
        address: str,
        headers: Mapping[str, str] | None = None,
        label: str | None = None,
        meter: TrafficMeter | None = None,
    ) -> None:
        parts = urlsplit(address)
        user, at, host = parts.netloc.rpartition("@")
        self._base = parts._replace(netloc=host, path=parts.path.rstrip("/") + "/", fragment="")
        self._headers = dict(headers or {})
        if at:
            self._headers |= urllib3.make_headers(basic_auth=unquote(user))
        self._label = label or without_secrets(address)
        self._meter = meter or target_meter()
        self._elsewhere: dict[str, str] = {}  # where a file is for the next range, by a redirect to another host

    @property
    def address(self) -> str:
        """The address without user, password and query."""
        return self._label

    def names(self) -> Collection[str] | None:
        """None: HTTP has no listing."""
        return None

    def traffic(self) -> Traffic:
        """Return the bytes and requests so far."""
        return self._meter.read()

    def small(self, name: str, limit: int) -> bytes | None:
        """Return a whole small file; None where there is none."""
        label = self._path(name)
        answer = self._get(name, {}, limit)
        if answer.status == 404:
            return None
        if answer.status != 200:
            self._refuse(answer, label)
        if not answer.whole:
            size = whole_number(answer.headers.get("content-length", ""))
            count = "more" if size is None else f"{size:,}"
            raise TargetError(f"{label} has {count} bytes, more than the {limit:,} that are read", label)
        return _plain(answer, label)

    def starts(self, wanted: Sequence[tuple[str, int]]) -> list[Start | None]:
        """Return the first bytes of some files, fetched together."""
        return run_together([lambda n=name, c=count: self._start(n, c) for name, count in wanted])  # type: ignore[misc]

    def spans(self, wanted: Sequence[ByteRange]) -> list[bytes]:
        """Byte ranges, fetched together."""
        return run_together([lambda span=span: self._span(span) for span in wanted])  # type: ignore[misc]

    def _start(self, name: str, count: int) -> Start | None:
        label = self._path(name)
        answer = self._get(name, {"range": f"bytes=0-{count - 1}"}, count)
        if answer.status == 404:
            return None
        if answer.status == 416:  # a file of no bytes has no first one
            return Start(b"", 0)
        if answer.status == 200:  # the server does not know ranges, or the file is smaller than that
            said = whole_number(answer.headers.get("content-length", ""))
            if said is None and not answer.whole:
                raise TargetError(f"{label}: the server ignores ranges and does not say how large the file is", label)
            return _checked(
                Start(_plain(answer, label), len(answer.body) if answer.whole or said is None else said), count, label
            )
        if answer.status != 206:
            self._refuse(answer, label)
        begin, size = _content_range(answer, label)
        if begin != 0:
            raise TargetError(f"{label}: the server sent another range of the file than was asked for", label)
        return _checked(Start(_plain(answer, label), size), count, label)

    def _span(self, span: ByteRange) -> bytes:
        label = self._path(span.name)
        last = span.offset + span.length - 1
        answer = self._get(span.name, {"range": f"bytes={span.offset}-{last}"}, span.length)
        if answer.status == 200:
            raise TargetError(f"{label}: the server ignores ranges, and the whole file is not read", label)
        if answer.status != 206:
            self._refuse(answer, label)
        if _content_range(answer, label)[0] != span.offset:
            raise TargetError(f"{label}: the server sent another range of the file than was asked for", label)
        raw = _plain(answer, label)
        if len(raw) != span.length:
            raise TargetError(f"{label} ends too early: {len(raw):,} bytes came of {span.length:,}", label)
        return raw

    def _get(self, name: str, headers: Mapping[str, str], limit: int) -> Answer:
        label = self._path(name)
        elsewhere = self._elsewhere.get(name)
        if elsewhere is not None:
            answer = fetch_answer(elsewhere, label, limit=limit, headers=headers, meter=self._meter)
            if answer.status < 400:
                return answer
        url = urlunsplit(self._base._replace(path=self._base.path + quote(name)))
        answer = fetch_answer(url, label, limit=limit, headers={**self._headers, **headers}, meter=self._meter)
        if answer.url != url and answer.status < 400 and urlsplit(answer.url).netloc != self._base.netloc:
            self._elsewhere[name] = answer.url
        return answer

    def _path(self, name: str) -> str:
        return f"{self._label.rstrip('/')}/{name}"

    def _refuse(self, answer: Answer, label: str) -> NoReturn:
        """Return one sentence for a status that is no answer."""
        raise TargetError(f"{label} cannot be read: {_status(answer)}", label)


def _status(answer: Answer) -> str:
    words = {401: "the server wants to know who asks (401)", 403: "the server forbids it (403)"}
    return words.get(answer.status, f"the server answers with status {answer.status}")


def _checked(start: Start, count: int, label: str) -> Start:
    if len(start.raw) != min(count, start.size):
        raise TargetError(f"{label} ends too early: {len(start.raw):,} bytes came of {min(count, start.size):,}", label)
    return start


def _plain(answer: Answer, label: str) -> bytes:
    """Return the body, refused where the server packed it in spite of what it was told."""
    if answer.headers.get("content-encoding", "identity").lower() not in {"identity", ""}:
        raise TargetError(f"{label}: the server sends it compressed, which it was told not to", label)
    return answer.body


def _content_range(answer: Answer, label: str) -> tuple[int, int]:
    """First byte and size of the file, by `Content-Range: bytes 0-65535/123456`."""
    unit, _, rest = answer.headers.get("content-range", "").partition(" ")
    span, _, size = rest.partition("/")
    begin, _, last = span.partition("-")
    first, end, length = map(whole_number, (begin, last, size))
    if unit.lower() != "bytes" or first is None or end is None or length is None:
        raise TargetError(f"{label}: the server does not say which range of which size it sent", label)
    if not first <= end < length:
        raise TargetError(f"{label}: the server sent a range that cannot be ({rest[:60]})", label)
    return first, length


@cache
def _pool(_pid: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(THREADS, thread_name_prefix="tiecheck")


def run_beside(work: Callable[[], T]) -> Callable[[], T]:
    """Begin some work in another thread; what comes back waits for it. One of many targets does it itself, later."""
    if target_account().listed[1]:
        return work
    return _pool(getpid()).submit(copy_context().run, work).result


def run_together(work: Sequence[Callable[[], T]]) -> list[T]:
    """Do some work at once, the first piece in this thread; the first error ends it."""
    pool = _pool(getpid())
    others = [pool.submit(copy_context().run, piece) for piece in work[1:]]
    try:
        return [piece() for piece in work[:1]] + [other.result() for other in others]
    finally:
        for other in others:
            other.cancel()
