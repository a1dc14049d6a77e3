"""Registered tensors that another module holds in a plain list, tuple or dict besides: used, and known to nobody.

`self.tied = [embedding.weight]` hides a parameter from `named_parameters`; forward reads it all the same.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor, nn

from tiecheck.live.registrations import Registrations
from tiecheck.live.wrappers import child_through_wrappers, without_wrappers

CONTAINERS: frozenset[type] = frozenset({list, tuple, dict})
"""Types of container that are looked into."""

HELD = 64
"""Elements of one container that are looked at."""


class PlainReference(NamedTuple):
    """One element of a plain container that is a registered tensor of another module."""

    name: str
    """Its name as Python reaches it: `head.tied[0]`, `head.tied['weight']`."""
    path: str
    """Path of the module whose attribute holds the container."""
    attribute: str
    key: Any
    """Index or key of the element."""
    tensor: Tensor

    def holder(self, root: nn.Module) -> nn.Module | None:
        """Return the module at its path, wrappers passed through; None where there is none."""
        module: nn.Module | None = without_wrappers(root)
        for label in self.path.split(".") if self.path else ():
            module = child_through_wrappers(module, label) if module is not None else None
        return module

    def now(self, root: nn.Module) -> Tensor | None:
        """Return the tensor that stands there now, in the module or one made of it; None where there is none."""
        try:
            held = vars(self.holder(root))[self.attribute][self.key]
        except (KeyError, IndexError, TypeError):
            return None
        return held if isinstance(held, Tensor) else None


def plain_references(places: Registrations) -> list[PlainReference]:
    """Return the elements of plain lists, tuples and dicts that are tensors which another module registers."""
    held = [
        (number, attribute, value)
        for number, module in enumerate(places.graph.modules)
        for attribute, value in vars(module).items()
        if type(value) in CONTAINERS and value and attribute[0] != "_" and len(value) <= HELD
    ]
    elements = [
        (number, attribute, key, tensor)
        for number, attribute, value in held
        for key, tensor in (value.items() if isinstance(value, dict) else enumerate(value))
        if isinstance(tensor, Tensor)
    ]
    if not elements:
        return []
    owners: dict[int, set[int]] = {}
    for tensor, owner in zip(places.objects, places.owners, strict=True):
        owners.setdefault(id(tensor), set()).add(owner)
    found = []
    for number, attribute, key, tensor in elements:
        if number not in owners.get(id(tensor), {number}):
            path = places.graph.path(number, "").removesuffix(".")
            found.append(
                PlainReference(f"{places.graph.path(number, attribute)}[{key!r}]", path, attribute, key, tensor)
            )
    return found
