"""Findings that are taken back: by an allowance, a baseline, a comment; and what takes nothing back."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path

import jsonschema
import pytest

import tiecheck
from tiecheck.config.file import read_allowances
from tiecheck.config.options import Config
from tiecheck.engine.findings import apply_rule, relative_target
from tiecheck.engine.options import check_with, read_settings
from tiecheck.engine.run import assemble_report, run
from tiecheck.engine.status import RuleAnswers
from tiecheck.engine.suppressions import (
    baseline_text,
    read_baseline,
    settle_suppressions,
    suppress_findings,
)
from tiecheck.errors import UsageError
from tiecheck.facts.registry import Facts
from tiecheck.records.suppressions import Allowance, Unused
from tiecheck.rules.registry import check_codes
from tiecheck.rules.source.unused import UnusedSuppression
from tiecheck.targets.parse import Target

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((ROOT / "tiecheck" / "config" / "config.schema.json").read_text(encoding="utf-8"))
BROKEN = ("llama-diverged-head", "llama-flag-lost", "llama-head-name-only")
COPY = """
from torch import nn
class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.wte, self.head = nn.Embedding(8, 4), nn.Linear(4, 8, bias=False)
        self.head.weight = nn.Parameter(self.wte.weight.data){}
"""


@pytest.fixture
def project(tmp_path: Path, models: Path, monkeypatch) -> Path:
    for name in BROKEN:
        shutil.copytree(models / name, tmp_path / "models" / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def judged(config: Config, *names: str) -> dict[str, list[tuple[str, str | None]]]:
    """The findings of some targets: code, and why it is taken back."""
    report = assemble_report(run([f"models/{name}" for name in names], config))
    return {
        t.target.removeprefix("models/"): [(f.code, f.suppressed) for f in t.findings if f.severity != "info"]
        for t in report.targets
    }


def test_an_allowance_takes_back_what_it_names_and_no_more(project: Path) -> None:
    allow = Allowance("models/llama-div*", "tie101", "a draft of its own", ("lm_head.weight",), "tiecheck.toml")
    found = judged(Config(allow=(allow,)), *BROKEN)
    assert found["llama-diverged-head"] == [("TIE101", "allowed: a draft of its own")]
    assert found["llama-flag-lost"] == [("TIE102", None)]
    assert tiecheck.check(project / "models" / BROKEN[0]).targets[0].status == "fail"
    assert check_with("models/llama-diverged-head", Config(allow=(allow,))).targets[0].status == "pass"


@pytest.mark.parametrize(
    "entry",
    [
        Allowance("models/llama-div*", "TIE102", "another rule", place="x"),
        Allowance("models/llama-div*", "TIE101", "another name", ("other.weight",), "x"),
    ],
)
def test_an_allowance_that_fits_nothing_is_found_where_its_rule_could_judge(project: Path, entry: Allowance) -> None:
    assert ("TIE901", None) in judged(Config(allow=(entry,)), BROKEN[0])[BROKEN[0]]
    elsewhere = entry._replace(target="models/other")
    assert judged(Config(allow=(elsewhere,)), BROKEN[0])[BROKEN[0]] == [("TIE101", None)]
    for rule in ("TIE301", "TIE8"):  # without a live layer, and without sources, nobody knows
        assert judged(Config(allow=(entry._replace(rule=rule),)), BROKEN[0])[BROKEN[0]] == [("TIE101", None)]
    assert judged(Config(allow=(entry,), ignore=("TIE901",)), BROKEN[0])[BROKEN[0]] == [("TIE101", None)]


def test_a_baseline_accepts_what_there_is_and_nothing_new(project: Path, models: Path) -> None:
    old = assemble_report(run([f"models/{name}" for name in BROKEN[:2]], Config()))
    Path("base.json").write_text(baseline_text(old, Config()))
    config = Config(baseline="base.json")
    found = judged(config, *BROKEN)
    assert [why for name in BROKEN[:2] for _, why in found[name]] == ["in the baseline base.json"] * 2
    assert found[BROKEN[2]] == [("TIE111", None)]
    shutil.copytree(models / "llama-healthy-tied", project / "models" / BROKEN[0], dirs_exist_ok=True)
    assert judged(config, BROKEN[0])[BROKEN[0]] == [("TIE901", None)], "the entry is of no use any more"
    assert judged(config, BROKEN[2])[BROKEN[2]] == [("TIE111", None)], "what was not judged is not unused"


@pytest.mark.parametrize("seed", range(20))
def test_a_baseline_holds_for_another_spelling_of_the_path(project: Path, monkeypatch, seed: int) -> None:
    """Drawn: from which folder, and by which word, for the baseline and for the check."""
    draw = random.Random(seed)
    folder = project / draw.choice([".", "models", "beside/below"])
    folder.mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(folder)
    target = project / "models" / BROKEN[0]
    short = os.path.relpath(target)
    words = [short, f"./{short}", f"{short}/", str(target), f"{target}/", f"{target}/../{BROKEN[0]}", f"./{short}/."]
    first, again = draw.sample(words, 2)
    text = baseline_text(assemble_report(run([first], Config())), Config())
    (project / "baseline.json").write_text(text)
    found = assemble_report(run([again], Config(baseline=str(project / "baseline.json"))))
    assert [(f.code, f.suppressed is not None) for t in found.targets for f in t.findings] == [("TIE101", True)]


def test_a_baseline_counts_alike_findings(project: Path) -> None:
    (target,) = tiecheck.check("models/llama-diverged-head").targets
    Path("base.json").write_text(baseline_text(assemble_report([target]), Config()))
    found = [target.findings[0]] * 3
    idle = suppress_findings(
        found, Target(target.target, "checkpoint", "", None), Config(baseline="base.json"), (), frozenset()
    )
    assert (sum(finding.suppressed is not None for finding in found), idle) == (1, ())


@pytest.mark.parametrize(
    ("comment", "codes"),
    [
        ("", ["TIE802"]),
        ("  # tiecheck: ignore[TIE802] wanted", []),
        ("  # tiecheck: ignore", []),
        ("  # tiecheck: ignore[TIE801] not this one", ["TIE802", "TIE901"]),
    ],
)
def test_a_comment_that_takes_nothing_back_is_found(project: Path, comment: str, codes: list[str]) -> None:
    Path("model.py").write_text(COPY.format(comment))
    (target,) = tiecheck.check("model.py").targets
    assert sorted(f.code for f in target.counted()) == codes
    idle = [f for f in target.findings if f.code == "TIE901"]
    assert all((f.locations[0].path, f.locations[0].line) == ("model.py", 7) for f in idle)
    (project / "models" / BROKEN[0] / "modeling.py").write_text(COPY.format(comment))
    beside = tiecheck.check(f"models/{BROKEN[0]}").targets[0]
    assert "TIE901" not in {f.code for f in beside.findings}, "what was downloaded is nobody's to clear away"


def test_what_settles_is_marked_in_place(project: Path) -> None:
    answers = RuleAnswers([], [], [], [], [])
    target = Target("models/llama-diverged-head", "checkpoint", "", None)
    idle = Facts({"suppressions": (Unused("the comment", "a.py", 3),)})
    apply_rule(UnusedSuppression, idle, target, answers, None)
    assert [finding.code for finding in answers.findings] == ["TIE901"]
    settle_suppressions(answers, Facts({}), target, Config())
    assert answers.findings[0].suppressed is None
    assert relative_target(str(project / "models")) == "models"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"schema": "tiecheck-baseline/1"}',
        '{"schema": "tiecheck-baseline/1", "findings": [{}]}',
        '{"schema": "tiecheck-baseline/1", "findings": [{"fingerprint": 1, "code": "", "target": "", "names": []}]}',
        '{"schema": "tiecheck/1", "findings": []}',
        "[" * 5000,
    ],
)
def test_a_file_that_is_no_baseline_is_one_sentence(project: Path, text: str) -> None:
    Path("base.json").write_text(text)
    with pytest.raises(UsageError, match=r"base\.json"):
        read_baseline("base.json")
    with pytest.raises(UsageError, match="gone"):
        list(run(["models/llama-flag-lost"], Config(baseline="gone")))


@pytest.mark.parametrize("seed", range(40))
def test_the_reader_and_the_schema_take_the_same_allowances(seed: int) -> None:
    draw = random.Random(seed)
    words = {
        "target": ("a/*", "", 1),
        "rule": ("TIE101", "TIE1", "", 3),
        "reason": ("known", "", None),
        "names": ([], ["a"], "a", [1]),
    }
    row = {key: draw.choice(values) for key, values in words.items() if draw.random() < 0.9}
    if draw.random() < 0.2:
        row["nmaes"] = []
    try:
        jsonschema.validate({"allow": [row]}, SCHEMA)
    except jsonschema.ValidationError:
        with pytest.raises(UsageError, match="allow, entry 1"):
            read_allowances([row], check_codes)
    else:
        (entry,) = read_allowances([row], check_codes)
        assert (entry.target, entry.rule, entry.names) == (row["target"], row["rule"], tuple(row.get("names", ())))


def test_the_configuration_file_has_both(project: Path) -> None:
    text = 'baseline = "base.json"\n[[allow]]\ntarget = "models/*"\nrule = "TIE102"\nreason = "known"\n'
    (project / "tiecheck.toml").write_text(text)
    fields = read_settings(str(project / "tiecheck.toml")).fields
    assert fields["baseline"] == "base.json"
    assert fields["allow"] == (Allowance("models/*", "TIE102", "known", (), str(project / "tiecheck.toml")),)


def test_the_command_writes_what_check_accepts(project: Path, tiecheck_cli) -> None:
    names = [f"models/{name}" for name in BROKEN]
    assert tiecheck_cli(*names).exit_code == 1
    written = tiecheck_cli("baseline", *names)
    assert (written.exit_code, written.stdout) == (0, "tiecheck-baseline.json: 3 findings accepted, of 3 targets\n")
    accepted = tiecheck_cli(*names, "--baseline", "tiecheck-baseline.json")
    assert accepted.exit_code == 0
    assert "Findings: none; 3 suppressed." in accepted.stdout
    assert accepted.stdout.count("  1 suppressed") == 3
    shown = tiecheck_cli(*names, "--baseline", "tiecheck-baseline.json", "-v").stdout
    assert " ".join(shown.split()).count("(suppressed: in the baseline tiecheck-baseline.json)") == 3
    failed = tiecheck_cli("baseline", *names, "models/none", "-o", "other.json")
    assert (failed.exit_code, Path("other.json").exists()) == (2, False)
    assert "there is no models/none" in failed.stderr
    assert tiecheck_cli("baseline", names[0], "-o", "no/such/file").exit_code == 2
