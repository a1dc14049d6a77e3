"""Asks each config class what it makes of a section that is absent, null or empty, and which types it refuses."""

from __future__ import annotations

import contextlib
import copy
import itertools
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

from tiecheck.tables.generate.build import is_older_line
from tiecheck.tables.generate.configs import FLAG, default_config, needed_parts, silent_dict
from tiecheck.tables.generate.heads import LABELS
from tiecheck.tables.structure import config_structure

VALUES: tuple[Any, ...] = (None, "text", True, 3, 0.5, [], {})
"""One value of each type that JSON has, in the order of the bits of a field."""

STATES: dict[str, Any] = {"gone": ..., "null": None, "empty": {}, "typeless": {"model_type": None}}
"""States of a section."""

OTHERS = ("llama", "bert", "vit")
"""Types that are put into a section to see whether it takes any."""

WIDTHS = ("vocab_size", "d_model", "hidden_size")

RAISES = "!"
"""Word for a state that the class refuses."""


class ConfigAsker:
    """Asks config classes, each by its default."""

    def __init__(self, used: dict[str, set[str]]) -> None:
        """Take the fields that matter of each model type."""
        self.used = used
        self.plain: dict[str, dict[str, Any]] = {}

    def defaults(self, config_class: Any) -> dict[str, Any]:
        """Return the fields that matter of a class's default config; empty for one that has no default."""
        kind = config_kind(config_class)
        if kind not in self.plain:
            self.plain[kind] = {}
            with contextlib.suppress(Exception):  # a class may have no default
                self.plain[kind] = self.taken(default_config(config_class))
        return self.plain[kind]

    def taken(self, config: Any) -> dict[str, Any]:
        """Return the fields that matter of a config."""
        known = config.to_dict()
        known |= {} if getattr(config, LABELS, 2) == 2 else {LABELS: config.num_labels}  # which is no field
        return {key: known[key] for key in sorted(self._asked(config)) if key in known}

    def _asked(self, config: Any) -> set[str]:
        used = self.used.get(config_kind(type(config)), set())
        return {other_word(config, key) or key for key in used} if is_older_line() else used

    def record(self, config_class: Any) -> dict[str, Any]:
        """Return all that is told of a config class."""
        with contextlib.suppress(Exception):  # a class may have no default
            config = default_config(config_class)
            base = silent_dict(config)
            derived = self._derived(config_class, base)
            told = {
                "d": {key: value for key, value in self.defaults(config_class).items() if key not in derived},
                "a": {
                    k: v
                    for k, v in config_class.attribute_map.items()
                    if v in self.used.get(config_kind(config_class), ())
                },
                "s": {key: self._slot(config_class, key, inner) for key, inner in inner_configs(config).items()},
                "u": {
                    key: word
                    for key in sorted(self.used.get(config_kind(config_class), ()) if is_older_line() else ())
                    if (word := other_word(config, key)) != key
                },
                "z": self._written_over(config_class, base),
            }
            return {key: value for key, value in told.items() if value}
        return {}

    def _derived(self, config_class: Any, base: dict[str, Any]) -> set[str]:
        """Return the fields whose default another field makes."""
        found: set[str] = set()
        plain = self.defaults(config_class)
        for key, value in plain.items():
            for other in (value * 2, value + 1) if type(value) is int and value > 0 else ():
                with contextlib.suppress(Exception):  # a class may refuse any number
                    now = self.taken(config_class.from_dict({**_without(base, plain), key: other}))
                    found |= {k for k, v in now.items() if k != key and v != plain[k]}
                    break
        return found

    def _written_over(self, config_class: Any, base: dict[str, Any]) -> dict[str, list[Any]]:
        """Return each number that a class makes of one of two others, whatever its key says: the switch, and which."""
        found: dict[str, list[Any]] = {}
        plain = self.defaults(config_class)
        numbers = {key: value for key, value in plain.items() if type(value) is int and value > 0}

        def made(key: str, given: dict[str, Any]) -> Any:
            with contextlib.suppress(Exception):  # a class may refuse any value
                return getattr(config_class.from_dict(copy.deepcopy(base) | given), key)
            return None

        over = [k for k, v in numbers.items() if all(made(k, {k: other}) == v for other in (v * 2, v + 1))]
        switches = default_config(config_class).to_dict().items() if over else ()
        for key, (switch, usual) in itertools.product(over, switches):
            if type(usual) is bool:
                of = [[n for n in numbers if made(key, {switch: s, n: 7777}) == 7777] for s in (True, False)]
                if all(len(one) == 1 for one in of) and of[0] != of[1]:
                    found[key] = [switch, *of[0], *of[1], usual]
        return found

    def _slot(self, config_class: Any, key: str, inner: Any) -> dict[str, Any]:
        """Return the model type and the odd defaults of a section in each state, what it folds, and if it takes any."""
        typed = self._state(config_class, key, {"model_type": inner.model_type})
        told: dict[str, Any] = {"typed": typed}
        for word, state in STATES.items():
            found = [""] if self._copied(config_class, key, inner, state) else self._state(config_class, key, state)
            if found != typed:
                told[word] = found
        if any(_type_under(config_class, key, other) == other for other in OTHERS):
            told["any"] = 1
        for word in ("gone", "null"):
            folded = self._folded(config_class, key, inner, STATES[word])
            if folded:
                told[f"fold {word}"] = folded
        dead = self._dead(config_class, key, inner)
        if dead:
            told["dead"] = dead
        return told

    def _state(self, config_class: Any, key: str, state: Any) -> list[Any]:
        try:
            given = {part: {"model_type": kind} for part, kind in needed_parts(config_class).items() if part != key}
            config = config_class.from_dict(copy.deepcopy(given if state is ... else given | {key: state}))
        except Exception:  # noqa: BLE001 - a class may refuse a state in any words
            return [RAISES]
        held = getattr(config, key, None)
        if not hasattr(held, "model_type"):
            return [""]
        plain = self.defaults(type(held))
        odd = {k: v for k, v in self.taken(held).items() if v != plain.get(k)}
        kind = config_kind(type(held))
        return [kind, odd] if odd else [kind]

    def _copied(self, config_class: Any, key: str, inner: Any, state: Any) -> bool:
        """Tell whether a section in some state is made of another one of its type (T5Gemma's decoder in 4.57)."""
        for other, held in inner_configs(default_config(config_class)).items():
            fields = [(n, v) for n, v in self.taken(held).items() if type(v) is int]
            for name, value in fields if other != key and type(held) is type(inner) else ():
                with contextlib.suppress(Exception):  # a class may refuse a state, and any number
                    given = {other: {"model_type": held.model_type, name: value * 2}} | (
                        {key: state} if state is not ... else {}
                    )
                    made = config_class.from_dict(copy.deepcopy(given))
                    return bool(getattr(getattr(made, key), name) == value * 2)
        return False

    def _folded(self, config_class: Any, key: str, inner: Any, state: Any) -> list[str]:
        """Return the fields of a section that are read at the top where the section is not there."""
        found = []
        for name, value in self.taken(inner).items():
            if type(value) is not int:
                continue
            with contextlib.suppress(Exception):  # a class may refuse any number
                given = {name: value * 2} | ({} if state is ... else {key: state})
                if getattr(getattr(config_class.from_dict(given), key), name) == value * 2:
                    found.append(name)
        with contextlib.suppress(Exception):  # nor need it take a flag
            flat = [{FLAG: value} | ({} if state is ... else {key: state}) for value in (True, False)]
            if [getattr(getattr(config_class.from_dict(given), key), FLAG) for given in flat] == [True, False]:
                found.append(FLAG)
        return found

    def _dead(self, config_class: Any, key: str, inner: Any) -> list[str]:
        """Return the fields of a section that its owner writes over."""
        found = []
        for name, value in self.taken(inner).items():
            if type(value) is int:
                with contextlib.suppress(Exception):
                    given = {key: {"model_type": inner.model_type, name: value * 2}}
                    if getattr(getattr(config_class.from_dict(given), key), name) != value * 2:
                        found.append(name)
        return found


def other_word(config: Any, key: str) -> str:
    """Return what 4.57 calls a field of transformers 5: the same, what it is an alias for, or nothing."""
    if hasattr(config, key):
        return key
    aliases = (config_structure(config_kind(type(config))) or {}).get("a", {})
    return next((alias for alias, target in aliases.items() if target == key and hasattr(config, alias)), "")


def config_kind(config_class: Any) -> str:
    """Return a config class by the model type that leads to it in transformers 5, or else by its name."""
    from transformers import CONFIG_MAPPING

    model_type = str(getattr(config_class, "model_type", ""))
    mapped = model_type in CONFIG_MAPPING and CONFIG_MAPPING[model_type] is config_class
    return model_type if mapped else NEWER.get(config_class.__name__, config_class.__name__)


NEWER: dict[str, str] = {}
"""Config classes of transformers 5 -> their kinds, for 4.57, where many sections have no model type of their own."""


def _without(base: dict[str, Any], plain: Iterable[str]) -> dict[str, Any]:
    return {key: value for key, value in copy.deepcopy(base).items() if key not in set(plain)}


def inner_configs(config: Any) -> dict[str, Any]:
    """Return the sections of a config that are configs, by their keys."""
    return {
        key: value
        for key, value in sorted(vars(config).items())
        if hasattr(value, "to_json_string") and hasattr(value, "model_type") and key != "_parent"
    }


def widths_of(config: Any, before: str = "") -> Iterator[str]:
    """Yield the dotted sizes of the embeddings of a config and its sections, of which some tensor has to speak."""
    yield from (before + key for key in WIDTHS if type(getattr(config, key, None)) is int)
    for key, inner in inner_configs(config).items():
        yield from widths_of(inner, f"{before}{key}.")


def config_classes() -> list[Any]:
    """Return every config class that a model type leads to, and those of the sections of their defaults."""
    from transformers import CONFIG_MAPPING

    found: dict[str, Any] = {}
    left = [CONFIG_MAPPING[model_type] for model_type in sorted(CONFIG_MAPPING.keys())]
    while left:
        config_class = left.pop()
        if config_kind(config_class) in found:
            continue
        found[config_kind(config_class)] = config_class
        with contextlib.suppress(Exception):  # a class may have no default
            left += [type(inner) for inner in inner_configs(default_config(config_class)).values()]
    return [found[kind] for kind in sorted(found)]


def _type_under(config_class: Any, key: str, other: str) -> str | None:
    with contextlib.suppress(Exception):  # a class may refuse a type
        return config_kind(type(getattr(config_class.from_dict({key: {"model_type": other}}), key)))
    return None


def refused_types(config_class: Any) -> dict[str, str]:
    """Return each annotated field with the types that a class of transformers 5 refuses, as bits of `VALUES`.

    A field is set as the constructor sets it, and whether the class goes that way at all is asked of one whole config.
    """
    found: dict[str, str] = {}
    if is_older_line():
        return found
    from dataclasses import fields

    with contextlib.suppress(Exception):  # a class may have no default
        config = default_config(config_class)
        for field in fields(config_class):
            if "Literal" in str(field.type):  # what it refuses are values, and not types
                continue
            bits = "".join("01"[_refuses(field.name, partial(setattr, config, field.name, value))] for value in VALUES)
            if "1" in bits:
                data = {field.name: VALUES[bits.index("1")]}
                if _refuses(field.name, partial(config_class.from_dict, data)):
                    found[field.name] = bits
    return found


def _refuses(key: str, ask: Callable[[], Any]) -> bool:
    try:
        ask()
    except Exception as error:  # noqa: BLE001 - only one kind of refusal is by type alone
        told = f"{type(error).__name__}: {error}"
        return "FieldValidationError" in told and f"'{key}'" in told
    return False
