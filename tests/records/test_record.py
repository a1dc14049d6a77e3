"""A record is a named tuple in all but what it costs."""

from __future__ import annotations

import pickle
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiecheck.records.record import Record


class Plain(Record):
    a: int
    """A field."""
    b: str
    c: float = 1.5

    @property
    def both(self) -> str:
        return f"{self.a}{self.b}"


class Peer(NamedTuple):
    a: int
    b: str
    c: float = 1.5


CALLS = [((), {}), ((1,), {}), ((1, "x"), {}), ((1, "x", 2.0), {}), ((1, "x", 2.0, 3), {}), ((1,), {"b": "x"})]
CALLS += [((), {"a": 1, "b": "x"}), ((1, "x"), {"c": 3.0}), ((1, "x"), {"a": 2}), ((1, "x", 2.0), {"c": 3.0})]
CALLS += [((1, "x"), {"d": 4}), ((), {"b": "x"})]


@pytest.mark.parametrize(("values", "named"), CALLS)
def test_it_takes_and_refuses_what_a_named_tuple_does(values, named) -> None:
    try:
        wanted = Peer(*values, **named)
    except TypeError:
        with pytest.raises(TypeError):
            Plain(*values, **named)
    else:
        made = Plain(*values, **named)
        assert tuple(made) == tuple(wanted)
        assert made._asdict() == wanted._asdict()
        assert repr(made) == repr(wanted).replace("Peer", "Plain")
        assert (made.a, made.b, made.c) == (wanted.a, wanted.b, wanted.c)


@given(st.integers(), st.text(), st.floats(allow_nan=False), st.integers())
def test_replacing_comparing_hashing_and_pickling(a: int, b: str, c: float, other: int) -> None:
    record, peer = Plain(a, b, c), Peer(a, b, c)
    assert record == peer
    assert hash(record) == hash(peer)
    assert tuple(record._replace(a=other)) == tuple(peer._replace(a=other))
    assert pickle.loads(pickle.dumps(record)) == record
    assert type(record._replace(a=other)) is Plain
    assert Plain._make(peer) == record
    assert record.both == f"{a}{b}"


def test_it_is_frozen_and_has_no_dict() -> None:
    record = Plain(1, "x")
    with pytest.raises(AttributeError):
        record.a = 2  # type: ignore[misc]
    with pytest.raises(AttributeError):
        record.other = 2  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="no field other"):
        record._replace(other=2)
    assert not hasattr(record, "__dict__")
    match record:
        case Plain(a, b):
            assert (a, b) == (1, "x")
