"""The fuzzer in two fixed lanes, the corpus of every fault found, and a fuzzer that sees what it has to see."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from cases import Case, drawn_case, from_json, to_json
from lanes import sampled

HERE = Path(__file__).parent


def fuzz(*words: object, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the script: its audit hook stays for ever, and torch must not be there."""
    command = [sys.executable, str(HERE), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=folder, check=False)


@pytest.mark.parametrize("seed", sampled([1, 2_000_000]))
def test_drawn_cases_break_no_promise(tmp_path: Path, seed: int) -> None:
    done = fuzz("--seed", seed, "--cases", 220, "--seconds", 100, "--found", tmp_path / "found", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_whole_processes_break_no_promise(tmp_path: Path) -> None:
    done = fuzz("--processes", 60, "--seed", 7, "--seconds", 60, "--found", tmp_path / "found", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_fault_that_was_found_stays_mended(tmp_path: Path) -> None:
    done = fuzz("--replay", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_seed_is_always_the_same_case_and_is_kept_as_it_is() -> None:
    import archives  # noqa: F401
    import brought  # noqa: F401
    import graphs  # noqa: F401
    import tables  # noqa: F401
    import trained  # noqa: F401
    import twins  # noqa: F401
    import web  # noqa: F401
    from cases import FORMATS

    for name in FORMATS:
        for seed in range(5):
            case = drawn_case(name, seed)
            assert case == drawn_case(name, seed)
            kept, about = from_json(to_json(case, kind="x"))
            assert kept == case
            assert about == {"kind": "x"}


SIGHT = """
import json, os, socket, sys
sys.path.insert(0, sys.argv[1])
import running, oracles
from cases import Case
def odd(target, **options):
    open("/etc/hostname").close()
    __import__("pip")
    b"x" * (700 << 20)
    raise ValueError("x")
running.tiecheck.check = odd
bench = running.Bench()
print(json.dumps([fault.kind for fault in bench.faults(Case("config", {"a": b"x"}))]))
case = Case("config", {"a": b"x" * 40 + b"BAD" + b"y" * 99, "b": b""})
small = running.shrunk(case, lambda c: b"BAD" in c.files.get("a", b""))
print(json.dumps(small._asdict(), default=str))
bench.close()
"""


def test_what_must_not_be_is_seen_and_made_small(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SIGHT, str(HERE)], capture_output=True, text=True, timeout=60, cwd=tmp_path, check=True
    )
    kinds, small = map(json.loads, done.stdout.splitlines())
    assert {"open", "import", "memory", "exception"} <= set(kinds)
    assert Case(**small).files == {"a": "b'BAD'"}


@pytest.mark.parametrize(
    ("message", "kind"),
    [("tiecheck itself failed: x", "failed"), ("a\x1b[31m", "control character"), ("a\nb", "lines"),
        ("x" * 3000, "long"),
     ("http://u:secret@h", "secret")],
)  # fmt: skip
def test_a_message_is_one_printable_sentence(message: str, kind: str) -> None:
    code = "import sys, json; sys.path.insert(0, sys.argv[1]); import oracles\n"
    code += "print(json.dumps([fault.kind for fault in oracles.message_faults(sys.argv[2])]))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(HERE), message], capture_output=True, text=True, timeout=60, check=True
    )
    assert json.loads(done.stdout) == [kind]
