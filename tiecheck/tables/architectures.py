"""The tie tables: what is known about a model's class without importing it.

They are made by `python -m tiecheck.tables.generate`, which asks transformers itself: one for 5, and one for 4.57,
which is opened only where somebody asks for it. Here they are only searched, by halving: the lines are sorted, and
those of a class alone are read and parsed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from tiecheck.records.declared import Architecture, TieSpec
from tiecheck.records.words import Kind
from tiecheck.tables.structure import fold_sections, has_foreign_text, sorted_lines

NEWEST = "architectures.txt"
_OLDER = "architectures-4.57.txt"

FLAG = "tie_word_embeddings"
"""The key that decides for nearly every class."""


def load_architecture(
    class_name: str | None, model_type: str | None, width: int | None = None, config: Mapping[str, object] | None = None
) -> Architecture:
    """Look up what the tie table of transformers 5 knows of a class, of which one name may serve several model types.

    The width is for a head scale that hangs on it; the parsed `config.json` says which level decides a group.
    """
    return _load(NEWEST, class_name, model_type, width, config)


def load_older(
    class_name: str | None, model_type: str | None, width: int | None = None, config: Mapping[str, object] | None = None
) -> Architecture:
    """Look up the same as transformers 4.57 has it, under the names that it gives its parameters.

    `TieSpec.newer` says what transformers 5 calls them, where it has a group with them.
    """
    found = _load(_OLDER, class_name, model_type, width, config)
    if not found.ties:
        return found
    newest = load_architecture(class_name, model_type, width, config)
    return found._replace(ties=tuple(tie._replace(newer=_newer(tie, newest)) for tie in found.ties))


def older_has(class_name: str | None, model_type: str | None) -> bool:
    """Tell whether transformers 4.57 has a class at all, for a model type where one is given."""
    rows = class_rows(class_name, _OLDER) if class_name and class_name.isidentifier() else []
    return bool(_of_type(rows, model_type))


def _of_type(rows: list[list[str]], model_type: str | None) -> list[list[str]]:
    """Return the lines of a class for a model type, which 4.57 spells otherwise at times (`lfm2-vl`)."""
    exact = [row for row in rows if model_type is None or model_type in row[0].split(",")]
    return exact or [row for row in rows if _plain(model_type or "") in map(_plain, row[0].split(","))]


def _plain(model_type: str) -> str:
    return model_type.replace("-", "").replace("_", "").lower()


def newer_names(tie: TieSpec) -> tuple[str, ...]:
    """Return the names of a group of 4.57 as transformers 5 has them, sorted."""
    newer = dict(tie.newer)
    return tuple(sorted(newer.get(name, name) for name in tie.names))


def _newer(tie: TieSpec, newest: Architecture) -> tuple[tuple[str, str], ...]:
    """Return pairs of names that a file saved by 4.57 turns from one into the other when transformers 5 loads it."""
    spelled = {name: {name, *t.spellings.get(name, ())} for t in newest.ties for name in t.names}
    found = []
    for name in tie.names:
        if name not in spelled:
            also = set(tie.spellings.get(name, ()))
            fits = [n for n, spellings in spelled.items() if name in spellings and n not in tie.names]
            fits = fits or [n for n, spellings in spelled.items() if also & spellings and n not in tie.names]
            if len(fits) == 1:
                found.append((name, fits[0]))
    return tuple(found)


def _load(
    table: str, class_name: str | None, model_type: str | None, width: int | None, config: Mapping[str, object] | None
) -> Architecture:
    origin = _origin(table)
    if not class_name:
        return Architecture(class_name, False, (), f"{origin}: the config names no class", None)
    rows = class_rows(class_name, table) if class_name.isidentifier() else []
    if not rows:
        return Architecture(class_name, False, (), f"{origin} does not have {class_name}", None)
    fitting = _of_type(rows, model_type)
    if len({row[1] for row in fitting}) != 1:
        types = ", ".join(sorted(t for row in rows for t in row[0].split(",")))
        why = "for model types that tie differently:" if fitting else "only for model type"
        return Architecture(class_name, False, (), f"{origin} has {class_name} {why} {types}", None)
    shapes = [_shape(key, table) for key in fitting[0][1].split(",") if key]
    if any(not shape.keys().isdisjoint("cfh") for shape in shapes):
        from tiecheck.tables.composed import switched_shapes

        shapes = switched_shapes(shapes, config or {})
    folded, line = frozenset[str](), "5" if table == NEWEST else "4.57"
    if shapes and config is not None:
        config, folded = fold_sections(config, FLAG, line)
    ties = [_as_written(tie, folded) for shape in shapes for tie in _ties(shape, config)]
    foreign = has_foreign_text(model_type or "", config or {}, shapes, line)
    ties = [tie._replace(exact=False) for tie in ties] if foreign else ties
    if class_name in ("BarkFineModel", "BarkModel"):
        from tiecheck.tables.composed import counted_ties

        ties = counted_ties(ties, config or {})
    scale = _scale(tags.pop() if len(tags := {row[2] for row in fitting}) == 1 else "", width, config or {})
    tried = nested.pop().split(",") if len(nested := {row[3] for row in fitting}) == 1 else []
    about = _about({row[4] for row in fitting}, shapes, table, config)
    found = Architecture(
        class_name,
        True,
        tuple(sorted(ties)),
        origin,
        scale,
        embedding=about.get("i") or None,
        head=about.get("h") or None,
        prefix=about.get("p", ""),
        declared=tuple(_declared(about)),
        tried=frozenset({(), *(tuple(level.split(".")) for level in tried if level)}),
        repairs="f" in about,
        takes=frozenset(about.get("b", ())),
        unread=frozenset(about.get("u", ())),
    )
    inside = any(isinstance(held, dict) and "model_type" in held for held in (config or {}).values())
    return _with_parts(found, shapes, table, model_type, config or {}) if ties and inside else found


def _declared(about: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield targets and sources that a class and the models inside it declare."""
    for path, target, source in ((path, *pair) for path, pairs in about.get("d", ()) for pair in pairs):
        yield (f"{path}.{target}" if path else target), (f"{path}.{source}" if path and source else source)


def _about(
    keys: set[str], shapes: list[dict[str, Any]], table: str, config: Mapping[str, object] | None
) -> dict[str, Any]:
    """Return what the table says of a class beside its ties; embedding and head of a composed one by its config."""
    about = _shape(keys.pop(), table) if len(keys) == 1 and "" not in keys else {}
    for shape in shapes:
        if "z" in shape and _inner(shape, config)[1]:
            about = about | {"i": shape["z"][0], "h": shape["z"][1]}
    return about


def _with_parts(
    found: Architecture, shapes: list[dict[str, Any]], table: str, model_type: str | None, config: Mapping[str, object]
) -> Architecture:
    """Return a composed class with the groups of those parts that its own row does not have as the config has them."""
    from tiecheck.tables.composed import other_parts, with_part

    for part in other_parts(found.class_name or "", model_type, config):
        held = (types for shape in shapes for types in shape.get("m", {}).get(part.level[-1], {}).values())
        if not any(part.kind in types.split(",") for types in held):
            found = with_part(found, part, lambda name, kind, data: _load(table, name, kind, None, data))
    return found


@lru_cache
def table_version(table: str = NEWEST) -> str:
    """Return the transformers version that a table was made from."""
    return sorted_lines(table, "#")[0][1]


def _origin(table: str) -> str:
    return f"transformers {table_version(table)}"


@lru_cache(1024)  # a fleet has many models of few classes
def class_rows(class_name: str, table: str = NEWEST) -> list[list[str]]:
    """Return model types, shape keys, head scale, levels and about key of every line of a class."""
    return sorted_lines(table, class_name)


@lru_cache(1024)
def _shape(key: str, table: str) -> dict[str, Any]:
    shape: dict[str, Any] = json.loads(sorted_lines(table, f"={key}")[0][0])
    return shape


def _as_written(tie: TieSpec, folded: frozenset[str]) -> TieSpec:
    """Return a tie with its flag at the level at which a flat config has it."""
    return tie if folded.isdisjoint(tie.level) else tie._replace(level=())


def _ties(shape: dict[str, Any], config: Mapping[str, object] | None) -> list[TieSpec]:
    bits, fits = _inner(shape, config)
    if not bits:
        return []
    key, level, on, off = _decider(shape | {"t": bits}, config or {})
    joint = tuple(tuple(held) for held in shape.get("w", ()))
    kind: Kind = shape.get("k", "parameter")
    also = {int(i): stems for i, stems in shape.get("a", {}).items()}
    ties = []
    for end in shape["x"]:
        names = tuple(stem + end for stem in shape["n"])
        spellings = {names[i]: tuple(stem + end for stem in stems) for i, stems in also.items()}
        exact = fits and "e" not in shape
        source, silent = names[shape["s"]], bits[0] == "1"
        unlike = "u" in shape
        ties.append(TieSpec(names, source, kind, silent, on, off, level, exact, spellings, key, joint, unlike=unlike))
    return ties


def _inner(shape: dict[str, Any], config: Mapping[str, object] | None) -> tuple[str, bool]:
    """Return the bits under the text model that a composite config holds, and whether the names hold for it.

    Without a config nobody knows what it holds; a config that names no type holds the default one. The bits are
    empty where the class has no such group with that text model.
    """
    bits: str = shape["t"]
    alone = "z" in shape
    for key, known in shape.get("m", {}).items():
        held = config.get(key) if config is not None else {"model_type": None}
        model_type = held.get("model_type", "") if isinstance(held, Mapping) else ""
        found = next((b for b, types in known.items() if model_type in types.split(",")), None)
        if found is None and (model_type != "" or alone):
            return "" if alone else bits, False
        bits = bits if found is None else found
    return bits, True


def _decider(shape: dict[str, Any], config: Mapping[str, object]) -> tuple[str, tuple[str, ...], bool, bool]:
    """Return the key and level of the flag that decides a group, and what its true and false do.

    Where the table knows of further keys and levels, the config is asked which of them speaks: transformers 5.23
    forwards a nested flag for some classes (`LlavaConfig`, `Qwen2VLConfig`), some are untied by two flags only
    (`HunYuanVLConfig`), and some have a key of their own (`Lfm2Config`).
    """
    key: str = shape.get("q", FLAG)
    level, (_, on, off) = tuple(shape.get("l", ())), (bit == "1" for bit in shape["t"])
    for other_key, other_level, bits in shape.get("y", ()):
        if _flag(config, other_level, other_key) is not None:
            return other_key, tuple(other_level), bits[0] == "1", bits[1] == "1"
    joint = shape.get("w", ())
    if joint and all(_flag(config, held) is False for held in joint):
        return key, tuple(joint[0]), on, False
    main = _flag(config, level, key)
    for other_level, bits in shape.get("o", ()):
        other = _flag(config, other_level)
        if other is None:
            continue
        true, false = bits[0] == "1", bits[1] == "1"
        if main is None and (true if other else false) != (shape["t"][0] == "1"):
            return key, tuple(other_level), true, false
        if main is not None and main != other and (bits[2 if other else 3] == "1") != (on if main else off):
            return key, tuple(other_level), true, false
    return key, level, on, off


def _flag(config: Mapping[str, object], level: Any, key: str = FLAG) -> bool | None:
    found: object = config
    for part in (*level, key):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found if isinstance(found, bool) else None


def _scale(tag: str, width: int | None, config: Mapping[str, object]) -> float | None:
    """Return a head scale by its tag (`tables.generate.head_scale` says what tags there are); None if not known."""
    if "|" in tag:
        tag, other, switches = tag.split("|")
        state = next((config[key] for key in switches.split(",") if isinstance(config.get(key), bool)), None)
        tag = other if state is False else tag
    if tag == "1":
        return 1.0
    if tag == "d^-0.5":
        return width**-0.5 if width else None
    if tag:
        operation, key, default = tag.split(":")
        given = config.get(key)
        value = float(given) if isinstance(given, int | float) and not isinstance(given, bool) else float(default)
        return value if operation == "config" else 1 / value if value else None
    return None
