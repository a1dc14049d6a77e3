"""The live layer: what an `nn.Module` really holds, and what its class says about it.

`find_live_ties` and `collect_live` change nothing, read no values except to tell a copy from a separate tensor,
and finish on registered cycles, on aliased chains and on tensors that have no memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from torch import nn

from tiecheck.config.options import Config
from tiecheck.errors import UsageError
from tiecheck.files.local import paused_collector
from tiecheck.live.derived_weights import effects_of
from tiecheck.live.group_kind import empty_members, find_declared_ties
from tiecheck.live.mismatches import (
    equal_heads,
    freezes_of,
    logits_misfits,
    misfits_of,
    parted_biases,
    unloaded_members,
)
from tiecheck.live.module_graph import CAP, ModuleGraph
from tiecheck.live.moved_members import is_there, names_now
from tiecheck.live.registrations import Registrations, looking_at
from tiecheck.live.ties import aliases_of, lent_ties, ties_of
from tiecheck.live.transformers.declarations import DeclaredGroup, fixed_flags, heads_of, read_declarations
from tiecheck.live.transformers.saving import Unsaved, unsaved_ties
from tiecheck.live.wrappers import (
    FSDP2,
    PEFT,
    UserNames,
    class_name,
    own_class,
    route_of,
    with_user_names,
    without_wrappers,
)
from tiecheck.records.live import DeclaredTie, KeyProblem, LiveModel, Tie
from tiecheck.records.words import TIED
from tiecheck.wording import listed

__all__ = ["CAP", "collect_live", "find_live_ties"]


class Contract(NamedTuple):
    """Promise of a user that names are tied, for a model whose class declares nothing."""

    groups: tuple[tuple[str, ...], ...] = ()
    """Groups of names; the last of each is the one the others are to be redirected to."""
    origin: str = ""
    """Where it is written, e.g. `pyproject.toml [tool.tiecheck.ties]`."""
    unclear: Mapping[tuple[str, ...], str] = MappingProxyType({})
    """Groups of which it cannot be told which tensors they mean, with the reason."""


NO_CONTRACT = Contract()


def find_live_ties(module: nn.Module, *, buffers: bool = False, cap: int = CAP) -> tuple[Tie, ...]:
    """Return the groups of parameters of a module that share a module, a `Parameter` or memory; nothing is changed.

    Groups come by first name, names sorted and capped; in names and membership what
    `named_parameters(remove_duplicate=False)` (torch 2.13) gives, where that finishes, plus shared memory. `buffers`
    adds groups of them, and of a parameter with one. What is no module is a `TypeError`, a module whose own code raises
    a `TargetError`, a cap below 2 a `ValueError`.
    """
    if cap < 2:  # a group has two names
        raise ValueError(f"cap must be at least 2, not {cap}")
    with looking_at(module), paused_collector():
        return ties_of(Registrations(module, buffers=buffers), cap)


def collect_live(module: nn.Module, *, origin: str, contract: Contract = NO_CONTRACT) -> LiveModel:
    """Collect the facts of a live module, unchanged: ties, aliases, and what each `PreTrainedModel` declares.

    Names are the user's: without what wrappers put before them (see `wrappers`). What is no module is a `TypeError`.
    """
    with paused_collector():
        places = Registrations(module, buffers=False)
        graph = places.graph
        user = UserNames(graph)
        route = route_of(graph, user)
        said = read_declarations(graph, CAP)
        ties = ties_of(places, CAP)
        saving = (
            unsaved_ties(graph, said, ties) if PEFT not in user.wrappers else Unsaved((), ())
        )  # which saves adapters
        declared = claims_on(module, said.groups, contract, user)
        spoken = [{*claim.names} for claim in declared]  # declared-tie-not-applied speaks of a buffer among those
        lent = (tie for tie in lent_ties(module, places, CAP) if not any(names >= {*tie.names} for names in spoken))
        ties = tuple(sorted((*ties, *lent), key=lambda tie: tie.names))
        groups = [*(one.names for one in said.candidates), *(tie.names for tie in ties)]
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
            reasons=(*said.reasons, *unloaded_members(module, places, groups)),
            wrappers=user.wrappers,
            problems=(*said.problems, *saving.keys, *_unkept(declared, contract)),
            heads=heads_of(said.models, places),
            effects=effects,
            misfits=(*misfits_of(places), *logits_misfits(models), *parted_biases(module, said.candidates)),
            freezes=freezes,
            unsaved=saving.problems,
            equal=equal_heads(places),
            keyed=route.keyed,
            hops=route.hops,
            fixed=fixed_flags(said.models) if broken else (),
            sharded_apart=split_by_sharding(graph) if FSDP2 in user.wrappers else (),
        )
        found = with_user_names(found, user) if user.wrappers else found
        return found._replace(problems=tuple(p._replace(paths=tuple(map(route.to, p.names))) for p in found.problems))


def claims_on(
    module: nn.Module, groups: Sequence[DeclaredGroup], contract: Contract, user: UserNames
) -> tuple[DeclaredTie, ...]:
    """Hold what the classes of a module declare, and what its user promises, against what it really has."""
    clear = {frozenset(names) for names in contract.groups if names not in contract.unclear}
    named = [(frozenset(user.all_of(group.names)), group) for group in groups]  # one cause, one claim
    both = [one._replace(by=(*one.by, contract.origin)) if names in clear else one for names, one in named]
    said = {names for names, _ in named} & clear
    promised = (names for names in contract.groups if frozenset(names) not in said)
    more = [DeclaredGroup(names, names[-1], (contract.origin,)) for names in promised]
    return tuple(
        claim
        if claim.by != (contract.origin,) or (why := contract.unclear.get(claim.names)) is None
        else claim._replace(kind="unknown", reason=why, missing=())
        for claim in find_declared_ties(module, [*both, *more])
    )


def _unkept(declared: tuple[DeclaredTie, ...], contract: Contract) -> Iterator[KeyProblem]:
    """Yield the groups of a contract of which the module lacks names."""
    for claim in declared:
        if claim.by == (contract.origin,) and claim.missing:
            yield KeyProblem("nothing", "", contract.origin, listed(claim.missing), None, claim.names, True, None)


def contract_of(module: nn.Module, contract: Config) -> Contract:
    """Return what the user says is tied in a module of its class, and in the modules inside of theirs."""
    if not contract.ties:
        return Contract((), contract.ties_from)
    cls = own_class(module)
    groups = list(contract.ties_of(cls))
    outermost = without_wrappers(module)
    for path, inner in outermost.named_modules():
        if inner is not outermost:
            held = contract.ties_of(own_class(inner))
            if own_class(inner) is cls:  # a container of the root's class is no model of its form
                held = tuple(g for g in held if any("*" in name or is_there(inner, name) for name in g))
            groups += [tuple(f"{path}.{name}" for name in group) for group in held]
    found = [names_now(module, names) for names in _spelt_out(module, groups, contract.ties_from)]
    unclear = {names: why for names, why in found if why is not None}
    return Contract(tuple(dict.fromkeys(names for names, _ in found)), contract.ties_from, unclear)


def _spelt_out(module: nn.Module, groups: list[tuple[str, ...]], where: str) -> Iterator[tuple[str, ...]]:
    """Yield the groups of a contract, a part of a name for each `*`; one of fewer than two names is a `UsageError`."""
    if not any("*" in name for group in groups for name in group):
        yield from groups
        return
    places = Registrations(module, buffers=True)
    user = UserNames(places.graph)
    known = sorted({user.of(name) for place in range(len(places.objects)) for name in places.names_at(place)})
    for group in groups:
        patterns = [re.compile(re.escape(name).replace(r"\*", "[^.]+")) for name in group if "*" in name]
        fits = [name for name in known if any(pattern.fullmatch(name) for pattern in patterns)]
        names = tuple(dict.fromkeys([*fits, *(name for name in group if "*" not in name)]))
        if len(names) < 2:
            raise UsageError(f"{where}: {', '.join(group)} fits {names[0] if names else 'no name'}; a tie has two")
        yield names


def split_by_sharding(graph: ModuleGraph) -> tuple[tuple[str, ...], ...]:
    """Return the names of each original parameter that stands in several groups, sorted."""
    numbers = {id(module): number for number, module in enumerate(graph.modules)}
    groups: dict[int, dict[int, list[str]]] = {}
    for module in graph.modules:
        for group in _groups(module):
            for held in getattr(group, "fsdp_params", ()):
                uid, place = getattr(held, "_orig_param_uid", None), getattr(held, "_module_info", None)
                number = numbers.get(id(getattr(place, "module", None)))
                if uid is None or place is None or number is None:
                    continue
                names = [prefix + place.param_name for prefix in graph.prefixes(number, CAP)]
                groups.setdefault(uid, {}).setdefault(id(group), []).extend(names)
    split = (tuple(sorted({n for names in held.values() for n in names})) for held in groups.values() if len(held) > 1)
    return tuple(sorted(split))


def _groups(module: Any) -> tuple[Any, ...]:
    """Return the parameter groups of a module that FSDP2 has sharded."""
    state = getattr(module, "_get_fsdp_state", None)
    try:
        found = state() if state is not None else None
    except Exception:  # noqa: BLE001  # a private method of another release
        return ()
    return tuple(getattr(found, "_fsdp_param_groups", None) or ())
