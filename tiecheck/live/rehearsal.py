"""Rehearse a directory's load: in this process, or in another interpreter with the transformers that it has.

The library's own `from_pretrained` runs on the meta device; `transformers/rehearse_child.py` watches it.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Self

from tiecheck.errors import MissingExtraError, TargetError
from tiecheck.files.limits import Account, current
from tiecheck.files.model_config import read_config
from tiecheck.records.loaders import Rehearsal, read_rehearsal
from tiecheck.records.stored import Checkpoint

CHILD = Path(__file__).with_name("transformers") / "rehearse_child.py"
TIMEOUT = 300.0
"""Seconds that one load may take in another interpreter, the import of its transformers included."""


def rehearse(directory: str, python: str | None = None, *, timeout: float | None = TIMEOUT, **asked: Any) -> Rehearsal:
    """Return what transformers makes of a model directory, without reading weights beyond stored tied members.

    Args:
        directory: The directory.
        python: The interpreter to ask; None for the transformers of this process, which knows no time limit.
        timeout: Seconds, for another interpreter; None for no limit.
        asked: What `rehearse_child.rehearse_on_meta` takes: `class_name` (by default the one that the config names),
            `trust_remote_code` (by default false), and `values`, whether stored members are compared where the loader
            compares them (by default true; not for a shadow directory).

    Raises:
        MissingExtraError: No interpreter is named, and torch or transformers is not installed here.
    """
    if python is not None:
        with Rehearser(python, timeout) as other:
            return other.rehearse(directory, **asked)
    try:
        import torch  # noqa: F401
        import transformers  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("Rehearsing a load", "live") from error
    from tiecheck.live.transformers.confined import limited_modules, require_models

    try:
        require_models()
    except TargetError as error:
        return Rehearsal("", None, unsure=str(error))
    from tiecheck.live.transformers import rehearse_child

    refused = _refused(directory)
    if refused is not None:
        return refused
    with limited_modules():
        return read_rehearsal(rehearse_child.rehearse_on_meta(directory, **asked))


def _refused(directory: str) -> Rehearsal | None:
    """Return the answer for a directory that is not loaded: a file leads out of it, or its config asks for too much."""
    from tiecheck.live.transformers.confined import refuse_counts, refuse_outside

    token = current.set(Account())  # of its own: a shadow is gone when the target's files are looked at again
    try:
        refuse_outside(directory)
        config = read_config(directory)
        refuse_counts(config.data if config is not None else {})
    except TargetError as error:
        return Rehearsal("", None, unsure=str(error))
    finally:
        current.reset(token)
    return None


class Rehearser:
    """Another interpreter that rehearses one directory after the other; one process until a load hangs or kills it."""

    def __init__(self, python: str, timeout: float | None = TIMEOUT) -> None:
        """Name the interpreter; it starts with the first directory.

        Args:
            python: Path of a Python from 3.9 on that imports transformers from 4.50 on.
            timeout: Seconds for each directory; None for no limit.
        """
        self.python, self.timeout = python, timeout
        self._process: subprocess.Popen[str] | None = None
        self._answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._errors: IO[str] | None = None
        self._reader: threading.Thread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def rehearse(self, directory: str, **asked: Any) -> Rehearsal:
        """Return what that interpreter's transformers makes of a directory; `unsure` where it could not say."""
        refused = _refused(directory)
        if refused is not None:
            return refused
        try:
            given = self._started().stdin
            with contextlib.suppress(BrokenPipeError):  # it has ended, and has said why
                print(json.dumps({"directory": os.path.abspath(directory), **asked}), file=given, flush=True)
            line = self._answers.get(timeout=self.timeout)
        except queue.Empty:
            self.close()
            return Rehearsal("", None, unsure=f"the rehearsal was not done in {self.timeout:g} seconds")
        except OSError as error:
            self.close()
            return Rehearsal("", None, unsure=f"{self.python} does not run: {error.strerror or error}")
        if not line:
            reason = self._last_words()
            self.close()
            return Rehearsal("", None, unsure=f"{self.python} ended without an answer{reason}")
        return read_rehearsal(json.loads(line))

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # with what it started, which holds its output open
            process.wait()
            if self._reader is not None:
                self._reader.join(1)
            for stream in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):
                    stream.close()  # type: ignore[union-attr]
        if self._errors is not None:
            self._errors.close()
            self._errors = None

    def _started(self) -> subprocess.Popen[str]:
        if self._process is not None:
            return self._process
        offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        self._process = subprocess.Popen(  # noqa: S603 - the interpreter that was named
            [self.python, str(CHILD)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            encoding="utf-8",
            start_new_session=True,
            env={**os.environ, **offline, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")},
        )
        self._answers = queue.SimpleQueue()
        self._reader = threading.Thread(target=_read_lines, args=(self._process.stdout, self._answers), daemon=True)
        self._reader.start()
        return self._process

    def _last_words(self) -> str:
        if self._errors is None:
            return ""
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors.read()[-4000:].splitlines() if line.strip()]
        return f": {lines[-1][:300]}" if lines else ""


def _read_lines(stream: IO[str], answers: queue.SimpleQueue[str]) -> None:
    with contextlib.suppress(ValueError, OSError):  # closed while it waits
        for line in stream:
            answers.put(line)
    answers.put("")


@contextlib.contextmanager
def shadow_directory(texts: Mapping[str, str], headers: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Make a directory that a remote model's load can be rehearsed in: its JSON files, and weights of headers alone.

    Args:
        texts: File name -> text: `config.json`, and the index of a sharded model.
        headers: Safetensors file -> its entries (name -> dtype, shape, offsets), as `Shard.entries` has them.

    Yields:
        The directory's path, until the context ends. The files are sparse: rehearse them with `values=False`.
    """
    with tempfile.TemporaryDirectory(prefix="tiecheck-shadow-") as folder:
        for name, text in texts.items():
            _place(folder, name).write_text(text, encoding="utf-8")
        for name, entries in headers.items():
            write_shadow(_place(folder, name), entries)
        yield folder


def shadow_of(config_text: bytes, checkpoint: Checkpoint) -> contextlib.AbstractContextManager[str]:
    """Make the shadow directory of a remote checkpoint of which config and headers were fetched."""
    texts = {"config.json": config_text.decode("utf-8", "replace")}
    if checkpoint.index_file:
        texts[checkpoint.index_file] = json.dumps({"metadata": {}, "weight_map": dict(checkpoint.weight_map)})
    return shadow_directory(texts, {shard.path: shard.entries for shard in checkpoint.shards})


def write_shadow(path: Path, entries: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file that has a header and the size of its data, and no data."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, entry in entries.items():
        if isinstance(entry, dict):
            dtype, shape, (start, stop) = entry["dtype"], entry["shape"], entry["data_offsets"]
        else:
            dtype, shape, start, stop = entry.dtype, entry.shape, entry.data_offsets.start, entry.data_offsets.end
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop]}
        end = max(end, stop)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


def _place(folder: str, name: str) -> Path:
    """Return the path of a file directly within a folder."""
    if os.path.basename(name) != name or name in {"", ".", ".."}:
        raise ValueError(f"{name!r} is no plain file name")
    return Path(folder, name)
