"""A sample of drawn live models against the truth; docs/evidence/live-cases.md has 600."""

from __future__ import annotations

import pytest
from live_cases import BAD, Answer, run

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("quiet")]


def wrong(answers: list[Answer]) -> list[str]:
    return [f"{one.case.words}: {one.verdict} ({' '.join(one.wrong)}; {' '.join(one.loud)})" for one in answers]


def test_a_sample_of_states_and_operations() -> None:
    answers = list(run(40, 8, seed=5))
    assert len(answers) == 40
    assert wrong([one for one in answers if one.verdict in BAD]) == []
    assert {one.verdict for one in answers} >= {"right: pass", "right: found"}
