"""The facts of one target, each made when a rule first asks for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any

from tiecheck.errors import MissingExtraError, TiecheckError, UsageError
from tiecheck.records.words import Unknown

SHARED = frozenset({"architecture", "groups", "loaders", "strict_load"})
"""Facts that follow from config and headers alone, wherever those are, as long as no tensor byte is read."""


class Facts:
    """The facts of one target, each made on demand and once.

    A provider returns the fact or an `Unknown`; an exception of ours in one becomes an `Unknown` too, since by
    then the target has been read and only that layer fails.
    """

    def __init__(
        self, providers: Mapping[str, Callable[[Facts], Any]], shared: MutableMapping[str, Any] | None = None
    ) -> None:
        """Begin.

        Args:
            providers: What makes each fact.
            shared: Facts of `SHARED` that were made of the same bytes before, to be read and added to.
        """
        self._providers = providers
        self._made: dict[str, Any] = {}
        self._shared: MutableMapping[str, Any] = {} if shared is None else shared

    def __contains__(self, name: str) -> bool:
        """Whether the layer behind a fact was asked for at all."""
        return name in self._providers

    def __iter__(self) -> Iterator[str]:
        """The names of the facts on offer."""
        return iter(self._providers)

    def get(self, name: str) -> Any:
        """The fact, or the Unknown that stands for it.

        Raises:
            MissingExtraError: A library of an extra is needed and not installed.
            UsageError: An option does not fit the model, as a device map that gives a module no device.
        """
        if name not in self._made and name in self._shared:
            self._made[name] = self._shared[name]
        if name not in self._made:
            try:
                self._made[name] = self._providers[name](self)
                if name in SHARED:  # not what an error says, for it names the place
                    self._shared[name] = self._made[name]
            except (MissingExtraError, UsageError):
                raise  # what was asked for is one `pip install`, or one option, away: an error, no skip
            except TiecheckError as error:
                self._made[name] = Unknown(str(error))
            except SystemExit:
                self._made[name] = Unknown("the model's own code ended the process (sys.exit)")
        return self._made[name]

    def known(self, name: str) -> Any:
        """The fact, or None where it is unknown or was not asked for."""
        value = self.get(name) if name in self else None
        return None if isinstance(value, Unknown) else value
