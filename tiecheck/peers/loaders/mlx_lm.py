"""mlx-lm 0.32.2, by the public source of its wheel; the model types of `RAN` were run in every cell as well.

- The model file is chosen by `model_type` (`MODEL_REMAPPING`, `mlx_lm/utils.py`), its arguments from `config.json` by
  the names of a dataclass (`BaseModelArgs.from_dict`, `models/base.py`): an absent flag is the dataclass's own default,
  which is true for Llama, and a `TypeError` where it has none.
- `self.lm_head` is made where the flag is false, otherwise `embed_tokens.as_linear` is the head. `sanitize` takes a
  stored head away for some models; for the others `load_weights(strict=True)` refuses it
  (`Received 1 parameters not in model: lm_head.weight.`), and it refuses what is missing
  (`Missing 1 parameters: lm_head.weight.`). Bytes are never compared.

Which model does which: `tiecheck/tables/engines.txt`, made from `mlx_lm/models/*.py`. Unquantised models are meant, and
those that it packs itself, as weight, scales and biases: of a stored head `sanitize` takes the weight alone. A model
may tie where no head is stored (`absent`; Gemma 3).
"""

from __future__ import annotations

from tiecheck.peers.loaders.engines import (
    FLAG,
    Ending,
    FlagRead,
    config_at_level,
    embedding_and_head,
    fields_of,
    parsed_config,
    split_by_run,
)
from tiecheck.peers.loaders.loader_rules import Decision, Loader, Policy, Situation, outcome_of, stored_pair
from tiecheck.records.stored import Checkpoint, StoredTensor

VERSION = "0.32.2"
RAN = frozenset({"llama", "qwen2", "gemma2", "qwen3", "olmo2", "starcoder2"})
"""Model types that tests/peers/test_engines_run.py loads in every cell."""
ABSENT = "ModelArgs.__init__() missing 1 required positional argument: 'tie_word_embeddings'"


def _decide(situation: Situation) -> Decision | None:
    fields = fields_of("mlx-lm", VERSION, _model_type(situation))
    if fields is None or not situation.head:
        return None
    tie, level, default, head, _ = fields.split("|")
    if tie.startswith("unknown"):
        return Decision("unknown", tie.partition(":")[2])
    read = FlagRead("", None, tie == "always")
    if tie == "flag":
        read = _flag(situation, level, default)
        if read.ties is None:
            return Decision("crash", ABSENT, read.dotted)
    stored = stored_pair(situation)
    if tie == "absent":
        read = read._replace(ties=not stored.targets)
    if read.ties is False and not situation.group.stored_names and not head.startswith("unknown"):
        embedding, head_name = embedding_and_head(situation)
        return Decision(
            "crash", f"Missing 2 parameters: {head_name}, {embedding}.", read.dotted or None, read.value, False
        )
    _, name = embedding_and_head(situation)
    packed = any(tensor.packed for tensor in situation.group.tensors if tensor.name.endswith(name))
    if packed and read.ties and stored.targets and head in {"skip", "refuse"}:
        parts = ("biases", "scales", "weight")[: 2 if head == "skip" else 3]  # `sanitize` takes the weight alone away
        left = ", ".join(f"{name.removesuffix('weight')}{part}" for part in parts)
        return Decision(
            "crash", f"Received {len(parts)} parameters not in model: {left}.", read.dotted or None, read.value
        )
    outcome, message = outcome_of(read.ties, stored, _policy(head, situation))
    return Decision(outcome, message, read.dotted or None, read.value, read.ties)


def is_stored_in_part(form: object, checkpoint: Checkpoint, name: str) -> bool:
    """Tell whether a matrix is stored in parts that mlx-lm does not load: some alone, or of other bits than are asked.

    A module is packed where the config has a word of its own for it, else where its scales are stored (`load_model`).
    """
    module = name.removesuffix(".weight")
    parts = [checkpoint.tensor(f"{module}.{part}") for part in ("weight", "scales", "biases")]
    if not isinstance(form, dict) or not any(parts):
        return False
    own = form.get(module, parts[1] is not None)
    how = form | own if isinstance(own, dict) else form
    if how.get("mode", "affine") != "affine":
        return False
    if own:
        return not all(parts) or not _fits(parts, how.get("bits"), how.get("group_size"))
    return parts[0] is None or parts[0].packed or any(parts[1:])


def _fits(parts: list[StoredTensor | None], bits: object, size: object) -> bool:
    """Tell whether the words of a packed matrix are as many as its scales ask for; true where that is not known."""
    widths = [part.shape[-1] for part in parts[:2] if part is not None and part.shape]
    if not isinstance(bits, int) or not isinstance(size, int) or len(widths) < 2:
        return True
    return widths[0] * 32 == widths[1] * size * bits


def _policy(head: str, situation: Situation) -> Policy:
    """Return what happens where tie and stored tensors do not fit, by what `sanitize` does with the head."""
    missing = "Missing 1 parameters: {}."
    embedding, head_name = embedding_and_head(situation)
    no_head: Ending = ("crash", missing.format(head_name))
    no_embedding: Ending = ("crash", missing.format(embedding))
    lost = Policy(nothing=no_embedding, lost_target=no_head, lost_source=no_embedding)
    if head == "skip":
        return lost._replace(shapes=("head-discarded", None), no_source=no_embedding)
    if head == "refuse":
        extra: Ending = ("crash", f"Received 1 parameters not in model: {head_name}.")
        return lost._replace(differ=extra, equal=extra, shapes=extra, no_source=extra)
    if not head.startswith("unknown"):
        return lost
    reason: Ending = ("unknown", head.partition(":")[2])
    return Policy(**(dict.fromkeys(Policy._fields, reason) | {"no_target": lost.no_target}))


def _flag(situation: Situation, level: str, default: str) -> FlagRead:
    here = config_at_level(parsed_config(situation), level)
    value = here.get(FLAG) if here is not None else None
    dotted = f"{level}.{FLAG}".lstrip(".")
    if isinstance(value, bool):
        return FlagRead(dotted, value, value)
    return FlagRead(dotted, None, None if default == "-" else default == "1")


def _model_type(situation: Situation) -> str | None:
    return situation.config.model_type if situation.config is not None else None


LOADERS = split_by_run(Loader("mlx-lm", VERSION, (0, 32, 2), (0, 32, 3), "source", _decide), RAN, _model_type)
