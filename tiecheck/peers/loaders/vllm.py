"""vLLM before and after its August 2026 change, by the public source of 0.25.1, 0.28.0, 0.29.0 and 0.33.0 (sdists).

- Which class, which flag at which level, and what becomes of a stored head: `tiecheck/tables/engines.txt`, made from
  `vllm/model_executor/models/*.py` (`registry.py`, each class's `__init__` and `load_weights`).
- Composite models: `VllmConfig.with_hf_config` (`vllm/config/vllm.py`) copies the top level's flag to the text one.
- Up to 0.28: `AutoWeightsLoader(skip_prefixes=["lm_head."])` under the flag drops a stored head unread
  (`models/utils.py`); without it both names are loaded into the one tensor.
- From 0.29 (vllm-project/vllm#51665, 2026-08-10): `ModelConfig.maybe_untie_word_embeddings` (`vllm/config/model.py`)
  turns the flag off where the top level says true and a stored name ends in `lm_head.weight`; after loading,
  `maybe_retie_word_embeddings` (`model_loader/weight_tying.py`) compares with `torch.equal` and ties again or warns.
  `AutoWeightsLoader` skips names tied to another, and raises where that other one was not stored.
- Mistral's own format (0.33): `params.json` is read by `transformers_utils/configs/mistral.py`, where `tied_embeddings`
  is the flag; `output` is no `lm_head` to the look at names, so that a stored one is skipped under the flag.
- A head or embedding that is not stored stays uninitialised without a word: `track_weights_loading`
  (`model_loader/default_loader.py`) leaves out every module whose `quant_method` has `process_weights_after_loading`,
  which `UnquantizedEmbeddingMethod` has.

Unquantised models on one device are meant.
"""

from __future__ import annotations

from tiecheck.files.model_config import VENDOR_NAME
from tiecheck.peers.loaders.engines import (
    FLAG,
    SHAPES,
    SKIPPED,
    Ending,
    decide_by_fields,
    embedding_and_head,
    fields_in_both,
    flag_at,
    inner_name,
    named_class,
    torch_policy,
)
from tiecheck.peers.loaders.loader_rules import Decision, Loader, Policy, Situation, outcome_of, stored_pair

BEFORE = ("0.25.1", "0.28.0")
AFTER = ("0.29.0", "0.33.0")
KEPT = (
    "The config for ... says the word embeddings are tied, but the checkpoint contains a different {}, which has been "
    "used instead of tying."
)


def _before(situation: Situation) -> Decision | None:
    found = _fields(situation, BEFORE)
    if found is None or found.startswith("unknown") or "|" not in found:
        return _unknown(found)
    policy = torch_policy(found.split("|")[3], _refusal(situation), ("embedding-random", SKIPPED))
    return decide_by_fields(situation, found, policy)


def _after(situation: Situation) -> Decision | None:
    if situation.config is not None and situation.config.path == VENDOR_NAME:
        if situation.architecture.class_name is not None or not situation.architecture.known:
            return None
        tied, flag = situation.group.declared, situation.group.flag
        policy = torch_policy("alias", "", ("embedding-random", SKIPPED))
        return Decision(*outcome_of(tied, stored_pair(situation), policy), flag.dotted if flag else None, tied, tied)
    found = _fields(situation, AFTER)
    if found is None or found.startswith("unknown") or "|" not in found:
        return _unknown(found)
    tie, level, default, head, _ = found.split("|")
    group, (embedding, head_name) = situation.group, embedding_and_head(situation)
    alone = (
        f"'{head_name}' was skipped because it is tied to '{embedding}' in {named_class(situation)}, "
        f"but '{embedding}' was not found in the checkpoint, so the tied weight is uninitialized."
    )
    top = flag_at(situation, "", "0")
    if tie == "flag" and any(name.endswith("lm_head.weight") for name in group.stored_names):
        read = flag_at(situation, level, default)
        if top.ties is None:
            return Decision("unknown", f"{FLAG} is not written, and its default is not known", read.dotted)
        if top.ties:
            return _untied(situation, head, read.dotted, read.value)
    ends: Ending = ("crash", alone) if head == "alias" else ("embedding-random", SKIPPED)
    return decide_by_fields(situation, found, torch_policy(head, _refusal(situation), ends))


def _untied(situation: Situation, head: str, reads: str, value: bool | None) -> Decision:
    """Decide for a true flag and a stored head, which is loaded apart, compared, and tied again where it is equal."""
    if head != "alias":
        why = head.partition(":")[2] or "the flag is turned off for the stored head, which its loader then drops"
        return Decision("unknown", why, reads, value, None)
    stored = stored_pair(situation)
    message = KEPT.format(embedding_and_head(situation)[1])
    policy = Policy(lost_source=("embedding-random", message))
    if stored.source and stored.targets and stored.alike is None:
        return Decision("unknown", "the stored members were not compared", reads, value, None)
    if stored.source and stored.targets and stored.shapes and stored.alike:
        return Decision("tied", None, reads, value, True)
    if not stored.shapes:
        return Decision("unknown", SHAPES, reads, value, None)
    outcome, text = outcome_of(False, stored, policy)
    return Decision(outcome, text or message, reads, value, False)


def _fields(situation: Situation, versions: tuple[str, str]) -> str | None:
    """Return the fields of the class, those of the named language model for a composite."""
    if not situation.head or situation.config is None:
        return None
    found = fields_in_both("vllm", *versions, named_class(situation))
    if found is None or not found.startswith("inner|"):
        return found
    _, level, _, head, _ = found.split("|")
    if head != "pass":
        return f"unknown:{head.partition(':')[2]}"
    name = inner_name(situation, level)
    if name is None:
        return "unknown:the config does not name the class of its language model"
    below = fields_in_both("vllm", *versions, name)
    if below is None or "|" not in below or below.startswith("inner"):
        return f"unknown:{name} as a language model was not read"
    tie, _, default, handled, inner = below.split("|")
    return "|".join((tie, ">" if level else "", default, handled, inner))


def _unknown(fields: str | None) -> Decision | None:
    """Return no decision for a class that vLLM does not have; the reason where the source was not understood."""
    return None if fields is None else Decision("unknown", fields.partition(":")[2].split("|")[0])


def _refusal(situation: Situation) -> str:
    return f"There is no module or parameter named 'lm_head' in {named_class(situation)}."


LOADERS = (
    Loader("vllm", "0.25.1-0.28", (0, 25, 1), (0, 29), "source", _before),
    Loader("vllm", "0.29-0.33", (0, 29), (0, 34), "source", _after),
)
