"""Each record is the same under whatever other interpreter is on the path, 3.14 with its lazy annotations too."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]

LISTING = """
import json, os, sys
from importlib import import_module

found, lacking = {}, {}
for folder, _, files in os.walk(os.path.join(ROOT, "tiecheck")):
    for file in sorted(files):
        path = os.path.relpath(os.path.join(folder, file), ROOT)
        if not file.endswith(".py") or "generate" in path or "__main__" in path:
            continue
        name = path.removesuffix(".py").removesuffix("__init__").replace(os.sep, ".").rstrip(".")
        try:
            module = import_module(name)
        except ImportError as error:  # a library that the interpreter does not have
            lacking[name] = str(error)
            continue
        for word, thing in vars(module).items():
            if isinstance(thing, type) and hasattr(thing, "_fields") and thing.__module__ == name and word != "Record":
                found[f"{name}.{word}"] = [list(thing._fields), list(thing._field_defaults)]
print(json.dumps([sys.version.split()[0], found, lacking]))
"""
"""Lists every record of every module that can be imported: its fields, and those with a default."""

DECLARED = """
import json
from tiecheck.records.record import Record

class Declared(Record):
    first: int
    second: OnlyForATypeChecker
    third: float = 1.5

    @property
    def twice(self) -> NowhereEither:
        return 2 * self.first

try:
    class Empty(Record):
        value = 1
except TypeError as error:
    refused = str(error)
made = Declared(4, second="x")
print(json.dumps([Declared._fields, made, made.third, made.twice, refused]))
"""
"""Declares a record, whose types need not be there, and one of no fields."""

EXPECTED = [["first", "second", "third"], [4, "x", 1.5], 1.5, 8, "Empty is a record without fields"]
HERE = (sys.executable, "-c")

NODE = """
const {loadPyodide} = require("pyodide");
const [root, script] = process.argv.slice(1);
loadPyodide().then(python => {
    python.FS.mkdirTree(root);
    python.mountNodeFS(root, root);
    python.runPython(script);
});
"""
"""Runs a script in the CPython that the npm package `pyodide` has inside, found by NODE_PATH."""


@cache
def interpreters() -> dict[str, tuple[str, ...]]:
    """Find the interpreters that run: name -> command, to which a script is added."""
    commands = {f"python3.{minor}": (f"python3.{minor}", "-c") for minor in range(11, 16)}
    commands["pyodide"] = ("node", "-e", NODE, str(ROOT))
    found = {}
    for name, command in commands.items():
        if shutil.which(command[0]):
            ran = subprocess.run([*command, "print(7)"], check=False, capture_output=True, text=True, timeout=120)
            if ran.stdout.strip() == "7":
                found[name] = command
    return found


def run_in(command: tuple[str, ...], script: str) -> Any:
    """Run a script that can import the package, and return what it prints."""
    head = f"import sys; ROOT = {str(ROOT)!r}; sys.path.insert(0, ROOT); sys.dont_write_bytecode = True\n"
    ran = subprocess.run([*command, head + script], check=False, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


@pytest.fixture(params=[f"python3.{minor}" for minor in range(11, 16)] + ["pyodide"])
def other(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """Return the command of an interpreter that is on the path."""
    command = interpreters().get(request.param)
    if command is None:  # nobody has every interpreter; the fast tests draw records under this one
        pytest.skip(f"no {request.param} is on the path")
    return command


@pytest.mark.slow
@pytest.mark.parametrize("future", ["", "from __future__ import annotations\n"], ids=["lazy", "future"])
def test_a_record_reads_its_annotations(other: tuple[str, ...], future: str) -> None:
    if not future and run_in(other, "print(sys.version_info[1])") < 14:
        # the annotations of DECLARED name a type that is there for a type checker alone
        pytest.skip("before 3.14 a type that is not there is an error without the future import")
    script = f"exec(compile({future + DECLARED!r}, 'declared', 'exec', dont_inherit=True))"
    assert run_in(other, script) == EXPECTED


@pytest.mark.slow
def test_every_record_has_the_same_fields(other: tuple[str, ...]) -> None:
    version, there, lacking = run_in(other, LISTING)
    _, here, _ = run_in(HERE, LISTING)
    told = {record for record in here if record.startswith(("tiecheck.records.", "tiecheck.tables."))}
    assert told <= there.keys(), f"{version} could not import {lacking}"
    assert {record: here.get(record) for record in there} == there
    assert all(fields for fields, _ in there.values())
