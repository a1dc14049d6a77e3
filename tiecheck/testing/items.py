"""Models as test items: `pytest --tiecheck TARGET` and the ini file's `tiecheck_targets`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tiecheck.engine.options import check_with, make_config
from tiecheck.targets.parse import without_secrets
from tiecheck.testing.checks import failure, options, words


class UnfitError(Exception):
    """A model failed its check; the text is the whole report."""


class Targets(pytest.Collector):
    """The models that were named, on the command line and in the ini file."""

    def collect(self) -> Iterator[Model]:
        """One item a model. A relative path counts from where its name was written."""
        named = [(text, self.config.invocation_params.dir) for text in self.config.getoption("tiecheck_targets") or ()]
        named += [(text, self.config.rootpath) for text in self.config.getini("tiecheck_targets")]
        seen = set()
        for text, folder in named:
            target = _placed(text, folder)
            if target not in seen:
                seen.add(target)
                yield Model.from_parent(self, name=without_secrets(text), target=target)


class Model(pytest.Item):
    """One model to check."""

    def __init__(self, *, target: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.target = target
        self.add_marker("tiecheck")

    def runtest(self) -> None:
        """Check it as `tiecheck TARGET` does; what passes with notes or skips keeps its report as a section."""
        config = make_config(self.target, **options(self.config))
        report = check_with(self.target, config)
        shown = report._replace(targets=tuple(t._replace(target=self.name) for t in report.targets))
        why = failure(shown, config)
        if why:
            raise UnfitError(why)
        if shown.findings or shown.skips:
            self.add_report_section("call", "tiecheck", words(shown))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """The report alone: the model failed, and no line of Python did."""
        if isinstance(excinfo.value, UnfitError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[os.PathLike[str], None, str]:
        """Where and what it is, for the heading of a failure."""
        return self.path, None, self.nodeid


def _placed(text: str, folder: Path) -> str:
    """A target whose path stands on its own, so that a test that changes the working directory does no harm."""
    place, colon, attribute = text.rpartition(":")
    if os.path.lexists(folder / text):
        return str(folder / text)
    if colon and place.endswith(".py") and os.path.lexists(folder / place):
        return f"{folder / place}:{attribute}"
    return text
