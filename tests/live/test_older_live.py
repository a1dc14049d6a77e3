"""The live layer under transformers 4.57, whose declarations are lists without sources."""

from __future__ import annotations

import json

import pytest
from older import run_older

TIED = {"errors": [], "findings": {}, "declared": ["parameter"], "skips": []}
UNTIED = TIED | {"declared": []}


@pytest.mark.slow
def test_models_of_the_4x_line_are_judged_by_their_lists() -> None:
    run = run_older("tests/support/older_live.py")
    assert run.returncode == 0, run.stderr
    said = json.loads(run.stdout.splitlines()[-1])
    assert said.pop("version") == "4.57.6"
    alias = {"TIE303": "info"}  # a T5 of 4.x registers its shared embedding as a module
    assert said == {
        "llama tied": TIED,
        "llama untied": UNTIED,
        "llama broken": TIED | {"findings": {"TIE301": "error"}, "declared": ["separate"]},
        "llama by hand": UNTIED | {"findings": {"TIE305": "error"}},
        "bert": TIED,
        "bert broken": TIED | {"findings": {"TIE301": "error"}, "declared": ["separate"]},
        "t5": TIED | {"findings": alias},
        "t5 half": TIED | {"findings": alias | {"TIE307": "error"}, "declared": ["separate"]},
    }
