"""The model classes of transformers, each with the config class that it is built with."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

BASE = "PreTrainedModel"
"""End of the name of a class that others are made from, and nobody saves."""


class ClassCandidate(NamedTuple):
    """One model class under one model type."""

    class_name: str
    """The class, as it stands in `architectures` of a `config.json`."""
    model_type: str
    """The model type whose config builds it."""
    module: str
    """The module of a class that no auto mapping has; empty for a mapped class."""


def auto_mappings() -> Iterator[tuple[str, str]]:
    """Every (model type, class name) of the auto classes (`transformers.models.auto.modeling_auto`, 5.23)."""
    auto = importlib.import_module("transformers.models.auto.modeling_auto")
    for name, mapping in sorted(vars(auto).items()):
        if not (name.startswith("MODEL") and name.endswith("_NAMES")):
            continue
        for model_type, classes in mapping.items():
            for class_name in classes if isinstance(classes, tuple | list) else (classes,):
                yield model_type, class_name


def load_class(model_type: str, class_name: str) -> Any:
    """The model class that an auto mapping names (`_LazyAutoMapping._load_attr_from_module`, 5.23)."""
    auto = importlib.import_module("transformers.models.auto.configuration_auto")
    package = auto.model_type_to_module_name(model_type)
    module = importlib.import_module(f"transformers.models.{package}")
    if hasattr(module, class_name):
        return getattr(module, class_name)
    return getattr(importlib.import_module("transformers"), class_name)


def load_config_class(model_type: str) -> Any:
    """The config class of a model type (`CONFIG_MAPPING`, 5.23)."""
    auto = importlib.import_module("transformers.models.auto.configuration_auto")
    return auto.CONFIG_MAPPING[model_type]


def model_packages() -> list[str]:
    """The packages of transformers that have models in them, sorted."""
    models = importlib.import_module("transformers.models")
    return sorted(m.name for m in pkgutil.iter_modules(models.__path__) if m.ispkg)


def unmapped_classes(known: set[str], packages: Iterable[str] = ()) -> Iterator[tuple[str, str, str]]:
    """Public `PreTrainedModel` classes in no auto mapping, as (model type, class name, modeling module)."""
    base = importlib.import_module("transformers.modeling_utils").PreTrainedModel
    for package in packages or model_packages():
        folder = importlib.import_module(f"transformers.models.{package}").__path__
        for module in sorted(m.name for m in pkgutil.iter_modules(folder) if m.name.startswith("modeling_")):
            if module.startswith(("modeling_tf_", "modeling_flax_")):
                continue
            listed = Path(*folder, f"{module}.py").read_text(encoding="utf-8").rpartition("__all__ =")[2]
            if known.issuperset(n for n in re.findall(r"""["'](\w+)["']""", listed) if not n.endswith(BASE)):
                continue  # an import takes long, and most modules have nothing that is not mapped
            try:
                loaded = importlib.import_module(f"transformers.models.{package}.{module}")
            except ImportError:
                continue
            for class_name in sorted(getattr(loaded, "__all__", ())):
                found = getattr(loaded, class_name, None)
                if class_name in known or not isinstance(found, type) or not issubclass(found, base):
                    continue
                config_class = getattr(found, "config_class", None)
                if config_class is not None and not class_name.endswith(BASE):
                    yield getattr(config_class, "model_type", "") or "", class_name, loaded.__name__


def own_types(pairs: set[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """The pairs of mapped classes with their own config class's model type (a text model saved by itself)."""
    auto = importlib.import_module("transformers.models.auto.configuration_auto")
    for model_type, class_name in pairs:
        try:
            own = load_class(model_type, class_name).config_class.model_type
        except (AttributeError, ImportError):
            continue
        if own in auto.CONFIG_MAPPING_NAMES:
            yield own, class_name


def class_candidates(only: frozenset[str] = frozenset()) -> list[ClassCandidate]:
    """Every class to ask, sorted by class name and model type; `only` keeps some model types."""
    pairs = {(m, c) for m, c in auto_mappings() if not only or m in only}
    pairs |= {(m, c) for m, c in own_types(pairs) if not only or m in only}
    found = {ClassCandidate(c, m, "") for m, c in pairs}
    if not only:
        found |= {ClassCandidate(c, m, module) for m, c, module in unmapped_classes({c for _, c in pairs})}
    return sorted(found)


def resolve_classes(candidate: ClassCandidate) -> tuple[Any, Any]:
    """A candidate's model class and config class."""
    if candidate.module:
        model_class = getattr(importlib.import_module(candidate.module), candidate.class_name)
        return model_class, model_class.config_class
    return load_class(candidate.model_type, candidate.class_name), load_config_class(candidate.model_type)
