"""The real ties of a module that its models' own `save_pretrained` refuses or loses (transformers 5.23)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from tiecheck.live.derived_weights import name_before
from tiecheck.live.member_lookup import look_up
from tiecheck.live.module_graph import ModuleGraph
from tiecheck.live.transformers.declarations import Declarations, PretrainedModel
from tiecheck.live.transformers.rewritten_keys import added_late, declaration_text
from tiecheck.live.transformers.tied_weights_keys import flag_of
from tiecheck.live.wrappers import saved_name
from tiecheck.records.live import KeyProblem, SaveProblem, Tie
from tiecheck.records.words import TIED


class Unsaved(NamedTuple):
    """Fate of the real ties of a module when its models save themselves."""

    problems: tuple[SaveProblem, ...]
    """Ties that a save refuses or loses."""
    keys: tuple[KeyProblem, ...]
    """Declared keys that drop members of another tie (`drops`)."""


def unsaved_ties(graph: ModuleGraph, said: Declarations, ties: Sequence[Tie]) -> Unsaved:
    """Return the real ties that the outermost model around them does not save so that a load brings them back.

    A model whose declaration could not be read stays unjudged.
    """
    found: list[SaveProblem | KeyProblem] = []
    if (said.library or "").startswith("transformers 5"):
        for outer in _outermost(graph, said.models):
            found += _Saving(graph, said.models, outer).problems(ties)
    return Unsaved(
        tuple(one for one in found if isinstance(one, SaveProblem)),
        tuple(one for one in found if isinstance(one, KeyProblem)),
    )


def _outermost(graph: ModuleGraph, models: Sequence[PretrainedModel]) -> Iterator[PretrainedModel]:
    """Yield the models that stand in no other."""
    numbers = {one.number for one in models}
    for one in models:
        above = {edge.parent for edge in graph.registrations_of(one.number)}
        seen = set(above)
        while above:
            above = {edge.parent for number in above for edge in graph.registrations_of(number)} - seen
            seen |= above
        if one.prefixes and seen.isdisjoint(numbers - {one.number}):
            yield one


class _Saving:
    """Ways of `save_pretrained` of one outermost model (`remove_tied_weights_from_state_dict`, 5.23)."""

    def __init__(self, graph: ModuleGraph, models: Sequence[PretrainedModel], outer: PretrainedModel) -> None:
        self._prefix = outer.prefixes[0]
        self._outer = outer
        inside = [one for one in models if any(p.startswith(self._prefix) for p in one.prefixes)]
        self._readable = not any(one.keys.reason for one in inside)
        self._patterns = tuple(_patterns(outer.model)) if self._readable else ()
        heard = {one.number for one in inside if _heard(graph, outer, one)}
        self._kept = [_names(one, one.keys.declared) for one in inside if one.number in heard]
        self._lost = [_names(one, one.keys.declared) for one in inside if one.number not in heard]
        self._possible = [_names(one, one.keys.possible) for one in inside]

    def problems(self, ties: Sequence[Tie]) -> Iterator[SaveProblem | KeyProblem]:
        """Yield what becomes of some ties, where it is nothing good."""
        for tie in ties if self._readable else ():
            real = tie.kind in TIED and not tie.buffer and tie.names_total == len(tie.names)
            if real and all(name.startswith(self._prefix) for name in tie.names):
                yield from self._problem(tie._replace(names=tuple(sorted(map(saved_name, tie.names)))))

    def _problem(self, tie: Tie) -> Iterator[SaveProblem | KeyProblem]:
        names, known = set(tie.names), set(map(name_before, tie.names))
        fitting = [name for name in sorted(names) if self._pattern(name)]
        dropped = tuple(fitting[: len(names) - 1])
        model, cls = self._prefix.removesuffix("."), type(self._outer.model).__name__
        if len(names) - len(dropped) > 1:
            yield SaveProblem(tie.names, tie.kind, cls, "raises", (), *self._declared(tie))
        elif _within(self._kept, names, known):
            return
        elif _within(self._lost, names, known):
            yield SaveProblem(tie.names, tie.kind, cls, "unpropagated", dropped, *self._declared(tie))
        elif not any(max(len(names & group), len(known & group)) > 1 for group in self._possible):
            key = self._pattern(dropped[0]) or ""  # else its flag is false: tie-against-config
            on = self._outer.keys.declared != {}
            yield KeyProblem("drops", model, cls, key, None, tie.names, on, None, *self._declared(tie))

    def _declared(self, tie: Tie) -> tuple[str | None, str | None]:
        """Return the outer class's declaration, and the one that has the tie too; None where it cannot have it.

        The flag has to be true for all of its keys, and what an `__init__` adds after `post_init` is there too late.
        """
        keys = getattr(self._outer.model, "_tied_weights_keys", None) or {}
        flag = flag_of(self._outer.model)
        own = [name.removeprefix(self._prefix) for name in tie.names]
        late = added_late(type(self._outer.model))
        if not isinstance(keys, Mapping) or (keys and not flag) or any(name.partition(".")[0] in late for name in own):
            return None, None
        source = next((s for t, s in keys.items() if t in own or s in own), own[-1])
        more = {name: source for name in own if name != source and name not in keys}
        kept = {key: value for key, value in keys.items() if not self._in_place_of(key, more)}
        return declaration_text(keys), declaration_text(kept | more)

    def _in_place_of(self, key: Any, names: Mapping[str, str]) -> bool:
        """Return True if a key names what is gone, and names stand in its place: its layer was wrapped."""
        place = f"{str(key).rpartition('.')[0]}."
        below = any(name.startswith(place) for name in names)
        return below and look_up(self._outer.model, key).tensor is None

    def _pattern(self, name: str) -> str | None:
        """Return the first declared key that, as a pattern, matches a name."""
        own = name.removeprefix(self._prefix)
        return next((pattern for pattern in self._patterns if re.search(pattern, own)), None)


def _within(groups: list[set[str]], *names: set[str]) -> bool:
    """Return True if a group holds all of some names, as they are or as they were."""
    return any(some <= group for group in groups for some in names)


def _patterns(model: Any) -> Iterator[str]:
    """Yield the keys of every module as `_get_tied_weight_keys` joins them (5.23): the path is a pattern too."""
    for name, module in model.named_modules():
        keys = getattr(module, "_tied_weights_keys", None) or {}
        yield from (f"{name}.{key}" if name else key for key in keys if isinstance(key, str))


def _heard(graph: ModuleGraph, outer: PretrainedModel, one: PretrainedModel) -> bool:
    """Return True if the outer model hears of an inner one's ties: `post_init` asks direct children alone (5.23)."""
    number = one.number
    while number != outer.number:
        parents = {edge.parent for edge in graph.edges(number)}
        if len(parents) != 1:
            return True  # under several paths: not looked into, and so not found fault with
        number = parents.pop()
        if not hasattr(graph.modules[number], "all_tied_weights_keys"):
            return False
    return True


def _names(one: PretrainedModel, pairs: dict[str, str]) -> set[str]:
    return {prefix + name for prefix in one.prefixes for pair in pairs.items() for name in pair}
