"""The stored layer: which weights a directory holds, and their headers. No tensor is read."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import Any, Literal

from tiecheck.errors import TargetError
from tiecheck.files.limits import SHARDS, VALUES, target_account
from tiecheck.files.local import parse_json, path_inside, read_bytes
from tiecheck.records.record import Record
from tiecheck.records.stored import Checkpoint, Shard
from tiecheck.targets.parse import NO_MODEL

PICKLE_ENDINGS = (".bin", ".pt", ".pth", ".ckpt")
LATER_ENDINGS = {".gguf": "GGUF", ".onnx": "ONNX"}
INDEX_ENDING = ".index.json"

# What `from_pretrained` looks for, in its order (transformers 5.23, `_get_resolved_checkpoint_files`).
STANDARD_NAMES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


class _Found(Record):
    """The weight files of a target, before any is opened."""

    files: tuple[str, ...]
    index_file: str | None
    weight_map: Mapping[str, str]
    missing: tuple[str, ...]


def read_checkpoint(path: str) -> Checkpoint | None:
    """Return the headers of a model directory, a weights file, or an index with its shards; None for no weights."""
    if os.path.isdir(path):
        root = path
        name = _pick(root)
        if name is None:
            return None
    else:
        root, name = os.path.split(_followed(os.path.abspath(path)))
    if name.endswith(INDEX_ENDING):
        return _read(root, _from_index(root, name))
    check_ending(name)
    return _read(root, _Found((name,), None, {}, ()))


def index_of_shard(path: str) -> str | None:
    """Return the index beside a weights file that names the file as a part of its model; None where none does."""
    folder, name = os.path.split(path)
    if not name.endswith((".safetensors", *PICKLE_ENDINGS)) or not os.path.isfile(path):
        return None
    try:
        beside = sorted(other for other in os.listdir(folder or ".") if other.endswith(INDEX_ENDING))
        for index in beside:
            place = os.path.join(folder, index)
            if name in parse_index(read_bytes(place, place), place)[1]:
                return place
    except (OSError, TargetError):  # whoever reads it tells
        return None
    return None


def _followed(path: str) -> str:
    """Return the file behind a link that was named itself, to read it in its own directory; not the hub cache's."""
    real = os.path.realpath(path)
    ending = os.path.splitext(path)[1]
    return real if os.path.islink(path) and os.path.splitext(real)[1] == ending != ".json" else path


def _pick(root: str) -> str | None:
    try:
        names = os.listdir(root)
    except OSError as error:
        raise TargetError(f"{root} cannot be listed: {error.strerror or error}", root) from error
    return pick_weights_file(names, root)


def pick_weights_file(there: Collection[str], root: str) -> str | None:
    """Return the file of a directory that names its weights: the standard ones first, then one that stands alone."""
    for name in STANDARD_NAMES:
        if name in there:
            return name
    names = sorted(there)
    for ending in (".safetensors" + INDEX_ENDING, ".bin" + INDEX_ENDING, ".safetensors", *PICKLE_ENDINGS):
        alike = [n for n in names if n.endswith(ending) and not n.startswith(NO_MODEL)]
        if len(alike) > 1:
            raise TargetError(
                f"{root} holds {len(alike)} files like {alike[0]} and neither an index nor a standard name says which "
                "is the model; name one of them",
                root,
            )
        if alike:
            return alike[0]
    return None


def check_ending(name: str) -> None:
    """Refuse a file that is no weights file by its ending, or of a format that is not read yet."""
    ending = os.path.splitext(name)[1]
    if ending in LATER_ENDINGS:
        raise TargetError(f"{name} is a {LATER_ENDINGS[ending]} file, which is not read as a checkpoint", name)
    if ending not in (".safetensors", *PICKLE_ENDINGS):
        known = ", ".join((".safetensors", *PICKLE_ENDINGS, INDEX_ENDING))
        raise TargetError(f"{name} is no weights file that is known by its ending ({known})", name)


def _from_index(root: str, name: str) -> _Found:
    """Return the shards an index names, each inside the directory and once; those that are not there apart."""
    path = path_inside(root, name)
    weight_map, shards = parse_index(read_bytes(path, path), path, os.listdir(root))
    files: dict[object, str] = {}
    missing: list[str] = []
    same: dict[str, str] = {}
    for file in shards:
        target_account().check_time()
        place = os.path.join(root, file)
        try:
            status = os.stat(place)
        except OSError:
            if os.path.lexists(place):  # opening it says what is wrong
                files[file] = file
            else:
                missing.append(file)
            continue
        first = files.setdefault((status.st_dev, status.st_ino), file)
        if first is not file:
            same[file] = first
    if same:  # one file under several spellings, or by links
        weight_map = {tensor: same.get(file, file) for tensor, file in weight_map.items()}
    return _Found(tuple(files.values()), name, weight_map, tuple(missing))


def parse_index(raw: bytes, path: str, there: Collection[str] = ()) -> tuple[Mapping[str, str], list[str]]:
    """Return the names of an index, each with its file, and the files, sorted: all beside the index and of one format.

    An index whose files are `there`, where the names in its directory are known, is read faster.
    """
    weight_map: Any = _large_map(raw, there)
    if weight_map is None:
        data = parse_json(raw, path, path)
        weight_map = data.get("weight_map") if isinstance(data, dict) else None
    if not isinstance(weight_map, dict):
        raise TargetError(f"{path} is no index: it lacks the `weight_map` of names to files", path)
    if not weight_map:
        raise TargetError(f"{path} names no tensor at all", path)
    if set(map(type, weight_map.values())) != {str}:
        odd = next(n for n, v in weight_map.items() if not isinstance(v, str))
        raise TargetError(f"{path} is broken: what it gives as the file of {odd!r} is no file name", path)
    shards = sorted(set(weight_map.values()))
    _check_shards(path, shards)
    plain = {file: os.path.normpath(file) for file in shards}
    if list(plain.values()) != shards:
        weight_map = {name: plain[file] for name, file in weight_map.items()}
        shards = sorted(set(plain.values()))
    return weight_map, shards


def _large_map(raw: bytes, there: Collection[str]) -> dict[str, str] | None:
    """Return the `weight_map` of an index too large for json; None for a small one, or one that json has to explain."""
    from tiecheck.files.safetensors.header import TYPED_FROM, half_characters

    if len(raw) < TYPED_FROM or half_characters(raw):
        return None
    import msgspec

    from tiecheck.files.safetensors.typed_entries import Index, index_of

    files = [name for name in there if name.endswith((".safetensors", *PICKLE_ENDINGS))]
    target_account().take(VALUES, 2 * raw.count(b","), "the index")
    for form in (index_of(files), Index) if files else (Index,):
        try:
            found: dict[str, str] = msgspec.json.decode(raw, type=form).weight_map
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            continue
        return found
    return None


def _check_shards(path: str, shards: list[str]) -> None:
    """Check that every shard lies in the index's directory by its name, and that all are of one known format."""
    if len(shards) > SHARDS:
        raise TargetError(f"{path} names {len(shards):,} files, more than the {SHARDS:,} that are read", path)
    for file in shards:
        plain = os.path.normpath(file)
        if os.path.isabs(file) or plain == os.pardir or plain.startswith(os.pardir + os.sep):
            raise TargetError(f"{path} names a shard outside its own directory, {file!r}, which is not read", path)
        if not file.endswith((".safetensors", *PICKLE_ENDINGS)) or "\0" in file:
            raise TargetError(f"{path} names the shard {file!r}, which is no weights file by its ending", path)
    formats = {file.endswith(".safetensors") for file in shards}
    if len(formats) > 1:
        raise TargetError(f"{path} names safetensors files and pickles; a checkpoint is one or the other", path)


def _read(root: str, found: _Found) -> Checkpoint:
    names = found.files or found.missing
    pickled = not names[0].endswith(".safetensors")
    form: Literal["safetensors", "pickle"] = "pickle" if pickled else "safetensors"
    paths = [(path_inside(root, name), name) for name in found.files]
    if pickled:
        from tiecheck.files.pickle.state_dict import read_pickles

        shards, slots = read_pickles(paths)
        agree = bool(found.index_file) and _agree(shards, found.weight_map)
    else:
        from tiecheck.files.safetensors.header import read_shards

        shards, agree = read_shards(paths, found.weight_map if found.index_file else None)
        slots = {}
        agree = agree and sum(len(shard.entries) for shard in shards) == len(found.weight_map)
    return Checkpoint(form, root, shards, found.index_file, found.weight_map, found.missing, slots, agrees=agree)


def _agree(shards: tuple[Shard, ...], where: Mapping[str, str]) -> bool:
    """Tell whether an index and the files it names hold the same names."""
    return {name: shard.path for shard in shards for name in shard.entries} == where and sum(
        len(shard.entries) for shard in shards
    ) == len(where)
