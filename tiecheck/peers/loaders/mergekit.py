"""mergekit 0.1.5, by the public source of its wheel; the classes of `RAN` were merged in every cell as well.

mergekit reads no flag. It merges the tensors that an architecture's definition names
(`mergekit/_data/architectures/*.json`), and writes nothing else:

- `optional`: left out of the plan where no input model has it (`MergePlanner.plan_tensor`, `plan.py`: `Skipping
  optional weight lm_head.weight`), so that a normal tied checkpoint stays one;
- not optional and not stored, under its aliases and tied names neither: `RuntimeError: Tensor ... required but not
  present in model ...` (`LoadTensor.execute`, `io/tasks.py`);
- both stored: both are merged and written, whatever the flag says and whether their bytes are equal or not;
- a head that the definition does not name is not written.

Architectures without a definition are inferred from the tensors (`architecture/auto.py`); nothing is said of them here.
"""

from __future__ import annotations

from tiecheck.peers.loaders.engines import embedding_and_head, fields_of, named_class, split_by_run
from tiecheck.peers.loaders.loader_rules import UNREAD, Decision, Loader, Situation

VERSION = "0.1.5"
RAN = frozenset({"LlamaForCausalLM", "Gemma2ForCausalLM"})
"""Classes that tests/peers/test_engines_run.py merges in every cell."""


def _decide(situation: Situation) -> Decision | None:
    fields = fields_of("mergekit", VERSION, named_class(situation))
    if fields is None or not situation.head or situation.config is None:
        return None
    if fields.startswith("unknown"):
        return Decision("unknown", fields.partition(":")[2])
    stored = set(situation.group.stored_names)
    if stored != {name for name in situation.group.names if name not in situation.group.missing}:
        return Decision("unknown", "the members are stored under names that the definition does not have")
    return _merged(situation, fields, stored)


def _merged(situation: Situation, fields: str, stored: set[str]) -> Decision | None:
    """Decide what is written of the members that are stored."""
    embedding, head = embedding_and_head(situation)
    weights = {field.split("=")[0].rstrip("?"): field for field in fields.split(" ")}
    if embedding not in weights:
        return Decision("unknown", f"its definition does not name {embedding}")
    lost = _lost(weights[embedding], stored) or (_lost(weights[head], stored) if head in weights else None)
    if lost is not None:
        return Decision("crash", lost)
    if {embedding, head} <= stored:
        return _both(situation, head in weights, head)
    return Decision("tied", None) if situation.group.declared else None


def _lost(field: str, stored: set[str]) -> str | None:
    """Word what is raised where a weight is wanted and none of its names is stored."""
    names = field.split("=")
    names[0] = names[0].rstrip("?")
    if field.split("=", maxsplit=1)[0].endswith("?") or stored & set(names):
        return None
    return f"Tensor {names[0]} required but not present in model ..."


def _both(situation: Situation, named: bool, head: str) -> Decision:
    """Decide for a stored embedding and head: both are written, or the first alone where no head is defined."""
    if named:
        return Decision("kept-apart")
    if situation.group.stored == "copy":
        return Decision("tied")
    if situation.group.stored == "separate":
        return Decision("head-discarded", f"the architecture definition does not name {head}, so it is not written")
    return Decision("unknown", UNREAD)


LOADERS = split_by_run(Loader("mergekit", VERSION, (0, 1, 5), (0, 1, 6), "source", _decide), RAN, named_class)
