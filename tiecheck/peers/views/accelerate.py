"""accelerate: two ways of `find_tied_parameters`, two of the config check, and what its saver drops.

From the wheels 0.18.0 to 1.15.0, function by function; `accelerate/utils/modeling.py` and `utils/other.py`. The
functions of 0.33.0, 0.34.2 and 1.2.1 are run against these in the slow tests, 1.15.0 in every run of them.
"""

from __future__ import annotations

import logging
from typing import Any

from tiecheck.peers.loaders.accelerate import CLEANER, CONFIG_CHECKS, FINDERS
from tiecheck.peers.views.module_walks import names_by_key
from tiecheck.peers.views.registry import CHECK, FIND
from tiecheck.peers.views.tool_functions import (
    NotRun,
    ToolAnswer,
    ToolFunction,
    WalkedModule,
    one_object,
    ordered_groups,
)

COMPARISONS = 100_000_000
"""Pairs of parameters that the installed accelerate is let compare: it takes some seconds for so many."""

CLEAN = "clean_state_dict_for_safetensors"


def _appending(sight: WalkedModule) -> ToolAnswer:
    """Keep every alias of the same walk (0.18 to 0.33)."""
    return ToolAnswer(ordered_groups(sight.again))


def _run_find(sight: WalkedModule) -> ToolAnswer:
    sight.runnable()
    if not sight.extent().endless:
        further = sum([len(names) - 1 for names in sight.tied])
        pairs = further * (sight.extent().names - further)
        if pairs > COMPARISONS:
            raise NotRun(f"would compare {pairs} pairs of parameters")
    from accelerate.utils.modeling import find_tied_parameters

    return ToolAnswer(ordered_groups(find_tied_parameters(sight.module)))


def _pretrained(model: Any) -> bool:
    """Return True if a class is called so anywhere in the model's ancestry: accelerate goes by the name."""
    return any(base.__name__ == "PreTrainedModel" for base in type(model).__mro__)


def _word_embedding(model: Any, config: Any) -> bool:
    return bool(config is not None and getattr(config, "tie_word_embeddings", False) and model.get_output_embeddings())


def _elsewhere(model: Any, config: Any) -> bool:
    """Return the terms that no transformers 5.23 model meets: encoder tied to decoder, a module with `_tie_weights`."""
    both = getattr(config, "is_encoder_decoder", False) and getattr(config, "tie_encoder_decoder", False)
    return bool(both) or any(hasattr(module, "_tie_weights") for module in model.modules())


def _top_level(sight: WalkedModule) -> ToolAnswer:
    """Read the flag of the outermost config (0.21 to 1.6)."""
    model: Any = sight.module
    config = getattr(model, "config", None)
    return ToolAnswer(says=_pretrained(model) and (_word_embedding(model, config) | _elsewhere(model, config)))


def _text_config(sight: WalkedModule) -> ToolAnswer:
    """Read the flag of `get_text_config(decoder=True)` (from 1.7)."""
    model: Any = sight.module
    if not _pretrained(model):
        return ToolAnswer(says=False)
    config: Any = getattr(model, "config", None)
    text = config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config
    return ToolAnswer(says=_word_embedding(model, text) | _elsewhere(model, config))


def _run_check(sight: WalkedModule) -> ToolAnswer:
    from accelerate.utils.modeling import check_tied_parameters_in_config

    return ToolAnswer(says=bool(check_tied_parameters_in_config(sight.module)))


def _cleaned(sight: WalkedModule) -> ToolAnswer:
    from accelerate.utils.modeling import id_tensor_storage
    from accelerate.utils.other import clean_state_dict_for_safetensors

    tensors = {name: tensor for name, tensor in sight.state.items() if not isinstance(tensor, str)}
    groups = ordered_groups(names_by_key((id_tensor_storage(tensor), name) for name, tensor in tensors.items()))
    left = dict(sight.state)
    logger = logging.getLogger(clean_state_dict_for_safetensors.__module__)
    was, logger.disabled = logger.disabled, True
    try:
        clean_state_dict_for_safetensors(left)
    except RuntimeError as error:
        # Names are deleted by then; its logger refuses to warn before `PartialState()` was made (1.15.0).
        if "accelerate state" not in str(error):
            raise
    finally:
        logger.disabled = was
    return ToolAnswer(groups, tuple(sorted(sight.state.keys() - left.keys())))


PEERS = (
    *(
        ToolFunction("accelerate", FIND, releases.versions, look, run, releases.since, releases.until)
        for releases, look, run in zip(FINDERS, (_appending, one_object), (None, _run_find), strict=True)
    ),
    *(
        ToolFunction("accelerate", CHECK, releases.versions, look, run, releases.since, releases.until)
        for releases, look, run in zip(CONFIG_CHECKS, (_top_level, _text_config), (_run_check, _run_check), strict=True)
    ),
    ToolFunction("accelerate", CLEAN, CLEANER.versions, run=_cleaned, since=CLEANER.since),
)
"""Its functions, oldest algorithm first."""
