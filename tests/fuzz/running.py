"""Cases run in this process, or each in a process of its own; counterexamples are made small and kept."""

from __future__ import annotations

import gc
import io
import json
import os
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import archives  # noqa: F401  # registers its formats
import brought  # noqa: F401  # likewise
import graphs  # noqa: F401
import tables  # noqa: F401
import trained  # noqa: F401
import twins  # noqa: F401
import weights  # noqa: F401
from cases import FORMATS, Case, drawn_case, place, to_json
from oracles import CONTROL, Fault, Measure, Watch, document_faults, message_faults, report_faults
from readers import RealReaders
from texts import LIVE
from web import Server

import tiecheck
from tiecheck.engine.options import read_settings
from tiecheck.errors import TiecheckError

WEB = frozenset(
    {
        "fsspec",
        "certifi",
        "OpenSSL",
        "brotli",
        "zstandard",
        "h2",
        "backports",
        "isal",
        "lzmaffi",
        "snappy",
        "lz4",
        "aiohttp",
        "requests",
        "yaml",
        "zlib_ng",
    }
)
HUB = "/nonexistent/hub"
os.environ["HF_HOME"] = HUB  # a place of its own: what it holds is not ours
os.environ["HOME"], os.environ["XDG_CACHE_HOME"] = "/nonexistent", ""  # no verdict of before is used again
os.environ["HF_HUB_OFFLINE"] = "1"
ARROW = frozenset({"pyarrow", "pandas", "cython_runtime"})
COMMANDS = frozenset({"command", "table"})
"""Formats whose words are the whole command line."""
PLACED = re.compile(rb"device-map|max-memory|dtype|no-split|hash-seeds")
SELDOM = {"optimizer": 3, "web": 3, "layouts": 2, "index": 2, "config": 2}
"""Formats that take longer -> every which seed draws one of them, in process."""

WAITS = 60.0
"""Seconds that a server may have us wait between tries; they are counted, not waited."""

STUCK = 20.0
"""Seconds of a processor after which a case is given up, and its process ended."""

WAITED = 300.0
"""Seconds by the clock after which a case that uses no processor is given up."""


class Bench:
    """The place where cases run: a directory in memory, a watch, the real readers and a server."""

    def __init__(self, readers: RealReaders | None = None) -> None:
        sys.dont_write_bytecode = True  # the interpreter's own writes are no fault of a reader
        base = "/dev/shm" if os.path.isdir("/dev/shm") else None
        self.folder = tempfile.mkdtemp(prefix="tiecheck-fuzz-", dir=base)
        self.root = os.path.join(self.folder, "model")
        self.watch = WATCH
        self.readers = readers or RealReaders()
        self._server: Server | None = None
        self.passed = 0

    @property
    def server(self) -> Server:
        self._server = self._server or Server()
        return self._server

    def close(self) -> None:
        import shutil

        shutil.rmtree(self.folder, ignore_errors=True)
        self.readers.close()
        if self._server:
            self._server.close()

    def faults(self, case: Case) -> list[Fault]:
        """Run a case in this process, and return what must not be."""
        place(case, self.root)
        measure = Measure()
        asked = [HUB, *(w for w in case.words if w.startswith("/"))]
        asked += [self.folder] if case.format == "toml" else []  # a map that the user's own file names by ".."
        foreign = WEB if case.format in {"web", "command", "adapter"} else frozenset()
        foreign = ARROW if case.format == "table" else foreign
        with self.watch.over(self.root, foreign=foreign, allowed=tuple(asked), writes=case.format == "table") as heard:
            try:
                found = (self._command if case.format in COMMANDS else self._call)(case)
            except Exception as error:  # noqa: BLE001  # that it gets this far is the fault
                found = [Fault("exception", f"{type(error).__name__}: {str(error)[:300]} {_origin(error)}")]
        return [*heard, *measure.faults(), *found]

    def _call(self, case: Case) -> list[Fault]:
        target = (case.words or ("{}",))[-1].replace("{}", self.root)
        if case.format == "web":
            self.server.take(case)
            target = f"{self.server.url}/m"
        options = {
            key: value.replace("{}", self.root) if isinstance(value, str) else value
            for key, value in case.options.items()
        }
        slept: list[float] = []
        sleep, time.sleep = time.sleep, slept.append  # type: ignore[assignment]
        try:
            if _placed(case):
                read_settings(options["config"])  # to judge a placement it would build the class
                return []
            report = tiecheck.check(target, **options)
        except TiecheckError as error:
            return list(message_faults(str(error)))
        finally:
            self.watch.root, time.sleep = None, sleep
        found = list(report_faults(report))
        if sum(slept) > WAITS:
            found.append(Fault("slow", f"it waits {sum(slept):.0f} s for a server"))
        if report.targets[0].status == "pass":
            self.passed += 1
            plain = {"web", "contract", "toml", "config", "onnx", "source"}
            if case.format not in plain and not target.endswith(".py"):
                found += self.readers.faults(target)
        return found

    def _command(self, case: Case) -> list[Fault]:
        from tiecheck.cli.main import cli

        words = [word.replace("{}", self.root) for word in case.words]
        out, err, status = io.StringIO(), io.StringIO(), 0
        where = os.getcwd()
        os.chdir(self.root)
        try:
            with redirect_stdout(out), redirect_stderr(err):
                cli.main(args=words, prog_name="tiecheck")
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else 1
        finally:
            self.watch.root = None
            os.chdir(where)
        return output_faults(status, out.getvalue(), err.getvalue())


WATCH = Watch()


def output_faults(status: int, out: str, err: str) -> list[Fault]:
    """Return what is wrong with what a command printed, and with its exit status."""
    found: list[Fault] = []
    if status not in (0, 1, 2):
        found.append(Fault("status", str(status)))
    if "Traceback" in err:
        found.append(Fault("traceback", err[-600:]))
    if "itself failed" in out or "crashed:" in out:
        found.append(Fault("failed", out[:600]))
    for text in (out, err):
        plain = re.sub(r"\x1b\[[\d;]*m", "", text)
        if CONTROL.search(plain):
            found.append(Fault("control character", repr(plain)[:400]))
        if "secret" in plain:
            found.append(Fault("secret", repr(plain)[:400]))
    if out.startswith('{\n "schema"'):
        try:
            document = json.loads(out, parse_constant=lambda word: float("nan"))
            found += document_faults(document) if '"targets": [' in out else ()
        except ValueError as error:
            found.append(Fault("json", str(error)))
    return found


def _origin(error: BaseException) -> str:
    """Return the innermost place of ours that an exception came through."""
    place, trace = "", error.__traceback__
    while trace:
        if "/tiecheck/" in trace.tb_frame.f_code.co_filename:
            place = f"({os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_frame.f_code.co_name})"
        trace = trace.tb_next
    return place


def in_process(case: Case) -> bool:
    """Tell whether a case can run in a process that others share: none that may import torch or a user's module."""
    return case.format != "command" or not builds(case)


def builds(case: Case) -> bool:
    """Tell whether a case asks for a class to be built, by its words or by its configuration file."""
    return bool(LIVE & set(case.words)) or any(re.match(r"[\w./{}-]+:\w", word) for word in case.words) or _placed(case)


def _placed(case: Case) -> bool:
    return case.format == "toml" and any(PLACED.search(raw) for raw in case.files.values() if isinstance(raw, bytes))


def shrunk(case: Case, fails: Callable[[Case], bool], seconds: float = 15.0) -> Case:
    """Return a smaller case that still fails: whole files, words and answers left out, then stretches of bytes."""
    end = time.monotonic() + seconds
    for field in ("files", "answers", "options"):
        for key in list(getattr(case, field)):
            smaller = case._replace(**{field: {k: v for k, v in getattr(case, field).items() if k != key}})
            if time.monotonic() < end and fails(smaller):
                case = smaller
    for at in range(len(case.words) - 1, -1, -1):
        smaller = case._replace(words=case.words[:at] + case.words[at + 1 :])
        if case.format in COMMANDS and time.monotonic() < end and fails(smaller):
            case = smaller
    for key, given in list(case.files.items()):
        raw = given
        size = len(raw) // 2 if isinstance(raw, bytes) and not raw.startswith(b"PK") else 0
        while size and time.monotonic() < end:
            at = 0
            while at < len(raw) and time.monotonic() < end:
                smaller = case._replace(files=case.files | {key: raw[:at] + raw[at + size :]})
                if fails(smaller):
                    case, raw = smaller, smaller.files[key]
                else:
                    at += size
            size //= 2
    return case


class Ledger:
    """What was run and found, of one run."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.cases: Counter[str] = Counter()
        self.processes: Counter[str] = Counter()
        self.passed = 0
        self.faults: Counter[str] = Counter()

    def keep(self, case: Case, fault: Fault, seed: int, fails: Callable[[Case], bool] | None = None) -> None:
        """Count a fault; the first of its sort is made small and written down."""
        sort = f"{case.format}: {fault.sort}"
        self.faults[sort] += 1
        if self.faults[sort] > 1 or self.folder is None:
            return
        print(f"{case.format} {seed}: {fault.kind}: {fault.said}"[:300], flush=True)
        small = shrunk(case, fails) if fails and fault.kind not in {"slow", "memory", "hang"} else case
        self.folder.mkdir(parents=True, exist_ok=True)
        name = f"{case.format}-{re.sub(r'[^a-z]+', '-', fault.kind)}-{seed}.json"
        (self.folder / name).write_text(to_json(small, kind=fault.kind, said=fault.said, seed=seed), "utf-8")


def run_here(
    formats: list[str], seeds: range, ledger: Ledger, seconds: float, note: Callable[[int, str], None] = lambda *_: None
) -> int:
    """Run cases in this process, each seed for every format in turn.

    Returns:
        The seed that comes next.
    """
    bench = Bench()
    end = time.monotonic() + seconds

    def _again(case: Case, kind: str) -> bool:
        note(seed, name)
        return any(fault.kind == kind for fault in bench.faults(case))

    gc.freeze()  # what is imported by now stays: it need not be looked through every few cases
    gc.set_threshold(20_000)
    try:
        for seed in seeds:
            for name in formats:
                if seed % SELDOM.get(name, 1):
                    continue
                note(seed, name)
                case = drawn_case(name, seed)
                if not in_process(case):
                    continue
                for fault in bench.faults(case):
                    ledger.keep(case, fault, seed, lambda c, kind=fault.kind: _again(c, kind))
                ledger.cases[name] += 1
            if time.monotonic() > end:
                return seed + 1
        return seeds.stop
    finally:
        ledger.passed += bench.passed
        bench.close()


def all_formats() -> list[str]:
    """Every format, in a fixed order."""
    return sorted(FORMATS)
