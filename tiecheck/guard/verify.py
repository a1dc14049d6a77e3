"""The look at a loaded model: does it keep what a plan promised? accelerate's hooks are looked through.

Nothing is changed. Values are read only to tell copies apart, and a few rows where a checkpoint is to be compared with.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from tiecheck.errors import TiecheckError
from tiecheck.guard.errors import kind_text, tying_advice
from tiecheck.live import torch_adapter
from tiecheck.live.group_kind import ON_DISK, GroupVerdict, judge_members
from tiecheck.live.member_lookup import Member, look_up
from tiecheck.records.placement import Broken, Promise
from tiecheck.records.stored import Checkpoint
from tiecheck.records.words import TIED
from tiecheck.wording import listed

MAP_HELP = "load with device_map=gate.device_map, and let nothing move the model afterwards"
ONE_TENSOR = "one tensor under all of these names"
VALUES_HELP = (
    "build the model on the meta device before its checkpoint is loaded, or load with device_map=None; accelerate's "
    "load_checkpoint_in_model takes the old value of another member for the group's"
)

ROWS = 32
"""Rows that are compared at each end of a tensor."""

FLOATS = frozenset({torch.float64, torch.float32, torch.bfloat16, torch.float16})
"""Element types between which a load only casts."""


def broken_promises(model: nn.Module, promises: Iterable[Promise], stored: StoredRows | None) -> tuple[Broken, ...]:
    """Return the promises that a loaded model does not keep, dispatched or not, in their order.

    What cannot be told is not among them; values are held against the checkpoint where there is one.
    """
    return tuple(broken for promise in promises for broken in _of(model, promise, stored))


def _of(model: nn.Module, promise: Promise, stored: StoredRows | None) -> Iterator[Broken]:
    members = [look_up(model, name) for name in promise.names]
    missing = tuple(m.name for m in members if m.tensor is None and not m.computed)
    if missing:
        why = "; ".join(str(m.why) for m in members if m.name in missing)
        yield Broken("missing", missing, ONE_TENSOR, why, "load the class that the plan was made for")
        return
    if any(m.tensor is None for m in members):  # computed or packed: not to be told
        return
    verdict = judge_members(members)
    held = _holds(verdict, promise)
    if held is False:
        yield _untied(model, members, verdict, promise, stored)
    yield from _elsewhere(members, promise)
    yield from _other_look(members, promise)
    if held is True and stored is not None:
        rows = stored.differ(promise.names, members[0].tensor)
        if rows is not None:
            names = f"what the checkpoint stores as {listed(rows)}"
            yield Broken("values", promise.names, names, "other values, of before the load", VALUES_HELP)


def _holds(verdict: GroupVerdict, promise: Promise) -> bool | None:
    """Tell whether a group is one tensor; None where that cannot be told."""
    if verdict.kind in TIED:
        return True
    if verdict.kind == "unknown":
        # accelerate writes a tied tensor to two files: on disk equal bytes are all that can be kept.
        return True if verdict.reason == ON_DISK and set(promise.devices) == {"disk"} else None
    return False


def _untied(
    model: nn.Module, members: list[Member], verdict: GroupVerdict, promise: Promise, stored: StoredRows | None
) -> Broken:
    apart = " | ".join(listed(part) for part in verdict.parts)
    there = stored.of(promise.names) if stored is not None else ()
    if len(set(promise.devices)) > 1:
        help_ = "give all of them one device in the map"
    elif len(there) > 1:
        help_ = f"the checkpoint stores {listed(there)}: check it by itself to see which is right, and store that one"
    else:
        first = sorted(members, key=lambda member: not isinstance(member.owner, nn.Embedding))
        help_ = tying_advice(model, first, "parameter")
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


def _other_look(members: Sequence[Member], promise: Promise) -> Iterator[Broken]:
    """Yield the broken promises of members of another element type, shape or size."""
    for member in members:
        tensor = member.tensor
        if not isinstance(tensor, Tensor):
            continue
        dtype, shape = str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape)
        if promise.shape is not None and shape != promise.shape:
            help_ = "load the config that the plan was made for; quantisation and resizing change shapes"
            yield Broken("shape", (member.name,), f"of shape {list(promise.shape)}", f"of shape {list(shape)}", help_)
        if promise.dtype is not None and dtype != promise.dtype:
            help_ = f"load with dtype={promise.dtype!r}"
            yield Broken("dtype", (member.name,), f"as {promise.dtype}", f"as {dtype}", help_)
        elif promise.dtype is None and promise.nbytes is not None and tensor.nbytes > promise.nbytes:
            help_ = f"give the gate the dtype of the load: dtype={dtype!r}"
            promised, what = f"{promise.nbytes:,} bytes", f"{tensor.nbytes:,} bytes ({dtype})"
            yield Broken("dtype", (member.name,), promised, what, help_)


class StoredRows:
    """A few rows of the tensors of a local safetensors checkpoint, to hold loaded ones against."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint

    @classmethod
    def at(cls, path: str) -> StoredRows | None:
        """Open the checkpoint at a path; None where there is no local safetensors file that can be read."""
        from tiecheck.files.checkpoint import read_checkpoint

        if not os.path.exists(path):
            return None
        try:
            checkpoint = read_checkpoint(path)
        except TiecheckError:
            return None
        return cls(checkpoint) if checkpoint is not None and checkpoint.format == "safetensors" else None

    def of(self, names: Sequence[str]) -> tuple[str, ...]:
        """Return those of some names that it stores."""
        return tuple(name for name in names if name in self._checkpoint)

    def differ(self, names: Sequence[str], loaded: Tensor | None) -> tuple[str, ...] | None:
        """Return the stored members of a group, where a loaded tensor has the values of none of them.

        None where they cannot be compared: none is stored under its own name, another shape, quantised values, no
        values.
        """
        if loaded is None or type(loaded) not in torch_adapter.PLAIN:  # a quantised one shows a dtype it has not
            return None
        if loaded.is_meta or loaded.dtype not in FLOATS or loaded.dim() == 0:
            return None
        compared = []
        for name in names:
            ends = self._ends(name)
            if ends is None:
                continue
            shape, dtype, pieces = ends
            if shape != tuple(loaded.shape) or dtype not in FLOATS:
                return None
            if all(map(_equal, pieces, (loaded[:ROWS], loaded[-ROWS:]))):
                return None
            compared.append(name)
        return tuple(compared) or None

    def _ends(self, name: str) -> tuple[tuple[int, ...], torch.dtype, tuple[Tensor, Tensor]] | None:
        """Read shape, element type, and the first and last rows of a stored tensor."""
        from safetensors import safe_open

        stored = self._checkpoint.tensor(name)
        if stored is None or not stored.shape:
            return None
        try:
            with safe_open(os.path.join(self._checkpoint.root, stored.file), framework="pt") as opened:
                rows = opened.get_slice(name)
                first, last = rows[:ROWS], rows[max(0, stored.shape[0] - ROWS) :]
        except Exception:  # noqa: BLE001  # a file that is gone or broken: nothing to compare with
            return None
        return stored.shape, first.dtype, (first, last)


def _equal(stored: Tensor, loaded: Tensor) -> bool:
    """Tell whether stored rows, cast as a load casts them, are the loaded ones."""
    return torch_adapter.equal_bytes(stored.to(loaded.dtype).contiguous(), loaded.detach().cpu().contiguous())
