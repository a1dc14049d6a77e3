"""The screen: one line for a pass, one screen for many targets, every loader once, and the width of the page."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import tiecheck
from tiecheck.engine.run import assemble_report
from tiecheck.records.report import Report, TargetReport
from tiecheck.render import html as html_page
from tiecheck.render import svg
from tiecheck.render.findings import place_text, whom_text
from tiecheck.render.lines import Line, cells, page_width, wants_color, wrapped
from tiecheck.render.reports import Style
from tiecheck.render.text import MANY, SCREEN, common_folder, found_text, render, report_text, times
from tiecheck.rules.registry import OTHER_SEVERITIES, rule_of

MODELS = Path(__file__).parents[2] / "fixtures" / "models"
NAMES = sorted(path.parent.name for path in MODELS.glob("*/config.json"))


@pytest.fixture(scope="module")
def targets() -> list[TargetReport]:
    """The reports of the models that the first command of the README judges."""
    return [tiecheck.check(MODELS / name).targets[0]._replace(target=f"fixtures/models/{name}") for name in NAMES]


def text_of(targets: list[TargetReport], **style: object) -> str:
    stream = io.StringIO()
    render(assemble_report(targets), Style(color="never", **style), stream)
    return stream.getvalue()


def test_the_first_command_is_one_screen(targets: list[TargetReport]) -> None:
    text = text_of(targets)
    assert (len(targets), sum(target.status == "fail" for target in targets)) == (25, 10)
    assert len(text.splitlines()) <= SCREEN
    assert all(text.count(f"{target.status:<7} {target.target}  ") == 1 for target in targets)
    for finding in (f for target in targets for f in target.findings if f.severity != "info"):
        assert f"  {finding.code} {finding.severity}: " in text
    assert len(text_of(targets, verbose=True).splitlines()) > 2 * SCREEN


def test_no_list_cuts_a_sentence_within_its_brackets(tmp_path: Path, targets: list[TargetReport]) -> None:
    """What an exception says has sentences of its own, as 4.57's about a file whose metadata names no format."""
    safetensors = pytest.importorskip("safetensors.numpy")
    model = MODELS / "llama-healthy-tied"
    shutil.copy(model / "config.json", tmp_path)
    tensors, file = safetensors.load_file(model / "model.safetensors"), "model.safetensors"
    safetensors.save_file(tensors, tmp_path / file, metadata={"by": "hand"})
    (broken,) = tiecheck.check(tmp_path).targets
    assert "TIE206" in [finding.code for finding in broken.findings]
    shown = " ".join(text_of([*targets, broken]).split())
    assert "(transformers 4.57: ValueError: Incompatible safetensors file. File metadata is not ['pt', " in shown


@pytest.mark.parametrize("name", NAMES)
def test_a_pass_is_one_line_and_a_finding_says_each_part_once(targets: list[TargetReport], name: str) -> None:
    (target,) = (t for t in targets if t.target.endswith(name))
    *lines, _, _ = text_of([target]).splitlines() if target.findings else [*text_of([target]).splitlines(), ""]
    if target.status == "pass":
        assert len(lines) == 1
    if target.status == "fail":
        shown = [finding for finding in target.findings if finding.severity != "info"]
        labels = [re.match(r"    (\w*)", line)[1] for line in lines if re.match(r"    \w+ +\w", line)]
        assert labels.count("at") == labels.count("fix") == len(shown)
        for finding in shown:
            assert ("hurts" in labels) == bool(finding.hurts)
            assert all(place_text(place) in " ".join(lines) for place in finding.locations)
        text = " ".join(line.strip() for line in lines[: [line[:8] for line in lines].index("    at  ")])
        for entry in target.loaders:
            assert text.count(f"{entry.loader} {entry.versions}") <= len(shown), "a loader is told once a finding"


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_first_command_is_one_screen_at_any_width(targets, monkeypatch, width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    text = text_of(targets)
    assert len(text.splitlines()) <= SCREEN
    for finding in (f for target in targets for f in target.findings if f.severity != "info"):
        assert f"  {finding.code} {finding.severity}: " in text
    assert any(word in text for word in ("`tiecheck fix ", "tiecheck fix fixtures", "to see what is wrong and the fix"))
    twice = text_of([*targets, *targets])
    assert len(twice.splitlines()) > SCREEN
    assert "declared as one" in twice, "what fits in no form keeps its sentences"


def test_a_folder_that_all_absolute_targets_lie_in_is_named_once(targets, monkeypatch) -> None:
    """A deep folder before each name took a screen of 80 columns past its goal."""
    deep = f"/{'folder/' * 12}"
    there = [target._replace(target=f"{deep}{name}") for target, name in zip(targets, NAMES, strict=True)]
    monkeypatch.setenv("COLUMNS", "80")
    text = text_of(there)
    assert "".join(text.split()).count(deep) == 1
    assert len(text.splitlines()) <= SCREEN
    assert f"pass    {NAMES[0]}  " in text
    for few in (there[: MANY - 1], [*targets[:1], *there], [there[0]._replace(target="/other/model"), *there]):
        assert common_folder(assemble_report(few)) == ""
    likely = [
        there[0]._replace(target=f"/models/{name}/model") for name in ("llama-a", "llama-b", "llama-c", "llama-d")
    ]
    assert common_folder(assemble_report(likely)) == "/models/"
    for form in (html_page, svg):
        stream = io.StringIO()
        form.render(assemble_report(there), Style(), stream)
        assert f">{NAMES[0]}<" in stream.getvalue() or f"  {NAMES[0]}  " in stream.getvalue()


def test_a_pass_says_what_was_judged(targets: list[TargetReport], monkeypatch) -> None:
    """No word of a target without ties may be read as a word on its other weights."""
    (bare,) = (target for target in targets if target.target.endswith("bert-encoder"))
    for width in ("40", "80"):
        monkeypatch.setenv("COLUMNS", width)
        shown = " ".join(text_of([bare]).split())
        assert "BertModel no tie to judge 1 target: 1 pass. Findings: none. Only ties were judged." in shown
    source = tiecheck.check(__file__).targets
    assert "test_text.py no tie is broken in it" in " ".join(text_of(list(source)).split())
    failed = [target for target in targets if target.status == "fail"]
    assert "judged" not in text_of(failed)


def test_a_pass_names_the_versions_that_it_is_not_for(targets: list[TargetReport]) -> None:
    """Of a loader that is well in others; `--for` takes what is named."""
    (first, *_) = (target for target in targets if target.status == "pass" and target.loaders)
    entry = first.loaders[0]._replace(loader="vllm", versions="0.25.1-0.28", outcome="head-discarded")
    later = entry._replace(versions="0.29-0.33", outcome="tied")
    for loaders, said in (
        ((entry, later), "not in vllm 0.25.1-0.28 (--for vllm==0.25.1)"),
        ((entry,), "not in vllm (--for vllm)"),
    ):
        assert said in " ".join(text_of([first._replace(loaders=loaders)]).split())
    tiecheck.check(MODELS / "llama-healthy-tied", judge_for=["vllm==0.25.1"])


@pytest.mark.parametrize("width", [40, 60, 80, 120])
@pytest.mark.parametrize("verbose", [False, True])
def test_the_width_is_that_of_the_page(targets, monkeypatch, width: int, verbose: bool) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    texts = [finding.help.split("`")[1::2] for target in targets for finding in target.findings]
    code = {line for parts in texts for part in parts for line in part.split("; ")}
    for line in text_of(targets, verbose=verbose).splitlines():
        if line.strip() in code:
            continue  # to be copied as it is
        rest = re.sub(r"^(pass|fail|unknown|error) ", "", line.strip())
        assert len(line) <= width or " " not in re.sub(r"^(\w+ +|[\w ]+: )", "", rest), line


def test_what_the_page_is_wide() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "60")
        assert (page_width(Terminal()), page_width(io.StringIO())) == (60, 60)
        for odd, wide in (("-5", 80), ("", 80), ("9" * 50, 80), ("0", 80), ("5", 40), ("999", 120)):
            patch.setenv("COLUMNS", odd)
            assert page_width(io.StringIO()) == wide
        for name in ("NO_COLOR", "FORCE_COLOR", "TERM"):
            patch.delenv(name, raising=False)
        auto = Style()
        assert (wants_color(auto, Terminal()), wants_color(auto, io.StringIO())) == (True, False)
        patch.setenv("FORCE_COLOR", "1")
        assert wants_color(auto, io.StringIO())
        patch.setenv("NO_COLOR", "1")
        assert not wants_color(auto, Terminal())
        assert wants_color(Style(color="always"), io.StringIO())
        patch.delenv("NO_COLOR")
        patch.delenv("FORCE_COLOR")
        patch.setenv("TERM", "dumb")
        assert not wants_color(auto, Terminal())


def test_wide_characters_take_two_columns() -> None:
    assert (cells("模型"), cells("e\u0301"), cells("ab")) == (4, 1, 2)
    assert wrapped(Line(" ".join(["模型"] * 4)), 9) == ["模型 模型", "模型 模型"]


def test_alike_reasons_are_told_once(targets: list[TargetReport]) -> None:
    unknown = [target for target in targets if target.status == "unknown"]
    text = text_of(unknown)
    assert len(unknown) >= MANY
    assert " ".join(text.split()).count("--trust-remote-code runs it") == 1
    assert text.count("  [1]") == len(unknown)
    told = text_of([*unknown[:1], targets[0]])
    assert "so it is not known what becomes of" in " ".join(told.split())


def test_what_is_suppressed_is_counted_and_shown_with_v(targets: list[TargetReport]) -> None:
    (target,) = (t for t in targets if t.target.endswith("llama-diverged-head"))
    off = tuple(f._replace(suppressed="a reason of mine") for f in target.findings)
    target = target._replace(findings=off, status="pass")
    assert "Findings: none; 1 suppressed." in text_of([target])
    assert "TIE101" not in text_of([target])
    assert "TIE101 error: trained-head-discarded (suppressed: a reason of mine)" in text_of([target], verbose=True)


def test_a_severity_that_is_shown_is_one_that_is_listed(targets: list[TargetReport]) -> None:
    for finding in (finding for target in targets for finding in target.findings):
        listed = {rule_of(finding.code).severity, *OTHER_SEVERITIES.get(finding.code, "").split(", ")}
        assert finding.severity in listed, finding.code


def test_a_pass_says_what_is_stored_apart(targets: list[TargetReport]) -> None:
    (healthy,) = (t._replace(target="x") for t in targets if t.target.endswith("llama-healthy-tied"))
    apart = tuple(tie._replace(stored="separate") for tie in healthy.ties)
    assert "1 group of 2, declared tied, stored apart" in text_of([healthy._replace(ties=apart)])


def test_yours_come_first(targets: list[TargetReport]) -> None:
    (target,) = (t for t in targets if t.target.endswith("llama-head-name-only"))
    (finding,) = target.findings
    assert whom_text(finding, target).startswith("transformers 4.57 (left on meta); vllm, sglang (random embedding); ")
    assert whom_text(finding, target._replace(judged_for=("sglang",))).startswith("sglang, vllm (random embedding);")
    assert whom_text(finding._replace(hurts=("sglang 1", "vllm 2")), target._replace(judged_for=("vllm==2",))) == (
        "vllm 2, sglang 1"
    )
    assert whom_text(finding._replace(hurts=None), target) == ""
    five = target.loaders[0]._replace(versions="5", outcome="head-random", message=None)
    both = target._replace(loaders=(target.loaders[0], five))
    two = finding._replace(hurts=("transformers 4.57", "transformers 5"))
    assert whom_text(two, both) == "transformers 4.57 (left on meta); transformers 5 (random head)", (
        "each by its version"
    )


def test_print_is_the_text_report() -> None:
    report = tiecheck.check(MODELS / "llama-diverged-head")
    assert str(report) == report_text(report)
    seconds = re.compile(r"[\d.]+ s$", re.MULTILINE)
    assert seconds.sub("", str(report)) == seconds.sub("", text_of(list(report.targets)).rstrip())
    assert "TIE101 error: " in str(report)


def test_a_report_prints_itself_whoever_made_it() -> None:
    """A guard, the pytest plugin and the callbacks make reports in processes that never call `tiecheck.check`."""
    code = (
        "import sys; from tiecheck.engine.options import check_with, make_config\n"
        f"target = {str(MODELS / 'llama-diverged-head')!r}\n"
        "print(check_with(target, make_config(target)), 'tiecheck.api' in sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.startswith("fail ")
    assert "\n  TIE101 error: " in told
    assert told.endswith("False\n")


def test_numbers_in_words(targets: list[TargetReport]) -> None:
    assert [times(n) for n in (1, 2, 3)] == ["once", "twice", "3 times"]
    assert found_text(Report("0", (), 0.0)) == "none"
    assert found_text(assemble_report(targets)) == "6 errors, 4 warnings, 4 notes"
