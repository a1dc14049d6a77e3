"""The device of a name under a device map, as each library looks it up.

transformers looks for a key at the beginning of a name, accelerate walks up a name's dots. The two agree on a map of
whole modules, and not on a key that ends within a word.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Mapping
from functools import cached_property
from typing import Any

from tiecheck.records.placement import Device

Key = int | str
"""A device as accelerate keys it."""


def device_word(value: Any) -> Device:
    """Return a device in torch's words with its number: `0`, `"cuda"` and `torch.device("cuda", 0)` are `cuda:0`."""
    word = str(value)
    if word.isdecimal():
        return f"cuda:{word}"
    return f"{word}:0" if word in ("cuda", "xpu", "npu") else word


def key_of(device_map: Mapping[str, Any], name: str) -> str | None:
    """Return the longest key of a map that is a name or stands above it; None where none does."""
    while name not in device_map:
        if not name:
            return None
        name = name.rpartition(".")[0]
    return name


def device_in(device_map: Mapping[str, Any], name: str) -> Any:
    """Return the device of a name as a map has it, by the longest key that holds it; None where none does."""
    key = key_of(device_map, name)
    return None if key is None else device_map[key]


def transformers_key(name: str, keys: Collection[str]) -> str | None:
    """Return the key of a map that transformers loads a tensor by; None where it finds none.

    transformers 5.23 `expand_device_map` takes a key for the beginning of a name and not for a module, so that
    `layers.1` takes in `layers.10.weight` where no longer key does; of several the one with the most dots counts, and
    of these the longest. (It uses the keys as patterns, so that a dot stands for any character; that is not
    reproduced.)
    """
    found = [name[:end] for end in range(1, len(name) + 1) if name[:end] in keys]
    if found:
        return max(found, key=lambda key: (key.count("."), len(key)))
    return "" if "" in keys else None


class DeviceMap(dict[str, Any]):
    """A map as it was given, and what the lookups need of it, made once."""

    @classmethod
    def of(cls, device_map: Mapping[str, Any]) -> DeviceMap:
        """Return the map itself where it is one already."""
        return device_map if isinstance(device_map, cls) else cls(device_map)

    @cached_property
    def words(self) -> dict[str, Device]:
        """Its devices in torch's words."""
        return {key: device_word(value) for key, value in self.items()}

    @cached_property
    def devices(self) -> frozenset[Device]:
        """Its devices, each once."""
        return frozenset(self.words.values())

    @cached_property
    def main(self) -> Device:
        """The device that runs what is on the CPU or the disk: `dispatch_model` takes the first of the others."""
        return next((device for device in self.words.values() if device not in ("cpu", "disk")), "cpu")

    @cached_property
    def offloaded(self) -> frozenset[Device]:
        """The devices from which a hook fetches weights for a forward pass."""
        return frozenset({"disk"} if self.main in ("cpu", "mps") else {"cpu", "disk"})

    @cached_property
    def disk(self) -> tuple[str, ...]:
        """The keys that go to the disk."""
        return tuple(key for key, device in self.words.items() if device == "disk")

    @cached_property
    def _known(self) -> dict[str, Device | None]:
        return dict(self.words)

    def device_of(self, name: str) -> Device | None:
        """Return what `by_accelerate` says, quickly where many names are asked for: each parent is looked up once."""
        known = self._known
        below = []
        while name not in known and name:
            below.append(name)
            name = name.rpartition(".")[0]
        device = known.get(name)
        for path in below:
            known[path] = device
        return device


def broken_nesting(device_map: Mapping[str, Any], modules: Container[str], *, loaded: bool) -> tuple[str, str] | None:
    """Return two keys, one above the other, over which accelerate's hooks raise; None where there are none.

    accelerate 1.15 `attach_align_device_hook_on_blocks`: a key that is not offloaded places everything below it, and
    raises over what is on meta already. That is what a key above has offloaded, and what a load before (`loaded`) has
    left on the disk. Hooks are for modules alone, and a map of a single device other than `disk` gets none.
    """
    known = DeviceMap.of(device_map)
    if len(known.devices) < 2:  # without hooks, or with one
        return None
    keys = [key for key in known if not key or key in modules]
    own = set(keys)
    for key in keys:
        above = key
        while above:
            above = above.rpartition(".")[0]
            if above not in own:
                continue
            upper, lower = known.words[above], known.words[key]
            offloaded = known.offloaded
            if upper in offloaded and lower not in offloaded:
                return above, key
            if loaded and upper not in offloaded and lower == "disk":
                return above, key
    return None


def by_transformers(device_map: Mapping[str, Any], name: str) -> Device:
    """Return what `get_device` of transformers gives (5.23): the device of its key, else the CPU."""
    known = DeviceMap.of(device_map)
    key = transformers_key(name, known)
    return "cpu" if key is None else known.words[key]


def by_accelerate(device_map: Mapping[str, Any], name: str) -> Device | None:
    """Return the device of the longest key that is the name or a module above it; None where there is none.

    accelerate 1.15.0: the walk in `load_checkpoint_in_model`, `_get_param_device` and `check_device_map`.
    """
    key = key_of(device_map, name)
    return None if key is None else device_word(device_map[key])


def keys_above(device_map: Mapping[str, Any], name: str) -> list[str]:
    """Return the keys of a map that hold a name, from the outermost in; the name itself may be one."""
    parts = name.split(".")
    return [key for n in range(len(parts) + 1) if (key := ".".join(parts[:n])) in device_map]


def splits_a_group(device_map: Mapping[str, Key], groups: Iterable[Iterable[str]]) -> bool:
    """Return whether a map puts members of a group on different devices; one without a device says nothing."""
    return any(len({device_in(device_map, name) for name in group} - {None}) > 1 for group in groups)


def differing_devices(one: Mapping[str, Key], other: Mapping[str, Key]) -> dict[str, tuple[Key, Key]]:
    """Return where two uncleaned maps differ: the finest key of either -> (device in one, in the other)."""
    keys = one.keys() | other.keys()
    coarse = {key[:end] for key in keys for end, letter in enumerate(key) if letter == "." or not end}
    found: dict[str, tuple[Key, Key]] = {}
    for key in sorted(keys - coarse):
        here, there = device_in(one, key), device_in(other, key)
        if here is not None and there is not None and here != there:
            found[key] = here, there
    return found
