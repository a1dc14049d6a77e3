"""Breaks the ties of a class in every way, and holds tiecheck's word against what is true afterwards."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from breaks import BREAKS, Break, Group, NotHereError
from states import WORDS, state_of
from subjects import ClassCandidate, make, truth_of
from zoo import Animal, animal, tied_model

import tiecheck
from tiecheck.records.report import TargetReport
from tiecheck.tables.generate.configs import config_objects, dict_at_level

LONGEST = 300
"""Characters of an exception that a row keeps."""

WITHOUT_VALUES = (
    *("equal-copy", "other-tensor", "one-of-several", "deepcopy-of-the-module", "set-input-embeddings"),
    *("frozen-copy", "buffer-instead", "none-instead", "half-of-one-module"),
)
"""The ways that mean the same on meta, where a model is as large as it likes."""

BY_HAND = "tied-by-hand"
"""The way that makes a tie: `lm_head.weight = embedding.weight` under a false flag."""

BY_HAND_RULES = ("TIE304", "TIE305", "TIE310")
"""Tied against the flag; where the class does not declare it so, undeclared, or dropped by a key that fits too much."""

OTHERWISE = {"set-input-embeddings": ("TIE306",)}
"""Rules that say more of one way than what is true of the group afterwards."""


class Outcome(NamedTuple):
    """One break of one group."""

    way: str
    """The break."""
    names: tuple[str, ...]
    """The group."""
    state: str
    """What is true afterwards, a word of `WORDS`; or why it cannot be done."""
    word: str
    """`found`, `unknown`, `missed`, `wrong kind`; where the tie holds `right` and `false alarm`; `not here`."""
    codes: tuple[str, ...]
    """The error-level findings that name the broken member."""


def row_of(candidate: ClassCandidate) -> dict[str, Any]:
    """Every break of a class, made small and with weights, or at full size on meta; or why it cannot be had at all."""
    row: dict[str, Any] = {"class": candidate.class_name, "model_type": candidate.model_type, "variant": "broken"}
    begin = time.process_time()
    try:
        one = animal(candidate)
        model = tied_model(one)
    except Exception as error:  # noqa: BLE001 - a class may refuse a tiny config in any way
        return row | _on_meta(candidate, " ".join(f"{type(error).__name__}: {error}".split())[:LONGEST])
    found = list(outcomes(model))
    square = squared(one, model)
    if square is not None:
        found = [(o, s) for o, s in found if o.way != "transposed-view"]
        found += outcomes(square, [BREAKS["transposed-view"]])
    found += tied_by_hand(one)
    return row | {"not_built": None, "on_meta": None} | _told(found, begin)


def _on_meta(candidate: ClassCandidate, why: str) -> dict[str, Any]:
    """The breaks that need no values, of a class that cannot be had small."""
    begin = time.process_time()
    try:
        model = max(
            (make(candidate, variant) for variant in ("default", "true")), key=lambda m: len(truth_of(m).groups)
        )
    except Exception as error:  # noqa: BLE001 - as above
        return {"not_built": " ".join(f"{type(error).__name__}: {error}".split())[:LONGEST]}
    found = list(outcomes(model, [BREAKS[way] for way in WITHOUT_VALUES]))
    return {"not_built": None, "on_meta": why} | _told(found, begin)


def _told(found: list[tuple[Outcome, float]], begin: float) -> dict[str, Any]:
    seconds = {"all": time.process_time() - begin, "tiecheck": sum(seconds for _, seconds in found)}
    return {"seconds": seconds, "outcomes": [outcome._asdict() for outcome, _ in found]}


def tied_by_hand(one: Animal) -> Iterator[tuple[Outcome, float]]:
    """The head assigned the embedding's weight under a false flag, where the two have one shape (corpora: U1)."""
    try:
        model = one.model(value=False)
        head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
        apart = head.weight is not embedding.weight and head.weight.shape == embedding.weight.shape
    except Exception:  # noqa: BLE001 - a class without one, or one that refuses the flag, may raise anything
        return
    if not apart or model.config.tie_word_embeddings is not False:
        return
    name = next(n for n, p in model.named_parameters(remove_duplicate=False) if p is head.weight)
    head.weight = embedding.weight
    names = next(group for group in truth_of(model).groups if name in group)
    begin = time.process_time()
    report = tiecheck.check(model, ignore="TIE701").targets[0]
    about = sorted({f.code for f in report.findings if name in f.names and f.severity != "info"})
    word = "found" if set(BY_HAND_RULES) & set(about) else "unknown" if report.skips else "missed"
    yield Outcome(BY_HAND, names, "tied against the flag", word, tuple(about)), time.process_time() - begin


def squared(one: Animal, model: Any) -> Any:
    """The model with as many words as its embedding is wide; None where it cannot be had so."""
    weight = _input_weight(model)
    if weight is None or weight.dim() != 2:
        return None
    config = one.config_class.from_dict(copy.deepcopy(one.data))
    data = copy.deepcopy(one.data)
    for level, owner in config_objects(config):
        for name, value in owner.to_dict().items():
            if name.endswith("vocab_size") and type(value) is int:
                dict_at_level(data, level)[name] = int(weight.shape[1])
    try:
        square = tied_model(one._replace(data=data))
        shape = _input_weight(square).shape
    except Exception:  # noqa: BLE001 - a class may refuse it in any way
        return None
    return square if shape == torch.Size((weight.shape[1],) * 2) else None


def groups_to_break(model: Any) -> list[Group]:
    """Up to three: the group of the input embeddings or the first matrix, one of three members or more, a vector."""
    real = sorted(truth_of(model).groups)
    inputs = _input_weight(model)
    held = {names: model.get_parameter(names[0]) for names in real}
    matrices = sorted((names for names in real if held[names].dim() > 1), key=lambda names: held[names] is not inputs)
    several = [names for names in real if len(names) > 2]
    vectors = [names for names in real if held[names].dim() == 1]
    targets = getattr(model, "all_tied_weights_keys", None) or {}
    wanted = dict.fromkeys([*matrices[:1], *several[:1], *vectors[:1]])
    return [Group(names, next((n for n in reversed(names) if n in targets), names[-1])) for names in wanted]


def _input_weight(model: Any) -> Any:
    try:
        return model.get_input_embeddings().weight
    except Exception:  # noqa: BLE001 - a class without one may raise anything
        return None


def outcomes(model: Any, ways: Iterable[Break] = tuple(BREAKS.values())) -> Iterator[tuple[Outcome, float]]:
    """Every break of the groups of a model, each done to a copy, with the CPU seconds of tiecheck."""
    for group in groups_to_break(model):
        for way in ways:
            try:
                broken, member = way.do(copy.deepcopy(model), group)
            except NotHereError as reason:
                yield Outcome(way.name, group.names, str(reason), "not here", ()), 0.0
                continue
            state = state_of(broken, group.names)
            begin = time.process_time()
            report = tiecheck.check(broken, ignore="TIE701").targets[0]
            seconds = time.process_time() - begin
            yield judged(way.name, group.names, member, state, report), seconds


def judged(way: str, names: tuple[str, ...], member: str, state: str, report: TargetReport) -> Outcome:
    """What a report is worth."""
    errors = [f for f in report.findings if f.severity == "error"]
    about = [f for f in errors if any(_speaks_of(name, member) for name in f.names)]
    codes = tuple(sorted({f.code for f in about}))
    if state == "one":
        return Outcome(way, names, state, "false alarm" if errors else "right", tuple(sorted({f.code for f in errors})))
    if not about:
        word = "unknown" if report.skips else "missed"
        return Outcome(way, names, state, word, tuple(sorted({f.code for f in errors})))
    expected = [*WORDS[state], *OTHERWISE.get(way, ())]
    if any(name.rpartition(".")[2] == "bias" for name in names):
        expected.append("TIE308")
    return Outcome(way, names, state, "found" if set(codes) & set(expected) else "wrong kind", codes)


def _speaks_of(name: str, member: str) -> bool:
    """Whether a finding's name is the member, or what a parametrization or pruning made of it."""
    path, _, attribute = member.rpartition(".")
    made = (f"{path}.parametrizations.{attribute}.", f"{path}.{attribute}_orig")
    return name == member or name.startswith(made)
