"""Classes whose stored names transformers 5 renames, joins or splits: the rehearsal against the real load.

The classes come from the library's own table of conversions. A real load has the same parameters missing and tied, and
holds what the rehearsal says that it holds, where the library leaves the values as they are stored.
"""

from __future__ import annotations

import contextlib
import random
from pathlib import Path
from typing import Any

import pytest
from harness.cases import untouched
from harness.oracle import differences
from harness.saves import Save, all_classes, saved
from subjects import mapped
from transformers.conversion_mapping import get_checkpoint_conversion_mapping

from tiecheck.live.rehearsal import rehearse
from tiecheck.tables.generate.classes import ClassCandidate

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("quiet")]

MISTRAL = ClassCandidate("MistralLarge4Model", "mistral_large4", "")
"""One whose vision tower is permuted on load."""


def is_renamed(candidate: ClassCandidate) -> bool:
    """Whether the library has conversions for a class, or for its model type."""
    return any(get_checkpoint_conversion_mapping(word) for word in (candidate.class_name, candidate.model_type))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every class for the slow lane alone: to list them all imports the whole library, ten seconds of each run."""
    if "candidate" in metafunc.fixturenames:
        asked = metafunc.config.getoption("markexpr") != "not slow"
        found: list[Any] = [*filter(is_renamed, all_classes())] if asked else [MISTRAL]
        metafunc.parametrize("candidate", found, ids=lambda c: f"{c.class_name}-{c.model_type}")


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
    renamed = [*filter(is_renamed, mapped())]
    drawn = [MISTRAL, *random.Random(5).sample(renamed, 12)]
    found = [told_wrongly(candidate, tmp_path / candidate.class_name) for candidate in drawn]
    assert [wrong for wrong in found if wrong] == []
    assert sum(wrong is not None for wrong in found) > 6


@pytest.mark.slow
def test_every_renamed_class_holds_what_the_rehearsal_says(candidate: ClassCandidate, tmp_path: Path) -> None:
    wrong = told_wrongly(candidate, tmp_path / "model")
    if wrong is None:  # its config has no sizes that can be cut, or its parts need a library that is not here
        pytest.skip(f"{candidate.class_name} cannot be had small, so that no load can be held against its rehearsal")
    assert wrong == []
