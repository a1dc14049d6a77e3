"""What an allowed name of a pickle can be called with, against the object of that name itself."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tiecheck.files.pickle.records import ALLOWED, Global
from tiecheck.files.pickle.unpickling import can_be_called, can_make


def named(name: str) -> Any:
    module, _, last = name.rpartition(".")
    try:
        return getattr(import_module(module), last)
    except (ImportError, AttributeError):
        return None


REAL = {name: found for name in sorted(ALLOWED) if (found := named(name)) is not None}


@pytest.mark.parametrize("name", REAL)
def test_a_class_is_told_from_a_function(name: str) -> None:
    function = Global(*name.rpartition(".")[::2])
    if name.startswith(("torch._utils.", "torch._tensor.", "torch.serialization.", "_codecs.")):
        assert not inspect.isclass(REAL[name])
        assert not can_make(function)
    else:
        assert can_make(function)


PLAIN = ("collections.OrderedDict", "builtins.set", "builtins.complex", "builtins.bytearray", "torch.Size")
VALUES = st.one_of(
    st.integers(0, 9), st.text("ab", max_size=2), st.none(), st.lists(st.integers(0, 9), max_size=2).map(tuple)
)


@settings(max_examples=400, deadline=None)
@given(name=st.sampled_from(PLAIN), args=st.lists(VALUES, max_size=3).map(tuple))
def test_what_is_refused_is_refused_by_the_name_itself(name: str, args: tuple[Any, ...]) -> None:
    if can_be_called(Global(*name.rpartition(".")[::2]), args):
        return
    whole = isinstance(args[0], str) if args else False  # torch takes such a text, and no pickle of it has one
    if not whole:
        with pytest.raises((TypeError, ValueError)):
            REAL[name](*args)
