"""`Record`: a `typing.NamedTuple` that costs a start a third of it.

`NamedTuple` compiles a constructor for each class and checks each annotation: for the sixty records of a check that was
a quarter of what the whole start added to importing click (counted in instructions). A `Record` is declared in the same
words, is a tuple with the same methods, and to a type checker it is a `NamedTuple`. Making an instance takes longer, so
what is made by the thousand stays a `NamedTuple`.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import NamedTuple as Record
else:
    from operator import itemgetter

    class _RecordType(type):
        """Turns the annotations of a class body into fields."""

        def __new__(cls, name, bases, namespace):
            if not bases:
                return super().__new__(cls, name, (tuple,), namespace)
            fields = tuple(namespace.get("__annotations__", ()))
            defaults = {field: namespace[field] for field in fields if field in namespace}
            for i, field in enumerate(fields):
                namespace[field] = property(itemgetter(i))
            namespace |= {"__slots__": (), "_fields": fields, "_field_defaults": defaults, "__match_args__": fields}
            return super().__new__(cls, name, bases, namespace)

    class Record(metaclass=_RecordType):
        """Base of every record; `_fields`, `_replace`, `_asdict` and `_make` as a named tuple has them."""

        __slots__ = ()
        _fields = ()
        _field_defaults = {}  # noqa: RUF012 - as of a named tuple

        def __new__(cls, *values, **named):
            fields = cls._fields
            if len(values) == len(fields) and not named:
                return tuple.__new__(cls, values)
            if len(values) > len(fields):
                raise TypeError(f"{cls.__name__} has {len(fields)} fields, and {len(values)} were given")
            placed = dict(zip(fields, values, strict=False))
            twice = placed.keys() & named.keys()
            given = cls._field_defaults | placed | named
            odd = twice or given.keys() - set(fields) or [field for field in fields if field not in given]
            if odd:
                raise TypeError(f"{cls.__name__}: missing, repeated or unknown: {', '.join(sorted(odd))}")
            return tuple.__new__(cls, [given[field] for field in fields])

        @classmethod
        def _make(cls, values):
            return cls(*values)

        def _replace(self, **changes):
            made = [changes.pop(field, value) for field, value in zip(self._fields, self, strict=True)]
            if changes:
                raise ValueError(f"{type(self).__name__} has no field {', '.join(sorted(changes))}")
            return tuple.__new__(type(self), made)

        def _asdict(self):
            return dict(zip(self._fields, self, strict=True))

        def __getnewargs__(self):
            return tuple(self)

        def __repr__(self):
            pairs = (f"{field}={value!r}" for field, value in zip(self._fields, self, strict=True))
            return f"{type(self).__name__}({', '.join(pairs)})"


__all__ = ["Record"]
