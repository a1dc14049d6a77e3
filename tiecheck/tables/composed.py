"""Classes whose groups the config makes others: by a switch, or by the models that it puts inside."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tiecheck.records.declared import Architecture, TieSpec
from tiecheck.records.record import Record
from tiecheck.tables.structure import class_of_word, class_structure, config_structure

HEADED = ("*c", "*s")
"""Words of the auto classes that make a model with a head, so that its groups lie inside the part."""


class OtherPart(Record):
    """A part of a composed class that is of another class than by default."""

    prefix: str
    """Beginning of the names of its tensors."""
    level: tuple[str, ...]
    """The level of its config."""
    class_name: str | None
    """Its class; None where the auto class has none for that config."""
    kind: str
    """The model type of its config."""
    data: Mapping[str, Any]
    """Its config as written."""
    headed: bool
    """True where it has a head of its own."""


def other_parts(class_name: str, model_type: str | None, config: Mapping[str, Any]) -> Iterator[OtherPart]:
    """Yield each part of a class that the config makes another than by default, outermost first."""
    yield from _walk(class_name, model_type or "", config, "", ())


def _walk(
    class_name: str, kind: str, data: Mapping[str, Any], prefix: str, level: tuple[str, ...]
) -> Iterator[OtherPart]:
    found = class_structure(class_name, kind)
    for inside, dotted, word in found[1].get("p", ()) if found and len(level) < 3 else ():
        inner, held, usual = found[0] if found else kind, data, kind
        path = tuple(dotted.split(".")) if dotted else ()
        for key in path:
            slot = (config_structure(inner) or {}).get("s", {}).get(key, {"typed": [""]})
            given = held.get(key)
            held = given if isinstance(given, Mapping) else {}
            asked = held.get("model_type")
            usual = slot["typed"][0]
            inner = asked if slot.get("any") and isinstance(asked, str) else usual
        name = class_of_word(inner, word)
        place, where = f"{prefix}{inside}.", (*level, *path)
        if path and inner != usual:
            yield OtherPart(place, where, name, inner, held, word in HEADED)
        elif name:
            yield from _walk(name, inner, held, place, where)


def with_part(
    whole: Architecture, part: OtherPart, load: Callable[[str | None, str, Mapping[str, Any]], Architecture]
) -> Architecture:
    """Return a composed class, as it is by default, with the groups of the part that the config puts there."""
    inside = [tie for tie in whole.ties if all(name.startswith(part.prefix) for name in tie.names)]
    if not (inside or part.headed):
        return whole
    found = load(part.class_name, part.kind, part.data)
    if not found.known:
        where = ".".join(part.level)
        origin = f"{whole.origin} does not know what {where} holds: {part.kind}"
        return Architecture(whole.class_name, False, (), origin, None)
    outer = f"{whole.prefix}." if whole.prefix else ""
    ties = [_placed(tie, part, outer) for tie in found.ties]
    kept = [tie for tie in whole.ties if tie not in inside]
    embedding, head = (
        (f"{part.prefix}{new}" if new else None) if old is not None and old.startswith(part.prefix) else old
        for old, new in ((whole.embedding, found.embedding), (whole.head, found.head))
    )
    return whole._replace(ties=tuple(sorted((*kept, *ties))), embedding=embedding, head=head)


def _placed(tie: TieSpec, part: OtherPart, outer: str) -> TieSpec:
    """Return a group of a part under its names in the whole."""
    place = part.prefix
    spellings = {
        f"{place}{name}": tuple(
            dict.fromkeys(
                spelled.removeprefix(cut)
                for word in (name, *tie.spellings.get(name, ()))
                for spelled in (f"{place}{word}",)
                for cut in ("", outer)
                if spelled.removeprefix(cut) != f"{place}{name}"
            )
        )
        for name in tie.names
    }
    return tie._replace(
        names=tuple(sorted(f"{place}{name}" for name in tie.names)),
        source=f"{place}{tie.source}",
        level=(*part.level, *tie.level),
        joint=tuple((*part.level, *held) for held in tie.joint),
        spellings=spellings,
    )


def switched_shapes(shapes: list[dict[str, Any]], config: Mapping[str, object]) -> list[dict[str, Any]]:
    """Return the shapes that a class has under this config, by the fields other than flags that its groups hang on.

    Each field was changed by itself: where a config changes several of them, no names are known for certain. So it is
    where a number is another than the default's.
    """
    changed = {
        dotted
        for shape in shapes
        for word in ("c", "f")
        for dotted, values in shape.get(word, {}).items()
        if any(_same(_at(config, dotted), value) for value in values)
    }
    counted = any(
        _at(config, dotted) is not ... and not _same(_at(config, dotted), value)
        for shape in shapes
        for dotted, value in shape.get("h", {}).items()
    )
    kept = [s for s in shapes if changed >= s.get("c", {}).keys() and changed.isdisjoint(s.get("f", ()))]
    return [shape | {"e": "no"} for shape in kept] if counted or len(changed) > 1 else kept


def counted_ties(ties: list[TieSpec], config: Mapping[str, object]) -> list[TieSpec]:
    """Return the groups of Bark's fine model without the heads that its numbers of codes do not make (5.23, 4.57)."""
    inner = config.get("fine_acoustics_config")
    held = inner if isinstance(inner, Mapping) else config
    total, given = held.get("n_codes_total", 8), held.get("n_codes_given", 1)
    if type(total) is not int or type(given) is not int:
        return ties
    missing = tuple(f"lm_heads.{i}." for i in range(max(total - given, 0), _BARK_HEADS))
    return [tie for tie in ties if not any(part in name for name in tie.names for part in missing)]


_BARK_HEADS = 7  # that the table has groups of


def _at(config: Mapping[str, object], dotted: str) -> object:
    found: object = config
    for part in dotted.split("."):
        found = found.get(part, ...) if isinstance(found, Mapping) else ...
    return found


def _same(one: object, other: object) -> bool:
    return type(one) is type(other) and one == other
