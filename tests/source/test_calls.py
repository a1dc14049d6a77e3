"""What a call gives to which argument, held against Python's binding; what a closure reads, against its cells."""

from __future__ import annotations

import ast
import inspect
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tiecheck.source.calls import closed_over, given_to
from tiecheck.source.paths import Reached

WORDS = ("a", "b", "c", "d")
PATHS = {word: Reached(f"layers.{word}.weight", ()) for word in WORDS}


@st.composite
def signatures(draw: st.DrawFn) -> str:
    names = draw(st.permutations(["p=None", "q=None", "r=None"]))
    first, second = sorted(draw(st.tuples(st.integers(0, 3), st.integers(0, 3))))
    only = [*names[:first], "/"] if first else []
    keywords = ["*", *names[second:]] if names[second:] else []
    return ", ".join([*only, *names[first:second], *keywords])


@given(
    signatures(),
    st.lists(st.sampled_from(WORDS), max_size=4),
    st.dictionaries(st.sampled_from("pqr"), st.sampled_from(WORDS)),
)
def test_a_call_gives_what_python_binds(signature: str, placed: list[str], named: dict[str, str]) -> None:
    text = f"def tie({signature}): pass"
    space: dict[str, Any] = {}
    exec(text, space)  # of three names and no code
    try:
        bound = inspect.signature(space["tie"]).bind(*placed, **named).arguments
    except TypeError:
        return  # no such call runs
    call = ast.parse(f"tie({', '.join([*placed, *(f'{k}={v}' for k, v in named.items())])})", mode="eval").body
    function = ast.parse(text).body[0]
    assert isinstance(call, ast.Call)
    assert isinstance(function, ast.FunctionDef)
    found = given_to(function, call, PATHS)
    assert {name: path.path for name, path in found.items() if path} == {n: PATHS[w].path for n, w in bound.items()}
    assert found.keys() == set("pqr")


@given(st.lists(st.sampled_from(WORDS), min_size=1, max_size=6), st.sets(st.sampled_from(WORDS)))
def test_a_closure_reads_what_is_not_its_own(read: list[str], own: set[str]) -> None:
    """A name that the function binds itself, by argument or assignment, is none of those outside."""
    arguments = sorted(own)[::2]
    body = [f"{name} = 1" for name in sorted(own)[1::2]] + [f"use({name}.weight)" for name in read]
    text = f"def inner({', '.join(arguments)}):\n" + "\n".join(f"    {line}" for line in body)
    outer = f"def outer({', '.join(WORDS)}):\n" + "\n".join(
        f"    {line}" for line in [*text.split(chr(10)), "return inner"]
    )
    space: dict[str, Any] = {}
    exec(outer, space)  # of four names and no code
    free = space["outer"](*WORDS).__code__.co_freevars
    names = {word: Reached(word, ()) for word in WORDS}
    assert sorted(closed_over(ast.parse(text).body[0], names)) == [f"{word}.weight" for word in free]
