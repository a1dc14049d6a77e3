"""The records of what people bring beside plain checkpoints: adapters, drafts, quantised members, GGUF and ONNX."""

from __future__ import annotations

from typing import Literal

from tiecheck.records.declared import ModelConfig
from tiecheck.records.record import Record
from tiecheck.records.stored import Checkpoint, Comparison, Group, StoredTensor
from tiecheck.records.words import Unknown


class Adapter(Record):
    """An adapter by its config and the names of its weights, which tell what was really adapted."""

    kind: str
    """PEFT's `peft_type` (`LORA`), or `mlx` for an adapter of mlx-lm."""
    base: str | None
    """The model that it names as its base, as it is written."""
    checkpoint: Checkpoint
    saved: tuple[str, ...]
    ensured: bool
    """True where the config asks to keep ties (`ensure_weight_tying`)."""
    replicated: bool
    """True where layers of the base are repeated over the same weights (`layer_replication`)."""
    same_tokens: bool = True
    """True where all modules whose tokens it trains have the same ones (`trainable_token_indices`)."""


class AdapterBase(Record):
    """The base of an adapter, by config and headers."""

    place: str
    """The directory, as it was named."""
    class_name: str | None
    model_type: str | None
    groups: tuple[Group, ...]
    head: str | None
    """The class's head; None for a class without one, or one that the table does not have."""
    known: bool
    """True where the tie table has the class."""
    checkpoint: Checkpoint | None = None
    """Its weights; None where they were not read."""


Change = Literal["added", "copied", "tokens"]
"""Ways of an adapter with a module: an update `added` to its weight (LoRA and its kin), the whole weight `copied` and
trained (`modules_to_save`), the rows of some `tokens` trained (`trainable_token_indices`)."""


class AdaptedTie(Record):
    """A tie of the base that the adapter meets."""

    group: Group
    changes: tuple[tuple[str, Change], ...]
    """The members that the adapter changes, by the base's names, sorted, each with the way."""
    comparison: Comparison | Unknown | None
    """The copies that it holds of several members, held against each other; None where it holds fewer than two."""
    kept: bool = False
    """True where PEFT keeps the copies one tensor (`ensure_weight_tying`)."""

    def members(self, change: Change) -> tuple[str, ...]:
        """Return the members that are changed in one way."""
        return tuple(name for name, way in self.changes if way == change)

    @property
    def untouched(self) -> tuple[str, ...]:
        """Members that the adapter leaves alone."""
        changed = dict(self.changes)
        return tuple(name for name in self.group.names if name not in changed)


class AdapterTies(Record):
    """The whole of what an adapter does to the ties of its base."""

    adapter: Adapter
    base: AdapterBase
    ties: tuple[AdaptedTie, ...]
    """The ties that it meets, in the order of the groups."""
    homeless: tuple[str, ...]
    """Heads that it adapts and the base's class does not have."""
    misfits: tuple[tuple[str, int, int], ...] = ()
    """Members of which its tensors have other rows than the base: the name, its rows and the base's."""


class DraftModel(Record):
    """A checkpoint that is a draft, or has draft layers."""

    config: ModelConfig
    target: Checkpoint | None
    """The model that it drafts for, where the user named it (`--target`)."""


class DraftProblem(Record):
    """A member that a draft lacks, or a borrowed copy that is not what it was borrowed from."""

    kind: Literal["no head", "shape", "rows", "map", "medusa", "layer", "target"]
    """No head where the loader takes none from the target; a tie declared between two shapes; a head or map whose rows
    are not those of the config; no map of a reduced vocabulary; a head of Medusa that is not stored; a copy in a draft
    `layer` that differs from the model's own; an embedding or head that differs from the `target`'s."""
    names: tuple[str, ...]
    """The tensors, the draft's first."""
    file: str
    """The file that holds the first, or the config."""
    told: str
    """The sizes or the key that it hangs on."""
    comparison: Comparison | None = None
    """The two, held against each other."""


class QuantisedMember(Record):
    """A member as it is stored, plain or quantised."""

    name: str
    form: str | None
    """The format, e.g. `GPTQ or AWQ`; None for a plain tensor."""
    parts: tuple[StoredTensor, ...]
    """All tensors that it is made of, sorted by name."""


class QuantisedTie(Record):
    """A declared tie of which a member is stored quantised, or whose head a skip list leaves to the quantiser."""

    group: Group
    members: tuple[QuantisedMember, ...]
    alike: bool | None
    """True where all members are stored in one form with equal bytes in every part; None where that was not read."""
    skipped: tuple[str, ...] = ()
    """Members that the skip list of the config names."""
    unskipped: str | None = None
    """The head, where such a list is there and does not name it."""


class OnnxGraph(Record):
    """An ONNX file by its graph: initialisers, and what reads them."""

    checkpoint: Checkpoint
    """The initialisers whose data has a place, external ones in the file that is named for them."""
    tables: tuple[str, ...]
    """Names from which rows are gathered, as an embedding's."""
    matrices: tuple[str, ...]
    """Names that activations are multiplied by."""
    unread: tuple[str, ...]
    """Initialisers of those whose data has no place that is known."""


class OnnxCopy(Record):
    """An embedding table that stands in the file once more as a head's matrix."""

    table: StoredTensor
    matrix: StoredTensor
    comparison: Comparison
    """The two, with the form in which they are equal."""
    parts: int = 1
    """Matrices that hold the table together, each a run of its rows; `matrix` is the first."""


class OnnxCopies(Record):
    """All that was found of tables that stand in a file once more."""

    found: tuple[OnnxCopy, ...]
    unread: tuple[str, ...]
    """Tables and matrices that could not be compared."""


class Gguf(Record):
    """A GGUF model by its header: one file, or all that it is split into."""

    architecture: str
    """Its `general.architecture`, e.g. `gemma3`."""
    kind: str
    """Its `general.type`: `model`, or `adapter`, `mmproj` and what else is no whole model."""
    checkpoint: Checkpoint
    """Its tensors, with ggml's words for their types (`Q4_K`), shapes row-major."""


HeadUse = Literal["required", "fallback", "embedding", "none", "unknown"]
"""Ways of llama.cpp's loader with `output.weight`: an error where it is absent; the embedding in its place; the
embedding always, so that it must not be there; an architecture without a head; not read."""


class GgufTie(Record):
    """Embedding and head of a GGUF file."""

    group: Group
    use: HeadUse
    """The way of the loader of its architecture."""
    comparison: Comparison | Unknown | None
    """The two, held against each other; None where there are not two."""


class GgufSource(Record):
    """The checkpoint that a GGUF file is said to be converted from (`--from`)."""

    place: str
    """The directory, as it was named."""
    checkpoint: Checkpoint
    embedding: StoredTensor
    head: StoredTensor
    """The tensor that the head holds: the embedding where the two are tied."""

    @property
    def tied(self) -> bool:
        """True where embedding and head are one matrix."""
        return self.head.name == self.embedding.name


class RowFit(Record):
    """A tensor of a GGUF file, held row by row against one of its source, over the rows that both have."""

    rows: int
    differ: int
    """Rows that are further apart than their type's rounding explains."""
    first: int | None
    """The first of them."""


class Conversion(Record):
    """Embedding and head of a GGUF file beside those of the checkpoint that it was converted from."""

    source: GgufSource
    embedding: RowFit
    head: RowFit | None
    """`output.weight` beside the source's head; None where it is not stored."""
