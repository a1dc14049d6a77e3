"""The device of a name under a device map, as each library looks it up.

transformers takes a map's keys for patterns and matches them at the beginning of a name, accelerate walks up a name's
dots. The two agree on a map of whole modules, and not on a key that ends within a word.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from tiecheck.facts_placement import Device


def device_word(value: Any) -> Device:
    """A device in torch's words with its number: `0`, `"cuda"` and `torch.device("cuda", 0)` are `cuda:0`."""
    if isinstance(value, int):
        return f"cuda:{value}"
    word = str(value)
    return f"{word}:0" if word in ("cuda", "xpu") else word


def by_transformers(device_map: Mapping[str, Any], name: str) -> Device:
    """What `get_device` of transformers gives (5.23, `integrations/accelerate.py`, `expand_device_map`).

    Its keys make one alternation, those with more dots first and among them the longer ones, which is matched as a
    prefix: `model.embed` has `model.embed_tokens.weight`, and a dot in a key is any character. What no key matches is
    on the device of the empty key, else on the CPU.

    Args:
        device_map: The map as it was given.
        name: A parameter's or buffer's name.

    Raises:
        KeyError: If the map is empty, or a key matched what is no key itself (a dot that stood for another character),
            as the library does.
        re.error: If a key is no pattern, as the library does.
    """
    if not device_map:  # the alternation of no keys matches every name with nothing
        raise KeyError("")
    for key in sorted(device_map, key=lambda k: (k.count("."), len(k)), reverse=True):
        found = re.match(key, name)
        if found:
            return device_word(device_map[found[0]])
    return device_word(device_map.get("", "cpu"))


def by_accelerate(device_map: Mapping[str, Any], name: str) -> Device | None:
    """The device of the longest key that is the name or a module above it; None where there is none.

    accelerate 1.15.0: the walk in `load_checkpoint_in_model`, `_get_param_device` and `check_device_map`.
    """
    keys = keys_above(device_map, name)
    return device_word(device_map[keys[-1]]) if keys else None


def keys_above(device_map: Iterable[str], name: str) -> list[str]:
    """The keys of a map that hold a name, from the outermost in; the name itself may be one."""
    there = set(device_map)
    parts = name.split(".")
    return [key for n in range(len(parts) + 1) if (key := ".".join(parts[:n])) in there]
