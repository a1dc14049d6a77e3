"""What a run is to do, in one frozen record made of flags, the environment, a configuration file and defaults.

The file is `[tool.tiecheck]` of a pyproject.toml, or a tiecheck.toml whose keys stand at top level. It is looked for
here, from the working directory upwards, with a few calls of the system; `config_file` and tomllib are imported only
where there is one. A model's own folder is passed over: what was downloaded must not configure its checker.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

from tiecheck.record import Record
from tiecheck.report import Severity

if TYPE_CHECKING:
    from tiecheck.config_file import Settings

OWN = "tiecheck.toml"
PROJECT = "pyproject.toml"
SECTION = rb"""tool["']?[ \t]*(\.[ \t]*["']?tiecheck|\]|=)"""
"""What a pyproject.toml with our section holds, whichever way TOML lets one write it: others are not parsed."""

VALUES = ("auto", "never", "always")
"""Every word of `Config.values`."""

PLACING = ("device_map", "max_memory", "dtype", "no_split", "hash_seeds", "checkpoint", "device_map_from")
"""The fields of `Config` that say what placement is asked for; all but the first mean nothing without it."""


class Config(Record):
    """The options of one run. The Python functions take the same words as keywords."""

    select: tuple[str, ...] = ()
    """Rule codes or prefixes to run; empty for all."""
    ignore: tuple[str, ...] = ()
    """Rule codes or prefixes to leave out."""
    fail_on: Severity = "warning"
    """The mildest severity that fails a target."""
    strict: bool = False
    """Whether a skip fails the run."""
    values: Literal["auto", "never", "always"] = "auto"
    """Whether tensor bytes may be read."""
    live: bool = False
    """Whether to build the class on the meta device."""
    load: bool = False
    """Whether to load the weights too; implies `live`."""
    trust_remote_code: bool = False
    """Whether the directory's own modeling file may be run; implies `live`."""

    judge_for: tuple[str, ...] = ()
    """The loaders that matter (`--for`), as `name` or `name==version`; empty for every loader of the matrix."""
    revision: str | None = None
    """The branch, tag or commit of a hub model; None for what the address says, else the main branch."""
    offline: bool = False
    """Whether nothing may be fetched: a hub model then comes from the local cache alone."""
    ties: Mapping[str, tuple[tuple[str, ...], ...]] = {}
    """The user's own contract: a model's class, by name or dotted path, and the groups of names that are one tensor."""
    ties_from: str = ""
    """Where that contract was read, e.g. `pyproject.toml [tool.tiecheck.ties]`; empty where there is none."""

    device_map: str | Mapping[str, Any] | None = None
    """The placement to judge: a strategy (`auto`), a device for all, a JSON file, or a map; None for none. Implies
    `live`. Read already, by `placing.options`: a strategy, or a map of module to device."""
    device_map_from: str = ""
    """Where that was said: `--device-map`, `device_map=`, or a file; empty where it was not."""
    max_memory: Mapping[int | str, int | str] | None = None
    """The memory of each device, as transformers and accelerate take it (in bytes where it was read already); None for
    what this machine has."""
    dtype: str | None = None
    """The element type to plan for, torch's word; None for the one that the model would be loaded in."""
    no_split: tuple[str, ...] | None = None
    """Class names that must stay on one device; None for those that the model's class names."""
    hash_seeds: int = 0
    """Under how many values of PYTHONHASHSEED to plan again."""
    checkpoint: str | None = None
    """The checkpoint that a live module is going to be loaded with by accelerate; None for none."""

    @property
    def wants_live(self) -> bool:
        """Whether the live layer was asked for."""
        return self.live or self.load or self.trust_remote_code or self.device_map is not None

    def ties_of(self, model: type) -> tuple[tuple[str, ...], ...]:
        """The groups that the user's contract declares for a class; its dotted path is heard before its bare name."""
        return self.ties.get(dotted(model)) or self.ties.get(model.__name__) or ()


def dotted(model: type) -> str:
    """A class by its dotted path, `my_pkg.model.MyGPT`."""
    return f"{model.__module__}.{model.__qualname__}"


def find_settings(targets: Iterable[str] = ()) -> tuple[Settings | None, str | None]:
    """The nearest configuration file from the working directory upwards.

    Args:
        targets: What is to be checked: the folder that one of them is, or lies in, configures nothing.

    Returns:
        What the file says, None where there is none; and the file that was passed over for the reason above.

    Raises:
        UsageError: The file cannot be read, or something in it is wrong.
    """
    passed = None
    for path in _candidates():
        own = _is_models_own(path, targets)
        settings = _read(path, heard=not own)
        if settings is not None and not own:
            return settings, passed
        if settings is not None:
            passed = passed or settings.path
    return None, passed


def _read(path: str, *, heard: bool) -> Settings | None:
    """What a file says; where it has no say, it is no matter whether it is broken."""
    from tiecheck.config_file import Settings, read_settings
    from tiecheck.errors import UsageError

    try:
        return read_settings(path, asked=False)
    except UsageError:
        if heard:
            raise
        return Settings(os.path.relpath(path), {})


def _candidates() -> Iterator[str]:
    """The files that may be ours, nearest first."""
    try:
        folder = os.getcwd()
    except OSError:  # the working directory is gone
        return
    while True:
        yield from files_in(folder)
        parent = os.path.dirname(folder)
        if parent == folder:
            return
        folder = parent


def files_in(folder: str) -> Iterator[str]:
    """The files of one folder that may be ours."""
    own = os.path.join(folder, OWN)
    if os.path.isfile(own):
        yield own
    project = os.path.join(folder, PROJECT)
    if os.path.isfile(project) and _has_section(project):
        yield project


def _has_section(path: str) -> bool:
    """Whether a pyproject.toml may hold our section; one that cannot be read is for `read_settings` to tell."""
    try:
        with open(path, "rb") as stream:
            data = stream.read()
    except OSError:
        return True
    if b"tiecheck" not in data:
        return False
    import re

    return re.search(SECTION, data) is not None


def _is_models_own(path: str, targets: Iterable[str]) -> bool:
    """Whether a file lies in the folder that a target is, or lies in. What builds a model runs the user's own code."""
    folder = os.path.realpath(os.path.dirname(path))
    for target in targets:
        local = target.removeprefix("file://")
        if os.path.lexists(local):
            real = os.path.realpath(local)
            if folder == (real if os.path.isdir(real) else os.path.dirname(real)):
                return True
    return False
