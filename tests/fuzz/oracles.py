"""Oracles: a watch over opens, sockets, imports and processes, the look at a report, and the real readers."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import tiecheck

SECONDS = 5.0
GROWTH = 512 << 20
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""What a terminal takes for a command; a line and a tab are none."""
SENTENCE = 2000
"""Characters of a message at most: a path and a word or two of a file, each cut."""

PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(tiecheck.__file__)))
PLACES = tuple({os.path.realpath(place) for place in (
    *sysconfig.get_paths().values(), sys.prefix, sys.base_prefix, os.path.join(PACKAGE, "tiecheck"),
    *(place for place in sys.path if place and place != PACKAGE and "fuzz" not in place))} - {"/"})  # fmt: skip
"""Where the interpreter and what is installed lie: code and tables are read from there."""

OURS = frozenset({"tiecheck", "click", "rich", "msgspec", "safetensors", "huggingface_hub", "urllib3", "pygments",
    "markdown_it",
                  "mdurl", "__future__", "colorama", "certifi", "socks", "brotli", "brotlicffi", "compression",
                  "idna", "h2", "numpy", "charset_normalizer", "threadpoolctl"})  # fmt: skip
"""Packages that a plain check may import, and what they try to import themselves (urllib3 2.6, rich 14); numpy counts
rows that differ."""


LOOSE = frozenset({"lines", "control character", "skip", "long", "secret"})
"""Kinds whose words are mostly those of the case."""


class Fault(NamedTuple):
    """One thing that must not be."""

    kind: str
    said: str

    @property
    def sort(self) -> str:
        """The fault without what differs from case to case."""
        plain = re.sub(r"[^A-Za-z :]+", "_", re.sub(r"'[^']*'|\"[^\"]*\"|/\S+|0x[0-9a-f]+|\\\S+", "_", self.said))
        return f"{self.kind}: {plain[: 30 if self.kind in LOOSE else 120]}"


class Watch:
    """An audit hook that is there for ever, and listens while a case runs."""

    def __init__(self) -> None:
        self.root: str | None = None
        self.heard: list[Fault] = []
        self.foreign: frozenset[str] = frozenset()
        self.allowed: tuple[str, ...] = ()
        self.writes = False
        sys.addaudithook(self._hear)

    @contextmanager
    def over(
        self, root: str, *, allowed: tuple[str, ...] = (), foreign: frozenset[str] = frozenset(), writes: bool = False
    ) -> Iterator[list[Fault]]:
        """Listen while a target is read.

        Args:
            root: The target: what lies below it may be opened.
            allowed: Other paths that may be, since the command line names them.
            foreign: Other packages that may be imported.
            writes: Whether files of the target may be replaced.
        """
        self.heard, self.allowed, self.foreign, self.writes = [], (root, *allowed), foreign, writes
        self.root = os.path.realpath(root)
        try:
            yield self.heard
        finally:
            self.root = None

    def _hear(self, event: str, args: tuple[Any, ...]) -> None:
        if self.root is None:
            return
        look = HEARD.get(event)
        if look is not None:
            said = look(self, args)
            if said:
                self.heard.append(Fault(event, said))

    def open(self, args: tuple[Any, ...]) -> str | None:
        path, _, flags = (*args, None, None)[:3]
        if not isinstance(path, (str, bytes)):
            return None
        path = os.fsdecode(path)
        if path.startswith(self.allowed) and not os.path.islink(path):
            return None
        real = os.path.realpath(path) if "\0" not in path else path
        if real.startswith((str(self.root), *self.allowed)):
            return None
        if real.startswith(PLACES) and not ((flags or 0) & (os.O_WRONLY | os.O_RDWR)):
            return None
        # The interpreter itself looks for the line of a syntax error in a file of this name.
        return None if real in {"/dev/null", "/dev/tty"} or path == "<unknown>" else path

    def name(self, args: tuple[Any, ...]) -> str | None:
        word = str(args[0]).partition(".")[0]
        return (
            None
            if word in OURS or word in self.foreign or word in sys.stdlib_module_names or word.startswith("_")
            else str(args[0])
        )

    def connection(self, args: tuple[Any, ...]) -> str | None:
        address = args[1] if len(args) > 1 and isinstance(args[1], tuple) else args[:1]
        return None if address and address[0] in ("127.0.0.1", "::1", "localhost") else repr(address)

    def code(self, args: tuple[Any, ...]) -> str | None:
        code = args[0] if hasattr(args[0], "co_filename") else args[1] if len(args) > 1 else None
        file = getattr(code, "co_filename", code)
        return str(file) if isinstance(file, str) and file.startswith((str(self.root), "<pickle")) else None

    def moved(self, args: tuple[Any, ...]) -> str | None:
        paths = [os.path.realpath(os.path.dirname(path)) for path in args if isinstance(path, str)]
        inside = all(path == self.root or path.startswith(f"{self.root}{os.sep}") for path in paths)
        return None if self.writes and inside else repr(args)[:200]

    def any(self, args: tuple[Any, ...]) -> str | None:
        if args == (None,):  # ctypes opens the interpreter itself when it is imported
            return None
        return repr(args)[:200]


HEARD: dict[str, Callable[[Watch, tuple[Any, ...]], str | None]] = {
    "open": Watch.open, "import": Watch.name, "socket.connect": Watch.connection,
    "socket.getaddrinfo": Watch.connection, "socket.bind": Watch.connection,
    "os.remove": Watch.moved, "os.rename": Watch.moved,
    "exec": Watch.code, "compile": Watch.code} | dict.fromkeys(
    ("pickle.find_class", "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty",
    "ctypes.dlopen",
     "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod", "os.chown",
     "shutil.rmtree",
     "socket.sendto", "webbrowser.open", "urllib.Request", "sys.addaudithook"), Watch.any)  # fmt: skip


class Measure:
    """Seconds of this process and the growth of its largest size, from when it is made."""

    def __init__(self, *, wall: bool = False) -> None:
        self._clock = time.perf_counter if wall else time.thread_time
        self._start, self._size = self._clock(), _largest()

    def faults(self) -> Iterator[Fault]:
        seconds, growth = self._clock() - self._start, _largest() - self._size
        if seconds > SECONDS:
            yield Fault("slow", f"{seconds:.1f} s")
        if growth > GROWTH:
            yield Fault("memory", f"{growth >> 20} MiB")


def used_by(process: int) -> float:
    """Return the seconds of a processor that a process has had: on a busy machine it waits for one."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _largest() -> int:
    """Return the most bytes that this process has held; Linux hands `ru_maxrss` down from whoever started it."""
    with contextlib.suppress(OSError):
        said = os.pread(_status(os.getpid()), 4096, 0)
        return int(said[said.index(b"VmHWM:") + 6 :].split(None, 1)[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@cache
def _status(process: int) -> int:
    return os.open(f"/proc/{process}/status", os.O_RDONLY | os.O_CLOEXEC)


def message_faults(message: str) -> Iterator[Fault]:
    """Yield what is wrong with a message: it is one sentence, printable, and not the tool's own failure."""
    if "itself failed" in message or "crashed:" in message:
        yield Fault("failed", message[:400])
    if CONTROL.search(message):
        yield Fault("control character", repr(message)[:300])
    if "\n" in message.strip():
        yield Fault("lines", repr(message)[:300])
    if len(message) > SENTENCE:
        yield Fault("long", f"{len(message)} characters: {message[:150]!r}")
    if "secret" in message:
        yield Fault("secret", repr(message)[:300])


_seen: set[Any] = set()


def document_faults(document: Any) -> Iterator[Fault]:
    """Yield what is wrong with a JSON report: strict JSON, and valid by the schema that ships."""
    try:
        json.dumps(document, allow_nan=False)
    except (ValueError, TypeError) as error:
        yield Fault("json", str(error))
        return
    shape = _shape(document)
    if shape in _seen:  # alike in every type: validated before
        return
    error = next(_validator().iter_errors(document), None)
    if error is None:
        _seen.add(shape)
    else:
        yield Fault("schema", f"{'.'.join(map(str, error.absolute_path))}: {error.message[:200]}")


def _shape(value: Any) -> Any:
    kind = type(value)
    if kind is str:
        return value if len(value) < 12 else str
    if kind is dict:
        return tuple(value), tuple(map(_shape, value.values()))
    return frozenset(map(_shape, value)) if kind is list else kind


@cache
def _validator() -> Any:
    import jsonschema

    return jsonschema.Draft202012Validator(
        json.loads(Path(PACKAGE, "tiecheck/render/report.schema.json").read_text("utf-8"))
    )


def report_faults(report: Any) -> Iterator[Fault]:
    """Yield what is wrong with a report, in every form it is written in."""
    from tiecheck.render.json import json_document

    yield from document_faults(json_document(report))
    for target in report.targets:
        for error in target.errors:
            yield from message_faults(error.message)
        if target.status == "error" and not target.errors:
            yield Fault("silent", "an error without a sentence")
        for skip in target.skips:
            if "itself failed" in skip.reason or len(skip.reason) > SENTENCE or "\n" in skip.reason:
                yield Fault("skip", skip.reason[:300])
    text = str(report)
    if CONTROL.search(text):
        yield Fault("control character", repr(text)[:600])
