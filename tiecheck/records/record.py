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

    def _annotated(namespace):
        """Return the names that a class body annotates, in order."""
        if "__annotations__" in namespace:
            return tuple(namespace["__annotations__"])
        try:
            import annotationlib
        except ImportError:  # before Python 3.14 there is no other place
            return ()
        # 3.14 leaves a body without `from __future__ import annotations` a function that makes them (PEP 649).
        annotate = annotationlib.get_annotate_from_class_namespace(namespace)
        if annotate is None:
            return ()
        # As texts nothing is evaluated, so a name that only a type checker imports is no error.
        return tuple(annotationlib.call_annotate_function(annotate, annotationlib.Format.STRING))

    class _RecordType(type):
        """Turns the annotations of a class body into fields."""

        def __new__(cls, name, bases, namespace):
            if not bases:
                return super().__new__(cls, name, (tuple,), namespace)
            fields = _annotated(namespace)
            if not fields:
                raise TypeError(f"{name} is a record without fields")
            defaults = {field: namespace[field] for field in fields if field in namespace}
            for i, field in enumerate(fields):
                namespace[field] = property(itemgetter(i))
            places = {field: i for i, field in enumerate(fields)}
            namespace |= {"__slots__": (), "_fields": fields, "_field_defaults": defaults, "_places": places}
            namespace["__match_args__"] = fields
            return super().__new__(cls, name, bases, namespace)

    class Record(metaclass=_RecordType):
        """Base of every record; `_fields`, `_replace`, `_asdict` and `_make` as a named tuple has them."""

        __slots__ = ()
        _fields = ()
        _field_defaults = {}  # noqa: RUF012 - as of a named tuple
        _places = {}  # noqa: RUF012 - field -> its place

        def __new__(cls, *values, **named):
            fields = cls._fields
            if len(values) == len(fields) and not named:
                return tuple.__new__(cls, values)
            if not values and len(named) == len(fields) and named.keys() == cls._places.keys():
                return tuple.__new__(cls, [named[field] for field in fields])
            try:
                made = [
                    *values,
                    *[named.pop(f) if f in named else cls._field_defaults[f] for f in fields[len(values) :]],
                ]
            except KeyError as error:
                raise TypeError(f"{cls.__name__} is made without {error}") from None
            if named or len(made) > len(fields):
                odd = ", ".join(named) or f"{len(values)} values"
                raise TypeError(f"{cls.__name__}: {odd} given twice, or not among its {len(fields)} fields")
            return tuple.__new__(cls, made)

        @classmethod
        def _make(cls, values):
            return cls(*values)

        def _replace(self, **changes):
            made = list(self)
            places = self._places
            for field, value in changes.items():
                if field not in places:
                    raise ValueError(f"{type(self).__name__} has no field {field}")
                made[places[field]] = value
            return tuple.__new__(type(self), made)

        def _asdict(self):
            return dict(zip(self._fields, self, strict=True))

        def __getnewargs__(self):
            return tuple(self)

        def __repr__(self):
            pairs = (f"{field}={value!r}" for field, value in zip(self._fields, self, strict=True))
            return f"{type(self).__name__}({', '.join(pairs)})"


__all__ = ["Record"]
