"""Both formats say the same; the JSON fits its schema and is stable; the text fits the page and prints nothing raw."""

from __future__ import annotations

import io
import json
from pathlib import Path

import jsonschema
import pytest

import tiecheck
from tiecheck.errors import escaped
from tiecheck.render.lines import WIDTH

SCHEMA = json.loads((Path(tiecheck.__file__).parent / "render" / "report.schema.json").read_text())
CASES = sorted(path.parent.name for path in (Path(__file__).parents[2] / "fixtures" / "models").glob("*/config.json"))


def test_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("case", CASES)
def test_json_fits_the_schema(tiecheck_cli, models: Path, case: str) -> None:
    report = json.loads(tiecheck_cli(str(models / case), "-f", "json").stdout)
    jsonschema.validate(report, SCHEMA)


def test_json_of_an_unreadable_target_fits_too(tiecheck_cli, tmp_path: Path) -> None:
    report = json.loads(tiecheck_cli(str(tmp_path / "nothing"), "-f", "json").stdout)
    jsonschema.validate(report, SCHEMA)
    assert report["targets"][0]["errors"][0]["message"].startswith("there is no ")


def test_contract_example_of_the_readme_fits(tiecheck_cli, models: Path) -> None:
    report = json.loads(tiecheck_cli(str(models / "llama-diverged-head"), "-f", "json").stdout)
    (target,) = report["targets"]
    assert report["schema"] == "tiecheck/1"
    assert list(report) == ["schema", "version", "targets", "summary"]
    assert target["layers"] == ["declared", "stored"]
    (tie,) = target["ties"]
    assert (tie["kind"], tie["kind_from"], tie["stored"], tie["declared"]) == ("parameter", "table", "separate", True)
    (finding,) = target["findings"]
    assert finding["locations"][0] == {
        "path": "config.json",
        "line": 28,
        "column": 3,
        "role": "primary",
        "note": "tie_word_embeddings is true",
        "kind": "file",
    }
    assert report["summary"]["findings"] == {"error": 1, "warning": 0, "info": 0}


def test_json_is_the_same_from_run_to_run(tiecheck_cli, models: Path) -> None:
    arguments = [str(models / case) for case in CASES]
    reports = [json.loads(tiecheck_cli(*arguments, "-f", "json").stdout) for _ in range(2)]
    for report in reports:
        del report["summary"]["seconds"]
    assert json.dumps(reports[0]) == json.dumps(reports[1])


@pytest.mark.parametrize("case", CASES)
def test_text_and_json_agree_and_text_fits_the_page(tiecheck_cli, models: Path, case: str) -> None:
    path = str(models / case)
    target = json.loads(tiecheck_cli(path, "-f", "json").stdout)["targets"][0]
    text = tiecheck_cli(path, "-v").stdout
    for finding in target["findings"]:
        assert f"{finding['code']} {finding['severity']}" in text
    assert text.startswith(target["status"])
    code = {line for f in target["findings"] for part in f["help"].split("`")[1::2] for line in part.split("; ")}
    for line in text.splitlines():
        alone = " " not in line.strip() or line.strip() in code
        assert len(line) <= WIDTH or alone, "only a single long word, or a line of code, may stick out"


def test_colours_change_no_word(tiecheck_cli, models: Path) -> None:
    import re

    path = str(models / "llama-diverged-head")
    plain, colored = tiecheck_cli(path).stdout, tiecheck_cli(path, "--color", "always").stdout
    assert "\x1b[" in colored
    bare = re.sub(r"\x1b\[[0-9;]*m", "", colored)
    assert [line.rstrip() for line in bare.splitlines()][:-2] == plain.splitlines()[:-2]


@pytest.mark.parametrize("raw", ["a\nb", "a\x1b[31mb", "a\u202eb", "a\x00b", "tab\tb"])
def test_control_characters_are_escaped(raw: str) -> None:
    assert escaped(raw).isprintable()


def test_clean_leaves_other_scripts_alone() -> None:
    assert escaped("模型.weight é") == "模型.weight é"


def test_the_code_of_a_mend_stands_on_lines_that_can_be_copied() -> None:
    from mend_subjects import CONTRACT, SUBJECTS

    from tiecheck.render.reports import Style
    from tiecheck.render.text import render

    subject = next(s for s in SUBJECTS if s.build.__name__ == "grown_beside_a_bias")
    report = tiecheck.check(subject.build(), **CONTRACT)
    stream = io.StringIO()
    render(report, Style(color="never"), stream)
    lines = [line.strip() for line in stream.getvalue().splitlines()]
    steps = [step for finding in report.findings for edit in finding.edits for step in edit.steps]
    code = [line for step in steps for line in (step.code or "").splitlines()]
    assert max(map(len, code)) > 80
    assert set(code) <= set(lines)
    assert "`" not in "".join(lines[:-1])
