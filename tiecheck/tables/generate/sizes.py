"""Finds tensors whose sizes follow the numbers of a config, so that a file and its config can be held together.

A witness is one axis of one tensor that is a constant times fields of the config, and that no other field changes.
Parts of a model that are models themselves, with a config of their own inside the config, speak for themselves.
"""

from __future__ import annotations

from itertools import count
from typing import Any, NamedTuple

from tiecheck.tables.generate.build import model_declarations
from tiecheck.tables.generate.configs import Level
from tiecheck.tables.generate.perturb import Field, Perturber, SlowClassError, Variant, limited_time
from tiecheck.tables.generate.probe import Probe
from tiecheck.tables.generate.witnesses import Witness, chosen_witnesses


class InnerModel(NamedTuple):
    """A model inside a model."""

    prefix: str
    """The module's name."""
    level: Level
    """The level of its config."""
    class_name: str
    """Its class."""
    model_type: str
    """The model type of its config."""


class Sizes(NamedTuple):
    """Answers of a class to the perturbation of its config."""

    parts: tuple[InnerModel, ...]
    witnesses: tuple[Witness, ...]
    refused: tuple[tuple[str, Any, tuple[tuple[str, Any], ...]], ...]
    """(truth value, the value that raises, others with the values that let it build); for a number that has to divide
    another the value is `%`, for one that has to be equal `=`, and the other comes after it."""
    aliases: dict[str, list[str]]
    """Beginning of the names of a model inside -> what a file may have in its place."""
    own: tuple[str, ...] = ()
    """Modules beside a base model that has the class's config: those of its task."""


def parts_of(model: Any, owners: dict[Level, Any]) -> tuple[InnerModel, ...]:
    """Return the topmost models inside a model that are made from a config that is the model's or inside it."""
    from transformers import PreTrainedModel

    found: list[InnerModel] = []
    for prefix, module in model.named_modules():
        if not prefix or not isinstance(module, PreTrainedModel):
            continue
        if any(prefix.startswith(f"{part.prefix}.") for part in found):
            continue
        level = next((level for level, owner in owners.items() if owner is module.config), None)
        kind = type(module).__name__
        if level is not None and next(module.parameters(), None) is not None:
            found.append(InnerModel(prefix, level, kind, getattr(module.config, "model_type", "")))
    return tuple(found)


def other_names(model: Any) -> dict[str, list[str]]:
    """Return the other beginnings that the loader turns into those of the models inside a model (old layouts)."""
    from transformers import PreTrainedModel

    from tiecheck.tables.generate.spellings import NewerSpeller

    found: dict[str, list[str]] = {}
    finder = NewerSpeller(model)
    for prefix, module in model.named_modules() if finder.renamings else ():
        inside = next((name for name, _ in module.named_parameters()), None)
        if not prefix or inside is None or not isinstance(module, PreTrainedModel):
            continue
        plain = f"{prefix}.".removeprefix(f"{model.base_model_prefix}.")
        spelled = [name for name in finder.spellings(f"{prefix}.{inside}") if name.endswith(f".{inside}")]
        others = {one for name in spelled if not f".{(one := name.removesuffix(inside))}".endswith(f".{plain}")}
        if others:
            found[f"{prefix}."] = sorted(others, key=lambda other: (len(other), other))
    return found


def own_levels(levels: list[Level], parts: tuple[InnerModel, ...]) -> list[Level]:
    """Return the levels of a config of which no model inside speaks."""
    return [level for level in levels if not any(level[: len(part.level)] == part.level for part in parts)]


def sizes_of(asked: Perturber) -> Sizes:
    """Perturb what no part of a class speaks for; of a task on a base model of its config, what that lacks."""
    parts = tuple(p for p in parts_of(asked.model, held_in(asked.model.config, asked.levels)) if _alone(asked.model, p))
    mine = own_levels(asked.levels, parts)
    told = Sizes(parts, (), (), other_names(asked.model), own_modules(asked.model, parts))
    if not (mine or model_declarations(asked.model)):
        return told
    found = _perturbed(asked, parts, mine or [()])
    return told._replace(witnesses=found.witnesses, refused=found.refused)


def left_sizes(asked: Perturber, dotted: set[str]) -> tuple[Witness, ...]:
    """Return what follows some widths of which no part of a class speaks: the whole class is asked for them.

    What has a constant besides is left out, since it may be another number of the config (CPM-Ant's prompts).
    """
    changes = SizeChanges(asked, ())
    try:
        changes.numbers([f for level in asked.levels for f in asked.numbers(level) if f.dotted in dotted])
        for level in asked.levels if changes.sizes else ():
            changes.each_switch(level)
    except SlowClassError:
        return ()
    return tuple(w for w in chosen_witnesses(asked, changes.sizes, changes.guards) if w.factor == "1" and w.powers)


def _alone(model: Any, part: InnerModel) -> bool:
    """Tell whether a model inside can be asked by itself: T5Gemma's encoder needs what the config around it writes."""
    module = model.get_submodule(part.prefix)
    try:
        with limited_time():
            Probe(type(module), type(module.config), {})
    except Exception:  # noqa: BLE001 - it may fail in any way
        return False
    return True


def own_modules(model: Any, parts: tuple[InnerModel, ...]) -> tuple[str, ...]:
    """Return the first parts of the names beside the base model, which has the class's own config."""
    base = str(getattr(model, "base_model_prefix", ""))
    if not any(part.prefix == base and not part.level for part in parts):
        return ()
    return tuple(sorted({name.partition(".")[0] for name in model.state_dict()} - {base}))


def _perturbed(asked: Perturber, parts: tuple[InnerModel, ...], mine: list[Level]) -> Sizes:
    asked.write_out()
    prefixes = tuple(f"{part.prefix}." for part in parts)
    changes = SizeChanges(asked, prefixes)
    try:
        _ask(changes, parts, mine)
        chosen = [w for w in chosen_witnesses(asked, changes.sizes, changes.guards) if changes.alone(w)]
    except SlowClassError:  # what was refused till then is true, and of the sizes not all is known
        return Sizes(parts, (), tuple(changes.refused), {})
    return Sizes(parts, tuple(chosen), tuple(changes.refused), {})


def _ask(changes: SizeChanges, parts: tuple[InnerModel, ...], mine: list[Level]) -> None:
    asked = changes.asked
    whole = mine != [()] or not any(not part.level for part in parts)
    if whole:
        changes.divisors([field for level in mine for field in asked.numbers(level)])
        changes.equals([field for level in asked.levels for field in asked.numbers(level)])
    changes.numbers([field for level in mine for field in asked.numbers(level)])
    changes.switches({field: field.value + 1 for level in mine for field in asked.counts(level)})
    inside = [level for level in asked.levels if level not in mine and level and whole]
    changes.numbers([field for level in inside for field in asked.numbers(level)])
    for level in mine:
        changes.each_switch(level)
    if asked.base.groups:
        changes.switches({Field((), "id2label", -1, None): {str(number): f"l{number}" for number in range(7)}})


def held_in(config: Any, levels: list[Level]) -> dict[Level, Any]:
    """Return the config objects that a built model's config holds, by their levels."""
    found = {}
    for level in levels:
        owner = config
        for key in level:
            owner = getattr(owner, key, None)
        if owner is not None:
            found[level] = owner
    return found


class SizeChanges:
    """SizeChanges that each perturbation of a class makes."""

    def __init__(self, asked: Perturber, inside: tuple[str, ...]) -> None:
        self.asked, self.base, self.inside = asked, asked.base, inside
        self.sizes: dict[tuple[str, int], dict[Field, list[tuple[Any, int]]]] = {}
        """(tensor, axis) -> field -> (value, size) of each perturbation that changes it."""
        self.guards: dict[tuple[str, int], set[Field]] = {}
        """(tensor, axis) -> fields that change it and are no numbers."""
        self.refused: list[tuple[str, Any, tuple[tuple[str, Any], ...]]] = []

    def numbers(self, fields: list[Field]) -> None:
        """Multiply half of some numbers by a prime each, until every one was changed alone or changes nothing."""
        if not fields:
            return
        for times in (2, 3):
            built = self.asked.built({field: field.value * times for field in fields})
            if not isinstance(built, str) and not self.changed(built):
                return
            if len(fields) > 1:
                half = len(fields) // 2
                self.numbers(fields[:half])
                self.numbers(fields[half:])
                return
            if isinstance(built, str):
                continue
            for place, size in self.changed(built).items():
                self.sizes.setdefault(place, {}).setdefault(fields[0], []).append((fields[0].value * times, size))

    def switches(self, changes: dict[Field, Any]) -> None:
        """Change some fields together, and in halves where that raises or changes something."""
        if not changes:
            return
        built = self.asked.built(changes)
        if not isinstance(built, str) and not self.changed(built):
            return
        if len(changes) > 1:
            pairs = list(changes.items())
            self.switches(dict(pairs[: len(pairs) // 2]))
            self.switches(dict(pairs[len(pairs) // 2 :]))
            return
        ((field, other),) = changes.items()
        if isinstance(built, str) and type(other) is bool:
            self.refused.append((field.dotted, other, self._remedies(field, other)))
        if isinstance(built, str):
            return
        for place in self.changed(built):
            self.guards.setdefault(place, set()).add(field)

    def each_switch(self, level: Level) -> None:
        """Change the fields of a level one by one: two that need each other would hide what each does alone.

        Of two numbers that are equal by default a switch may take either (Marian's vocabularies): they are told apart.
        """
        twins = self.twins(level)
        apart = self.asked.built(twins) if twins else "none"
        for field, value in list(self.asked.switches(level)):
            self.switches({field: value})
            if not isinstance(apart, str):
                for place in self.changed(self.asked.built(twins | {field: value}), apart):
                    self.guards.setdefault(place, set()).add(field)

    def twins(self, level: Level) -> dict[Field, Any]:
        """Return other values for the numbers of a level that equal another one and are named after it."""
        fields = list(self.asked.numbers(level))
        return {
            f: f.value * 2 for f in fields if any(f.key.endswith(f"_{o.key}") and f.value == o.value for o in fields)
        }

    def divisors(self, fields: list[Field]) -> None:
        """Find the numbers of heads that have to divide another number of their level."""
        for field in fields:
            if not field.key.endswith(("heads", "n_head")):
                continue
            whole = [f for f in fields if f.level == field.level and f != field and type(f.value) is int]
            more = next(n for n in count(field.value + 1) if all(f.value % n for f in whole))  # Gemma 3 is 9 * 256
            if not isinstance(self.asked.built({field: more}), str):
                continue
            for other in (f for f in whole if f.value > field.value and f.value % field.value == 0):
                fitting = {field: more, other: other.value // field.value * more}
                if not isinstance(self.asked.built(fitting), str) and not self._undivided(field, other, whole):
                    self.refused.append((field.dotted, "%", ((other.dotted, None),)))

    def _undivided(self, field: Field, other: Field, whole: list[Field]) -> bool:
        """Tell whether a number of heads need not divide another one: what it divides is a product (Mamba-2)."""
        changes = [{}, *({f: value} for f in whole if f != other for value in (1, f.value * 2))]
        return any(not isinstance(self.asked.built({field: other.value * 2} | more), str) for more in changes)

    def alone(self, witness: Witness) -> bool:
        """Tell whether what a size adds to a number is no length of a list of the config (Parakeet's durations)."""
        for level, owner in self.asked.owners.items() if "+" in witness.factor else ():
            for key, held in owner.to_dict().items():
                if isinstance(held, list) and held:
                    built = self.asked.built({Field(level, key, -1, None): [*held, held[-1]]})
                    if not isinstance(built, str) and (witness.name, witness.axis) in self.changed(built):
                        return False
        return True

    def equals(self, fields: list[Field]) -> None:
        """Find the widths and vocabularies of sections that the class wants to be equal."""
        fields = [field for field in fields if field.key in ("vocab_size", "hidden_size")]
        for i, field in enumerate(fields):
            for other in fields[:i]:
                if other.key == field.key and isinstance(self.asked.built({field: field.value * 2}), str):
                    both = {field: field.value * 2, other: field.value * 2}
                    if other.value == field.value and not isinstance(self.asked.built(both), str):
                        self.refused.append((field.dotted, "=", ((other.dotted, None),)))

    def _remedies(self, field: Field, other: Any) -> tuple[tuple[str, Any], ...]:
        """Return the other truth values of the level whose flip lets a class build again."""
        flips = {f: v for f, v in self.asked.switches(field.level) if f.key != field.key and type(f.value) is bool}
        return tuple(
            (f.dotted, v) for f, v in flips.items() if not isinstance(self.asked.built({field: other, f: v}), str)
        )

    def changed(self, built: Variant | str, base: Variant | None = None) -> dict[tuple[str, int], int]:
        """Return the axes, outside of the models inside, that have another size than by default, and that size."""
        found: dict[tuple[str, int], int] = {}
        if isinstance(built, str):
            return found
        for name, shape in (base or self.base).shapes.items():
            other = None if name.startswith(self.inside) else built.shapes.get(name)
            if other is not None and other != shape:
                if len(other) != len(shape):
                    found |= {(name, axis): -1 for axis in range(len(shape))}
                else:
                    found |= {(name, i): b for i, (a, b) in enumerate(zip(shape, other, strict=True)) if a != b}
        return found
