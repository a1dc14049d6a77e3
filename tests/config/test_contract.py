"""Groups by class, as a user writes them: what is read, and what is refused in one sentence."""

from __future__ import annotations

from typing import Any

import pytest

from tiecheck.config.options import read_contract, read_groups
from tiecheck.errors import UsageError


def test_a_path_may_be_written_without_quotes() -> None:
    groups = [["a.weight", "b.weight"], ["c", "d", "e"]]
    held = (("a.weight", "b.weight"), ("c", "d", "e"))
    assert read_contract({"MyGPT": groups, "pkg": {"models": {"Own": groups}}}, "ties") == {
        "MyGPT": held,
        "pkg.models.Own": held,
    }
    assert read_groups(iter(groups), "ties") == held


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ([["a", "b"]], "ties must give each class its groups"),
        ({"": [["a", "b"]]}, "'' is no class"),
        ({"My*": [["a", "b"]]}, "'My*' is no class; a contract is one class's"),
        ({"My": "ab"}, "ties.My must be a list of groups"),
        ({"My": ["ab"]}, "ties.My: a group is a list of names"),
        ({"My": [["a"]]}, "ties.My: a group has two or more different names"),
        ({"My": [["a", "a"]]}, "ties.My: a group has two or more different names"),
        ({"My": [["a", 1]]}, "ties.My: a group holds names, not 1"),
        ({"My": [["a", "b"], ["b", "c"]]}, "ties.My: 'b' is in two groups"),
    ],
)
def test_what_is_no_contract_is_refused(value: Any, says: str) -> None:
    with pytest.raises(UsageError) as raised:
        read_contract(value, "ties")
    assert says in str(raised.value)
