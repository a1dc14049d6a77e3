"""Makes the table of the engines: what vLLM, SGLang, llama.cpp, mlx-lm and mergekit do with head and embedding.

Run as `python -m tiecheck.tables.generate.engines ENGINE VERSION FOLDER`, the folder being an unpacked sdist, wheel or
source tree. Its files are read as text and as syntax trees, and never imported. A pattern that the reader does not know
becomes an `unknown` with the reason. Nothing in the table is written by hand.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from tiecheck.tables.generate.engines_gguf import gguf_facts
from tiecheck.tables.generate.engines_mergekit import mergekit_facts
from tiecheck.tables.generate.engines_mlx import mlx_facts
from tiecheck.tables.generate.engines_torch import class_facts, sglang_classes, vllm_classes

PATH = Path(__file__).parent.with_name("engines.txt")
ORDER = ("vllm", "sglang", "llama.cpp", "mlx-lm", "mergekit")
HEADER = "#\tmade by python -m tiecheck.tables.generate.engines; do not edit\n"
DRAFTS = re.compile(r"NextN|MTP|Eagle|DSpark|DFlash|Draft|Classification|Reward|Assistant|Speculator")
MODELS = re.compile(r"ForCausalLM|LMHeadModel|ForConditionalGeneration")
NOTHING = "no assignment of a head was found"


def read_engine(engine: str, root: Path) -> Mapping[str, str]:
    """Read an engine's source: architecture (for mlx-lm model type) -> the fields of its line.

    Raises:
        ValueError: There is no reader for the engine.
    """
    if engine == "vllm":
        classes, alias = vllm_classes(root)
        return {name: "|".join(class_facts(found, alias, classes)) for name, found in classes.items()}
    if engine == "sglang":
        classes = sglang_classes(root)
        return {name: "|".join(class_facts(found, False, classes)) for name, found in classes.items()}
    if engine == "llama.cpp":
        facts, names, own = gguf_facts(root)
        lines = {name: "|".join(f) if isinstance(f, tuple) else f"unknown:{f}" for name, f in facts.items()}
        mapped = {f"={kind}": " ".join(dict.fromkeys(held)) for kind, held in names.items()}
        return lines | mapped | {f"gguf:{name}": use for name, use in own.items()}
    if engine == "mlx-lm":
        return {name: "|".join(f) for name, f in mlx_facts(root).items()}
    if engine == "mergekit":
        return mergekit_facts(root)
    raise ValueError(f"no reader for {engine}: there are {', '.join(ORDER)}")


def section_text(engine: str, version: str, lines: Mapping[str, str]) -> str:
    """One engine in one version as text: `@`, engine and version, then fields and the names they hold for."""
    named: dict[str, list[str]] = {}
    for name, fields in sorted(lines.items()):
        if DRAFTS.search(name) or (NOTHING in fields and not MODELS.search(name)):
            continue
        named.setdefault(" ".join(fields.split()), []).append(name)
    return f"@\t{engine}\t{version}\n" + "".join(f"{f}\t{' '.join(n)}\n" for f, n in sorted(named.items()))


def split_sections(text: str) -> dict[tuple[str, str], str]:
    """The sections of a table, by engine and version."""
    found = {}
    for part in text.split("@\t")[1:]:
        engine, version = part[: part.index("\n")].split("\t")
        found[engine, version] = f"@\t{part}"
    return found


def render(held: Mapping[tuple[str, str], str]) -> str:
    """A table of its sections, engines in the matrix's order, versions rising."""
    keys: Iterable[tuple[str, str]] = sorted(
        held, key=lambda key: (ORDER.index(key[0]), [int(n) for n in re.findall(r"\d+", key[1])])
    )
    return HEADER + "".join(held[key] for key in keys)


def write_engine_table(arguments: list[str] | None = None) -> int:
    """Writes one section of the table, or with `--check` compares it; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tiecheck.tables.generate.engines", description=__doc__)
    parser.add_argument("engine", choices=ORDER)
    parser.add_argument("version", help="the version, or for llama.cpp the commit, whose source the folder holds")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where the section differs")
    options = parser.parse_args(arguments)
    before = PATH.read_text(encoding="utf-8") if PATH.exists() else HEADER
    held = split_sections(before)
    made = section_text(options.engine, options.version, read_engine(options.engine, options.folder))
    if options.check:
        same = held.get((options.engine, options.version)) == made
        say = "the section is up to date" if same else "the section differs: run it again without --check"
        sys.stdout.write(f"{say}\n")
        return int(not same)
    held[options.engine, options.version] = made
    text = render(held)
    PATH.write_text(text, encoding="utf-8")
    sys.stdout.write(f"{len(made.splitlines()) - 1} lines, {len(made.encode()):,} bytes of {len(text.encode()):,}\n")
    return 0


if __name__ == "__main__":
    sys.exit(write_engine_table())
