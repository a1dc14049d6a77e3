"""The Python doors: the same check as the command line's, and the bare facts of a live module."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from tiecheck.config.options import PLACING, Config
from tiecheck.engine.options import check_beside, check_with, make_config
from tiecheck.engine.run import assemble_report, inspect_targets
from tiecheck.errors import TargetError
from tiecheck.records.counts import Counts
from tiecheck.records.report import Report, View
from tiecheck.records.words import Unknown
from tiecheck.targets.parse import given_path

if TYPE_CHECKING:
    from torch import nn

    from tiecheck.engine.compare import Compared
    from tiecheck.records.fleet import TieComparison
    from tiecheck.records.life import SurvivalMatrix
    from tiecheck.records.live import Tie
    from tiecheck.records.uses import Use

    Ties = Mapping[str, Iterable[Iterable[str]]] | Iterable[Iterable[str]]


def check(
    target: str | os.PathLike[str] | nn.Module,
    *,
    config: str | os.PathLike[str] | None = None,
    ties: Ties | None = None,
    optimizer: Any = None,
    beside: nn.Module | Iterable[nn.Module] | None = None,
    **options: Any,
) -> Report:
    """Check a model and return what was found; nothing is printed.

    Args:
        target: What `tiecheck TARGET` takes, or a live `nn.Module`. A module is looked at as it is: no parameter is
            touched. Only where it looks untrained, and its tied matrix far too large for a head, one forward pass
            on random tokens measures the logits, in eval mode, which is restored together with the random state.
        config: A configuration file to read, as `--config` does; none is looked for, since a library must not depend
            on the working directory. What is given here goes before what stands there.
        ties: Your own contract for models that declare nothing: groups of names that are one tensor, by the name or
            the dotted path of the model's class; or for a module the bare groups, `[["a.weight", "b.weight"]]`.
        optimizer: The optimizer of a live module, or several: what they hold of its ties is looked at too
            (TIE702, TIE703, TIE707, TIE708).
        beside: Another model, or several, that was made from a live module: a reference, an average, a teacher. What
            the two share is looked at too (TIE319).
        options: Fields of `Config` (`tiecheck.config.options`): `select`, `ignore`, `fail_on`, `strict`, `values`,
            `live`, `load`, `uses` (trace a forward pass), `inputs` (of it, as `uses` takes them), `measure` (run it),
            `trust_remote_code`, `rehearse`, `python` (the interpreter that rehearses), `base` (of an
            adapter), `drafts_for` (`--target`), `converted_from` (`--from`), `judge_for`, `revision`, `offline`; and
            of a placement `device_map` (a strategy, a device, a JSON file or a map) with `max_memory`, `dtype`,
            `no_split`, `hash_seeds` and `checkpoint`.

    Returns:
        The report. A target that cannot be read is in its `errors`, as on the command line.

    Raises:
        UsageError: A rule code that does not exist, a contract that is none, a file with something wrong in it, a
            device or a memory that is none.
        TypeError: An option that does not exist.
    """
    made = make_config(target, config=config, ties=ties, **options)
    if optimizer is not None or beside is not None:
        return check_beside(target, made, optimizer, beside)  # type: ignore[arg-type]  # it refuses a path
    return check_with(target, made)


def inspect(
    target: str | os.PathLike[str] | nn.Module,
    *,
    config: str | os.PathLike[str] | None = None,
    ties: Ties | None = None,
    **options: Any,
) -> Report:
    """The facts about a model, without a judgement; nothing is printed.

    Args:
        target: What `tiecheck inspect TARGET` takes, or a live `nn.Module`, which is not changed.
        config: A configuration file, as for `check`.
        ties: A contract of your own, as for `check`.
        options: Fields of `tiecheck.config.options.Config`: `values`, `live`, `load`, `uses`, `inputs`, `measure`,
            `trust_remote_code`, `revision`, `offline`.

    Returns:
        The report of `check` without findings and skips, with `counts`, and for a live model with `views`: the
        installed tools are run. What cannot be read is in its `errors`.

    Raises:
        UsageError: What `check` raises it for.
        TypeError: An option that does not exist.
    """
    for word in options:
        if word in PLACING:
            raise TypeError(f"inspect judges no placement, so there is no option {word!r}; check has it")
    made = make_config(target, config=config, ties=ties, **options)
    made = made._replace(**{field: Config._field_defaults[field] for field in PLACING})
    path = given_path(target)
    return assemble_report(inspect_targets((target if path is None else path,), made))  # type: ignore[arg-type]


def compare(
    before: Compared, after: Compared, *, config: str | os.PathLike[str] | None = None, **options: Any
) -> TieComparison:
    """Compare the ties of two models: before and after a save, a merge, a conversion; nothing is printed.

    Args:
        before: What `check` takes, or what `find_ties` returned, for a model that is changed in place.
        after: The other one; a module may be compared with the directory that it was saved to.
        config: A configuration file, as for `check`.
        options: Fields of `tiecheck.config.options.Config`: `values` (`never` compares no shapes and values, as for a
            tiny model and its reference; `always` counts every row that differs), `live`, `load`,
            `trust_remote_code`, `revision`, `offline`, `timeout`.

    Returns:
        The groups that are `lost`, `made`, `changed` or the `same`, each as it is on both sides; `equal` is None
        where nothing is known to differ and something could not be compared. What `find_ties` returned has no values.

    Raises:
        TiecheckError: One of them cannot be read, or its ties cannot be told.
        TypeError: An option that does not exist.
    """
    from tiecheck.engine.compare import compare_targets

    return compare_targets(before, after, make_config(before, config=config, **options))


def count_parameters(module: nn.Module) -> Counts:
    """Count the parameters of a live module, ties counted once; and by every other way of counting.

    Args:
        module: Any `nn.Module`; lazy, meta, wrapped, sharded or cyclic too. No element is read, nothing is changed.

    Returns:
        `unique` is the number of parameters: each memory once. `objects` is what
        `sum(p.numel() for p in model.parameters())` gives, `expected` what `unique` would be if every declared tie
        held. Each has `elements`, `nbytes` and `trainable`; what cannot be told is None, and `reasons` says why.

    Raises:
        TiecheckError: If the module's own code raises.
        TypeError: If `module` is no `nn.Module`.
    """
    from tiecheck.live.parameter_counts import count_live
    from tiecheck.live.registrations import looking_at

    with looking_at(module):
        return count_live(module)


def find_ties(module: nn.Module, *, buffers: bool = False, cap: int = 32) -> tuple[Tie, ...]:
    """The groups of names of a module that share a module, a `Parameter` or memory. Facts only, no judgement.

    Args:
        module: Any `nn.Module`; cycles, aliased graphs, lazy, meta and quantised parameters included.
        buffers: Whether shared buffers are listed too.
        cap: How many names a group lists at most; `names_total` is the true number.

    Returns:
        The groups, sorted by first name. A group declared as tied whose members are copies, separate or absent is
        in the report of `check`, not here.

    Raises:
        TiecheckError: If the module's own code raises.
        TypeError: If `module` is no `nn.Module`.
        ValueError: If `cap` is below 2.
    """
    from tiecheck.live.live_facts import find_live_ties as find

    return find(module, buffers=buffers, cap=cap)


def uses(module: nn.Module, inputs: Any = None) -> tuple[Use, ...]:
    """Return what a forward pass of a module reads: each parameter, as what, and by which operation.

    The pass is made on meta: of the weights only shapes and types are taken, nothing is computed or allocated, and the
    module is left as it was. Where meta cannot be followed, a module with weights is run on them, in evaluation mode.

    Args:
        module: Any `nn.Module`, with weights or on meta.
        inputs: What `forward` is given: named arguments as a mapping, positional ones as a tuple, a single value, or a
            function that returns one of these. None makes tokens, pictures or sound up by the names of its arguments.

    Returns:
        The uses, by names. A parameter that the pass does not read has one of role `unread`; a tensor that is read and
        is no parameter of the module has `held` of `attribute` or `nowhere`.

    Raises:
        TiecheckError: No pass came to its end; the message names the operation that stopped it.
        TypeError: If `module` is no `nn.Module`.
    """
    from tiecheck.live.registrations import looking_at
    from tiecheck.trace.inputs import given_inputs
    from tiecheck.trace.uses import trace_uses

    with looking_at(module):
        found = trace_uses(module, None if inputs is None else given_inputs(inputs))
    if isinstance(found, Unknown):
        raise TargetError(found.reason)
    return found.uses


def views(module: nn.Module) -> tuple[View, ...]:
    """Return what accelerate, transformers, safetensors, lightning and torch each take for tied in a live module.

    The installed tools are really run (`ran`, with their version), short of a run that would not end; what goes by
    objects alone, and older releases of accelerate, are reproduced. Nothing is written, and no
    tool's warning is shown.

    Args:
        module: Any `nn.Module`. It is not changed; its `state_dict()` is asked for, as every saver does.

    Returns:
        One view for each function and algorithm: the `groups` it takes for tied, what it would leave out on saving
        (`dropped`), what it answers (`says`), and what it raises (`error`). In a fixed order, the same from run to run.

    Raises:
        TiecheckError: If the module's own code raises where no tool is asked yet.
        TypeError: If `module` is no `nn.Module`.
    """
    from tiecheck.live.registrations import looking_at
    from tiecheck.peers.views.registry import ask_tools

    with looking_at(module):
        return ask_tools(module, run=True)


def survive(
    module: nn.Module, *, operations: Iterable[str] = (), progress: Callable[[str], None] | None = None
) -> SurvivalMatrix:
    """Put the ties of a live model through the operations of its life; see `survive_operations`."""
    from tiecheck.guard.survival import survive_operations

    return survive_operations(module, operations=operations, progress=progress)
