"""Parameters whose values accelerate's hooks hold elsewhere: on the CPU, on disk (accelerate 1.15, `hooks.py`).

`dispatch_model`, `cpu_offload` and `disk_offload` leave a meta parameter of its own under each name of a tie, and put
the values into a map behind `AlignDevicesHook.weights_map`, by name. A tie is there two tensors of the map over one
memory (CPU), or two files (disk). Pointers of the module itself are all 0 then.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

OFFLOADED = "offloaded"
"""The word that stands for the device of such a parameter."""


def offloaded(owner: nn.Module, attribute: str) -> tuple[Tensor | None, bool]:
    """The values of a parameter that a hook of accelerate holds, and whether it holds them in a file.

    Args:
        owner: The module that registers the parameter.
        attribute: Its attribute there.

    Returns:
        The map's tensor, of which nothing is read: from disk it is a memory map. None where no hook has one.
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


def by_hook(owner: nn.Module, attribute: str) -> bool:
    """Whether a hook of accelerate looks after a parameter's values, whether or not they can be had."""
    registered = owner._parameters.get(attribute)
    hooks = _hooks(getattr(owner, "_hf_hook", None))
    return registered is not None and registered.is_meta and any(getattr(hook, "offload", False) for hook in hooks)


def _hooks(hook: Any, depth: int = 0) -> list[Any]:
    """A hook, or those of a `SequentialHook`, in order."""
    if hook is None:
        return []
    inner = getattr(hook, "hooks", None)
    if isinstance(inner, tuple) and depth < 8:  # hooks of hooks end
        return [one for part in inner for one in _hooks(part, depth + 1)]
    return [hook]
