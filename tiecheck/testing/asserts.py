"""Assertions about ties, for tests: about the names given and nothing else, or about all the ties there are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from tiecheck.errors import class_word
from tiecheck.guard.errors import close_names, kind_text, member_lines, quoted_names, tying_advice, untying_advice
from tiecheck.records.words import KINDS, Kind

if TYPE_CHECKING:
    from torch import nn

    from tiecheck.live.group_kind import GroupVerdict
    from tiecheck.live.member_lookup import Member

__all__ = ["assert_not_tied", "assert_tied", "assert_ties_match"]


def assert_tied(model: nn.Module, *names: str, kind: Kind = "parameter") -> None:
    """Assert that some names of a model are tied.

    Args:
        model: The model, as it is now.
        names: Two or more names of parameters or buffers.
        kind: The least strength wanted: `module` > `parameter` > `storage` > `overlap` > `copy`.

    Raises:
        AssertionError: If they hang together more weakly, with what was found and what to change.
        TiecheckError: If the model's own code raises.
        AttributeError: If the model has no such name, as torch 2.13 `get_parameter` raises it; with close matches.
        TypeError: If `model` is no module.
        ValueError: If fewer than two names are given, or no kind of that name can be wanted.
    """
    __tracebackhide__ = True
    wanted = KINDS.index(kind) if kind in KINDS else len(KINDS)
    if wanted > KINDS.index("copy"):
        raise ValueError(f"kind must be one of {', '.join(KINDS[:5])}, not {kind!r}")
    with _looking_at(model):
        members, verdict = _look(model, names)
        if KINDS.index(verdict.kind) > wanted:
            raise AssertionError(
                f"not tied as {kind}: {quoted_names(names)}\n"
                f"  {kind_text(verdict.kind, verdict.reason)}\n"
                f"{member_lines(members)}\n"
                f"  {tying_advice(model, members, kind)}"
            )


def assert_not_tied(model: nn.Module, *names: str) -> None:
    """Assert that no two of some names of a model share anything: module, parameter or memory.

    Args:
        model: The model, as it is now.
        names: Two or more names of parameters or buffers.

    Raises:
        AssertionError: If two of them are one tensor, share memory, or may share it for all that can be told.
        TiecheckError: If the model's own code raises.
        AttributeError: If the model has no such name; with close matches.
        ValueError: If fewer than two names are given.
    """
    __tracebackhide__ = True
    with _looking_at(model):
        members, verdict = _look(model, names)
        shared = list(verdict.links)
        for part in verdict.parts:
            if len(part) > 1:
                owners = {(id(m.owner), m.attribute) for m in members if m.name in part}
                shared.append(("module" if len(owners) == 1 else "parameter", part))
        if verdict.kind == "unknown" and not shared:
            shared.append(("unknown", tuple(sorted(names))))
        if shared:
            kind, group = min(shared, key=lambda pair: (KINDS.index(pair[0]), pair[1]))
            raise AssertionError(
                f"tied: {quoted_names(group)}\n"
                f"  {kind_text(kind, verdict.reason if kind == 'unknown' else None)}\n"
                f"{member_lines([m for m in members if m.name in group])}\n"
                f"  {untying_advice(model, kind, group[0], group[1])}"
            )


def assert_ties_match(
    model: nn.Module, expected: Iterable[Iterable[str]] | Mapping[str, str], *, buffers: bool = False
) -> None:
    """Assert that the ties of a model are the groups given, and no others.

    A tie that accelerate keeps in the map of an offloaded model is seen where it is expected; one that is not expected
    is not looked for there.

    Args:
        model: The model, as it is now.
        expected: Groups of two or more names that are one tensor, in any order; `[]` for a model without ties. Or
            target to source, as transformers declares it (`model.all_tied_weights_keys`).
        buffers: Whether buffers count too.

    Raises:
        AssertionError: If a group is missing, holds other names, or is there and was not expected: each one with how
            its members really hang together and what to change. A name that the model does not have is such a case.
        TiecheckError: If the model's own code raises.
        TypeError: If `model` is no module.
        ValueError: If `expected` is no such thing, or a name is in two groups.
    """
    from tiecheck.testing.matching import differences_text, read_expected

    __tracebackhide__ = True
    wanted = read_expected(expected)
    with _looking_at(model):
        told = differences_text(model, wanted, buffers=buffers)
        if told:
            raise AssertionError(f"the ties of {class_word(type(model))} are not the ones expected: {told}")


def _look(model: nn.Module, names: tuple[str, ...]) -> tuple[list[Member], GroupVerdict]:
    """Look names up, and how they hang together."""
    from tiecheck.live.group_kind import judge_members
    from tiecheck.live.member_lookup import look_up

    __tracebackhide__ = True
    if len(set(names)) < 2:  # a tie has two ends
        raise ValueError("two or more different names are wanted")
    members = [look_up(model, name) for name in dict.fromkeys(names)]
    for member in members:
        if member.tensor is None:
            raise AttributeError(f"{class_word(type(model))}: {member.why}{close_names(model, member.name)}")
    return members, judge_members(members)


def _looking_at(model: object) -> AbstractContextManager[None]:
    """Return the context in which a model's own failures become ours; assertions and wrong names stay what they are."""
    from tiecheck.live.registrations import looking_at

    return looking_at(model, own=__name__)
