"""Asks each loader what it would do with a checkpoint: one module a loader, registered here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING

from tiecheck.errors import UsageError
from tiecheck.records.loaders import LoaderView

if TYPE_CHECKING:
    from tiecheck.peers.loaders.loader_rules import Decision, Loader, Situation

MODULES = {
    "transformers": "transformers",
    "vllm": "vllm",
    "sglang": "sglang",
    "llama.cpp": "llama_cpp",
    "mlx-lm": "mlx_lm",
    "mergekit": "mergekit",
    "accelerate": "accelerate",
}
"""Loader -> the module beside this one that holds its `LOADERS`, newest version last."""

PLANNERS = frozenset({"accelerate"})
"""Loaders that plan for modules, and are asked about no checkpoint."""


def loaders_of(names: Iterable[str] = MODULES) -> tuple[Loader, ...]:
    """Return the loaders of some names, in the matrix's order."""
    return _loaders_of(frozenset(names))


@lru_cache(64)
def _loaders_of(wanted: frozenset[str]) -> tuple[Loader, ...]:
    found: list[Loader] = []
    for name, module in MODULES.items():
        if name in wanted:
            found += import_module(f"tiecheck.peers.loaders.{module}").LOADERS
    return tuple(found)


def ask_loaders(
    situations: Iterable[Situation], loaders: Iterable[Loader], judge_for: Iterable[str] = ()
) -> tuple[LoaderView, ...]:
    """Ask each loader what it makes of each group: grouped by loader, in the matrix's order.

    Releases of transformers 5 that end a group otherwise than the newest come before it, each range with its own word;
    and one that `judge_for` names in any case.
    """
    held = tuple(situations)
    views = []
    for loader in loaders:
        for situation in held:
            decision = loader.decide(situation)
            if decision is None:
                continue
            if (loader.name, loader.versions) == ("transformers", "5"):
                for versions, earlier in _releases(situation, decision, judge_for):
                    views.append(_view(loader, versions, earlier, situation))
            views.append(_view(loader, loader.versions, decision, situation))
    return tuple(views)


def _view(loader: Loader, versions: str, decision: Decision, situation: Situation) -> LoaderView:
    outcome, message, reads, value, ties, lost = decision
    names = situation.group.names
    return LoaderView(loader.name, versions, outcome, message, loader.checked, names, reads, value, ties, lost=lost)


def _releases(situation: Situation, newest: Decision, judge_for: Iterable[str]) -> Iterator[tuple[str, Decision]]:
    from tiecheck.peers.loaders.transformers import covers_release, decide_in, earlier_decisions, release_named

    named = [release_named(word.strip().lower().removeprefix("transformers==")) for word in judge_for]
    releases = sorted(release for release in named if release is not None)
    for release in releases:
        decision = decide_in(situation, release)
        if decision is not None:
            yield f"5.{release[1]}", decision
    for versions, earlier in earlier_decisions(situation, newest):
        if not any(covers_release(versions, release) for release in releases):
            yield versions, earlier


def parse_for(specs: Iterable[str]) -> frozenset[tuple[str, str]]:
    """Parse the loaders that `--for` names (`name`, or `name==version`), as pairs of name and version range.

    A loader or a version that the matrix does not have raises a `UsageError`.
    """
    from tiecheck.peers.loaders.transformers import release_named
    from tiecheck.tables.releases import known_releases

    chosen: set[tuple[str, str]] = set()
    for spec in specs:
        name, equals, version = spec.strip().lower().partition("==")
        numbers = version.split(".") if equals else []
        if name not in MODULES:
            raise UsageError(f"--for {spec}: the matrix has {', '.join(MODULES)}, each alone or with ==VERSION")
        versions = loaders_of((name,))
        if equals:
            plain = all(number.isdecimal() for number in numbers)
            wanted = tuple(map(int, numbers)) if plain else ()
            release = release_named(version) if name == "transformers" else None
            if release is not None:
                if release not in known_releases():
                    known = ", ".join(f"5.{minor}" for _, minor in known_releases())
                    raise UsageError(f"--for {spec}: of transformers 5 the releases {known} are known")
                chosen.add((name, f"5.{release[1]}"))
                continue
            fitting = [v for v in versions if v.versions == version or (plain and covers_version(wanted, v))]
            if not fitting:
                known = ", ".join(dict.fromkeys(v.versions for v in versions))
                raise UsageError(f"--for {spec}: {name} is known in the versions {known} only")
            versions = tuple(fitting)
        chosen |= {(v.name, v.versions) for v in versions}
    return frozenset(chosen)


def covers_version(version: tuple[int, ...], loader: Loader) -> bool:
    """Tell whether a column of the matrix holds for a version, given in full or by its first numbers."""
    size = len(version)
    return version >= loader.since[:size] and (loader.until is None or version < loader.until)
