"""Rehearse a load: run transformers' own `from_pretrained` on the meta device and tell what it did as one JSON object.

This file imports nothing of tiecheck, and at its top nothing but the standard library of Python 3.9, so that any
interpreter can run it by its path: a request a line on stdin (`{"directory": ..., "values": true, ...}`), an answer a
line on stdout. Tested with transformers 4.50.3, 4.53.3, 4.57.6, 5.0.0, 5.8.0, 5.23.0 and 5.24.0, whose private names
are touched here.
"""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import os
import re
import socket
import sys
import threading
from typing import Any

ARTEFACT = re.compile(r"\bmeta\b|trust_remote_code|accelerate|No (GPU|CUDA)|pip install|_is_hf_initialized")
"""Words of errors that come from rehearsing or from what is installed, and not from the directory."""

MISMATCH = re.compile(r"size mismatch|ignore_mismatched_sizes")
CHUNK = 1 << 24
"""Bytes of a tensor that are compared at a time."""

WARNINGS, MESSAGE = 20, 400
"""Warnings that are told, and characters of each."""

_LOCK = threading.Lock()


class Refused(Exception):
    """Something that a rehearsal does not do: read weights outside of the directory, or open a connection."""


class MetaFile:
    """A safetensors file whose header the library reads as always, and whose tensors come out on meta."""

    def __init__(self, watch: Watch, path: Any) -> None:
        self._watch, self._path = watch, watch.inside(path)
        self._file = watch.safe_open(path, framework="pt")

    def __enter__(self) -> MetaFile:
        return self

    def __exit__(self, *_: Any) -> None:
        return None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def get_slice(self, name: str) -> MetaSlice:
        """Return a tensor that is not read, and note that it was handed out."""
        self._watch.files[name] = self._path
        return MetaSlice(self._file.get_slice(name), self._watch.dtypes)

    def get_tensor(self, name: str) -> Any:
        """Return a whole tensor on meta."""
        return self.get_slice(name)[...]


class MetaSlice:
    """A stored tensor by its header: dtype and shape as the file says, elements never read."""

    def __init__(self, stored: Any, dtypes: Any) -> None:
        self._stored, self._dtypes = stored, dtypes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stored, name)

    def __getitem__(self, key: Any) -> Any:
        import torch

        word = self._stored.get_dtype()
        if word not in self._dtypes:
            raise ValueError(f"Cannot load safetensors of unknown dtype {word}")
        return torch.empty(self._stored.get_shape(), dtype=self._dtypes[word], device="meta")[key]


class Watch:
    """One load, watched: what was handed out, what came to hold it, what was made anew."""

    def __init__(self, directory: str, values: bool, modeling: Any) -> None:
        self.root, self.values = os.path.realpath(directory), values
        self.safe_open, self.dtypes = modeling.safe_open, modeling.str_to_torch_dtype
        self.files: dict[str, str] = {}
        self.origin: dict[int, tuple[list[str], bool]] = {}
        self.at_load: dict[str, int] = {}
        self.moved: set[int] = set()
        self.undecided: list[tuple[int, int]] = []
        self.current: tuple[list[str], bool] = ([], False)
        self._kept: dict[int, Any] = {}  # an id is a name only while its object lives
        self._compared: dict[tuple[int, int], bool | None] = {}
        self._pickles: dict[str, Any] = {}

    def inside(self, path: Any) -> str:
        """Return the real path of a weights file; the hub cache's links from `snapshots` to `blobs` are inside."""
        real = os.path.realpath(path)
        head, _, revision = self.root.rpartition(f"{os.sep}snapshots{os.sep}")
        blobs = os.path.join(head, "blobs") if head and os.sep not in revision else self.root
        if not real.startswith((self.root + os.sep, blobs + os.sep)):
            raise Refused(f"{path} lies outside of the directory, and is not read")
        return real

    def loaded(self, name: str, value: Any, origin: tuple[list[str], bool]) -> None:
        """Note that a parameter came to hold stored tensors."""
        self._kept[id(value)] = value
        self.origin[id(value)], self.at_load[name] = origin, id(value)

    def made_anew(self, value: Any) -> None:
        """Note that a parameter was not stored and is initialised."""
        self._kept[id(value)] = value
        self.moved.add(id(value))

    def equal(self, one: int, other: int, exactly: bool = True) -> bool | None:
        """Compare two loaded parameters by the bytes they stand for, cast as they are; None where that was not read."""
        pair = min(one, other), max(one, other)
        if self._compared.get(pair):
            return True
        found = [self._stored(number) for number in pair] if self.values else [None]
        self._compared[pair] = None if None in found else same_values(found[0], found[1], exactly)
        return self._compared[pair]

    def _stored(self, number: int) -> tuple[Any, Any] | None:
        """Return a stored tensor that can be sliced, and the dtype it is loaded in."""
        names, exact = self.origin.get(number, ([], False))
        if not exact or names[0] not in self.files:
            return None
        path, value = self.files[names[0]], self._kept[number]
        if not path.endswith(".safetensors"):
            import torch

            if path not in self._pickles:
                whole = torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
                self._pickles = {path: whole}
            return self._pickles[path][names[0]], value.dtype
        return self.safe_open(path, framework="pt").get_slice(names[0]), value.dtype


def same_values(one: tuple[Any, Any], other: tuple[Any, Any], exactly: bool) -> bool:
    """Compare two stored tensors after the cast, as `torch.equal` does; else with NaN alike, as nothing is lost then."""
    shapes = [tuple(t.get_shape() if hasattr(t, "get_shape") else t.shape) for t, _ in (one, other)]
    if shapes[0] != shapes[1]:
        return False
    width = 8
    for size in shapes[0][1:]:
        width *= size
    step = max(1, CHUNK // max(1, width))
    keys = [slice(i, i + step) for i in range(0, shapes[0][0], step)] if shapes[0] else [...]
    for key in keys:
        a, b = (tensor[key].to(dtype) for tensor, dtype in (one, other))
        alike = a == b
        if not exactly:
            alike = alike | ((a != a) & (b != b))
        if not bool(alike.all()):
            return False
    return True


def _is_zip(path: str) -> bool:
    import zipfile

    return zipfile.is_zipfile(path)


def _owner(model: Any, name: str) -> tuple[Any, str]:
    """Return the module that has a parameter, None where there is none, and the name's last part."""
    *path, last = name.split(".")
    for part in path:
        model = model._modules.get(part) if model is not None else None
    return model, last


def _object(model: Any, name: str) -> Any:
    owner, last = _owner(model, name)
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

    patches = [
        (modeling, "safe_open", lambda path, *_, **__: MetaFile(watch, path)),
        (modeling, "load_state_dict", load_on_meta),
        (modeling.PreTrainedModel, "_initialize_missing_keys", lambda *_, **__: None),
    ]
    if hasattr(modeling, "_is_on_hf_mount"):  # reads whole files
        patches.append((modeling, "_is_on_hf_mount", lambda _: False))
    return patches


def _newer_patches(watch: Watch, modeling: Any) -> list[tuple[Any, str, Any]]:
    """Patches for transformers 5."""
    import torch
    from transformers import core_model_loading as core

    set_param, equal = core.set_param_for_module, torch.equal
    move = modeling.PreTrainedModel._move_missing_keys_from_meta_to_device

    def set_and_note(model: Any, name: str, *args: Any, **named: Any) -> None:
        before = _object(model, name)
        set_param(model, name, *args, **named)
        after = _object(model, name)
        if after is not before:
            watch.loaded(name, after, watch.current)

    def converting(convert: Any) -> Any:
        def convert_and_note(self: Any, *args: Any, **named: Any) -> Any:
            names = sorted(set().union(*self.layer_targets.values()))
            watch.current = names, len(names) == 1 and type(self) is core.WeightRenaming
            return convert(self, *args, **named)

        return convert_and_note

    def move_and_note(self: Any, missing_keys: Any, *args: Any, **named: Any) -> None:
        before = {key: _object(self, key) for key in missing_keys}
        move(self, missing_keys, *args, **named)
        for key, value in before.items():
            if _object(self, key) is not value:
                watch.made_anew(_object(self, key))

    def equal_by_bytes(one: Any, other: Any) -> bool:  # before 5.2x asked of meta tensors too, which torch refuses
        if not (one.is_meta and other.is_meta):
            return equal(one, other)
        found = watch.equal(id(one), id(other))
        if found is None:
            watch.undecided.append((id(one), id(other)))
        return bool(found)

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
        """Put a parameter of one element's memory on the CPU: RoBERTa and its kin tie by the device they find."""
        if type(value) is not torch.nn.Parameter or not value.is_meta:
            return value
        owner, last = _owner(model, name)
        one = torch.zeros((), dtype=value.dtype).expand(value.shape)
        owner._parameters[last] = torch.nn.Parameter(one, requires_grad=value.requires_grad)
        return owner._parameters[last]

    def load_and_note(*args: Any, **named: Any) -> Any:
        given = signature.bind(*args, **named).arguments
        model, stored = given["model"], given["reverse_renaming_mapping"]
        before = {key: _object(model, key) for key in given["state_dict"]}
        found = load(*args, **named)
        for key, value in before.items():
            after = _object(model, key)
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
def _patched(patches: Any) -> Any:
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in patches]
    try:
        for owner, name, value in patches:
            setattr(owner, name, value)
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)


@contextlib.contextmanager
def _quiet(told: list[str]) -> Any:
    """Keep transformers' warnings as text instead of printing them, and refuse every connection of this thread."""
    from transformers.utils import logging as theirs

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if len(told) < WARNINGS:
                told.append(" ".join(record.getMessage().split())[:MESSAGE])

    theirs.get_verbosity()  # makes the handler that is put aside here
    root, bars, owner = logging.getLogger("transformers"), theirs.is_progress_bar_enabled(), threading.get_ident()
    before, level, spread = root.handlers, root.level, root.propagate
    root.handlers, root.propagate = [Keep(logging.WARNING)], False
    root.setLevel(logging.WARNING)
    theirs.disable_progress_bar()
    connect = socket.socket.connect

    def refuse(self: Any, address: Any) -> Any:
        if threading.get_ident() == owner:
            raise Refused(f"a connection to {address!r} was not asked for")
        return connect(self, address)

    try:
        with _patched([(socket.socket, "connect", refuse)]):
            yield
    finally:
        root.handlers, root.propagate = before, spread
        root.setLevel(level)
        if bars:
            theirs.enable_progress_bar()


def _class_of(directory: str, asked: str | None, trust: bool) -> tuple[Any, str | None]:
    """Return the class to load and its name: the one asked for, that of `architectures`, or the model type's."""
    import transformers

    with open(os.path.join(directory, "config.json"), encoding="utf-8") as file:
        config = json.load(file)
    config = config if isinstance(config, dict) else {}
    named = config.get("architectures")
    named = named[0] if isinstance(named, list) and named and isinstance(named[0], str) else None
    name = asked or named
    if trust and isinstance(config.get("auto_map"), dict):
        from transformers.dynamic_module_utils import get_class_from_dynamic_module

        for key, path in config["auto_map"].items():
            wanted = isinstance(path, str) and key.startswith("AutoModel") and "--" not in path
            if wanted and name in (None, path.rpartition(".")[2]):
                return get_class_from_dynamic_module(path, directory, local_files_only=True), name
    if name is None:
        from transformers.models.auto import modeling_auto

        for mapping in (modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, modeling_auto.MODEL_MAPPING_NAMES):
            found = mapping.get(config.get("model_type"))
            name = name or (found if isinstance(found, str) else None)
    cls = getattr(transformers, name, None) if name else None
    return (cls if hasattr(cls, "from_pretrained") else None), name


def _settle(watch: Watch, model: Any) -> None:
    """Tie what transformers 5 ties only if the values agree: on meta it does not ask."""
    for target, source in list((getattr(model, "all_tied_weights_keys", None) or {}).items()):
        one, other = _object(model, target), _object(model, source)
        if one is None or other is None or one is other or not {id(one), id(other)} <= watch.origin.keys():
            continue
        equal = watch.equal(id(other), id(one))
        if equal is None:
            watch.undecided.append((id(one), id(other)))
        elif equal:
            owner, last = _owner(model, target)
            setattr(owner, last, other)


def _weight_name(model: Any, which: str) -> str | None:
    """Return the name of the weight of the input or output embeddings."""
    try:
        module = getattr(model, which)()
    except Exception:  # noqa: BLE001  # some classes raise where they have none
        return None
    if getattr(module, "weight", None) is None:
        return None
    return next((f"{n}.weight" for n, m in model.named_modules(remove_duplicate=False) if m is module), None)


def _tell_model(watch: Watch, model: Any) -> dict[str, Any]:
    names: dict[int, list[str]] = {}
    values: dict[int, Any] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        own = dict(module._parameters)
        own.update({k: v for k, v in module._buffers.items() if k not in module._non_persistent_buffers_set})
        for last, value in own.items():
            if value is not None:
                values[id(value)] = value
                names.setdefault(id(value), []).append(f"{path}.{last}" if path else last)
    parameters, holder = [], {}
    for number, mine in names.items():
        stored = watch.origin.get(number)
        state = "loaded" if stored else "left" if number not in watch.moved and values[number].is_meta else "random"
        parameters.append([sorted(mine), stored[0] if stored else [], state])
        holder.update(dict.fromkeys(mine, number))
    dropped = []
    for name, number in watch.at_load.items():
        if name in holder and holder[name] != number and holder[name] in watch.origin:
            dropped.append([name, watch.origin[number][0], watch.equal(holder[name], number, exactly=False)])
    pairs = [[sorted(names.get(number, ())) for number in pair] for pair in watch.undecided]
    return {
        "parameters": sorted(parameters),
        "dropped": sorted(dropped, key=lambda entry: entry[0]),
        "undecided": [[one[0], other[0]] for one, other in pairs if one and other],
        "embedding": _weight_name(model, "get_input_embeddings"),
        "head": _weight_name(model, "get_output_embeddings"),
    }


def _tell_error(error: BaseException, config: Any) -> dict[str, Any]:
    """Return what was raised, and the reason where it is none of the directory's doing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    message = " ".join(lines[:2])[:MESSAGE] or "no message"
    said = f"{type(error).__name__}: {message}"
    trace, inner = error.__traceback__, ""
    while trace is not None:
        trace, inner = trace.tb_next, trace.tb_frame.f_code.co_filename
    unsure = None
    if isinstance(error, Refused):
        unsure = message
    elif isinstance(error, (ImportError, MemoryError, NotImplementedError)) or ARTEFACT.search(str(error)):
        unsure = f"on meta it raised {said}, which a real load may not"
    elif inner == __file__:
        unsure = f"the rehearsal itself failed with {said}"
    elif config and not MISMATCH.search(str(error)):
        unsure = f"the directory has {config}, and on meta it raised {said}"
    return {"raised": [type(error).__name__, message], "unsure": unsure}


def _special(directory: str) -> str:
    """Return a part of a directory whose loading has needs of its own: an adapter, a quantised model."""
    if os.path.exists(os.path.join(directory, "adapter_config.json")):
        return "an adapter"
    with contextlib.suppress(OSError, ValueError):
        with open(os.path.join(directory, "config.json"), encoding="utf-8") as file:
            if "quantization_config" in json.load(file):
                return "a quantisation"
    return ""


def rehearse(
    directory: str, *, class_name: str | None = None, trust_remote_code: bool = False, values: bool = True
) -> dict[str, Any]:
    """Load a directory on meta with the installed transformers, and return what it said and did.

    Args:
        directory: The model directory.
        class_name: The class to load; by default the first of `architectures`, else the model type's own.
        trust_remote_code: Whether the directory's own code may run.
        values: Whether the bytes of stored members are compared where the loader compares; not for sparse files.

    Returns:
        Plain data; `records/rehearsal.py` says what each key holds.
    """
    import torch
    import transformers
    from transformers import modeling_utils as modeling

    directory = directory.rstrip("/" + os.sep) or directory  # 4.57 warns of a module without a name
    newer = int(transformers.__version__.split(".")[0]) >= 5
    told: dict[str, Any] = {"version": transformers.__version__, "warnings": []}
    with _LOCK, _quiet(told["warnings"]), torch.no_grad():
        try:
            cls, told["class_name"] = _class_of(directory, class_name, trust_remote_code)
            if cls is None:
                name = told["class_name"]
                missing = f"transformers {told['version']} has no class {name}" if name else "config.json names no class"
                return {**told, "unsure": missing}
            watch = Watch(directory, values, modeling)
            patches = _common_patches(watch, modeling) + (_newer_patches if newer else _older_patches)(watch, modeling)
            with _patched(patches):
                model, info = cls.from_pretrained(
                    directory,
                    device_map={"": "meta"},
                    output_loading_info=True,
                    local_files_only=True,
                    trust_remote_code=trust_remote_code,
                )
            told["class_name"] = type(model).__name__
            if newer:
                _settle(watch, model)
            told.update(_tell_model(watch, model))
            told.update({key: sorted(info[f"{key}_keys"]) for key in ("missing", "unexpected")})
            told["mismatched"] = sorted(str(entry[0]) for entry in info["mismatched_keys"])
        except (Exception, SystemExit) as error:  # noqa: BLE001  # whatever it raises is the answer
            told.update(_tell_error(error, _special(directory)))
    return told


def main() -> None:
    """Answer one request a line; whatever else is printed goes to stderr."""
    folder = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [path for path in sys.path if os.path.abspath(path) != folder]
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    asked, answers = os.fdopen(os.dup(0), encoding="utf-8"), os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    for line in asked:
        try:
            answer = rehearse(**json.loads(line))
        except ImportError as error:
            answer = {"unsure": f"{sys.executable} cannot import it: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
