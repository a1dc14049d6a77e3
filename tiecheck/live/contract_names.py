"""The ties that a user's contract claims of a module, with the names that it means by a `*`."""

from __future__ import annotations

import re
from collections.abc import Iterator

from torch import nn

from tiecheck.config.options import Config
from tiecheck.errors import UsageError
from tiecheck.live.live_facts import Contract
from tiecheck.live.registrations import Registrations
from tiecheck.live.wrappers import UserNames, own_class, without_wrappers


def contract_of(module: nn.Module, contract: Config) -> Contract:
    """Return what the user says is tied in a module of its class, and in the modules inside of theirs."""
    if not contract.ties:
        return Contract((), contract.ties_from)
    groups = list(contract.ties_of(own_class(module)))
    outermost = without_wrappers(module)
    for path, inner in outermost.named_modules():
        if inner is not outermost:
            groups += [tuple(f"{path}.{name}" for name in group) for group in contract.ties_of(own_class(inner))]
    return Contract(tuple(dict.fromkeys(_spelt_out(module, groups, contract.ties_from))), contract.ties_from)


def _spelt_out(module: nn.Module, groups: list[tuple[str, ...]], where: str) -> Iterator[tuple[str, ...]]:
    """Yield the groups of a contract, with the names that a `*` stands for: one part of a name.

    Raises:
        UsageError: A group comes to fewer than two names.
    """
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
