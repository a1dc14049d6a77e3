"""The pytest plugin once it is used: its options, the fixture's object, the items, and when a report is a failure."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from tiecheck.config.discovery import files_in
from tiecheck.config.options import Config
from tiecheck.engine.options import check_with, make_config
from tiecheck.engine.status import exit_status
from tiecheck.errors import UsageError, did_you_mean, without_secrets
from tiecheck.records.report import SEVERITIES, Report, at_least
from tiecheck.records.words import Kind
from tiecheck.rules.registry import check_codes
from tiecheck.testing.asserts import assert_not_tied, assert_tied, assert_ties_match

if TYPE_CHECKING:
    from torch import nn

    from tiecheck.guard.tie_guard import OnBreak, TieGuard

MARK_WORDS = ("select", "ignore", "fail_on", "strict", "values", "judge_for", "ties", "config")
"""Keywords of the marker: those of `tiecheck.check` that mean something for a model in a test."""


def option_keywords(config: pytest.Config) -> dict[str, Any]:
    """Return the options of the command line and the ini file, as keywords of `tiecheck.check`."""
    found: dict[str, Any] = {}
    for name in ("select", "ignore"):
        words = _given(config, name)
        if words:
            found[name] = tuple(code.strip() for word in words for code in word.split(",") if code.strip())
    for name in ("strict", "live", "fail_on"):
        value = _given(config, name)
        if value:
            found[name] = value
    file = config.getoption("tiecheck_config")
    if file:
        found["config"] = os.path.join(config.invocation_params.dir, file)
    elif config.getini("tiecheck_config"):
        found["config"] = os.path.join(config.rootpath, config.getini("tiecheck_config"))
    else:  # the project's own, as the command line has it there
        own = next(files_in(str(config.rootpath)), None)
        if own is not None:
            found["config"] = own
    return found


def _given(config: pytest.Config, name: str) -> Any:
    value = config.getoption(f"tiecheck_{name}")
    return config.getini(f"tiecheck_{name}") if value is None else value


def refuse_wrong_options(config: pytest.Config) -> None:
    """Raise a `pytest.UsageError` for a wrong option of the command line or the ini file."""
    given = option_keywords(config)
    severity = given.get("fail_on", "warning")
    if severity not in SEVERITIES:
        raise pytest.UsageError(f"tiecheck_fail_on: {severity!r} is no severity{did_you_mean(severity, SEVERITIES)}")
    try:
        made = make_config("", **given)
        check_codes((*made.select, *made.ignore))
    except UsageError as error:
        raise pytest.UsageError(f"tiecheck: {error}") from error


def refuse_wrong_mark(mark: pytest.Mark, where: str) -> None:
    """Raise a `pytest.UsageError` for a marker with an unknown keyword, or with values without one."""
    for word in mark.kwargs:
        if word not in MARK_WORDS:
            raise pytest.UsageError(f"{where}: @pytest.mark.tiecheck has no {word!r}{did_you_mean(word, MARK_WORDS)}")
    if mark.args:
        raise pytest.UsageError(f"{where}: @pytest.mark.tiecheck takes keywords: {', '.join(MARK_WORDS)}")


def fixture_options(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Return the options of a test: its nearest marker before one of its class or module, that before the run's."""
    found = option_keywords(request.config)
    found.pop("live", None)  # a module is live
    for mark in reversed(list(request.node.iter_markers("tiecheck"))):
        try:
            refuse_wrong_mark(mark, request.node.nodeid)
        except pytest.UsageError as error:
            pytest.fail(str(error), pytrace=False)
        found |= mark.kwargs
    return found


class ModelCheck:
    """The `tiecheck` fixture: call it with a model."""

    def __init__(self, given: dict[str, Any]) -> None:
        self._given = given

    def __call__(self, model: nn.Module | str | os.PathLike[str], **keywords: Any) -> Checked:
        """Check a model as it is now.

        Args:
            model: What `tiecheck.check` takes.
            keywords: Its options, which go before those of the marker and of the run.

        Raises:
            UsageError: A rule code that does not exist.
            TypeError: An option that does not exist.
        """
        __tracebackhide__ = True
        try:
            config = make_config(model, **self._given | keywords)
            return Checked(model, check_with(model, config), config)
        except (UsageError, TypeError) as error:  # a wrong call: the line of the test is what to look at
            raise error.with_traceback(None) from None


class Checked:
    """A model that was checked: its report, and assertions about it."""

    def __init__(self, model: Any, report: Report, config: Config) -> None:
        self.model = model
        self.report = report
        self.config = config

    def assert_clean(self) -> None:
        """Assert that nothing was found at or above `fail_on`, and that something was checked.

        Raises:
            AssertionError: With the report, in the words of the command line.
        """
        __tracebackhide__ = True
        why = failure_text(self.report, self.config)
        if why:
            raise AssertionError(why)

    def assert_tied(self, *names: str, kind: Kind = "parameter") -> None:
        """Assert that names of the module are tied; see `tiecheck.assert_tied`."""
        __tracebackhide__ = True
        assert_tied(self._module(), *names, kind=kind)

    def assert_not_tied(self, *names: str) -> None:
        """Assert that no two of some names of the module share anything; see `tiecheck.assert_not_tied`."""
        __tracebackhide__ = True
        assert_not_tied(self._module(), *names)

    def assert_ties_match(
        self, expected: Iterable[Iterable[str]] | Mapping[str, str], *, buffers: bool = False
    ) -> None:
        """Assert that the ties of the module are the groups given; see `tiecheck.assert_ties_match`."""
        __tracebackhide__ = True
        assert_ties_match(self._module(), expected, buffers=buffers)

    def guard(self, *, on_break: OnBreak = "raise") -> TieGuard:
        """Watch the ties of the module over a block of the test; see `tiecheck.guard`."""
        from tiecheck.guard.tie_guard import guard

        __tracebackhide__ = True
        return guard(self._module(), on_break=on_break)

    def _module(self) -> nn.Module:
        __tracebackhide__ = True
        if isinstance(self.model, (str, os.PathLike)):
            _refuse(self.model)
        module: nn.Module = self.model
        return module


def _refuse(path: Any) -> NoReturn:
    __tracebackhide__ = True
    raise TypeError(f"names are looked up in a torch.nn.Module, and {os.fspath(path)!r} is a path; build it first")


def failure_text(report: Report, config: Config) -> str | None:
    """Return why a report fails a test, with the report itself; None where it passes.

    Errors, findings at or above `fail_on`, and a pass in which nothing was checked fail; what had to be skipped or
    could not be told fails under `strict` alone.
    """
    blind = config.strict and any(target.status == "unknown" for target in report.targets)
    if exit_status(report, config) == 0 and not blind:
        return None
    return f"tiecheck: {_headline(report, config)}\n{report}"


def _headline(report: Report, config: Config) -> str:
    """Return the first reason in a line, which is what a summary shows."""
    if report.errors:
        return report.errors[0].message
    codes = dict.fromkeys(f"{f.code} {f.name}" for f in report.findings if at_least((f,), config.fail_on))
    if codes:
        return ", ".join(codes)
    reasons = dict.fromkeys(skip.reason for skip in report.skips)
    what = "could not be told" if config.strict else "nothing was checked"
    return f"{what}: {'; '.join(reasons) or 'no rule that was selected fits this model'}"


class UnfitError(Exception):
    """A model failed its check; the text is the whole report."""


class Targets(pytest.Collector):
    """The models that were named, on the command line and in the ini file."""

    def collect(self) -> Iterator[ModelItem]:
        """Yield one item a model. A relative path counts from where its name was written."""
        named = [(text, self.config.invocation_params.dir) for text in self.config.getoption("tiecheck_targets") or ()]
        named += [(text, self.config.rootpath) for text in self.config.getini("tiecheck_targets")]
        seen = set()
        for text, folder in named:
            target = _placed(text, folder)
            if target not in seen:
                seen.add(target)
                yield ModelItem.from_parent(self, name=without_secrets(text), target=target)


class ModelItem(pytest.Item):
    """One model to check."""

    def __init__(self, *, target: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.target = target
        self.add_marker("tiecheck")

    def runtest(self) -> None:
        """Check it as `tiecheck TARGET` does; what passes with notes or skips keeps its report as a section."""
        config = make_config(self.target, **option_keywords(self.config))
        report = check_with(self.target, config)
        shown = report._replace(targets=tuple(t._replace(target=self.name) for t in report.targets))
        why = failure_text(shown, config)
        if why:
            raise UnfitError(why)
        if shown.findings or shown.skips:
            from tiecheck.render.text import report_text

            self.add_report_section("call", "tiecheck", report_text(shown, verbose=True))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Return the report alone: the model failed, and no line of Python did."""
        if isinstance(excinfo.value, UnfitError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[os.PathLike[str], None, str]:
        """Return path and name, for the heading of a failure."""
        return self.path, None, self.nodeid


def _placed(text: str, folder: Path) -> str:
    """Return a target whose path stands on its own, so that a test that changes the working directory does no harm."""
    place, colon, attribute = text.rpartition(":")
    if os.path.lexists(folder / text):
        return str(folder / text)
    if colon and place.endswith(".py") and os.path.lexists(folder / place):
        return f"{folder / place}:{attribute}"
    return text
