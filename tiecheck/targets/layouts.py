"""Layouts of model directories: one table, each with its sentence or with the targets that it stands for."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterator

from tiecheck.errors import TargetError
from tiecheck.records.record import Record
from tiecheck.records.words import LONE_ENDINGS

FOLDERS = 20_000
"""Folders below a root that are looked at: a walk of some two seconds."""


class Layout(Record):
    """A layout that is not read: how it is known, and what it is."""

    sign: str
    """A pattern that one of the names matches as a whole."""
    what: str
    """The thing, as it goes on after "is"."""
    way: str
    """The tool that makes a checkpoint of it that is read; empty where there is no such tool."""
    alone: bool = True
    """True where the name says so by itself; False where it may lie in a folder of something else."""


ROOTS = frozenset({"model_index.json", "modules.json"})
"""Files that make a folder the root of a pipeline, or of a model of sentence-transformers."""

INSIDE = r"(global_step|optimizer_|pytorch_model_fsdp_|mp_rank_|iter_)\d+.*"
"""Folders of a layout that are parts of it."""

LAYOUTS = (
    Layout(r"model_index\.json", "a pipeline of diffusers without a text encoder", "", False),
    Layout(r"zero_to_fp32\.py|.*zero_pp_rank_.*\.pt|global_step\d+", "a checkpoint of DeepSpeed", "zero_to_fp32.py"),
    Layout(r".*\.distcp|\.metadata", "a distributed checkpoint of torch (DCP)", "dcp_to_torch_save"),
    Layout(r"pytorch_model_fsdp_\d+", "a sharded checkpoint of FSDP", "accelerate merge-weights"),
    Layout(r"latest_checkpointed_iteration\.txt|mp_rank_\d+", "a checkpoint of Megatron", "its converter"),
    Layout(r".*\.nemo", "a checkpoint of NeMo", "its converter"),
    Layout(r"(shared_|source_)?vocabulary\.(json|txt)", "a model of CTranslate2", "", False),
    Layout(
        r"flax_model\.msgpack(\.index\.json)?", "a checkpoint of Flax", "from_pretrained of transformers 4 (from_flax)"
    ),
    Layout(
        r"tf_model\.h5(\.index\.json)?", "a checkpoint of TensorFlow", "from_pretrained of transformers 4 (from_tf)"
    ),
    Layout(r"saved_model\.pb", "a model of TensorFlow", ""),
    Layout(r".*\.(keras|weights\.h5)", "a model of Keras", ""),
    Layout(r"openvino_.*\.xml", "a model of OpenVINO", ""),
    Layout(r"rank\d+\.engine", "an engine of TensorRT-LLM", ""),
    Layout(r".*\.(tflite|litertlm)", "a model of LiteRT", ""),
    Layout(r".*\.(mlpackage|mlmodelc)", "a model of Core ML", ""),
    Layout(r".*\.pte", "a program of ExecuTorch", ""),
)
"""Layouts without weights that are read, the surer signs first."""


def layout_of(names: list[str], weights: list[str]) -> str | None:
    """Return what a directory without weights of a whole model is; None for one that has some, or is none of these."""
    if weights and weights != ["model.bin"]:
        return None
    for layout in LAYOUTS:
        sign = next((name for name in sorted(names) if re.fullmatch(layout.sign, name)), None)
        if sign is not None and bool(weights) == ("CTranslate2" in layout.what):
            way = f"; {layout.way} makes one that is" if layout.way else ""
            return f"{layout.what} ({sign}), which is not read{way}"
    return None


def folder_walk(folder: str) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yield each folder, with the names of its folders and files, as `os.walk` does, which fails a thousand deep.

    Links to folders are passed over, and so is what cannot be listed. Who takes folders out of a list is not led there.
    """
    waiting = [folder]
    while waiting:
        folder = waiting.pop()
        folders: list[str] = []
        names: list[str] = []
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.name)
                elif not entry.is_symlink() or not os.path.isdir(entry.path):
                    names.append(entry.name)
        yield folder, folders, names
        waiting += [os.path.join(folder, name) for name in reversed(folders)]


def models_below(text: str, weights: Callable[[list[str]], list[str]]) -> list[str]:
    """Return every model, GGUF and ONNX file below a directory, each for itself; the directory where there is none.

    A layout that is not read is one too, and is named where it is judged; its parts are none, nor is what lies beside
    the components of a root. A tree of too many folders is a `TargetError`: to judge some of its models would be taken
    for all.
    """
    found: list[str] = []
    for seen, (folder, folders, names) in enumerate(folder_walk(text)):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if seen >= FOLDERS:
            raise TargetError(f"{text} holds more than {FOLDERS:,} folders; name the folders of your models", text)
        root = not ROOTS.isdisjoint(names)
        files = model_parts(folder, [*folders, *names] if root else names)
        whole = ("config.json" in names and not files) or "adapter_config.json" in names or weights(names)
        layout = None if files else layout_of([*folders, *names], weights(names))
        if root:
            folders.clear()
        elif layout:
            folders[:] = [name for name in folders if not re.fullmatch(INSIDE, name)]
        if whole or layout:
            found.append(folder)
        found += files
    return found or [text]


def told_below(text: str, weights: Callable[[list[str]], list[str]]) -> str | None:
    """Return what to say of a directory without a model of its own, by what lies below it; None where nothing does."""
    below = [place for place in models_below(text, weights) if place != text]
    words = [layout_of(names, weights(names)) for names in map(_names, below)]
    if below and None not in words:
        return f"{text} holds no model that is read: {below[0]} is {words[0]}"
    more = "holds models in folders of its own; name them, e.g."
    return f"{text} {more} {text.rstrip('/')}/*, or use --recursive" if below else None


def _names(folder: str) -> list[str]:
    with contextlib.suppress(OSError):
        return os.listdir(folder)
    return []


def model_parts(text: str, names: list[str]) -> list[str]:
    """Return the targets that a directory without a model of its own stands for; none for one that is none of these.

    Its GGUF and ONNX files (of a model in parts the first), the components with a text model of a diffusers root, or
    the transformer below a root of sentence-transformers.
    """
    if not ROOTS.isdisjoint(names):
        foreign = _foreign_parts(os.path.join(text, "model_index.json"))
        below = [os.path.join(text, name) for name in sorted(names) if name not in foreign]
        return [path for path in below if _names_a_class(os.path.join(path, "config.json"))]
    return [os.path.join(text, name) for name in _lone_files(text, names)]


def _lone_files(folder: str, names: list[str]) -> list[str]:
    """Return the GGUF and ONNX files of a folder, each a target; of a model in parts the first part alone.

    Nobody has named them: a link that leads out of the folder, or of the hub's cache around it, is left out.
    """
    files = [name for name in sorted(names) if name.lower().endswith(LONE_ENDINGS) and _stays(folder, name)]
    first = [name for name in files if not re.search(r"-(?!00001)\d{5}-of-\d{5}\.gguf$", name)]
    return first or files[:1]


def _stays(folder: str, name: str) -> bool:
    """Tell whether a name is no link that leads out of its folder, or of the hub's cache that the folder is in."""
    path = os.path.join(folder, name)
    if not os.path.islink(path):
        return True
    cache = re.match(r".*?/models--[^/]+(?=/snapshots/)", root := os.path.realpath(folder))
    return os.path.realpath(path).startswith(f"{cache[0] if cache else root}{os.sep}")


def _names_a_class(path: str) -> bool:
    """Tell whether a config names a class of transformers, as those of a pipeline's other parts do not."""
    return b'"architectures"' in _beginning(path)


def _foreign_parts(path: str) -> set[str]:
    """Return the components of a pipeline whose classes are diffusers' own, as a safety checker's."""
    with contextlib.suppress(ValueError, RecursionError):
        told = json.loads(_beginning(path))
        if isinstance(told, dict):
            return {name for name, one in told.items() if isinstance(one, list) and one[:1] == ["stable_diffusion"]}
    return set()


def _beginning(path: str) -> bytes:
    with contextlib.suppress(OSError):
        if os.path.isfile(path):  # a pipe would keep us waiting
            with open(path, "rb") as file:
                return file.read(1 << 20)
    return b""
