"""The mends of live findings, carried out as their reader would, and looked at by what is really there then."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import tiecheck
from tiecheck.records.edits import Edit
from tiecheck.records.report import Finding

APART = ("untied", "apart")
"""Choices that make several tensors of one; every other makes or keeps one."""


def judged(model: nn.Module, **options: Any) -> list[Finding]:
    """What is found in a model, by code and names."""
    report = tiecheck.check(model, **options)
    assert report.errors == ()
    return list(report.findings)


def paste(edit: Edit, model: nn.Module, **scope: Any) -> dict[str, Any]:
    """Run the Python of an edit where `model` is the model."""
    names = {"model": model, **scope}
    for step in edit.steps:
        assert step.kind == "run-python"
        assert step.code is not None
        exec(step.code, names)
    return names


def tensor(model: nn.Module, name: str) -> torch.Tensor:
    """What a name of the user's is."""
    from tiecheck.live.member_lookup import look_up

    found = look_up(model, name).tensor
    assert found is not None
    return found


def carry_out(build: Callable[[], nn.Module], code: str, choice: str, **options: Any) -> tuple[Finding, nn.Module]:
    """Break a model, mend it by one alternative, and hold what came of it against what the alternative says."""
    broken = build()
    before = judged(broken, **options)
    finding = next(f for f in before if f.code == code)
    edit = next(e for e in finding.edits if e.choice == choice)
    values = {name: tensor(broken, name).detach().clone() for name in finding.names if has_values(broken, name)}
    paste(edit, broken)
    after = judged(broken, **options)
    assert (code, finding.message) not in [(f.code, f.message) for f in after], "the finding is still there"
    new = {f.code for f in after if f.severity != "info"} - {f.code for f in before}
    assert not new, f"{new} came by the mend"
    hold_together(broken, finding, edit, values)
    return finding, broken


def is_whole(model: nn.Module) -> bool:
    """No finding is left, and every tensor has values: it can be saved."""
    left = [f for f in judged(model) if f.severity != "info"]
    return not left and not any(parameter.is_meta for parameter in model.parameters())


def has_values(model: nn.Module, name: str) -> bool:
    from tiecheck.live.member_lookup import look_up

    found = look_up(model, name).tensor
    return found is not None and not found.is_meta


def hold_together(model: nn.Module, finding: Finding, edit: Edit, values: dict[str, torch.Tensor]) -> None:
    """The members are one parameter, seen by a write through one of them; or none of them sees it."""
    there = [name for name in finding.names if has_values(model, name)]
    first, *others = (tensor(model, name) for name in there)
    if edit.safe and edit.choice in APART:
        assert all(torch.equal(tensor(model, name), values[name]) for name in there if name in values), (
            "a value is lost"
        )
    if edit.when is not None and edit.when.startswith("the values of "):
        kept = edit.when.removeprefix("the values of ").partition(" are right")[0]
        assert torch.equal(first, values[kept]), "the values that were to win did not"
    if finding.code in ("TIE308", "TIE701", "TIE312") and edit.choice not in APART:
        return  # not about which tensors are one
    corner = (0,) * first.dim()
    with torch.no_grad():
        first[corner] += 1
    for other in others:
        seen = other.shape == first.shape and torch.equal(other, first)
        assert seen == (edit.choice not in APART)
        assert (other is first) == (edit.choice not in APART)
    with torch.no_grad():
        first[corner] -= 1


def survives_a_save(model: Any) -> None:
    """A save and a load give the same values under every name, and the same ties."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        again = type(model).from_pretrained(folder)
    for name, value in model.named_parameters(remove_duplicate=False):
        assert torch.equal(again.get_parameter(name), value), name
    assert ties_of(again) == ties_of(model)


def ties_of(model: nn.Module) -> set[frozenset[str]]:
    """The names that are one parameter."""
    held: dict[int, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        held.setdefault(id(parameter), set()).add(name)
    return {frozenset(names) for names in held.values() if len(names) > 1}
