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


NAMES = st.lists(st.from_regex(r"[a-z][a-z0-9]{0,5}", fullmatch=True), min_size=1, max_size=6, unique=True)


@given(NAMES, st.data(), st.booleans())
def test_fields_are_read_with_and_without_the_future_import(
    names: list[str], data: st.DataObject, future: bool
) -> None:
    fields = [f"field_{name}" for name in names]
    plain = data.draw(st.integers(0, len(fields)))
    body = [f"    {name}: int{'' if i < plain else f' = {i}'}\n" for i, name in enumerate(fields)]
    source = "class Drawn(Base):\n" + "".join(body) + "    @property\n    def first(self) -> int: return self[0]\n"
    made = {}
    for base in (Record, NamedTuple):
        scope = {"Base": base, "__name__": "drawn"}
        text = f"from __future__ import annotations\n{source}" if future else source
        exec(compile(text, "drawn", "exec", dont_inherit=True), scope)
        made[base] = scope["Drawn"]
    drawn, peer = made[Record], made[NamedTuple]
    assert drawn._fields == peer._fields == tuple(fields)
    assert drawn._field_defaults == peer._field_defaults
    values = range(10, 10 + plain)
    assert tuple(drawn(*values)) == tuple(peer(*values))
    assert drawn(*values).first == peer(*values).first


@pytest.mark.parametrize("base", [Record, Plain])
def test_a_record_of_no_fields_is_refused(base: type) -> None:
    with pytest.raises(TypeError, match="Empty is a record without fields"):

        class Empty(base):
            value = 1


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
