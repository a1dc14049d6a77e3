"""The look at a loaded model: does it keep what a plan promised? accelerate's hooks are looked through.

Nothing is changed. Values are read only to tell copies apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from torch import nn

from tiecheck.guard.errors import kind_text, tying_advice
from tiecheck.live.group_kind import ON_DISK, GroupVerdict, judge_members
from tiecheck.live.member_lookup import Member, look_up
from tiecheck.records.placement import Broken, Promise
from tiecheck.records.words import TIED
from tiecheck.wording import listed

MAP_HELP = "load with device_map=gate.device_map, and let nothing move the model afterwards"
ADVICE = "; where the checkpoint stores two tensors, check it by itself first"
ONE_TENSOR = "one tensor under all of these names"


def broken_promises(model: nn.Module, promises: Iterable[Promise]) -> tuple[Broken, ...]:
    """Return the promises that a loaded model does not keep, dispatched or not, in their order.

    What cannot be told is not among them.
    """
    return tuple(broken for promise in promises for broken in _of(model, promise))


def _of(model: nn.Module, promise: Promise) -> Iterator[Broken]:
    members = [look_up(model, name) for name in promise.names]
    missing = tuple(m.name for m in members if m.tensor is None and not m.computed)
    if missing:
        why = "; ".join(str(m.why) for m in members if m.name in missing)
        yield Broken("missing", missing, ONE_TENSOR, why, "load the class that the plan was made for")
        return
    if any(m.tensor is None for m in members):  # computed or packed: not to be told
        return
    verdict = judge_members(members)
    if _holds(verdict, promise) is False:
        yield _untied(model, members, verdict, promise)
    yield from _elsewhere(members, promise)


def _holds(verdict: GroupVerdict, promise: Promise) -> bool | None:
    """Tell whether a group is one tensor; None where that cannot be told."""
    if verdict.kind in TIED:
        return True
    if verdict.kind == "unknown":
        # accelerate writes a tied tensor to two files: on disk equal bytes are all that can be kept.
        return True if verdict.reason == ON_DISK and set(promise.devices) == {"disk"} else None
    return False


def _untied(model: nn.Module, members: list[Member], verdict: GroupVerdict, promise: Promise) -> Broken:
    apart = " | ".join(listed(part) for part in verdict.parts)
    if len(set(promise.devices)) > 1:
        help_ = "give all of them one device in the map"
    else:
        first = sorted(members, key=lambda member: not isinstance(member.owner, nn.Embedding))
        help_ = f"{tying_advice(model, first, 'parameter')}{ADVICE}"
    return Broken("tie", promise.names, ONE_TENSOR, f"{kind_text(verdict.kind, verdict.reason)} ({apart})", help_)


def _elsewhere(members: Sequence[Member], promise: Promise) -> Iterator[Broken]:
    """Yield the broken promises of members that do not lie where the map put them."""
    wrong: dict[tuple[str, str], list[str]] = {}
    for member, device in zip(members, promise.devices, strict=True):
        place = _place(member)
        if device is not None and place is not None and not same_device(device, place):
            wrong.setdefault((device, place), []).append(member.name)
    for (device, place), names in wrong.items():
        yield Broken("device", tuple(names), f"on {device}", f"on {place}", MAP_HELP)


def _place(member: Member) -> str | None:
    """Return the device of a member's values; None where a hook hides it."""
    if member.tensor is None or (member.offloaded and member.tensor.is_meta):
        return None
    return "disk" if member.on_disk else str(member.tensor.device)


def same_device(promised: str, place: str) -> bool:
    """Tell whether a place is the promised one: a GPU by its number, whatever the accelerator is called.

    A map's number means the machine's own kind of accelerator (`xpu:0`, `npu:0`); `mps` has one device.
    """
    if promised == place:
        return True
    kind, _, number = place.partition(":")
    if promised.partition(":")[0] == kind:
        return (promised.partition(":")[2] or "0") == (number or "0")
    return promised.startswith("cuda:") and kind not in {"cpu", "meta", "disk", "mps"} and promised[5:] == number
