"""SGLang 0.5.23, by the public source of its wheel.

- Which class, which flag at which level, and what becomes of a stored head: `tiecheck/tables/engines.txt`, made from
  `sglang/srt/models/*.py` (each class that a file names as `EntryClass`: its `__init__` and `load_weights`).
- Most classes put the embedding itself in the head's place where the flag is true, so that `named_parameters()` has no
  `lm_head.weight`: a stored head is skipped under the flag, passed over with a warning, or a `KeyError`.
- Nothing checks that every parameter was loaded (`sglang/srt/model_loader/loader.py`): what is missing stays
  uninitialised.
- A composite reads the flag of the config it hands to its language model; no level is copied to another.

Unquantised models on one device are meant.
"""

from __future__ import annotations

from tiecheck.peers.loaders.engines import (
    SKIPPED,
    decide_by_fields,
    embedding_and_head,
    fields_of,
    named_class,
    torch_policy,
)
from tiecheck.peers.loaders.loader_rules import Decision, Loader, Situation

VERSION = "0.5.23"


def _decide(situation: Situation) -> Decision | None:
    fields = fields_of("sglang", VERSION, named_class(situation))
    if fields is None or not situation.head or situation.config is None:
        return None
    tie, _, _, head, _ = fields.split("|")
    if tie.startswith("unknown"):
        return Decision("unknown", tie.partition(":")[2])
    refusal = f"KeyError: '{embedding_and_head(situation)[1]}'"
    return decide_by_fields(situation, fields, torch_policy(head, refusal, ("embedding-random", SKIPPED)))


LOADERS = (Loader("sglang", VERSION, (0, 5, 23), (0, 5, 24), "source", _decide),)
