"""A run over a fleet: verdicts are those of a check, counts add up, and a table is taken up where it ended."""

from __future__ import annotations

import io
import json
import os
import random
import re
from pathlib import Path

import pytest
from fleets import drawn_fleet, grave_codes, rows_of, run_fleet, write_model
from lanes import sampled

from tiecheck.config.options import Config
from tiecheck.engine.run import check_target
from tiecheck.fleet.listed import Listed, written_target
from tiecheck.fleet.rows import failed_rows, options_mark, report_rows
from tiecheck.fleet.run import EnginePlace, tally_rows
from tiecheck.fleet.sources import folder_mark
from tiecheck.fleet.tally import WORST, FleetTally
from tiecheck.records.fleet import FleetSummary
from tiecheck.render import fleet, fleet_page
from tiecheck.render.reports import Style

ENGINES = {"local": EnginePlace(), "processes": EnginePlace(workers=2)}


def test_every_fault_is_found_and_none_invented(tmp_path: Path) -> None:
    truth = drawn_fleet(tmp_path / "fleet", 300, seed=11)
    found = run_fleet(tmp_path / "fleet", results=tmp_path / "out.jsonl")
    assert grave_codes(tmp_path / "out.jsonl") == truth
    assert (found.problem, found.summary.run.listed, found.summary.run.judged) == (None, 300, 300)
    assert found.summary.status["fail"] == sum(map(bool, truth.values()))


@pytest.mark.parametrize("row", sampled(["json", "text"]))
def test_no_line_of_a_manifest_ends_a_run(tmp_path: Path, row: str) -> None:
    odd = ["\0", "a\0b", "", "http://[bad", "s3://", "s3:///m", "hf://", "://", "\udcff", "x" * 5000, "memory://\0"]
    lines = [json.dumps(line) for line in odd] if row == "json" else odd
    manifest = tmp_path / ("m.jsonl" if row == "json" else "m.txt")
    manifest.write_bytes("\n".join(lines).encode("utf-8", "surrogateescape"))
    found = run_fleet(manifest, results=tmp_path / "out.jsonl")
    run = found.summary.run
    assert found.problem is None
    assert (run.listed, run.failed) == (len(odd) - (row == "text"),) * 2  # a blank line is passed over


def test_a_row_has_no_control_character_whatever_the_name() -> None:
    draw = random.Random(51)
    letters = [
        "\x1b",
        "\x7f",
        "\x85",
        "\x9b",
        "\ud800",
        "\udcff",
        "\U0001f600",
        "\\",
        "u",
        "d",
        "8",
        "0",
        '"',
        "é",
        "a",
    ]
    for _ in range(300):
        name = "".join(draw.choices(letters, k=draw.randrange(1, 12)))
        (line,) = failed_rows(Listed(name), "").lines.decode("ascii").splitlines()
        assert line.isprintable()
        written = re.sub("[\ud800-\udfff]", lambda half: f"\\u{ord(half[0]):04x}", name)
        assert json.loads(line)["target"] == written


@pytest.mark.parametrize("place", ENGINES.values(), ids=ENGINES)
def test_a_verdict_is_that_of_a_check(tmp_path: Path, models: Path, place: EnginePlace) -> None:
    drawn_fleet(tmp_path / "fleet", 60, seed=12)
    run_fleet(tmp_path / "fleet", models, results=tmp_path / "out.jsonl", place=place)
    rows = rows_of(tmp_path / "out.jsonl")
    assert len(rows) == len({row["target"] for row in rows}) > 80
    findings = rows_of(tmp_path / "out.jsonl", "finding")
    for row in rows:
        report = check_target(row["target"], Config())
        assert (row["status"], row["architecture"], row["reason"]) == (
            report.status,
            report.architecture,
            report.reason,
        )
        told = [
            (f["code"], f["message"], tuple(f["names"]), f["fingerprint"])
            for f in findings
            if f["target"] == row["target"]
        ]
        assert told == [(f.code, f.message, f.names, f.fingerprint) for f in report.findings]


@pytest.mark.parametrize("place", ENGINES.values(), ids=ENGINES)
def test_a_row_is_that_of_the_report_and_its_mark_that_of_the_files(tmp_path: Path, place: EnginePlace) -> None:
    truth = drawn_fleet(tmp_path / "fleet", 80, seed=20)
    draw = random.Random(20)
    for number, target in enumerate(draw.sample(sorted(truth), 24)):
        beside = Path(target, ("README.md", "a\nb", '\U0001f600 "', "sub")[number % 4])
        beside.mkdir() if beside.name == "sub" else beside.write_text("x" * number)
    odd = tmp_path / "fleet" / os.fsdecode(b'\xff\n"\\')
    write_model(odd, {"model.embed_tokens.weight": bytes(range(128))}, tie_word_embeddings=True)
    run_fleet(f"{tmp_path}/fleet/", results=tmp_path / "out.jsonl", place=place)
    rows = {row["target"]: row for row in rows_of(tmp_path / "out.jsonl")}
    assert len(rows) == 81
    for target in (*truth, str(odd)):
        listed = Listed(target, folder_mark(target))
        (*_, wanted) = report_rows(listed, check_target(target, Config()))
        row = rows[written_target(target)]
        assert row == wanted | {"target": row["target"], "options": options_mark(Config())}
        assert row["mark"] is not None
    again = run_fleet(f"{tmp_path}/fleet/", results=tmp_path / "out.jsonl", resume=True).summary.run
    assert (again.skipped, again.judged) == (81, 0)
    changed = [target for target in sorted(truth) if Path(target, "README.md").exists()]
    for target in changed:
        os.utime(Path(target, "README.md"), ns=(1, 1))
    again = run_fleet(f"{tmp_path}/fleet/", results=tmp_path / "out.jsonl", resume=True).summary.run
    assert (again.judged, again.skipped) == (len(changed), 81 - len(changed)) == (6, 75)


def test_a_model_that_cannot_be_read_is_a_row(tmp_path: Path) -> None:
    write_model(tmp_path / "fleet" / "good", {"model.embed_tokens.weight": bytes(128)}, tie_word_embeddings=True)
    bad = write_model(tmp_path / "fleet" / "bad", {})
    (bad / "config.json").write_text("{")
    found = run_fleet(tmp_path / "fleet", results=tmp_path / "out.jsonl")
    (row,) = [row for row in rows_of(tmp_path / "out.jsonl") if row["status"] == "error"]
    assert row["target"] == str(bad)
    assert "not valid JSON" in row["error"]
    run = found.summary.run
    assert (run.listed, run.judged, run.failed, found.summary.unchecked) == (2, 1, 1, 1)


def test_a_second_run_skips_what_is_unchanged(tmp_path: Path) -> None:
    truth = drawn_fleet(tmp_path / "fleet", 40, seed=13)
    table = tmp_path / "out.jsonl"
    run_fleet(tmp_path / "fleet", results=table)
    draw = random.Random(13)
    changed, gone = draw.sample(sorted(truth), 2)
    os.utime(Path(changed) / "model.safetensors", ns=(1, 1))
    config = Path(gone) / "config.json"
    config.write_text("{")  # cannot be read now
    found = run_fleet(tmp_path / "fleet", results=table, resume=True)
    run = found.summary.run
    assert (run.listed, run.judged, run.failed, run.skipped) == (40, 1, 1, 38)
    assert sum(found.summary.status.values()) == len(rows_of(table)) == 40
    config.write_text("{}")
    assert run_fleet(tmp_path / "fleet", results=table, resume=True).summary.run.skipped == 39
    other = run_fleet(tmp_path / "fleet", results=table, resume=True, config=Config(ignore=("TIE1",)))
    assert (other.summary.run.skipped, other.summary.run.judged) == (0, 40)
    assert len(rows_of(table)) == 40


def test_the_counts_of_a_table_are_those_of_the_run(tmp_path: Path) -> None:
    drawn_fleet(tmp_path / "fleet", 50, seed=14)
    found = run_fleet(tmp_path / "fleet", results=tmp_path / "out.jsonl").summary
    assert tally_rows(str(tmp_path / "out.jsonl")).summary(found.run) == found
    (rule,) = [one for one in found.rules if one.name == "TIE101"]
    assert rule.models == rule.fail == sum("TIE101" in row["codes"] for row in rows_of(tmp_path / "out.jsonl"))


def test_tallies_of_chunks_add_up_and_are_shown(tmp_path: Path) -> None:
    drawn_fleet(tmp_path / "fleet", 40, seed=18)
    found = run_fleet(tmp_path / "fleet", results=tmp_path / "out.jsonl").summary
    held = rows_of(tmp_path / "out.jsonl")
    findings = rows_of(tmp_path / "out.jsonl", "finding")
    halves = FleetTally(), FleetTally()
    for number, row in enumerate(held):
        halves[number % 2].add([*(one for one in findings if one["target"] == row["target"]), row])
    halves[0].merge(halves[1])
    summary = halves[0].summary(found.run)
    assert isinstance(summary, FleetSummary)
    assert summary == found
    assert len(summary.worst) <= WORST
    for module in (fleet, fleet_page):
        stream = io.StringIO()
        module.render(summary, Style(color="never"), stream)
        assert all(count.name in stream.getvalue() for count in summary.rules)


class TestCommandLine:
    def test_the_exit_status_is_that_of_a_check(self, tiecheck_cli, tmp_path: Path) -> None:
        healthy = {"model.embed_tokens.weight": bytes(range(128)), "model.norm.weight": bytes(range(16))}
        write_model(tmp_path / "a" / "good", healthy, tie_word_embeddings=True)
        assert tiecheck_cli("fleet", str(tmp_path / "a")).exit_code == 0
        write_model(tmp_path / "b" / "lost", healthy, tie_word_embeddings=False)
        assert tiecheck_cli("fleet", str(tmp_path)).exit_code == 1
        assert tiecheck_cli("fleet", str(tmp_path), "--exit-zero").exit_code == 0
        assert tiecheck_cli("fleet", str(tmp_path), str(tmp_path / "missing"), "--exit-zero").exit_code == 2

    def test_rows_on_standard_output(self, tiecheck_cli, tmp_path: Path) -> None:
        truth = drawn_fleet(tmp_path / "fleet", 20, seed=15)
        out = tiecheck_cli("fleet", str(tmp_path / "fleet"), "-f", "jsonl", "-f", f"json={tmp_path / 's.json'}").stdout
        rows = [json.loads(line) for line in out.splitlines()]
        assert {row["target"]: "TIE101" in row["codes"] for row in rows} == {
            target: "TIE101" in codes for target, codes in truth.items()
        }
        assert json.loads((tmp_path / "s.json").read_text())["fleet"]["run"]["listed"] == 20

    def test_the_page_has_the_counts_of_the_summary(self, tiecheck_cli, tmp_path: Path) -> None:
        truth = drawn_fleet(tmp_path / "fleet", 20, seed=17)
        (tmp_path / "fleet" / "<b>").mkdir()
        (tmp_path / "fleet" / "<b>" / "config.json").write_text("{")
        tiecheck_cli("fleet", str(tmp_path / "fleet"), "-f", f"html={tmp_path / 'page.html'}", "-f", "json")
        page = (tmp_path / "page.html").read_text()
        lost = sum("TIE102" in codes for codes in truth.values())
        assert "21 models" in page
        assert f"<td>{lost}</td><td>{lost}</td><td>0</td>" in page
        assert "&lt;b&gt;" in page
        assert "<b>" not in page
        assert "http" not in page  # of a local fleet nothing is linked

    def test_what_cannot_be_is_refused(self, tiecheck_cli, tmp_path: Path) -> None:
        drawn_fleet(tmp_path / "fleet", 2, seed=16)
        fleet, table = str(tmp_path / "fleet"), str(tmp_path / "out.jsonl")
        assert tiecheck_cli("fleet", fleet, "--results", table).exit_code in {0, 1}
        for wrong, words in {
            ("--results", table): "is there already",
            ("--results", f"{table}.csv"): "ends in .jsonl or .parquet",
            ("--resume",): "give --results",
            ("--address", "x"): "--engine ray or dask",
            ("--select", "TIE999"): "TIE999",
            ("-f", "sarif"): "no output format",
            ("--results", f"{tmp_path}/no/where.jsonl"): "No such file",
        }.items():
            found = tiecheck_cli("fleet", fleet, *wrong)
            assert (found.exit_code, words in found.stderr) == (2, True), found.stderr
