"""Builds a class on the meta device and reads its ties by object identity."""

from __future__ import annotations

import contextlib
import copy
import inspect
import re
from collections.abc import Callable
from typing import Any, NamedTuple


class Found(NamedTuple):
    """One group of a built model."""

    source: str
    """The name that transformers ties the others to, or the first registered one."""
    kind: str
    """`module` where one registration makes every name through aliases, else `parameter`; `storage` of buffers."""


Groups = dict[tuple[str, ...], Found]

PLAIN = re.compile(r"^[A-Za-z0-9_.]+$")


def is_older_line() -> bool:
    """Return True where the installed transformers is of the 4.x line, which ties and loads in another way."""
    import transformers

    return int(transformers.__version__.split(".")[0]) < 5


def build_on_meta(model_class: Any, config_class: Any, data: dict[str, Any]) -> Any:
    """A model on the meta device, its config made from a dict as `from_pretrained` makes it."""
    import torch

    config = config_of(model_class, config_class, data)
    if is_older_line():
        return _build_older(model_class, config)
    with torch.device("meta"):
        return model_class(config)


def _build_older(model_class: Any, config: Any) -> Any:
    """A model as `from_pretrained` of 4.57 has it before it loads: made without values, then tied.

    Its `init_empty_weights` wraps every parameter anew, so a tie that a constructor makes holds only where
    `tie_weights` makes it again. A class that reads a buffer in its constructor gets buffers with values.
    """
    import torch

    try:
        with torch.device("meta"):
            return _made(model_class, copy.deepcopy(config))
    except Exception:  # noqa: BLE001 - a constructor may read a buffer in any way
        return _made(model_class, config)


def _made(model_class: Any, config: Any) -> Any:
    with contextlib.ExitStack() as stack:
        for context in model_class.get_init_context(is_quantized=False, _is_ds_init_called=False):
            stack.enter_context(context)
        model = model_class(config)
    model._apart = {id(p): name for name, p in model.named_parameters()}  # before the class's own code ties
    model.tie_weights()
    return model


def config_of(model_class: Any, config_class: Any, data: dict[str, Any]) -> Any:
    """The config that a class is built with (`PreTrainedConfig.from_dict`, 5.23).

    A text model of a composite config gets the text config alone, as `_BaseAutoModelClass.from_pretrained` does.
    """
    config = config_class.from_dict(copy.deepcopy(data))
    text = (getattr(config, "sub_configs", None) or {}).get("text_config")
    wanted = getattr(model_class, "config_class", None)
    return config.get_text_config() if text is not None and wanted == text else config


def groups_of(model: Any) -> Groups:
    """Groups of parameter names that are one `Parameter`, keyed by their sorted names."""
    names: dict[int, list[str]] = {}
    owners: dict[int, set[tuple[int, str]]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        for attribute, parameter in module._parameters.items():
            if parameter is not None:
                names.setdefault(id(parameter), []).append(f"{path}.{attribute}" if path else attribute)
                owners.setdefault(id(parameter), set()).add((id(module), attribute))
    found: Groups = {}
    source = (
        _older_source(model) if is_older_line() else _source(dict(getattr(model, "all_tied_weights_keys", None) or {}))
    )
    for key, members in names.items():
        if len(members) > 1:
            kind = "module" if len(owners[key]) == 1 else "parameter"
            found[tuple(sorted(members))] = Found(source(members), kind)
    return found | (_shared_buffers(model, source) if is_older_line() else {})


def _shared_buffers(model: Any, source: Callable[[list[str]], str]) -> Groups:
    """Return declared buffers that 4.57 lets share memory after the load, as the source has it (SAM's positions)."""
    patterns = [p for _, declared in model_declarations(model) for p, _ in declared]
    held = dict(model.named_buffers(remove_duplicate=False)) if patterns else {}
    names: dict[int, list[str]] = {}
    for name, buffer in held.items():
        names.setdefault(buffer.untyped_storage()._cdata, []).append(name)
    shared = (members for members in names.values() if len(members) > 1)
    told = (members for members in shared if any(re.search(p, m) for p in patterns for m in members))
    return {tuple(sorted(members)): Found(source(members), "storage") for members in told}


def _source(targets: dict[str, str]) -> Callable[[list[str]], str]:
    """Return the member that the others are redirected to, by what a model of transformers 5 has resolved."""

    def source(members: list[str]) -> str:
        inside = {t: s for t, s in targets.items() if t in members and s in members}
        roots = sorted(set(inside.values()) - inside.keys())
        return roots[0] if roots else members[0]

    return source


def _older_source(model: Any) -> Callable[[list[str]], str]:
    """The same in 4.57, whose declaration lists the targets alone: the member that it leaves out, or the embedding.

    Where it leaves out none, the member whose parameter is that of all once the class's own code has tied them.
    """
    patterns = [p for _, declared in model_declarations(model) for p, _ in declared]
    embedding, proven = parameter_of(model, "get_input_embeddings"), proven_sources(model)

    def source(members: list[str]) -> str:
        left = [m for m in members if not any(re.search(p, m) for p in patterns)]
        left = left or [m for m in members if m in proven] or members
        return embedding if embedding in left else left[0]

    return source


def parameter_of(model: Any, getter: str) -> str:
    """The first name of the weight that a model's `get_input_embeddings` or `get_output_embeddings` has; else empty."""
    try:
        module = getattr(model, getter)()
    except Exception:  # noqa: BLE001 - a class without one may raise anything
        return ""
    path = next((name for name, other in model.named_modules() if other is module), None)
    weight = getattr(module, "_parameters", {}).get("weight")
    return "" if path is None or weight is None else f"{path}.weight".lstrip(".")


def repairs_missing(model: Any) -> bool:
    """Return True for a class of 4.57 whose own `from_pretrained` looks after what was missing (LongT5 ties it)."""
    loader = getattr(type(model).from_pretrained, "__func__", None)
    own = getattr(loader, "__module__", "").startswith("transformers.models.")
    return own and "missing_keys" in inspect.getsource(loader)  # type: ignore[arg-type]


def taken_biases(model: Any) -> list[str]:
    """Return each target of tied biases in 4.57 that is taken for all of them where it alone was loaded."""
    import torch

    slots: dict[str, tuple[Any, str]] = {}
    for name, _ in model.named_parameters(remove_duplicate=False):
        path, _, last = name.rpartition(".")
        slots[name] = model.get_submodule(path), last
    before = {name: module._parameters[last] for name, (module, last) in slots.items()}
    taken = []
    for names, found in groups_of(model).items():
        biases = all(name.endswith(".bias") for name in names)
        for loaded in (name for name in names if biases and name != found.source):
            for name in names:
                where, (module, last) = "cpu" if name == loaded else "meta", slots[name]
                module._parameters[last] = torch.nn.Parameter(torch.empty(before[name].shape, device=where))
            with contextlib.suppress(Exception):  # the class's own code may look at anything
                model.tie_weights()
                if all(module._parameters[last].device.type == "cpu" for module, last in (slots[n] for n in names)):
                    taken.append(loaded)
            for name, (module, last) in slots.items():
                module._parameters[last] = before[name]
    return sorted(taken)


def proven_sources(model: Any) -> set[str]:
    """Return each name of 4.57 that keeps its own parameter when the class's code ties others to it."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    held = [id(p) for p in parameters.values()]
    return {name for name, p in parameters.items() if held.count(id(p)) > 1 and model._apart.get(id(p)) == name}


def tied_in(names: tuple[str, ...], groups: Groups) -> bool:
    """Return True where all of some names are one parameter in a built model."""
    wanted = set(names)
    return any(wanted <= set(members) for members in groups)


def model_declarations(model: Any) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return each submodel's declaration as (path, pairs of target and source); 4.57 names no source: it is empty."""
    found: list[tuple[str, list[tuple[str, str]]]] = []
    for path, module in model.named_modules():
        declared = getattr(module, "_tied_weights_keys", None) or {}
        if declared:
            pairs = declared.items() if isinstance(declared, dict) else ((pattern, "") for pattern in declared)
            found.append((path, sorted((_word(target), _word(source)) for target, source in pairs)))
    return found


def _word(declared: Any) -> str:
    """A declared name or pattern as text: Zamba2 of 4.57 declares compiled patterns."""
    return str(getattr(declared, "pattern", declared))


def declares_patterns(model: Any) -> bool:
    """Return True where a submodel declares ties by a pattern rather than by names."""
    words = [word for _, pairs in model_declarations(model) for pair in pairs for word in pair]
    return any(word and not PLAIN.match(word) for word in words)
