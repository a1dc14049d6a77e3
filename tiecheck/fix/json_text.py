"""Changes within a JSON text that leave everything else as it stands: spaces, order of keys, indent."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from tiecheck.errors import TargetError
from tiecheck.files.local import parse_json, path_inside, read_bytes

_SPACE = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder()


class _Member(NamedTuple):
    lead: str
    """White space before the key."""
    key: str
    colon: str
    value: str
    tail: str
    """White space between the value and the comma or the brace."""


def read_json_text(root: str, name: str) -> str:
    """Return the text of a JSON file of a directory, or raise a `TargetError` where it is none."""
    path = path_inside(root, name)
    raw = read_bytes(path, path)
    parse_json(raw, path, path)
    return raw.decode("utf-8")


def changed_object(
    text: str,
    path: tuple[str, ...],
    *,
    put: Mapping[str, Any] | None = None,
    drop: Collection[str] = (),
    rename: Mapping[str, str] | None = None,
) -> str:
    """Return a valid JSON text with changes to the members of one of its objects, to which a path of keys leads.

    `put` has keys with values to write, `drop` keys to remove, `rename` old keys with new ones for the same place. A
    new key goes to its place where the keys are sorted, else to the end, and is written like its neighbours. Where
    there is no such object, or a key on the way or to be changed stands there twice, a `TargetError` says so.
    """
    start = _past(text, 0)
    for depth, key in enumerate(path):
        there = [at for at, member in _members(text, start) if json.loads(member.key) == key]
        if len(there) != 1 or text[there[0]] != "{":
            raise TargetError(f"{'.'.join(path[: depth + 1])} is not there once as an object, and is not changed")
        start = there[0]
    end = _DECODER.raw_decode(text, start)[1]
    members = [member for _, member in _members(text, start)]
    return text[:start] + _written(members, put or {}, drop, rename or {}) + text[end:]


def _past(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def _members(text: str, start: int) -> list[tuple[int, _Member]]:
    """Return the members of the object at a position, each with the position of its value."""
    at = _past(text, start) + 1
    found: list[tuple[int, _Member]] = []
    while True:
        key_at = _past(text, at)
        if text[key_at] == "}":
            return found
        key_end = _DECODER.raw_decode(text, key_at)[1]
        value_at = _past(text, _past(text, key_end) + 1)
        value_end = _DECODER.raw_decode(text, value_at)[1]
        after = _past(text, value_end)
        parts = (text[at:key_at], text[key_at:key_end], text[key_end:value_at], text[value_at:value_end])
        found.append((value_at, _Member(*parts, text[value_end:after])))
        if text[after] == "}":
            return found
        at = after + 1


def _written(members: list[_Member], put: Mapping[str, Any], drop: Collection[str], rename: Mapping[str, str]) -> str:
    """Return the text of an object with changed members."""
    names = [json.loads(member.key) for member in members]
    if len(names) != len(set(names)):
        twice = next(name for name in (*names, "") if names.count(name) != 1)
        raise TargetError(f"the key {twice!r} stands there twice, and is not changed")
    if not members:
        return "{" + ", ".join(f"{_told(key)}: {_told(value)}" for key, value in put.items()) + "}"
    lead, tail, like = members[0].lead, members[-1].tail, members[-1]
    between = like.lead if len(members) > 1 else lead or " "
    made: list[tuple[str, _Member]] = []
    for name, member in zip(names, members, strict=True):
        if name in rename:
            made.append((rename[name], member._replace(key=_told(rename[name]))))
        elif name in put:
            made.append((name, member._replace(value=_told(put[name]))))
        elif name not in drop:
            made.append((name, member))
    ordered = names == sorted(names)
    for key in [key for key in put if key not in names]:
        place = sum(name < key for name, _ in made) if ordered else len(made)
        made.insert(place, (key, _Member(between, _told(key), like.colon, _told(put[key]), "")))
    pieces = [
        (lead if i == 0 else member.lead or between) + member.key + member.colon + member.value
        for i, (_, member) in enumerate(made)
    ]
    return "{" + ",".join(pieces) + tail + "}"


def _told(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
