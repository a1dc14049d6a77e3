"""Write what is generated: the JSON schema, the index of rules, the pages of rules, commands and loaders, and blocks.

`python docs/generate.py` writes, `python docs/generate.py --check` exits with 1 where something is out of date. Where
the `live` extra is not installed, the few blocks that need it stay as they are, and their names are printed.
One source each: the records of `tiecheck/records/report.py`, the rule classes, the click commands, and the tool's own
output on the fixtures.
"""

from __future__ import annotations

import ast
import contextlib
import json
import re
import runpy
import shlex
import subprocess
import sys
import tempfile
import tomllib
import types
from collections.abc import Mapping
from html import escape
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import click
from click.testing import CliRunner

import tiecheck.records.counts
import tiecheck.records.placement
import tiecheck.records.scale
import tiecheck.records.uses
from tiecheck.cli.main import COMMANDS, cli
from tiecheck.config.file import KEYS
from tiecheck.config.options import VALUES, Config
from tiecheck.facts.registry import all_facts
from tiecheck.peers.loaders.registry import MODULES, loaders_of
from tiecheck.peers.views.registry import MODULES as VIEWS
from tiecheck.records.fleet import TieComparison
from tiecheck.records.life import SurvivalMatrix
from tiecheck.records.report import SEVERITIES, TargetReport
from tiecheck.render.json import INTERNAL, SCHEMA
from tiecheck.render.rules import rule_text
from tiecheck.rules.base import Rule
from tiecheck.rules.registry import FAMILIES, INDEX, rule_of, rules_of_family
from tiecheck.tables.symptoms import read_symptoms
from tiecheck.targets.layouts import LAYOUTS
from tiecheck.wording import listed

ROOT = Path(__file__).resolve().parent.parent
BLOCKS = ("README.md", "docs/tour.md", "docs/tutorial.md", "CONTRIBUTING.md", "docs/inspect.md", "docs/bring.md")
"""Pages written by hand, with generated blocks in them."""
LIVE = all(find_spec(name) for name in ("torch", "transformers", "accelerate"))
TOOLS = all(find_spec(name) for name in VIEWS)
"""Whether every tool is here whose view a page shows: a block stays as it is where one is not."""
HEAD = "<!-- Made by docs/generate.py; edit the source it names, not this page. -->\n"


def main() -> None:
    """Write every generated file, or compare with `--check`."""
    check = "--check" in sys.argv[1:]
    kept: set[str] = set()
    stale = []
    for name, text in pages(kept).items():
        path = ROOT / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(name)
            if not check:
                path.write_text(text, encoding="utf-8")
    verb = "out of date" if check else "written"
    print("\n".join(f"{name}: {verb}" for name in stale) or "everything generated is up to date")
    if kept:
        missing = tuple(name for name in VIEWS if not find_spec(name))
        print(f"not looked at without {listed(missing)}: {', '.join(sorted(kept))}")
    sys.exit(1 if check and stale else 0)


def pages(kept: set[str]) -> dict[str, str]:
    """Return each generated file with its text; `kept` gets the blocks that cannot be made here."""
    return {
        "tiecheck/render/report.schema.json": json.dumps(schema(), indent=1) + "\n",
        "tiecheck/rules/index.txt": rules_index(),
        "tiecheck/render/compare.schema.json": json.dumps(compare_schema(), indent=1) + "\n",
        "tiecheck/render/survive.schema.json": json.dumps(survival_schema(), indent=1) + "\n",
        "tiecheck/config/config.schema.json": json.dumps(config_schema(), indent=1) + "\n",
        "docs/rules.md": rules_page(),
        "docs/symptoms.md": symptoms_page(),
        "docs/command-line.md": command_page(),
        "docs/loaders.md": loaders_page(),
        "docs/evidence/failures.md": failures_page(),
        "docs/evidence/layouts.md": cells_page(),
        **pictures(kept),
        **{name: with_blocks((ROOT / name).read_text(encoding="utf-8"), kept) for name in BLOCKS},
    }


def schema() -> dict[str, Any]:
    """Return the JSON schema of the report, off the records' types and their fields' docstrings."""
    count = {"type": "integer", "minimum": 0}
    summary = {
        "targets": count,
        "findings": strict(dict.fromkeys(reversed(SEVERITIES), count)),
        "skips": count,
        "suppressed": count,
        "errors": count,
        "seconds": {"type": "number", "minimum": 0},
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "tiecheck report",
        "description": f"What `tiecheck --output-format json` writes, contract {SCHEMA}.",
        **strict(
            {
                "schema": {"const": SCHEMA},
                "version": {"type": "string"},
                "targets": {"type": "array", "items": type_schema(TargetReport)},
                "summary": strict(summary),
            }
        ),
    }


def compare_schema() -> dict[str, Any]:
    """Return the JSON schema of a comparison."""
    fields = {"schema": {"const": SCHEMA}, "version": {"type": "string"}, "comparison": type_schema(TieComparison)}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "tiecheck comparison",
        "description": f"What `tiecheck compare --output-format json` writes, contract {SCHEMA}.",
        **strict(fields),
    }


def survival_schema() -> dict[str, Any]:
    """Return the JSON schema of the matrix of `survive`."""
    fields = {"schema": {"const": SCHEMA}, "version": {"type": "string"}, "survival": type_schema(SurvivalMatrix)}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "tiecheck survival",
        "description": f"What `tiecheck survive --output-format json` writes, contract {SCHEMA}.",
        **strict(fields),
    }


def config_schema() -> dict[str, Any]:
    """Return the JSON schema of `[tool.tiecheck]`, and of a tiecheck.toml."""
    text, texts = {"type": "string", "minLength": 1}, {"type": "array", "items": {"type": "string"}}
    code = {"type": "string", "pattern": "^[Tt][Ii][Ee][0-9]{0,3}$"}
    group = {"type": "array", "items": text, "minItems": 2, "uniqueItems": True}
    allow = strict({"target": text, "rule": code, "reason": text, "names": texts})
    kinds: dict[str, Any] = {
        "select": {"type": "array", "items": code},
        "ignore": {"type": "array", "items": code},
        "fail-on": {"enum": list(SEVERITIES)},
        "strict": {"type": "boolean"},
        "values": {"enum": list(VALUES)},
        "for": texts,
        "offline": {"type": "boolean"},
        "timeout": {"type": "number", "minimum": 0},
        "ties": {"type": "object", "additionalProperties": {"type": "array", "items": group}},
        "allow": {"type": "array", "items": allow | {"required": ["target", "rule", "reason"]}},
        "baseline": text,
        "device-map": {"type": ["string", "integer", "object"]},
        "max-memory": {"type": "object", "additionalProperties": {"type": ["string", "integer"]}},
        "dtype": text,
        "no-split": texts,
        "hash-seeds": {"type": "integer", "minimum": 0},
    }
    documents = field_documents(Config)
    described = {key: kinds[key] | {"description": documents[field]} for key, field in KEYS.items()}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "tiecheck configuration",
        "description": "The keys of [tool.tiecheck] in pyproject.toml, or of a tiecheck.toml.",
        **strict(described),
        "required": [],
    }


def strict(properties: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of an object with exactly these properties."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def type_schema(hint: Any) -> dict[str, Any]:
    """Return the schema of one type of a field."""
    plain = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}
    if hint in plain:
        return {"type": plain[hint]}
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin in (Union, types.UnionType):
        return {"anyOf": [type_schema(argument) for argument in arguments]}
    if origin is tuple:
        return {"type": "array", "items": type_schema(arguments[0])}
    if origin is Mapping:  # JSON has no keys but texts
        return {"type": "object", "additionalProperties": type_schema(arguments[1])}
    documents = field_documents(hint)
    modules = tiecheck.records.counts, tiecheck.records.placement, tiecheck.records.uses, tiecheck.records.scale
    lazy = {name: kind for module in modules for name, kind in vars(module).items()}  # imported for types alone
    hints = {name: kind for name, kind in get_type_hints(hint, localns=lazy).items() if name not in INTERNAL}
    described = {name: type_schema(kind) | {"description": documents[name]} for name, kind in hints.items()}
    return strict(described)


def field_documents(record: type) -> dict[str, str]:
    """Return the docstring under each field of a record."""
    source = Path(str(sys.modules[record.__module__].__file__)).read_text(encoding="utf-8")
    body = next(n for n in ast.parse(source).body if isinstance(n, ast.ClassDef) and n.name == record.__name__).body
    found = {}
    for field, text in pairwise(body):
        is_text = isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and is_text:
            found[field.target.id] = str(text.value.value)
    return found


def rules_index() -> str:
    """Return the index of rules, off every module of their rooms; the pages made after it go by it too."""
    found = {}
    for room, _ in FAMILIES.values():
        for path in (ROOT / "tiecheck" / "rules" / room).glob("*.py"):
            for thing in vars(import_module(f"tiecheck.rules.{room}.{path.stem}")).values():
                if isinstance(thing, type) and issubclass(thing, Rule) and thing is not Rule:
                    found[thing.code] = (f"{room}.{path.stem}", thing.needs)
    INDEX.clear()
    INDEX.update(sorted(found.items()))
    rows = [
        "\t".join((code, module, " ".join(needs), other_severities(rule_of(code)))).rstrip("\t")
        for code, (module, needs) in INDEX.items()
    ]
    return "\n".join(rows) + "\n"


def other_severities(rule: type[Rule]) -> str:
    """Return the severities beside its own that the cases of a rule have, the gravest first."""
    found = {severity for case in rule.cases() for severity in case.finds} - {rule.severity}
    found |= {"info"} if rule.code.startswith("TIE8") and rule.severity != "info" else set()  # in a model's directory
    return ", ".join(severity for severity in reversed(SEVERITIES) if severity in found)


def rules_page() -> str:
    """Return every rule in full, under its family."""
    parts = [HEAD, "# Rules\n\n" + rules_table("")]
    for digit, (_, title) in FAMILIES.items():
        parts.append(f"## TIE{digit}xx: {title[0].lower()}{title[1:]}")
        parts += [re.sub(r"^(#+) ", r"##\1 ", rule_text(rule), flags=re.MULTILINE) for rule in rules_of_family(digit)]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def symptoms_page() -> str:
    """Return the messages that people see, each with its rules and when it is harmless."""
    rows = []
    for one in read_symptoms():
        codes = [code for code in one.codes.split() if code in INDEX]
        links = " ".join(f"[{code}](rules.md#{code.lower()}-{rule_of(code).name})" for code in codes)
        rows.append(f"| {code_cell(one.says)} | {links} | {one.when} |")
    head = (
        '# Symptoms\n\n`tiecheck rule "a pasted message"` looks here, and in the texts of the rules; `...` varies. '
        "A symptom in plain words\n(`tiecheck rule random head`) leads to rules as well."
    )
    table = "\n".join(["| you saw | rules | what to know |", "|---|---|---|", *rows])
    return f"{HEAD}{head}\n\n{table}\n"


def code_cell(text: str) -> str:
    """Return code as it stands in a table; a backslash before a `|` is shown by some renderers."""
    if "|" in text:
        return f"<code>{escape(text).replace('|', '&#124;')}</code>"
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def failures_page() -> str:
    """Return the failures that people met, each with its rule and its test."""
    made = runpy.run_path(str(ROOT / "tests" / "evidence" / "failures.py"))
    return str(made["page_text"](made["read_failures"](), frozenset(INDEX)))


def cells_page() -> str:
    """Return what people bring, each layout in each state, as it was last made."""
    made = runpy.run_path(str(ROOT / "tests" / "evidence" / "layout_cells.py"))
    return str(made["page_text"](made["read_cells"]()))


def _listed_severity(rule: type[Rule]) -> str:
    others = other_severities(rule)
    return f"{rule.severity} (or {others})" if others else rule.severity


def rules_table(page: str) -> str:
    """Return the rules in a table, each linked to its heading on the rules page."""
    rows = [
        f"| [{rule.code}]({page}#{rule.code.lower()}-{rule.name}) | {rule.name} "
        f"| {_listed_severity(rule)} | {rule.summary} |"
        for digit in FAMILIES
        for rule in rules_of_family(digit)
    ]
    return "\n".join(["| code | name | severity | finds |", "|---|---|---|---|", *rows])


def command_page() -> str:
    """Return the help of every command, as click prints it."""
    parts = [HEAD, "# Command line"]
    for words in ([], *([name] for name in COMMANDS)):
        result = CliRunner().invoke(cli, [*words, "--help"], prog_name="tiecheck", terminal_width=100)
        parts.append(f"## `{' '.join(['tiecheck', *words])}`\n\n```text\n{result.output.strip()}\n```")
    return "\n\n".join(part.strip() for part in parts) + "\n"


OUTCOMES = """\
For every tie group of a checkpoint the report says what each loader of the matrix ends up with:

| outcome | what it means |
|---|---|
| `tied` | one tensor, nothing lost |
| `kept-apart` | each member as it is stored |
| `head-discarded`, `member-discarded` | tied, and a stored tensor that differs is thrown away |
| `head-random`, `embedding-random`, `member-random` | not loaded, and nothing ties it to what is |
| `crash` | loading or the first forward pass fails; the message says how |
| `unknown` | not known, and the message says why |

`run` means that the loader itself was run in the tests, `source` that its public source was read; the versions are
those that were run or read. `--for transformers==4.57,vllm` says which of them matter: what hurts only others becomes a
note, and a note that hurts one of them a warning. `llama.cpp` takes the number of llama-cpp-python (`0.3.36`), or the
commit. `value` is what the flag says that the loader reads; null means that it is not written, which is not false. A
group that a loader has no notion of, and a class that it does not have, get no entry; where `--for` names that loader,
the target is `unknown` and no pass. Of artefacts that are no checkpoint one loader each is looked at: llama.cpp of
GGUF, transformers of adapters. Without it in `--for` the target is `unknown` too; so is ONNX with any `--for`. What
mlx-lm quantised is judged by mlx-lm where `--for` names nobody: both lines of transformers raise for all of it.

Releases of transformers 5 differ among themselves too. A table that the releases made themselves tells which groups
each ties otherwise than the newest, and that before 5.4 stored members with equal values were kept apart. Where a
release ends a group otherwise, the report has a row for its range (`5.0-5.3`), as a note: it fails nobody who does not
name that release. `--for transformers==5.18` is judged by that release, and refused where it was not asked."""


def loaders_page() -> str:
    """Return the loaders of the matrix, with the source of what is known of each."""
    known: dict[tuple[str, str], list[str]] = {}
    for loader in loaders_of():
        known.setdefault((loader.name, loader.versions), []).append(loader.checked)
    words = {"run": "running it", "source": "its source"}
    rows = [
        f"| {name} | {versions} | {', elsewhere '.join(words[word] for word in how)} |"
        for (name, versions), how in known.items()
    ]
    table = "\n".join(["| loader | versions | known by |", "|---|---|---|", *rows])
    parts = [HEAD, "# What loaders make of a checkpoint", OUTCOMES, table]
    for name, module in MODULES.items():
        text = import_module(f"tiecheck.peers.loaders.{module}").__doc__ or ""
        parts += [f"## {name}", text]
    return "\n\n".join(part.strip() for part in parts) + "\n"


RUNS: Mapping[str, list[str]] = {
    "diverged": ["fixtures/models/llama-diverged-head"],
    "loaders": ["fixtures/models/llama-head-name-only", "--for", "transformers==5,vllm"],
    "gpt2": ["fixtures/models/gpt2-embedding-draw", "--load", "--trust-remote-code"],
    "olmo": ["fixtures/models/olmo-module-alias", "--live", "--trust-remote-code", "-v"],
    "inspect": ["inspect", "fixtures/models/olmo-module-alias", "--load", "--trust-remote-code"],
    "compare": ["compare", "fixtures/models/llama-healthy-tied", "fixtures/models/llama-diverged-head"],
    "counts": ["inspect", "fixtures/models/llama-diverged-head"],
}
"""Blocks that are commands with what they print."""


DRAWN: Mapping[str, list[str]] = {
    "rows-added": ["fixtures/models/llama-added-token-rows"],
    "rows-trained": ["fixtures/models/llama-diverged-head"],
    "tree": ["fixtures/models/bart-healthy-tied", "--live"],
    "lanes": ["fixtures/models/llama-healthy-tied", "--device-map", "docs/pictures/split.json"],
}
"""Pictures of the pages: what `-f svg` writes of these."""

WALK: Mapping[str, tuple[tuple[int, str], ...]] = {
    "well": ((0, "cp -r fixtures/models/llama-healthy-tied my-model"), (0, "tiecheck my-model")),
    "broken": (
        (0, 'sed -i \'s/"tie_word_embeddings": true/"tie_word_embeddings": false/\' my-model/config.json'),
        (1, "tiecheck my-model"),
    ),
    "asked": ((1, "tiecheck fix my-model"),),
    "fixed": ((0, "tiecheck fix my-model --choose tied --apply"),),
    "again": ((0, "tiecheck my-model"),),
    "trained": ((0, "cp -r fixtures/models/llama-diverged-head merged"), (1, "tiecheck merged")),
}
"""Blocks of the tutorial: commands, run one after another in one folder, each with the status that it ends with."""


def pictures(kept: set[str]) -> dict[str, str]:
    """Return the pictures of the pages; `kept` gets those that cannot be made here."""
    made = {}
    for name, arguments in DRAWN.items():
        if len(arguments) > 1 and not LIVE:
            kept.add(name)
        else:
            made[f"docs/pictures/{name}.svg"] = output_of([*arguments, "-f", "svg"], ROOT)
    return made


def walked(kept: set[str]) -> dict[str, str]:
    """Return the blocks of the tutorial, with what each command prints."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "fixtures").symlink_to(ROOT / "fixtures")
        for name, commands in WALK.items():
            lines = []
            for status, command in commands:
                arguments = shlex.split(command)
                if arguments[0] == "tiecheck":
                    lines += [f"$ {command}", output_of(arguments[1:], Path(folder), status)]
                else:
                    subprocess.run(arguments, cwd=folder, check=True)  # noqa: S603  # written above
                    lines += [f"$ {command}"]
            found[name] = "```console\n" + "\n".join(lines) + "\n```"
    if not LIVE:
        kept.add("fixed")  # which tells of the rehearsal
        del found["fixed"]
    return found


def with_blocks(text: str, kept: set[str]) -> str:
    """Return a page with each block between `generated: NAME` marks made anew.

    Args:
        text: The page as it is.
        kept: Gets the blocks that only the `live` extra could make, where it is not installed: they stay as they are.
    """
    tables = {"rooms": rooms_table, "facts": facts_table, "layouts": layouts_table}
    walk = walked(kept) if "generated: well" in text else {}

    def block(match: re.Match[str]) -> str:
        name = match[2]
        if name in WALK:
            return f"{match[1]}{walk[name]}\n{match[3]}" if name in walk else match[0]
        if name in tables:
            return f"{match[1]}{tables[name]()}\n{match[3]}"
        if {"--load", "--live"} & set(RUNS[name]) and not (TOOLS if RUNS[name][0] == "inspect" else LIVE):
            kept.add(name)
            return match[0]
        return f"{match[1]}{shown(RUNS[name])}\n{match[3]}"

    return re.sub(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", block, text, flags=re.DOTALL)


def rooms_table() -> str:
    """Return the rooms of the package, high to low, each with its own words for what lives there."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    rows = []
    for name in next(contract["layers"] for contract in contracts if contract["type"] == "layers"):
        package = ROOT / "tiecheck" / name
        if package.is_dir():
            text = ast.get_docstring(ast.parse((package / "__init__.py").read_text(encoding="utf-8"))) or ""
            rows.append(f"| `{name}/` | {' '.join(text.split())} |")
    return "\n".join(["| room | what lives there, and what it may touch |", "|---|---|", *rows])


def layouts_table() -> str:
    """Return the layouts that are named and not read, with the sign that each is known by."""
    rows = [f"| {one.what} | {code_cell(one.sign)} | {one.way} |" for one in LAYOUTS]
    return "\n".join(["| what it is | a name in it matches | what makes a checkpoint of it |", "|---|---|---|", *rows])


def facts_table() -> str:
    """Return the facts that rules and other facts may ask for, by the module that makes them."""
    facts = all_facts()
    rows = [f"| `{one.name}` | {one.doc} | {', '.join(f'`{want.name}`' for want in one.wants)} |" for one in facts]
    return "\n".join(["| fact | what it tells | made of |", "|---|---|---|", *rows])


def shown(arguments: list[str]) -> str:
    """Run a command and return it with its output."""
    return f"```console\n$ tiecheck {' '.join(arguments)}\n{output_of(arguments, ROOT)}\n```"


def output_of(arguments: list[str], folder: Path, status: int | None = None) -> str:
    """Run a command in a folder and return what it prints, the time left out, where it ends with the status."""
    with contextlib.chdir(folder):
        result = CliRunner().invoke(cli, arguments, prog_name="tiecheck")
    raised = result.exception is not None and not isinstance(result.exception, SystemExit)
    if raised or status not in {None, result.exit_code}:
        raise click.ClickException(f"{arguments} failed with {result.exit_code}: {result.exception} {result.output}")
    return re.sub(r" \d+\.\d\d s$", "", result.stdout.strip(), flags=re.MULTILINE)


if __name__ == "__main__":
    main()
