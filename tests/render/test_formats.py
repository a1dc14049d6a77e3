"""Every format: it is what it claims to be, says nothing raw, and all agree on drawn reports."""

from __future__ import annotations

import io
import json
import os
import random
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree as ET

import jsonschema
import pytest

import tiecheck
from tiecheck.records.report import SEVERITIES, Error, Finding, Location, Report, Skip, TargetReport
from tiecheck.render import concise, github, gitlab, jsonl, junit, mlinter, sarif
from tiecheck.render.html import SHEET
from tiecheck.render.json import json_document
from tiecheck.render.loader_strip import loader_strip, outcome_mark
from tiecheck.render.markdown import code_text, markdown_text
from tiecheck.render.places import PlacedFinding, local_path, placed_findings
from tiecheck.render.reports import FORMATS, Style
from tiecheck.render.text import found_text, summary_text, ties_text
from tiecheck.rules.registry import INDEX

MODELS = Path(__file__).parents[2] / "fixtures" / "models"
ODD = ("a.weight", "b`c|d", "<script>", "x\ny", "\x1b[31m", "\u202e", "]]>", "100%, a:b", "模型", "\x00", "\udcff",
       "a```b|c")  # fmt: skip
SARIF = json.loads((Path(__file__).parent / "sarif-subset.schema.json").read_text(encoding="utf-8"))


def rendered(report: Report, form: str | ModuleType, **style: object) -> str:
    stream = io.StringIO()
    module: Any = import_module(FORMATS[form]) if isinstance(form, str) else form
    module.render(report, Style(color="never", **style), stream)
    return stream.getvalue()


def drawn_report(seed: int, folder: Path) -> Report:
    """A report with odd names and any number of findings, skips and errors; some of its places are files."""
    draw = random.Random(seed)
    healthy = tiecheck.check(MODELS / "llama-diverged-head").targets[0]
    (folder / "config.json").write_text("{\n}\n")

    def finding() -> Finding:
        names = tuple(draw.sample(ODD, draw.randint(1, 3)))
        kinds = draw.choices(("file", "class", "tensor", "tool", "module"), k=draw.randint(1, 3))
        places = tuple(
            Location(
                draw.choice(("config.json", "gone.bin", *ODD)),
                draw.choice((None, 1, 2)),
                draw.choice((None, 3)),
                "related" if i else "primary",
                draw.choice(ODD),
                kind,
            )
            for i, kind in enumerate(kinds)
        )
        return healthy.findings[0]._replace(
            code=draw.choice(list(INDEX)),
            severity=draw.choice(SEVERITIES),
            message=f"{draw.choice(ODD)} is wrong. {draw.choice(ODD)}.",
            names=names,
            help=f"Run `{draw.choice(ODD)}`",
            locations=places,
            fingerprint=draw.choice(("f1", "f2", "f3")),
            suppressed=draw.choice((None, None, None, draw.choice(ODD))),
        )

    def target() -> TargetReport:
        findings = tuple(finding() for _ in range(draw.randint(0, 4)))
        skips = tuple(Skip("TIE701", "scale", draw.choice(ODD)) for _ in range(draw.randint(0, 2)))
        errors = tuple(Error(None, draw.choice(ODD), None) for _ in range(draw.randint(0, 1)))
        failed = any(f.severity != "info" and not f.suppressed for f in findings)
        status = "error" if errors else "fail" if failed else draw.choice(("pass", "unknown"))
        return healthy._replace(
            target=draw.choice((str(folder), "org/name", *ODD)),
            architecture=draw.choice((None, "LlamaForCausalLM", *ODD)),
            status=status,
            reason=draw.choice(ODD) if status == "unknown" else None,
            findings=findings,
            skips=skips,
            errors=errors,
            rules_run=tuple(draw.sample(list(INDEX), draw.randint(0, 5))),
        )

    return Report("0.1.0", tuple(target() for _ in range(draw.randint(0, 4))), 0.5)


class Page(HTMLParser):
    """What a page holds: the tags that are open, the classes of its findings, and where it points."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in {"meta", "rect", "br"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def count_all(report: Report) -> dict[str, dict[str, int]]:
    """The counts by severity, of errors and of skips, as each format tells them."""
    told: dict[str, dict[str, int]] = {}
    told["concise"] = dict.fromkeys(SEVERITIES, 0)
    for line in rendered(report, concise).splitlines()[:-1]:
        if found := re.search(r": TIE\d+ (info|warning|error): ", line):
            told["concise"][found[1]] += 1
    (run,) = json.loads(rendered(report, "sarif"))["runs"]
    levels = [r["level"] for r in run["results"] if "suppressions" not in r]
    told["sarif"] = {s: levels.count(sarif.LEVELS[s]) for s in SEVERITIES}
    notes = [note["level"] for note in run["invocations"][0]["toolExecutionNotifications"]]
    assert (notes.count("error"), notes.count("note")) == (len(report.errors), len(report.skips))
    assert run["invocations"][0]["executionSuccessful"] is not (
        not report.targets or any(t.errors or not t.rules_run for t in report.targets)
    )
    commands = re.findall(r"^::(\w+) title=tiecheck (?=\(TIE)", rendered(report, github), re.MULTILINE)
    told["github"] = {s: commands.count({"info": "notice"}.get(s, s)) for s in SEVERITIES}
    entries = json.loads(rendered(report, gitlab))
    words = {"info": "info", "warning": "minor", "error": "major"}
    told["gitlab"] = {s: sum(e["severity"] == words[s] for e in entries) for s in SEVERITIES}
    assert sum(e["severity"] == "blocker" for e in entries) == len(report.errors)
    rows = [json.loads(line) for line in rendered(report, jsonl).splitlines()]
    told["jsonl"] = rows[-1]["summary"]["findings"]
    assert [row["target"] for row in rows[:-1]] == json_document(report)["targets"]
    markdown = re.findall(r"^- \*\*TIE\d+ (\w+)\*\*", rendered(report, "markdown"), re.MULTILINE)
    told["markdown"] = {s: markdown.count(s) for s in SEVERITIES}
    page = Page(rendered(report, "html"))
    assert page.open == []
    strong = [attributes.get("class") for tag, attributes in page.seen if tag == "strong"]
    told["html"] = {s: strong.count(s) for s in SEVERITIES}
    document = json.loads(rendered(report, mlinter))
    told["mlinter"] = dict.fromkeys(SEVERITIES, 0)  # what stands in no file cannot be posted, and is not there
    placed = [one for one in placed_findings(report) if one.path is not None]
    for one in placed:
        told["mlinter"][one.finding.severity] += 1
    assert sorted((r["rule"], r["path"]) for r in document["findings"] if r["rule"]) == sorted(
        (one.finding.code, one.path) for one in placed
    )
    assert sum(row["rule"] is None for row in document["findings"]) == len(report.errors)
    for one in placed_findings(report):
        told["mlinter"][one.finding.severity] += one.path is None
    suites = ET.fromstring(rendered(report, junit))
    failures = [failure.get("type") for failure in suites.iter("failure")]
    told["junit"] = {s: failures.count(s) for s in ("warning", "error")} | {
        "info": len(list(suites.iter("system-out")))
    }
    assert (suites.get("errors"), suites.get("skipped")) == (str(len(report.errors)), str(len(report.skips)))
    assert int(suites.get("tests", "")) == len(list(suites.iter("testcase")))
    return told


@pytest.mark.parametrize("seed", range(25))
def test_all_formats_agree_on_drawn_reports(seed: int, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    report = drawn_report(seed, tmp_path)
    due = {severity: report.tally(severity) for severity in SEVERITIES}
    for form, counts in count_all(report).items():
        assert counts == due, form
    for form in FORMATS:
        text = rendered(report, form)
        assert all(c.isprintable() or c == "\n" for c in text), f"{form} writes nothing raw"
        if form in {"text", "concise", "github", "html", "markdown"}:
            assert re.sub(r"\s+", "", found_text(report)) in re.sub(r"\s+", "", text)


@pytest.mark.parametrize("seed", range(12))
def test_sarif_fits_the_parts_of_its_schema_that_are_used(seed: int, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    log = json.loads(rendered(drawn_report(seed, tmp_path), "sarif"))
    jsonschema.validate(log, SARIF)
    (run,) = log["runs"]
    assert [rule["id"] for rule in run["tool"]["driver"]["rules"]] == list(INDEX)
    for result in run["results"]:
        assert run["tool"]["driver"]["rules"][result["ruleIndex"]]["id"] == result["ruleId"]
        for place in [*result["locations"], *result["relatedLocations"]]:
            if "physicalLocation" in place:
                assert place["physicalLocation"]["artifactLocation"]["uri"] == "config.json", "only files have a URI"


def test_places_are_found_relative_to_the_project(tmp_path: Path, monkeypatch) -> None:
    model = tmp_path / "models" / "one"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    config = Location("config.json", 1, 1, "primary", "", "file")
    monkeypatch.chdir(tmp_path)
    for target in ("models/one", "models/one/", str(model), "models/one/model.safetensors", f"file://{model}"):
        assert local_path(target, config) == "models/one/config.json"
    assert local_path("models/one/config.json", config) == "models/one/config.json"
    assert local_path("org/name", config) is None
    assert local_path("models/one", config._replace(kind="tensor")) is None
    monkeypatch.chdir(model.parent.parent / "models" / "one")
    (tmp_path / "map.json").write_text("{}")
    assert local_path("gone", config._replace(path=str(tmp_path / "map.json"))) == str(tmp_path / "map.json")


def test_a_finding_is_shown_at_its_first_line_of_text(monkeypatch) -> None:
    monkeypatch.chdir(MODELS.parents[1])
    report = tiecheck.check("fixtures/models/llama-head-name-only")
    (one,) = placed_findings(report)
    assert one.finding.locations[0].path == "model.safetensors"
    assert one.where() == "fixtures/models/llama-head-name-only/config.json:28:3"
    assert (
        PlacedFinding(report.targets[0], one.finding, None, None, None).where()
        == "fixtures/models/llama-head-name-only"
    )


def test_fingerprints_of_gitlab_are_unique(tmp_path: Path) -> None:
    for seed in range(12):
        prints = [entry["fingerprint"] for entry in json.loads(rendered(drawn_report(seed, tmp_path), gitlab))]
        assert len(set(prints)) == len(prints)


def test_junit_goes_by_what_fails_a_target() -> None:
    report = tiecheck.check(MODELS / "llama-redundant-copy")
    assert 'failures="0"' in rendered(report, junit)
    assert 'failures="1"' in rendered(report, junit, fail_on="info")
    assert "TIE101" in rendered(report, junit), "a rule that found nothing is a case that passes"


def test_a_page_stands_by_itself_and_takes_a_thousand_findings() -> None:
    (target,) = tiecheck.check(MODELS / "llama-diverged-head").targets
    report = Report("0", (target._replace(findings=target.findings * 1000),), 0.0)
    page = Page(rendered(report, "html"))
    assert sum(tag == "section" for tag, _ in page.seen) == 1000
    assert not {"script", "link", "img", "iframe"} & {tag for tag, _ in page.seen}
    assert not {"src", "href"} & {key for _, attributes in page.seen for key in attributes}
    assert "prefers-color-scheme" in SHEET
    assert "url(" not in SHEET
    assert "4rem minmax(0,1fr)" in SHEET, "a long line of code scrolls, and does not widen the page"


def test_the_strip_has_a_cell_for_each_group_and_loader() -> None:
    (target,) = tiecheck.check(MODELS / "bert-untied-bias").targets
    drawn = loader_strip(target)
    assert drawn is not None
    picture = drawn.element()
    columns = {(entry.loader, entry.versions) for entry in target.loaders}
    assert picture.count("<rect") == len(columns) * len(target.ties)
    assert "cls.predictions.bias +1: member-random in transformers 5" in picture
    assert "cls.predictions.bias +1: tied in transformers 4.57" in picture
    assert "+1: kept-apart in transformers 5" in picture
    assert loader_strip(target._replace(loaders=())) is None
    assert [outcome_mark(word)[1] for word in ("tied", "kept-apart", "crash", "head-random", "unknown")] == [
        "tied",
        "apart",
        "lost",
        "lost",
        "unknown",
    ]


def test_the_linter_of_transformers_writes_the_same_shape(tmp_path: Path, monkeypatch) -> None:
    """The linter itself is run: `tiecheck.render.mlinter` has its keys, types, order and prefix of a message."""
    pytest.importorskip("mlinter", reason="it is transformers-mlinter, of the test extra")
    monkeypatch.chdir(tmp_path)
    Path("modeling_x.py").write_text(
        "from torch import nn\nfrom transformers import PreTrainedModel\n\n\nclass XForCausalLM(PreTrainedModel):\n"
        '    _tied_weights_keys = ["lm_head.weight"]\n\n    def __init__(self, config):\n'
        "        super().__init__(config)\n        self.wte = nn.Embedding(8, 4)\n"
        "        self.lm_head = nn.Linear(4, 8, bias=False)\n"
        "        self.lm_head.weight = nn.Parameter(self.wte.weight.data)\n"
    )
    asked = ["-m", "mlinter", "--no-progress", "--no-cache", "--output-json", "theirs.json", "modeling_x.py"]
    subprocess.run([sys.executable, *asked], capture_output=True, check=False)
    theirs = json.loads(Path("theirs.json").read_text())
    ours = json.loads(rendered(tiecheck.check("modeling_x.py"), mlinter))
    assert list(ours) == list(theirs)
    for document in (ours, theirs):
        rows, rules = document["findings"], document["rules"]
        assert {tuple(row) for row in rows} == {("path", "line", "rule", "message")}
        assert all(row["path"] == "modeling_x.py" and isinstance(row["line"], int) for row in rows)
        assert all(row["message"].startswith(f"{row['rule']}: ") for row in rows)
        assert rows == sorted(rows, key=lambda row: (row["path"], row["line"], row["message"]))
        assert list(rules) == sorted({row["rule"] for row in rows})
        assert {tuple(rule) for rule in rules.values()} == {("description", "why_bad", "diff")}
        assert all(re.fullmatch(r"(([-+ #].*)?\n)*", rule["diff"]) for rule in rules.values())
    assert {("TIE803", 6), ("TIE802", 12)} <= {(row["rule"], row["line"]) for row in ours["findings"]}
    assert ("TRF048", 6) in {(row["rule"], row["line"]) for row in theirs["findings"]}
    assert ours["rules"]["TIE802"]["diff"].endswith("+self.lm_head.weight = self.wte.weight\n")


def test_words_in_markdown_are_not_obeyed() -> None:
    assert markdown_text("a|b <c> [d](e) *f*") == "a\\|b \\<c\\> \\[d\\](e) \\*f\\*"
    assert code_text("a`b|c") == "`` a`b\\|c ``"
    assert code_text("x") == "`x`"
    for marks in range(1, 9):
        assert "``" not in code_text(f"a{'`' * marks}b")[2:-2]


def test_a_file_whose_name_is_no_text_has_its_bytes_in_its_address(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkdir(b"m\xff")
    for name in ("config.json", "model.safetensors"):
        shutil.copy(MODELS / "llama-diverged-head" / name, Path("m\udcff", name))
    log = json.loads(rendered(tiecheck.check("m\udcff"), "sarif"))
    assert "m%FF/config.json" in json.dumps(log)


def test_the_summary_counts_what_the_page_shows() -> None:
    report = tiecheck.check(MODELS / "llama-diverged-head")
    assert summary_text(report) == "1 target: 1 fail. Findings: 1 error."
    assert ties_text(report.targets[0]) == "1 group of 2, declared tied, stored apart"


def test_several_formats_in_one_run(tiecheck_cli, tmp_path: Path) -> None:
    words = [word for form in ("sarif", "junit", "html") for word in ("-f", f"{form}={tmp_path / form}")]
    done = tiecheck_cli(str(MODELS / "llama-diverged-head"), "-f", "github", *words)
    assert done.exit_code == 1
    assert done.stdout.startswith("::error title=tiecheck (TIE101),file=")
    assert all("TIE101" in (tmp_path / form).read_text() for form in ("sarif", "junit", "html"))
    for command in ("inspect", "compare"):
        refused = tiecheck_cli(command, str(MODELS / "llama-untied"), str(MODELS / "llama-untied"), "-f", "sarif")
        assert refused.exit_code == 2
        assert "there is no output format 'sarif'" in refused.stderr
