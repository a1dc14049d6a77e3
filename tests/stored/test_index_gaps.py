"""The names on which index and shards differ, by what comes of it."""

from __future__ import annotations

import pytest

from tiecheck.records.loaders import LoaderView
from tiecheck.rules.cases import EMBEDDING, HEAD, llama_group, loader_view, sharded_checkpoint
from tiecheck.stored.index_gaps import find_gaps

RANDOM = loader_view("transformers", "head-random", versions="4.57", checked="run")
TIED = loader_view("transformers", "tied", versions="4.57", checked="run")


@pytest.mark.parametrize(
    ("held", "indexed", "view", "gaps"),
    [
        ({"a": (EMBEDDING,), "b": (HEAD,)}, {EMBEDDING: "a", HEAD: "b"}, TIED, []),
        ({"a": (EMBEDDING, HEAD), "b": ()}, {EMBEDDING: "a", HEAD: "b"}, TIED, [("b", "elsewhere", HEAD, 0)]),
        ({"a": (EMBEDDING,), "b": ()}, {EMBEDDING: "a", HEAD: "b"}, TIED, [("b", "tied", HEAD, 0)]),
        ({"a": (EMBEDDING,), "b": ()}, {EMBEDDING: "a", "n": "b"}, TIED, [("b", "nowhere", "n", 0)]),
        ({"a": (EMBEDDING,), "b": (HEAD,)}, {EMBEDDING: "a"}, RANDOM, [("b", "unindexed", HEAD, 1)]),
        ({"a": (EMBEDDING,), "b": (HEAD,)}, {EMBEDDING: "a"}, TIED, [("b", "unindexed", HEAD, 0)]),
        ({"a": (EMBEDDING,), "b": ("n",)}, {EMBEDDING: "a"}, RANDOM, [("b", "unindexed", "n", 0)]),
    ],
)
def test_each_gap_has_its_end(
    held: dict[str, tuple[str, ...]], indexed: dict[str, str], view: LoaderView, gaps: list[tuple[str, str, str, int]]
) -> None:
    checkpoint = sharded_checkpoint(held, indexed)
    group = llama_group(stored=tuple(sorted(name for name in (EMBEDDING, HEAD) if name in checkpoint)))
    found = find_gaps(checkpoint, (group,), (view,))
    assert [(gap.file, gap.gap, gap.names[0], len(gap.hurts)) for gap in found] == gaps
