"""The engine: facts on demand, skips with their reasons, crashes that name the rule, and the exit status."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from safetensors.numpy import save_file

from tiecheck.api import check
from tiecheck.config.options import Config
from tiecheck.engine import run
from tiecheck.engine.run import assemble_report, judge_facts
from tiecheck.engine.status import exit_status
from tiecheck.errors import UsageError
from tiecheck.facts import opening
from tiecheck.facts.registry import Facts
from tiecheck.records.report import Location, Report, TargetReport
from tiecheck.records.words import Unknown
from tiecheck.rules.base import Case, Draft, Rule
from tiecheck.rules.registry import select_rules
from tiecheck.targets.parse import Target

TARGET = Target("model", "checkpoint", "model", None)
PLACE = (Location("config.json", 1, 1, "primary", "here", "file"),)


def rule_of(check, severity="warning") -> type[Rule]:
    """A rule made for one test."""
    return type(
        "Made", (Rule,), {"code": "TIE999", "name": "made", "severity": severity, "confidence": "high", "check": check}
    )


def judged(monkeypatch, rule: type[Rule], config: Config = Config(), **facts) -> TargetReport:  # noqa: B008
    monkeypatch.setattr(run, "select_rules", lambda *_: (rule,))
    return judge_facts(TARGET, Facts(facts), config)


def status(report: TargetReport, config: Config = Config(), **options) -> int:  # noqa: B008
    return exit_status(Report("0", (report,), 0.0), config, **options)


def offering(*names: str) -> Facts:
    return Facts(dict.fromkeys(names, ()))


def found(self, groups) -> Iterator[Draft]:
    yield Draft("wrong", ("b", "a"), PLACE, "mend it")


def silent(self, groups) -> Iterator[Draft]:
    yield from ()


def test_finding_takes_what_its_rule_says(monkeypatch) -> None:
    report = judged(monkeypatch, rule_of(found), groups=())
    (finding,) = report.findings
    assert (finding.code, finding.severity, finding.names) == ("TIE999", "warning", ("a", "b"))
    assert report.status == "fail"
    assert status(report) == 1
    assert status(report, exit_zero=True) == 0
    assert status(report, Config(fail_on="error")) == 0


def test_missing_fact_is_a_skip_with_its_reason(monkeypatch) -> None:
    report = judged(monkeypatch, rule_of(silent), groups=Unknown("the shard is elsewhere"))
    assert [(s.code, s.reason) for s in report.skips] == [("TIE999", "the shard is elsewhere")]
    assert (report.status, report.reason) == ("unknown", "the shard is elsewhere")
    assert status(report) == 2, "nothing was checked: that is no pass"


def test_a_layer_that_was_asked_for_and_cannot_be_had_is_an_error(tmp_path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["NobodysForCausalLM"], "model_type": "nobodys"}')
    save_file({"lm_head.weight": np.zeros((4, 2), np.float32)}, tmp_path / "model.safetensors")
    (asked,) = check(str(tmp_path), live=True).targets
    assert asked.status == "error"
    assert "the model could not be built" in asked.errors[0].message
    assert check(str(tmp_path)).targets[0].errors == ()


def test_rule_that_says_unknown_is_a_skip_and_strict_fails_it(monkeypatch) -> None:
    def cannot_tell(self, groups):
        yield Unknown("two readings fit")

    made = rule_of(cannot_tell)
    report = judged(monkeypatch, made, groups=())
    assert report.skips[0].reason == "two readings fit"
    assert report.rules_run == ()


def test_strict_turns_a_skip_into_a_failure(monkeypatch) -> None:
    def sees(self, groups):
        yield from ()

    def blind(self, scale):
        yield Unknown("not loaded")

    first, second = rule_of(sees), rule_of(blind)
    monkeypatch.setattr(run, "select_rules", lambda *_: (first, second))
    report = judge_facts(TARGET, Facts({"groups": (), "scale": ()}), Config())
    assert status(report) == 0
    assert status(report, Config(strict=True)) == 1


def test_layer_not_asked_for_is_no_skip() -> None:
    report = judge_facts(TARGET, Facts({"groups": (), "checkpoint": None}), Config(select=("TIE3",)))
    assert report.skips == ()
    assert report.rules_run == ()
    assert status(report) == 2


def test_crashing_rule_is_named_and_hides_nothing(monkeypatch) -> None:
    def crash(self, groups):
        yield Draft("first", ("a",), PLACE, "mend")
        raise KeyError("lm_head")

    report = judged(monkeypatch, rule_of(crash), groups=())
    assert report.errors[0].code == "TIE999"
    assert "KeyError" in report.errors[0].message
    assert report.status == "error"
    assert status(report, exit_zero=True) == 2


def test_bug_of_ours_is_an_error_of_that_target_alone(monkeypatch, models) -> None:
    real = opening.facts_of

    def broken(target, config):
        if "untied" in target.text:
            raise RuntimeError("boom")
        return real(target, config)

    monkeypatch.setattr(opening, "facts_of", broken)
    targets = [str(models / "llama-untied"), str(models / "llama-healthy-tied")]
    report = assemble_report(run.run(targets, Config()))
    assert [t.status for t in report.targets] == ["error", "pass"]
    assert "boom" in report.targets[0].errors[0].message
    assert exit_status(report, Config()) == 2


def test_targets_are_read_one_after_another(models) -> None:
    def targets() -> Iterator[str]:
        yield str(models / "llama-untied")
        raise AssertionError("the second target was asked for before the first was reported")

    assert next(run.run(targets(), Config())).target.endswith("llama-untied")


def test_wrong_option_is_told_before_any_target(models) -> None:
    def targets() -> Iterator[str]:
        raise AssertionError("a target was asked for")
        yield ""

    with pytest.raises(UsageError, match="no rule's code begins with 'TIE999'"):
        next(run.run(targets(), Config(select=("TIE999",))))


def test_no_target_is_no_pass() -> None:
    assert exit_status(Report("0", (), 0.0), Config()) == 2


class TestSelect:
    def test_rules_are_those_whose_facts_are_on_offer(self) -> None:
        assert [r.code for r in select_rules((), (), offering("groups", "index"))] == ["TIE110", "TIE201"]
        assert {r.code for r in select_rules((), (), offering("load_problems", "scale"))} == {
            "TIE206",
            "TIE207",
            "TIE701",
        }
        assert select_rules((), (), offering()) == ()

    def test_prefix_and_ignore(self) -> None:
        codes = [
            r.code
            for r in select_rules(("TIE10",), ("TIE106", "TIE107"), offering("groups", "loaders", "flags", "live"))
        ]
        assert codes == ["TIE101", "TIE102", "TIE103", "TIE104", "TIE105", "TIE108", "TIE109"]

    def test_case_does_not_matter(self) -> None:
        assert [r.code for r in select_rules(("tie101",), (), offering("groups", "loaders"))] == ["TIE101"]

    @pytest.mark.parametrize("bad", ["TIE999", "TIE0", "nonsense", ""])
    def test_unknown_code_is_refused(self, bad: str) -> None:
        with pytest.raises(UsageError, match="no rule's code begins with"):
            select_rules((bad,), (), offering("groups"))


def test_case_record_defaults_to_silent() -> None:
    assert Case("quiet", {}).finds == ()
