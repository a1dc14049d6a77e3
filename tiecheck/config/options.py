"""The options of a run, in one frozen record made of flags, the environment, a configuration file and defaults.

The Python functions take the same words as keywords.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from tiecheck.records.record import Record
from tiecheck.records.report import Severity

if TYPE_CHECKING:
    from tiecheck.records.suppressions import Allowance

VALUES = ("auto", "never", "always")
"""Every word of `Config.values`."""

LONGEST = 10**9
"""Seconds that a target may be given at most; what is more need not be a float, nor a time that a system can wait."""

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
    """True where a skip fails the run."""
    values: Literal["auto", "never", "always"] = "auto"
    """The word on whether tensor bytes may be read."""
    live: bool = False
    """True where the class is to be built on the meta device."""
    load: bool = False
    """True where the weights are to be loaded too; implies `live`."""
    trust_remote_code: bool = False
    """True where the directory's own modeling file may be run; implies `live`."""
    rehearse: bool = False
    """True where the library's own `from_pretrained` is to be run on the meta device."""
    python: str | None = None
    """Path of the interpreter whose transformers does so; None for this one's. Implies `rehearse`."""

    base: str | None = None
    """The base of an adapter; None for the one that its config names, where that is here."""
    uses: bool = False
    """True where a forward pass is to be traced, on meta; implies `live`."""
    inputs: Any = None
    """Arguments of that pass: `FILE.py:FUNCTION` that makes them, or what `tiecheck.uses` takes; None to make some up.
    Implies `uses`."""
    measure: bool = False
    """True where the model is to be run on random tokens and its logits measured, whatever its weights look like;
    implies `load` and `uses`."""

    changed_only: str | None = None
    """The revision against which git says what changed, of sources the only files to judge; None for all."""
    recursive: bool = False
    """True where every model below a directory is a target of its own."""
    drafts_for: str | None = None
    """The model that a draft drafts for, to compare their embeddings; None for none."""
    converted_from: str | None = None
    """The checkpoint that a GGUF file was converted from, to compare the two; None for none."""
    judge_for: tuple[str, ...] = ()
    """The loaders that matter (`--for`), as `name` or `name==version`; empty for every loader of the matrix."""
    revision: str | None = None
    """The branch, tag or commit of a hub model; None for what the address says, else the main branch."""
    offline: bool = False
    """True where nothing may be fetched: a hub model then comes from the local cache alone."""
    timeout: float = 300.0
    """Seconds that one target may take; 0 for no end. An honest one of a million tensors takes some three."""
    ties: Mapping[str, tuple[tuple[str, ...], ...]] = {}
    """The user's own contract: a model's class, by name or dotted path, and the groups of names that are one tensor."""
    ties_from: str = ""
    """The place where that contract was read, e.g. `pyproject.toml [tool.tiecheck.ties]`; empty where there is none."""
    allow: tuple[Allowance, ...] = ()
    """Findings of some targets that are known and wanted, each with its reason."""
    baseline: str | None = None
    """The file with the findings that were accepted; None for none."""
    cache: bool = False
    """True where verdicts of directories may be kept between runs over several targets, and told again."""

    device_map: str | Mapping[str, Any] | None = None
    """The placement to judge: a strategy (`auto`), a device for all, a JSON file, or a map; None for none. Implies
    `live`. Read already, by `placing.options`: a strategy, or a map of module to device."""
    device_map_from: str = ""
    """The place where that was said: `--device-map`, `device_map=`, or a file; empty where it was not."""
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
        """Tell whether the live layer was asked for."""
        return self.live or self.load or self.trust_remote_code or self.device_map is not None or self.wants_uses

    @property
    def wants_uses(self) -> bool:
        """Tell whether a forward pass is to be traced."""
        return self.uses or self.inputs is not None or self.measure

    @property
    def wants_rehearsal(self) -> bool:
        """True where a load is to be rehearsed."""
        return self.rehearse or self.python is not None

    def only(self, *fields: str) -> Config:
        """Return some of the options: what one fact is made by, with every other field as it is by default."""
        return Config(**{field: getattr(self, field) for field in fields})

    def ties_of(self, model: type) -> tuple[tuple[str, ...], ...]:
        """Return the groups that the user declares for a class; its dotted path is heard before its bare name."""
        return self.ties.get(class_path(model)) or self.ties.get(model.__name__) or ()


def class_path(model: type) -> str:
    """Return a class by its dotted path, `my_pkg.model.MyGPT`."""
    return f"{model.__module__}.{model.__qualname__}"
