"""A bucket of moto with a fleet in it, for bench_fleet.py: it answers late, and spoils some answers."""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from loopback import own


@contextmanager
def bucket(count: int, latency: float, faults: float) -> Iterator[tuple[str, Counter[str]]]:
    """Give the address of so many models, and what the server counts: requests, faults, those of them cut, bytes."""
    import boto3
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    app = DomainDispatcherApplication(create_backend_app)
    counts: Counter[str] = Counter()
    draw = random.Random(1)
    spoil = threading.Event()

    def counted(environ, start_response):
        if not spoil.is_set():
            return app(environ, start_response)
        time.sleep(latency)
        counts["requests"] += 1
        spoilt, cut = draw.random() < faults, draw.random() < 0.5
        counts["faults"] += spoilt
        if spoilt and not cut:
            start_response("503 Slow Down", [("Content-Length", "0")])
            return [b""]
        body = b"".join(app(environ, start_response))
        if spoilt:  # the length that was announced does not come
            counts["cut"] += 1
            body = body[: len(body) // 2]
        counts["bytes"] += len(body)
        return [body]

    server = make_server("127.0.0.1", 0, counted, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    os.environ |= {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_ENDPOINT_URL": url,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    client = boto3.client("s3")
    client.create_bucket(Bucket="models")
    for i in range(count):
        config, weights = own(b"/own/%d/" % i)
        for name, raw in (("config.json", config), ("model.safetensors", whole_file(weights))):
            client.put_object(Bucket="models", Key=f"fleet/{i:06d}/{name}", Body=raw)
    spoil.set()
    try:
        yield "s3://models/fleet", counts
    finally:
        server.shutdown()


def whole_file(begins: bytes) -> bytes:
    """A small file with the header of a large one, its sizes cut to fit."""
    import json

    length = int.from_bytes(begins[:8], "little")
    entries = json.loads(begins[8 : 8 + length])
    notes = entries.pop("__metadata__")
    made = {
        name: {"dtype": "BF16", "shape": [2, 1], "data_offsets": [4 * i, 4 * i + 4]} for i, name in enumerate(entries)
    }
    text = json.dumps({"__metadata__": notes} | made).encode()
    return len(text).to_bytes(8, "little") + text + bytes(4 * len(made))
