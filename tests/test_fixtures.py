"""Every directory under `fixtures/models` against its own `expect.toml`: the command line says what the case is."""

import json
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from tiecheck.cli.main import cli

MODELS = Path(__file__).parents[1] / "fixtures" / "models"
OPTIONS = {"check": [], "live": ["--live", "--trust-remote-code"], "load": ["--load", "--trust-remote-code"]}
EXIT = {"pass": 0, "fail": 1, "error": 2}


def expected():
    """One run for each section of each case; `load` says what `live` says unless it has a section of its own."""
    for file in sorted(MODELS.glob("*/expect.toml")):
        expect = tomllib.loads(file.read_text())
        if "live" in expect:
            expect.setdefault("load", expect["live"])
        for section in (name for name in OPTIONS if name in expect):
            yield pytest.param(file.parent, section, expect[section], id=f"{file.parent.name}-{section}")


def run(directory, *options):
    """The report on one directory, and the exit status."""
    result = CliRunner().invoke(cli, ["check", str(directory), *options, "-f", "json"])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    report = json.loads(result.stdout)
    assert len(report["targets"]) == 1
    return report["targets"][0], result.exit_code


def shown(target):
    """A report in the words of `expect.toml`."""
    return {
        "status": target["status"],
        "findings": sorted(f"{f['code']} {f['severity']}" for f in target["findings"] if not f["suppressed"]),
        "skips": sorted({skip["code"] for skip in target["skips"]}),
        "ties": [
            {key: "none" if group[key] is None else group[key] for key in ("names", "kind", "stored", "declared")}
            for group in target["ties"]
        ],
    }


@pytest.fixture(autouse=True)
def _remote_code_cache(request, tmp_path, monkeypatch):
    """Keep transformers' copies of the cases' modeling files out of the user's cache."""
    if request.node.callspec.params["section"] != "check":
        monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path))
        monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.parametrize(("directory", "section", "expect"), list(expected()))
def test_a_case_is_judged_as_it_says(directory, section, expect):
    target, status = run(directory, *OPTIONS[section])
    assert target["errors"] == []
    said = shown(target)
    assert {key: said[key] for key in expect} == expect
    assert status == EXIT.get(expect["status"], status)
    for place in (place for finding in target["findings"] for place in finding["locations"]):
        assert (place["kind"] == "file") == (directory / place["path"]).exists()
