"""Different tensors that hang together by memory."""

from __future__ import annotations

import torch

from tiecheck.live.memory import memory_links


def test_two_parameters_over_one_memory_are_linked_by_storage() -> None:
    base = torch.randn(4, 4)
    other = torch.randn(4, 4)
    (link,) = memory_links([other, base, base.t()])
    assert (link.members, link.kind, link.reason) == ((1, 2), "storage", None)


def test_a_part_is_an_overlap_and_disjoint_parts_are_nothing() -> None:
    base = torch.randn(8, 4)
    (link,) = memory_links([base, base[:3]])
    assert link.kind == "overlap"
    assert memory_links([base[:4], base[4:]]) == []
    assert memory_links([]) == []
