"""Situations of an embedding and head, built by hand: a class, what its config says, and what is stored."""

from __future__ import annotations

from typing import Any

from tiecheck.peers.loaders.loader_rules import Situation
from tiecheck.records.declared import Architecture, ModelConfig
from tiecheck.records.stored import Comparison, Group, StoredTensor

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
DIFFERENT = Comparison(equal=False, rows=8, rows_differ=8, rows_compared=8, first_row=0, last_row=7, constant=False)
STORED = {
    "head absent": ((EMBEDDING,), "absent"),
    "equal": ((EMBEDDING, HEAD), "copy"),
    "differ": ((EMBEDDING, HEAD), "separate"),
    "not compared": ((EMBEDDING, HEAD), "unknown"),
    "only head": ((HEAD,), "absent"),
    "neither": ((), "absent"),
}
"""Cell -> the stored members, and how they compare."""


def situation(
    class_name: str,
    cell: str,
    config: dict[str, Any],
    *,
    level: tuple[str, ...] = (),
    default: bool | None = False,
    names: tuple[str, str] = (EMBEDDING, HEAD),
) -> Situation:
    """One situation; `level` and `default` are those of transformers 5, as the tie table has them."""
    embedding, head = names
    renamed = {EMBEDDING: embedding, HEAD: head}
    kept, stored = STORED[cell]
    stored_names = tuple(renamed[name] for name in kept)
    flag: Any = config
    for key in (*level, "tie_word_embeddings"):
        flag = flag.get(key) if isinstance(flag, dict) else None
    group = Group(
        names=tuple(sorted(names)),
        source=embedding,
        kind="parameter",
        declared=flag if isinstance(flag, bool) else default,
        declared_by=(),
        flag=None,
        level=level,
        default=default,
        forced=False,
        stored=stored,  # type: ignore[arg-type]
        stored_names=tuple(sorted(stored_names)),
        missing=tuple(sorted(set(names) - set(stored_names))),
        tensors=tuple(StoredTensor(n, "float32", (8, 4), 128, "model.safetensors", 0) for n in sorted(stored_names)),
        comparison=DIFFERENT if stored == "separate" else None,
        reason=None,
        inferred=False,
    )
    known = Architecture(class_name, True, (), "by hand", None, embedding, head)
    held = ModelConfig("config.json", {"architectures": [class_name]} | config, ())
    return Situation(held, known, group, "not asked")
