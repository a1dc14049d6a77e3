"""The fix of a finding as data: alternatives of steps, and the words that are made from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any, Literal

from tiecheck.records.record import Record

StepKind = Literal["set-config", "drop-tensor", "rename-tensor", "copy-tensor"]


class Step(Record):
    """One change of one file's content."""

    kind: StepKind
    """Sort of change."""
    names: tuple[str, ...] = ()
    """Tensors: the one to drop; the old and the new name; the source of a copy and its new name."""
    file: str | None = None
    """`set-config`: the JSON file, relative to the target; null where tensors change."""
    key: tuple[str, ...] = ()
    """`set-config`: the path of keys."""
    value: bool | str | None = None
    """`set-config`: the value to write."""


class Edit(Record):
    """One way to fix a finding, out of several."""

    choice: str
    """Word that chooses it (`--choose tied`)."""
    when: str | None
    """Condition under which it is right and which only the user can tell; null where it is right in any case."""
    safe: bool
    """True where no trained value can be lost by it."""
    steps: tuple[Step, ...]
    """Changes, in order."""


CONFIG = "config.json"


def set_flags(flags: Iterable[str], value: bool) -> tuple[Step, ...]:
    """Return the steps that write one value to flags of the config.

    Args:
        flags: The flags with their levels, dotted.
        value: What to write.
    """
    return tuple(Step("set-config", file=CONFIG, key=tuple(flag.split(".")), value=value) for flag in flags)


def drop_steps(names: Iterable[str]) -> tuple[Step, ...]:
    """Return the steps that delete tensors."""
    return tuple(Step("drop-tensor", (name,)) for name in names)


def copy_steps(source: str, names: Iterable[str]) -> tuple[Step, ...]:
    """Return the steps that store a tensor under further names."""
    return tuple(Step("copy-tensor", (source, name)) for name in names)


def fitting_edits(edits: tuple[Edit, ...], config: Mapping[str, Any] | None) -> tuple[Edit, ...]:
    """Return the alternatives whose flags stand at levels that the config has.

    A level is never made: a flat config with a new `text_config` of one key is another model (Qwen2-VL before 4.52).

    Args:
        edits: The alternatives.
        config: The parsed config; None for a target without one, to which no flag can be written.
    """
    return tuple(edit for edit in edits if edit.steps and all(_has_level(step, config) for step in edit.steps))


def _has_level(step: Step, config: Mapping[str, Any] | None) -> bool:
    if step.file != CONFIG:
        return True
    level: Any = config
    for key in step.key[:-1]:
        level = level.get(key) if isinstance(level, Mapping) else None
    return isinstance(level, Mapping)


def edit_words(edits: tuple[Edit, ...]) -> str:
    """Return some alternatives in words, a sentence for each; empty where there is none."""
    return " ".join(_sentence(edit) for edit in edits)


def _sentence(edit: Edit) -> str:
    done = _and([_done(kind, list(alike)) for kind, alike in groupby(edit.steps, lambda s: (s.kind, s.file, s.value))])
    if edit.when is None:
        return f"{done[:1].upper()}{done[1:]}."
    return f"If {edit.when}, {done}."


def _done(kind: tuple[StepKind, str | None, Any], steps: list[Step]) -> str:
    """Tell what steps of one kind do; of many alike the first ones."""
    what, file, value = kind
    if what == "set-config":
        if file == CONFIG:
            return f"set {_shown(['.'.join(step.key) for step in steps])} to {str(value).lower()}"
        return f"give {_shown([step.key[-1] for step in steps])} to {value} in {file}"
    if what == "drop-tensor":
        return f"delete {_shown([step.names[0] for step in steps])} from the checkpoint"
    if what == "rename-tensor":
        return f"rename {_shown([' to '.join(step.names) for step in steps])} in the checkpoint"
    sources = groupby(steps, lambda step: step.names[0])
    return _and([f"store {source} as {_shown([s.names[1] for s in held])} too" for source, held in sources])


def _shown(words: list[str]) -> str:
    return f"{', '.join(words[:6])} and {len(words) - 6} more" if len(words) > 6 else _and(words)


def _and(words: list[str]) -> str:
    return f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else words[0]
