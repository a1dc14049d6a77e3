"""Which facts a remote model offers: fewer than a directory, since what is not here is not read."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tiecheck.config.options import Config
from tiecheck.facts.store import Facts
from tiecheck.files.model_config import CONFIG_NAME
from tiecheck.files.remote.reading import RemoteModel
from tiecheck.records.stored import Checkpoint
from tiecheck.records.words import Unknown

if TYPE_CHECKING:
    from tiecheck.live.build import Built
    from tiecheck.records.placement import Placement


def adapt(providers: dict[str, Callable[[Facts], Any]], remote: RemoteModel, config: Config) -> None:
    """Turn the providers of a directory into those of a remote model, in place."""
    providers["remote"] = lambda _: remote.traffic()
    if remote.local:
        return
    if remote.refused:
        providers["checkpoint"] = providers["groups"] = lambda _: Unknown(remote.refused)
    if remote.checkpoint is not None and remote.checkpoint.format == "pickle":
        providers.pop("index", None)  # its shards are there, and are not read
    checkpoint = remote.checkpoint
    if checkpoint is not None and "duplicates" in providers:
        from tiecheck.stored.repeated_names import duplicates

        providers["duplicates"] = lambda _: duplicates(checkpoint, "never")
    if config.values == "always":
        providers["scale"] = lambda _: Unknown("the scale is read from local files; download the model")
    else:
        providers.pop("scale", None)
    if config.wants_live:
        providers["built"] = lambda _: _build(remote, config)
    if config.device_map is not None:
        providers["placement"] = lambda facts: _place(facts, remote, config)


def _build(remote: RemoteModel, config: Config) -> Built | Unknown:
    """The class by the config alone, from transformers."""
    from tiecheck.live.build import build_directory

    model = remote.config
    if model is None or remote.config_text is None:
        return Unknown("there is no config.json to build the class from")
    if model.remote_code:
        return Unknown(
            f"{model.class_name or 'the class'} is the model's own code, which is never fetched; download it"
        )
    with _directory(remote.config_text) as directory:
        return build_directory(directory, model, remote.checkpoint, config)


def _place(facts: Facts, remote: RemoteModel, config: Config) -> Placement | Unknown:
    """The placement by config and headers."""
    from tiecheck.placement.collect import collect_placement
    from tiecheck.placement.load_outcomes import Source

    model, checkpoint = remote.config, remote.checkpoint
    with _directory(remote.config_text or b"{}") as directory:
        named = model is None or bool(model.data.get("dtype") or model.data.get("torch_dtype"))
        dtype = config.dtype or (None if named or checkpoint is None else _first_dtype(checkpoint))
        source = Source(directory, model, checkpoint, facts.known("groups") or (), facts.known("architecture"))
        return collect_placement(facts.get("built"), facts.get("live"), source, config._replace(dtype=dtype))


def _first_dtype(checkpoint: Checkpoint) -> str | None:
    """The element type of the first stored tensor of floating point, which a load takes where the config names none."""
    for name in checkpoint.names():
        tensor = checkpoint.tensor(name)
        if tensor is not None and tensor.dtype in ("float64", "float32", "float16", "bfloat16"):
            return tensor.dtype
    return None


@contextmanager
def _directory(config_text: bytes) -> Iterator[str]:
    """A directory with the config alone, for as long as something is built of it."""
    with tempfile.TemporaryDirectory(prefix="tiecheck-") as directory:
        with open(os.path.join(directory, CONFIG_NAME), "wb") as file:
            file.write(config_text)
        yield directory
