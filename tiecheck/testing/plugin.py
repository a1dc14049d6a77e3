"""The pytest plugin: a fixture and its marker for models in tests, and a test item for each model that is named.

Every pytest run of an environment imports this file, so it imports nothing of ours: what checks is loaded when a test
or an option first asks for it. Option values stay plain strings, since pytest-xdist sends them to its workers.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tiecheck.testing.checks import ModelCheck

KINDS: dict[str, tuple[dict[str, Any], str]] = {
    "words": ({"action": "append", "metavar": "CODES"}, "linelist"),
    "switch": ({"action": "store_true", "default": None}, "bool"),
    "severity": ({"metavar": "SEVERITY"}, "string"),
    "file": ({"metavar": "FILE"}, "string"),
}
"""Kind of option -> how the command line takes it, and the type of its twin in the ini file."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options, each with a twin in the ini file."""
    group = parser.getgroup("tiecheck", "tied weights of models")
    group.addoption(
        "--tiecheck",
        action="append",
        metavar="TARGET",
        dest="tiecheck_targets",
        help="Check this model, as `tiecheck TARGET` does, as a test item of its own; with the `=`; repeatable.",
    )
    parser.addini("tiecheck_targets", "Models to check, each a test item of its own.", type="linelist")
    for name, kind, text in (
        ("select", "words", "Run these rules only (TIE1, TIE301); repeatable, or with commas."),
        ("ignore", "words", "Leave these rules out; repeatable, or with commas."),
        ("strict", "switch", "Fail where a rule had to be skipped, or the ties could not be told."),
        ("fail-on", "severity", "The mildest severity that fails: info, warning (default) or error."),
        ("live", "switch", "Also build the class of each --tiecheck model, without weights."),
        ("config", "file", "A configuration file of tiecheck. [default: the one in the root directory]"),
    ):
        _add_twins(parser, group, name, kind, text)


def _add_twins(parser: pytest.Parser, group: pytest.OptionGroup, name: str, kind: str, text: str) -> None:
    """Add one option under both its names: `--tiecheck-fail-on` and `tiecheck_fail_on`."""
    line, ini = KINDS[kind]
    word = f"tiecheck_{name.replace('-', '_')}"
    group.addoption(f"--tiecheck-{name}", dest=word, help=text, **line)
    parser.addini(word, text, type=ini, default=None)  # type: ignore[arg-type]  # its literals, from our table


@pytest.hookimpl(wrapper=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> Generator[None, object, object]:
    """Refuse `--tiecheck TARGET`, before any conftest is loaded and `pythonpath` of an ini file counts.

    pytest (9) looks for its ini file before it has loaded a plugin, and takes the word after an option that it does not
    know for a path to collect: a model's folder becomes the root, and its pytest.ini and conftest.py are obeyed.
    """
    words = [*shlex.split(os.environ.get("PYTEST_ADDOPTS", "")), *map(str, early_config.invocation_params.args)]
    if "--tiecheck" in words[: words.index("--") if "--" in words else None]:
        raise pytest.UsageError(
            "write --tiecheck=TARGET: with a space pytest takes the model's folder for a folder of tests, and would "
            "run its conftest.py and follow its pytest.ini"
        )
    return (yield)


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker, and tell of a wrong option before anything runs."""
    config.addinivalue_line(
        "markers",
        "tiecheck(select, ignore, fail_on, strict, values, judge_for, ties, config): options of the tiecheck fixture",
    )
    if config.getoption("tiecheck_targets") or config.getini("tiecheck_targets") or _is_used(config):
        from tiecheck.testing.checks import refuse_wrong_options

        refuse_wrong_options(config)


def _is_used(config: pytest.Config) -> bool:
    words = (f"tiecheck_{name}" for name in ("select", "ignore", "strict", "fail_on", "live", "config"))
    return any(config.getoption(word) or config.getini(word) for word in words)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Put the models beside whatever else the session collects."""
    report = yield
    if isinstance(collector, pytest.Session) and report.passed:
        config = collector.config
        if config.getoption("tiecheck_targets") or config.getini("tiecheck_targets"):
            from tiecheck.testing.checks import Targets

            report.result.append(Targets.from_parent(collector, name="tiecheck", nodeid="tiecheck"))
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Refuse a marker with a word that does not exist before the first test runs.

    Under pytest-xdist 3.8 a worker that is stopped here is taken for one that crashed; there the fixture refuses it.
    """
    if hasattr(config, "workerinput"):
        return
    for item in items:
        for mark in item.iter_markers("tiecheck"):
            if mark.args or mark.kwargs:
                from tiecheck.testing.checks import refuse_wrong_mark

                refuse_wrong_mark(mark, item.nodeid)


@pytest.fixture
def tiecheck(request: pytest.FixtureRequest) -> ModelCheck:
    """Check a model: `tiecheck(model).assert_clean()`, `.assert_tied("a", "b")`, `.assert_ties_match(groups)`.

    Takes what `tiecheck.check` takes, and returns the report with assertions. Options come from the call, then from
    `@pytest.mark.tiecheck(...)`, then from `--tiecheck-...` and the ini file.
    """
    from tiecheck.testing.checks import ModelCheck, fixture_options

    return ModelCheck(fixture_options(request))
