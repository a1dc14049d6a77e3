"""The real configs and key lists of the corpus, at full size, against the same classes loaded small.

The corpus lies beside the project and is no part of it: without it these tests are skipped.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from lanes import sampled
from truth.corpus import CORPUS, Pairing, judged, lay_out, pairings
from truth.run import Older

import tiecheck

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.usefixtures("quiet"),
    pytest.mark.skipif(not (CORPUS / "manifest.json").exists(), reason=f"there is no corpus at {CORPUS}"),
]

NAMES = [entry["name"] for entry in json.loads((CORPUS / "manifest.json").read_text())] if CORPUS.exists() else []


def pairing(name: str) -> Pairing:
    return next(pair for pair in pairings() if pair.name == name)


def not_asked(cell: dict) -> list[list[str]]:
    """What transformers 4.57 is said to do in the normal lane: nothing is known of it."""
    return [["unknown", "4.57 is asked in the slow lane"] for _ in cell["groups"]]


@pytest.mark.parametrize("name", sampled(NAMES))
def test_a_pair_is_judged_as_transformers_5_loads_its_class(tmp_path: Path, name: str) -> None:
    for line in judged(pairing(name), tmp_path, not_asked):
        assert line.correct != "wrong", line.why
        assert line.fits != "no"


@pytest.mark.parametrize("name", sampled(NAMES))
def test_a_pair_without_weights_is_unknown_and_says_why(tmp_path: Path, name: str) -> None:
    pair = pairing(name)
    lay_out(pair._replace(weight_map={}), tmp_path / "bare", different=False)
    (report,) = tiecheck.check(tmp_path / "bare").targets
    assert report.status == "unknown"
    assert report.findings == ()
    assert all("no weights" in skip.reason for skip in report.skips)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_pair_is_judged_as_both_load_its_class(tmp_path: Path, name: str) -> None:
    pair = pairing(name)
    with Older() as older:
        for line in judged(pair, tmp_path, older.load):
            assert line.correct != "wrong", line.why
            if pair.weight_map and pair.model_class is not None:
                assert line.correct == "right"
