"""Bounds for what is built or loaded: a config does not get all that it asks for, nor a directory all it points to."""

from __future__ import annotations

import contextlib
import math
import os
import re
import threading
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

from tiecheck.errors import TargetError, exception_line
from tiecheck.files.limits import target_account
from tiecheck.files.local import path_inside

LAYERS = re.compile(r"(^|_)(layers?|blocks?|depths?|stages?|levels|repeats?|loops?|stacks?)(_|$)")
"""Keys of a config that say how many modules are built."""

OTHERS = re.compile(r"(^|_)(labels|classes|experts)(_|$)|(^|_)(num|n)_|_(num|count)$")
"""Keys that say how many labels and the like there are, each an object of Python or two."""

SIZES = re.compile(
    r"token|vocab|embeddings?$|positions?$|position_embeddings|_id$|_ids$|size|dim|width|length|frames|samples|rate|"
    r"patches|pixels|params|parameters|steps|bins|buckets|features|channels|mels?|window|n_ctx|n_embd|n_inner|hashes|"
    r"max_|min_|theta|offset|index"
)
"""Keys of those that say how large a tensor is, which costs nothing on meta, or name one layer."""

MOST_LAYERS = 10_000
"""Layers and blocks at most. The largest models that are known have some hundred layers."""

MOST = 1_000_000
"""Labels and the like at most: the largest classifiers that are known tell some hundred thousand classes apart.
Experts may be rows of one tensor: Doge has 16,384 in each layer."""

MOST_MODULES = 250_000
"""Modules that are built at most, which bounds layers times experts. A mixture of 384 experts in 61 layers, each a
module of three, has some 100,000."""

MAPS = ("id2label", "label2id", "task_specific_params")
"""Keys whose own keys are the user's words."""

TIMM_FILES = frozenset(("checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"))
"""Arguments of `timm.create_model` (1.0) that lead to files, which a config may give as `model_args`."""

READ = (".json", ".safetensors", ".bin", ".pt", ".pth", ".gguf", ".py")
"""Endings of the files of a directory that a load may open."""


def refuse_counts(data: Mapping[str, Any], where: str = "") -> None:
    """Raise a `TargetError` for a config that asks for more layers, experts or labels than can be, or for a file."""
    for key, value in data.items():
        path = f"{where}{key}"
        if key in MAPS:
            continue
        _refuse_files(path, value)
        if isinstance(value, Mapping):
            refuse_counts(value, f"{path}.")
            continue
        for one in value if isinstance(value, list) else (value,):
            if isinstance(one, Mapping):
                refuse_counts(one, f"{path}[].")
            elif isinstance(one, int) and one > (most := _most(key)):
                raise TargetError(f"config.json:{path} asks for {_count(one)}, more than the {most:,} that are built")


def _refuse_files(path: str, value: Any) -> None:
    """Refuse what timm would open by itself, without asking transformers."""
    named = TIMM_FILES.intersection(value) if path.endswith("model_args") and isinstance(value, Mapping) else ()
    if named or (isinstance(value, str) and value.startswith("local-dir:")):
        words = f"{path}.{min(named)}" if named else path
        raise TargetError(f"config.json:{words} names weights for timm to load; nothing outside the directory is read")


def _most(key: str) -> float:
    """Return how much a key may ask for."""
    word = key.lower().replace(".", "_")
    if SIZES.search(word):
        return math.inf
    return MOST_LAYERS if LAYERS.search(word) else MOST if OTHERS.search(word) else math.inf


def _count(number: int) -> str:
    return f"{number:,}" if number < 10**15 else "more than 10^15"


def refuse_outside(root: str) -> None:
    """Raise a `TargetError` for a directory in which a load may open what leads out, or is a pipe or a device."""
    for name in sorted(os.listdir(root)):
        if name.endswith(READ):
            path = path_inside(root, name)
            if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
                raise TargetError(f"{path} is a pipe or a device, not a regular file", path)


@contextlib.contextmanager
def limited_modules() -> Iterator[None]:
    """Stop a build that makes more modules than any model has (`TargetError`), or takes longer than it may."""
    from torch.nn.modules.module import register_module_module_registration_hook

    count, mine = 0, threading.get_ident()

    def registered(_owner: Any, _name: Any, _module: Any) -> None:
        nonlocal count
        if threading.get_ident() == mine:
            count += 1
            target_account().check_time()
            if count > MOST_MODULES:
                raise TargetError(f"its config asks for more than the {MOST_MODULES:,} modules that are built")

    handle = register_module_module_registration_hook(registered)
    try:
        yield
    finally:
        handle.remove()


def require_models() -> None:
    """Import what every model of transformers needs; a `TargetError` has the first cause, as a broken torchvision."""
    try:
        import_module("transformers.modeling_utils")
    except Exception as error:
        first: BaseException = error
        while first.__cause__ is not None:
            first = first.__cause__
        raise TargetError(f"transformers cannot be imported here: {exception_line(first)}") from error
