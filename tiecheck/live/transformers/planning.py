"""A directory's class as `from_pretrained` has it when it plans: built on meta, not tied, quantised, without weights.

Tested on transformers 5.23 (`PreTrainedModel.from_pretrained` up to its call of `_get_device_map`).
"""

from __future__ import annotations

import copy
import re
from typing import Any, NamedTuple

import torch
import transformers
from torch import nn

from tiecheck.live.transformers.loading import _class_of, _config_of, _first_line, _is_model_class, _silent
from tiecheck.records.declared import ModelConfig
from tiecheck.records.words import Unknown


class Planned(NamedTuple):
    """What transformers plans for."""

    module: nn.Module
    """The model, in the dtype it will be loaded in; its ties are declared and not made."""
    quantizer: Any
    """transformers' quantizer; None for a model that is not quantised."""
    dtype: str
    """The dtype that floating weights will have, torch's word."""


def build_for_plan(
    root: str, model: ModelConfig, dtype: str | None = None, trust: bool = False, device_map: str = "auto"
) -> Planned | Unknown:
    """Build the class of a model directory as `from_pretrained` would; nothing is fetched and no weight is read.

    Args:
        root: The directory.
        model: Its parsed config.
        dtype: The `dtype=` of the load, torch's word; None for its default, which is the config's, or that of the
            stored weights where the config names none, or torch's own where there are none.
        trust: Whether the directory's own code may be imported.
        device_map: The strategy that is asked for: a quantizer may refuse one.

    Returns:
        The model and its quantizer, or why it could not be built.
    """
    with _silent():
        try:
            cls = _class_of(root, model, trust=trust)
            if cls is None or not _is_model_class(cls):
                return Unknown(
                    f"transformers {transformers.__version__} has no model class {model.class_name!r}"
                    if model.class_name
                    else "config.json names no class (architectures)"
                )
            return _built(cls, copy.deepcopy(_config_of(cls, root, trust=trust)), root, dtype, device_map)
        except ImportError as error:
            return Unknown(_missing(error))
        except (Exception, SystemExit) as error:  # noqa: BLE001  # a class may fail in any way it likes
            return Unknown(f"building {model.class_name} raised {type(error).__name__}: {_first_line(error)}")


def _built(cls: Any, config: Any, root: str, dtype: str | None, device_map: str) -> Planned:
    """The steps of `from_pretrained`, in its order."""
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
    """The files of the weights, which tell the dtype where the config does not; None where there are none."""
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


_NEEDS = re.compile(r"pip install (?:-\S+ )*[`'\"]*([\w-]+)")


def _missing(error: ImportError) -> str:
    """What has to be installed, out of the words of a quantizer's `validate_environment`."""
    text = _first_line(error)
    named = _NEEDS.search(text)
    library = named[1] if named else error.name
    return f"{library} is not installed, and the class is not built without it: {text}" if library else text
