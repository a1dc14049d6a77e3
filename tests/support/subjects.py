"""Every model class of the installed transformers on meta, and what is true of each by object identity.

Nothing here asks tiecheck: the truth comes from torch's own listing of names and from who registers what. The
benchmark `tests/benchmarks/bench_live_zoo.py` runs all of it, the tests of this folder a sample.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import transformers

from tiecheck.tables.generate.build import build_on_meta
from tiecheck.tables.generate.classes import ClassCandidate, auto_mappings, resolve_classes, unmapped_classes
from tiecheck.tables.generate.configs import config_levels, default_config, filled_from_default, silent_dict, with_flags

VARIANTS = ("default", "true", "false")
"""The config as the class makes it, and the flag forced to one value at every level."""

Names = tuple[str, ...]


class Truth(NamedTuple):
    """What a built model really holds."""

    groups: dict[Names, str]
    """Sorted names of each tie group -> `module` or `parameter`."""
    names: int
    """Parameter names, all registrations counted."""
    parameters: int
    """Elements of distinct parameters."""
    declares: bool
    """Whether a submodule's class has `_tied_weights_keys`."""
    buffers: set[Names]
    """Sorted names of buffers that are one tensor."""
    free_aliases: int
    """Modules without parameters that stand under several paths (a shared activation): no tie."""


def mapped() -> list[ClassCandidate]:
    """The pairs of the auto classes, sorted. Nothing of a model is imported for it."""
    return sorted({ClassCandidate(class_name, model_type, "") for model_type, class_name in auto_mappings()})


def every() -> list[ClassCandidate]:
    """The pairs of the auto classes, and after them the public classes that none of these has: imports all models."""
    pairs = mapped()
    return pairs + [
        ClassCandidate(c, m, module) for m, c, module in unmapped_classes({pair.class_name for pair in pairs})
    ]


def make(candidate: ClassCandidate, variant: str) -> Any:
    """A full-size model on meta, of a class's default config or with the flag forced.

    Raises:
        Exception: What the class raises, where its default config cannot build it even with open values filled in.
    """
    model_class, config_class = resolve_classes(candidate)
    config = default_config(config_class)
    try:
        if variant == "default":
            return _on_meta(model_class, copy.deepcopy(config))
        return build_on_meta(model_class, config_class, _forced(silent_dict(config), config, variant))
    except Exception as error:
        with contextlib.suppress(Exception):
            return build_on_meta(
                model_class, config_class, _forced(filled_from_default(silent_dict(config), config), config, variant)
            )
        raise error from None


def _forced(data: dict[str, Any], config: Any, variant: str) -> dict[str, Any]:
    """A config dict with the flag of a variant at every level."""
    return (
        data
        if variant == "default"
        else with_flags(data, dict.fromkeys(((), *config_levels(config)), variant == "true"))
    )


def _on_meta(model_class: Any, config: Any) -> Any:
    """A model of a config object as it is; a text model of a composite one gets the text config, as auto classes do."""
    text = (getattr(config, "sub_configs", None) or {}).get("text_config")
    own = config.get_text_config() if text is not None and model_class.config_class == text else config
    with torch.device("meta"):
        return model_class(own)


def truth_of(model: Any) -> Truth:
    """What a model holds, by the identity of its parameters and by who registers them."""
    held: dict[int, list[str]] = {}
    distinct: dict[int, int] = {}
    names = 0
    for name, parameter in model.named_parameters(remove_duplicate=False):
        held.setdefault(id(parameter), []).append(name)
        distinct[id(parameter)] = parameter.numel()
        names += 1
    modules = dict(model.named_modules(remove_duplicate=False))
    groups = {}
    for members in held.values():
        if len(members) > 1:
            places = {(id(modules[path]), last) for path, _, last in (name.rpartition(".") for name in members)}
            groups[tuple(sorted(members))] = "module" if len(places) == 1 else "parameter"
    shared: dict[int, list[str]] = {}
    for name, buffer in model.named_buffers(remove_duplicate=False):
        shared.setdefault(id(buffer), []).append(name)
    paths: dict[int, int] = {}
    for module in modules.values():
        if next(module.parameters(), None) is None:
            paths[id(module)] = paths.get(id(module), 0) + 1
    return Truth(
        groups,
        names,
        sum(distinct.values()),
        any(getattr(module, "_tied_weights_keys", None) for module in modules.values()),
        {tuple(sorted(members)) for members in shared.values() if len(members) > 1},
        sum(times > 1 for times in paths.values()),
    )


def flags_of(config: Any) -> Iterator[tuple[str, bool | None]]:
    """Every level of a config with its own flag; None where it has none or none is set."""
    yield "", getattr(config, "tie_word_embeddings", None)
    for level in config_levels(config):
        inner = config
        for key in level:
            inner = getattr(inner, key)
        yield ".".join(level), getattr(inner, "tie_word_embeddings", None)


def embeddings_of(model: Any) -> tuple[Any, Any] | None:
    """The weights that a model's getters return as input and output embeddings, where it has both."""
    found = []
    for getter in ("get_input_embeddings", "get_output_embeddings"):
        try:
            found.append(getattr(model, getter)().weight)
        except Exception:  # noqa: BLE001 - a class without one may raise anything
            return None
    return found[0], found[1]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """One thread, and none of the reports and warnings that hundreds of classes make."""
    threads, before = torch.get_num_threads(), transformers.logging.get_verbosity()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logging.disable(disabled)
    transformers.logging.set_verbosity(before)
    transformers.logging.enable_progress_bar()
    torch.set_num_threads(threads)
