"""Ways in which people and libraries break a tie, each done to a live model as they do it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune


class NotHereError(Exception):
    """This break cannot be done to this group; the message says why."""


class Group(NamedTuple):
    """A tied group of a model, and which member is to be broken."""

    names: tuple[str, ...]
    """Its names, sorted."""
    victim: str
    """A member that the class redirects to another one."""

    def other(self) -> str:
        """Another member."""
        return next(name for name in self.names if name != self.victim)


class Break(NamedTuple):
    """One way."""

    name: str
    """A short name."""
    words: str
    """What is done, for the page."""
    do: Callable[[Any, Group], tuple[Any, str]]
    """Does it: takes a model of its own and a group, gives the model afterwards and the member that is broken."""


BREAKS: dict[str, Break] = {}


def way(words: str) -> Callable[[Callable[[Any, Group], Any]], Callable[[Any, Group], Any]]:
    """Add a break whose function changes the model in place; it may return another member as the broken one."""

    def add(function: Callable[[Any, Group], Any]) -> Callable[[Any, Group], Any]:
        name = function.__name__.replace("_", "-")

        def do(model: Any, group: Group) -> tuple[Any, str]:
            found = function(model, group)
            return found if isinstance(found, tuple) else (model, group.victim)

        BREAKS[name] = Break(name, words, do)
        return function

    return add


def owner_of(model: nn.Module, name: str) -> tuple[Any, str]:
    """The module that registers a name, and the attribute."""
    path, _, attribute = name.rpartition(".")
    return model.get_submodule(path), attribute


def tensor_of(model: nn.Module, name: str) -> torch.Tensor:
    """The parameter that has a name."""
    return model.get_parameter(name)


def put(model: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
    """Assign a parameter as `module.weight = ...` does."""
    module, attribute = owner_of(model, name)
    setattr(module, attribute, parameter)


def _square(model: Any, group: Group) -> torch.Tensor:
    weight = tensor_of(model, group.victim)
    if weight.dim() != 2 or weight.shape[0] != weight.shape[1]:
        raise NotHereError("not square")
    return weight


def _matrix(model: Any, group: Group) -> torch.Tensor:
    weight = tensor_of(model, group.victim)
    if weight.dim() != 2:
        raise NotHereError("no matrix")
    return weight


@way("one member replaced by an equal copy")
def equal_copy(model: Any, group: Group) -> None:
    put(model, group.victim, nn.Parameter(tensor_of(model, group.victim).detach().clone()))


@way("one member replaced by another tensor")
def other_tensor(model: Any, group: Group) -> None:
    put(model, group.victim, nn.Parameter(torch.randn_like(tensor_of(model, group.victim))))


@way("one member replaced by a new `Parameter` of the same memory")
def parameter_of_the_same_memory(model: Any, group: Group) -> None:
    put(model, group.victim, nn.Parameter(tensor_of(model, group.other()).detach()))


@way("one member replaced, then given the other's `.data`")
def data_of_the_other(model: Any, group: Group) -> None:
    put(model, group.victim, nn.Parameter(torch.randn_like(tensor_of(model, group.victim))))
    tensor_of(model, group.victim).data = tensor_of(model, group.other()).data


@way("one member replaced by the other transposed, a view (square matrices)")
def transposed_view(model: Any, group: Group) -> None:
    _square(model, group)
    put(model, group.victim, nn.Parameter(tensor_of(model, group.other()).detach().t()))


@way("one member replaced by an equal copy with its elements laid out the other way round")
def transposed_copy(model: Any, group: Group) -> None:
    weight = _matrix(model, group).detach()
    put(model, group.victim, nn.Parameter(weight.t().contiguous().t()))


@way("one of three or more members replaced by another tensor")
def one_of_several(model: Any, group: Group) -> None:
    if len(group.names) < 3:
        raise NotHereError("a pair")
    put(model, group.victim, nn.Parameter(torch.randn_like(tensor_of(model, group.victim))))


@way("one member's `Parameter` moved to meta, the others with data")
def half_meta(model: Any, group: Group) -> None:
    put(model, group.victim, nn.Parameter(torch.empty_like(tensor_of(model, group.victim), device="meta")))


@way("built on meta, a de-duplicated state dict loaded with `assign=True, strict=False`")
def deduplicated_into_meta(model: Any, group: Group) -> tuple[Any, str]:
    state = {name: tensor for name, tensor in model.state_dict().items() if name not in group.names[1:]}
    empty = _on_meta(model)
    empty.load_state_dict(state, assign=True, strict=False)
    return empty, group.names[1]


@way("the submodule that holds a member replaced by its `deepcopy`")
def deepcopy_of_the_module(model: Any, group: Group) -> None:
    path = group.victim.rpartition(".")[0]
    parent, _, label = path.rpartition(".")
    inside = {f"{path}.{name}" for name, _ in model.get_submodule(path).named_parameters(remove_duplicate=False)}
    if not path or inside >= set(group.names):
        raise NotHereError("the module holds every member")
    setattr(model.get_submodule(parent), label, copy.deepcopy(model.get_submodule(path)))


@way("`load_state_dict(assign=True)` of cloned tensors")
def assign_clones(model: Any, group: Group) -> None:
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(state, assign=True, strict=False)


@way("`load_state_dict(assign=True)` of the model's own state dict")
def assign_own_state(model: Any, group: Group) -> None:
    model.load_state_dict(model.state_dict(), assign=True, strict=False)


@way("built on meta, then `to_empty`")
def to_empty(model: Any, group: Group) -> tuple[Any, str]:
    empty = _on_meta(model)
    return empty.to_empty(device="cpu"), group.victim


@way("`set_input_embeddings(new)` with no tie after it")
def set_input_embeddings(model: Any, group: Group) -> tuple[Any, str]:
    try:
        old = model.get_input_embeddings()
        held = old.weight
    except Exception as error:
        raise NotHereError("no input embeddings") from error
    names = [name for name in group.names if tensor_of(model, name) is held]
    if not names:
        raise NotHereError("not the group of the input embeddings")
    new = copy.deepcopy(old)
    new.weight = nn.Parameter(torch.randn_like(held))
    try:
        model.set_input_embeddings(new)
    except Exception as error:
        raise NotHereError(f"set_input_embeddings raises {type(error).__name__}") from error
    replaced = [name for name in group.names if tensor_of(model, name) is not held]
    return model, (replaced or names)[0]


@way("one member pruned")
def pruned(model: Any, group: Group) -> None:
    module, attribute = owner_of(model, group.victim)
    with torch.no_grad():
        tensor_of(model, group.victim).add_(1.0)
    prune.random_unstructured(module, attribute, amount=0.5)


class Doubled(nn.Module):
    """A parametrization that cannot be undone."""

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """Twice the weight, and one: a zero moves too."""
        return weight * 2 + 1


@way("a parametrization without `right_inverse` on one member")
def parametrized(model: Any, group: Group) -> None:
    module, attribute = owner_of(model, group.victim)
    parametrize.register_parametrization(module, attribute, Doubled())


@way("`weight_norm` on one member")
def weight_normed(model: Any, group: Group) -> None:
    _matrix(model, group)
    module, attribute = owner_of(model, group.victim)
    parametrizations.weight_norm(module, attribute)


@way("`spectral_norm` on one member")
def spectral_normed(model: Any, group: Group) -> None:
    _matrix(model, group)
    module, attribute = owner_of(model, group.victim)
    parametrizations.spectral_norm(module, attribute)


@way("one member replaced by an equal copy that is frozen")
def frozen_copy(model: Any, group: Group) -> None:
    weight = tensor_of(model, group.victim).detach().clone()
    put(model, group.victim, nn.Parameter(weight, requires_grad=False))


@way("a registered buffer in place of one member")
def buffer_instead(model: Any, group: Group) -> None:
    module, attribute = owner_of(model, group.victim)
    value = tensor_of(model, group.victim).detach().clone()
    delattr(module, attribute)
    module.register_buffer(attribute, value)


@way("None in place of one member")
def none_instead(model: Any, group: Group) -> None:
    put(model, group.victim, None)


@way("`half()` on one submodule: torch converts the one `Parameter` in place, and the tie holds")
def half_of_one_module(model: Any, group: Group) -> None:
    owner_of(model, group.victim)[0].half()


@way("`to(bfloat16)` on one submodule while torch is set to overwrite parameters on conversion")
def overwritten_on_conversion(model: Any, group: Group) -> None:
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        owner_of(model, group.victim)[0].to(torch.bfloat16)
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(before)


def _on_meta(model: Any) -> Any:
    with torch.device("meta"):
        return type(model)(copy.deepcopy(model.config))
