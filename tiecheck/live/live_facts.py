"""The live layer: what an `nn.Module` really holds, and what its class says about it.

`find_live_ties` and `collect_live` change nothing, read no values except to tell a copy from a separate tensor,
and finish on registered cycles, on aliased chains and on tensors that have no memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from torch import nn

from tiecheck.live.derived_weights import effects_of
from tiecheck.live.fsdp_groups import split_by_sharding
from tiecheck.live.group_kind import empty_members, find_declared_ties
from tiecheck.live.mismatches import equal_heads, freezes_of, logits_misfits, misfits_of
from tiecheck.live.module_graph import ModuleGraph
from tiecheck.live.registrations import CAP, Registrations, looking_at, paused_collector
from tiecheck.live.ties import aliases_of, ties_of
from tiecheck.live.transformers.declarations import DeclaredGroup, fixed_flags, read_declarations
from tiecheck.live.transformers.heads import heads_of
from tiecheck.live.transformers.saving import Unsaved, unsaved_ties
from tiecheck.live.wrappers import FSDP2, PEFT, UserNames, class_name, with_user_names
from tiecheck.records.live import DeclaredTie, KeyProblem, LiveModel, Tie
from tiecheck.records.words import TIED

__all__ = ["CAP", "collect_live", "find_live_ties"]


class Contract(NamedTuple):
    """Promise of a user that names are tied, for a model whose class declares nothing."""

    groups: tuple[tuple[str, ...], ...] = ()
    """Groups of names; the last of each is the one the others are to be redirected to."""
    origin: str = ""
    """Where it is written, e.g. `pyproject.toml [tool.tiecheck.ties]`."""


NO_CONTRACT = Contract()


def find_live_ties(module: nn.Module, *, buffers: bool = False, cap: int = CAP) -> tuple[Tie, ...]:
    """Return the groups of parameters of a module that share a module, a `Parameter` or memory.

    Args:
        module: Any module; on meta, lazy, wrapped or sharded too. It is not changed.
        buffers: True to add groups of buffers (`Tie.buffer`), and of a parameter with a buffer.
        cap: Names a group lists at most, the first in order.

    Returns:
        Groups by first name, names sorted; in names and membership what
        `named_parameters(remove_duplicate=False)` (torch 2.13) gives, where that finishes, plus shared memory.

    Raises:
        TargetError: If the module's own code raises, be it that it was never initialised.
        TypeError: If `module` is no `nn.Module`.
        ValueError: If `cap` is below 2.
    """
    if cap < 2:  # a group has two names
        raise ValueError(f"cap must be at least 2, not {cap}")
    with looking_at(module), paused_collector():
        return ties_of(Registrations(module, buffers=buffers), cap)


def collect_live(module: nn.Module, *, origin: str, contract: Contract = NO_CONTRACT) -> LiveModel:
    """Collect the facts of a live module, unchanged: ties, aliases, and what each `PreTrainedModel` declares.

    Names are the user's: without what wrappers put before them (see `wrappers`).

    Raises:
        TypeError: If `module` is no `nn.Module`.
    """
    with paused_collector():
        places = Registrations(module, buffers=False)
        graph = places.graph
        user = UserNames(graph)
        said = read_declarations(graph, CAP)
        ties = ties_of(places, CAP)
        promised = [DeclaredGroup(group, group[-1], (contract.origin,)) for group in contract.groups]
        saving = (
            unsaved_ties(graph, said, ties) if PEFT not in user.wrappers else Unsaved((), ())
        )  # which saves adapters
        declared = find_declared_ties(module, [*said.groups, *promised])
        models = [(one.prefixes[0], one.model) for one in said.models if one.prefixes]
        effects, freezes = effects_of(places), freezes_of(places)
        broken = effects or freezes or any(claim.kind not in TIED for claim in declared)
        found = LiveModel(
            class_name=class_name(module),
            origin=origin,
            ties=ties,
            aliases=aliases_of(graph, CAP),
            declared=declared,
            candidates=tuple(
                c._replace(empty=empty_members(module, c.names)) if c.flag is False else c for c in said.candidates
            ),
            flag=said.flag,
            library=said.library,
            reasons=said.reasons,
            wrappers=user.wrappers,
            problems=(*said.problems, *saving.keys, *_unkept(declared, contract)),
            heads=heads_of(said.models, places),
            effects=effects,
            misfits=(*misfits_of(places), *logits_misfits(models)),
            freezes=freezes,
            unsaved=saving.problems,
            equal=equal_heads(places),
            keyed=_dictionaries(graph),
            fixed=fixed_flags(said.models) if broken else (),
            sharded_apart=split_by_sharding(graph) if FSDP2 in user.wrappers else (),
        )
        return with_user_names(found, user) if user.wrappers else found


def _dictionaries(graph: ModuleGraph) -> tuple[str, ...]:
    """Return the paths of the modules that are indexed by texts."""
    keyed = (n for n, module in enumerate(graph.modules) if isinstance(module, (nn.ModuleDict, nn.ParameterDict)))
    return tuple(prefix.removesuffix(".") for number in keyed for prefix in graph.prefixes(number, CAP))


def _unkept(declared: tuple[DeclaredTie, ...], contract: Contract) -> Iterator[KeyProblem]:
    """Yield the names of a contract that the module does not have."""
    for claim in declared:
        if claim.by == (contract.origin,):
            for name in claim.missing:
                yield KeyProblem("nothing", "", contract.origin, name, None, claim.names, True, None)
