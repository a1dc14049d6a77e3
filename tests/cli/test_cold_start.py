"""What a cold process imports: the start is a feature, so each door has a list of what must stay outside."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tiecheck.rules.registry import INDEX

HEAVY = (
    "torch",
    "transformers",
    "accelerate",
    "numpy",
    "safetensors",
    "huggingface_hub",
    "msgspec",
    "dataclasses",
    "tomllib",
)
PROGRAM = """
import sys
sys.argv = ["tiecheck", *{arguments!r}]
try:
    from tiecheck.__main__ import main
    main()
except SystemExit:
    pass
print("\\n" + ",".join(sorted({{name.partition(".")[0] for name in sys.modules}})))
"""


def imported(program: str) -> set[str]:
    """The top-level packages a fresh process has imported at its end."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split(","))


def beyond_click(arguments: list[str]) -> tuple[set[str], set[str]]:
    """Our modules, and the top level of all others, that a command line imports and `import click` does not."""
    program = PROGRAM.format(arguments=arguments).replace('.partition(".")[0]', "")
    more = imported(program) - imported("import click, sys; print(','.join(sys.modules))")
    ours = {name for name in more if name.partition(".")[0] == "tiecheck"}
    return ours, {name.partition(".")[0].lstrip("_") for name in more - ours}


@pytest.mark.parametrize("case", ["llama-healthy-tied", "llama-diverged-head", "gpt2-healthy-sharded", "bert-encoder"])
def test_checking_safetensors_imports_nothing_heavy(models: Path, case: str) -> None:
    there = imported(PROGRAM.format(arguments=[str(models / case)]))
    assert not there & {*HEAVY, "rich"}


def test_facts_of_safetensors_import_nothing_heavy(models: Path) -> None:
    assert not imported(PROGRAM.format(arguments=["inspect", str(models / "llama-diverged-head")])) & {*HEAVY, "rich"}


def test_a_check_loads_nothing_of_inspect_and_of_placements(models: Path) -> None:
    program = PROGRAM.format(arguments=[str(models / "llama-healthy-tied")]).replace('.partition(".")[0]', "")
    others = {
        "tiecheck.cli.inspect",
        "tiecheck.render.inspect",
        "tiecheck.peers.views.registry",
        "tiecheck.records.placement",
        "tiecheck.placement.asked.options",
        "tiecheck.placement.asked.memory",
        "tiecheck.render.placement",
    }
    assert not imported(program) & others


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["rule", "TIE101"], ["rule"], ["check", "--help"]])
def test_help_and_rules_import_nothing_heavy(arguments: list[str]) -> None:
    assert not imported(PROGRAM.format(arguments=arguments)) & {*HEAVY, "rich", "json"}


def test_colours_import_rich_and_nothing_else(models: Path) -> None:
    there = imported(PROGRAM.format(arguments=["--color", "always", str(models / "llama-healthy-tied")]))
    assert "rich" in there
    assert not there & {"torch", "transformers", "numpy"}


def test_python_door_imports_neither_torch_nor_click() -> None:
    there = imported("import tiecheck, sys; tiecheck.check; print(','.join(sys.modules))")
    assert not there & {*HEAVY, "click", "rich"}


@pytest.mark.parametrize("case", ["gpt2-healthy-sharded", "llama-diverged-head", "bert-encoder"])
def test_a_rule_is_loaded_only_where_its_facts_are_on_offer(models: Path, case: str) -> None:
    there = imported(
        f"import sys, tiecheck; (report,) = tiecheck.check({str(models / case)!r}).targets; "
        "print(','.join({*sys.modules, *report.rules_run, *(skip.code for skip in report.skips)}))"
    )
    loaded = {module for module, _ in INDEX.values() if f"tiecheck.rules.{module}" in there}
    assert loaded == {module for code, (module, _) in INDEX.items() if code in there}


@pytest.mark.parametrize(("case", "most"), [("gpt2-healthy-sharded", 94), ("llama-healthy-tied", 92)])
def test_a_plain_check_imports_few_modules(models: Path, case: str, most: int) -> None:
    """Beyond click: a module costs a start some 0.2 ms, and sixty of ours once became ninety without a word."""
    ours, others = beyond_click([str(models / case)])
    assert len(ours) <= most
    assert others <= {"gc", "signal", "json", "contextvars"}


@pytest.mark.parametrize(("arguments", "most"), [(["--version"], 8), (["rule", "TIE101"], 31)])
def test_small_commands_import_few_modules(arguments: list[str], most: int) -> None:
    ours, others = beyond_click(arguments)
    assert len(ours) <= most
    assert others <= {"gc", "signal"}
    rules = {module for module, _ in INDEX.values() if f"tiecheck.rules.{module}" in ours}
    assert rules <= {INDEX["TIE101"][0]}


def test_pytest_plugin_imports_pytest_and_nothing_else() -> None:
    program = "import pytest, sys; before = set(sys.modules); import tiecheck.testing.plugin"
    there = imported(f"{program}; print(','.join(set(sys.modules) - before))")
    assert there == {"tiecheck", "tiecheck._version", "tiecheck.testing", "tiecheck.testing.plugin"}
