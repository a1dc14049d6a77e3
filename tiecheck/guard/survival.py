"""`tiecheck.survive`: the ties of a model against the operations of its life, each on a fresh instance."""

from __future__ import annotations

import contextlib
import io
import logging
import random
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Literal

import torch
from torch import Tensor, nn

from tiecheck.errors import exception_line, shown
from tiecheck.guard.operations.registry import NotHereError, Operation, Trial, chosen_operations, faithful_copy
from tiecheck.guard.remembered_ties import RememberedTie, remember_ties
from tiecheck.live import torch_adapter
from tiecheck.live.derived_weights import name_before
from tiecheck.live.group_kind import judge_members
from tiecheck.live.module_graph import CAP, ModuleGraph
from tiecheck.live.registrations import Registrations, looking_at
from tiecheck.live.transformers.declarations import read_declarations
from tiecheck.live.wrappers import UserNames, class_name
from tiecheck.records.life import Break, Cell, Survival, SurvivalMatrix, SurvivedTie, UserLine
from tiecheck.records.report import Report
from tiecheck.records.words import TIED
from tiecheck.trace.forward import run_on_random_tokens
from tiecheck.wording import with_article


def survive_operations(
    model: nn.Module, *, operations: Iterable[str] = (), progress: Callable[[str], None] | None = None
) -> SurvivalMatrix:
    """Put the ties of a live model through the operations of its life, each on a copy of its own.

    The model is read, and neither it nor a file of yours is changed; what an operation writes goes to a temporary
    directory. Three things are looked at: how the names hang together, their values, and whether a step on one member
    is seen in the others; and the logits, where the model takes tokens.

    Args:
        model: Any module that can be copied.
        operations: Names or families of operations (`tiecheck survive --list`); none for all.
        progress: Is told the name of each operation before it begins.

    Returns:
        The matrix. An operation that breaks every tie by nature is shown as that; nothing is judged.

    Raises:
        TiecheckError: The model cannot be copied, or there is no operation of a name.
        TypeError: It is no `torch.nn.Module`.
    """
    chosen = chosen_operations(operations)
    with looking_at(model):
        ties = sorted(remember_ties(model), key=lambda tie: tie.names)
        gradients = [(one, one.grad) for one in model.parameters()]
        faithful_copy(model, meta=True)  # what cannot be copied is an error of the model, and none of each operation
        rows, logits = [], cache(lambda: _logits(faithful_copy(model), ties, None))
        for one in chosen:
            if progress is not None:
                progress(one.name)
            rows.append(_tried(model, ties, one, logits))
        for parameter, gradient in gradients:  # a closure of the model's may reach its original
            if parameter.grad is not gradient:
                parameter.grad = gradient
        told = tuple(SurvivedTie(tie.names, tie.kind) for tie in ties)
        declared = {n for group in read_declarations(ModuleGraph(model), CAP).groups for n in group.names}
    return SurvivalMatrix(class_name(model), told, tuple(rows), tuple(sorted(declared)))


def _tried(
    model: nn.Module, ties: list[RememberedTie], one: Operation, logits: Callable[[], Tensor | None]
) -> Survival:
    """Do one operation to a fresh instance, and look at what came of it; `logits` gives those of the model."""
    row = Survival(one.name, one.words, one.family, one.by_nature, "ran", None, (), (), (), None)
    names = tuple(
        tuple(name for name in tie.names if name not in tie.references)
        for tie in ties
        if tie.kind in TIED and _are_parameters(model, tie)
    )
    with _quiet(), tempfile.TemporaryDirectory(prefix="tiecheck-") as folder:
        try:
            after = one.do(Trial(model, names, folder))
            if not isinstance(after, nn.Module):
                return row._replace(status="raised", reason=f"it gave {with_article(type(after).__name__)}, no module")
        except NotHereError as error:
            return row._replace(status="skipped", reason=str(error))
        except (Exception, SystemExit) as error:  # noqa: BLE001  # the library refuses: that is the answer
            return row._replace(status="raised", reason=shown(exception_line(error)))
        old, new = _values(model), _values(after)
        lost = tuple(sorted(n for n, t in old.items() if one.saves and n in new and _same(t, new[n]) is False))
        gone = tuple(sorted(n for n in old if one.saves and n not in new and new))
        outputs = _outputs(logits, after, ties, _matrix(model, ties))
        cells = tuple(_cell(model, after, tie) for tie in ties)  # last, since it takes a step
        made = () if one.by_nature else _made(ties, after)
        return row._replace(cells=cells, made=made, lost=(*lost, *gone), outputs=outputs)


def _are_parameters(model: nn.Module, tie: RememberedTie) -> bool:
    return isinstance(tie.first_tensor(model), nn.Parameter)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what libraries print and warn, and the random state, to the operation."""
    state = random.getstate()
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            torch.random.fork_rng(devices=[]),
            contextlib.redirect_stderr(io.StringIO()),
            contextlib.redirect_stdout(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        random.setstate(state)
        logging.disable(level)


def _values(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by every name, without wrappers."""
    places = Registrations(model, buffers=True)
    user = UserNames(places.graph)
    return {user.of(name): tensor for tensor in places.tensors() for name in places.names_of(tensor)}


def _same(one: Tensor, other: Tensor) -> bool | None:
    """Tell whether a tensor holds the values of another, cast to its type; None where that cannot be told."""
    plain = type(one) in torch_adapter.PLAIN and type(other) in torch_adapter.PLAIN
    if not plain or one.is_meta or other.is_meta or one.dtype.is_floating_point != other.dtype.is_floating_point:
        return None
    if one.shape != other.shape:
        return False
    return torch_adapter.equal_bytes(one.detach().to(other.dtype), other.detach())


def _cell(model: nn.Module, after: nn.Module, tie: RememberedTie) -> Cell:
    """Look at one tie after an operation: structure, values, effect."""
    verdict = tie.judge(after)
    held = [tie.tensor(after, name) for name in tie.names]
    if verdict is None:
        now = judge_members([tie.member(after, name) for name in tie.names])
        untold = now.kind == "unknown"
        kind = now.kind if untold or now.kind in TIED else tie.kind
        cell = Cell(tie.names, tie.kind, kind, not untold, now.reason if untold else None, None, None)
    else:
        cell = Cell(tie.names, tie.kind, verdict.kind, False, verdict.reason, None, None)
    tensors = [tensor for tensor in held if tensor is not None]
    if len(tensors) < len(held):
        return cell
    pairs = [(tie.tensor(model, name), tensor) for name, tensor in zip(tie.names, tensors, strict=True)]
    told = [_same(old, new) for old, new in pairs if old is not None]
    values: Literal["same", "changed"] | None = None
    if told and None not in told:
        values = "same" if all(told) else "changed"
    if any(t.is_meta for t in tensors) and not all(t.is_meta for t in tensors):
        cell = cell._replace(reason="half of it is on the meta device")
    return cell._replace(values=values, moves=_moves(tensors))


def _moves(tensors: list[Tensor]) -> bool | None:
    """Take a step on the first of some tensors, and tell whether all others have moved with it."""
    first = tensors[0]
    plain = all(type(t) in torch_adapter.PLAIN and t.is_floating_point() and t.numel() for t in tensors)
    if not plain or any(t.is_meta for t in tensors):
        return None
    before = [tensor.detach().clone() for tensor in tensors]
    parameter = first if isinstance(first, nn.Parameter) else nn.Parameter(first)
    was = parameter.requires_grad
    parameter.requires_grad_(True)
    parameter.grad = torch.ones_like(parameter)
    torch.optim.SGD([parameter], lr=1.0).step()
    parameter.grad = None
    parameter.requires_grad_(was)
    return all(not torch_adapter.equal_bytes(t.detach(), b) for t, b in zip(tensors, before, strict=True))


def _made(ties: list[RememberedTie], after: nn.Module) -> tuple[tuple[str, ...], ...]:
    """Return the groups that are tied in a model and were not in the one that it was made of."""
    known = [set(tie.names) for tie in ties]
    found = [
        tuple(name for name in tie.names if name not in tie.references)
        for tie in remember_ties(after)
        if tie.kind in TIED
    ]
    fresh = [names for names in found if not any({name_before(name) for name in names} <= held for held in known)]
    return tuple(sorted(names for names in fresh if len(names) > 1))


def _matrix(model: nn.Module, ties: list[RememberedTie]) -> Tensor | None:
    """Return the first matrix that is tied in a model, with values; None where there is none."""
    tied = next((t for tie in ties if (t := tie.first_tensor(model)) is not None and t.dim() == 2), None)
    return None if tied is None or tied.is_meta else tied


def _logits(model: nn.Module, ties: list[RememberedTie], dtype: torch.dtype | None) -> Tensor | None:
    """Return the logits of random tokens; None where it gives none, or its element type is not the one asked for."""
    tied = _matrix(model, ties)
    if tied is None or dtype not in (None, tied.dtype):
        return None
    with contextlib.suppress(Exception):  # a model that does not run has none
        made = run_on_random_tokens(model, tied)
        return None if isinstance(made, str) else made.logits
    return None


def _outputs(
    logits: Callable[[], Tensor | None], after: nn.Module, ties: list[RememberedTie], tied: Tensor | None
) -> Literal["same", "differ"] | None:
    """Compare the logits of random tokens; None where one of them gives none, or the element type is another."""
    one = None if tied is None else _logits(after, ties, tied.dtype)
    two = None if one is None else logits()
    if one is None or two is None or one.shape != two.shape:
        return None
    return "same" if torch.allclose(one, two, atol=1e-4, rtol=1e-3) else "differ"


def judge_survival(found: SurvivalMatrix) -> Report:
    """Judge operations that somebody has named: ties that they broke or made, and values that they lost.

    What an operation breaks by nature counts here too, since it was asked for.
    """
    from tiecheck.engine.options import life_report

    breaks = [
        Break(cell.names, cell.before, cell.after, cell.reason, (), UserLine("", 0, row.words, row.operation))
        for row in found.operations
        for cell in row.cells
        if not cell.kept and cell.after != "unknown"
    ]
    return life_report(found.target, tuple(breaks), found)
