"""The records of quantised members of a tie: each with the tensors that belong to it."""

from __future__ import annotations

from tiecheck.records.record import Record
from tiecheck.records.stored import Group, StoredTensor


class QuantisedMember(Record):
    """A member as it is stored, plain or quantised."""

    name: str
    """The class's name."""
    form: str | None
    """The format, e.g. `GPTQ or AWQ`; None for a plain tensor."""
    parts: tuple[StoredTensor, ...]
    """All tensors that it is made of, sorted by name."""


class QuantisedTie(Record):
    """A declared tie of which a member is stored quantised, or whose head a skip list leaves to the quantiser."""

    group: Group
    members: tuple[QuantisedMember, ...]
    """The members that are stored."""
    alike: bool | None
    """True where all members are stored in one form with equal bytes in every part; None where that was not read."""
    skipped: tuple[str, ...] = ()
    """Members that the skip list of the config names."""
    unskipped: str | None = None
    """The head, where such a list is there and does not name it."""
