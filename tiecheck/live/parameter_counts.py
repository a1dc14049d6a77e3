"""Counts the parameters of a live module, ties once: see `Counts`. No element is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from torch import Tensor, nn

from tiecheck.files.local import paused_collector
from tiecheck.live.live_facts import NO_CONTRACT, Contract, claims_on
from tiecheck.live.member_lookup import look_up
from tiecheck.live.memory import memory_links
from tiecheck.live.module_graph import CAP
from tiecheck.live.registrations import Registrations
from tiecheck.live.torch_adapter import TensorDescriber, elements_of, plain_sizes, without_torch_functions
from tiecheck.live.transformers.declarations import read_declarations
from tiecheck.live.wrappers import UserNames
from tiecheck.records.counts import Counts, Tally
from tiecheck.records.live import DeclaredTie
from tiecheck.records.words import TIED
from tiecheck.wording import counted

UNTOLD = Tally(None, None, None)
OVERLAP = "sharing a part of their memory, of which it is not told how much"


def count_live(module: nn.Module, contract: Contract = NO_CONTRACT) -> Counts:
    """Count the parameters of any module; what cannot be told is null, see `reasons`.

    What is no module is a `TypeError`.
    """
    with paused_collector():
        places = Registrations(module, buffers=False)
        said = read_declarations(places.graph, CAP)
        claims = claims_on(module, said.groups, contract, UserNames(places.graph))
        gone = said.reasons[0] if said.reasons else _redirected(module, claims)
        sizes = _Sizes(places.tensors())
        everything = range(len(sizes.tensors))
        unique = sizes.once(everything)
        if isinstance(gone, str):
            sizes.reasons[f"what is expected cannot be told: {gone}"] = 0
            expected = UNTOLD
        else:
            expected = sizes.once(_kept(places, sizes.tensors, gone)) if gone else unique
        reasons = tuple(f"{counted(n, 'tensor')}: {why}" if n else why for why, n in sizes.reasons.items())
        return Counts(unique, sizes.total(everything), expected, reasons)


def _redirected(module: nn.Module, claims: Sequence[DeclaredTie]) -> set[tuple[int, str]] | str:
    """Return the places (owner's id, attribute) of another tensor if declared ties held; or why it is not told."""
    gone: set[tuple[int, str]] = set()
    for claim in claims:
        if claim.kind in TIED:
            continue
        if claim.kind == "unknown":
            return claim.reason or f"how {claim.source} is tied cannot be told"
        source = look_up(module, claim.source)
        for name in claim.names:
            member = look_up(module, name)
            if member.computed:
                return member.why or f"`{name}` is computed"
            if source.tensor is None or member.tensor is None or member.tensor is source.tensor:
                continue
            if (member.owner, member.attribute) == (source.owner, source.attribute):
                continue  # from disk each look gives another tensor
            if member.owner is None or member.owner._parameters.get(member.attribute) is None:
                return f"`{name}` passes on a parameter that is registered elsewhere"
            gone.add((id(member.owner), member.attribute))
    return gone


def _kept(places: Registrations, tensors: Sequence[Tensor], gone: set[tuple[int, str]]) -> list[int]:
    """Return the positions of the tensors that some place would still hold if every declared tie held."""
    rows = zip(places.objects, places.owners, places.attributes, strict=True)
    modules = places.graph.modules
    held = {id(tensor) for tensor, owner, name in rows if (id(modules[owner]), name) not in gone}
    return [i for i, tensor in enumerate(tensors) if id(tensor) in held]


class _Sizes:
    """The sizes of some distinct tensors, and the memory that they share."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.tensors = tensors
        self.reasons: Counter[str] = Counter()
        """Reason why something is unknown -> how many tensors it goes for; 0 for one that names none."""
        self._trains = [tensor.requires_grad for tensor in tensors]
        with without_torch_functions():
            plain = plain_sizes(tensors)
            describer = TensorDescriber()
            self._sizes = [*zip(*plain, strict=True)] if plain else [self._look(one, describer) for one in tensors]
        self._links = memory_links(tensors)

    def _look(self, tensor: Tensor, describer: TensorDescriber) -> tuple[int | None, int | None]:
        elements = elements_of(tensor)
        if isinstance(elements, str):
            self.reasons[elements] += 1
            return None, None
        return elements, describer.of(tensor)[2]

    def once(self, among: Iterable[int]) -> Tally:
        """Return the amount of some tensors, those over the same memory once; unknown where some overlap in part."""
        kept = set(among)
        for link in self._links:
            others = sorted((i for i in link.members if i in kept), key=lambda i: not self._trains[i])[1:]
            if others and link.kind != "storage":
                self.reasons[OVERLAP] = max(self.reasons[OVERLAP], len(link.members))
                return UNTOLD
            kept.difference_update(others)
        return self.total(kept)

    def total(self, among: Iterable[int]) -> Tally:
        """Return the amount of some tensors, each by itself."""
        rows = [(*self._sizes[i], self._sizes[i][0] if self._trains[i] else 0) for i in among]
        return Tally(*(_sum_if_known([row[column] for row in rows]) for column in range(3)))


def _sum_if_known(values: Sequence[int | None]) -> int | None:
    """Return the sum of some amounts; None where one of them is unknown."""
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None
