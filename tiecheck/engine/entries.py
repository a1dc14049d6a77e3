"""The groups of a report: what each layer says of a group, side by side in one entry."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal, TypeVar

from tiecheck.records.loaders import LoaderOutcome, LoaderView
from tiecheck.records.report import AliasEntry, TieEntry
from tiecheck.records.stored import Group
from tiecheck.records.words import Kind, Unknown

if TYPE_CHECKING:
    from tiecheck.config.options import Config
    from tiecheck.facts.registry import FactName, Facts
    from tiecheck.records.live import DeclaredTie, LiveModel, Tie
    from tiecheck.records.scale import InitScale
    from tiecheck.records.source import SourceFile

    T = TypeVar("T", Tie, DeclaredTie)

NAMES = 32
"""Names that one loader's entry lists at most."""


def known_layers(facts: Facts) -> tuple[str, ...]:
    """Return the layers that were really read; sources declare."""
    if (files := _sources_alone(facts)) is not None:
        return ("declared",) if files or not facts.known("unread_sources") else ()
    layers: dict[str, tuple[FactName, ...]] = {
        "declared": ("model_config", "adapter_base"),
        "stored": ("checkpoint", "adapter", "gguf", "onnx"),
        "live": ("live",),
        "used": ("traced_uses",),
    }
    return tuple(layer for layer, names in layers.items() if any(facts.known(name) is not None for name in names))


def measured_scales(facts: Facts, config: Config) -> tuple[InitScale, ...]:
    """Return what was predicted and measured of tied matrices, where that was asked for."""
    found = (facts.known("scale") or ()) if config.measure else ()
    return tuple(one for one in found if not isinstance(one, Unknown))


def tie_entries(groups: tuple[Group, ...], live: LiveModel | None) -> tuple[TieEntry, ...]:
    """Return static groups with the live layer's word where there is one, then what it alone knows, by first name."""
    ties = list(live.ties) if live else []
    declared = list(live.declared) if live else []
    entries = []
    for group in groups:
        tie = _take(ties, group.names)
        claim = _take(declared, group.names)
        if live and group.inferred and len(group.names) == 1 and not tie and not claim:
            continue  # a guess that the module answers: one name is no tie
        entries.append(_from_group(group, tie, claim, live is not None))
    for tie in ties:
        claim = _take(declared, tie.names)
        entries.append(entry_of_tie(tie, claim, live))
    entries += [_from_claim(claim) for claim in declared]
    return tuple(sorted(entries, key=lambda entry: entry.names))


def _sources_alone(facts: Facts) -> tuple[SourceFile, ...] | None:
    """Return the sources that are the target itself; None for a target of another kind."""
    return facts.known("sources") or () if "sources" in facts and "folder" not in facts else None


def written_entries(facts: Facts) -> tuple[TieEntry, ...]:
    """Return the ties of head and embedding that the classes of sources write or map, each by the lines that do."""
    if not (files := _sources_alone(facts)):
        return ()
    from tiecheck.rules.source.sightings import shared_heads

    by: dict[tuple[str, ...], set[str]] = {}
    for file in files:
        for owner in file.classes:
            keys = owner.keys if owner.keys is not None and owner.keys.form == "mapping" else None
            told = [(event.target, event.source, event.line) for event in shared_heads(owner)]
            told += [(*pair, keys.line) for pair in keys.pairs] if keys is not None else []
            for *pair, line in told:
                names = tuple(sorted({f"{owner.name}.{name}" for name in pair}))
                if len(names) == 2 and all(re.fullmatch(r"[\w.]+", name) for name in names):  # no pattern of names
                    by.setdefault(names, set()).add(f"{file.path}:{line}")
    return tuple(TieEntry(names, 2, declared=True, declared_by=tuple(sorted(by[names]))) for names in sorted(by))


def alias_entries(live: LiveModel | None) -> tuple[AliasEntry, ...]:
    """Return the aliased modules of the live layer."""
    return tuple(AliasEntry(a.paths, a.paths_total, a.class_name, a.names) for a in live.aliases) if live else ()


def loader_entries(
    views: tuple[LoaderView, ...], chosen: frozenset[tuple[str, str]] | None
) -> tuple[LoaderOutcome, ...]:
    """Return what each loader (of those chosen; None for all) makes of the groups: one entry for those alike."""
    alike: dict[LoaderView, list[LoaderView]] = {}
    for view in views:
        if chosen is None or view.among(chosen):
            alike.setdefault(view._replace(names=()), []).append(view)
    return tuple(
        LoaderOutcome(
            loader=key.loader,
            versions=key.versions,
            outcome=key.outcome,
            message=key.message,
            checked=key.checked,
            reads=key.reads,
            value=key.value,
            ties=key.ties,
            groups=len(held),
            names=tuple(sorted({name for view in held for name in view.names}))[:NAMES],
        )
        for key, held in alike.items()
    )


def _take(items: list[T], names: tuple[str, ...]) -> T | None:
    """Take out the first item that shares a name."""
    wanted = set(names)
    for i, item in enumerate(items):
        if not wanted.isdisjoint(item.names):
            return items.pop(i)
    return None


def _from_group(group: Group, tie: Tie | None, claim: DeclaredTie | None, has_live: bool) -> TieEntry:
    tensor = group.tensors[0] if group.tensors else None
    whole = tie if tie and set(group.names) <= set(tie.names) else None  # a tie of some members is no tie of the group
    kind: Kind | None = whole.kind if whole else claim.kind if claim else None
    kind_from: Literal["live", "table"] | None = "live" if kind else None
    if kind is None and group.kind is not None and not has_live:
        kind, kind_from = group.kind, "table"
    names = tuple(sorted({*group.names, *(tie.names if tie else ())}))
    by = tuple(sorted({*group.declared_by, *(claim.by if claim else ())}))
    compared = group.comparison or group.relation
    return TieEntry(
        names=names,
        names_total=whole.names_total if whole else len(names),
        kind=kind,
        kind_from=kind_from,
        stored=group.stored,
        stored_names=group.stored_names,
        declared=True if claim else group.declared,
        declared_by=by,
        shape=tensor.shape if tensor else tie.shape if tie else None,
        dtype=tensor.dtype if tensor else tie.dtype if tie else None,
        nbytes=tensor.nbytes if tensor else tie.nbytes if tie else None,
        reason=_reason(group, tie, claim),
        rows_apart=(compared.bands if compared else None) or None,
    )


def _reason(group: Group, tie: Tie | None, claim: DeclaredTie | None) -> str | None:
    """Return why something is unknown; that the class was not run is no reason once it was."""
    if claim and claim.reason:
        return claim.reason
    return None if tie and group.inferred else group.reason


def entry_of_tie(tie: Tie, claim: DeclaredTie | None = None, live: LiveModel | None = None) -> TieEntry:
    """Return a live group, with what its class declares of it."""
    against = live is not None and any(c.flag is False and set(c.names) & set(tie.names) for c in live.candidates)
    more = claim is not None and not set(claim.names) <= set(tie.names)  # a tie of some members is none of the group
    names = tuple(sorted({*tie.names, *claim.names})) if claim and more else tie.names
    return TieEntry(
        names=names,
        names_total=len(names) if more else tie.names_total,
        kind=claim.kind if claim and more else tie.kind,
        kind_from="live",
        declared=True if claim else False if against else None,
        declared_by=claim.by if claim else (),
        shape=tie.shape,
        dtype=tie.dtype,
        nbytes=tie.nbytes,
        reason=claim.reason if claim and more else tie.reason,
    )


def _from_claim(claim: DeclaredTie) -> TieEntry:
    return TieEntry(
        names=claim.names,
        names_total=len(claim.names),
        kind=claim.kind,
        kind_from="live",
        declared=True,
        declared_by=claim.by,
        reason=claim.reason,
    )
