"""The options of a run, in one frozen record made of flags, the environment, a configuration file and defaults.

The Python functions take the same words as keywords.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from tiecheck.errors import UsageError
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


Groups = tuple[tuple[str, ...], ...]
"""Disjoint groups of two or more names, as they were written."""

GIVEN = "the contract given as ties="
"""Origin of a contract that is no file's."""


def read_contract(value: Any, where: str) -> dict[str, Groups]:
    """Read groups by class name or dotted path; tables within tables are a path that was written without quotes.

    Anything else is a `UsageError` of one sentence, with where it stands.
    """
    if not isinstance(value, Mapping):
        raise UsageError(f"{where} must give each class its groups of names, not {_shown(value)}")
    found: dict[str, Groups] = {}
    for name, groups in value.items():
        if not isinstance(name, str) or not all(part.strip() for part in name.split(".")):
            raise UsageError(f"{where}: {name!r} is no class; write its name or its dotted path")
        if "*" in name:
            raise UsageError(f"{where}: {name!r} is no class; a contract is one class's, so name each")
        place = f"{where}.{name if name.isprintable() else repr(name)}"
        if isinstance(groups, Mapping):
            found |= {f"{name}.{inner}": held for inner, held in read_contract(groups, place).items()}
        else:
            found[name] = read_groups(groups, place)
    return found


def read_groups(value: Any, where: str) -> Groups:
    """Read some groups: two or more different names each, and no name in two of them; else a `UsageError`.

    A `*` in a name stands for one part of it: `layers.*.rel_bias.weight`; what it fits is looked up in the module.
    """
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise UsageError(f'{where} must be a list of groups, as [["a.weight", "b.weight"]], not {_shown(value)}')
    groups = tuple(_group(group, where) for group in value)
    seen: set[str] = set()
    for name in (name for group in groups for name in group):
        if name in seen:
            raise UsageError(f"{where}: {name!r} is in two groups; names that are one tensor make one group")
        seen.add(name)
    return groups


def _group(value: Any, where: str) -> tuple[str, ...]:
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise UsageError(f'{where}: a group is a list of names, as ["a.weight", "b.weight"], not {_shown(value)}')
    names = tuple(value)
    odd = [name for name in names if not isinstance(name, str) or not name.strip()]
    if odd:
        raise UsageError(f"{where}: a group holds names, not {_shown(odd[0])}")
    if len(set(names)) < max(1 if any("*" in name for name in names) else 2, len(names)):
        raise UsageError(f"{where}: a group has two or more different names, not {_shown(list(names))}")
    return names


def _shown(value: Any) -> str:
    """A value in a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
