"""One model of a source, and what tells that a folder is one."""

from __future__ import annotations

import re
from functools import lru_cache
from hashlib import blake2b
from typing import NamedTuple

from tiecheck.targets.layouts import LAYOUTS
from tiecheck.targets.parse import ADAPTER_CONFIG, FILE_ENDINGS

MANY = 10_000
"""Names of one folder's subfolders that are kept; of a larger one they are read a second time."""


SIGNS = frozenset(("config", "weights", "foreign"))
"""Sorts of files of which one says that a folder below no model is one."""

FOREIGN = re.compile("|".join(layout.sign for layout in LAYOUTS if layout.alone))


class Listed(NamedTuple):
    """One model of a source."""

    target: str
    """The text that `tiecheck TARGET` would be given."""
    mark: str | None = None
    """The mark by which a store's listing tells another version of it (a commit, sizes and etags); None of local files,
    which are asked themselves, and where nobody tells."""
    error: str | None = None
    """Reason why the line of a manifest names no target; else None."""
    names: frozenset[str] | None = None
    """All that the folder holds, as it was listed; None of one that holds more than files, and where nobody tells."""


@lru_cache(1024)
def file_sort(name: str) -> str:
    """Return what a file is to a model, by its name: its config, weights, a model by itself (GGUF), or nothing.

    `foreign` is the sign of a model in a form that is not read: its check says which.
    """
    if name in {"config.json", ADAPTER_CONFIG}:
        return "config"
    if name.endswith((*FILE_ENDINGS, ".gguf")):
        return "gguf" if name.endswith(".gguf") else "weights"
    return "foreign" if name[0] != "." and FOREIGN.fullmatch(name) else ""


HALVES = re.compile("[\ud800-\udfff]")
"""Bytes of a name that are no UTF-8, as Python has them."""


def written_target(target: str) -> str:
    """Return a target as its row has it: with an escape for each byte that is no UTF-8."""
    return target.encode("utf-8", "backslashreplace").decode()


def value_digest(value: object) -> str:
    """Return sixteen hexadecimal digits that stand for a plain value."""
    return blake2b(repr(value).encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
