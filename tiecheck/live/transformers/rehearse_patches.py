"""Stand-ins for private functions of transformers, so that a load on meta reads nothing and tells what it does.

A part of `rehearse_child.py`: it imports nothing else of tiecheck and runs under Python 3.9. Tested with transformers
4.50.3, 4.53.3, 4.57.6, 5.0.0, 5.8.0, 5.23.0 and 5.24.0.
"""

from __future__ import annotations

import contextlib
import copy
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tiecheck.live.transformers.rehearse_watch import Watch


def owner_of(model: Any, name: str) -> tuple[Any, str]:
    """Return the module that has a parameter, None where there is none, and the name's last part."""
    *path, last = name.split(".")
    for part in path:
        model = model._modules.get(part) if model is not None else None
    return model, last


def object_at(model: Any, name: str) -> Any:
    """Return the parameter or buffer of a name; None where there is none."""
    owner, last = owner_of(model, name)
    if owner is None:
        return None
    found = owner._parameters.get(last)
    return owner._buffers.get(last) if found is None else found


def _common_patches(watch: Watch, modeling: Any) -> list[tuple[Any, str, Any]]:
    load_state_dict = modeling.load_state_dict

    def load_on_meta(path: Any, *args: Any, **named: Any) -> Any:
        if str(path).endswith(".safetensors"):
            return load_state_dict(path, *args, **named)
        real, named = watch.inside(path), {**named, "map_location": "meta"}
        found = load_state_dict(path, **named)
        watch.files.update({key: real for key in found if isinstance(key, str)})
        return found

    patches: list[tuple[Any, str, Any]] = [
        (modeling, "safe_open", lambda path, *_, **__: watch.open(path)),
        (modeling, "load_state_dict", load_on_meta),
        (modeling.PreTrainedModel, "_initialize_missing_keys", lambda *_, **__: None),
    ]
    if hasattr(modeling, "_is_on_hf_mount"):  # reads whole files
        patches.append((modeling, "_is_on_hf_mount", lambda _: False))
    return patches


def _newer_patches(watch: Watch, modeling: Any) -> list[tuple[Any, str, Any]]:
    """Patches for transformers 5: what it loads and converts, then what it moves and compares."""
    from transformers import core_model_loading as core

    set_param = core.set_param_for_module

    def set_and_note(model: Any, name: str, *args: Any, **named: Any) -> None:
        before = object_at(model, name)
        set_param(model, name, *args, **named)
        after = object_at(model, name)
        if after is not before:
            watch.loaded(name, after, watch.current)

    def converting(convert: Any) -> Any:
        def convert_and_note(self: Any, *args: Any, **named: Any) -> Any:
            names = sorted(set().union(*self.layer_targets.values()))
            watch.current = names, len(names) == 1 and type(self) is core.WeightRenaming
            return convert(self, *args, **named)

        return convert_and_note

    spare: dict[int, Any] = {}

    def copy_when_used(value: Any) -> Any:  # the library copies a converter for each tensor, and keeps one a target
        if not isinstance(value, core.WeightConverter):
            return copy.deepcopy(value)
        last = spare.get(id(value))
        if last is None or last.collected_tensors:
            last = spare[id(value)] = copy.deepcopy(value)
        return last

    return [
        (core, "deepcopy", copy_when_used),
        (core, "ThreadPoolExecutor", lambda **_: None),  # nothing is read that threads could wait for
        (core, "set_param_for_module", set_and_note),
        (core.WeightRenaming, "convert", converting(core.WeightRenaming.convert)),
        (core.WeightConverter, "convert", converting(core.WeightConverter.convert)),
        *_finishing_patches(watch, modeling),
    ]


def _finishing_patches(watch: Watch, modeling: Any) -> list[tuple[Any, str, Any]]:
    import torch

    equal, move = torch.equal, modeling.PreTrainedModel._move_missing_keys_from_meta_to_device

    def move_and_note(self: Any, missing_keys: Any, *args: Any, **named: Any) -> None:
        before = {key: object_at(self, key) for key in missing_keys}
        move(self, missing_keys, *args, **named)
        for key, value in before.items():
            if object_at(self, key) is not value:
                watch.made_anew(object_at(self, key))

    def equal_by_bytes(one: Any, other: Any) -> bool:  # before 5.2x asked of meta tensors too, which torch refuses
        if not (one.is_meta and other.is_meta):
            return equal(one, other)
        found = watch.equal(id(one), id(other))
        if found is None:
            watch.undecided.append((id(one), id(other)))
        return bool(found)

    return [
        (modeling.PreTrainedModel, "_move_missing_keys_from_meta_to_device", move_and_note),
        (torch, "equal", equal_by_bytes),
    ]


def _older_patches(watch: Watch, modeling: Any) -> list[tuple[Any, str, Any]]:
    """Patches for transformers 4.50 to 4.57."""
    import inspect

    import torch

    load = modeling._load_state_dict_into_meta_model
    signature = inspect.signature(load)

    def place(model: Any, name: str, value: Any) -> Any:
        """Put one element's memory on the CPU for a tensor: RoBERTa, SAM and their kin tie by the device they find."""
        if type(value) not in (torch.nn.Parameter, torch.Tensor) or not value.is_meta:
            return value
        owner, last = owner_of(model, name)
        one = torch.zeros((), dtype=value.dtype).expand(value.shape)
        if type(value) is torch.Tensor:
            owner._buffers[last] = one
            return one
        owner._parameters[last] = torch.nn.Parameter(one, requires_grad=value.requires_grad)
        return owner._parameters[last]

    def load_and_note(*args: Any, **named: Any) -> Any:
        given = signature.bind(*args, **named).arguments
        model, stored = given["model"], given["reverse_renaming_mapping"]
        before = {key: object_at(model, key) for key in given["state_dict"]}
        found = load(*args, **named)
        for key, value in before.items():
            after = object_at(model, key)
            if after is not value and after is not None:
                watch.loaded(key, place(model, key, after), ([stored.get(key, key)], True))
        return found

    def move(self: Any, missing_keys: Any, *_: Any, **__: Any) -> None:  # the library's takes real memory
        values = self.state_dict(keep_vars=True)
        for key in missing_keys:
            if values[key].is_meta:
                watch.made_anew(place(self, key, values[key]))

    return [
        (modeling, "_load_state_dict_into_meta_model", load_and_note),
        (modeling.PreTrainedModel, "_move_missing_keys_from_meta_to_cpu", move),
        (modeling, "dispatch_model", lambda model, **_: model),
    ]


@contextlib.contextmanager
def patched(patches: Any) -> Any:
    """Replace attributes for a while: object, name, stand-in."""
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in patches]
    try:
        for owner, name, value in patches:
            setattr(owner, name, value)
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)


def patches_of(watch: Watch, modeling: Any, newer: bool) -> list[tuple[Any, str, Any]]:
    """Return what is to be replaced in transformers during a watched load: object, attribute, stand-in."""
    return _common_patches(watch, modeling) + (_newer_patches if newer else _older_patches)(watch, modeling)
