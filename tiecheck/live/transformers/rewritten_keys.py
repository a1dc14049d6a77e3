"""The ways a `PreTrainedModel` class has to read, as the text of its statements (transformers 5.23)."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dis import get_instructions
from typing import Any

from torch import Tensor

from tiecheck.live.wrappers import without_wrappers
from tiecheck.records.live import KeyProblem

ARGUMENTS: Mapping[str, bool | None] = {"missing_keys": None, "recompute_mapping": True}
"""The arguments that transformers 5 gives to `tie_weights` -> its default there."""


def declaration_text(keys: Any) -> str | None:
    """Return the statement that declares some keys; None where they are no plain words."""
    words = [*keys, *(keys.values() if isinstance(keys, Mapping) else ())] if isinstance(keys, Collection) else []
    return f"_tied_weights_keys = {keys!r}" if words and all(type(word) is str for word in words) else None


def listed_pairs(model: Any, keys: Iterable[Any]) -> dict[str, str] | None:
    """Return the pairs that a list of 4.x means: what it lists, tied to the input embedding; None for other shapes."""
    named = dict(model.named_parameters(remove_duplicate=False))
    weight = weight_of(model, "get_input_embeddings")
    source = next((name for name, value in named.items() if value is weight), None)
    patterns = [str(getattr(key, "pattern", key)) for key in keys]
    targets = [name for name in named if name != source and any(re.search(p, name) for p in patterns)]
    if source is None or any(named[name].shape != named[source].shape for name in targets):
        return None
    return dict.fromkeys(targets, source)


def head_pair(model: Any) -> dict[str, str]:
    """Return {head: embedding} by the getters of a model; empty where they are not two parameters of one shape."""
    head, embedding = (weight_of(model, getter) for getter in ("get_output_embeddings", "get_input_embeddings"))
    if head is None or embedding is None or head is embedding or head.shape != embedding.shape:
        return {}
    named = list(model.named_parameters(remove_duplicate=False))
    names = [[name for name, value in named if value is weight] for weight in (head, embedding)]
    return {names[0][0]: names[1][0]} if all(names) else {}


def _method_line(function: Any) -> str:
    """Return the first line of a method as it is defined."""
    return f"def {function.__name__}{inspect.signature(function)}:"


def _wanted_line(function: Any) -> str:
    """Return the first line of a `tie_weights` that takes what transformers 5 gives it, its own arguments first."""
    signature = inspect.signature(function)
    own = list(signature.parameters.values())
    kind = own[0].KEYWORD_ONLY if any(p.kind is p.VAR_POSITIONAL for p in own) else own[0].POSITIONAL_OR_KEYWORD
    more = [
        inspect.Parameter(name, kind, default=default)
        for name, default in ARGUMENTS.items()
        if name not in signature.parameters
    ]
    return f"def {function.__name__}{signature.replace(parameters=[*own, *more])}:"


def _does_nothing(function: Any) -> bool:
    """Tell whether a function neither calls anything nor sets anything."""
    code = getattr(function, "__code__", None)
    busy = ("CALL", "STORE_ATTR", "STORE_SUBSCR", "DELETE_", "YIELD", "IMPORT")
    return code is not None and not any(i.opname.startswith(busy) for i in get_instructions(code))


def method_problems(cls: Any, problem: Callable[..., KeyProblem]) -> Iterator[KeyProblem]:
    """Yield a `tie_weights` without the arguments that transformers 5 gives it, or that does nothing at all."""
    tie_weights = getattr(cls, "tie_weights", None)
    if tie_weights is None:
        return
    parameters = inspect.signature(tie_weights).parameters
    missing = [name for name in ARGUMENTS if name not in parameters]
    idle = _does_nothing(tie_weights)
    line = _method_line(tie_weights)
    if missing and not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        raised = f"TypeError: {cls.__name__}.tie_weights() got an unexpected keyword argument '{missing[-1]}'"
        wanted = None if idle else _wanted_line(tie_weights)
        yield problem("signature", f"tie_weights({', '.join(parameters)})", raised, written=line, wanted=wanted)
    elif idle:
        yield problem("inert", "tie_weights", None, written=line)


def added_late(cls: type) -> set[str]:
    """Return the attributes that a class's own `__init__` sets after that of its base has called `post_init`."""
    code = getattr(vars(cls).get("__init__"), "__code__", None)
    if code is None or "post_init" in code.co_names:
        return set()
    return {str(i.argval) for i in get_instructions(code) if i.opname == "STORE_ATTR"}


def weight_of(model: Any, getter: str) -> Tensor | None:
    """Return the weight of the module that a getter returns; None where there is none, or the getter raises."""
    try:
        weight = getattr(without_wrappers(getattr(model, getter)()), "weight", None)
    except Exception:  # noqa: BLE001  # a class without one raises what it likes
        return None
    return weight if isinstance(weight, Tensor) else None
