"""`config.json`: the parsed object, and each tie flag with its line, so that a finding can point at it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

from tiecheck.errors import TargetError
from tiecheck.files.limits import CONFIG_BYTES, made_once
from tiecheck.files.local import parse_json, path_inside, read_bytes
from tiecheck.records.declared import VENDOR_FLAG, Flag, ModelConfig
from tiecheck.tables.architectures import class_rows

CONFIG_NAME = "config.json"
VENDOR_NAME = "params.json"
"""The config beside the `consolidated` files of Mistral and Meta; Mistral's flag is `tied_embeddings`."""

FLAG_LIMIT = 10_000
"""Tie flags in one config; the largest composed configs have some twenty."""

FLAG_KEYS = ("tie_word_embeddings", "weight_tying", "tie_embedding", "tie_codebooks_embeddings", VENDOR_FLAG)
"""Keys that say whether something is tied: transformers' (every version), OLMo's own (`hf_olmo`, ai2-olmo 0.2), and
those that lfm2 and csm read instead (transformers 4.57 and 5.23)."""


def read_config(root: str) -> ModelConfig | None:
    """Return the config of a model directory; None where it has none."""
    name = next((n for n in (CONFIG_NAME, VENDOR_NAME) if os.path.lexists(os.path.join(root, n))), None)
    if name is None:
        return None
    path = path_inside(root, name)
    raw = read_bytes(path, path, CONFIG_BYTES)
    return made_once(("config", raw), lambda: parse_config(raw, path)._replace(path=name))


def parse_config(raw: bytes, path: str) -> ModelConfig:
    """Return a config by its text, wherever that came from; messages call it by a path."""
    data = parse_json(raw, path, path)
    if not isinstance(data, dict):
        kind = {list: "a list", str: "a string", type(None): "null"}.get(type(data), "a number or a truth value")
        raise TargetError(f"{path} holds {kind}, not the JSON object a config is", path)
    levels = [data]
    for level in levels:
        for key, value in level.items():
            if isinstance(value, dict):
                levels.append(value)
            elif type(value) is int and value.bit_length() > 1023:
                raise TargetError(
                    f"{path} gives `{key}` a number of more than 300 digits, which no model can use", path
                )
    config = ModelConfig(CONFIG_NAME, data, _find_flags(raw, data))
    written, model_type = config.written_class, config.model_type
    if written is None or model_type is None or config.remote_code or class_rows(written):
        return config
    from tiecheck.tables.class_names import meant_class

    return config._replace(meant=meant_class(written, model_type))


def _find_flags(raw: bytes, data: Mapping[str, Any]) -> tuple[Flag, ...]:
    """Return every tie flag with its level, value, line and column, in the order of the file.

    The parsed object says which flags there are: of a repeated key, or a repeated level, the last one counts.
    """
    if not any(key.encode() in raw for key in FLAG_KEYS) and b"\\u" not in raw:
        return ()
    text = raw.decode("utf-8")
    found: dict[tuple[str, ...], Flag] = {}
    line, line_start, last = 1, 0, 0
    for count, (path, start) in enumerate(_flat_keys(text, data) or _walk_keys(text)):
        if count == FLAG_LIMIT:
            raise TargetError(f"{CONFIG_NAME} names its tie flags more than {FLAG_LIMIT:,} times; it is broken")
        line += text.count("\n", last, start)
        line_start = text.rfind("\n", last, start) + 1 or line_start
        last = start
        level: Any = data
        for key in path[:-1]:
            level = level.get(key) if isinstance(level, dict) else None
        if isinstance(level, dict) and path[-1] in level:
            found.pop(path, None)
            found[path] = Flag(path[-1], path[:-1], level[path[-1]], line, start - line_start + 1)
    return tuple(found.values())


def _flat_keys(text: str, data: Mapping[str, Any]) -> list[tuple[tuple[str, ...], int]]:
    """Return the same as `_walk_keys`, where all flags stand at the top and each is spelt once; else nothing."""
    flat = "\\" not in text and all(text.count(f'"{key}"') == (key in data) for key in FLAG_KEYS)
    found = [((key,), text.index(f'"{key}"')) for key in FLAG_KEYS if flat and key in data]
    return sorted(found, key=lambda flag: flag[1])


def _walk_keys(text: str) -> Iterator[tuple[tuple[str, ...], int]]:
    """Give the path and position of each tie flag in a valid JSON text.

    One pass over the tokens and no recursion. Keys of objects inside lists are left out: no config keeps a
    flag there.
    """
    import re

    token = re.compile(r'"(?:[^"\\]++|\\.)*+"|[{}\[\]:,]|[^\s{}\[\]:,"]++')
    levels: list[str | None] = []  # one entry an open bracket: the key it is the value of, None for a list
    lists = 0
    key: str | None = None
    last, last_at = "", 0
    for match in token.finditer(text):
        word = match.group()
        if word == ":":
            key = json.loads(last) if "\\" in last else last[1:-1]
            if key in FLAG_KEYS and not lists:
                yield (*(level or "" for level in levels[1:]), key), last_at
        elif word in "{[":
            lists += word == "["
            levels.append(None if word == "[" else key or "")
            key = None
        elif word in "}]":
            lists -= word == "]"
            levels.pop()
        last, last_at = word, match.start()
