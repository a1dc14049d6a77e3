"""What transformers makes of a written directory, group by group: the truth, told without tiecheck's tables."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from zoo import LARGEST, Names, animal

import tiecheck
from harness.draft import Draft
from tiecheck.live.rehearsal import Rehearser, rehearse
from tiecheck.records.loaders import Held, Rehearsal
from tiecheck.tables.generate.build import build_on_meta
from tiecheck.tables.generate.classes import ClassCandidate

LOSSES = {"random", "discarded", "crash"}
"""The outcomes that cost somebody something."""


class End(NamedTuple):
    """The end of one group in one line of transformers."""

    word: str
    """`tied`, `kept-apart`, `random`, `discarded`, `crash`; `absent` where the class has no such names."""
    members: tuple[str, ...] = ()
    """The members that are random or thrown away."""


class Line(NamedTuple):
    """What one line of transformers makes of a directory."""

    version: str
    """`5` or `4.57`."""
    rehearsal: Rehearsal
    draft: Draft
    doubt: str = ""
    """Reason why there is no truth."""

    def end(self, names: Iterable[str]) -> End:
        """Return the end of a group."""
        told, found = self.rehearsal, self._members(tuple(names))
        if told.raised:
            return End("crash")
        if not found:
            return End("absent")
        if any(held.state == "left" for held in found.values()):
            return End("crash")
        idle = self._unread(found) if all(name.endswith(".bias") for name in found) else frozenset()
        lost = tuple(sorted(name for name, held in found.items() if held.state == "random" and name not in idle))
        if lost:
            return End("random", lost)
        gone = tuple(sorted(name for name, held in found.items() if self._gone(name, held) and name not in idle))
        if gone:
            return End("discarded", gone)
        return End("tied" if len({held.names for held in found.values()}) == 1 else "kept-apart")

    def _unread(self, members: Iterable[str]) -> frozenset[str]:
        """Return the members that no forward pass reads where another is read, by a pass that is watched."""
        save = self.draft.save
        try:
            apart = self.draft.config | {"tie_word_embeddings": False}
            unread = _unread_of(save.class_name, save.model_type, save.module, json.dumps(apart)) & set(members)
        except Exception:  # noqa: BLE001 - then all of them count
            return frozenset()
        return unread if len(unread) < len(set(members)) else frozenset()

    def _members(self, names: Names) -> dict[str, Held]:
        known, pair = self.rehearsal.by_name, (self.rehearsal.head, self.rehearsal.embedding)
        if all(name in known for name in names):
            return {name: known[name] for name in names}
        if len(names) == 2 and None not in pair and self._is_pair(names):
            return {name: known[name] for name in pair if name in known}
        return {}

    def _is_pair(self, names: Names) -> bool:
        """Whether two names that the older class lacks are its embedding and head under the names of today."""
        last = {name.rpartition(".")[2] for name in names}
        return last == {"weight"} and any("head" in n or "proj" in n or "output" in n for n in names)

    def _gone(self, name: str, held: Held) -> bool:
        """Whether a stored member is held by nobody, and what is held instead has other values."""
        file = self._file(name)
        if file not in self.draft.tensors or file in held.stored:
            return False
        for dropped in self.rehearsal.dropped:
            if dropped.name == name and dropped.equal is not None:
                return not dropped.equal
        if len(held.stored) != 1 or held.stored[0] not in self.draft.tensors:
            return False
        dtype = torch.float32 if self.version != "5" else self._dtype()
        mine, theirs = (self.draft.tensors[n].to(dtype) for n in (file, held.stored[0]))
        return mine.shape != theirs.shape or not torch.allclose(mine, theirs, 0, 0, equal_nan=True)

    def _file(self, name: str) -> str:
        """Return the stored name of a member, also where the class is another one than that which was saved."""
        prefix = f"{self.draft.save.prefix}."
        known = (self.draft.files.get(one, one) for one in (name, prefix + name, name.removeprefix(prefix)))
        return next((one for one in known if one in self.draft.tensors), name)

    def _dtype(self) -> torch.dtype:
        word = self.draft.config.get("dtype") or self.draft.config.get("torch_dtype") or "float32"
        return getattr(torch, word, torch.float32) if isinstance(word, str) else torch.float32

    def groups(self) -> set[Names]:
        """Every group that there can be talk of: those of the class, and those of the loaded model."""
        return {*self.draft.save.groups, *self.rehearsal.groups}

    def right(self) -> bool:
        """Whether the load is exact: nothing raised, random, left over or thrown away."""
        told = self.rehearsal
        biases = (names for names in self.groups() if all(name.endswith(".bias") for name in names))
        missing = set(told.missing).difference(*map(self._unread, biases)) if told.missing else ()
        clean = not (self.doubt or told.raised or missing or told.unexpected or told.mismatched)
        return clean and all(self.end(names).word not in LOSSES for names in self.groups())


@functools.lru_cache(64)
def _unread_of(class_name: str, model_type: str, module: str, config: str) -> frozenset[str]:
    one = animal(ClassCandidate(class_name, model_type, module))
    built = build_on_meta(one.model_class, one.config_class, json.loads(config))
    return frozenset(name for use in tiecheck.uses(built) if use.role == "unread" for name in use.names)


class Oracle:
    """Both lines of transformers: 5 in this process, 4.57 in one long-lived child."""

    def __init__(self, older: str | None = None) -> None:
        """Name the interpreter that has the 4.57 line; None for 5 alone."""
        self._older = Rehearser(older, 120.0) if older else None
        self.real_loads = 0
        """Real loads that were made."""

    def ask(self, path: Path, draft: Draft, *, real: bool) -> list[Line]:
        """Return what both lines make of a directory; the real load of 5 is held beside its rehearsal."""
        told = rehearse(str(path))
        doubt = told.unsure or ""
        if real and not doubt:
            self.real_loads += 1
            doubt = "; ".join(differences(path, told, draft))
            doubt = f"rehearsal: {doubt}" if doubt else ""
        lines = [Line("5", told, draft, doubt)]
        if self._older:
            told = self._older.rehearse(str(path))
            lines.append(Line("4.57", told, draft, told.unsure or ""))
        return lines

    def close(self) -> None:
        """End the child."""
        if self._older:
            self._older.close()


def differences(path: Path, told: Rehearsal, draft: Draft) -> list[str]:
    """Return what a real load of transformers 5 does and its rehearsal did not tell."""
    model_class = getattr(transformers, told.class_name or "", None)
    if model_class is None:
        return []
    if not (hasattr(model_class, "config_class") and _is_small(model_class, path)):
        return []
    try:
        model, info = model_class.from_pretrained(path, output_loading_info=True, local_files_only=True)
    except Exception as error:  # noqa: BLE001 - whatever it raises is the answer
        if told.raised and told.raised[0] == type(error).__name__:
            return []
        return [f"a real load raises {type(error).__name__}: {str(error)[:200]}, and it was {told.raised}"]
    if told.raised:
        return [f"a real load raises nothing, and it was {told.raised}"]
    named = dict(model.named_parameters(remove_duplicate=False))
    held: dict[int, list[str]] = {}
    for name, value in named.items():
        held.setdefault(id(value), []).append(name)
    groups = sorted(tuple(sorted(names)) for names in held.values() if len(names) > 1)
    found = []
    if groups != sorted(names for names in told.groups if names[0] in named):
        found.append(f"groups {groups[:3]}, and it told {told.groups[:3]}")
    if sorted(info["missing_keys"]) != sorted(told.missing):
        found.append(f"missing {sorted(info['missing_keys'])[:3]}, and it told {told.missing[:3]}")
    if draft.layout != "member twice":
        found += [f"{name} does not hold {h.stored}" for name, h in _single(told) if not _holds(named, name, h, draft)]
    return found[:3]


def _is_small(model_class: Any, path: Path) -> bool:
    """Whether a class under a mutated config is still small: a section that is gone brings the default's billions."""
    if model_class.config_class is None:  # an auto class
        return False
    try:
        with torch.device("meta"):
            model = model_class(model_class.config_class.from_pretrained(path))
    except Exception:  # noqa: BLE001 - then the load raises it too
        return True
    return sum(parameter.numel() for parameter in model.parameters()) <= LARGEST


def _single(told: Rehearsal) -> Iterable[tuple[str, Held]]:
    return ((h.names[0], h) for h in told.held if h.state == "loaded" and not h.converted and len(h.stored) == 1)


def _holds(named: dict[str, Any], name: str, held: Held, draft: Draft) -> bool:
    stored, value = draft.tensors.get(held.stored[0]), named.get(name)
    if stored is None or value is None or stored.shape != value.shape:
        return True
    return torch.allclose(stored.to(value.dtype), value, 0, 0, equal_nan=True)
