"""Checks that a given device map fits a model: every tensor has a device, every key is known, every device has room.

It is held against accelerate 1.15 `check_device_map`, which `dispatch_model` calls, and transformers 5.23
`expand_device_map`, which says where a tensor is loaded to.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Container, Iterable, Iterator, Mapping
from typing import Any, Literal

from tiecheck.errors import UsageError, near_words
from tiecheck.placement.asked.memory import DISK, NUMBERED, devices_of, shown_value
from tiecheck.placement.map_lookup import broken_nesting, transformers_key
from tiecheck.records.placement import Device
from tiecheck.wording import counted, pronoun_for, size

LISTED = 4
"""Names listed in a message."""

WARNS = "accelerate 1.15 warns that such keys do not match any submodules"


def check_map(  # noqa: PLR0913  # what a model is made of, and who asks
    device_map: Mapping[str, int | str],
    names: Iterable[str],
    modules: Collection[str],
    alias_paths: Mapping[str, str],
    *,
    loader: Literal["accelerate", "transformers"] = "accelerate",
    place: str = "device_map",
) -> tuple[str, ...]:
    """Return what is odd about a map and stops nobody, in words, as the loaders look for a place for every tensor.

    accelerate 1.15 `check_device_map` raises where a name of the state dict stands under no key, and warns of a key
    that `named_modules()` does not list. So it wants the other path of an aliased module in the map, and warns of it.
    transformers 5.23 comes to that check only where the map has two different devices, or `disk`; else it puts on the
    CPU what stands under no key. `names` are those of the state dict with those of aliases, `modules` each module's
    first path, `alias_paths` the other paths. Where the loader would raise for a name without a device, so does this.
    """
    names = tuple(names)
    values = set(device_map.values())
    checked = loader == "accelerate" or len(values) > 1 or DISK in values
    remarks = [
        f"{place} names {text}"
        for text in _odd_keys(device_map, set(modules), alias_paths, set(names))
        if checked or WARNS not in text
    ]
    if loader == "transformers":
        remarks += [f"{place}: {text}" for text in _taken(device_map, names)]
    lacking = [] if "" in device_map else [name for name in names if device_map.keys().isdisjoint(paths_above(name))]
    if not lacking:
        return tuple(remarks)
    count = counted(len(lacking), "tensor")
    held = f"{place} gives no device to {_listed(_modules_of(lacking, set(names).difference(lacking)), alias_paths)}"
    if checked:
        raise UsageError(f"{held} ({count}): add a key for each; accelerate 1.15 raises ValueError")
    return (*remarks, f"{held} ({count}): transformers 5.23 puts {pronoun_for(tuple(lacking))} on the CPU")


def check_nesting(device_map: Mapping[str, Any], modules: Container[str], *, loaded: bool, place: str) -> None:
    """Raise a `UsageError` for keys below others over which accelerate's hooks raise; see `broken_nesting`."""
    found = broken_nesting(device_map, modules, loaded=loaded)
    if found is not None:
        above, below = found
        raise UsageError(
            f"{place} is an impossible map: {shown_value(below)} on {device_map[below]} stands below "
            f"{shown_value(above)} on "
            f"{device_map[above]}, and accelerate 1.15 raises ValueError (weight is on the meta device); give the "
            f"other modules below {shown_value(above)} keys of their own instead of it"
        )


def check_disk(device_map: Mapping[str, Any], form: str | None, place: str) -> None:
    """Raise a `UsageError` where accelerate 1.15 cannot leave everything on the disk.

    A checkpoint that it loads has a form, and safetensors are opened on a device; `dispatch_model` writes the disk
    itself, has none, and no weights to write for the empty key.
    """
    if set(device_map.values()) != {DISK}:
        return
    if form is None and "" in device_map:
        raise UsageError(
            f"{place} is an impossible map: accelerate 1.15 writes nothing for '' on disk, and raises "
            "FileNotFoundError; give each child of the model a key of its own"
        )
    if form == "safetensors":
        raise UsageError(
            f"{place} is an impossible map: with everything on disk accelerate 1.15 raises SafetensorError (device "
            "disk is invalid); put one module on the cpu, or load with from_pretrained"
        )


def check_patterns(device_map: Mapping[str, Any], names: Collection[str], place: str) -> None:
    """Raise a `UsageError` for keys that transformers 5.23, which takes them for patterns, fails on."""
    for key in device_map:
        try:
            begin = key if any(name.startswith(key) for name in names) else None
            taken = begin or next((found[0] for name in names if (found := re.match(key, name))), key)
        except re.error as error:
            raise UsageError(f"{place} has a key that is no pattern, as transformers 5.23 reads it: {error}") from error
        if taken not in device_map:
            raise UsageError(
                f"{place}: transformers 5.23 takes keys for patterns; {shown_value(key)} matches {shown_value(taken)}, "
                "which is no key: it raises KeyError"
            )


def warned_keys(
    device_map: Mapping[str, Any], known: set[str], *, loader: Literal["accelerate", "transformers"]
) -> tuple[str, ...]:
    """Return what accelerate 1.15 `check_device_map` warns of a map, as it words it; nothing where it is not asked.

    The keys that are known are left out: of modules, and of tensors, which it warns of for nothing.
    """
    odd = [key for key in device_map if key and key not in known]
    values = set(device_map.values())
    asked = loader == "accelerate" or len(values) > 1 or DISK in values
    return (f"The following device_map keys do not match any submodules in the model: {odd}",) if odd and asked else ()


def paths_above(name: str) -> list[str]:
    """Return a name, and every module that it stands in, the highest first; the root is left out."""
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts) + 1)]


def _modules_of(lacking: list[str], covered: set[str]) -> list[str]:
    """Return the highest modules none of whose tensors has a device."""
    partly = {path for name in covered for path in paths_above(name)}
    return list(
        dict.fromkeys(next((path for path in paths_above(name) if path not in partly), name) for name in lacking)
    )


def _real(path: str, alias_paths: Mapping[str, str]) -> str | None:
    """Return the first path of a module that is named by another one; None where it is named by no alias."""
    for head in reversed(paths_above(path)):
        if head in alias_paths:
            return alias_paths[head] + path[len(head) :]
    return None


def _listed(paths: list[str], alias_paths: Mapping[str, str]) -> str:
    """Return some paths in words, aliases with what they are."""
    words = [
        shown_value(path)
        + (f" (the module {shown_value(real)} by another path)" if (real := _real(path, alias_paths)) else "")
        for path in paths[:LISTED]
    ]
    rest = len(paths) - len(words)
    return ", ".join(words) + (f" and {rest:,} more" if rest else "")


def _odd_keys(
    device_map: Mapping[str, Any], modules: set[str], alias_paths: Mapping[str, str], names: set[str]
) -> Iterator[str]:
    """Yield what is to be said of keys that `named_modules()` does not list, a remark a kind."""
    kinds: dict[str, list[str]] = {"alias": [], "tensor": [], "nothing": []}
    for key in device_map:
        if key and key not in modules:
            kinds["alias" if _real(key, alias_paths) else "tensor" if key in names else "nothing"].append(key)
    if kinds["alias"]:
        yield f"{_listed(kinds['alias'], alias_paths)}: {WARNS}, and wants them all the same"
    if kinds["tensor"]:
        yield f"{_listed(kinds['tensor'], {})}, of tensors and not of modules: {WARNS}, and follows them"
    if kinds["nothing"]:
        near = _nearest(kinds["nothing"][0], modules | alias_paths.keys())
        hint = f" (for {shown_value(kinds['nothing'][0])}, did you mean {shown_value(near)}?)" if near else ""
        yield f"{_listed(kinds['nothing'], {})}, which the model does not have{hint}"


def _nearest(key: str, paths: set[str]) -> str | None:
    """Return the module that was meant by a key: one that ends in it, or the same with its first wrong part mended."""
    ends = min((path for path in paths if path.endswith(f".{key}")), default=None)
    if ends is not None:
        return ends
    parts = key.split(".")
    right = next(i for i in range(len(parts)) if ".".join(parts[: i + 1]) not in paths)
    head = "".join(f"{part}." for part in parts[:right])
    beside = {path[len(head) :] for path in paths if path.startswith(head) and "." not in path[len(head) :]}
    near = near_words(parts[right], sorted(beside))
    if not near:
        return None
    whole = ".".join([head + near[0], *parts[right + 1 :]])
    return whole if whole in paths else head + near[0]


def _taken(device_map: Mapping[str, Any], names: Collection[str]) -> Iterator[str]:
    """Tensors that transformers would load to the device of another module."""
    taken: dict[str, list[str]] = {}
    for name in names:
        key = transformers_key(name, device_map.keys())
        own = next((path for path in reversed(paths_above(name)) if path in device_map), "")
        if key is not None and key not in paths_above(name) and key and device_map[key] != device_map.get(own):
            taken.setdefault(key, []).append(name)
    for key, held in taken.items():
        modules = _modules_of(held, set(names).difference(held))
        yield (
            f"transformers 5.23 takes the key {shown_value(key)} for the beginning of names, and loads "
            f"{_listed(modules, {})} to {device_map[key]} as well; give each a key"
        )


def check_room(used: Mapping[Device, int], memory: Mapping[int | str, int] | None, place: str = "device_map") -> None:
    """Raise a `UsageError` with each device on which a map puts more bytes than the memory gives, if it names it."""
    room = dict(zip(memory_devices(memory or {}, used), (memory or {}).values(), strict=True))
    over = [f"{device} gets {_against(used[device], has)}" for device, has in room.items() if used.get(device, 0) > has]
    if over:
        raise UsageError(f"{place} is an impossible map: {', '.join(over)}")


def memory_devices(memory: Iterable[int | str], used: Iterable[Device]) -> list[Device]:
    """Return the keys of a memory as devices, in their order; a number is the kind of accelerator that plans use."""
    keyed: dict[str, int | str] = {f"key {i}": key for i, key in enumerate(memory)}
    kinds = {device: device for device in used if device.partition(":")[0] in NUMBERED}
    return list(devices_of(keyed | kinds).values())[: len(keyed)]


def _against(used: int, room: int) -> str:
    """Return what a device gets and what it has; in bytes where the words for both are the same."""
    gets, has = size(used), size(room)
    if gets.replace(".00 ", " ").replace(".0 ", " ") == has.replace(".00 ", " ").replace(".0 ", " "):
        return f"{used:,} bytes and has {room:,}"
    return f"{gets} and has {has}"
