"""Real servers on loopback: files with ranges and faults on demand, and a hub that redirects to a second server."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Files:
    """A server of some bytes by path. It counts what it sent; `fault` may answer in its place."""

    def __init__(self, files: dict[str, bytes], certificate: str | None = None) -> None:
        self.files = files
        self.latency = 0.0
        self.fault: Callable[[Handler], bool] = lambda _: False
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.sent = 0
        self.busy = self.most = 0
        self.lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"files": self}))
        self._server.daemon_threads = True
        scheme = "http"
        if certificate:
            import ssl

            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
            self._server.handle_error = lambda *_: None  # a client that does not trust us is what is tested
            scheme = "https"
        self.url = f"{scheme}://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def gather(self, count: int, held: Callable[[Handler], bool]) -> None:
        """Hold each answer that is meant until so many are under way, however slow the machine: 20 s at most."""
        there = threading.Event()

        def hold(handler: Handler) -> bool:
            if held(handler):
                if self.busy >= count:
                    there.set()
                there.wait(20)
            return False

        self.fault = hold

    def paths(self) -> list[str]:
        return [path for path, _ in self.requests]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    files: Files
    disable_nagle_algorithm = True

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        files = self.files
        with files.lock:
            files.requests.append((self.path, {k.lower(): v for k, v in self.headers.items()}))
            files.busy += 1
            files.most = max(files.most, files.busy)
        try:
            time.sleep(files.latency)
            if not files.fault(self):
                self.serve(files.files.get(unquote(urlsplit(self.path).path)))
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        finally:
            with files.lock:
                files.busy -= 1

    def serve(self, raw: bytes | None) -> None:
        """A file, or the range of it that is asked for."""
        if raw is None:
            self.answer(404, b"no such file")
            return
        asked = self.headers.get("Range")
        if not asked:
            self.answer(200, raw)
            return
        begin, _, end = asked.removeprefix("bytes=").partition("-")
        first, last = int(begin), min(int(end), len(raw) - 1)
        if first > last:
            self.answer(416, b"", {"Content-Range": f"bytes */{len(raw)}"})
            return
        self.answer(206, raw[first : last + 1], {"Content-Range": f"bytes {first}-{last}/{len(raw)}"})

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        for at in range(0, len(body), 65536):
            piece = body[at : at + 65536]
            with self.files.lock:  # before it is sent: the client may be done before we are
                self.files.sent += len(piece)
            self.wfile.write(piece)


class Hub(Files):
    """A hub of one model: its API, and `resolve`, which sends large files to a second server with another port."""

    def __init__(self, repo: str, files: dict[str, bytes], *, token: str | None = None) -> None:
        self.repo = repo
        self.token = token
        self.refs = {"main": COMMIT, COMMIT: COMMIT, "refs/pr/1": COMMIT, "v1.0": COMMIT}
        self.cdn = Files({f"/cdn/{name}": raw for name, raw in files.items()})
        super().__init__({})
        self.model = files
        self.fault = self._route

    def close(self) -> None:
        super().close()
        self.cdn.close()

    def _route(self, handler: Handler) -> bool:
        path = urlsplit(handler.path).path
        if self.token and handler.headers.get("Authorization") != f"Bearer {self.token}":
            handler.answer(401, b"", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
            return True
        api = f"/api/models/{self.repo}/revision/"
        if path.startswith(api):
            commit = self.refs.get(unquote(path.removeprefix(api)))
            if commit is None:
                handler.answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
                return True
            listing = {"sha": commit, "siblings": [{"rfilename": name} for name in self.model]}
            handler.answer(200, json.dumps(listing).encode())
            return True
        resolve = f"/{self.repo}/resolve/{COMMIT}/"
        if not path.startswith(resolve):
            handler.answer(404, b"", {"X-Error-Code": "RepoNotFound"})
            return True
        name = unquote(path.removeprefix(resolve))
        if name.endswith((".safetensors", ".bin")):
            handler.answer(302, b"", {"Location": f"{self.cdn.url}/cdn/{name}?signature=abc"})
        else:
            handler.serve(self.model.get(name))
        return True
