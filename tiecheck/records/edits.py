"""The fix of a finding as data: alternatives of steps, and the words that are made from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any, Literal

from tiecheck.records.record import Record

StepKind = Literal[
    "set-config",
    "set-metadata",
    "drop-tensor",
    "rename-tensor",
    "copy-tensor",
    "strip-prefix",
    "unwrap-tensors",
    "move-file",
    "drop-file",
    "run-python",
    "edit-source",
]


class Step(Record):
    """One change of one file's content."""

    kind: StepKind
    """Sort of change."""
    names: tuple[str, ...] = ()
    """Tensors: the one to drop; the old and the new name; the source of a copy and its new name. Files: the one to
    drop; the old and the new name. `strip-prefix`: the prefix. `unwrap-tensors`: the key that they stand below."""
    file: str | None = None
    """The file that changes, relative to the target: a JSON file (`set-config`), a weights file (`set-metadata`,
    `unwrap-tensors`), the one of several that hold a tensor (`drop-tensor`), a source that was read (`edit-source`);
    null where the name tells."""
    key: tuple[str, ...] = ()
    """`set-config`, `set-metadata`: the path of keys."""
    value: bool | int | str | None = None
    """`set-config`, `set-metadata`: the value to write."""
    code: str | None = None
    """`run-python`: lines to run where `model` is the model, as its user holds it, `device_map` and `max_memory` what
    was asked for. `edit-source`: the statement, or a
    method's first line, that the class has to have: `names` is the class, and a method at whose end the statement
    stands; null where `instead_of` goes, a method with its body."""
    instead_of: str | None = None
    """`edit-source`: the statement, or first line, in whose place; null where there is none yet. With `line` also an
    expression or a name."""
    line: int | None = None
    """`edit-source`: the 1-based line of `file` on which `instead_of`, or the class, begins."""


class TensorChange(Record):
    """All that steps change in one weights file."""

    drop: set[str]
    """Names that go."""
    rename: dict[str, str]
    """Old name -> new name."""
    copies: dict[str, str]
    """New name -> the name it is a copy of."""
    notes: dict[str, str]
    """Key -> value for the metadata (safetensors)."""
    below: list[str]
    """Key that the tensors stand below, and shall not (pickles); empty where there is none."""


CHOICES = (
    *("tied", "untied", "apart", "weight", "removed", "declared", "shared", "stored", "listed", "rows", "named"),
    *("renamed", "moved", "stripped", "unwrapped", "begun", "drawn", "mapped", "method", "one-each", "passed"),
    "source",
)
"""Words of the edits of files and sources; besides them stand names of files and tensors, which have a dot."""


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

WORK = ".tiecheck-fix"
"""Folder of a fix under way, within the model's directory."""

COMMIT = "commit"
"""File in it, from which on files change their places: until all have, the directory holds some of two models."""

CODE = 600
"""Characters of code that are told; the JSON report has all of them."""

NO_MEND = "No fix:"
"""Beginning of the help of a finding that no change of the files mends; the reason follows."""


def set_flags(flags: Iterable[str], value: bool) -> tuple[Step, ...]:
    """Return the steps that write one value to flags of the config."""
    return tuple(Step("set-config", file=CONFIG, key=tuple(flag.split(".")), value=value) for flag in flags)


def drop_steps(names: Iterable[str]) -> tuple[Step, ...]:
    """Return the steps that delete tensors."""
    return tuple(Step("drop-tensor", (name,)) for name in names)


def copy_steps(source: str, names: Iterable[str]) -> tuple[Step, ...]:
    """Return the steps that store a tensor under further names."""
    return tuple(Step("copy-tensor", (source, name)) for name in names)


def move_edits(choice: str, when: str | None, moves: Mapping[str, str]) -> tuple[Edit, ...]:
    """Return the way to give files other names."""
    return (Edit(choice, when, True, tuple(Step("move-file", names) for names in moves.items())),)


def python_edit(choice: str, when: str | None, *lines: str, safe: bool = True) -> Edit:
    """Return the alternative that some lines of Python carry out on the live model."""
    return Edit(choice, when, safe, (Step("run-python", code="\n".join(lines)),))


def source_step(  # noqa: PLR0913  # the fields of a step
    name: str,
    code: str | None,
    instead_of: str | None = None,
    *,
    method: str | None = None,
    file: str | None = None,
    line: int | None = None,
) -> Step:
    """Return the step that changes the code of a class; see `Step.code`."""
    names = tuple(filter(None, (name, method)))
    return Step("edit-source", names, file, code=code, instead_of=instead_of, line=line)


def file_edits(edits: Iterable[Edit]) -> tuple[Edit, ...]:
    """Return the alternatives that change files alone, and run or rewrite no code."""
    return tuple(edit for edit in edits if all(step.code is step.instead_of is None for step in edit.steps))


def fitting_edits(edits: tuple[Edit, ...], config: Mapping[str, Any] | None) -> tuple[Edit, ...]:
    """Return the alternatives whose flags stand at levels that the config has.

    A level is never made: a flat config with a new `text_config` of one key is another model (Qwen2-VL before 4.52).
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


_DONE: Mapping[StepKind, str] = {
    "set-config": "give {first} to {value} in {file}",
    "set-metadata": "set {first} to {value} in the metadata of {file}",
    "drop-tensor": "delete {first} from {file}",
    "drop-file": "delete {files}",
    "rename-tensor": "rename {pairs} in the checkpoint",
    "move-file": "move {pairs}",
    "strip-prefix": "strip {quoted} from every stored name",
    "unwrap-tensors": "save what stands below {quoted} alone as {file}",
}
"""Kind of step -> what it does, in words."""


def _done(kind: tuple[StepKind, str | None, Any], steps: list[Step]) -> str:
    """Tell what steps of one kind do; of many alike the first ones."""
    what, file, value = kind
    if what in ("run-python", "edit-source"):
        return _and([_coded(step) for step in steps])
    if what == "set-config" and file == CONFIG:
        said = str(value).lower() if isinstance(value, bool) else value
        nested = any(len(step.key) > 1 for step in steps)
        return f"set {_shown([_level(step.key, nested) for step in steps])} to {said}"
    if what == "copy-tensor":
        sources = groupby(steps, lambda step: step.names[0])
        return _and([f"store {source} as {_shown([s.names[1] for s in held])} too" for source, held in sources])
    first = [step.names[0] if step.names else step.key[-1] for step in steps]
    return _DONE[what].format(
        first=_shown(first),
        quoted=_shown([repr(name) for name in first]),
        files=_shown([f"{name} and its shards" if name.endswith(".index.json") else name for name in first]),
        pairs=_shown([" to ".join(step.names) for step in steps]),
        file=file or "the checkpoint",
        value=value,
    )


def _level(key: tuple[str, ...], nested: bool) -> str:
    """Return the name of a key of the config; beside nested ones that of the top level says so."""
    return f"the top-level {key[0]}" if nested and len(key) == 1 else ".".join(key)


def _coded(step: Step) -> str:
    """Tell what is run, or how a class has to read: lines of code one after another."""
    said = (step.instead_of, step.code)
    old, new = (code and f"`{_cut('; '.join(_dedented(code)))}`" for code in said)
    if step.kind == "run-python":
        return f"run {new}"
    if new is None:
        return f"take {old} out of class {step.names[0]}"
    where = f" at the end of {'.'.join(step.names)}" if len(step.names) > 1 else f" in class {''.join(step.names)}"
    return f"write {new}{where if step.names else ''}{f' for {old}' if old else ''}"


def _dedented(code: str) -> list[str]:
    """Return the lines of code less the first one's indentation: what `textwrap` has is dear at a start."""
    lines = code.strip("\n").rstrip().splitlines()
    return [line.removeprefix(lines[0][: -len(lines[0].lstrip())]) for line in lines]


def _cut(code: str) -> str:
    """Cut what is too long to be read, a map of hundreds of entries: the data have it whole."""
    return code if len(code) <= CODE else f"{code[:CODE]} ... ({len(code)} characters)"


def _shown(words: list[str]) -> str:
    return f"{', '.join(words[:6])} and {len(words) - 6} more" if len(words) > 6 else _and(words)


def _and(words: list[str]) -> str:
    return f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else words[0]
