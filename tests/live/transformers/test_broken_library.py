"""A transformers that cannot be imported is told by its first cause, whichever option builds the model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tiecheck.cli.main import cli

MODEL = str(Path(__file__).parents[3] / "fixtures" / "models" / "llama-healthy-tied")


class Broken:
    """Finds `transformers.modeling_utils` and fails as transformers' lazy import does, by a library beside it."""

    def find_spec(self, name: str, *_: Any) -> None:
        if name == "transformers.modeling_utils":
            try:
                raise RuntimeError("operator torchvision::nms does not exist")
            except RuntimeError as error:
                raise ModuleNotFoundError("Could not import module 'modeling_utils'.") from error


@pytest.mark.parametrize("options", [["--live"], ["--rehearse"], ["--device-map", "auto", "--max-memory", "cpu=1GiB"]])
def test_the_first_cause_is_told(options: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "transformers.modeling_utils", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    done = CliRunner().invoke(cli, [MODEL, *options, "--isolated", "--no-cache"])
    _told(done)


def _told(done: Result) -> None:
    told = " ".join(done.output.split())
    assert done.exit_code == 2
    assert "transformers cannot be imported here: RuntimeError: operator torchvision::nms does not exist" in told
    assert "tiecheck itself failed" not in told


@pytest.mark.parametrize("options", [[], ["--load"]])
def test_survive_tells_the_same(options: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "transformers.modeling_utils", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    _told(CliRunner().invoke(cli, ["survive", MODEL, "-q", *options]))
