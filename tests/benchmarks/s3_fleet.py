"""A bucket of moto with a fleet in it, for bench_fleet.py: it answers late, and spoils some answers.

`python s3_fleet.py LATENCY FAULTS` is the server, in a process of its own, so that CPU seconds are the client's.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

from loopback import own

from tiecheck.files.remote import s3_store

COUNTS = "/counts"
"""The path that gives what was counted; from the first time that it is asked for on, answers are spoilt."""


@contextmanager
def bucket(count: int, latency: float, faults: float) -> Iterator[tuple[str, Callable[[], Counter[str]]]]:
    """Give the address of so many models of one kind (`kind`) and as many each its own (`own`).

    With it what gives the server's counts: requests, faults, cut, bytes.
    """
    import boto3

    command = [sys.executable, str(Path(__file__)), str(latency), str(faults)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout is not None
        url = f"http://127.0.0.1:{server.stdout.readline().strip()}"
        os.environ |= {
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_ENDPOINT_URL": url,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        s3_store._bucket.cache_clear()
        client = boto3.client("s3")
        client.create_bucket(Bucket="models")
        for i in range(count):
            for kind, number in (("kind", 0), ("own", i)):
                config, weights = own(b"/own/%d/" % number)
                for name, raw in (("config.json", config), ("model.safetensors", whole_file(weights))):
                    client.put_object(Bucket="models", Key=f"fleet/{kind}/{i:06d}/{name}", Body=raw)

        def counts() -> Counter[str]:
            with urllib.request.urlopen(url + COUNTS) as answer:
                return Counter(json.load(answer))

        counts()
        try:
            yield "s3://models/fleet", counts
        finally:
            server.kill()


def whole_file(begins: bytes) -> bytes:
    """A small file with the header of a large one, its sizes cut to fit."""
    length = int.from_bytes(begins[:8], "little")
    entries = json.loads(begins[8 : 8 + length])
    notes = entries.pop("__metadata__")
    made = {
        name: {"dtype": "BF16", "shape": [2, 1], "data_offsets": [4 * i, 4 * i + 4]} for i, name in enumerate(entries)
    }
    text = json.dumps({"__metadata__": notes} | made).encode()
    return len(text).to_bytes(8, "little") + text + bytes(4 * len(made))


class Kept(BaseHTTPRequestHandler):
    """moto behind connections that stay open, as those of S3 do; werkzeug's own server would close each."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    app: Any
    latency = faults = 0.0
    counts: ClassVar = Counter[str]()
    draw = random.Random(1)
    begun = False

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", "0")))
        if self.path == COUNTS:
            Kept.begun = True
            self.reply(200, json.dumps(self.counts).encode())
            return
        spoilt = cut = False
        if self.begun:
            time.sleep(self.latency)
            spoilt, cut = self.draw.random() < self.faults, self.draw.random() < 0.5
            self.counts["requests"] += 1
            self.counts["faults"] += spoilt
        if spoilt and not cut:
            self.reply(503, b"")
            return
        told = self.app.open(self.path, method=self.command, headers=list(self.headers.items()), data=body)
        raw = told.get_data()
        self.reply(told.status_code, raw, list(told.headers), cut=spoilt)

    def reply(self, status: int, body: bytes, headers: Sequence[tuple[str, str]] = (), *, cut: bool = False) -> None:
        """Answer; of a cut one the length that was announced does not come."""
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in {"content-length", "connection"}:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        body = body[: len(body) // 2] if cut else body
        self.close_connection |= cut
        self.counts["cut"] += cut
        self.counts["bytes"] += len(body) if self.begun else 0
        self.wfile.write(body)


def main() -> None:
    """Serve."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.test import Client

    Kept.do_PUT = Kept.do_HEAD = Kept.do_GET
    Kept.latency, Kept.faults = map(float, sys.argv[1:3])
    Kept.app = Client(DomainDispatcherApplication(create_backend_app), use_cookies=False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Kept)
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
