"""Makes the structure tables: perturbs every class's config, and asks every config class for its states.

Run as `python -m tiecheck.tables.generate.structure --kept FOLDER` with transformers 5, and then with 4.57, which is
asked for its configs alone. What is told goes to the folder as it comes, so that a run can go on where it ended.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tiecheck.tables.architectures import load_architecture
from tiecheck.tables.generate.__main__ import library_version
from tiecheck.tables.generate.asked_class import AskedClass, Told, tensor_names
from tiecheck.tables.generate.bounds import bounds_of_kinds, left_bounds, table_bounds
from tiecheck.tables.generate.build import is_older_line
from tiecheck.tables.generate.classes import class_candidates, resolve_classes
from tiecheck.tables.generate.config_states import (
    NEWER,
    ConfigAsker,
    config_classes,
    config_kind,
    refused_types,
    widths_of,
)
from tiecheck.tables.generate.configs import default_config
from tiecheck.tables.generate.heads import head_witnesses, refused_switches
from tiecheck.tables.generate.perturb import Perturber, SlowClassError
from tiecheck.tables.generate.probe import Probe
from tiecheck.tables.generate.ropes import words_and_needs
from tiecheck.tables.generate.sizes import SizeChanges, Sizes, left_sizes, own_levels, sizes_of
from tiecheck.tables.generate.switches import switch_rules
from tiecheck.tables.generate.witnesses import Witness
from tiecheck.tables.generate.written_by_5 import config_refusals, save_written

PATH = Path(__file__).parent.with_name("structure.txt")
"""The table of transformers 5."""

OLDER_PATH = Path(__file__).parent.with_name("structure-4.57.txt")
"""The table of the configs of 4.57."""

AUTO = {
    "*": "MODEL_MAPPING_NAMES",
    "*c": "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    "*s": "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
}
"""Words for the classes that an auto class makes of a config -> its mapping (`modeling_auto`, 5.23)."""


def told_classes(kept: Path) -> list[AskedClass]:
    """Ask every class that was not asked before, and the models inside them; what raises is told as nothing."""
    told = _told_before(kept)
    todo: dict[tuple[str, str], tuple[Any, Any]] = {}
    classes: dict[tuple[str, str], tuple[Any, Any]] = {}
    for candidate in class_candidates():
        try:
            model_class, config_class = resolve_classes(candidate)
            own = model_class.config_class is config_class
        except (AttributeError, ImportError):
            continue
        if own:
            todo[candidate.class_name, config_kind(config_class)] = model_class, config_class
    tied, parts = {key for key in todo if load_architecture(*key).ties}, set[tuple[str, str]]()
    with kept.open("a") as file:
        while todo:  # the classes that all others hang on come first
            key = min(todo, key=lambda one: (one not in parts and one not in tied and one[0][-5:] != "Model", one))
            model_class, config_class = todo.pop(key)
            if key not in told:
                told[key], inside = _asked(key, model_class, config_class)
                file.write(f"{json.dumps(told[key])}\n")
                file.flush()
                parts |= inside.keys()
                todo |= {k: v for k, v in inside.items() if k not in told}
            classes[key] = model_class, config_class
        for key in sorted(classes.keys() & {one[:2] for one in told.values() if not one.whole}):
            told[key] = _as_a_whole(told[key], told, *classes[key])
            file.write(f"{json.dumps(told[key])}\n")
            file.flush()
    return sorted(told.values(), key=lambda one: one[:2])


def _told_before(kept: Path) -> Told:
    """Return the classes that were asked before; what ended before its parts were asked is asked again."""
    told: Told = {}
    for line in kept.read_text().splitlines() if kept.exists() else ():
        one = AskedClass(*json.loads(line))
        told[one[:2]] = one
    return {key: one for key, one in told.items() if all(tuple(part[2:]) in told for part in one.parts)}


def _asked(key: tuple[str, str], model_class: Any, config_class: Any) -> tuple[AskedClass, dict[tuple[str, str], Any]]:
    try:
        asked = Perturber(Probe(model_class, config_class, {}))
        sizes = sizes_of(asked)
    except Exception as error:  # noqa: BLE001 - any library error is a reason to leave the class out
        print(f"left out: {key[0]}: {type(error).__name__}: {' '.join(str(error).split())[:100]}")
        return AskedClass(*key, [], [], [], {}, []), {}
    parts, inside = [], {}
    for part in sizes.parts:
        module = asked.model.get_submodule(part.prefix)
        name = type(module).__name__, config_kind(type(module.config))
        inside[name] = type(module), type(module.config)
        parts.append([part.prefix, ".".join(part.level), *name])
    refused = [list(one) for one in sizes.refused or refused_switches(asked, sizes.parts)]
    switches = switches_of(asked, sizes)
    refused += table_bounds(asked, asked.levels)
    heads = head_witnesses(asked, tuple(f"{part.prefix}." for part in sizes.parts), sizes.own)
    found = AskedClass(*key, parts, _plain((*sizes.witnesses, *heads)), refused, sizes.aliases, list(sizes.own))
    return found._replace(switches=switches), inside


def switches_of(asked: Perturber, sizes: Sizes) -> list[list[Any]]:
    """Return the sums that sizes follow under the switches of which no witness of a class speaks."""
    mine = own_levels(asked.levels, sizes.parts) or [()]
    told = {dotted for witness in sizes.witnesses for dotted, _ in witness.guards}
    changes = SizeChanges(asked, tuple(f"{part.prefix}." for part in sizes.parts))
    try:
        return switch_rules(changes, mine, told)
    except SlowClassError:
        return []


def _plain(witnesses: tuple[Witness, ...]) -> list[list[Any]]:
    return [[w.name, w.axis, w.factor, dict(w.powers), dict(w.guards)] for w in witnesses]


def _as_a_whole(one: AskedClass, told: Told, model_class: Any, config_class: Any) -> AskedClass:
    """Return a class that was asked for the widths of its config of which neither it nor a part of it speaks."""
    with contextlib.suppress(Exception):  # a class may have no default, and may not build
        one = one._replace(aliases=one.aliases | tensor_names(Probe(model_class, config_class, {}).model, one, told))
        left = {d for d in widths_of(default_config(config_class)) if d not in set(_spoken(one, told))}
        if left:
            found = left_sizes(Perturber(Probe(model_class, config_class, {})), left)
            one = one._replace(witnesses=[*one.witnesses, *_plain(found)])
    return one._replace(whole=True)


def _spoken(one: AskedClass, told: Told, before: str = "") -> Iterator[str]:
    """Yield the fields that the sizes of a class, and of the models inside it, follow."""
    for *_, powers, _ in one.witnesses:
        yield from (before + field for field in powers)
    for _, level, *part in one.parts:
        if tuple(part) in told:
            yield from _spoken(told[part[0], part[1]], told, f"{before}{level}." if level else before)


def sound_sizes(one: AskedClass) -> AskedClass:
    """Return a class without the sizes whose constant may stand for what no perturbation has told of.

    Such are numbers of layers and codebooks, and widths of the models inside. Twice and thrice are what packed
    projections are.
    """
    plain = ("1",) if any(level for _, level, _, _ in one.parts) else ("1", "2", "3")
    return one._replace(witnesses=[w for w in one.witnesses if not w[3] or w[2].partition("+")[0] in plain])


def used_fields(told: list[AskedClass]) -> dict[str, set[str]]:
    """Return the fields of each config class that a size hangs on, sections followed."""
    used: dict[str, set[str]] = {}
    sections = _Sections()
    for one in told:
        named = [dotted for *_, powers, guards in one.witnesses for dotted in (*powers, *guards)]
        named += [dotted for _, _, switches, _ in one.switches for dotted in switches]
        named += [d for field, word, others in one.refused if word == "<" for d in (field, others[0][0])]
        terms = (sum_of for *_, states in one.switches for _, sum_of in states if sum_of)
        named += [dotted for sum_of in terms for _, powers in sum_of for dotted in powers]
        for dotted in named:
            kind, field = sections.owner(one.kind, dotted)
            used.setdefault(kind, set()).add(field)
    return used


class _Sections:
    """Default configs, made once, to follow dotted fields."""

    def __init__(self) -> None:
        self.made: dict[str, Any] = {}
        self.classes = {config_kind(c): c for c in config_classes()}

    def owner(self, kind: str, dotted: str) -> tuple[str, str]:
        """Return the config class in which a dotted field stands, and its key."""
        parts = dotted.split(".")
        if kind not in self.made:
            self.made[kind] = default_config(self.classes[kind]) if kind in self.classes else None
        config = self.made[kind]
        if config is None:
            return kind, parts[0]
        while len(parts) > 1 and hasattr(getattr(config, parts[0], None), "model_type"):
            config = getattr(config, parts.pop(0))
        return config_kind(type(config)), parts[0]


def refusals_of(kept: Path) -> dict[str, dict[str, str]]:
    """Return the types that each config class refuses for its fields; they are asked once."""
    if not kept.exists():
        kept.write_text(json.dumps({config_kind(c): refused_types(c) for c in config_classes()}))
    found: dict[str, dict[str, str]] = json.loads(kept.read_text())
    return found


def structure_text(
    told: list[AskedClass],
    used: dict[str, set[str]],
    version: str,
    written: dict[str, dict[str, Any]],
    word_sets: dict[str, Any],
) -> str:
    """Return the whole table; the same answers give the same bytes."""
    shapes: dict[str, str] = {}
    lines = []
    for one in told:
        row = _row(one)
        text = _dump(row) if row else ""
        key = hashlib.sha256(text.encode()).hexdigest()[:7] if text else ""
        if text:
            shapes[key] = text
        lines.append(f"{one.class_name}\t{one.kind}\t{key}")
    asker, classes = ConfigAsker(used), config_classes()
    configs = []
    for config_class in classes:
        kind = config_kind(config_class)
        record = asker.record(config_class) | _autos(kind) | written.get(kind, {})
        configs.append(f"@{kind}\t{_dump(record)}")
    head = f"#\ttransformers\t{version}\tmade by python -m tiecheck.tables.generate.structure; do not edit"
    words = [f"%{key}\t{_dump(taken)}" for key, taken in word_sets.items()]
    body = [*lines, *configs, *words, *(f"={key}\t{shape}" for key, shape in shapes.items())]
    return "\n".join([head, *sorted(body), ""])


def _row(one: AskedClass) -> dict[str, Any]:
    parts = [[prefix, level, _word(name, kind)] for prefix, level, name, kind in one.parts]
    witnesses = [[*w[:4], w[4]] if w[4] else w[:4] for w in one.witnesses]
    found = {"p": parts, "w": witnesses, "r": one.refused, "a": one.aliases, "o": one.own, "s": one.switches}
    return {key: value for key, value in found.items() if value}


def _autos(kind: str) -> dict[str, dict[str, str]]:
    from transformers.models.auto import modeling_auto

    found = {}
    for word, mapping in AUTO.items():
        name = getattr(modeling_auto, mapping).get(kind)
        if name:
            found[word] = name if isinstance(name, str) else name[0]
    return {"m": found} if found and not is_older_line() else {}


def _word(class_name: str, kind: str) -> str:
    """Return the word of the auto class that makes a class of its config, or its name."""
    return next((word for word, name in _autos(kind).get("m", {}).items() if name == class_name), class_name)


def _dump(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def write_structure(arguments: list[str] | None = None) -> int:
    """Write the table of the installed transformers; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tiecheck.tables.generate.structure", description=__doc__)
    parser.add_argument("--kept", type=Path, required=True, help="folder of the answers so far")
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    version = library_version()
    told, used, kinds = [], options.kept / "used.json", options.kept / "kinds.json"
    if is_older_line():
        NEWER.update(json.loads(kinds.read_text()))
    written = config_refusals(options.kept / "written.jsonl") if is_older_line() else {}
    for kind, pairs in bounds_of_kinds().items() if is_older_line() else ():
        written.setdefault(kind, {})["b"] = pairs
    if not is_older_line():
        options.kept.mkdir(exist_ok=True)
        told = left_bounds([sound_sizes(one) for one in told_classes(options.kept / "classes.jsonl")])
        used.write_text(json.dumps({kind: sorted(names) for kind, names in used_fields(told).items()}))
        for kind, refused in refusals_of(options.kept / "refused.json").items():
            by_bits: dict[str, list[str]] = {}
            for name, bits in sorted(refused.items()):
                by_bits.setdefault(bits, []).append(name)
            if by_bits:
                written.setdefault(kind, {})["t"] = {bits: " ".join(names) for bits, names in by_bits.items()}
        save_written(options.kept / "written.jsonl")
        kinds.write_text(json.dumps({c.__name__: config_kind(c) for c in config_classes()}))
    word_sets: dict[str, Any] = {}
    for kind, told_words in words_and_needs(word_sets).items():
        written.setdefault(kind, {}).update(told_words)
    fields = {kind: set(names) for kind, names in json.loads(used.read_text()).items()}
    text = structure_text(told, fields, version, written, word_sets)
    (OLDER_PATH if is_older_line() else PATH).write_text(text, encoding="utf-8")
    print(f"{len(told)} classes, {len(text.encode()):,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(write_structure())
