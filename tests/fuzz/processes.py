"""Cases run each in a whole process of its own, forked from one that has imported what they import."""

from __future__ import annotations

import gc
import json
import os
import resource
import signal
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from cases import Case, drawn_case, place
from oracles import SECONDS, Fault, used_by
from running import ARROW, COMMANDS, HUB, STUCK, WAITED, WATCH, WEB, Bench, Ledger, builds, in_process, output_faults
from texts import CONFIG


def run_process(case: Case, root: str, url: str, flags: tuple[str, ...]) -> list[Fault]:
    """Run a case as a whole process, forked from one that has everything imported, and return what must not be."""
    place(case, root)
    words = [word.replace("{}", root).replace("{url}", f"{url}/m") for word in (*case.words, *flags)]
    with (
        tempfile.TemporaryFile("w+b") as out,
        tempfile.TemporaryFile("w+b") as err,
        tempfile.TemporaryFile("w+b") as heard,
    ):
        begin = time.monotonic()
        child = os.fork()
        if not child:
            _become(words, root, case, out.fileno(), err.fileno(), heard.fileno())
        status, usage = _waited(child, begin)
        seconds = time.monotonic() - begin
        texts = []
        for stream in (out, err, heard):
            stream.seek(0)
            texts.append(stream.read().decode("utf-8", "surrogateescape"))
    found = [Fault(*json.loads(line)) for line in texts[2].splitlines()]
    if status is None:
        return [*found, Fault("hang", f"{seconds:.0f} s")]
    if usage.ru_utime + usage.ru_stime > SECONDS * (4 if builds(case) else 1):  # the imports of torch and transformers
        found.append(Fault("slow", f"{usage.ru_utime + usage.ru_stime:.1f} s"))
    growth = usage.ru_maxrss * 1024 - SIZE()
    if growth > 512 << 20 and not builds(case):
        found.append(Fault("memory", f"{growth >> 20} MiB"))
    return found + output_faults(os.waitstatus_to_exitcode(status), texts[0], texts[1])


def SIZE() -> int:  # noqa: N802
    """Bytes of this process now, with which a fork of it begins."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _waited(child: int, begin: float) -> tuple[int | None, Any]:
    while True:
        pid, status, usage = os.wait4(child, os.WNOHANG)
        if pid:
            return status, usage
        if used_by(child) > 3 * STUCK or time.monotonic() - begin > WAITED:
            os.kill(child, signal.SIGKILL)
            os.wait4(child, 0)
            return None, None
        time.sleep(0.002)


def _become(words: list[str], root: str, case: Case, out: int, err: int, heard: int) -> None:  # noqa: PLR0917
    """Be a process of `tiecheck`: its streams, its limits, its end."""
    code = 70
    try:
        os.dup2(out, 1)
        os.dup2(err, 2)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
        sys.argv = ["tiecheck", *words]
        os.environ.update(case.environment)
        os.chdir(root)
        from tiecheck.__main__ import main

        WATCH.writes = case.format == "table"
        WATCH.heard, WATCH.foreign, WATCH.allowed = (
            [],
            WEB | ARROW,
            (root, HUB, *(w for w in words if w.startswith("/"))),
        )
        WATCH.root = None if builds(case) else os.path.realpath(root)
        try:
            main()
            code = 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
        WATCH.root = None
        os.write(heard, "".join(json.dumps(fault) + "\n" for fault in WATCH.heard).encode())
        with suppress(OSError, ValueError):
            sys.stdout.flush()
    except BaseException:  # noqa: BLE001  # as the interpreter would
        import traceback

        WATCH.root = None
        traceback.print_exc()
        code = 1
    finally:
        with suppress(OSError, ValueError):
            sys.stderr.flush()
        os._exit(code)


def run_processes(formats: list[str], seeds: range, ledger: Ledger, count: int, seconds: float) -> None:
    """Run cases as whole processes, `count` of them at most."""
    bench = Bench()
    _warm(bench, formats)
    url = bench.server.url
    end = time.monotonic() + seconds
    try:
        for seed in seeds:
            for name in formats:
                if count <= 0 or time.monotonic() > end:
                    return
                if name == "contract":  # no words say it
                    continue
                count -= 1
                case = drawn_case(name, seed)
                bench.server.take(case)
                flags = (
                    ((), ("-f", "json"), ("-v",), ("-f", "json", "--strict"))[seed % 4] if name not in COMMANDS else ()
                )
                for fault in run_process(case, bench.root, url, flags):
                    ledger.keep(case, fault, seed)
                ledger.processes[name] += 1
    finally:
        bench.close()


def _warm(bench: Bench, formats: list[str]) -> None:
    """Import here, before any process is forked, what a case of each format imports."""
    import tiecheck.__main__  # noqa: F401

    for name in formats:
        for case in filter(in_process, (drawn_case(name, seed) for seed in range(20))):
            bench.faults(case)
    bench.readers.close()
    place(Case("command", {"config.json": CONFIG}), bench.root)
    for words in ((), ("-f", "json"), ("inspect",), ("--help",), ("rule", "TIE101"), ("--no-such",)):
        bench._command(Case("command", {}, (*words, "{}")))
    gc.freeze()
