"""The mends of the rules on placement as edits: Python on the map that is given, or the map to load with."""

from __future__ import annotations

from collections.abc import Mapping

from tiecheck.placement.map_lookup import device_word, key_of
from tiecheck.records.edits import Edit, python_edit
from tiecheck.records.placement import Placement, Plan
from tiecheck.wording import SHOWN, size

DeviceMap = Mapping[str, int | str]


def map_edits(placement: Placement) -> tuple[Edit, ...]:
    """Return the way to the map that keeps every tie together: its few keys that differ from a given one, or all."""
    target = placement.proposal.device_map if placement.proposal else {}
    if not target:
        return ()
    given = placement.plans[0].device_map if placement.plans and placement.plans[0].tool == "given" else {}
    own = {key: device_word(device) for key, device in given.items()}
    changed = {key: device for key, device in target.items() if own.get(key) != device_word(device)}
    few = 0 < len(changed) <= SHOWN and own.keys() <= target.keys() and bool(given)
    return (keys_edit(changed) if few else whole_map(target),)


def keys_edit(changed: DeviceMap) -> Edit:
    """Return the way to other devices for some keys of the map."""
    return python_edit("placed", None, *(f"device_map[{key!r}] = {device!r}" for key, device in changed.items()))


def whole_map(device_map: DeviceMap, when: str | None = None) -> Edit:
    """Return the way to load with another map."""
    return python_edit("placed", when, f"device_map = {dict(device_map)!r}")


def together_edit(plan: Plan, names: tuple[str, ...], device: int | str) -> Edit:
    """Return the way to one device for some names, by the keys that place them: a closer one inside of a key fails."""
    keys = (key_of(plan.device_map, name) for name in names)
    changed = {name.rpartition(".")[0] if key is None else key: device for name, key in zip(names, keys, strict=True)}
    return keys_edit(changed) if plan.tool == "given" else whole_map({**plan.device_map, **changed})


def map_words(placement: Placement) -> str:
    """Return what is known of the map that keeps every tie together, or why there is none; empty where nobody tried."""
    proposal = placement.proposal
    if proposal is None:
        return ""
    if not proposal.device_map:
        lacks = f" {size(proposal.lacks)} are missing in max_memory." if proposal.lacks else ""
        return f"No map keeps every tie together: {proposal.reason or 'none fits'}.{lacks}"
    needs = ", ".join(f"{size(nbytes)} on {device}" for device, nbytes in proposal.used.items())
    return f"It keeps every tie together and puts {needs}{f' ({proposal.reason})' if proposal.reason else ''}."


def declare_edit(names: tuple[str, ...], when: str | None = None) -> Edit:
    """Return the way to a class that declares a tie, before it is loaded: `from_pretrained` hears of nothing else."""
    lines = (
        "cls = type(model)",
        f"cls._tied_weights_keys = {{**(cls._tied_weights_keys or {{}}), **{dict.fromkeys(names[:-1], names[-1])!r}}}",
        "model.config.tie_word_embeddings = True",
    )
    return python_edit("declared", when, *lines)
