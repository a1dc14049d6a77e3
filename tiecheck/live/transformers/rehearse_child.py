"""Rehearse a load: run transformers' own `from_pretrained` on the meta device and tell what it did as one JSON object.

This file imports nothing of tiecheck but the `rehearse_*` files beside it, and at its top nothing but the standard
library of Python 3.9, so that any interpreter can run it by its path: a request a line on stdin (`{"directory": ...,
"values": true, ...}`), an answer a line on stdout.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import logging
import os
import re
import sys
import threading
import traceback
from typing import Any

if __name__ == "__main__":  # run by its path, so that its folder is first among those of the imports
    from rehearse_bounds import OutsideError, asked_of_hub, confined  # type: ignore[import-not-found]
    from rehearse_patches import object_at, owner_of, patched, patches_of  # type: ignore[import-not-found]
    from rehearse_watch import Watch  # type: ignore[import-not-found]
else:
    from tiecheck.live.transformers.rehearse_bounds import OutsideError, asked_of_hub, confined
    from tiecheck.live.transformers.rehearse_patches import object_at, owner_of, patched, patches_of
    from tiecheck.live.transformers.rehearse_watch import Watch

ARTEFACT = re.compile(r"\bmeta\b|trust_remote_code|accelerate|No (GPU|CUDA)|pip install|_is_hf_initialized")
"""Words of errors that come from rehearsing or from what is installed, and not from the directory."""

MISMATCH = re.compile(r"size mismatch|ignore_mismatched_sizes")

MESSAGE = 400
"""Characters of a message that are told."""

_LOCK = threading.Lock()


@contextlib.contextmanager
def _quiet() -> Any:
    """Keep transformers from printing its warnings and bars."""
    from transformers.utils import logging as theirs

    theirs.get_verbosity()  # makes the handler that is put aside here
    root, bars = logging.getLogger("transformers"), theirs.is_progress_bar_enabled()
    before, spread = root.handlers, root.propagate
    root.handlers, root.propagate = [logging.NullHandler()], False
    theirs.disable_progress_bar()
    try:
        yield
    finally:
        root.handlers, root.propagate = before, spread
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
        one, other = object_at(model, target), object_at(model, source)
        if one is None or other is None or one is other or not {id(one), id(other)} <= watch.origin.keys():
            continue
        equal = watch.equal(id(other), id(one))
        if equal is None:
            watch.undecided.append((id(one), id(other)))
        elif equal:
            owner, last = owner_of(model, target)
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
    _join_memory(watch, names, values)
    for number, mine in names.items():
        stored = watch.origin.get(number)
        state = "loaded" if stored else "left" if number not in watch.moved and values[number].is_meta else "random"
        parameters.append([sorted(mine), stored[0] if stored else [], state, bool(stored and not stored[1])])
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


def _join_memory(watch: Watch, names: dict[int, list[str]], values: dict[int, Any]) -> None:
    """Take buffers that the class's own code gave one memory for one, which is loaded if its memory was (SAM, 4.57)."""
    own = {number: values[number].data_ptr() for number in names if not values[number].is_meta}
    stayed = [number for number in own if watch.memory.get(number, own[number]) == own[number]]
    owners = {own[number]: number for number in sorted(stayed, key=lambda number: number in watch.origin)}
    for number, memory in own.items():
        owner = owners.get(memory, number)
        if memory and owner != number and owner in watch.origin:
            names[owner] += names.pop(number)
        elif memory and owner != number:
            watch.origin.pop(number, None)


def _tell_error(error: BaseException, config: Any, refused: list[str]) -> dict[str, Any]:
    """Return what was raised, and the reason where it is none of the directory's doing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    message = " ".join(lines[:2])[:MESSAGE] or "no message"
    said = f"{type(error).__name__}: {message}"
    inner = traceback.extract_tb(error.__traceback__)[-1].filename if error.__traceback__ else ""
    unsure = None
    names = ", ".join(dict.fromkeys([*refused, *asked_of_hub(error)]))
    if names:
        unsure = f"it asks for {names[:MESSAGE]}, which is not in the directory; nothing outside is fetched or read"
    elif isinstance(error, OutsideError):
        unsure = message
    elif isinstance(error, FileNotFoundError):
        pass  # what the directory lacks here, it lacks in a load
    elif isinstance(error, (ImportError, MemoryError, NotImplementedError)) or ARTEFACT.search(str(error)):
        unsure = f"on meta it raised {said}, which a real load may not"
    elif isinstance(error, AttributeError) and str(error).startswith("'tuple' object"):
        unsure = f"asked for what was loaded it raised {said}, as a class does that takes the model alone"  # Jev (5.23)
    elif os.path.dirname(inner) == os.path.dirname(__file__):
        unsure = f"the rehearsal itself failed with {said}"
    elif config and not MISMATCH.search(str(error)):
        unsure = f"the directory has {config}, and on meta it raised {said}"
    return {"raised": [type(error).__name__, message], "unsure": unsure}


def _special(directory: str) -> str:
    """Return a part of a directory whose loading has needs of its own: an adapter, a quantised model."""
    if os.path.exists(os.path.join(directory, "adapter_config.json")):
        return "an adapter"
    try:
        with open(os.path.join(directory, "config.json"), encoding="utf-8") as file:
            return "a quantisation" if "quantization_config" in json.load(file) else ""
    except (OSError, ValueError):
        return ""


def rehearse_on_meta(
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
    told: dict[str, Any] = {"version": transformers.__version__}
    with _LOCK, _quiet(), torch.no_grad(), confined(directory) as refused:
        try:
            cls, told["class_name"] = _class_of(directory, class_name, trust_remote_code)
            if cls is None:
                name = told["class_name"]
                missing = (
                    f"transformers {told['version']} has no class {name}" if name else "config.json names no class"
                )
                return {**told, "unsure": missing}
            watch = Watch(directory, values, modeling)
            with patched(patches_of(watch, modeling, newer)):
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
        except (Exception, SystemExit, GeneratorExit) as error:  # noqa: BLE001  # whatever it raises is the answer
            told.update(_tell_error(error, _special(directory), refused))
    if not newer and told.get("unsure") is None:
        told["unsure"] = _other_way(told, directory, modeling)
    return told


def _other_way(told: dict[str, Any], directory: str, modeling: Any) -> str | None:
    """Return why a plain load of transformers 4 does something else than one with a device map."""
    if _special(directory) == "an adapter":
        return "the directory has an adapter, which transformers 4 loads in a way that is not watched"
    plain = "low_cpu_mem_usage" in inspect.signature(modeling.PreTrainedModel._load_pretrained_model).parameters
    left = any(state == "left" for _, _, state, _ in told.get("parameters", ()))
    if plain and (left or told.get("dropped")):
        return f"transformers {told['version']} loads it otherwise where no device map is given"
    return None


def serve_rehearsals() -> None:
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
            answer = rehearse_on_meta(**json.loads(line))
        except ImportError as error:
            answer = {"unsure": f"{sys.executable} cannot import it: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    serve_rehearsals()
