"""The records of what lies beside the weights, apart from `facts` since most directories have nothing of the kind."""

from __future__ import annotations

from typing import Literal

from tiecheck.records.edits import Edit
from tiecheck.records.loaders import LoaderView
from tiecheck.records.record import Record
from tiecheck.records.stored import Comparison, Group, StoredTensor
from tiecheck.records.words import Kind, Outcome


class LoadProblem(Record):
    """A reason for which transformers does not load what a directory stores, whatever its ties."""

    kind: Literal[
        "name", "nested", "format", "prefix", "experts", "shape", "flag", "vendor", "field", "newer", "moved", "open"
    ]
    """`name` of the file, tensors `nested` below a key, no `format` in the metadata, names without the `prefix` of the
    base model, `experts` of which one lacks a part, a `shape` that the config denies, a `flag` that is no truth
    value, a `vendor`'s file with other values, which transformers does not read, a `field` of the config that the
    library refuses, one that is `newer` than the line that refuses it, names beside the groups that 5 has `moved` away
    from where 4.57 looks for them; `open` is no problem but what nobody asked."""
    versions: tuple[str, ...]
    """The lines of transformers that it holds for."""
    outcome: Outcome
    """Outcome of every group; of what was `moved` that of the tensors alone."""
    message: str
    """Error that the loader raises, or its way of going on."""
    why: str
    """The cause, as the beginning of a sentence."""
    file: str
    """The file, relative to the target."""
    no_mend: str
    """Reason why no change of files mends it, where there are no edits."""
    names: tuple[str, ...]
    """The tensors it is about; empty for the whole file."""
    edits: tuple[Edit, ...] = ()
    """Changes of files that mend it."""


class BesideAdapter(Record):
    """An adapter in a model's own directory."""

    saved: tuple[str, ...]
    """Modules that it holds a trained copy of (`modules_to_save`)."""
    targets: tuple[str, ...]
    """Modules that it adds to (`target_modules`)."""
    base: str | None
    """The model that it names as its base."""
    files: tuple[str, ...]
    """Its config, and its weights where there are some."""

    @property
    def apart(self) -> dict[str, str]:
        """Names of its files in a folder of their own, where no load of the model looks for them."""
        return {file: f"adapter/{file}" for file in self.files}


Gap = Literal["elsewhere", "nowhere", "tied", "unindexed"]
"""Ways in which an index and its shards differ on a name: another shard holds it; none does; none does, and its tie
makes it from another name; a shard holds it, and the index does not have it."""


class IndexGap(Record):
    """Names on which an index and one shard differ in one way."""

    file: str
    """The shard, relative to the target."""
    gap: Gap
    """The way."""
    names: tuple[str, ...]
    """The names, sorted."""
    hurts: tuple[LoaderView, ...]
    """The loaders that lose a tie group for it, by its names."""


class Duplicate(Record):
    """A name that stands in the headers of several shards."""

    name: str
    tensors: tuple[StoredTensor, ...]
    """Its entries, in the order of the shards."""
    indexed: str | None
    """The shard that the index gives it; None where the index does not have the name."""
    comparison: Comparison | None
    """The byte comparison, where it was made."""
    reason: str | None
    """Reason why it was not made."""


class LayoutView(Record):
    """One group in one of several weight layouts of a directory (a file, or an index with its shards)."""

    file: str
    stored: Kind
    """`absent` (at most one member stored), `copy`, `separate`, `storage` or `unknown`."""
    names: tuple[str, ...]
    """The stored members, sorted."""
    reason: str | None


class LayoutGroup(Record):
    """One group as each of several weight layouts of a directory stores it, the one that loaders prefer first."""

    names: tuple[str, ...]
    declared: bool | None
    """True where the group is declared as tied; None for one that only a pickle's shared memory suggests."""
    views: tuple[LayoutView, ...]
    """One for each layout."""


class TiedMoments(Record):
    """More entries in a saved optimizer state than a tie has tensors."""

    group: Group
    file: str
    """The state, relative to the target."""
    keys: tuple[str, ...]
    """The entries: parameter names, or numbers."""
    field: str
    """The moment that was compared, e.g. `exp_avg`."""
    shape: tuple[int, ...]
    """The parameter's shape, by the first entry."""
    comparison: Comparison | None
    """Differences of the entries; None where their shapes do."""
    named: bool
    """True where the entries have names; otherwise they were found by their shape."""
    room: int
    """Number of entries that the stored parameters account for."""


class StrictLoad(Record):
    """The names of a checkpoint against those of its class, as a strict load would hold them."""

    prefix: str | None
    """Prefix before every stored name and before none of the class's; None where they fit."""
    renamed: tuple[str, str] | None
    """One stored name with that prefix, and the class's name for it."""
    stored: int
    aliases: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]
    """For each group declared as tied and stored in part: the names that are not stored, and the ones that are."""
    resumed: tuple[str, ...]
    """Files beside the weights that say that a training is to be resumed from here."""
    doubled: bool = False
    """True where the prefix is the base model's once more, which transformers 5 reads over, and 4.57 does not."""
