"""The real readers: what safetensors and torch refuse, and after which refusals a pass stands."""

from __future__ import annotations

import json
import os
import re
import select
import subprocess
import sys
from collections.abc import Iterator

from oracles import Fault

ARGUED = (
    ("safetensors", r"MemoryError",
    "a hole of terabytes cannot be mapped in the bounded memory of the reader's process"),
    ("safetensors", r"unknown variant",
    "a dtype that the installed safetensors does not know: a later one may"),
    ("safetensors", r"invalid type: (integer|floating point) `?-0",
    "a size of -0, which is 0 in every other reader of JSON"),
    ("torch", r"MemoryError|[Cc]annot allocate|not enough memory|OutOfMemory",
    "the memory of the reader's process was bounded, not the file refused"),
)  # fmt: skip
"""Refusals of the real readers after which a pass stands: the reader, its words, and the argument."""


def argued(reader: str, refusal: str) -> bool:
    """Tell whether a pass stands although the real reader refuses."""
    return any(reader == name and re.search(words, refusal) for name, words, _ in ARGUED)


READER = """
import json, resource, sys, warnings
warnings.simplefilter("ignore")
import torch
from safetensors import safe_open
resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
print("ready", flush=True)
for line in sys.stdin:
    reader, path = json.loads(line)
    try:
        if reader == "torch":
            torch.load(path, weights_only=True, map_location="cpu")
        else:
            with safe_open(path, "pt") as file:
                file.keys()
        answer = ""
    except BaseException as error:
        answer = type(error).__name__ + ": " + str(error)[:300] or "refused"
    print(json.dumps(answer), flush=True)
"""


class RealReaders:
    """safetensors and torch in a process of their own, since what they are given may take their memory or time."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def refusal(self, reader: str, path: str) -> str | None:
        """Return the words with which a file is refused; empty where it is read, None where that took too long."""
        process = self._process or self._start()
        assert process.stdin
        assert process.stdout
        try:
            process.stdin.write(json.dumps([reader, path]) + "\n")
            process.stdin.flush()
            if select.select([process.stdout], [], [], 20)[0]:
                return str(json.loads(process.stdout.readline()))
        except (OSError, ValueError):
            pass
        self.close()
        return None

    def _start(self) -> subprocess.Popen[str]:
        self._process = subprocess.Popen(
            [sys.executable, "-c", READER], stdin=-1, stdout=-1, stderr=subprocess.DEVNULL, text=True
        )
        assert self._process.stdout
        self._process.stdout.readline()
        return self._process

    def close(self) -> None:
        if self._process:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def faults(self, target: str) -> Iterator[Fault]:
        """Yield each weights file of a target that passed and that its real reader refuses."""
        from tiecheck.files.checkpoint import read_checkpoint

        checkpoint = read_checkpoint(target)
        for shard in checkpoint.shards if checkpoint else ():
            reader = "safetensors" if shard.path.endswith(".safetensors") else "torch"
            refusal = self.refusal(reader, os.path.join(checkpoint.root, shard.path))
            if refusal and not argued(reader, refusal):
                yield Fault("passes", f"{reader} refuses: {refusal}")
