"""The stored layer from real files: whatever safetensors refuses is refused, and an index never leads outside."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open

from tiecheck.errors import TargetError
from tiecheck.files.checkpoint import read_checkpoint
from tiecheck.files.safetensors.header import TYPED_FROM, read_shard
from tiecheck.files.safetensors.soundness import BITS
from tiecheck.records.stored import Checkpoint

FOUR = bytes(4)


def entry(dtype: Any = "F32", shape: Any = (1,), offsets: Any = (0, 4), **more: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets, **more}


def file_of(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file: a header as JSON or as it is, its length or another, and data."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry_text(shape: str = "[1]", offsets: str = "[0,4]") -> bytes:
    return f'{{"dtype":"F32","shape":{shape},"data_offsets":{offsets}}}'.encode()


ONE = json.dumps({"a": entry()}).encode()

# What safetensors 0.8 says of it stands beside each case.
REFUSED = {
    "no byte": (b"", "is truncated: it has 0 bytes"),  # header too small
    "three bytes": (b"abc", "is truncated: it has 3 bytes"),
    "no header": (file_of(b""), "is not valid JSON"),
    "header cut": (file_of(ONE, FOUR)[:20], "announces a header of 61 bytes, but has only 12"),  # invalid header length
    "length beyond the file": (file_of({}, length=50), "announces a header of 50 bytes, but has only 2"),
    "length beyond the limit": (file_of({}, length=100_000_001), "safetensors refuses more than 100,000,000"),
    "length of 2**63": (file_of({}, length=2**63), "announces a header of 9,223,372,036,854,775,808 bytes"),
    "data cut": (file_of(ONE, FOUR[:2]), "its header describes 4 bytes of tensors, and 2 are there"),
    "no data": (file_of(ONE), "its header describes 4 bytes of tensors, and 0 are there"),
    "no JSON": (file_of(b"hello"), "is not valid JSON"),
    "no UTF-8": (file_of(b'{"\xff": 1}'), "is not UTF-8 text"),
    "UTF-16": (file_of(ONE.decode().encode("utf-16"), FOUR), "is not UTF-8 text"),
    "byte order mark": (file_of(b"\xef\xbb\xbf" + ONE, FOUR), "begins with a byte order mark"),
    "a list": (file_of([]), "is not a JSON object"),
    "a string": (file_of("x"), "is not a JSON object"),
    "nested too deep": (file_of(b'{"a":' * 100_000), "is nested too deeply"),
    "behind the header": (file_of(ONE + b"\0", FOUR), "is not valid JSON: Extra data"),
    "NaN": (file_of(ONE[:-2] + b', "x": NaN}}', FOUR), "NaN is not JSON"),
    "half a character": (file_of(rb'{"\ud800":' + entry_text() + b"}", FOUR), "half of a surrogate pair"),
    "no dtype": (file_of({"a": {"shape": [1], "data_offsets": [0, 4]}}, FOUR), "broken entry for 'a'"),
    "no shape": (file_of({"a": {"dtype": "F32", "data_offsets": [0, 4]}}, FOUR), "broken entry for 'a'"),
    "no offsets": (file_of({"a": {"dtype": "F32", "shape": [1]}}, FOUR), "broken entry for 'a'"),
    "null": (file_of({"a": None}), "broken entry for 'a'"),
    "text for an entry": (file_of({"a": "x"}), "broken entry for 'a'"),
    "number for an entry": (file_of({"a": 1}), "broken entry for 'a'"),
    "number for a dtype": (file_of({"a": entry(1)}, FOUR), "broken entry for 'a'"),
    "negative offset": (file_of({"a": entry(offsets=[-4, 0])}), "broken entry for 'a'"),
    "float offset": (file_of({"a": entry(offsets=[0.0, 4.0])}, FOUR), "broken entry for 'a'"),
    "boolean offset": (file_of({"a": entry(offsets=[False, 4])}, FOUR), "broken entry for 'a'"),
    "three offsets": (file_of({"a": entry(offsets=[0, 2, 4])}, FOUR), "broken entry for 'a'"),
    "reversed offsets": (file_of({"a": entry(offsets=[4, 0])}, FOUR), "broken entry for 'a'"),
    "huge offset": (file_of({"a": entry(offsets=[0, 2**64])}, FOUR), "broken entry for 'a'"),
    "large offset": (file_of({"a": entry(offsets=[0, 2**63])}, FOUR), "'a' is F32 of shape .* has 9,223,372"),
    "negative size": (file_of({"a": entry(shape=[-1])}, FOUR), "broken entry for 'a'"),
    "two negative sizes": (file_of({"a": entry(shape=[-1, -1])}, FOUR), "broken entry for 'a'"),
    "boolean size": (file_of({"a": entry(shape=[True])}, FOUR), "broken entry for 'a'"),
    "float size": (file_of({"a": entry(shape=[1.0])}, FOUR), "broken entry for 'a'"),
    "number for a shape": (file_of({"a": entry(shape=1)}, FOUR), "broken entry for 'a'"),
    "size beyond 64 bits": (file_of({"a": entry(shape=[2**64, 0], offsets=[0, 0])}), "broken entry for 'a'"),
    "sizes that overflow": (file_of({"a": entry(shape=[2**63, 2, 0], offsets=[0, 0])}), "broken entry for 'a'"),
    "number of 5000 digits": (
        file_of(b'{"a":' + entry_text(offsets="[0," + "4" * 5000 + "]") + b"}", FOUR),
        "holds a number that cannot be read",
    ),
    "shape and bytes disagree": (file_of({"a": entry(shape=[2])}, FOUR), r"'a' is F32 of shape \[2\], and has 4"),
    "seven elements of four bits": (file_of({"a": entry("F4", [7])}, FOUR), "'a' is F4 of shape"),
    "overlap": (file_of({"a": entry(), "b": entry()}, FOUR), "describe 8 bytes of tensors in 4 bytes of data"),
    "gap": (file_of({"a": entry(), "b": entry(offsets=[8, 12])}, FOUR * 3), "allows no gap"),
    "overlap that makes up for a gap": (
        file_of(
            {
                "a": entry(shape=[2], offsets=[0, 8]),
                "b": entry(shape=[2], offsets=[4, 12]),
                "c": entry(offsets=[16, 20]),
            },
            FOUR * 5,
        ),
        "allows no gap, no overlap",
    ),
    "gap at the beginning": (file_of({"a": entry(offsets=[4, 8])}, FOUR * 2), "allows no gap"),
    "bytes behind the last tensor": (file_of({"a": entry()}, FOUR * 2), "nothing behind the last tensor"),
    "bytes and no tensor": (file_of({}, FOUR), "nothing behind the last tensor"),
    "empty tensor within another": (
        file_of({"a": entry(shape=[2], offsets=[0, 8]), "b": entry(shape=[0], offsets=[4, 4])}, FOUR * 2),
        "allows no gap, no overlap",
    ),
    "metadata that is no text": (file_of({"__metadata__": {"a": 1}, "a": entry()}, FOUR), "__metadata__ is not"),
    "metadata that is a list": (file_of({"__metadata__": [], "a": entry()}, FOUR), "__metadata__ is not"),
    "repeated name that leaves a gap": (
        file_of(b'{"a":' + entry_text() + b',"a":' + entry_text(offsets="[4,8]") + b"}", FOUR * 2),
        "allows no gap",
    ),
    "metadata twice": (file_of(b'{"__metadata__":{},"__metadata__":{},"a":' + entry_text() + b"}", FOUR), "twice"),
    "a field twice": (
        file_of(b'{"a":' + entry_text().replace(b'"dtype":"F32"', b'"dtype":"F32","dtype":"F32"') + b"}", FOUR),
        "holds the key 'dtype' twice",
    ),
}

READ = {
    "no tensor": file_of({}),
    "metadata alone": file_of({"__metadata__": {"format": "pt"}}),
    "metadata that is null": file_of({"__metadata__": None, "a": entry()}, FOUR),
    "blanks behind the header": file_of(ONE + b"   ", FOUR),
    "fields that are not known": file_of({"a": entry(note="x")}, FOUR),
    "not in the order of the data": file_of({"b": entry(offsets=[4, 8]), "a": entry()}, FOUR * 2),
    "empty tensors": file_of(
        {"a": entry(shape=[0, 3], offsets=[0, 0]), "b": entry(), "c": entry(shape=[2, 0], offsets=[4, 4])}, FOUR
    ),
    "a scalar": file_of({"a": entry(shape=[])}, FOUR),
    "a name without letters": file_of({"": entry()}, FOUR),
    "a name of control characters": file_of({"a\n\x1b[31m\u202e\u200b": entry()}, FOUR),
    "a name of many bytes": file_of({"x" * 100_000: entry()}, FOUR),
    "a repeated name, the same twice": file_of(b'{"a":' + entry_text() + b',"a":' + entry_text() + b"}", FOUR),
}


def safetensors_says(path: Path) -> str | None:
    """What safetensors itself has against a file."""
    try:
        with safe_open(path, framework="numpy") as file:
            file.keys()
    except SafetensorError as error:
        return str(error)
    return None


def padded(raw: bytes) -> bytes | None:
    """The same header, made large enough for the typed parser by a field that is not known; None without entries."""
    length = int.from_bytes(raw[:8], "little")
    header, data = raw[8 : 8 + length], raw[8 + length :]
    if b'{"dtype"' not in header:
        return None
    filler = b'{"filler":"' + b"x" * TYPED_FROM + b'","dtype"'
    return file_of(header.replace(b'{"dtype"', filler, 1), data)


@pytest.mark.parametrize("case", REFUSED)
def test_refused_header_is_told_by_file_and_cause(tmp_path: Path, case: str) -> None:
    raw, says = REFUSED[case]
    path = tmp_path / "model.safetensors"
    path.write_bytes(raw)
    assert safetensors_says(path), "safetensors reads it"
    with pytest.raises(TargetError, match=says) as caught:
        read_shard(str(path), "model.safetensors")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("case", [name for name, (raw, _) in REFUSED.items() if padded(raw)])
def test_refused_header_is_refused_by_the_typed_parser_too(tmp_path: Path, case: str) -> None:
    raw = padded(REFUSED[case][0])
    assert raw
    (tmp_path / "model.safetensors").write_bytes(raw)
    with pytest.raises(TargetError):
        read_shard(str(tmp_path / "model.safetensors"), "model.safetensors")


ODD = {f"{name}, small": raw for name, raw in READ.items()}
ODD |= {f"{name}, large": raw for name, small in READ.items() if (raw := padded(small))}


@pytest.mark.parametrize("case", ODD)
def test_odd_header_that_safetensors_reads_is_read(tmp_path: Path, case: str) -> None:
    raw = ODD[case]
    path = tmp_path / "model.safetensors"
    path.write_bytes(raw)
    with safe_open(path, framework="numpy") as file:
        assert sorted(read_shard(str(path), "it").entries) == sorted(file.keys())


def test_every_dtype_is_as_large_as_safetensors_says(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    for dtype, bits in BITS.items():
        path.write_bytes(file_of({"a": entry(dtype, [8], [0, bits])}, bytes(bits)))
        assert safetensors_says(path) is None
        read_shard(str(path), "it")
        path.write_bytes(file_of({"a": entry(dtype, [8], [0, bits + 1])}, bytes(bits + 1)))
        assert safetensors_says(path)
        with pytest.raises(TargetError, match="'a' is"):
            read_shard(str(path), "it")


def test_dtype_of_a_later_version_passes(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(file_of({"a": entry("F2", [16])}, FOUR))
    assert "unknown variant" in (safetensors_says(path) or "")
    checkpoint = read_checkpoint(str(path))
    assert checkpoint is not None
    tensor = checkpoint.tensor("a")
    assert tensor is not None
    assert (tensor.dtype, tensor.shape, tensor.nbytes) == ("f2", (16,), 4)


def test_entry_that_is_a_list_is_refused_though_safetensors_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(file_of({"a": ["F32", [1], [0, 4]]}, FOUR))
    assert safetensors_says(path) is None
    with pytest.raises(TargetError, match="broken entry for 'a'"):
        read_shard(str(path), "it")


# safetensors 0.8 takes the last of them; a reader that takes the first one sees another tensor.
REPEATED = {
    "another dtype": b'{"a":' + entry_text().replace(b"F32", b"I32") + b',"a":' + entry_text() + b"}",
    "the last fits": b'{"a":' + entry_text("[2]", "[0,8]") + b',"a":' + entry_text() + b"}",
    "escaped": rb'{"\u0061":' + entry_text("[2,1]", "[0,8]") + b',"a":' + entry_text() + b"}",
    "colons in the name": b'{"a":' + entry_text("[1,1]") + b',"a":' + entry_text() + b"}",
    "beside metadata": b'{"__metadata__":{"f":"p:t"},"a":' + entry_text("[1,1]") + b',"a":' + entry_text() + b"}",
    "in the metadata": b'{"__metadata__":{"format":"pt","format":"tf"},"a":' + entry_text() + b"}",
}


@pytest.mark.parametrize("typed", [False, True])
@pytest.mark.parametrize("case", REPEATED)
def test_name_that_is_there_twice_and_differently_is_refused(tmp_path: Path, case: str, typed: bool) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(file_of(REPEATED[case].replace(b'"a"', b'"a:b"') if "colons" in case else REPEATED[case], FOUR))
    assert safetensors_says(path) is None
    with pytest.raises(TargetError, match=r"model\.safetensors is broken: it holds the key '.*' twice"):
        read_shard(str(path), "it", typed=typed)


def test_header_that_shrinks_while_it_is_read_is_told(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(file_of({"a": entry()}, FOUR))
    real, looks = os.fstat, []

    def cut_behind_our_back(fd: int) -> os.stat_result:
        status = real(fd)
        looks.append(fd)
        if len(looks) == 1:  # that one look tells whether this is a file, and its size
            os.truncate(path, 20)
        return status

    monkeypatch.setattr(os, "fstat", cut_behind_our_back)
    with pytest.raises(TargetError, match="became shorter while its header was read"):
        read_shard(str(path), "it")


def test_pipe_and_folder_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    for name, says in (("pipe", "a pipe or a device"), ("folder", "is a folder")):
        with pytest.raises(TargetError, match=says):
            read_shard(str(tmp_path / f"{name}.safetensors"), "it")


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**65), 2**65), st.floats(allow_nan=False), st.text(max_size=2)
)
ENTRIES = st.one_of(
    VALUES,
    st.fixed_dictionaries(
        {},
        optional={
            "dtype": st.one_of(st.sampled_from(["F32", "BF16", "F4", "BOOL"]), VALUES),
            "shape": st.one_of(st.lists(st.one_of(st.integers(0, 4), VALUES), max_size=3), VALUES),
            "data_offsets": st.one_of(st.lists(st.one_of(st.integers(0, 16), VALUES), max_size=3), VALUES),
        },
    ),
)


@settings(deadline=None, max_examples=300)
@given(st.dictionaries(st.sampled_from(["a", "b", "__metadata__"]), ENTRIES, max_size=3), st.integers(0, 20))
def test_no_laxer_than_safetensors_and_never_a_crash(tmp_path_factory, header, size) -> None:
    path = tmp_path_factory.getbasetemp() / "random.safetensors"
    path.write_bytes(file_of(header, bytes(size)))
    try:
        read_shard(str(path), "it")
    except TargetError:
        return
    assert safetensors_says(path) is None


SOUND = (
    {"__metadata__": {"format": "pt", "a:b": "{}"}, "a": entry(), "b": entry("BF16", [2, 2], [4, 12])},
    {"w:x-0": entry("F8_E4M3", [0, 3], [0, 0]), "c": entry("I64", [1, 1], [0, 8]), "d": entry("F4", [8], [8, 12])},
)
MARKS = (b'"', b"{", b"}", b"[", b"]", b":", b",", b"-", b"0", b"00", b".0", b"e1", b" ", b"\\", b"\\u0061", b"true",
         b"null", b"\n", b"\x00", b"\xff", b"F32", b'"a"', b'"dtype"', b'"data_offsets"', b'"__metadata__"', b"9" * 25,
         b"NaN", b"\\ud800", b'{"dtype":"F32","shape":[1],"data_offsets":[0,4]}')  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """The text of a sound header with a few places cut, doubled, exchanged or written over."""
    text = json.dumps(
        draw(st.sampled_from(SOUND)), separators=draw(st.sampled_from([(",", ":"), (", ", ": ")]))
    ).encode()
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 60)))
        new = draw(st.sampled_from([b"", text[start:end] * 2, *MARKS]))
        text = text[:start] + new + text[end:]
    return text


def stricter(raw: bytes) -> bool:
    """Whether a header that safetensors reads holds what we refuse all the same: see `read_shard`."""
    repeated = False

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal repeated
        repeated |= len(pairs) > len(dict(pairs))
        return dict(pairs)

    try:
        data = json.loads(raw, object_pairs_hook=once)
    except ValueError:
        return False
    return repeated or any(isinstance(v, list) for v in data.values())


@pytest.mark.parametrize("typed", [False, True])
@settings(deadline=None, max_examples=500)
@given(mutated(), st.sampled_from([12, 12, 12, 0, 4, 16]))
def test_mutated_header_is_judged_as_safetensors_does(tmp_path_factory, typed, text, size) -> None:
    path = tmp_path_factory.getbasetemp() / "mutated.safetensors"
    path.write_bytes(file_of(text, bytes(size)))
    theirs = safetensors_says(path)
    try:
        ours = read_shard(str(path), "it", typed=typed)
    except TargetError:
        ours = None
    if ours is None:
        assert theirs or stricter(text)
        return
    if theirs and ("unknown variant" in theirs or b"-0" in text):
        return
    assert theirs is None
    with safe_open(path, framework="numpy") as file:
        assert sorted(ours.entries) == sorted(file.keys())


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=200), st.booleans())
def test_random_bytes_are_refused_and_never_a_crash(tmp_path_factory, raw, framed) -> None:
    path = tmp_path_factory.getbasetemp() / "random.safetensors"
    path.write_bytes(file_of(raw) if framed else raw)
    try:
        read_shard(str(path), "it")
    except TargetError:
        return
    assert safetensors_says(path) is None


def test_many_entries_take_no_time_of_note(tmp_path: Path) -> None:
    count = 200_000
    header = {f"layers.{i}.w": entry("BF16", [2, 4], [i * 16, i * 16 + 16]) for i in range(count)}
    for name in (header, dict(reversed(header.items()))):
        path = tmp_path / "model.safetensors"
        path.write_bytes(file_of(name))
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size + count * 16)
        begin = time.process_time()
        assert len(read_shard(str(path), "it").entries) == count
        assert time.process_time() - begin < 5


# ---------------------------------------------------------------------------------------------------------------
# The index and its shards


def write_index(root: Path, weight_map: object, name: str = "model.safetensors.index.json") -> Path:
    (root / name).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return root / name


def read(path: Path) -> Checkpoint:
    checkpoint = read_checkpoint(str(path))
    assert checkpoint is not None
    return checkpoint


class TestIndex:
    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("[]", "is no index: it lacks the `weight_map`"),
            ("null", "is no index"),
            ('"x"', "is no index"),
            ("{}", "is no index"),
            ('{"weight_map": []}', "is no index"),
            ('{"weight_map": null}', "is no index"),
            ('{"weight_map": {}}', "names no tensor at all"),
            ('{"weight_map": {"a": 1}}', "what it gives as the file of 'a' is no file name"),
            ('{"weight_map": {"a": null}}', "what it gives as the file of 'a' is no file name"),
            ('{"weight_map": {"a": ["x.safetensors"]}}', "what it gives as the file of 'a'"),
            ('{"weight_map": {"a": ""}}', "which is no weights file by its ending"),
            ('{"weight_map": {"a": "."}}', "which is no weights file by its ending"),
            ('{"weight_map": {"a": "config.json"}}', "which is no weights file by its ending"),
            ('{"weight_map": {"a": "x\\u0000.safetensors"}}', "which is no weights file by its ending"),
            ('{"weight_map": {"a": "x.safetensors", "b": "y.bin"}}', "names safetensors files and pickles"),
            ("", "is not valid JSON"),
            ("{", "is not valid JSON"),
        ],
    )
    def test_what_is_no_index_is_told(self, tmp_path: Path, text: str, says: str) -> None:
        path = tmp_path / "model.safetensors.index.json"
        path.write_text(text)
        for target in (path, tmp_path):
            with pytest.raises(TargetError, match=f"^{path} .*{says}"):
                read_checkpoint(str(target))

    @pytest.mark.parametrize(
        "shard", ["../x.safetensors", "/etc/x.safetensors", "a/../../x.safetensors", "../../../etc/x.bin"]
    )
    def test_shard_outside_is_refused_there_or_not(self, tmp_path: Path, shard: str) -> None:
        root = tmp_path / "model"
        root.mkdir()
        (tmp_path / "x.safetensors").write_bytes(file_of({"a": entry()}, FOUR))
        write_index(root, {"a": shard})
        with pytest.raises(TargetError, match="names a shard outside its own directory"):
            read_checkpoint(str(root))

    def test_shard_that_is_a_link_outside_is_refused(self, tmp_path: Path) -> None:
        root = tmp_path / "model"
        root.mkdir()
        (tmp_path / "x.safetensors").write_bytes(file_of({"a": entry()}, FOUR))
        (root / "x.safetensors").symlink_to(tmp_path / "x.safetensors")
        write_index(root, {"a": "x.safetensors"})
        with pytest.raises(TargetError, match=r"x\.safetensors is a link to .*, outside the target directory"):
            read_checkpoint(str(root))

    def test_shards_of_the_hub_cache_are_read(self, tmp_path: Path) -> None:
        blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "0123"
        blobs.mkdir()
        snapshot.mkdir(parents=True)
        (blobs / "feed").write_bytes(file_of({"a": entry()}, FOUR))
        index = write_index(tmp_path, {"a": "x.safetensors"}).rename(blobs / "beef")
        (snapshot / "x.safetensors").symlink_to("../../blobs/feed")
        (snapshot / "model.safetensors.index.json").symlink_to(f"../../blobs/{index.name}")
        for target in (snapshot, snapshot / "model.safetensors.index.json", snapshot / "x.safetensors"):
            assert list(read(target).names()) == ["a"]

    def test_shard_in_a_folder_below_is_read(self, tmp_path: Path) -> None:
        (tmp_path / "sub").mkdir()
        (tmp_path / "sub" / "x.safetensors").write_bytes(file_of({"a": entry()}, FOUR))
        write_index(tmp_path, {"a": "sub/x.safetensors"})
        assert list(read(tmp_path).names()) == ["a"]

    def test_missing_shards_are_listed_and_their_names_count(self, tmp_path: Path) -> None:
        (tmp_path / "x.safetensors").write_bytes(file_of({"a": entry()}, FOUR))
        write_index(tmp_path, {"a": "x.safetensors", "b": "y.safetensors", "c": "z.safetensors"})
        checkpoint = read(tmp_path)
        assert checkpoint.missing_files == ("y.safetensors", "z.safetensors")
        assert sorted(checkpoint.names()) == ["a", "b", "c"]
        assert "b" in checkpoint
        assert checkpoint.tensor("b") is None

    @pytest.mark.parametrize("ending", [".safetensors", ".bin"])
    def test_all_shards_missing_is_no_error(self, tmp_path: Path, ending: str) -> None:
        name = {".safetensors": "model.safetensors.index.json", ".bin": "pytorch_model.bin.index.json"}[ending]
        write_index(tmp_path, {"a": f"x{ending}", "b": f"y{ending}"}, name)
        checkpoint = read(tmp_path)
        assert checkpoint.shards == ()
        assert sorted(checkpoint.names()) == ["a", "b"]

    def test_shard_that_is_a_loop_of_links_is_told(self, tmp_path: Path) -> None:
        (tmp_path / "x.safetensors").symlink_to("x.safetensors")
        write_index(tmp_path, {"a": "x.safetensors"})
        with pytest.raises(TargetError, match=r"x\.safetensors cannot be read: Too many levels"):
            read_checkpoint(str(tmp_path))

    def test_broken_shard_is_told_by_its_own_name(self, tmp_path: Path) -> None:
        (tmp_path / "x.safetensors").write_bytes(b"abc")
        write_index(tmp_path, {"a": "x.safetensors"})
        with pytest.raises(TargetError, match=r"x\.safetensors is truncated"):
            read_checkpoint(str(tmp_path))

    def test_pipe_for_an_index_is_refused_at_once(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "model.safetensors.index.json")
        with pytest.raises(TargetError, match="a pipe or a device"):
            read_checkpoint(str(tmp_path))

    def test_million_names_take_seconds(self, tmp_path: Path) -> None:
        names = {f"layers.{i // 1000}.experts.{i % 1000}.w.weight": f"m-{i % 20}.safetensors" for i in range(300_000)}
        write_index(tmp_path, names)
        begin = time.process_time()
        checkpoint = read(tmp_path)
        assert sum(1 for _ in checkpoint.names()) == 300_000
        assert time.process_time() - begin < 6


# ---------------------------------------------------------------------------------------------------------------
# Which file of a directory is the model


class TestChoice:
    def fill(self, root: Path, *names: str) -> Path:
        for name in names:
            (root / name).write_bytes(file_of({name: entry()}, FOUR))
        return root

    def test_standard_name_wins(self, tmp_path: Path) -> None:
        root = self.fill(tmp_path, "a.safetensors", "b.safetensors", "model.safetensors")
        assert list(read(root).names()) == ["model.safetensors"]

    def test_one_file_of_another_name_is_the_model(self, tmp_path: Path) -> None:
        assert list(read(self.fill(tmp_path, "consolidated.safetensors")).names()) == ["consolidated.safetensors"]

    def test_two_files_and_no_index_are_told(self, tmp_path: Path) -> None:
        with pytest.raises(TargetError, match=r"holds 2 files like a\.safetensors and neither an index"):
            read_checkpoint(str(self.fill(tmp_path, "a.safetensors", "b.safetensors")))

    def test_what_a_trainer_leaves_is_no_model(self, tmp_path: Path) -> None:
        left = ("optimizer.pt", "scheduler.pt", "rng_state_0.pth", "rng_state.pth", "training_args.bin", "scaler.pt")
        assert read_checkpoint(str(self.fill(tmp_path, *left, "adapter_model.safetensors"))) is None

    def test_empty_directory_has_no_weights(self, tmp_path: Path) -> None:
        assert read_checkpoint(str(tmp_path)) is None

    @pytest.mark.parametrize(("name", "says"), [("m.gguf", "a GGUF file"), ("m.onnx", "an ONNX file|a ONNX file")])
    def test_format_of_a_later_version_is_told(self, tmp_path: Path, name: str, says: str) -> None:
        (tmp_path / name).write_bytes(b"GGUF")
        with pytest.raises(TargetError, match=says):
            read_checkpoint(str(tmp_path / name))

    @pytest.mark.parametrize("name", ["m.txt", "m", ".safetensors.txt"])
    def test_unknown_ending_is_told(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).write_bytes(b"x")
        with pytest.raises(TargetError, match="no weights file that is known by its ending"):
            read_checkpoint(str(tmp_path / name))

    def test_link_that_was_named_itself_is_followed(self, tmp_path: Path) -> None:
        (tmp_path / "a").mkdir()
        (tmp_path / "b").mkdir()
        self.fill(tmp_path / "a", "real.safetensors")
        (tmp_path / "b" / "link.safetensors").symlink_to("../a/real.safetensors")
        assert list(read(tmp_path / "b" / "link.safetensors").names()) == ["real.safetensors"]
