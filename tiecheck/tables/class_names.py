"""The class that a config means by a name which is no class of transformers, where its model type tells.

The library chooses the class of a checkpoint by its model type (`AutoModelForCausalLM.from_pretrained`), and never asks
how `architectures` spells it: of the first Llamas that is `LLaMAForCausalLM`, and some tools write the name of the auto
class itself. Held against the mappings of transformers 5.23 (`modeling_auto.py`) in a test.
"""

from __future__ import annotations

import os
import re
from functools import lru_cache

from tiecheck.errors import near_words
from tiecheck.tables.architectures import NEWEST
from tiecheck.tables.structure import class_of_word

AUTO = "AutoModel"


@lru_cache(256)
def classes_of_type(model_type: str) -> tuple[str, ...]:
    """Return the classes that the table has for a model type."""
    line = rf"^([A-Za-z]\w*)\t(?:[^\t\n]*,)?{re.escape(model_type)}(?:,[^\t\n]*)?\t"
    with open(os.path.join(os.path.dirname(__file__), NEWEST), encoding="utf-8") as table:
        return tuple(re.findall(line, table.read(), re.MULTILINE | re.ASCII))


def meant_class(name: str, model_type: str) -> str | None:
    """Return the class that an old spelling or the name of an auto class stands for; None where it is not clear."""
    if name == AUTO:
        return class_of_word(model_type, "*")
    known = classes_of_type(model_type)
    if name.startswith(AUTO):
        ending = name.removeprefix(AUTO)
        fits = [one for one in known if ending and one.endswith(ending)]
    else:
        fits = [one for one in known if one.lower() == name.lower()]
    return fits[0] if len(fits) == 1 else None


def class_hint(name: str | None, model_type: str | None) -> str:
    """Return what a name may have been meant for, as the end of a reason; empty where nothing is near."""
    known = classes_of_type(model_type) if model_type else ()
    near = near_words(name, known, 1, 0.85) if name else []
    if near:
        return f" (did you mean {near[0]}?)"
    headed = [one for one in known if one.endswith(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration"))]
    return f" (a class of model type {model_type} is {headed[0]})" if headed and (not name or AUTO in name) else ""
