"""Findings on published code: `python tests/benchmarks/bench_published.py FOLDER... [--fetch NAME...] [--write PAGE]`.

Each folder holds the sources of one package, and is named for it and its version; `--fetch` brings wheels of PyPI into
the folders below the first one, unpacks their sources, and judges these. What was read and held of each finding stands
in `published.tsv` (package, rule, findings, how many of them are true, why); one that does not stand there is called
unread. `--write` puts the table between the marks of a page.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tiecheck.errors import TargetError
from tiecheck.records.source import SourceFile
from tiecheck.rules.registry import all_rules
from tiecheck.source.reading import read_source, source_paths

READ = Path(__file__).with_name("published.tsv")
MARKS = re.compile(r"(?s)(<!-- run: bench_published -->\n).*?(<!-- end -->)")
RULES = [rule() for rule in all_rules() if rule.code.startswith("TIE8")]


def fetched(names: list[str], below: Path) -> Iterator[str]:
    """Bring the sources of packages, without what they need, and yield the folder of each."""
    for name in names:
        with tempfile.TemporaryDirectory() as held:
            command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", held]
            subprocess.run([*command, name], check=True)
            (wheel,) = Path(held).iterdir()
            folder = below / "-".join(wheel.name.split("-")[:2])
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(folder, [n for n in archive.namelist() if n.endswith((".py", ".ipynb"))])
            yield str(folder)


def judged(folder: str) -> tuple[int, int, float, list[tuple[str, str]], list[str]]:
    """Files, those that were parsed, CPU seconds, rule and line of each finding, and what could not be read."""
    paths, files, errors = source_paths(folder), list[SourceFile](), []
    began = time.process_time()
    for path in paths:
        try:
            file = read_source(path, path)
        except TargetError as error:
            errors.append(str(error))
        else:
            files += [file] if file is not None else []
    drafts = [(rule, draft) for rule in RULES for draft in rule.check(tuple(files))]
    found = [
        (rule.code, f"{d.severity or rule.severity} {d.locations[0].path}:{d.locations[0].line}: {d.message}")
        for rule, d in drafts
    ]
    return len(paths), len(files), time.process_time() - began, found, errors


def main() -> None:
    """Judge and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+")
    parser.add_argument("--fetch", nargs="*", default=[])
    parser.add_argument("--write")
    options = parser.parse_args()
    known = {
        (p, code): (int(n), int(true), why)
        for p, code, n, true, why in (line.split("\t") for line in READ.read_text().splitlines())
    }
    folders = [*fetched(options.fetch, Path(options.folders[0]))] if options.fetch else options.folders
    rows, total, held, unread, broken, spent, quiet = [], Counter[str](), 0, 0, 0, 0.0, []
    for folder in folders:
        name = Path(folder).name
        every, parsed, seconds, found, errors = judged(folder)
        spent += seconds
        broken += len(errors)
        total.update(files=every, parsed=parsed, findings=len(found))
        print(
            f"{name}: {every} files, {parsed} parsed, {seconds:.1f} s",
            *errors,
            *(f"{c} {line}" for c, line in found),
            sep="\n  ",
            flush=True,
        )
        for code, count in sorted(Counter(code for code, _ in found).items()):
            number, true, why = known.get((name, code), (0, 0, ""))
            held += true if number == count else 0
            unread += 0 if number == count else count
            rows.append(f"| {name} | {count} {code} | {f'{true}: {why}' if number == count else 'unread'} |")
        quiet += [] if found else [name]
    share = f"{held / total['findings']:.0%}" if total["findings"] else "-"
    false = total["findings"] - held - unread
    text = [
        f"{len(folders)} trees, {total['files']:,} files, {total['parsed']:,} of them parsed, {spent:.0f} CPU seconds.",
        f"{broken} files could not be read.",
        f"{total['findings']} findings: {held} true ({share}), {false} not, {unread} unread.\n",
        "| tree | findings | true of transformers 5 |\n|---|---|---|",
        *rows,
        f"\nNothing is found in {', '.join(quiet)}.",
    ]
    print(*text, sep="\n")
    if options.write:
        page = Path(options.write)
        page.write_text(MARKS.sub(lambda m: m[1] + "\n".join(text) + "\n" + m[2], page.read_text()))


if __name__ == "__main__":
    main()
