"""Keep transformers within one directory, off the hub and its cache: what it asks for besides is refused, and named.

A backbone, a kernel or a processor that a config names is such a thing. Private names of transformers (4.50 to 5.24)
and of huggingface_hub are replaced here. A part of `rehearse_child.py` too: it imports nothing of tiecheck, and runs
under Python 3.9.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any, NoReturn

FILES = "_get_resolved_checkpoint_files"

ASKED = re.compile(r"Cannot reach (\S+): offline mode|^Repo id must .*: '([^']+)'")
"""Words of huggingface_hub 0.36 to 2: `OfflineModeIsEnabled`, and `HFValidationError` of a path."""

KERNELS = ("transformers.integrations.hub_kernels", "kernels")
"""Modules that fetch and import a kernel by its name, where there are such."""


class OutsideError(OSError):
    """Something that is not in the model's own directory was asked for."""


def asked_of_hub(error: BaseException | None) -> Iterator[str]:
    """Yield what the hub's own client refused to ask for, being off, or being given a path."""
    while error is not None:
        asked = ASKED.search(str(error))
        if asked is not None:
            yield asked[1] or asked[2]
        error = error.__cause__ or error.__context__


def real_inside(root: str, path: str) -> str | None:
    """Return the real path of a file of a directory, links of the hub's cache to its blobs among them; None outside."""
    base, real = os.path.realpath(root), os.path.realpath(path)
    head, _, revision = base.rpartition(f"{os.sep}snapshots{os.sep}")
    blobs = os.path.join(head, "blobs") if head and os.sep not in revision else base
    return real if real.startswith((base.rstrip(os.sep) + os.sep, blobs.rstrip(os.sep) + os.sep)) else None


@contextlib.contextmanager
def confined(root: str) -> Iterator[list[str]]:
    """Let transformers read what lies in a directory, and nothing that a config names besides, on the hub or here.

    Yields:
        What was asked for and refused, as it comes to be.
    """
    from huggingface_hub import constants
    from transformers import modeling_utils
    from transformers.utils import hub

    for name in KERNELS:
        with contextlib.suppress(ImportError):
            import_module(name)
    bounds = _Bounds(root)
    replaced: list[tuple[Any, str, Any]] = [
        (constants, "HF_HUB_OFFLINE", True),
        (constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True),
        (constants, "HF_HUB_CACHE", os.path.join(bounds.root, ".no-cache")),
        *((sys.modules.get(name), "get_kernel", bounds.refuse_kernel) for name in KERNELS),
        (hub, "cached_files", bounds.around_cached_files(getattr(hub, "cached_files", None))),
        (modeling_utils, FILES, bounds.around_checkpoint_files(getattr(modeling_utils, FILES, None))),
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
        if real_inside(self.root, path) is None:
            self.refuse(os.path.realpath(path))

    def _folder(self, name: Any) -> str:
        """Refuse what is no folder: then it is looked for on the hub, or in its cache."""
        folder = str(name)
        if not os.path.isdir(folder):
            self.refuse(folder)
        return os.path.realpath(folder)

    def around_cached_files(self, original: Any) -> Callable[..., Any]:
        """Look at each file that is looked for."""

        def cached_files(path_or_repo_id: Any, filenames: list[str], *args: Any, **kwargs: Any) -> Any:
            folder = self._folder(path_or_repo_id)
            for name in filenames:
                self._own(os.path.join(folder, kwargs.get("subfolder") or "", name))
            return original(path_or_repo_id, filenames, *args, **kwargs)

        return cached_files

    def around_checkpoint_files(self, original: Any) -> Callable[..., Any]:
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
