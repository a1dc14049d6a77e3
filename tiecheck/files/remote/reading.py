"""Config and checkpoint of a remote store, by headers: what `read_config` and `read_checkpoint` do with a directory."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

from tiecheck.config.options import Config
from tiecheck.errors import TargetError, without_secrets
from tiecheck.files.adapter import WEIGHTS, adapter_of
from tiecheck.files.checkpoint import (
    INDEX_ENDING,
    PICKLE_ENDINGS,
    STANDARD_NAMES,
    check_ending,
    parse_index,
    pick_weights_file,
)
from tiecheck.files.limits import CONFIG_BYTES, HEADER_BYTES, JSON_BYTES, READ, target_account
from tiecheck.files.local import LFS_POINTER, parse_json, refuse_pointer
from tiecheck.files.model_config import CONFIG_NAME, parse_config
from tiecheck.files.remote.hub import hub_address, open_hub
from tiecheck.files.remote.repeated_headers import SMALL, RecentItems
from tiecheck.files.remote.store import (
    GUESS,
    ByteRange,
    FoundModel,
    RemoteComparer,
    Start,
    Store,
    TrafficMeter,
    path_of,
)
from tiecheck.files.remote.web_directory import WebStore, run_beside
from tiecheck.files.safetensors.header import TYPED_FROM, check_length, shard_of_header
from tiecheck.records.artefacts import Adapter
from tiecheck.records.declared import ModelConfig
from tiecheck.records.report import Traffic
from tiecheck.records.stored import Checkpoint, Shard
from tiecheck.records.words import Unknown
from tiecheck.targets.parse import ADAPTER_CONFIG, FILE_ENDINGS, holds_adapter, layout_word

ENDINGS = (*FILE_ENDINGS, ".gguf", ".onnx")

FIRST = 32
"""Shards of an index that are asked for first: where none of them is there, nor are the others."""

LEAST_ENTRY = len('"":{"dtype":"U8","shape":[],"data_offsets":[0,0]},')
"""Bytes that a header's entry has at least, beside the name."""

_parsed = TrafficMeter()
"""Headers that this process has read: from the first megabyte on, as in a fleet, the faster parser pays."""

_headers: RecentItems[Shard] = RecentItems()
_configs: RecentItems[ModelConfig] = RecentItems()


class RemoteModel(NamedTuple):
    """The model behind an address."""

    address: str
    """Its address for messages."""
    traffic: Callable[[], Traffic]
    """Gives the bytes and requests up to the call."""
    local: str
    """The path in the hub's cache that has all of it, and is read in its place; else empty."""
    config: ModelConfig | None = None
    config_text: bytes | None = None
    """The config as it was sent."""
    checkpoint: Checkpoint | None = None
    refused: str = ""
    """Reason why the weights that are there are not read; else empty."""
    adapter: Adapter | None = None
    """The adapter, where it is one and no model."""


def read_address(address: str, config: Config) -> RemoteModel:
    """Config and headers of a remote model, fetched side by side; `MissingExtraError` where its library is not."""
    found = open_remote(address, config)
    store = found.store
    if store is None or found.local:
        return RemoteModel(address, store.traffic if store else TrafficMeter().read, found.local)
    _refuse_options(store, config)
    names = None if found.file else target_account().names_of(address) or store.names()
    wanted = names is None or CONFIG_NAME in names
    fetched = run_beside(lambda: store.small(CONFIG_NAME, CONFIG_BYTES)) if wanted else None
    try:
        adapted = not found.file and holds_adapter(names or ())
        checkpoint = None if adapted else _checkpoint(store, found.file, names)
    finally:
        raw = fetched() if fetched is not None else None
    adapter = _adapter(store, names) if checkpoint is None and not found.file else None
    if adapter is not None:
        return RemoteModel(store.address, store.traffic, "", adapter=adapter)
    if raw is None and checkpoint is None:
        none = (
            layout_word(list(names or ())) or "no model: no config.json, and no weights under the names that are known"
        )
        raise TargetError(f"{store.address} is {none}")
    path = path_of(store, CONFIG_NAME)
    if raw is not None:
        refuse_pointer(raw, path)
    return RemoteModel(
        store.address,
        store.traffic,
        "",
        _config(raw, path) if raw is not None else None,
        raw,
        checkpoint if isinstance(checkpoint, Checkpoint) else None,
        checkpoint.reason if isinstance(checkpoint, Unknown) else "",
    )


def _adapter(store: Store, names: Collection[str] | None) -> Adapter | None:
    """Return the adapter in a folder without weights of a model; None for another folder."""
    raw = store.small(ADAPTER_CONFIG, CONFIG_BYTES) if names is None or ADAPTER_CONFIG in names else None
    if raw is None:
        return None
    path, checkpoint = path_of(store, ADAPTER_CONFIG), None
    refuse_pointer(raw, path)
    for name in WEIGHTS if names is None else [name for name in WEIGHTS if name in names]:
        start = store.starts([(name, GUESS)])[0]
        if start is not None and name.endswith(PICKLE_ENDINGS):
            raise TargetError(_pickle(path_of(store, name)).reason, path)
        if start is not None:
            checkpoint = _single(store, name, start)
            break
    return adapter_of(parse_json(raw, path, path), checkpoint, path)


def _refuse_options(store: Store, config: Config) -> None:
    """Refuse what would need the whole model here."""
    option = "--load" if config.load else "--trust-remote-code" if config.trust_remote_code else None
    if option:
        raise TargetError(
            f"{store.address}: {option} needs the model here; download it and name its directory", store.address
        )


def _checkpoint(store: Store, file: str, names: Collection[str] | None) -> Checkpoint | Unknown | None:
    if not file and names is None:
        return _probed(store)
    name = file or pick_weights_file(names or (), store.address)
    if name is None:
        return None
    path = path_of(store, name)
    if name.endswith(INDEX_ENDING):
        index = store.small(name, JSON_BYTES)
        if index is None:
            raise TargetError(f"there is no {path}", path)
        return _indexed(store, name, index)
    check_ending(name)
    if name.endswith(PICKLE_ENDINGS):
        if file:
            raise TargetError(_pickle(path).reason, path)
        return _pickle(path)
    start = store.starts([(name, GUESS)])[0]
    if start is None:
        raise TargetError(f"there is no {path}", path)
    return _single(store, name, start)


def _probed(store: Store) -> Checkpoint | Unknown | None:
    """Ask for the standard names one after the other, where the store cannot list."""
    for name in STANDARD_NAMES:
        if name.endswith(INDEX_ENDING):
            index = store.small(name, JSON_BYTES)
            if index is not None:
                return _indexed(store, name, index)
            continue
        pickled = name.endswith(PICKLE_ENDINGS)
        start = store.starts([(name, len(LFS_POINTER) if pickled else GUESS)])[0]
        if start is not None:
            return _pickle(path_of(store, name)) if pickled else _single(store, name, start)
    return None


def _pickle(path: str) -> Unknown:
    return Unknown(f"{path} is a pickle, which is never read from a remote store; download it and name its directory")


def _single(store: Store, name: str, start: Start) -> Checkpoint:
    shards = _shards(store, [name], [start])
    return Checkpoint("safetensors", store.address, shards, None, {}, (), {}, RemoteComparer(store))


def _indexed(store: Store, name: str, raw: bytes) -> Checkpoint:
    """Return the shards of an index; of pickles the names alone."""
    path = path_of(store, name)
    refuse_pointer(raw, path)
    weight_map, files = parse_index(raw, path)
    if not files[0].endswith(".safetensors"):
        return Checkpoint("pickle", store.address, (), name, weight_map, tuple(files), {}, RemoteComparer(store))
    wanted = list(_guesses(weight_map, files).items())
    starts = store.starts(wanted[:FIRST])
    if len(files) > FIRST and not any(starts):
        raise TargetError(f"{path} names {len(files):,} files, and none of the first {FIRST} is there", path)
    starts += store.starts(wanted[FIRST:]) if len(files) > FIRST else []
    there = [(file, start) for file, start in zip(files, starts, strict=True) if start is not None]
    missing = tuple(file for file, start in zip(files, starts, strict=True) if start is None)
    shards = _shards(store, [file for file, _ in there], [start for _, start in there])
    return Checkpoint("safetensors", store.address, shards, name, weight_map, missing, {}, RemoteComparer(store))


def _guesses(weight_map: Mapping[str, str], files: Sequence[str]) -> dict[str, int]:
    """Return the bytes to ask for of each shard: what its names take at the very least, and 64 KiB for the rest.

    So no more than 64 KiB and the header is moved, and one request does for shards of some two thousand tensors too.
    """
    guesses = dict.fromkeys(files, GUESS)
    for name, file in weight_map.items():
        guesses[file] += len(name) + LEAST_ENTRY
    return {file: min(guess, HEADER_BYTES) for file, guess in guesses.items()}


def _shards(store: Store, names: Sequence[str], starts: Sequence[Start]) -> tuple[Shard, ...]:
    """Read the headers that begin so, and the rest of those that are longer than what was asked for."""
    lengths: list[int] = []
    rest: list[ByteRange] = []
    for name, start in zip(names, starts, strict=True):
        path = path_of(store, name)
        refuse_pointer(start.raw, path)
        length = int.from_bytes(start.raw[:8], "little")
        check_length(path, start.size, length)
        target_account().take(READ, length, path)
        lengths.append(length)
        if 8 + length > len(start.raw):
            rest.append(ByteRange(name, len(start.raw), 8 + length - len(start.raw)))
    tails = dict(zip((span.name for span in rest), store.spans(rest), strict=True)) if rest else {}
    shards: list[Shard] = []
    for name, start, length in zip(names, starts, lengths, strict=True):
        header = start.raw[8 : 8 + length] + tails.pop(name, b"")
        path = path_of(store, name)
        shards.append(_shard(header, start.size, path, name))
        _parsed.add(length)
    return tuple(shards)


def _shard(header: bytes, size: int, path: str, name: str) -> Shard:
    """Parse one header, unless it came before."""

    def parse() -> Shard:
        return shard_of_header(header, size, path, name, typed=_parsed.read().bytes >= TYPED_FROM)

    return _headers.get((name, size, header), parse) if len(header) <= SMALL else parse()


def _config(raw: bytes, path: str) -> ModelConfig:
    """Parse one config, unless it came before."""
    return _configs.get(raw, lambda: parse_config(raw, path)) if len(raw) <= SMALL else parse_config(raw, path)


def open_remote(address: str, config: Config) -> FoundModel:
    """Return the store behind an address, or the hub's cache of all of it; `MissingExtraError` without its library."""
    _check(address)
    hub = hub_address(address) if address.startswith(("hf://", "http://", "https://")) else None
    label = without_secrets(address)
    if hub is not None:
        folder, file = _split(hub.path)
        return open_hub(hub._replace(path=folder), file, config)
    if config.revision:
        raise TargetError(f"{label} is no model of the hub, and --revision names a revision of one", label)
    if config.offline:
        raise TargetError(f"{label} is not fetched (--offline)", label)
    base, mark, query = address.partition("?")
    folder, file = _split(base)
    return FoundModel(_store(folder + mark + query), file)


def _check(address: str) -> None:
    """Refuse an address that cannot be one, and a config alone."""
    label = without_secrets(address)
    try:
        port = urlsplit(address).port
    except ValueError as error:
        raise TargetError(f"{label} is no address that can be read: {error}", label) from error
    if port == 0:
        raise TargetError(f"{label} is no address that can be read: it has no such port", label)
    if label.endswith("/config.json"):
        raise TargetError(f"{label} is a config alone; name its directory", label)


def _store(address: str) -> Store:
    if address.startswith(("http://", "https://")):
        return WebStore(address)
    from tiecheck.files.remote.fsspec_store import FsspecStore
    from tiecheck.files.remote.s3_store import open_s3

    return open_s3(address) or FsspecStore(address)


def _split(path: str) -> tuple[str, str]:
    """Folder and file of a path that ends like a file; the folder alone of any other."""
    if not path.endswith(ENDINGS):
        return path.rstrip("/"), ""
    folder, _, file = path.rpartition("/")
    return folder, file
