"""From a target of `tiecheck survive` to a live model: the class cut small from its config, or the real one."""

from __future__ import annotations

import copy
import re
from typing import TYPE_CHECKING, Any

from tiecheck.config.options import Config
from tiecheck.errors import TargetError, exception_line
from tiecheck.live.build import build_attribute, build_directory
from tiecheck.records.words import Unknown
from tiecheck.targets.parse import parse_target

if TYPE_CHECKING:
    from torch import nn

LAYERS = re.compile(r"^(n|num)_(hidden_)?layers?$|^(num_)?(encoder|decoder)_layers$|^num_hidden_groups$|^depth$")
"""Keys of a config that count layers."""
LAYERS_KEPT = 2
VOCABULARY = 512
INNER = re.compile(r"intermediate_size|(^|_)ffn_dim|^d_ff$|^n_inner$|^ffn_hidden_size$")
"""Keys of a config with the inner width of a feed-forward layer, which nothing else has to fit."""
WIDTH = re.compile(r"^(hidden_size(_per_layer_input)?|d_model|n_embd|embedding_size|(global_)?head_dim|d_kv)$")
"""Keys of a config with a width that is divided as the others are, so that those that were equal stay equal."""
WIDE = 1024
"""Widths from here on are divided, until a head has `HEAD` elements."""
HEAD = 16


def live_model_of(text: str, *, load: bool = False, trust: bool = False) -> nn.Module:
    """Return the live model of a target: of a directory its class built small, or with `load` its weights.

    `trust` lets the directory's own code run; what cannot be built is a `TiecheckError`.
    """
    from tiecheck.files.checkpoint import read_checkpoint
    from tiecheck.files.model_config import read_config

    target = parse_target(text)
    if target.type == "module":
        return build_attribute(target)
    if target.directory is None:
        raise TargetError(f"{target.text}: a model directory is wanted, or something to build (module:attribute)")
    model = read_config(target.directory)
    if model is None:
        raise TargetError(f"{target.text} has no config.json to build a class from", target.text)
    if load or model.remote_code:
        options = Config(load=True, trust_remote_code=trust)
        built = build_directory(target.directory, model, read_checkpoint(target.directory), options)
        if isinstance(built, Unknown):
            raise TargetError(f"{target.text}: {built.reason}", target.text)
        return built.module
    return _small(target.directory, target.text)


def _small(folder: str, text: str) -> nn.Module:
    """Build the class of a directory with few layers and words; by its own sizes where it does not allow that."""
    try:
        import transformers
    except ImportError as error:
        raise TargetError("building a directory's class needs transformers: pip install 'tiecheck[live]'") from error
    from tiecheck.live.transformers.confined import require_models
    from tiecheck.live.transformers.loading import silenced_transformers

    require_models()
    with silenced_transformers():
        try:
            config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
            name = (config.architectures or [""])[0]
            cls: Any = getattr(transformers, name, None)
            if cls is None:
                raise TargetError(
                    f"{text}: transformers has no class {name!r}; --load builds what the directory brings"
                )
            last: Exception | None = None
            cut = _cut(config)
            for made in (_narrowed(cut), cut, config):
                try:
                    module: nn.Module = cls(made).eval()
                except Exception as error:  # noqa: BLE001  # a class may want its own sizes
                    last = error
                    continue
                if made is cut or made is config or _runs(module):
                    return module
            raise TargetError(f"{text}: {name} cannot be built: {exception_line(last or ValueError())}")
        except TargetError:
            raise
        except Exception as error:
            raise TargetError(f"{text}: its class cannot be built: {exception_line(error)}") from error


def _cut(config: Any) -> Any:
    """Return a config with few layers and words and narrow feed-forward layers, in every part of it."""
    made = copy.deepcopy(config)
    for part in (made, *(v for v in vars(made).values() if hasattr(v, "to_dict") and hasattr(v, "model_type"))):
        names = {key: part.attribute_map.get(key, key) for key in (*vars(part), *part.attribute_map)}
        own = {key: getattr(part, name) for key, name in names.items() if hasattr(part, name)}
        layers = [value for key, value in own.items() if LAYERS.match(key) and isinstance(value, int)]
        for key, value in own.items():
            if LAYERS.match(key) and isinstance(value, int):
                setattr(part, key, min(value, LAYERS_KEPT))
            elif isinstance(value, list) and len(value) in layers and len(value) > LAYERS_KEPT:
                setattr(part, key, value[:LAYERS_KEPT])
            elif (key == "vocab_size" or INNER.search(key)) and isinstance(value, int):
                setattr(part, key, min(value, VOCABULARY))
            elif key.endswith("_token_id") and isinstance(value, int) and value >= VOCABULARY:
                setattr(part, key, VOCABULARY - 1)
    return made


def _narrowed(config: Any) -> Any:
    """Return a config of one part with narrow heads; itself where it is narrow, or its widths do not divide alike."""
    made = copy.deepcopy(config)
    names = {made.attribute_map.get(key, key) for key in (*vars(made), *made.attribute_map) if WIDTH.match(key)}
    widths = {name: value for name in names if isinstance(value := getattr(made, name, None), int)}
    heads = getattr(made, "num_attention_heads", None)
    parted = any(hasattr(value, "model_type") for value in vars(made).values())
    if parted or not isinstance(heads, int) or max(widths.values(), default=0) < WIDE:
        return config
    head = getattr(made, "head_dim", None) or max(widths.values()) // heads
    factor = head // HEAD
    if factor < 2 or any(value % factor for value in widths.values()):
        return config
    for name, value in widths.items():
        setattr(made, name, value // factor)
    return made


def _runs(module: Any) -> bool:
    """Tell whether a module takes tokens: of one that was narrowed too far the logits could not be compared."""
    from tiecheck.trace.forward import run_on_random_tokens

    try:
        return not isinstance(run_on_random_tokens(module, module.get_input_embeddings().weight), str)
    except Exception:  # noqa: BLE001  # a getter of any class
        return False
