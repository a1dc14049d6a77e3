"""TIE510 and 511: what loading under a device map does to a tie group, where that is not what was meant."""

from __future__ import annotations

from collections.abc import Iterator

from tiecheck.records.edits import Edit, copy_steps
from tiecheck.records.placement import PlacedLoad, Placement
from tiecheck.records.report import Location
from tiecheck.records.words import Unknown
from tiecheck.rules.base import Case, Draft, Rule
from tiecheck.rules.placement.plans import (
    declare_edit,
    device_key,
    map_edits,
    map_words,
    placed_load,
    plain_placement,
    together_edit,
)
from tiecheck.wording import listed


class LoadOverwritesTie(Rule):
    """Loading under a device map puts the module's old values in the place of the loaded ones.

    ## What it does
    Finds tie groups of which `load_checkpoint_in_model` (and `load_checkpoint_and_dispatch`) of accelerate reads the
    weight from the checkpoint, and then throws it away for the value that the module had before, under the map in
    question.

    ## Why it is bad
    Nothing is raised or logged, and the embedding and the head are random. With a map, accelerate sets each stored
    tensor as a new Parameter, which breaks the tie. Then it ties the group again, to the name that comes first in the
    alphabet and is not on the meta device. Where the checkpoint does not store that name, its values are those of
    before the load: `lm_head.weight` comes before `transformer.wte.weight`. The model runs, and writes noise.
    accelerate 0.18.0 to 1.15.0 does so (since huggingface/accelerate#1204).

    ## How to fix it
    One of these, before the load; `tie_weights()` after it is too late, since the loaded values are gone.

    - Build the model under `init_empty_weights()`, and call `tie_weights()`: that context gives each name a Parameter
      of its own. `torch.device("meta")` keeps the tie, but leaves buffers on meta that no checkpoint stores, as those
      of rotary embeddings.
    - Load without `device_map`, which writes in place.
    - Store the first name in the checkpoint as well.
    """

    code = "TIE510"
    name = "load-overwrites-tied-weight"
    summary = "a load under a device map replaces the loaded weight by the random one"
    severity = "error"

    def check(self, placement: Placement) -> Iterator[Draft | Unknown]:
        for load in placement.loads:
            if load.form == "overwrites":
                yield _overwritten(load, placement.origin)

    @staticmethod
    def cases() -> Iterator[Case]:
        lost = placed_load("overwrites")
        yield Case("only the embedding is stored", {"placement": plain_placement(loads=(lost,))}, finds=("error",))
        three = lost._replace(
            names=("a.weight", "b.weight", "c.weight"), stored=("b.weight", "c.weight"), devices=("cpu",) * 3
        )
        yield Case("three members, two stored", {"placement": plain_placement(loads=(three,))}, finds=("error",))
        raises = placed_load("raises", message="KeyError: 'lm_head.weight'")
        yield Case("a load that raises", {"placement": plain_placement(loads=(raises,))})
        yield Case("nothing goes wrong", {"placement": plain_placement()})


def _overwritten(load: PlacedLoad, origin: str) -> Draft:
    """Return what is lost, to which name, and how not to."""
    first = next((name for name in load.names if name not in load.stored), load.names[0])
    return Draft(
        f"{load.function} would read {listed(load.stored)} from the checkpoint and lose it: accelerate ties the group "
        f"again to {first}, the alphabetically first name that is not on meta, which is not stored and still has the "
        f"values from before. All of {listed(load.names)} would be those, and nothing is logged.",
        load.names,
        _places(load, origin),
        "A tie that is made after the load brings nothing back.",
        edits=(Edit("stored", None, True, copy_steps(load.stored[0], (first,))),) if load.stored else (),
        no_mend="the checkpoint stores none of them.",
    )


class LoadFailsUnderMap(Rule):
    """Loading a tied model under this device map raises, or leaves the tie apart.

    ## What it does
    Follows each tie group through the load under the device map: `from_pretrained` of transformers, or
    `load_checkpoint_in_model`, `load_checkpoint_and_dispatch` and `dispatch_model` of accelerate. Finds the groups over
    which the load, or the first forward pass, raises. A group that comes out as several parameters and still computes
    the right values is a note. A weight that only the forward pass would miss counts where a pass on a few tokens, on
    meta, calls its module; where that pass does not, whether another one would is not known.

    ## Why it is bad
    The map sends one member to the disk, or to another device, and the loader does not expect that of a tie. Where both
    members are stored it compares a real tensor with one on meta. Where one is stored, the loader uses the other, which
    is still on meta, or looks on the disk for a name that nobody wrote. The message names a key or the meta device, and
    never the tie; sometimes it comes only with the first forward pass, after everything was loaded.

    ## How to fix it
    Give every module of the group the same device in the map. On the disk that is enough only where the name is stored
    that the others are tied to: a checkpoint with the other name alone, or a pickle with one member alone, loads on the
    CPU or a GPU and not on the disk.
    """

    code = "TIE511"
    name = "load-under-map-fails"
    summary = "loading under the device map raises over a tie group, or leaves it apart"
    severity = "error"
    messages = (
        "KeyError: 'lm_head.weight'",
        "weight is on the meta device, we need a `value` to put in on cpu.",
        "NotImplementedError: aten::equal: attempted to run this operator with Meta tensors",
        "Tied parameters are on different devices",
        "The `device_map` does not contain the module .",
        "Expected all tensors to be on the same device",
    )
    threads = (
        "huggingface/accelerate#993 huggingface/accelerate#1197 huggingface/accelerate#1529 "
        "huggingface/accelerate#2330 huggingface/accelerate#4083 NVIDIA-NeMo/Automodel#1765 unslothai/unsloth#7215"
    )

    def check(self, placement: Placement) -> Iterator[Draft | Unknown]:
        for load in placement.loads:
            if load.form == "raises":
                yield _raising(load, placement)
            elif load.form in ("untied", "copies"):
                yield _apart(load, placement)
        for reason in placement.untold:
            yield Unknown(reason)

    @staticmethod
    def cases() -> Iterator[Case]:
        meta = "NotImplementedError: aten::equal: attempted to run this operator with Meta tensors"
        both = placed_load("raises", devices=("disk", "cpu"), message=meta)
        yield Case("both stored, one on the disk", {"placement": plain_placement(loads=(both,))}, finds=("error",))
        key = both._replace(message="KeyError: 'lm_head.weight'", at="forward")
        yield Case("one stored, the head on the disk", {"placement": plain_placement(loads=(key,))}, finds=("error",))
        alone = plain_placement(loads=(key._replace(devices=("disk", "disk")),))
        yield Case("the target alone, all on the disk", {"placement": alone}, finds=("error",))
        apart = placed_load("untied", devices=("disk", "disk"), harmless=True)
        yield Case("both stored, both on the disk", {"placement": plain_placement(loads=(apart,))}, finds=("info",))
        yield Case("overwritten", {"placement": plain_placement(loads=(placed_load("overwrites"),))})
        yield Case("nothing goes wrong", {"placement": plain_placement()})
        told = plain_placement(untold=("whether the stored members are equal is not known",))
        yield Case("it cannot be told", {"placement": told}, unknown=True)


def _raising(load: PlacedLoad, placement: Placement) -> Draft:
    """Return a load, or the first forward pass after it, that raises."""
    when = f"{load.function} raises" if load.at == "load" else f"the first forward pass after {load.function} raises"
    stored = f"the checkpoint stores {listed(load.stored)}" if load.stored else "the module has its values"
    text = (load.message or "an exception").removesuffix(".")
    told = f"Under this device map {when} {text}. {_where(load)}, and {stored}."
    edits = map_edits(placement) if len(set(load.devices)) > 1 else ()
    more = map_words(placement) if edits else ""
    edits = edits or _together(load, placement)
    return Draft(told, load.names, _places(load, placement.origin), more, edits=edits, no_mend=NO_PLAN)


NO_PLAN = "there is no map to change."
"""Reason where a load is followed and no plan is known."""


def _together(load: PlacedLoad, placement: Placement) -> tuple[Edit, ...]:
    """Return the way to one device for all members, the CPU where one is on the disk."""
    kept = "cpu" if "disk" in load.devices else device_key(next(filter(None, load.devices[::-1]), "cpu"))
    return tuple(together_edit(plan, load.names, kept) for plan in placement.plans[:1])


def _apart(load: PlacedLoad, placement: Placement) -> Draft:
    """Return a tie that comes out as parameters of their own."""
    twice = " Each has a copy of its own in the offload folder." if load.form == "copies" else ""
    lacking = tuple(name for name in load.names if name not in load.stored)
    edits = tuple(edit._replace(when="it is to be trained or saved") for edit in _together(load, placement))
    if load.harmless:
        effect = "each reads the same values, so the model computes what it should, and a save stores each"
    elif load.tool == "transformers":
        effect = f"no class declares the tie, so {listed(lacking)}, which is not stored, is drawn at random"
        edits = (declare_edit(load.names),)
    else:
        effect = "they can differ"
    return Draft(
        f"After {load.function} under this map {listed(load.names)} are parameters of their own: {effect}.{twice}",
        load.names,
        _places(load, placement.origin),
        severity="info" if load.harmless else None,
        edits=edits,
        no_mend=NO_PLAN,
    )


def _where(load: PlacedLoad) -> str:
    """Return the device of each member, as the beginning of a sentence."""
    by: dict[str, list[str]] = {}
    for name, device in zip(load.names, load.devices, strict=True):
        by.setdefault(device or "no device", []).append(name)
    return ", ".join(f"{listed(tuple(names))} {'is' if len(names) == 1 else 'are'} on {d}" for d, names in by.items())


def _places(load: PlacedLoad, origin: str) -> tuple[Location, ...]:
    return (Location(origin, None, None, "primary", f"{_where(load)} ({load.tool} {load.versions})", "tool"),)
