"""The pytest plugin, by whole runs of pytest: the fixture, the marker, models as items, and runs that do not use it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import torch
from lanes import sampled
from torch import nn

import tiecheck
from tiecheck.testing.plugin import pytest_addoption

ROOT = Path(__file__).parents[2]
NETS = '''
import pytest
import torch
from torch import nn

class Net(nn.Module):
    """Its head can be tied."""

    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(8, 4)
        self.head = nn.Linear(4, 8, bias=False)

def tied():
    net = Net()
    net.head.weight = net.emb.weight
    return net

def broken():
    """TIE302: looks tied, and is not."""
    net = Net()
    net.head.weight = nn.Parameter(net.emb.weight)
    return net
'''


@pytest.fixture(autouse=True)
def loaded(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything a check imports is there before a run in this process starts, since the run forgets what it adds."""
    tiecheck.check(nn.Linear(1, 1))
    tiecheck.check(models / "llama-healthy-tied")
    torch.set_num_threads(1)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # for runs in a process of their own
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)


@pytest.fixture
def project(pytester: pytest.Pytester, models: Path) -> pytest.Pytester:
    """A directory with some models in it, and no tests."""
    for name in ("llama-healthy-tied", "llama-flag-lost", "llama-redundant-copy", "llama-diverged-head"):
        shutil.copytree(models / name, pytester.path / "models" / name)
    return pytester


def run(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    """A run in this process, with no plugin but ours, since it loads each of them anew."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
        return pytester.runpytest_inprocess("-p", "tiecheck.testing.plugin", *arguments)


def run_apart(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    """A run in a process of its own, in which the plugin is found as an installed one is."""
    return pytester.runpytest_subprocess("-p", "no:hypothesispytest", "-p", "no:anyio", *arguments)


def lines(result: pytest.RunResult) -> str:
    return result.stdout.str()


# The fixture.


def test_the_fixture_passes_what_is_sound_and_fails_what_is_not(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        NETS
        + """
def test_sound(tiecheck):
    checked = tiecheck(tied())
    checked.assert_clean()
    checked.assert_tied("emb.weight", "head.weight")
    checked.assert_ties_match([["head.weight", "emb.weight"]])
    assert checked.report.targets[0].status == "pass"
    tiecheck(Net()).assert_not_tied("emb.weight", "head.weight")

def test_unclean(tiecheck):
    tiecheck(broken()).assert_clean()

def test_untied(tiecheck):
    tiecheck(Net()).assert_tied("emb.weight", "head.weight")

def test_tied(tiecheck):
    tiecheck(tied()).assert_not_tied("emb.weight", "head.weight")

def test_unmatched(tiecheck):
    tiecheck(tied()).assert_ties_match([])

def test_misspelt(tiecheck):
    tiecheck(tied(), select=["TIE999"])

def test_no_option(tiecheck):
    tiecheck(tied(), nonsense=1)

def test_no_module(tiecheck):
    tiecheck(3)

def test_no_name(tiecheck):
    tiecheck(tied()).assert_tied("emb.weight", "heads.weight")

def test_guarded(tiecheck):
    net = tied()
    with tiecheck(net).guard():
        net.head.weight = nn.Parameter(net.emb.weight.clone())
"""
    )
    result = run(pytester)
    result.assert_outcomes(passed=1, failed=9)
    result.stdout.fnmatch_lines_random(
        [
            "E * AssertionError: tiecheck: TIE302 storage-only-tie",
            "E * fix *",
            "E * AssertionError: not tied as parameter: `emb.weight`, `head.weight`",
            "E * to tie them, assign after loading*",
            "E * AssertionError: tied: `emb.weight`, `head.weight`",
            "E * AssertionError: the ties of Net are not the ones expected: 1 not expected",
            "FAILED *::test_unclean - AssertionError: tiecheck: TIE302*",
        ]
    )
    shown = [line for line in result.outlines if re.match(r"\S+\.py:\d+: ", line)]
    assert len(shown) == 9
    assert not re.search(r"tiecheck/\w+/\w+\.py:", lines(result)), "no line of ours is in the traceback"


def test_the_fixture_takes_options_of_check(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        NETS
        + """
def test_options(tiecheck):
    tiecheck(broken(), ignore="TIE302").assert_clean()
    assert tiecheck(tied(), ties=[["emb.weight", "head.weight"]]).config.ties_of(Net)
    with pytest.raises(AssertionError, match="nothing was checked: no rule that was selected fits this model"):
        tiecheck(tied(), select="TIE1").assert_clean()
    with pytest.raises(TypeError, match="selct"):
        tiecheck(tied(), selct="TIE1")
"""
    )
    run(pytester).assert_outcomes(passed=1)


def test_the_fixture_takes_a_path_and_has_no_names_in_it(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
import pytest

def test_paths(tiecheck):
    tiecheck("models/llama-healthy-tied").assert_clean()
    with pytest.raises(TypeError, match="'models/llama-healthy-tied' is a path; build it first"):
        tiecheck("models/llama-healthy-tied").assert_tied("a", "b")

def test_lost(tiecheck):
    tiecheck("models/llama-flag-lost").assert_clean()

def test_missing(tiecheck):
    tiecheck("models/none").assert_clean()
"""
    )
    result = run(project)
    result.assert_outcomes(passed=1, failed=2)
    result.stdout.fnmatch_lines(
        ["E * AssertionError: tiecheck: TIE102*", "E * AssertionError: tiecheck: there is no models/none*"]
    )


# The marker.


def test_the_marker_gives_the_fixture_its_options_the_nearest_first(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        NETS
        + """
pytestmark = pytest.mark.tiecheck(ignore=["TIE302"], strict=True)

def test_of_the_module(tiecheck):
    checked = tiecheck(broken())
    checked.assert_clean()
    assert checked.config.strict

@pytest.mark.tiecheck(ignore=[])
class TestClass:
    def test_of_the_class(self, tiecheck):
        checked = tiecheck(broken())
        assert checked.report.findings
        assert checked.config.strict

    @pytest.mark.tiecheck(ignore="TIE3", ties={"Net": [["a", "b"]]})
    def test_of_the_test(self, tiecheck):
        assert tiecheck(broken()).config.ignore == ("TIE3",)
        assert tiecheck(broken(), ignore="TIE302").config.ignore == ("TIE302",)
        assert tiecheck(broken()).config.ties_of(Net) == (("a", "b"),)
"""
    )
    run(pytester, "--strict-markers").assert_outcomes(passed=3)


WRONG_WORDS = (
    ("selct=['TIE1']", "@pytest.mark.tiecheck has no 'selct'; did you mean 'select'?"),
    ("fail='info'", "@pytest.mark.tiecheck has no 'fail'; did you mean 'fail_on'?"),
    ("'TIE1'", "@pytest.mark.tiecheck takes keywords: select, "),
)


@pytest.mark.parametrize(
    ("mark", "says", "workers"),
    [*((*words, []) for words in WRONG_WORDS), *sampled([(*words, ["-n", "2"]) for words in WRONG_WORDS], 3)],
)
def test_a_wrong_word_in_the_marker_is_a_usage_error(pytester, mark: str, says: str, workers: list[str]) -> None:
    pytester.makepyfile(
        f"import pytest\n@pytest.mark.tiecheck({mark})\ndef test_it(tiecheck): pass\ndef test_other(): pass"
    )
    result = (run_apart if workers else run)(pytester, *workers)
    assert says in lines(result) + result.stderr.str()
    if workers:  # xdist takes a worker that stops at collection for a crash, so the test that is marked fails
        result.assert_outcomes(passed=1, errors=1)
    else:
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        assert "::test_it: @pytest" in result.stderr.str(), "the test is named"


# Models as items.


def test_a_model_alone_is_a_run(project: pytest.Pytester) -> None:
    result = run(project, "--tiecheck=models/llama-healthy-tied", "-v")
    result.assert_outcomes(passed=1)
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*collected 1 item", "tiecheck::models/llama-healthy-tied PASSED*"])


def test_a_model_that_fails_says_what_the_command_line_says(
    project: pytest.Pytester, tiecheck_cli, monkeypatch
) -> None:
    result = run(project, "--tiecheck=models/llama-flag-lost", "--tiecheck=models/llama-healthy-tied")
    result.assert_outcomes(passed=1, failed=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    monkeypatch.chdir(project.path)
    told = tiecheck_cli("models/llama-flag-lost").stdout.splitlines()
    wanted = [line for line in told if not line.endswith(" s")]
    assert "\n".join(wanted[:5]) in lines(result)
    assert all(line in lines(result).splitlines() for line in wanted)
    result.stdout.fnmatch_lines(["FAILED tiecheck::models/llama-flag-lost - tiecheck: TIE102*"])
    assert "Traceback" not in lines(result)
    assert ".py:" not in lines(result).partition("= FAILURES =")[2], "no line of Python failed"


def test_models_stand_beside_test_files(project: pytest.Pytester) -> None:
    project.makepyfile(test_one="def test_it(): pass", test_two="def test_it(): assert 0")
    model = ("--tiecheck=models/llama-healthy-tied",)
    run(project, *model).assert_outcomes(passed=2, failed=1)
    run(project, *model, "test_one.py").assert_outcomes(passed=2)
    run(project, *model, "test_two.py::test_it").assert_outcomes(passed=1, failed=1)
    assert run(project, *model, "test_none.py").ret == pytest.ExitCode.USAGE_ERROR


def test_models_are_selected_like_tests(project: pytest.Pytester) -> None:
    project.makepyfile("def test_it(): pass")
    both = ("--tiecheck=models/llama-healthy-tied", "--tiecheck=models/llama-flag-lost")
    run(project, *both, "-k", "healthy").assert_outcomes(passed=1, deselected=2)
    run(project, *both, "-k", "not flag-lost").assert_outcomes(passed=2, deselected=1)
    run(project, *both, "-m", "tiecheck").assert_outcomes(passed=1, failed=1, deselected=1)
    run(project, *both, "--deselect", "tiecheck::models/llama-flag-lost").assert_outcomes(passed=2, deselected=1)
    result = run(project, *both, "--collect-only", "-q")
    result.stdout.fnmatch_lines(
        ["*::test_it", "tiecheck::models/llama-healthy-tied", "tiecheck::models/llama-flag-lost"]
    )
    assert "TIE102" not in lines(result), "nothing is checked"


def test_last_failed_comes_back(project: pytest.Pytester) -> None:
    project.makepyfile("def test_it(): pass")
    project.mkdir("tiecheck")  # a directory of that name is no failed file
    both = ("--tiecheck=models/llama-healthy-tied", "--tiecheck=models/llama-flag-lost")
    run(project, *both)
    run(project, *both, "--lf").assert_outcomes(failed=1, deselected=2)
    run(project, *both, "--ff", "--nf").assert_outcomes(failed=1, passed=2)


def test_the_ini_file_names_models_and_options(project: pytest.Pytester) -> None:
    (project.path / "pyproject.toml").write_text(
        '[tool.pytest]\nstrict = true\ntiecheck_targets = ["models/llama-flag-lost", "models/none"]\n'
        'tiecheck_ignore = ["TIE102"]\ntiecheck_strict = true\ntiecheck_fail_on = "error"\n'
    )
    run(project, "-v").assert_outcomes(passed=1, failed=1)
    run(project, "--tiecheck-ignore", "TIE109").assert_outcomes(failed=2)
    below = project.mkdir("below")
    (below / "test_it.py").write_text("def test_it(): pass")
    result = run_apart(project, "--rootdir", str(project.path), "-c", str(project.path / "pyproject.toml"), str(below))
    result.assert_outcomes(passed=2, failed=1)


def test_old_ini_files_name_them_too(project: pytest.Pytester) -> None:
    project.makeini(
        "[pytest]\ntiecheck_targets =\n    models/llama-flag-lost\n    models/llama-healthy-tied\n"
        "tiecheck_select =\n    TIE101,TIE102\n    TIE106\ntiecheck_strict = yes\n"
    )
    run(project).assert_outcomes(passed=1, failed=1)


def test_a_model_named_twice_is_one_item(project: pytest.Pytester) -> None:
    project.makeini("[pytest]\ntiecheck_targets = models/llama-healthy-tied\n")
    run(project, "--tiecheck=models/llama-healthy-tied").assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("arguments", "failed"),
    [
        (["models/llama-flag-lost"], True),
        (["models/llama-flag-lost", "--tiecheck-ignore", "TIE102"], False),
        (["models/llama-flag-lost", "--tiecheck-select", "TIE101,TIE106"], False),
        (["models/llama-redundant-copy"], False),
        (["models/llama-redundant-copy", "--tiecheck-fail-on", "info"], True),
        (["models/llama-healthy-tied", "--tiecheck-select", "TIE3"], True),
        (["models/llama-diverged-head", "--tiecheck-config", "never.toml"], False),
        (["models/llama-diverged-head", "--tiecheck-config", "never.toml", "--tiecheck-strict"], True),
        (["models/none"], True),
        (["models"], True),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_fails_a_model(project: pytest.Pytester, arguments: list[str], failed: bool) -> None:
    (project.path / "never.toml").write_text('values = "never"')
    run(project, f"--tiecheck={arguments[0]}", *arguments[1:]).assert_outcomes(
        failed=int(failed), passed=int(not failed)
    )


def test_live_builds_the_class(project: pytest.Pytester, models: Path) -> None:
    tiecheck.check(models / "llama-healthy-tied", live=True)  # imports what it builds with, as above
    arguments = ("--tiecheck=models/llama-healthy-tied", "--tiecheck-select", "TIE3", "--tiecheck-live")
    run(project, *arguments).assert_outcomes(passed=1)


def test_a_pass_with_skips_or_notes_can_be_read(project: pytest.Pytester) -> None:
    result = run(project, "--tiecheck=models/llama-redundant-copy", "-rP")
    result.stdout.fnmatch_lines(["*tiecheck call*", "*TIE106 info: redundant-tied-copy*"])


def test_a_module_is_built_from_its_name(project: pytest.Pytester) -> None:
    project.makepyfile(nets=NETS)
    result = run(project, "--tiecheck=nets.py:tied", "--tiecheck=nets.py:broken")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["FAILED tiecheck::nets.py:broken - tiecheck: TIE302*"])


def test_a_test_that_changes_the_directory_does_no_harm(project: pytest.Pytester) -> None:
    project.makepyfile("import os\ndef test_it(tmp_path): os.chdir(tmp_path)")
    run(project, "--tiecheck=models/llama-healthy-tied").assert_outcomes(passed=2)


def test_a_password_in_an_address_is_in_no_name(project: pytest.Pytester) -> None:
    result = run(project, "--tiecheck=https://me:secret@localhost:1/m?token=x", "--collect-only", "-q")
    result.stdout.fnmatch_lines(["tiecheck::https://localhost:1/m"])
    assert "secret" not in lines(result)


def test_junit_names_the_model_and_tells_the_report(project: pytest.Pytester) -> None:
    run(project, "--tiecheck=models/llama-flag-lost", "--junitxml", "out.xml")
    (case,) = ET.parse(project.path / "out.xml").iter("testcase")
    assert (case.get("classname"), case.get("name")) == ("tiecheck", "models/llama-flag-lost")
    (failure,) = case.iter("failure")
    assert failure.get("message").startswith("tiecheck: TIE102 tied-member-lost")
    assert "    fix   If the model was trained tied" in failure.text


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--tiecheck-fail-on", "eror"], "tiecheck_fail_on: 'eror' is no severity; did you mean 'error'?"),
        (["--tiecheck-select", "TIE999"], "tiecheck: no rule's code begins with 'TIE999'"),
        (["--tiecheck-config", "none.toml"], "none.toml cannot be read"),
    ],
)
def test_a_wrong_option_is_a_usage_error(project: pytest.Pytester, arguments: list[str], says: str) -> None:
    result = run(project, *arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert says in result.stderr.str()


# Other runs.


def test_workers_get_models_markers_and_options(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
import pytest

@pytest.mark.tiecheck(ignore="TIE102")
def test_ignored(tiecheck):
    tiecheck("models/llama-flag-lost").assert_clean()

def test_clean(tiecheck):
    tiecheck("models/llama-flag-lost").assert_clean()
"""
    )
    result = run_apart(
        project,
        "-n", "2", "--tiecheck=models/llama-diverged-head", "--tiecheck=models/llama-redundant-copy",
        "--tiecheck-fail-on", "info", "--tiecheck-select", "TIE101,TIE102", "--tiecheck-select", "TIE106",
    )  # fmt: skip
    result.assert_outcomes(passed=1, failed=3)
    result.stdout.fnmatch_lines_random(
        [
            "FAILED tiecheck::models/llama-diverged-head - tiecheck: TIE101*",
            "FAILED tiecheck::models/llama-redundant-copy - tiecheck: TIE106*",
            "FAILED *::test_clean - AssertionError: tiecheck: TIE102*",
        ]
    )


SPY = "from pathlib import Path\nPath(r'{}').touch()\n"


@pytest.fixture
def planted(pytester: pytest.Pytester, tmp_path_factory: pytest.TempPathFactory) -> tuple[pytest.Pytester, Path, Path]:
    """A model's folder with files that pytest would obey were it a folder of tests; and what they would write."""
    folder = tmp_path_factory.mktemp("model")
    trace = folder / "was-run"
    for name in ("conftest.py", "test_it.py", "evil.py"):
        (folder / name).write_text(SPY.format(trace))
    (folder / "config.json").write_text("{}")
    (folder / "pytest.ini").write_text("[pytest]\npythonpath = .\npython_files = *.py\n")
    return pytester, folder, trace


@pytest.mark.parametrize(
    "more", sampled([[], ["-q"], ["tests"], ["--tiecheck-select=TIE1", "-x"], ["--tiecheck=other"]])
)
@pytest.mark.parametrize("form", [["--tiecheck={}"], ["--tiecheck", "{}"], ["--tiecheck", "{}/"]])
def test_a_models_folder_is_no_folder_of_tests(planted, form: list[str], more: list[str]) -> None:
    project, folder, trace = planted
    form = [word.format(folder) for word in form]
    tests = project.mkdir("tests")
    (tests / "test_own.py").write_text("def test_own(): pass")
    for arguments in ([*form, *more], [*more, *form])[: 2 if more else 1]:
        result = run_apart(project, *arguments)
        assert not trace.exists()
        if form[0] == "--tiecheck":
            assert result.ret == pytest.ExitCode.USAGE_ERROR
            assert "write --tiecheck=TARGET" in result.stderr.str()
        else:
            assert result.ret == pytest.ExitCode.TESTS_FAILED  # there are no weights in it
            assert f"rootdir: {folder}" not in result.stdout.str()


def test_the_form_with_a_space_is_refused_in_the_environment_too(planted, monkeypatch) -> None:
    project, folder, trace = planted
    monkeypatch.setenv("PYTEST_ADDOPTS", f"-q --tiecheck {folder}")
    assert run_apart(project).ret == pytest.ExitCode.USAGE_ERROR
    assert not trace.exists()


def test_without_the_plugin_its_words_are_unknown(project: pytest.Pytester) -> None:
    project.makepyfile("def test_it(tiecheck): pass")
    result = run_apart(project, "-p", "no:tiecheck")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*fixture 'tiecheck' not found*"])
    assert run_apart(project, "-p", "no:tiecheck", "--tiecheck=x").ret == pytest.ExitCode.USAGE_ERROR


def test_a_run_that_does_not_use_it_imports_nothing_of_it(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
import sys

def test_modules(request):
    assert request.config.pluginmanager.has_plugin("tiecheck")
    there = {name.partition(".")[0] for name in sys.modules}
    assert not there & {"torch", "transformers", "numpy", "click", "rich", "safetensors", "huggingface_hub"}
    assert {name for name in sys.modules if name.startswith("tiecheck")} == {
        "tiecheck", "tiecheck._version", "tiecheck.testing", "tiecheck.testing.plugin"
    }
"""
    )
    run_apart(pytester, "-p", "no:xdist").assert_outcomes(passed=1)


def test_files_are_checked_without_torch(project: pytest.Pytester) -> None:
    project.makepyfile(
        "import sys\ndef test_modules(tiecheck):\n    assert not {'torch', 'click', 'rich'} & sys.modules.keys()"
    )
    result = run_apart(project, "--tiecheck=models/llama-healthy-tied")
    result.assert_outcomes(passed=2)


@pytest.fixture
def installed(pytester: pytest.Pytester) -> Path:
    """tiecheck as a wheel installs it: pytest rewrites the assertions of what the record lists."""
    site = pytester.mkdir("site")
    shutil.copytree(ROOT / "tiecheck", site / "tiecheck", ignore=shutil.ignore_patterns("__pycache__"))
    info = site / "tiecheck-9.9.9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tiecheck\nVersion: 9.9.9\n")
    (info / "entry_points.txt").write_text("[pytest11]\ntiecheck = tiecheck.testing.plugin\n")
    files = [path.relative_to(site).as_posix() for path in site.rglob("*") if path.is_file()]
    (info / "RECORD").write_text("".join(f"{name},,\n" for name in [*files, "tiecheck-9.9.9.dist-info/RECORD"]))
    return site


@pytest.mark.parametrize(
    "first", ["", "import tiecheck, tiecheck.testing.asserts; "], ids=["pytest-first", "tiecheck-first"]
)
def test_no_warning_of_any_kind(project: pytest.Pytester, installed: Path, monkeypatch, first: str) -> None:
    monkeypatch.setenv("PYTHONPATH", str(installed))
    project.makepyfile(
        """
def test_it(tiecheck):
    tiecheck("models/llama-healthy-tied").assert_clean()
    import tiecheck
    assert "site" in tiecheck.__file__
"""
    )
    arguments = ["-W", "error", "-p", "no:cacheprovider", "--tiecheck=models/llama-healthy-tied", "--strict-markers"]
    program = f"{first}import sys, pytest; sys.exit(pytest.main({arguments!r}))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=project.path, capture_output=True, text=True, check=False
    )
    assert "2 passed" in done.stdout, done.stdout + done.stderr
    assert "Warning" not in done.stdout + done.stderr
    assert " warning" not in done.stdout


def test_a_module_is_checked_without_a_warning(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(NETS + "\ndef test_it(tiecheck):\n    tiecheck(tied()).assert_clean()")
    run(pytester, "-W", "error", "-p", "no:cacheprovider").assert_outcomes(passed=1)


def test_the_configuration_of_the_root_directory_is_heard_as_on_the_command_line(pytester: pytest.Pytester) -> None:
    pytester.makepyprojecttoml('[tool.tiecheck.ties]\nNet = [["emb.weight", "head.weight"]]\n')
    pytester.makepyfile(net=NETS)
    pytester.makepyfile(
        """
from net import Net, tied

def test_held(tiecheck):
    tiecheck(tied()).assert_clean()

def test_broken(tiecheck):
    tiecheck(Net()).assert_clean()
"""
    )
    result = run(pytester, "--tiecheck=net.py:Net", "--tiecheck=net.py:tied")
    result.assert_outcomes(passed=2, failed=2)
    result.stdout.fnmatch_lines(["*TIE301 declared-tie-not-applied*"])
    none = pytester.path / "none.toml"
    none.write_text("")
    run(pytester, "--tiecheck=net.py:Net", "--tiecheck-config", "none.toml").assert_outcomes(passed=3)


def test_every_option_has_a_word_on_the_line_and_one_in_the_ini_file() -> None:
    """A line and an ini file say the same, so that a project can write down what one types."""
    parser = pytest.Parser(_ispytest=True)
    pytest_addoption(parser)
    group = next(group for group in parser._groups if "tiecheck" in group.name)
    words = {option.names()[0].removeprefix("--").replace("-", "_") for option in group.options}
    assert words == {
        "tiecheck",
        *(f"tiecheck_{w}" for w in ("select", "ignore", "strict", "fail_on", "live", "config")),
    }
    assert set(parser._inidict) == (words - {"tiecheck"}) | {"tiecheck_targets"}
