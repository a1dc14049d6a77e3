"""The pages as a site: every page is in it, no link leads nowhere, and the code of the pages runs."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tiecheck.records.words import Unknown

DOCS = Path(__file__).parents[2] / "docs"
CONFIG = tomllib.loads((DOCS / "zensical.toml").read_text(encoding="utf-8"))


@pytest.mark.slow  # `.ci/run` builds it
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("zensical", reason="it is of the docs extra")
    shutil.copytree(DOCS, tmp_path / "docs", ignore=shutil.ignore_patterns(".site", ".cache", "__pycache__"))
    words = ["build", "--strict", "--clean", "-f", str(tmp_path / "docs" / "zensical.toml")]
    done = subprocess.run([sys.executable, "-m", "zensical", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    made = {path.relative_to(tmp_path / "docs" / ".site") for path in (tmp_path / "docs" / ".site").rglob("*.html")}
    assert {path.with_suffix(".html") for path in map(Path, pages_in(CONFIG["project"]["nav"]))} <= made
    home = (tmp_path / "docs" / ".site" / "index.html").read_text(encoding="utf-8")
    assert not re.search(r'(src|href)="https?://(fonts|cdn|unpkg)', home)


def pages_in(entries: list[dict[str, object]]) -> list[str]:
    found = []
    for entry in entries:
        for held in entry.values():
            found += [held] if isinstance(held, str) else pages_in(held)  # type: ignore[arg-type]
    return found


def test_every_page_is_in_the_site_once() -> None:
    listed = pages_in(CONFIG["project"]["nav"])
    assert len(listed) == len(set(listed))
    assert set(listed) == {str(path.relative_to(DOCS)) for path in (*DOCS.glob("*.md"), *DOCS.glob("evidence/*.md"))}


def test_the_rule_of_the_page_does_what_its_cases_say() -> None:
    text = (DOCS / "writing-a-rule.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    space: dict[str, object] = {"__name__": "page"}
    exec(compile(code, "writing-a-rule.md", "exec"), space)
    rule = space["UnlikeTypes"]
    assert list(rule.text()) == ["What it does", "Why it is bad", "How to fix it"]  # type: ignore[attr-defined]
    cases = list(rule.cases())  # type: ignore[attr-defined]
    for case in cases:
        drafts = list(rule().check(**case.facts))  # type: ignore[operator]
        assert not any(isinstance(draft, Unknown) for draft in drafts)
        assert tuple(draft.severity or rule.severity for draft in drafts) == case.finds, case.title  # type: ignore[attr-defined]
    assert [bool(case.finds) for case in cases].count(True) == 1
