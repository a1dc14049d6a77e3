"""The words of a placement: memory sizes, the devices they are for, and devices as a map names them.

They mean what accelerate 1.15 and transformers 5.23 take them for; what those refuse is one sentence here, which says
what to write. Neither library is imported, nor torch.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Mapping
from typing import Any

from tiecheck.errors import UsageError
from tiecheck.records.placement import Device

UNITS = {"gib": 2**30, "mib": 2**20, "kib": 2**10, "gb": 10**9, "mb": 10**6, "kb": 10**3}
"""Units of a memory size, in lower case, with their bytes (accelerate 1.15 `convert_file_size_to_int`)."""

HOLDERS = ("mps", "cpu", "disk")
"""Keys that may be given memory beside the numbers of GPUs (accelerate 1.15 `get_max_memory`)."""

NUMBERED = (
    *("cuda", "xpu", "npu", "mlu", "sdaa", "musa", "hip", "xla"),
    *("mtia", "maia", "privateuseone", "ve", "fpga", "ipu"),
)
"""Kinds of which a machine may have several: those that `torch.device` of torch 2.13 parses, and those that its
extensions for other accelerators register (accelerate 1.15 knows `npu`, `mlu`, `sdaa` and `musa`)."""

SINGLE = ("cpu", "mps", "meta", "hpu")
"""Kinds of which a process sees one: a number behind them changes nothing."""

DISK = "disk"
"""The word for weights left in a file; a map's own, torch has no such device."""

LAST = 127
"""The highest number of a device: torch 2.13 keeps it in a signed byte, and makes `cuda:-24` of `cuda:1000`."""

DEVICES = "; there are numbers of GPUs, cuda:0, cpu, mps, meta, disk and other words of torch's"
"""End of a sentence on a word that is no device."""

SHOWN = 60
"""Characters shown of a value that is wrong."""


def shown_value(value: Any) -> str:
    """Return a value in a message, on one line, without control characters, and cut where it is long."""
    text = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."


def parse_memory(size: Any, place: str = "max_memory") -> int:
    """Return a memory size in bytes: a number of them, or one with a unit (`10GiB`, `512MB`).

    A unit in lower case that ends in `b` means bits for `GB`, `MB` and `KB` (`10Gb` is 1.25 GB), as in accelerate; what
    it fails on, and what is negative or without end, is a `UsageError`.
    """
    try:
        if isinstance(size, bool):
            raise TypeError
        read = _sized if isinstance(size, str) else int if isinstance(size, float) else operator.index
        count = read(size)
    except (TypeError, ValueError, OverflowError) as error:
        units = "GiB, MiB, KiB, GB, MB or KB"
        raise UsageError(
            f"{place}: {shown_value(size)} is no size; write a number and {units}, as 10GiB, or bytes"
        ) from error
    if count < 0:
        raise UsageError(f"{place}: {shown_value(size)} is negative; a device's memory is 0 or more")
    return count


def _sized(text: str) -> int:
    """Return a number with its unit in bytes as accelerate 1.15 reads it, or raise `ValueError`, `OverflowError`."""
    unit = next((unit for unit in UNITS if text.lower().endswith(unit)), None)
    if unit is None:
        raise ValueError(text)
    count = int(float(text[: -len(unit)]) * UNITS[unit])
    return count // 8 if len(unit) == 2 and text.endswith("b") else count


def parse_memories(given: Any, place: str = "--max-memory") -> dict[int | str, int]:
    """Return the memory of some devices in bytes, in their order, keyed as accelerate keys them (a GPU by its number).

    Texts are `DEVICE=SIZE` (`0=10GiB`, `cpu=30GiB`); a mapping is as `max_memory=` of accelerate takes it. A device
    that accelerate takes no memory for, one that comes twice, and nothing at all are a `UsageError`.
    """
    if not isinstance(given, Mapping) and (isinstance(given, (str, bytes)) or not isinstance(given, Iterable)):
        raise UsageError(
            f"{place} must give each device its memory, as {{0: '10GiB', 'cpu': '30GiB'}}, not {shown_value(given)}"
        )
    pairs = list(given.items()) if isinstance(given, Mapping) else [_pair(text, place) for text in given]
    if not pairs:
        raise UsageError(f"{place} gives no device any memory; leave it out to plan with what this machine has")
    memory: dict[int | str, int] = {}
    for device, size in pairs:
        key = _holder(device, place)
        if key in memory:
            raise UsageError(f"{place}: {shown_value(device)} is given memory twice")
        memory[key] = parse_memory(size, f"{place}, {key}" if place.endswith("=") else f"{place} {key}")
    return memory


def _pair(text: Any, place: str) -> tuple[int | str, str]:
    """`DEVICE=SIZE` as its two sides."""
    device, mark, size = text.partition("=") if isinstance(text, str) else ("", "", "")
    if not mark:
        raise UsageError(f"{place}: {shown_value(text)} is not DEVICE=SIZE; write it as 0=10GiB or cpu=30GiB")
    if "=" in size:
        raise UsageError(f"{place}: {shown_value(text)} names several devices; give {place} once for each")
    return number_of(device.strip()), size


def number_of(text: str) -> int | str:
    """Return a device that was written as text: the number of a GPU where it is one, else the text."""
    return int(text) if re.fullmatch("0|[1-9][0-9]{0,8}", text) else text


def _holder(device: Any, place: str) -> int | str:
    """Return a device as accelerate keys memory."""
    if isinstance(device, int) and not isinstance(device, bool) and 0 <= device <= LAST:
        return int(device)
    if isinstance(device, str) and device in HOLDERS:
        return device
    raise UsageError(
        f"{place}: {shown_value(device)} is no device that takes memory; there are a GPU's number, mps, cpu and disk, "
        "as 0=10GiB"
    )


def normal_device(device: Any, place: str = "device_map") -> Device:
    """Return a device in one way of writing it: `0`, `"cuda"` and `torch.device("cuda", 0)` are all `cuda:0`.

    A bare number is a CUDA device here; `devices_of` looks at the whole map. A string of digits is refused: torch 2.13
    raises "Invalid device string: '0'" for it, in accelerate and in transformers alike. What is no device is a
    UsageError.
    """
    if isinstance(device, bool) or not isinstance(device, (int, str)):
        if type(device).__module__.partition(".")[0] != "torch" or type(device).__name__ != "device":
            raise UsageError(f"{place}: {shown_value(device)} is no device{DEVICES}")
    elif isinstance(device, int):
        if not 0 <= device <= LAST:
            raise UsageError(f"{place}: {device} is no device; a GPU's number is 0 to {LAST}")
        return f"cuda:{device}"
    device = str(device)
    if device == DISK:
        return DISK
    kind, mark, number = device.partition(":")
    if (kind not in NUMBERED and kind not in SINGLE) or (mark and not re.fullmatch("0|[1-9][0-9]{0,2}", number)):
        raise UsageError(f"{place}: {shown_value(device)} is no device{DEVICES}")
    if int(number or 0) > LAST:
        raise UsageError(f"{place}: {shown_value(device)} is no device; a device's number is 0 to {LAST}")
    return kind if kind in SINGLE else f"{kind}:{number or 0}"


def devices_of(device_map: Mapping[str, Any], place: str = "device_map") -> dict[str, Device]:
    """Return a map with every device in one way of writing it; what is none is a `UsageError` that names the module.

    A bare number is the accelerator of the machine: where the map names one kind other than CUDA beside it (`xpu:1`),
    it is one of those, otherwise a CUDA device.
    """
    found = {name: normal_device(device, f"{place}, {shown_value(name)}") for name, device in device_map.items()}
    words = {found[name].partition(":")[0] for name, device in device_map.items() if not isinstance(device, int)}
    kinds = words & set(NUMBERED)
    if len(kinds) != 1 or "cuda" in kinds:
        return found
    kind = kinds.pop()
    numbers = {name: f"{kind}:{device}" for name, device in device_map.items() if isinstance(device, int)}
    return found | numbers
