"""The fuzzer: `python tests/fuzz --seconds 600`, `--processes 1000`, `--replay`, `--page`.

Cases are drawn from seeds, format by format; each seed is always the same case. Counterexamples are made small and
written to `--found`; a fault that was mended is moved to `tests/fuzz/corpus`, which the tests replay. What was run is
added to `tests/fuzz/runs.jsonl`, of which `--page` writes docs/evidence/fuzz.md.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import resource
import signal
import sys
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path

from cases import drawn_case, from_json
from oracles import Fault, used_by
from processes import run_processes
from readers import ARGUED
from running import STUCK, WAITED, Bench, Ledger, all_formats, run_here

HERE = Path(__file__).parent
RUNS = HERE / "runs.jsonl"
CORPUS = HERE / "corpus"
PAGE = HERE.parents[1] / "docs" / "evidence" / "fuzz.md"
ROOM = 3 << 30
"""Bytes of memory that a fuzzing process may take beside what it has: more is an error in it, not in the machine."""


def supervised(formats: list[str], begin: int, count: int, seconds: float, found: Path) -> Ledger:
    """Run cases in a child; where one does not come to an end it is ended, and another child goes on behind it."""
    whole = Ledger(found)
    now = multiprocessing.RawArray("d", 4)  # the seed, the format, since when by the clock and by the processor
    end, stop = time.monotonic() + seconds, begin + count
    context = multiprocessing.get_context("fork")
    while begin < stop and time.monotonic() < end:
        receiver, sender = context.Pipe(duplex=False)
        now[0], now[1], now[2], now[3] = begin, 0, time.monotonic(), 0
        child = context.Process(
            target=_child, args=(formats, range(begin, stop), end - time.monotonic(), found, now, sender, whole.faults)
        )
        child.start()
        sender.close()
        stuck = False
        while child.is_alive() and not stuck:
            stuck = used_by(child.pid or 0) - now[3] > STUCK or time.monotonic() - now[2] > WAITED
            _receive(receiver, whole)
            time.sleep(0.05)
        if stuck:
            os.kill(child.pid or 0, signal.SIGKILL)
        child.join()
        _receive(receiver, whole)
        if child.exitcode == 0:
            break
        seed, name = int(now[0]), formats[int(now[1])]
        kind = "hang" if stuck else "killed"
        whole.keep(drawn_case(name, seed), Fault(kind, f"exit {child.exitcode}"), seed)
        begin = seed + 1
    return whole


def _receive(receiver, whole: Ledger) -> None:
    try:
        while receiver.poll():
            cases, passed, faults = receiver.recv()
            whole.cases.update(cases)
            whole.passed += passed
            whole.faults.update(faults)
    except (EOFError, OSError):
        pass


def _child(formats, seeds, seconds, found, now, sender, known) -> None:  # noqa: PLR0917  # as the process is given them
    resource.setrlimit(resource.RLIMIT_AS, (_size() + ROOM, resource.RLIM_INFINITY))
    ledger = Ledger(found)
    ledger.faults.update(dict.fromkeys(known, 1))  # of which one is kept already
    sent: Counter[str] = Counter()

    def note(seed: int, name: str) -> None:
        now[0], now[1], now[2], now[3] = seed, formats.index(name), time.monotonic(), time.process_time()
        if seed % 100 == 0 and name == formats[0]:
            flush()

    def flush() -> None:
        fresh = ledger.faults - Counter(dict.fromkeys(known, 1)) - sent
        sender.send((dict(ledger.cases), 0, dict(fresh)))
        sent.update(fresh)
        ledger.cases.clear()

    run_here(formats, seeds, ledger, seconds, note)
    flush()
    sender.send(({}, ledger.passed, {}))
    sender.close()
    sys.stdout.flush()
    os._exit(0)


def _size() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def replay(folder: Path) -> int:
    """Run every case that was kept again, and say what is still wrong."""
    bench = Bench()
    count = 0
    for path in sorted(folder.glob("*.json")):
        case, _ = from_json(path.read_text("utf-8"))
        for fault in bench.faults(case):
            count += 1
            print(f"{path.name}: {fault.kind}: {fault.said}")
    bench.close()
    return count


def versions() -> str:
    names = ("tiecheck", "torch", "safetensors", "click", "msgspec", "urllib3")
    return ", ".join([f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in names)])


BENCH = """
Two alarms were the bench's own, and it was put right: a process that waited 61 seconds by the clock on a busy machine
and took 3.8 of a processor (seed 440000035), and the command line's cache of verdicts in the user's home (910500000). A
third was `device-map = ".."` in a configuration that the user names, which is opened, and refused as a folder
(560002411): what the user's own file names is asked for, and the bench lets it be opened. That stands: no key of a
configuration names anything that is run or written, a pipe or a device in its place is refused, and a file that came
with a model is never obeyed, nor read, wherever it lies in it (`tests/config/test_config_file.py` draws them).

## Attacks by hand

An hour of attacks that no case drew found what drawn tests now hold. Of a `.tiecheck-fix` that came with the model,
names with `..` were created and moved outside, and a pipe in it was waited for (`tests/fix/test_writing.py`). A link in
the place of a new source was written through (`tests/fix/test_sources.py`). A configuration file below the target was
obeyed, and a hole of terabytes with the name of one was read. An adapter opened whatever directory it called its base.
`--hash-seeds` imported `json.py` of the working directory. `--changed-only` ran the filters of a repository. A baseline
of a device, a pipe in the hub's cache, folders a thousand deep, file names that are no text in SARIF, `--timeout nan`,
and class names and runs of backticks in Markdown were the others. Files of 1 MB of nothing but statements took 550 MB.

## Hostile targets as whole processes

`tests/cli/test_hostile_targets.py` makes 155 targets of 11 kinds in every run, and heavy ones of 5 kinds under `-m
slow`, and holds for each its words, its exit status, its seconds of a processor and its memory. 48 are drawn siblings:
other files, keys, digits, spellings and depths than those that were met. `tests/cli/test_hostile_kinds.py` has a
sibling in another shape for each of the 21 kinds that were reported, and fails where one has none: directories (of 17
kinds), sixteen servers, eight ways in which a file changes while it is read, signals at drawn moments in six commands,
modules whose code raises, and loads that lead out. A link that is swapped in between a look and an open has drawn tests
in `tests/files/test_swapped_links.py`, a cache of verdicts that others have prepared in `tests/engine`.

## Faults that hands and new kinds of cases found last

Rows of a fleet's table with a field of another type ("itself failed"; now a format of the fuzzer), a table that is a
pipe or a device (waited for, or read without end), a class whose `__class__` raises (an exception out of `check`), a
link swapped in between look and open (followed: ten of fifteen drawn swaps read bytes outside), a cache of verdicts
that others may write to (believed), `transformers_weights` that names another file (a pass of what is not loaded).
Files of two formats at once and names in twins (`polyglot`, `twin`) found nothing.
"""


def write_page() -> None:
    """Write docs/evidence/fuzz.md from the runs and the corpus."""
    here: Counter[str] = Counter()
    processes: Counter[str] = Counter()
    told: list[str] = []
    runs = [json.loads(line) for line in RUNS.read_text("utf-8").splitlines()]
    for run in runs:
        here.update(run["cases"])
        processes.update(run["processes"])
    last = runs[-1]
    for sort, count in sorted(last["faults"].items()):
        told.append(f"- {sort.replace('|', ' ')} ({count:,})")
    kept = [(path.stem, from_json(path.read_text("utf-8"))[1]) for path in sorted(CORPUS.glob("*.json"))]
    text = (
        f"""# The fuzzer

Written by `python tests/fuzz --page`; do not edit it by hand. {last["versions"]}.

`python tests/fuzz --seconds 3600 --seed N` draws targets of every format that is read, and command
lines, each from its seed: sound ones with one thing or several made wrong. Every case is judged for: an exception that
gets out, a "tiecheck itself failed", more than 5 seconds of processor time, more than 512 MiB of growth, an open
outside of the target, a socket elsewhere than on 127.0.0.1, an import that a plain check does not make, a process, code
of the target, a report that is no strict JSON or breaks the schema, a message of several lines, with control characters
or a secret, and a pass on weights that `safetensors.safe_open` or `torch.load(weights_only=True)` refuses. A whole
process is forked from one that has the command line imported: its streams, limits and end are its own.

| format | cases in process | whole processes |
|---|---|---|
"""
        + "".join(f"| {name} | {here[name]:,} | {processes[name]:,} |\n" for name in sorted(here | processes))
        + f"""| all | {here.total():,} | {processes.total():,} |

Of the cases in process {sum(run["passed"] for run in runs):,} passed; of those that
are about weights each file was given to its real reader, and these refusals are argued:

| reader | its words | why the pass stands |
|---|---|---|
"""
        + "".join(f"| {name} | `{words.replace('|', ' or ')}` | {why} |\n" for name, words, why in ARGUED)
        + """
## Faults found and mended

Each is a file in `tests/fuzz/corpus`, and is replayed by the tests.

| case | kind | said before |
|---|---|---|
"""
        + "".join(
            f"| {name} | {about['kind']} | {' '.join(about['said'].split())[:140].replace('|', ' ')} |\n"
            for name, about in kept
        )
    )
    text += "\nThe figures add up runs of several commits, some before a fault was mended.\n"
    text += BENCH
    text += "\n## Faults of the last run\n\n" + ("\n".join(told) or "None.") + "\n"
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(text, "utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="seconds in all")
    parser.add_argument("--cases", type=int, default=1 << 40, help="cases a format, at most")
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--format", action="append", choices=all_formats(), help="a format; repeatable; all by default")
    parser.add_argument("--processes", type=int, default=0, help="run so many cases, each as a whole process")
    parser.add_argument("--found", type=Path, default=Path("fuzz-found"), help="where counterexamples are written")
    parser.add_argument("--replay", nargs="?", const=CORPUS, type=Path, help="run the kept cases of a folder again")
    parser.add_argument("--record", action="store_true", help="add the figures to tests/fuzz/runs.jsonl")
    parser.add_argument("--page", action="store_true", help="write docs/evidence/fuzz.md")
    asked = parser.parse_args()
    if asked.replay:
        return 1 if replay(asked.replay) else 0
    ledger = Ledger(asked.found)
    if asked.processes:
        run_processes(asked.format or all_formats(), range(asked.seed, 1 << 40), ledger, asked.processes, asked.seconds)
    elif not asked.page or asked.record:
        ledger = supervised(asked.format or all_formats(), asked.seed, asked.cases, asked.seconds, asked.found)
    total = ledger.cases.total() + ledger.processes.total()
    if total:
        print(
            f"{total:,} cases, {ledger.passed:,} passes, {ledger.faults.total():,} faults of {len(ledger.faults)} sorts"
        )
    for sort, count in ledger.faults.most_common():
        print(f"  {count:6,}  {sort}")
    if asked.record:
        row = {"seed": asked.seed, "cases": ledger.cases, "processes": ledger.processes, "passed": ledger.passed,
               "faults": ledger.faults, "versions": versions()}  # fmt: skip
        with RUNS.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")
    if asked.page:
        write_page()
    return 1 if ledger.faults else 0


if __name__ == "__main__":
    sys.exit(main())
