"""The records that collectors make and rules read, and the words they are written in.

Facts are plain data: frozen, slotted, serialisable, each with its origin. They are `Record`s, named tuples that cost a
start next to nothing, where as many dataclasses cost half of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from tiecheck.record import Record

Kind = Literal["module", "parameter", "storage", "overlap", "copy", "separate", "absent", "unknown"]
"""How the members of a tie group hang together; `docs/how-tying-breaks.md` explains each word."""

KINDS: tuple[Kind, ...] = (
    "module",
    "parameter",
    "storage",
    "overlap",
    "copy",
    "separate",
    "absent",
    "unknown",
)
"""Every kind, strongest first."""

TIED: frozenset[Kind] = frozenset({"module", "parameter"})
"""The kinds in which a write through one name is seen through every other, gradient included."""

UNTIED: frozenset[Kind] = frozenset({"storage", "overlap", "copy", "separate"})
"""The kinds in which the members are different parameters, whatever they look like."""


def weakest(kinds: Iterable[Kind]) -> Kind:
    """The weakest of some kinds: a group is as strong as the weakest link that holds it together."""
    return max(kinds, key=KINDS.index)


class Unknown(Record):
    """A fact that could not be had. A rule that needs it becomes a Skip with this reason."""

    reason: str
    """Why, in words that can stand after "skipped: "."""


class Flag(Record):
    """One tie flag as it stands in a `config.json`."""

    key: str
    """The key, e.g. `tie_word_embeddings`."""
    level: tuple[str, ...]
    """The keys above it: `()` at the top, `("text_config",)` in a nested config."""
    value: object
    """The value as parsed; anything but true and false is no statement about tying."""
    line: int
    """1-based line of the key in the file."""
    column: int
    """1-based column of the key in the file."""

    @property
    def dotted(self) -> str:
        """The key with its levels, e.g. `text_config.tie_word_embeddings`."""
        return ".".join((*self.level, self.key))


class ModelConfig(Record):
    """A model directory's `config.json`."""

    path: str
    """The file, relative to the target."""
    data: Mapping[str, Any]
    """The parsed object, nested configs kept."""
    flags: tuple[Flag, ...]
    """Every tie flag at every level, in the order of the file."""

    @property
    def model_type(self) -> str | None:
        """`model_type`, where it is a string."""
        value = self.data.get("model_type")
        return value if isinstance(value, str) else None

    @property
    def class_name(self) -> str | None:
        """The first of `architectures`, the class that saved the model."""
        value = self.data.get("architectures")
        if isinstance(value, list) and value and isinstance(value[0], str):
            return value[0]
        return None

    @property
    def remote_code(self) -> bool:
        """Whether the config names modeling code of its own (`auto_map`)."""
        return bool(self.data.get("auto_map"))

    def integer(self, *keys: str) -> int | None:
        """The first of some keys that holds a positive integer, here or in a nested text config."""
        levels: list[Mapping[str, Any]] = [self.data]
        levels += [v for k, v in self.data.items() if k.endswith("_config") and isinstance(v, dict)]
        for level in levels:
            for key in keys:
                value = level.get(key)
                if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                    return value
        return None


class StoredTensor(Record):
    """One tensor of a checkpoint, by its header alone."""

    name: str
    """The name it is stored under."""
    dtype: str
    """torch's word for the element type where there is one (`bfloat16`), else the file's, in lower case (`f4`)."""
    shape: tuple[int, ...]
    """Shape, row-major."""
    nbytes: int
    """Bytes of the elements."""
    file: str
    """The file that holds it, relative to the target."""
    start: int | None
    """Byte offset of the first element in the file; None where the format has no such thing (a pickle)."""


class Shard(Record):
    """One weights file: its header as the parser gave it, so that a million entries are no million objects."""

    path: str
    """The file, relative to the target."""
    data_start: int
    """Byte offset at which tensor data begins (safetensors); 0 otherwise."""
    entries: Mapping[str, Any]
    """Name -> raw header entry; `Checkpoint.tensor` wraps the ones that are asked for."""


class StorageSlot(Record):
    """Where a pickled tensor lies inside its storage; pickles keep aliasing, safetensors cannot."""

    storage: int
    """Number of the storage within its file: equal numbers, one memory."""
    offset: int
    """Elements from the storage's beginning."""
    stride: tuple[int, ...]
    """Stride in elements."""


class Checkpoint(Record):
    """The stored layer: which names a checkpoint holds, by headers."""

    format: Literal["safetensors", "pickle"]
    """The weight format that was read."""
    root: str
    """The directory the paths of the shards are relative to."""
    shards: tuple[Shard, ...]
    """The files that were read."""
    index_file: str | None
    """The `*.index.json`, relative to the target, or None for a single file."""
    weight_map: Mapping[str, str]
    """Name -> file by the index; empty without one."""
    missing_files: tuple[str, ...]
    """Files the index names that are not there (a partial download)."""
    slots: Mapping[str, StorageSlot]
    """Pickles: name -> place in its storage. Empty for safetensors."""
    remote: Any = None
    """What reads the bytes of a remote checkpoint, a handle and no data; None for a local one."""
    agrees: bool = False
    """Whether index and headers were found to hold the same names in the same files; False where nobody looked."""

    @property
    def why_absent(self) -> str:
        """What the files are of which no header was read, as the end of "is in ..."."""
        if self.format == "pickle" and self.remote is not None:
            return "a pickle on a remote store, which is never read"
        return "a file that is not here"

    def names(self) -> Iterator[str]:
        """Every stored name, those of absent shards by the index included, each once.

        In the order of the files, or of the index where the two were found to agree.
        """
        if len(self.shards) == 1 and not self.missing_files:
            yield from self.shards[0].entries
            return
        if self.agrees:
            yield from self.weight_map
            return
        seen: set[str] = set()
        for shard in self.shards:
            for name in shard.entries:
                if name not in seen:
                    seen.add(name)
                    yield name
        absent = set(self.missing_files)
        for name, file in self.weight_map.items():
            if file in absent and name not in seen:
                yield name

    def shard_of(self, name: str) -> Shard | None:
        """The shard whose header really holds a name; the one the index names where several do."""
        named = self.weight_map.get(name)
        if self.agrees:
            return next((s for s in self.shards if s.path == named), None)
        if named is not None:
            shard = next((s for s in self.shards if s.path == named and name in s.entries), None)
            if shard is not None:
                return shard
        return next((s for s in self.shards if name in s.entries), None)

    def __contains__(self, name: object) -> bool:
        """Whether a name is stored, or said to be stored in a shard that is not there."""
        if not isinstance(name, str):
            return False
        return self.shard_of(name) is not None or self.weight_map.get(name) in self.missing_files

    def tensor(self, name: str) -> StoredTensor | None:
        """The header facts of one name; None where no header that was read holds it."""
        shard = self.shard_of(name)
        if shard is None:
            return None
        dtype, shape, start, end = read_entry(shard.entries[name])
        begin = None if self.format == "pickle" else shard.data_start + start
        return StoredTensor(name, dtype, shape, end - start, shard.path, begin)


TORCH_DTYPES: Mapping[str, str] = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "U16": "uint16",
    "U32": "uint32",
    "U64": "uint64",
    "BOOL": "bool",
    "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
}
"""safetensors' dtype words (safetensors 0.8, `Dtype`) -> torch's; a word that is not here passes in lower case."""


def read_entry(entry: Any) -> tuple[str, tuple[int, ...], int, int]:
    """Dtype, shape, begin and end of a header entry, be it a parsed dict or a typed struct."""
    if isinstance(entry, dict):
        dtype, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    else:
        dtype, shape, start, end = entry.dtype, entry.shape, entry.data_offsets.start, entry.data_offsets.end
    return TORCH_DTYPES.get(dtype, dtype.lower()), tuple(shape), start, end


class TieSpec(Record):
    """One group of names that a class can tie, as the tie table learned it from the library itself."""

    names: tuple[str, ...]
    """Parameter names of the class, sorted."""
    source: str
    """The name the others are redirected to."""
    kind: Kind
    """How the class really builds the group when it ties it."""
    silent: bool
    """Tied when no config level says anything."""
    on: bool
    """Tied when the controlling flag is true."""
    off: bool
    """Tied when the controlling flag is false: some classes tie whatever the flag says."""
    level: tuple[str, ...]
    """The config level whose flag controls the group."""
    exact: bool
    """False where the names hang on the config (one a layer), so that they hold for the default config only."""
    spellings: Mapping[str, tuple[str, ...]]
    """Name -> the other names under which its loader finds it in a checkpoint."""
    key: str = "tie_word_embeddings"
    """The key of the flag: lfm2 reads `tie_embedding` too, csm `tie_codebooks_embeddings`."""
    joint: tuple[tuple[str, ...], ...] = ()
    """Levels whose flags untie the group only if all of them are false; empty where one flag decides."""
    newer: tuple[tuple[str, str], ...] = ()
    """In a group of 4.57: (its name, the name of transformers 5 for the same parameter), where the two differ."""
    unlike: bool = False
    """Whether the class's own members have different shapes where they are not tied (ImageGPT's head)."""


class Architecture(Record):
    """What is known about a model's class without importing it."""

    class_name: str | None
    """The class, by `architectures` in the config."""
    known: bool
    """Whether the tie table has the class; otherwise names, shapes and the config have to do."""
    ties: tuple[TieSpec, ...]
    """The groups the class can tie; empty for a class that ties nothing."""
    origin: str
    """Where it is known from, e.g. `transformers 5.23.0`."""
    head_scale: float | None
    """What the class multiplies its logits by (T5: 1/sqrt(d_model)); None where it is not known."""
    embedding: str | None = None
    """The name of the token embedding (`get_input_embeddings`); None where the class has none or it is not known."""
    head: str | None = None
    """The name of the language-model head's weight (`get_output_embeddings`); None likewise."""
    prefix: str = ""
    """The class's `base_model_prefix`: the part of a name that a base model's own checkpoint leaves out."""
    declared: tuple[tuple[str, str], ...] = ()
    """Targets and sources as the class declares them, patterns kept; 4.57 names no source, which is empty then."""
    tried: frozenset[tuple[str, ...]] = frozenset({()})
    """The config levels whose flags were tried; what a flag anywhere else does is not known."""
    repairs: bool = False
    """Whether a class of 4.57 loads with code of its own that looks after missing members (LongT5)."""


class Comparison(Record):
    """What a byte-by-byte look at the stored members of a group showed."""

    equal: bool
    """Whether all members hold the same bytes. Stricter than `torch.equal` for +0 and -0, looser for NaN."""
    rows: int
    """Rows (first dimension) of a member."""
    rows_differ: int | None
    """Rows that differ, out of `rows_compared`; None where rows make no sense."""
    rows_compared: int
    """Rows that were looked at before the reader stopped."""
    first_row: int | None
    """The first row that differs."""
    last_row: int | None
    """The last row that differs, among those compared."""
    constant: bool
    """Whether every element is one and the same value, so that equality means nothing."""
    max_difference: float | None = None
    """Largest absolute difference between the elements of the first member and another's, of those that are finite
    in both; None where none was measured (equal, a dtype without numbers, or by headers alone)."""
    rows_measured: int = 0
    """Differing rows that it was measured over; fewer than `rows_differ` where the reader stopped early."""
    nonfinite: bool = False
    """Whether a NaN or an infinity stands where another member holds something else."""
    form: Literal["same", "transposed", "padded", "cast"] = "same"
    """How the members were laid against each other: as they are; `transposed`, one as the other's transpose; `padded`,
    the rows that all of them have, where one has more; `cast`, the wider dtype rounded to the narrower. All above
    holds in that form."""
    extra_rows: int = 0
    """`padded`: the rows that one member has and another has not."""
    extra_constant: bool = False
    """`padded`: whether those rows are one and the same value, as padding is."""


class Group(Record):
    """A tie group as the static layers (declared and stored) see it."""

    names: tuple[str, ...]
    """The class's names, sorted."""
    source: str | None
    """The name the others are redirected to, where known."""
    kind: Kind | None
    """How the class really builds the group, from the tie table; None where the table is silent."""
    declared: bool | None
    """Whether somebody says that the group is tied; None where nobody says."""
    declared_by: tuple[str, ...]
    """Who says so: file and key, or the class's default."""
    flag: Flag | None
    """The flag that decides, where one is written."""
    level: tuple[str, ...]
    """The config level whose flag decides, written or not."""
    default: bool | None
    """What the class does where the config is silent; None where it is not known."""
    forced: bool
    """Whether the class ties the group whatever the flag says."""
    stored: Kind | None
    """`absent` (at most one member stored), `copy`, `separate`, `storage` or `unknown`; None without a checkpoint."""
    stored_names: tuple[str, ...]
    """The stored members, under the names of the file, sorted."""
    missing: tuple[str, ...]
    """The class's names that the checkpoint does not hold."""
    tensors: tuple[StoredTensor, ...]
    """Header facts of the stored members, in the order of `stored_names`; absent shards have none."""
    comparison: Comparison | None
    """The byte comparison, where it was made."""
    reason: str | None
    """Why something about the group is unknown."""
    inferred: bool
    """Whether the group was guessed from names and shapes, as for a class the table lacks."""
    anchored: bool = False
    """Where no member is stored: whether the checkpoint holds other tensors of the module that owns one, under its
    names, so that the members are really missing and not only named otherwise."""
    inert: bool = False
    """Whether transformers 5 has no tie for the group under any flag, though 4.57 had one."""
    key: str = "tie_word_embeddings"
    """The flag's key: a few classes have a word of their own (lfm2 `tie_embedding`, csm)."""
    misfit: bool = False
    """Whether a target is stored in a shape that the class's own, which is another one, may not take."""
    relation: Comparison | None = None
    """Where the members are not alike in shape and dtype, or are square: how they fit in another form (`form`)."""


Outcome = Literal[
    "tied",
    "kept-apart",
    "head-discarded",
    "member-discarded",
    "head-random",
    "embedding-random",
    "member-random",
    "crash",
    "unknown",
]
"""What a loader makes of one stored group: `tied` (one tensor, nothing lost), `kept-apart` (each member as it is
stored), `head-discarded` (tied, and the stored head, which differs, is thrown away), `head-random` and
`embedding-random` (not loaded, and nothing ties it to what is), `member-discarded` and `member-random` (the same for
groups that are no embedding and head), `crash`, `unknown`."""

DISCARDED: frozenset[Outcome] = frozenset({"head-discarded", "member-discarded"})
"""The outcomes in which a stored tensor is thrown away."""

RANDOM: frozenset[Outcome] = frozenset({"head-random", "embedding-random", "member-random"})
"""The outcomes in which a tensor is made anew."""

HURTS: frozenset[Outcome] = DISCARDED | RANDOM | {"crash"}
"""The outcomes that cost somebody something."""


class LoaderView(Record):
    """What one loader, in one range of versions, ends up with for one tie group."""

    loader: str
    """The loader, by its package's name: `transformers`, `vllm`, `sglang`, `llama.cpp`, `mlx-lm`, `mergekit`."""
    versions: str
    """The versions that behave so, e.g. `4.57`, `5`, `<0.25`."""
    outcome: Outcome
    """What comes out."""
    message: str | None
    """What it prints or raises, or for `unknown` why it is not known."""
    checked: Literal["run", "source"]
    """How that is known: the loader itself was run in tests, or its source was read."""
    names: tuple[str, ...]
    """The group, by the names `Group.names` has."""
    reads: str | None
    """The flag it reads for this config, dotted, written or not; None where it reads none."""
    value: bool | None
    """What that flag says; None where it is not written: absent is not false."""
    ties: bool | None
    """Whether the loader takes the group for tied; None where that is not known."""

    @property
    def title(self) -> str:
        """The loader with its versions, as a sentence names it."""
        return f"{self.loader} {self.versions}" if self.versions else self.loader

    @property
    def hurts(self) -> bool:
        """Whether somebody who uses this loader loses something."""
        return self.outcome in HURTS


class InitScale(Record):
    """What the scale of a tied embedding does to the logits of an untrained model."""

    names: tuple[str, ...]
    """The tied group: embedding and head."""
    untrained: bool
    """Whether the evidence says that nothing has been trained."""
    evidence: str
    """What that evidence is, in words."""
    std: float | None
    """Standard deviation of the tied tensor; None where a trained model made reading it pointless."""
    width: int
    """Columns of the tied tensor, d_model."""
    vocabulary: int
    """Rows of the tied tensor."""
    head_scale: float | None
    """What multiplies the logits after the head; None where nobody could see it."""
    hidden_rms: float | None
    """Root mean square of the head's input as measured; None without a forward pass (1 after a final norm)."""
    predicted: float | None
    """Predicted deviation of the logits: std * sqrt(width) * rms * head_scale."""
    measured: float | None
    """Measured deviation of the logits, each position's own input token left out; None without a forward pass."""
    loss: float | None
    """Measured cross-entropy of random tokens, in nats, to hold against ln(vocabulary)."""
    repeats: float | None
    """Measured share of positions whose most likely next token is the input token itself."""
    reason: str | None
    """Why something could not be measured."""
