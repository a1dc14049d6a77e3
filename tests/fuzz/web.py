"""Drawn answers of an HTTP server, and the server that gives them: on 127.0.0.1, bounded, and at once."""

from __future__ import annotations

import re
import socket
import threading
from typing import Any

from cases import FORMATS, Case, Draw, encoded, written
from texts import CONFIG, drawn_config
from weights import PAIR, drawn_weights

FILES = (
    "config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
STATUS = (b"200 OK", b"206 Partial Content", b"301 x", b"302 x", b"307 x", b"308 x", b"401 x", b"403 x", b"404 x",
    b"416 x", b"418 \x1b[31m",
          b"429 x", b"500 x", b"503 x", b"999 x", b"0 x", b"100 Continue", b"204 No", b"304 x", b"\xb2\xb0\xb0 x",
          b"-1 x", b"")  # fmt: skip
HEADERS = (b"retry-after: 1", b"retry-after: " + b"9" * 5000, b"retry-after: Mon, 01 Jan 9999999999 00:00:00 GMT",
    b"retry-after: -5",
           b"retry-after: nan", b"retry-after: \xb2", b"content-length: \xb2", b"content-length: -5",
           b"content-length: 5, 6", b"content-length: 0",
           b"content-length: 99999999999999999999", b"content-length: " + b"9" * 5000,
           b"transfer-encoding: chunked", b"transfer-encoding: x",
           b"content-encoding: gzip", b"content-encoding: br", b"content-range: bytes 0-\xb2/\xb3",
           b"content-range: bytes 0-1/" + b"9" * 5000,
           b"content-range: bytes 5-100/1000", b"content-range: bytes */0", b"content-range: x",
           b"content-range: bytes 0-65535/" + b"9" * 26,
           b"content-range: bytes -1-5/*", b"location: file:///etc/hostname", b"location: http://[::1",
           b"location: http://127.0.0.1:99999/",
           b"location: ", b"location: /config.json", b"location: //127.0.0.1:1/x", b"location: ftp://127.0.0.1/",
           b"location: \x00\x1b[31m",
           b"location: http://u:secret@127.0.0.1:1/?token=secret", b"x-error-message: \x1b[31mRED",
           b"x-error-code: RepoNotFound", b"etag: x",
           b"set-cookie: a=b", b"x: " + b"a" * 70000, b": ", b"x", b"\xff\xfe: \xff",
           b"connection: keep-alive")  # fmt: skip


def _answer(draw: Draw, body: bytes) -> bytes:
    """A whole answer, right but for a status, a header or a length."""
    status = b"200 OK" if draw.chance(0.6) else draw.choice(STATUS)
    headers = [draw.choice(HEADERS) for _ in range(draw.choice((0, 0, 1, 1, 2)))]
    if draw.chance(0.8):
        headers.append(
            b"content-length: %d"
            % (len(body) if draw.chance(0.85) else draw.choice((0, 1, len(body) + 1, len(body) * 2, 1 << 40)))
        )
    if draw.chance(0.02):
        headers += [b"x%d: y" % i for i in range(200)]
    if b"transfer-encoding: chunked" in headers:
        body = draw.choice(
            (
                b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body),
                b"-5\r\nabc\r\n",
                b"f" * 5000 + b"\r\nabc\r\n",
                b"zz\r\n",
                body,
            )
        )
    raw = b"HTTP/1.1 " + status + b"\r\n" + b"\r\n".join(headers) + b"\r\n\r\n" + body
    if draw.chance(0.05):
        raw = draw.damaged(raw)
    return (
        draw.choice((bytes(range(256)) * 4, b"", b"HTTP/9.9 200\r\n\r\n", raw[: draw.randrange(len(raw) + 1)]))
        if draw.chance(0.06)
        else raw
    )


def web_case(draw: Draw) -> Case:
    """A model on a server, of which an answer or several are odd; `None` stands for the right one."""
    weights = drawn_weights(draw) if draw.chance(0.4) else drawn_weights(Draw(3))
    files: dict[str, Any] = {"config.json": drawn_config(draw) if draw.chance(0.2) else CONFIG}
    if isinstance(weights, bytes):
        files["model.safetensors"] = weights
    if draw.chance(0.2):
        files["model.safetensors.index.json"] = encoded(
            draw, written({"weight_map": dict.fromkeys(PAIR, "model.safetensors")})
        )
    answers: dict[str, Any] = {}
    for name in FILES:
        if draw.chance(0.45):
            body = files.get(name, b"{}")
            answers[name] = [_answer(draw, body) for _ in range(draw.choice((1, 1, 2)))]
    return Case("web", files, ("{url}",), {"values": draw.choice(("auto", "auto", "always"))}, answers)


FORMATS["web"] = web_case


class Server:
    """Answers every request by the case it was given last."""

    def __init__(self) -> None:
        self.case: Case | None = None
        self._asked: dict[str, int] = {}
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def take(self, case: Case) -> None:
        self.case, self._asked = case, {}

    def close(self) -> None:
        self._socket.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            connection.settimeout(3)
            request = b""
            while b"\r\n\r\n" not in request:
                piece = connection.recv(65536)
                if not piece:
                    return
                request += piece
            connection.sendall(self._answer(request))
        except OSError:
            pass
        finally:
            connection.close()

    def _answer(self, request: bytes) -> bytes:
        name = request.split(b" ")[1].decode("latin-1").split("?")[0].rpartition("/")[2]
        case = self.case
        assert case is not None
        said = case.answers.get(name)
        if said:
            self._asked[name] = count = self._asked.get(name, 0) + 1
            return said[min(count, len(said)) - 1]
        body = case.files.get(name)
        if body is None:
            return b"HTTP/1.1 404 x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        asked = re.search(rb"\r\nrange: bytes=(\d+)-(\d+)", request, re.IGNORECASE)
        if not asked:
            return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%s" % (len(body), body)
        first, last = int(asked[1]), min(int(asked[2]), len(body) - 1)
        head = b"HTTP/1.1 206 x\r\ncontent-range: bytes %d-%d/%d\r\n" % (first, last, len(body))
        return head + b"content-length: %d\r\nconnection: close\r\n\r\n%s" % (
            max(0, last + 1 - first),
            body[first : last + 1],
        )
