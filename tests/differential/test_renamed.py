"""Classes whose stored names transformers 5 renames, joins or splits: the rehearsal against the real load.

The classes come from the library's own table of conversions. A real load has the same parameters missing and tied, and
holds what the rehearsal says that it holds, where the library leaves the values as they are stored.
"""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

import pytest
from harness.cases import untouched
from harness.oracle import differences
from harness.saves import Save, all_classes, saved
from transformers.conversion_mapping import get_checkpoint_conversion_mapping

from tiecheck.live.rehearsal import rehearse
from tiecheck.tables.generate.classes import ClassCandidate

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("quiet")]

RENAMED = [
    candidate
    for candidate in all_classes()
    if any(get_checkpoint_conversion_mapping(word) for word in (candidate.class_name, candidate.model_type))
]
DRAWN = [ClassCandidate("MistralLarge4Model", "mistral_large4", ""), *random.Random(5).sample(RENAMED, 12)]
"""One whose vision tower is permuted on load, and some by chance."""


def small(candidate: ClassCandidate) -> Save | None:
    """The class saved small; None where it cannot be had so."""
    with contextlib.suppress(Exception):  # another library is needed, or a tiny config is refused
        return saved(candidate.class_name, candidate.model_type, (), candidate.module)
    return None


def told_wrongly(candidate: ClassCandidate, where: Path) -> list[str] | None:
    """What a real load does and the rehearsal does not tell; None where the class cannot be had small."""
    save = small(candidate)
    if save is None:
        return None
    draft = untouched(save).write(where)
    told = rehearse(str(where))
    return [] if told.unsure else differences(where, told, draft)


def test_drawn_classes_hold_what_the_rehearsal_says(tmp_path: Path) -> None:
    found = [told_wrongly(candidate, tmp_path / candidate.class_name) for candidate in DRAWN]
    assert [wrong for wrong in found if wrong] == []
    assert sum(wrong is not None for wrong in found) > 6


@pytest.mark.slow
@pytest.mark.parametrize("candidate", RENAMED, ids=lambda c: f"{c.class_name}-{c.model_type}")
def test_every_renamed_class_holds_what_the_rehearsal_says(candidate: ClassCandidate, tmp_path: Path) -> None:
    wrong = told_wrongly(candidate, tmp_path / "model")
    if wrong is None:  # its config has no sizes that can be cut, or its parts need a library that is not here
        pytest.skip(f"{candidate.class_name} cannot be had small, so that no load can be held against its rehearsal")
    assert wrong == []
