"""Connections whose answers have an end: urllib3 limits the wait for the next bytes, and a server may drip for ever."""

from __future__ import annotations

import io
import socket
import time
from http.client import HTTPResponse
from typing import Any

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from tiecheck.files.limits import ANSWER_SECONDS, SLOWEST, target_account


class _TimedReader(io.RawIOBase):
    """The bytes of one answer, its headers among them, for as long as it may take."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket) -> None:
        self._raw, self._sock, self._account = raw, sock, target_account()
        self._patience = sock.gettimeout() or ANSWER_SECONDS
        self._end = time.monotonic() + ANSWER_SECONDS

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = min(self._end - time.monotonic(), self._account.left)
        if left <= 0:
            raise TimeoutError
        self._sock.settimeout(min(left, self._patience))
        count: int | None = self._raw.readinto(buffer)
        self._end += (count or 0) / SLOWEST
        return count

    def close(self) -> None:
        super().close()
        self._raw.close()


class _TimedResponse(HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self.fp = io.BufferedReader(_TimedReader(self.fp.detach(), sock))


class _Connection(HTTPConnection):
    response_class = _TimedResponse


class _SecureConnection(HTTPSConnection):
    response_class = _TimedResponse


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


POOLS = {"http": _Pool, "https": _SecurePool}
"""Scheme -> the connections that urllib3 is to use."""
