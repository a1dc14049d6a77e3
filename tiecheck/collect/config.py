"""`config.json`: the parsed object, and each tie flag with its line, so that a finding can point at it."""

from __future__ import annotations

import os

from tiecheck.collect.files import inside, parse_json, read_bytes
from tiecheck.errors import TargetError
from tiecheck.facts import Flag, ModelConfig

CONFIG_NAME = "config.json"

FLAG_KEYS = ("tie_word_embeddings", "weight_tying")
"""Keys that say whether the head is tied: transformers' (every version), and OLMo's own (`hf_olmo`, ai2-olmo 0.2)."""


def read_config(root: str) -> ModelConfig | None:
    """The config of a model directory; None where it has none.

    Args:
        root: The model directory.

    Raises:
        TargetError: The file is there and is not a JSON object.
    """
    if not os.path.lexists(os.path.join(root, CONFIG_NAME)):
        return None
    path = inside(root, CONFIG_NAME)
    raw = read_bytes(path, path)
    data = parse_json(raw, path, path)
    if not isinstance(data, dict):
        kind = {list: "a list", str: "a string", type(None): "null"}.get(type(data), "a number or a truth value")
        raise TargetError(f"{path} holds {kind}, not the JSON object a config is", path)
    return ModelConfig(CONFIG_NAME, data, _find_flags(raw))


def _find_flags(raw: bytes) -> tuple[Flag, ...]:
    """Every tie flag with its level, line and column; a repeated key counts where it stands last, as in JSON."""
    if not any(key.encode() in raw for key in FLAG_KEYS):
        return ()
    text = raw.decode("utf-8-sig", "replace")
    found: dict[tuple[str, ...], Flag] = {}
    for path, start, value in _walk_keys(text):
        if path[-1] in FLAG_KEYS:
            line = text.count("\n", 0, start) + 1
            column = start - text.rfind("\n", 0, start)
            found.pop(path, None)
            found[path] = Flag(path[-1], path[:-1], value, line, column)
    return tuple(found.values())


def _walk_keys(text: str) -> list[tuple[tuple[str, ...], int, object]]:
    """Each key of a valid JSON text: its path, its position, and its value where that is a plain word.

    One pass over the tokens and no recursion. Keys of objects inside lists are left out: no config keeps a
    flag there.
    """
    import json
    import re

    token = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]:,]|[^\s{}\[\]:,"]+')
    levels: list[str | None] = []  # one entry an open bracket: the key it is the value of, None inside a list
    key: str | None = None
    key_at = 0
    last = ""
    last_at = 0
    found: list[tuple[tuple[str, ...], int, object]] = []
    words = {"true": True, "false": False, "null": None}
    for match in token.finditer(text):
        word = match.group()
        if word == ":":
            key, key_at = json.loads(last), last_at
        elif word in "{[":
            levels.append(None if word == "[" else key or "")
            key = None
        elif word in "}]":
            levels.pop()
            key = None
        elif word == ",":
            key = None
        elif key is not None and None not in levels:
            value: object = words.get(word, word)
            found.append(((*(level for level in levels[1:] if level), key), key_at, value))
        last, last_at = word, match.start()
    return found
