"""Asks 4.57 what it makes of the configs that transformers 5 writes for each class, made small."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tiecheck.tables.architectures import older_has
from tiecheck.tables.generate.build import build_on_meta, groups_of
from tiecheck.tables.generate.classes import ClassCandidate, class_candidates, resolve_classes
from tiecheck.tables.generate.config_states import config_kind, inner_configs
from tiecheck.tables.generate.configs import BROKEN, BROKEN_OLDER, default_config, filled_from_default, silent_dict
from tiecheck.tables.generate.head_scale import tiny_config
from tiecheck.tables.generate.perturb import limited_time
from tiecheck.tables.generate.probe import Probe
from tiecheck.tables.generate.spellings import model_speller

Written = tuple[ClassCandidate, dict[str, Any], dict[str, list[int]], list[str]]
"""A class, the config that 5 writes for it, the shapes that it builds with that, and the names of its matrices in a
file of 5's."""


def written_configs() -> Iterator[Written]:
    """Yield every class that 4.57 has too with the config of a small model as transformers 5 writes it."""
    for candidate in (one for one in class_candidates() if older_has(one.class_name, one.model_type)):
        with contextlib.suppress(Exception):  # what 5 does not build is not asked
            model_class, config_class = resolve_classes(candidate)
            asked = Probe(model_class, config_class, {})
            data, model = asked.small, asked.model
            with contextlib.suppress(Exception):  # a tiny config is a guess
                small = tiny_config(asked.full, asked.config, 64, 4)
                data, model = small, build_on_meta(model_class, config_class, small)
            text = config_class.from_dict(copy.deepcopy(data)).to_json_string()
            shapes = {name: list(value.shape) for name, value in model.named_parameters()}
            yield candidate, json.loads(text), shapes, saved_matrices(model)


def saved_matrices(model: Any) -> list[str]:
    """Return the names that transformers 5 writes the matrices of a model under."""
    from transformers.core_model_loading import revert_weight_conversion

    return [name for name, value in revert_weight_conversion(model, model.state_dict()).items() if value.dim() > 1]


def save_written(path: Path) -> None:
    """Write down what transformers 5 writes, once."""
    if not path.exists():
        path.write_text("".join(f"{json.dumps(one)}\n" for one in written_configs()))


def config_refusals(path: Path) -> dict[str, dict[str, Any]]:
    """Return what 4.57 refuses of the configs that 5 wrote: by config class, keys with the value that it cannot take.

    Where no one key mends it, or what is built has other sizes, the reason is all that is told.
    """
    found: dict[str, dict[str, Any]] = {}
    asked: dict[str, list[set[str]]] = {}
    for line in path.read_text().splitlines():
        place, data, shapes, names = json.loads(line)
        with contextlib.suppress(ImportError, AttributeError, ModuleNotFoundError, KeyError):
            model_class, config_class = resolve_classes(ClassCandidate(*place))
            told, kind = _told(model_class, config_class, data, shapes, names), config_kind(config_class)
            asked.setdefault(kind, []).append(_needed_modules(model_class))
            for inner, pair in told.get("n", ()):
                held = found.setdefault(inner or kind, {})
                held["n"] = sorted({json.dumps(one): one for one in (*held.get("n", ()), pair)}.values())
            if "x" in told:
                found.setdefault(kind, {}).setdefault("x", told["x"])
            if "v" in told:
                found.setdefault(kind, {}).setdefault("v", {})[place[0]] = told["v"]
    for kind, needed in asked.items():
        if all(needed):
            found.setdefault(kind, {})["k"] = sorted(set.intersection(*needed))
    return found


def _needed_modules(model_class: Any) -> set[str]:
    """Return the modules without which 4.57 refuses a class: those to stay in float32 (`post_init`, 4.57.6)."""
    kept = (getattr(model_class, f"_keep_in_fp32_modules{end}", None) or () for end in ("", "_strict"))
    return {name for names in kept for name in names}


def _told(
    model_class: Any, config_class: Any, data: dict[str, Any], shapes: dict[str, list[int]], names: list[str]
) -> dict[str, Any]:
    try:
        with limited_time():
            built = build_on_meta(model_class, config_class, data)
    except ImportError:
        return {}
    except Exception as error:  # noqa: BLE001 - it may refuse a config in any words
        refused = list(_refused_values(model_class, config_class, data))
        return {"n": refused} if refused else {"x": type(error).__name__}
    other = [n for n, p in built.named_parameters() if shapes.get(n, list(p.shape)) != list(p.shape)]
    lost = None if other else _unread_name(built, names)
    return {"x": "another size"} if other else {"v": lost} if lost else {}


def _unread_name(built: Any, names: list[str]) -> str | None:
    """Return the first name of a file of 5's that is loaded into nothing, where some matrix is made at random."""
    finder: Any = model_speller(built)
    own, read = built.state_dict().keys(), {}
    prefix = built.base_model_prefix
    prefixed = not getattr(finder, "mapping", {}) and prefix and any(name.startswith(prefix) for name in names)
    for name in names:  # 4.57 adds the prefix to all of a file or to none (ViT-MSN)
        found = name if prefixed and not name.startswith(prefix) else finder.forwards(name)
        read[name] = own & ({found} if isinstance(found, str) else set(found or ()))
    held = set[str]().union(*read.values())
    tied = {name for group in groups_of(built) if held & set(group) for name in group}
    random = any(value.dim() > 1 and name not in held | tied for name, value in built.named_parameters())
    return next((name for name, found in read.items() if not found), None) if random else None


def _refused_values(model_class: Any, config_class: Any, data: dict[str, Any]) -> Iterator[tuple[str, list[Any]]]:
    """Yield each key, with its value, that alone keeps 4.57 from building, and the kind of the section it stands in."""

    def whole(one: dict[str, Any]) -> bool:
        return _builds(model_class, config_class, one)

    keys = [key for key in _remedies(whole, config_class, data) if not isinstance(data.get(key), dict)]
    yield from (("", [key, data.get(key)]) for key in keys)
    words = [] if keys else list(_refused_words(model_class, config_class, data))
    yield from (("", list(pair)) for pair in words)
    for part, inner in {} if keys or words else inner_configs(default_config(config_class)).items():
        held, kind = data.get(part), config_kind(type(inner))
        if isinstance(held, dict) and not is_mapped(kind):  # what is asked by itself is told by itself

            def within(one: dict[str, Any], part: str = part) -> bool:
                return whole(data | {part: one})

            for key in _remedies(within, type(inner), held):
                yield kind, [key, held.get(key)]


def is_mapped(kind: str) -> bool:
    """Tell whether a model type leads to a config class."""
    from transformers import CONFIG_MAPPING

    return kind in CONFIG_MAPPING


def _refused_words(model_class: Any, config_class: Any, data: dict[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """Yield each list of words with those that 4.57 does not write, in place of which its own config does not build."""
    with contextlib.suppress(Exception):  # a class may have no default that builds
        small = Probe(model_class, config_class, {}).small
        for key, own in small.items():
            words = data.get(key)
            if isinstance(own, list) and isinstance(words, list) and own and all(isinstance(w, str) for w in own):
                other = sorted(set(words).difference(own))
                if other and not any(_builds(model_class, config_class, small | {key: [w] * len(own)}) for w in other):
                    yield key, other


def _remedies(builds: Callable[[dict[str, Any]], bool], config_class: Any, data: dict[str, Any]) -> Iterator[str]:
    """Yield each key of one level that alone lets 4.57 build: without it, or with a value of its own default."""
    config = default_config(config_class)
    usual = filled_from_default(silent_dict(config), config) | BROKEN_OLDER.get(config_class.__name__, {})
    usual |= {key: value for key, value in BROKEN.get(config_class.__name__, {}).items() if key not in usual}
    for key in sorted({*data, *usual}):
        without = {name: value for name, value in data.items() if name != key}
        tries = [without] if key in data else []
        tries += [without | {key: usual[key]}] if usual.get(key) not in (None, data.get(key)) else []
        if any(builds(one) for one in tries):
            yield key


def _builds(model_class: Any, config_class: Any, data: dict[str, Any]) -> bool:
    try:
        with limited_time():
            build_on_meta(model_class, config_class, data)
    except Exception:  # noqa: BLE001 - whatever it raises, it does not build
        return False
    return True
