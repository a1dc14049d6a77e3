"""How transformers builds and loads a directory's class; its private corners are touched here.

Tested on transformers 5.23.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import transformers

from tiecheck.live.build import Built
from tiecheck.live.transformers.keys import class_problems, read_keys
from tiecheck.records.declared import ModelConfig
from tiecheck.records.live import KeyProblem
from tiecheck.records.words import Unknown


def build_pretrained(root: str, model: ModelConfig, *, load: bool, trust: bool) -> Built | Unknown:
    """The class of a model directory, on meta or with its weights; nothing is fetched.

    Args:
        root: The directory.
        model: Its parsed config.
        load: Whether to load the weights with `from_pretrained`.
        trust: Whether the directory's own code may be imported.

    Returns:
        The module, or why it could not be built.
    """
    with _silent():
        try:
            cls = _class_of(root, model, trust=trust)
            if cls is None:
                return Unknown(
                    f"transformers {transformers.__version__} has no class {model.class_name!r}"
                    if model.class_name
                    else "config.json names no class (architectures)"
                )
            if not _is_model_class(cls):
                return Unknown(f"transformers' {model.class_name} is no model class")
            config = _config_of(cls, root, trust=trust)
            if load:
                module = cls.from_pretrained(root, config=config, local_files_only=True)
                return Built(module.eval(), "loaded")
            with torch.device("meta"):
                # `from_config` of the auto classes sets the dtype; the kind of a tie does not hang on it.
                return Built(cls(config), "built on meta")
        except (Exception, SystemExit) as error:  # noqa: BLE001  # a class may fail in any way it likes
            what = "loading" if load else "building"
            return Unknown(f"{what} {model.class_name} raised {type(error).__name__}: {_first_line(error)}")


def unbuilt_problems(root: str, model: ModelConfig, *, trust: bool) -> tuple[KeyProblem, ...]:
    """What is wrong with the declaration of a class that could not be built.

    Args:
        root: The directory.
        model: Its parsed config.
        trust: Whether the directory's own code may be imported.

    Returns:
        What shows on the class alone; else, where it can be built with the flag false, what its keys name there.
    """
    with _silent():
        try:
            cls = _class_of(root, model, trust=trust)
            if not _is_model_class(cls):
                return ()
            found = class_problems(cls)
            if found:
                return found
            config = _config_of(cls, root, trust=trust)
            config.tie_word_embeddings = False
            with torch.device("meta"):
                module = cls(config)
            problems = read_keys(module, transformers.__version__).problems
            return tuple(problem._replace(flag=True) for problem in problems)
        except (Exception, SystemExit):  # noqa: BLE001  # why it was not built is told already
            return ()


def _class_of(root: str, model: ModelConfig, *, trust: bool) -> Any:
    """The class that `architectures` names, out of the directory's own code where `auto_map` says so."""
    auto_map = model.data.get("auto_map")
    if trust and isinstance(auto_map, dict):
        from transformers.dynamic_module_utils import get_class_from_dynamic_module

        references = [v for k, v in auto_map.items() if isinstance(v, str) and k.startswith("AutoModel")]
        wanted = [r for r in references if model.class_name in (None, r.rpartition(".")[2])]
        # `org/name--file.Class` names code in another repository: fetching it was not asked for.
        local = [r for r in wanted if "--" not in r]
        return get_class_from_dynamic_module(local[0], root, local_files_only=True) if local else None
    if not model.class_name:
        return None
    return getattr(transformers, model.class_name, None)


def _is_model_class(value: Any) -> bool:
    """Whether a name in `architectures` led to a model's class, and not to some function of the library."""
    return isinstance(value, type) and issubclass(value, transformers.PreTrainedModel)


def _config_of(cls: Any, root: str, *, trust: bool) -> Any:
    """The directory's config; by the class's own config class where `AutoConfig` does not know an inner model."""
    try:
        return transformers.AutoConfig.from_pretrained(root, local_files_only=True, trust_remote_code=trust)
    except ValueError:
        if cls.config_class is None:
            raise
        return cls.config_class.from_pretrained(root, local_files_only=True)


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2])[:300] or "no message"  # the first line often ends in a colon


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Switch transformers' own warnings and progress bars off: what they say is what tiecheck reports."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()
