"""The records of the way to a member: the wrappers that Python has to pass, and its dictionaries."""

from __future__ import annotations

from tiecheck.records.record import Record
from tiecheck.wording import python_path


class Hop(Record):
    """A wrapper, as Python passes it on the way to a member."""

    path: str
    """Where it is, as its user calls it: what it wraps has the same path."""
    attribute: str
    """The attribute that holds what it wraps."""
    title: str
    passes: bool
    """True if it passes on the attributes of what it wraps, when they are read."""
    indexed: bool
    """True if it can be indexed."""
    own: tuple[str, ...]
    """The other modules that it registers."""


class Route(Record):
    """The way of Python from a model, as its user holds it, to what is in it."""

    hops: tuple[Hop, ...] = ()
    """The wrappers on the way, from the outside in."""
    keyed: tuple[str, ...] = ()
    """Paths of dictionaries of modules or parameters."""

    def to(self, name: str, model: str = "model") -> str:
        """Return a name as Python reaches and assigns it: a wrapper is named where it does not pass it on."""
        parts = name.split(".") if name else []
        text, path, keyed = model, "", self.keyed
        for number, part in enumerate([*parts, ""]):
            whole = f"{path}.{part}" if path else part
            step = python_path(whole, keyed).removeprefix(python_path(path, keyed) if path else "model") if part else ""
            for hop in (hop for hop in self.hops if hop.path == path and part not in hop.own):
                if not hop.passes or number == len(parts) - 1 or (step[:1] == "[" and not hop.indexed):
                    text += f".{hop.attribute}"
            text, path = text + step, whole
        return text
