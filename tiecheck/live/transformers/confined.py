"""Bounds for what transformers does when it builds or loads a class: what a config names or asks for is not all done.

While something is built the hub is off, a cached copy of another model included: a backbone, a kernel or a processor
that a config names is refused, and named. Private names of transformers 5.23 and of huggingface_hub are replaced here.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

from torch import nn

from tiecheck.errors import TargetError
from tiecheck.files.limits import account
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

FILES = "_get_resolved_checkpoint_files"

READ = (".json", ".safetensors", ".bin", ".pt", ".pth", ".gguf", ".py")
"""Endings of the files of a directory that a load may open."""


class OutsideError(OSError):
    """Something that is not in the model's own directory was asked for."""


def refuse_counts(data: Mapping[str, Any], where: str = "") -> None:
    """Refuse a config that asks for more layers, labels, experts and the like than anybody could build.

    Args:
        data: The config.
        where: The keys that lead to it.

    Raises:
        TargetError: It does; with the key and the count.
    """
    for key, value in data.items():
        path = f"{where}{key}"
        if key in MAPS:
            continue
        if isinstance(value, Mapping):
            refuse_counts(value, f"{path}.")
            continue
        for one in value if isinstance(value, list) else (value,):
            if isinstance(one, Mapping):
                refuse_counts(one, f"{path}[].")
            elif isinstance(one, int) and one > (most := _most(key)):
                raise TargetError(f"config.json:{path} asks for {_count(one)}, more than the {most:,} that are built")


def _most(key: str) -> float:
    """Return how much a key may ask for."""
    word = key.lower().replace(".", "_")
    if SIZES.search(word):
        return math.inf
    return MOST_LAYERS if LAYERS.search(word) else MOST if OTHERS.search(word) else math.inf


def _count(number: int) -> str:
    return f"{number:,}" if number < 10**15 else "more than 10^15"


@contextlib.contextmanager
def confined(root: str) -> Iterator[list[str]]:
    """Let transformers read what lies in a directory, and nothing that a config names besides, on the hub or here.

    Args:
        root: The directory.

    Yields:
        What was asked for and refused, as it comes to be.
    """
    from huggingface_hub import constants
    from transformers import modeling_utils
    from transformers.integrations import hub_kernels
    from transformers.utils import hub

    bounds = _Bounds(root)
    replaced: list[tuple[Any, str, Any]] = [
        (constants, "HF_HUB_OFFLINE", True),
        (constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True),
        (constants, "HF_HUB_CACHE", os.path.join(bounds.root, ".no-cache")),
        (hub_kernels, "get_kernel", bounds.refuse_kernel),
        (sys.modules.get("kernels"), "get_kernel", bounds.refuse_kernel),
        (hub, "cached_files", bounds.around_cached_files(hub.cached_files)),
        (modeling_utils, FILES, bounds.around_checkpoint_files(getattr(modeling_utils, FILES))),
        (socket, "getaddrinfo", bounds.around_address(socket.getaddrinfo)),
        (socket.socket, "connect", bounds.around_connect(socket.socket.connect)),
        (socket.socket, "connect_ex", bounds.around_connect(socket.socket.connect_ex)),
    ]
    with contextlib.ExitStack() as stack:
        for owner, name, value in replaced:
            if hasattr(owner, name):
                stack.callback(setattr, owner, name, getattr(owner, name))
                setattr(owner, name, value)
        yield bounds.refused


class _Bounds:
    """Stand-ins for the functions that reach out of a directory, in the thread that builds."""

    def __init__(self, root: str) -> None:
        self.root = os.path.realpath(root)
        self.refused: list[str] = []
        self._thread = threading.get_ident()

    def refuse(self, what: str) -> NoReturn:
        """Refuse, and note what.

        Raises:
            OutsideError: Always.
        """
        self.refused.append(what)
        raise OutsideError(f"{what} is not in the model's directory, and is neither fetched nor read")

    def refuse_kernel(self, name: Any = None, *_: Any, **__: Any) -> NoReturn:
        """Refuse a kernel, which is code."""
        self.refuse(f"the kernel {name}")

    def _own(self, path: str) -> None:
        """Refuse a path that leads out of the directory."""
        try:
            path_inside(self.root, os.path.relpath(os.path.abspath(path), self.root))
        except TargetError:
            self.refuse(os.path.realpath(path))

    def _folder(self, name: Any) -> str:
        """Refuse what is no folder: then it is looked for on the hub, or in its cache."""
        folder = str(name)
        if not os.path.isdir(folder):
            self.refuse(folder)
        return os.path.realpath(folder)

    def around_cached_files(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Look at each file that is looked for."""

        def cached_files(path_or_repo_id: Any, filenames: list[str], *args: Any, **kwargs: Any) -> Any:
            folder = self._folder(path_or_repo_id)
            for name in filenames:
                self._own(os.path.join(folder, kwargs.get("subfolder") or "", name))
            return original(path_or_repo_id, filenames, *args, **kwargs)

        return cached_files

    def around_checkpoint_files(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Look at each file of weights before one is opened: those of an index among them."""

        def checkpoint_files(pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
            folder = self._folder(pretrained_model_name_or_path)
            found = original(pretrained_model_name_or_path, *args, **kwargs)
            for path in found[0] or ():
                given = os.path.relpath(os.path.abspath(path), os.path.abspath(pretrained_model_name_or_path))
                self._own(os.path.join(folder, given))
            return found

        return checkpoint_files

    def around_address(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Refuse to look a host up."""

        def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() == self._thread:
                self.refuse(str(host))
            return original(host, *args, **kwargs)

        return getaddrinfo

    def around_connect(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Refuse to connect to another machine."""

        def connect(opened: socket.socket, address: Any) -> Any:
            if threading.get_ident() == self._thread and opened.family != getattr(socket, "AF_UNIX", None):
                self.refuse(str(address[0] if isinstance(address, tuple) else address))
            return original(opened, address)

        return connect


def refuse_outside(root: str) -> None:
    """Refuse to load a directory in which something that a load may open leads out, or is a pipe or a device.

    Raises:
        TargetError: It does.
    """
    for name in sorted(os.listdir(root)):
        if name.endswith(READ):
            path = path_inside(root, name)
            if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
                raise TargetError(f"{path} is a pipe or a device, not a regular file", path)


@contextlib.contextmanager
def limited_modules() -> Iterator[None]:
    """Stop a build that makes more modules than any model has, or takes longer than its target may.

    Raises:
        TargetError: From within the build.
        OutOfTimeError: The same.
    """
    count, mine = 0, threading.get_ident()

    def registered(_owner: Any, _name: Any, _module: Any) -> None:
        nonlocal count
        if threading.get_ident() == mine:
            count += 1
            account().check_time()
            if count > MOST_MODULES:
                raise TargetError(f"its config asks for more than the {MOST_MODULES:,} modules that are built")

    handle = nn.modules.module.register_module_module_registration_hook(registered)
    try:
        yield
    finally:
        handle.remove()
