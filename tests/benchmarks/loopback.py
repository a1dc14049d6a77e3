"""A server of one model for bench_remote.py, in a process of its own.

`python loopback.py LATENCY [FAULTS]` prints its port.

Such a part of the answers is spoilt: a 503, a body that is cut, or a connection that is reset.

Any path that ends in `config.json` or `model.safetensors` is there; the weights are said to have 5 GB and are zeros.
Below `/own/` every model has a config and a header of its own: the same class, and no byte-for-byte twin.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys

TENSORS = 291
EACH = 17_000_000
CONFIG = json.dumps(
    {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "tie_word_embeddings": True, "hidden_size": 4096},
    indent=2,
).encode()


def header() -> bytes:
    """A Llama's header of 291 tensors, its length before it."""
    names = ["model.embed_tokens.weight"]
    names += [f"model.layers.{i // 9}.self_attn.{'qkvoabcde'[i % 9]}_proj.weight" for i in range(TENSORS - 1)]
    entries = {
        name: {"dtype": "BF16", "shape": [EACH // 2, 1], "data_offsets": [EACH * i, EACH * (i + 1)]}
        for i, name in enumerate(names)
    }
    text = json.dumps(entries, separators=(",", ":")).encode()
    return len(text).to_bytes(8, "little") + text


def own(path: bytes) -> tuple[bytes, bytes]:
    """A config and a header that no other model has; the header names its model in its `__metadata__`."""
    name = path.split(b"/")[2]
    text = b'{"__metadata__":{"format":"pt","model":"%s"},' % name + HEADER[9:]
    return CONFIG[:-2] + b',\n  "_name_or_path": "%s"\n}' % name, len(text).to_bytes(8, "little") + text


HEADER = header()
SIZE = len(HEADER) + TENSORS * EACH


class Server(asyncio.Protocol):
    """HTTP as far as the benchmark needs it, each answer held back by the latency."""

    latency = 0.0
    faults = 0.0
    moved = 0
    requests = 0
    spoilt = 0
    draw = random.Random(1)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.rest = b""

    def data_received(self, data: bytes) -> None:
        self.rest += data
        while b"\r\n\r\n" in self.rest:
            head, self.rest = self.rest.split(b"\r\n\r\n", 1)
            asyncio.get_running_loop().call_later(self.latency, self.answer, head)

    def answer(self, head: bytes) -> None:
        path = head.split(b" ", 2)[1]
        if path == b"/moved":
            said = json.dumps([Server.moved, Server.requests, Server.spoilt]).encode()
            self.send(b"200 OK", said)
            Server.moved -= len(said)
            return
        Server.requests += 1
        fault = Server.draw.randrange(3) if Server.draw.random() < Server.faults else None
        Server.spoilt += fault is not None
        if fault == 0:
            self.send(b"503 Slow Down", b"busy")
            return
        if fault is not None:
            head = b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-65535/%d\r\nContent-Length: 65536\r\n\r\n"
            self.transport.write(head % SIZE + b"half" if fault == 1 else b"")
            self.transport.close() if fault == 1 else self.transport.abort()
            return
        config, begins = own(path) if path.startswith(b"/own/") else (CONFIG, HEADER)
        whole = SIZE - len(HEADER) + len(begins)
        if path.endswith(b"config.json"):
            self.send(b"200 OK", config)
        elif path.endswith(b"model.safetensors"):
            asked = head.lower().partition(b"range: bytes=")[2].partition(b"\r\n")[0]
            first, _, end = asked.partition(b"-")
            begin, last = int(first), min(int(end), whole - 1)
            body = begins[begin : last + 1].ljust(last + 1 - begin, b"\0")
            self.send(b"206 Partial Content", body, b"Content-Range: bytes %d-%d/%d\r\n" % (begin, last, whole))
        else:
            self.send(b"404 Not Found", b"")

    def send(self, status: bytes, body: bytes, more: bytes = b"") -> None:
        Server.moved += len(body)
        self.transport.write(b"HTTP/1.1 %s\r\n%sContent-Length: %d\r\n\r\n" % (status, more, len(body)) + body)


async def main() -> None:
    Server.latency, Server.faults = (*map(float, sys.argv[1:3]), 0.0)[:2]
    server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
