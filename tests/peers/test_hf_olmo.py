"""The OLMo thread with the real packages: hf_olmo, its transformers, and the accelerate releases around the change.

allenai/OLMo#485: `tie_weights` of ai2-olmo 0.2 makes `ff_out` the same module as `wte`. accelerate before 0.34 finds no
tie and warns. ai2-olmo 0.3 made `tie_weights` do nothing (the head is functional), and accelerate warns to this day.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest
from older import NotOnIndexError, layer, python_with, run_with

pytestmark = pytest.mark.slow

# ai2-olmo 0.2 asks for torch below 2.3 and runs with 2.13; `transformers` before 4.40 has no OLMo of its own. What is
# not named here (boto3, rich, requests) is taken from this environment.
NEEDS = (
    "--no-deps",
    "transformers==4.39.3",
    "tokenizers==0.15.2",
    "huggingface_hub==0.36.2",
    "numpy==1.26.4",
    "omegaconf==2.4.0",
    "antlr4-python3-runtime==4.13.2",
)
SCRIPT = Path(__file__).parents[1] / "support" / "olmo_thread.py"
PAIR = ["model.transformer.ff_out.weight", "model.transformer.wte.weight"]

BEFORE, CHANGED, LATEST = ("0.27.2", "0.33.0"), "0.34.2", "1.15.0"


@functools.cache
def said(olmo: str, accelerate: str) -> dict[str, Any]:
    """What everybody says of a tied model of one release, with one accelerate."""
    try:
        python = python_with("hf-olmo", *NEEDS)
        path = (layer(f"ai2-olmo=={olmo}"), layer(f"accelerate=={accelerate}"))
    except NotOnIndexError as error:  # an index may drop old releases, and what they say is asked of nobody else
        pytest.skip(f"a release of 2024 that the index has lost: {error}")
    done = run_with(python, str(SCRIPT), path=path)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["versions"]["ai2-olmo"] == olmo
    assert found["versions"]["accelerate"] == accelerate
    assert found["versions"]["transformers"] == "4.39.3"
    assert [Path(place).parents[n].name for place, n in zip(found["from"], (1, 2), strict=False)] == [
        Path(folder).name for folder in path
    ]
    return found


def view(found: dict[str, Any], algorithm: str) -> dict[str, Any]:
    """Our reproduction of `find_tied_parameters` of some releases."""
    (only,) = [
        view
        for view in found["views"]
        if (view["function"], view["algorithm"], view["ran"]) == ("find_tied_parameters", algorithm, False)
    ]
    return only


@pytest.mark.parametrize("accelerate", [*BEFORE, CHANGED, LATEST])
def test_the_alias_is_there_whatever_accelerate_says(accelerate: str) -> None:
    found = said("0.2.5", accelerate)
    assert found["alias"]
    assert found["names"] == found["parameters"] + 1


@pytest.mark.parametrize("accelerate", BEFORE)
def test_the_warning_of_the_thread(accelerate: str) -> None:
    found = said("0.2.5", accelerate)
    assert found["found"] == []
    (text,) = found["warned"]
    assert text.startswith("The model weights are not tied. Please use the `tie_weights` method before using the ")


@pytest.mark.parametrize("accelerate", [CHANGED, LATEST])
def test_later_releases_see_the_tie_and_do_not_warn(accelerate: str) -> None:
    found = said("0.2.5", accelerate)
    assert found["found"] == [PAIR]
    assert found["warned"] == []


@pytest.mark.parametrize("accelerate", [*BEFORE, CHANGED, LATEST])
def test_the_verdict_on_the_same_object(accelerate: str) -> None:
    found = said("0.2.5", accelerate)
    report = found["report"]
    (tie,) = report["ties"]
    assert (tie["names"], tie["kind"], tie["kind_from"]) == (PAIR, "module", "live")
    (alias,) = report["aliases"]
    assert alias["paths"] == ["model.transformer.ff_out", "model.transformer.wte"]
    assert "TIE303" in [finding["code"] for finding in report["findings"]]
    assert not [finding for finding in report["findings"] if finding["severity"] == "error"]
    assert report["errors"] == []
    counts = found["counts"]
    assert [counts["unique"]["elements"], counts["objects"]["elements"]] == found["elements"]


@pytest.mark.parametrize("accelerate", [*BEFORE, CHANGED, LATEST])
@pytest.mark.parametrize("olmo", ["0.2.5", "0.3.0"])
def test_our_view_of_accelerate_is_what_the_real_one_finds(olmo: str, accelerate: str) -> None:
    found = said(olmo, accelerate)
    algorithm = "0.18-0.33" if accelerate in BEFORE else "0.34-"
    assert view(found, algorithm)["groups"] == found["found"]
    versions = {"0.27.2": "0.21-0.33", "0.33.0": "0.21-0.33", "0.34.2": "0.34-1.6", "1.15.0": "1.7-"}[accelerate]
    assert (versions in found["would_warn"]) == bool(found["warned"])


@pytest.mark.parametrize("accelerate", [*BEFORE, CHANGED, LATEST])
def test_after_the_fix_nothing_is_tied_nothing_is_found_and_accelerate_still_warns(accelerate: str) -> None:
    found = said("0.3.0", accelerate)
    assert not found["alias"]
    assert found["names"] == found["parameters"]
    assert found["found"] == []
    assert len(found["warned"]) == 1, "the head is functional: one name, nothing to tie"
    report = found["report"]
    assert report["ties"] == report["aliases"] == report["findings"] == report["errors"] == []
    counts = found["counts"]
    assert counts["unique"] == counts["objects"] == counts["expected"]
