"""Finds a parameter or buffer of a live module by its name, and the values that accelerate's hooks hold for it.

`dispatch_model`, `cpu_offload` and `disk_offload` (accelerate 1.15, `hooks.py`) leave a meta parameter of its own under
each name of a tie, and put the values into a map behind `AlignDevicesHook.weights_map`, by name. A tie is there two
tensors of the map over one memory (CPU), or two files (disk). Pointers of the module itself are all 0 then.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from tiecheck.live.wrappers import child_through_wrappers, without_wrappers, wrapper_of

ONE_IN_THE_MAP = "offloaded by accelerate, whose map holds one tensor for all of them"
OFFLOADED = "offloaded"
"""Word that stands for the device of a parameter whose values a hook holds."""


class Member(NamedTuple):
    """A name looked up in a module."""

    name: str
    tensor: Tensor | None
    """The parameter or buffer it names; None where it names none."""
    owner: nn.Module | None
    """The module that registers it, where one does."""
    attribute: str
    """Its attribute there."""
    why: str | None
    """Reason for there being none; None where there is one."""
    offloaded: bool = False
    """True if the tensor is what a hook of accelerate holds for the name."""
    on_disk: bool = False
    """True if it holds it in a file."""
    computed: bool = False
    """True if there is none since the module computes the tensor from others."""
    packed: bool = False
    """True if there is none since the module holds the values in a form that is no tensor."""

    @property
    def device(self) -> str:
        """Where the values are."""
        return OFFLOADED if self.offloaded else str(self.tensor.device) if self.tensor is not None else ""


def look_up(module: nn.Module, name: str) -> Member:
    """Find a parameter or buffer by its dotted name, as torch 2.13 `nn.Module.get_parameter` does.

    An attribute that passes on another module's parameter counts (a LoRA layer's `weight`), one that computes a
    tensor does not. A name may leave out what torch.compile, DDP, FSDP or PEFT put into it. What accelerate has
    offloaded is looked up in its hook's map.
    """
    *path, attribute = name.split(".")
    owner = _owner(module, path, attribute)
    if owner is None:
        return Member(name, None, None, attribute, f"`{name}` does not exist")
    registered = _entry(owner._parameters, attribute)
    tensor = _entry(owner._buffers, attribute) if registered is None else registered
    if tensor is None:
        return _unregistered(name, owner, attribute)
    if held_by_hook(owner, attribute):
        values, disk = offloaded_values(owner, attribute)
        values = tensor if values is None else values
        return Member(name, values, owner, attribute, None, offloaded=True, on_disk=disk)
    return Member(name, tensor, owner, attribute, None)


def _owner(module: nn.Module, path: list[str], attribute: str) -> nn.Module | None:
    """Return the module at a path, without the wrappers that the path does not name; else without any of them.

    The two differ where a wrapper's own attribute is called like one of the model's: PEFT's holds a Llama as `model`.
    """
    owner: nn.Module | None = module
    for label in path:
        owner = child_through_wrappers(owner, label) if owner is not None else None
    if owner is not None and wrapper_of(owner) is not None and not _registers(owner, attribute):
        owner = without_wrappers(owner)
    if owner is not None and _registers(owner, attribute):
        return owner
    inner: nn.Module | None = without_wrappers(module)
    for label in path:
        inner = _entry(inner._modules, label) if inner is not None else None
        inner = without_wrappers(inner) if inner is not None else None
    return owner if inner is None else inner


def _entry(registered: Any, name: str) -> Any:
    """Return an entry of what a module registers; the dict of a script module (torch 2.13) has no `get`."""
    return registered[name] if name in registered else None  # noqa: SIM401


def _registers(owner: nn.Module, attribute: str) -> bool:
    return attribute in owner._parameters or attribute in owner._buffers


def _unregistered(name: str, owner: nn.Module, attribute: str) -> Member:
    """Tell what an attribute is that is no parameter or buffer: one that is passed on, a computed one, or none."""
    if is_parametrized(owner, attribute):
        return Member(name, None, owner, attribute, f"`{name}` is computed by a parametrization", computed=True)
    try:
        passed = getattr(owner, attribute, None)
    except Exception:  # noqa: BLE001  # a property runs code of the model's
        passed = None
    if isinstance(passed, nn.Parameter):
        return Member(name, passed, owner, attribute, None)
    if isinstance(passed, Tensor):
        return Member(name, None, owner, attribute, f"`{name}` is computed, not registered", computed=True)
    if callable(passed) and not isinstance(passed, nn.Module):
        # A quantised layer of torch.ao (2.13) packs its weight and gives it by a method.
        why = f"`{name}` is a method of {type(owner).__name__}, which holds its weight in a form of its own"
        return Member(name, None, owner, attribute, why, computed=True, packed=True)
    return Member(name, None, owner, attribute, f"`{name}` does not exist")


def offloaded_values(owner: nn.Module, attribute: str) -> tuple[Tensor | None, bool]:
    """Return the values of a parameter that a hook of accelerate holds, and whether it holds them in a file.

    Nothing of the map's tensor is read: from disk it is a memory map. None where no hook has one.
    """
    for hook in _hooks(getattr(owner, "_hf_hook", None)):
        held = getattr(hook, "weights_map", None)
        if getattr(hook, "offload", False) and held is not None:
            try:
                value = held[attribute]
            except Exception:  # noqa: BLE001  # a map that lacks it, or a folder that is gone
                return None, False
            inner = getattr(held, "dataset", held)
            key = f"{getattr(held, 'prefix', '')}{attribute}"
            memory = getattr(inner, "state_dict", inner)
            return (value if isinstance(value, Tensor) else None), key not in memory
    return None, False


def held_by_hook(owner: nn.Module, attribute: str) -> bool:
    """Return True if a hook of accelerate looks after a parameter's values, whether or not they can be had."""
    registered = _entry(owner._parameters, attribute)
    hooks = _hooks(getattr(owner, "_hf_hook", None))
    return registered is not None and registered.is_meta and any(getattr(hook, "offload", False) for hook in hooks)


def _hooks(hook: Any, depth: int = 0) -> list[Any]:
    """Return a hook, or those of a `SequentialHook`, in order."""
    if hook is None:
        return []
    inner = getattr(hook, "hooks", None)
    if isinstance(inner, tuple) and depth < 8:  # hooks of hooks end
        return [one for part in inner for one in _hooks(part, depth + 1)]
    return [hook]
