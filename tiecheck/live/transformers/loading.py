"""Builds the class of a model directory as transformers does: on meta, with its weights, or as it plans a device map.

Private names of transformers 5.23 are touched here (`PreTrainedModel.from_pretrained` up to `_get_device_map`).
"""

from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import transformers
from torch import nn

from tiecheck.errors import TargetError
from tiecheck.live.transformers.confined import limited_modules, refuse_counts, refuse_outside, require_models
from tiecheck.live.transformers.rehearse_bounds import asked_of_hub, confined
from tiecheck.live.transformers.tied_weights_keys import class_problems, read_keys
from tiecheck.records.declared import ModelConfig
from tiecheck.records.live import KeyProblem
from tiecheck.records.words import Unknown

_NEEDS = re.compile(r"pip install (?:-\S+ )*[`'\"]*([\w-]+)")


class Planned(NamedTuple):
    """A model as transformers has it when it plans: not tied, quantised, without weights."""

    module: nn.Module
    """The model, in the dtype it will be loaded in; its ties are declared and not made."""
    quantizer: Any
    """transformers' quantizer; None for a model that is not quantised."""
    dtype: str
    """The dtype that floating weights will have, torch's word."""


def build_pretrained(root: str, model: ModelConfig, *, load: bool, trust: bool) -> nn.Module | Unknown:
    """Build the class of a model directory on meta, or load it with its weights; nothing is fetched.

    With `trust` the directory's own code may be imported. Else, or where it fails, the reason comes back.
    """
    with silenced_transformers(), bounded_build(root, model) as refused:
        try:
            if load:
                refuse_outside(root)
            cls = _class_of(root, model, trust=trust)
            if cls is None:
                return _no_class(model, "class")
            if not _is_model_class(cls):
                return Unknown(f"transformers' {model.class_name} is no model class")
            config = _config_of(cls, root, trust=trust)
            if load:
                module: nn.Module = cls.from_pretrained(root, config=config, local_files_only=True)
                return module.eval()
            return _on_meta(cls, config)
        except (Exception, SystemExit, GeneratorExit) as error:  # noqa: BLE001  # a class may fail in any way it likes
            return Unknown(_failed("loading" if load else "building", model, error, refused))


def build_for_plan(
    root: str, model: ModelConfig, dtype: str | None = None, trust: bool = False, device_map: str = "auto"
) -> Planned | Unknown:
    """Build the class of a model directory as `from_pretrained` would, with its quantizer; or say why that failed.

    Nothing is fetched and no weight is read. The dtype is that of the load, torch's word; None for its default, which
    is the config's, or that of the stored weights where the config names none, or torch's own where there are none.
    `trust` lets the directory's own code be imported; a quantizer may refuse the strategy of the device map.
    """
    with silenced_transformers(), bounded_build(root, model) as refused:
        try:
            cls = _class_of(root, model, trust=trust)
            if not _is_model_class(cls):
                return _no_class(model, "model class")
            return _planned(cls, copy.deepcopy(_config_of(cls, root, trust=trust)), root, dtype, device_map)
        except ImportError as error:
            return Unknown(_missing(error))
        except (Exception, SystemExit, GeneratorExit) as error:  # noqa: BLE001  # a class may fail in any way it likes
            return Unknown(_failed("building", model, error, refused))


def unbuilt_problems(root: str, model: ModelConfig, *, trust: bool) -> tuple[KeyProblem, ...]:
    """Return what is wrong with the declaration of a class that could not be built.

    That is what it declares where it can be built with the flag false; else what shows on the class alone.
    """
    with silenced_transformers(), bounded_build(root, model):
        try:
            cls = _class_of(root, model, trust=trust)
            if not _is_model_class(cls):
                return ()
            config = _config_of(cls, root, trust=trust)
            config.tie_word_embeddings = False
            try:
                problems = read_keys(_on_meta(cls, config), transformers.__version__).problems
            except (Exception, SystemExit, GeneratorExit):  # noqa: BLE001  # it cannot be built with either flag
                problems = class_problems(cls)
            return tuple(problem._replace(flag=True) for problem in problems)
        except (Exception, SystemExit, GeneratorExit):  # noqa: BLE001  # why it was not built is told already
            return ()


@contextlib.contextmanager
def bounded_build(root: str, model: ModelConfig) -> Iterator[list[str]]:
    """Keep a build within the directory and what can be built, or raise `TargetError`; give what it asked besides."""
    refuse_counts(model.data)
    require_models()
    with confined(root) as refused, limited_modules():
        yield refused


def _failed(what: str, model: ModelConfig, error: BaseException, refused: list[str]) -> str:
    """Return why a class could not be built or loaded, and what it asked for that is not its own."""
    if isinstance(error, TargetError):
        return str(error)
    names = ", ".join(dict.fromkeys([*refused, *asked_of_hub(error)]))
    if names:
        return (
            f"{what} {model.class_name} asks for {names[:500]}, which is not in the model's directory; nothing is "
            "fetched, and nothing outside is read"
        )
    return f"{what} {model.class_name} raised {type(error).__name__}: {_first_line(error)}"


def _class_of(root: str, model: ModelConfig, *, trust: bool) -> Any:
    """Return the class that `architectures` names, out of the directory's own code where `auto_map` says so."""
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


def _no_class(model: ModelConfig, what: str) -> Unknown:
    if not model.class_name:
        return Unknown("config.json names no class (architectures)")
    return Unknown(f"transformers {transformers.__version__} has no {what} {model.class_name!r}")


def _on_meta(cls: Any, config: Any) -> nn.Module:
    """Build a class on meta, in no dtype of its own: the kind of a tie does not hang on it."""
    with torch.device("meta"):
        module: nn.Module = cls(config)
    return module


def _is_model_class(value: Any) -> bool:
    """Return True for a model's class: a name in `architectures` may lead to some function of the library."""
    return isinstance(value, type) and issubclass(value, transformers.PreTrainedModel)


def _config_of(cls: Any, root: str, *, trust: bool) -> Any:
    """Read the directory's config; by the class's own config class where `AutoConfig` does not know an inner model."""
    try:
        return transformers.AutoConfig.from_pretrained(root, local_files_only=True, trust_remote_code=trust)
    except ValueError:
        if cls.config_class is None:
            raise
        return cls.config_class.from_pretrained(root, local_files_only=True)


def _planned(cls: Any, config: Any, root: str, dtype: str | None, device_map: str) -> Planned:
    """Take the steps of `from_pretrained`, in its order."""
    from transformers.modeling_utils import _get_dtype
    from transformers.quantizers.auto import get_hf_quantizer
    from transformers.utils.generic import ContextManagers

    # A quantizer reads the strategy, may refuse it, and may change the attention that the class is built with.
    quantizer, config, _ = get_hf_quantizer(config, None, device_map, weights_only=True, user_agent={})
    files, sharded = _files(cls, config, root)
    asked = "auto" if dtype is None else dtype
    if asked == "auto" and getattr(config, "dtype", None) is None and files is None:
        asked = str(torch.get_default_dtype()).removeprefix("torch.")
    config, wanted = _get_dtype(asked, files, config, sharded, None, True, quantizer)
    contexts = cls.get_init_context(wanted, quantizer is not None, False, False)
    with ContextManagers(contexts):
        module = cls(copy.deepcopy(config))
        if quantizer is not None:
            quantizer.preprocess_model(
                model=module, dtype=wanted, device_map=device_map, checkpoint_files=files, use_kernels=False
            )
    return Planned(module, quantizer, str(wanted).removeprefix("torch."))


def _files(cls: Any, config: Any, root: str) -> tuple[list[str] | None, Any]:
    """Return the files of the weights, which tell the dtype where the config does not; None where there are none."""
    from transformers.modeling_utils import _get_resolved_checkpoint_files

    try:
        found: tuple[list[str] | None, Any] = _get_resolved_checkpoint_files(
            pretrained_model_name_or_path=root,
            variant=None,
            gguf_file=None,
            use_safetensors=None,
            user_agent={},
            is_remote_code=cls.is_remote_code(),
            transformers_explicit_filename=getattr(config, "transformers_weights", None),
            download_kwargs={"local_files_only": True},
        )
    except OSError:
        return None, None
    return found


def _missing(error: ImportError) -> str:
    """Name the library that has to be installed, out of the words of a quantizer's `validate_environment`."""
    text = _first_line(error)
    named = _NEEDS.search(text)
    library = named[1] if named else error.name
    return f"{library} is not installed, and the class is not built without it: {text}" if library else text


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2])[:300] or "no message"  # the first line often ends in a colon


@contextlib.contextmanager
def silenced_transformers() -> Iterator[None]:
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
