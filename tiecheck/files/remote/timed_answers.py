"""Connections whose answers have an end, and are read without a parser of mail, which costs more than a request.

urllib3 limits the wait for the next bytes, and a server may drip for ever. It keeps the connections, opens them and
speaks to proxies; request and answer are those of `http.client`, without the layer that it puts around them.
"""

from __future__ import annotations

import http.client
import io
import socket
import ssl
import time
from collections.abc import Mapping
from typing import Any, BinaryIO

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ProtocolError, ReadTimeoutError, SSLError

from tiecheck.files.limits import ANSWER_SECONDS, SLOWEST, target_account

LINE = 1 << 16
"""Bytes of one line of an answer's head."""

LINES = 200
"""Lines of a head."""


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


class TimedAnswer(http.client.HTTPResponse):
    """An answer, its body not yet read."""

    headers: Any
    msg: Any
    """Names in lower case -> values; of a name that comes more than once all of them, with commas between."""
    version_string = "HTTP"
    length_remaining = None
    _pool: Any
    _connection: Any  # these four are what urllib3 asks of an answer, and gives it

    def __init__(self, sock: socket.socket, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self.fp: Any = io.BufferedReader(_TimedReader(self.fp.detach(), sock))

    def begin(self) -> None:
        """Read the head, and see where the body will end, as the class above does it."""
        status = 100
        while status < 200:
            version, status = _status_line(self.fp)
            self.headers = self.msg = _fields(self.fp)
        self.code = self.status = status
        asked = self.headers.get("connection", "").lower()
        self.will_close = "close" in asked or (version == b"HTTP/1.0" and "keep-alive" not in asked)
        self.chunked = self.headers.get("transfer-encoding", "").lower() == "chunked"
        self.chunk_left = None
        length = self.headers.get("content-length", "")
        self.length = int(length) if length.isdecimal() and not self.chunked else None
        if status in {204, 304}:
            self.length = 0
        self.will_close |= self.length is None and not self.chunked

    def piece(self, count: int) -> bytes:
        """Return some more bytes of the body, at its end none; urllib3's errors where it is cut or late."""
        try:
            raw = self.read1(count)
            if not raw and self.length:
                raise http.client.IncompleteRead(raw, self.length)
        except TimeoutError as error:
            raise ReadTimeoutError(self._pool, "", "Read timed out.") from error
        except ssl.SSLError as error:
            raise SSLError(error) from error
        except (http.client.HTTPException, OSError) as error:
            raise ProtocolError(f"Connection broken: {error!r}", error) from error
        return raw

    def leave(self, *, whole: bool) -> None:
        """Give the connection back, closed where more of the body would come."""
        self.close()
        if not whole:
            self._connection.close()
        self._pool._put_conn(self._connection)


def _status_line(file: BinaryIO) -> tuple[bytes, int]:
    line = file.readline(LINE)
    if not line:
        raise http.client.RemoteDisconnected("Remote end closed connection without response")
    version, code, *_ = [*line.split(None, 2), b"", b""]
    if not version.startswith(b"HTTP/1.") or not code.isdigit() or not 100 <= int(code) <= 999:
        raise http.client.BadStatusLine(repr(line[:80]))
    return version, int(code)


def _fields(file: BinaryIO) -> Mapping[str, str]:
    """Return the fields of a head; lines that are none are passed over."""
    found: dict[str, str] = {}
    name = ""
    for _ in range(LINES):
        line = file.readline(LINE)
        if line in {b"\r\n", b"\n", b""}:
            return found
        if len(line) == LINE:
            raise http.client.LineTooLong("header line")
        text = line.decode("iso-8859-1")
        if text[0] in " \t":  # more of the field before, an old way to write it
            text = f"{name}: {text}"
        name, mark, value = text.partition(":")
        name = name.lower()
        if mark:
            found[name] = f"{found[name]}, {value.strip()}" if name in found else value.strip()
    raise http.client.HTTPException(f"got more than {LINES} headers")


class _Plain:
    """A request without body and its answer, for both sorts of connections."""

    response_class = TimedAnswer

    def request(self: Any, method: str, url: str, *, headers: Any, **_options: object) -> None:
        if self.sock is not None:
            self.sock.settimeout(self.timeout)
        self.putrequest(method, url, skip_accept_encoding=True)
        for name, value in headers.items():
            self.putheader(name, value)
        self.endheaders()

    def getresponse(self: Any) -> TimedAnswer:
        self.sock.settimeout(self.timeout)
        answer: TimedAnswer = http.client.HTTPConnection.getresponse(self)  # type: ignore[assignment]  # `response_class`
        return answer


class _Connection(_Plain, HTTPConnection):  # type: ignore[misc]  # it gives another answer than urllib3's
    pass


class _SecureConnection(_Plain, HTTPSConnection):  # type: ignore[misc]  # the same
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls: Any = _Connection


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls: Any = _SecureConnection


POOLS = {"http": _Pool, "https": _SecurePool}
"""Scheme -> the connections that urllib3 is to use."""
