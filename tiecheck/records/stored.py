"""The stored layer: the tensors of a checkpoint by their headers, and the tie groups they make."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from tiecheck.records.declared import Flag
from tiecheck.records.record import Record
from tiecheck.records.words import Kind


class StoredTensor(Record):
    """One tensor of a checkpoint, by its header alone."""

    name: str
    """The name it is stored under."""
    dtype: str
    """torch's word for the element type where there is one (`bfloat16`), else the file's, in lower case (`f4`)."""
    shape: tuple[int, ...]
    """Shape, row-major."""
    nbytes: int
    file: str
    """The file that holds it, relative to the target."""
    start: int | None
    """Byte offset of the first element in the file; None where the format has no such thing (a pickle)."""

    @property
    def packed(self) -> bool:
        """True where it holds words of a quantised form and no numbers: MLX packs eight values in one."""
        return not self.dtype.startswith(("float", "bfloat", "complex"))


class Shard(Record):
    """One weights file: its header as the parser gave it, so that a million entries are no million objects."""

    path: str
    """The file, relative to the target."""
    data_start: int
    """Byte offset at which tensor data begins (safetensors); 0 otherwise."""
    entries: Mapping[str, Any]
    """Name -> raw header entry; `Checkpoint.tensor` wraps the ones that are asked for."""
    notes: Mapping[str, str] | None = None
    """The file's own `__metadata__` (safetensors); None where it has none."""
    nested: str | None = None
    """Key under which a pickle keeps its tensors; None where they stand at the top, as loaders want them."""


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

    format: Literal["safetensors", "pickle", "gguf", "onnx"]
    """The weight format that was read."""
    root: str
    """The directory the paths of the shards are relative to."""
    shards: tuple[Shard, ...]
    index_file: str | None
    """The `*.index.json`, relative to the target, or None for a single file."""
    weight_map: Mapping[str, str]
    """Name -> file by the index; empty without one."""
    missing_files: tuple[str, ...]
    """Files the index names that are not there (a partial download)."""
    slots: Mapping[str, StorageSlot]
    """Pickles: name -> place in its storage. Empty for safetensors."""
    remote: Any = None
    """Reader of the bytes of a remote checkpoint, a handle and no data; None for a local one."""
    agrees: bool = False
    """True where index and headers were found to hold the same names in the same files; False where nobody looked."""

    @property
    def why_absent(self) -> str:
        """The files of which no header was read, as the end of "is in ..."."""
        if self.format == "pickle" and self.remote is not None:
            return "a pickle on a remote store, which is never read"
        return "a file that is not here"

    @property
    def by_mlx(self) -> bool:
        """True where mlx-lm or mlx-vlm wrote it: under names of its own module, which need not be the class's."""
        return any((shard.notes or {}).get("format") == "mlx" for shard in self.shards)

    def names(self) -> Iterator[str]:
        """Yield every stored name, those of absent shards by the index included, each once.

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
        """Return the shard whose header really holds a name; the one the index names where several do."""
        named = self.weight_map.get(name)
        if self.agrees:
            return next((s for s in self.shards if s.path == named), None)
        if named is not None:
            shard = next((s for s in self.shards if s.path == named and name in s.entries), None)
            if shard is not None:
                return shard
        return next((s for s in self.shards if name in s.entries), None)

    def __contains__(self, name: object) -> bool:
        """Tell whether a name is stored, or said to be stored in a shard that is not there."""
        if not isinstance(name, str):
            return False
        return self.shard_of(name) is not None or self.weight_map.get(name) in self.missing_files

    def tensor(self, name: str) -> StoredTensor | None:
        """Return the header facts of one name; None where no header that was read holds it."""
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
    """Return dtype, shape, begin and end of a header entry, be it a parsed dict or a typed struct."""
    if isinstance(entry, dict):
        dtype, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    else:
        dtype, shape, start, end = entry.dtype, entry.shape, entry.data_offsets.start, entry.data_offsets.end
    return TORCH_DTYPES.get(dtype, dtype.lower()), tuple(shape), start, end


class Comparison(Record):
    """The result of a byte-by-byte look at the stored members of a group."""

    equal: bool
    """True where all members hold the same bytes. Stricter than `torch.equal` for +0 and -0, looser for NaN."""
    rows: int
    """Rows (first dimension) of a member."""
    rows_differ: int | None
    """Rows that differ, out of `rows_compared`; None where rows make no sense."""
    rows_compared: int
    """Rows that were looked at before the reader stopped."""
    first_row: int | None
    last_row: int | None
    """The last row that differs, among those compared."""
    constant: bool
    """True where every element is one and the same value, so that equality means nothing."""
    max_difference: float | None = None
    """Largest absolute difference between the elements of the first member and another's, of those that are finite
    in both; None where none was measured (equal, a dtype without numbers, or by headers alone)."""
    rows_measured: int = 0
    """Differing rows that it was measured over; fewer than `rows_differ` where the reader stopped early."""
    nonfinite: bool = False
    """True where a NaN or an infinity stands where another member holds something else."""
    form: Literal["same", "transposed", "padded", "cast"] = "same"
    """Form in which the members were compared: as they are; `transposed`, one as the other's transpose; `padded`, the
    rows that all of them have, where one has more; `cast`, the wider dtype rounded to the narrower. All above holds in
    that form."""
    extra_rows: int = 0
    """`padded`: the rows that one member has and another has not."""
    extra_constant: bool = False
    """`padded`: whether those rows are one and the same value, as padding is."""
    nan: bool = False
    """True where members with the same bytes hold a NaN, which is equal to nothing, itself included."""
    bands: str = ""
    """A mark for each band of rows, of at most 64 from the first row to the last: `.` none differs, `1` to `9` some do,
    the largest difference in ninths of `max_difference`, `?` not measured, a blank not compared. Empty where equal."""
    exact: bool = False
    """`cast`: whether the members are equal in float32 too, so that a cast to any type keeps them so."""

    @property
    def alike(self) -> bool:
        """True where no value differs: the bytes are the same, or differ in the sign of zeros alone."""
        measured = self.rows_differ is not None and self.rows_measured == self.rows_differ
        return self.equal or (measured and self.max_difference == 0 and not self.nonfinite)


class Group(Record):
    """A tie group as the static layers (declared and stored) see it."""

    names: tuple[str, ...]
    """The class's names, sorted."""
    source: str | None = None
    """The name the others are redirected to, where known."""
    kind: Kind | None = None
    """Kind in which the class really builds the group, from the tie table; None where the table is silent."""
    declared: bool | None = None
    """True where somebody says that the group is tied; None where nobody says."""
    declared_by: tuple[str, ...] = ()
    """Who says so: file and key, or the class's default."""
    flag: Flag | None = None
    """The flag that decides, where one is written."""
    level: tuple[str, ...] = ()
    """The config level whose flag decides, written or not."""
    default: bool | None = None
    """Behaviour of the class where the config is silent; None where it is not known."""
    forced: bool = False
    """True where the class ties the group whatever the flag says."""
    stored: Kind | None = None
    """`absent` (at most one member stored), `copy`, `separate`, `storage` or `unknown`; None without a checkpoint."""
    stored_names: tuple[str, ...] = ()
    """The stored members, under the names of the file, sorted."""
    missing: tuple[str, ...] = ()
    """The class's names that the checkpoint does not hold."""
    tensors: tuple[StoredTensor, ...] = ()
    """Header facts of the stored members, in the order of `stored_names`; absent shards have none."""
    comparison: Comparison | None = None
    """The byte comparison, where it was made."""
    reason: str | None = None
    """Reason why something about the group is unknown."""
    inferred: bool = False
    """True where the group was guessed from names and shapes, as for a class the table lacks."""
    anchored: bool = False
    """Where no member is stored: whether the checkpoint holds other tensors of the module that owns one, under its
    names, so that the members are really missing and not only named otherwise."""
    inert: bool = False
    """True where transformers 5 has no tie for the group under any flag, though 4.57 had one."""
    key: str = "tie_word_embeddings"
    """The flag's key: a few classes have a word of their own (lfm2 `tie_embedding`, csm)."""
    unfit: tuple[str, ...] = ()
    """Stored members of different shapes: those whose rows or columns the config denies."""
    misfit: bool = False
    """True where a target is stored in a shape that the class's own, which is another one, may not take."""
    unlike: bool = False
    """True where nothing ties the members, and each is stored in the shape of its own that the class has for it."""
    relation: Comparison | None = None
    """Where the members are not alike in shape and dtype, or are square: how they fit in another form (`form`)."""
    lone: bool = False
    """True where the one stored member has a name without the prefix that the names beside it have."""
    strays: tuple[str, ...] = ()
    """Where a member is missing and nothing ties it: stored tensors of its shape, of no group, named as a head."""
    astray: bool = True
    """True where a stray may be the missing member: that is no embedding, and no loader reads a stray as another."""

    @property
    def packed(self) -> bool:
        """True where a stored member holds packed words, whose shape and values are not those of the matrix."""
        return any(tensor.packed for tensor in self.tensors)
