"""Repetitions in a fleet: headers and configs that came before, known again by their bytes, and what follows from them.

A fleet has many models of few architectures, and many copies of one model. To hold the bytes against those that came
before costs a tenth of parsing them. Only small ones are kept, and only some: a process that reads a million models
stays as small as one that reads ten.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Any, Generic, NamedTuple, TypeVar

from tiecheck.records.declared import ModelConfig
from tiecheck.records.stored import Checkpoint

KEPT = 64
"""Headers, configs and models that are kept."""

SMALL = 128 * 1024
"""Bytes of the largest text that is kept."""

T = TypeVar("T")


class RecentItems(Generic[T]):
    """The last few things that were made; threads may share it."""

    def __init__(self, count: int = KEPT) -> None:
        self._count = count
        self._held: dict[Hashable, list[Any]] = {}
        """Key -> the thing, and whether it was asked for since it came, or was spared."""
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return the thing that was made for a key, or make it now; what fails is not kept."""
        found = self.find(key)
        if found is None:
            found = make()
            self.put(key, found)
        return found

    def find(self, key: Hashable) -> T | None:
        """Return the thing that is kept for a key; None where there is none."""
        held = self._held.get(key)
        if held is None:
            return None
        held[1] = True
        return held[0]  # type: ignore[no-any-return]

    def put(self, key: Hashable, thing: T) -> None:
        """Keep a thing; the oldest goes that was not asked for: to move each one that is would hash its key again."""
        with self._lock:
            self._held.pop(key, None)
            while len(self._held) >= self._count:
                oldest = next(iter(self._held))
                held = self._held.pop(oldest)
                if held[1]:
                    self._held[oldest] = [held[0], False]
            self._held[key] = [thing, False]


class _Model(NamedTuple):
    """The facts of one config with one header."""

    config: ModelConfig
    entries: object
    facts: dict[str, Any]


_models: RecentItems[_Model] = RecentItems()


def facts_of_twins(
    config: ModelConfig | None, checkpoint: Checkpoint | None, options: Hashable
) -> dict[str, Any] | None:
    """Return the facts that were made of the very same config and header, to be read and added to; None if not kept.

    Config and entries are the same objects for the same texts; options are what the facts hang on besides.
    """
    if config is None or checkpoint is None or checkpoint.index_file or len(checkpoint.shards) != 1:
        return None
    shard = checkpoint.shards[0]
    # The model holds on to both objects, so that no other can have their numbers while it is there.
    key = (id(config), id(shard.entries), shard.path, options)
    return _models.get(key, lambda: _Model(config, shard.entries, {})).facts
