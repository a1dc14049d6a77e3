"""The pickle reader against `torch.load(weights_only=True)`: names, shapes, dtypes, aliasing, values of drawn files."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import random
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._weights_only_unpickler import _get_allowed_globals

from tiecheck.errors import TargetError
from tiecheck.files.checkpoint import read_checkpoint
from tiecheck.files.compare import spans
from tiecheck.files.compare.equality import compare_bytes
from tiecheck.files.compare.spans import opened_members
from tiecheck.files.limits import Limit
from tiecheck.files.pickle import archive, machine
from tiecheck.files.pickle.machine import UnreadablePickleError
from tiecheck.files.pickle.rebuilding import persistent_storage
from tiecheck.files.pickle.records import ALLOWED, ITEMSIZES, Global, Storage
from tiecheck.files.pickle.unpickling import read_pickle
from tiecheck.records.stored import Checkpoint, Comparison

DTYPES = [
    *(torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64, torch.complex128, torch.bool),
    *(torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32, torch.uint64),
    *(torch.float8_e4m3fn, torch.float8_e5m2, torch.complex32),
]
OLD = DTYPES[:12]
"""Those that the form before torch 1.6 can hold."""


def drawn_tensor(draw: random.Random, dtype: torch.dtype) -> torch.Tensor:
    """A tensor of random bytes, of up to four dimensions."""
    shape = [draw.randint(0 if draw.random() < 0.1 else 1, 6) for _ in range(draw.randint(0, 4))]
    count = 1
    for size in shape:
        count *= size
    raw = bytearray(draw.randbytes(count * dtype.itemsize)) or bytearray(0)
    if dtype == torch.bool:
        raw = bytearray(byte & 1 for byte in raw)
    flat = torch.frombuffer(raw, dtype=dtype) if raw else torch.empty(0, dtype=dtype)
    return flat.clone().reshape(shape)


def drawn_view(draw: random.Random, tensor: torch.Tensor) -> torch.Tensor:
    """A view of a tensor: a part of it, turned over, in steps, expanded or widened."""
    views: list[Callable[[torch.Tensor], torch.Tensor]] = [lambda t: t, torch.Tensor.detach, lambda t: t.unsqueeze(0)]
    if tensor.dim():
        views += [
            lambda t: t.permute(*draw.sample(range(t.dim()), t.dim())),
            lambda t: t.narrow(d := draw.randrange(t.dim()), s := draw.randint(0, t.shape[d]), t.shape[d] - s),
            lambda t: t[(slice(None),) * draw.randrange(t.dim()) + (slice(None, None, draw.randint(1, 3)),)],
            lambda t: t.unfold(d := draw.randrange(t.dim()), min(2, t.shape[d]), 1) if t.numel() else t,
            lambda t: t[:1].expand(draw.randint(1, 3), *t.shape[1:]) if t.shape[0] else t,
        ]
    if tensor.is_complex() and tensor.dtype != torch.complex32:
        views += [torch.conj, lambda t: t.conj().imag, lambda t: t.real]
    return draw.choice(views)(tensor)


def drawn_dict(draw: random.Random, dtypes: list[torch.dtype]) -> dict[str, Any]:
    """A state dict whose tensors share memory in many ways, with things in it that are no tensors."""
    found: dict[str, Any] = OrderedDict() if draw.random() < 0.5 else {}
    pool = [drawn_tensor(draw, draw.choice(dtypes)) for _ in range(draw.randint(1, 4))]
    for number in range(draw.randint(1, 8)):
        tensor = draw.choice(pool)
        for _ in range(draw.randint(0, 3)):
            tensor = drawn_view(draw, tensor)
        if draw.random() < 0.3 and (tensor.is_floating_point() or tensor.is_complex()) and not tensor.is_neg():
            tensor = torch.nn.Parameter(tensor.detach(), requires_grad=draw.random() < 0.5)
        if draw.random() < 0.1:
            tensor.note = "x"  # type: ignore[attr-defined]
        pool.append(tensor)
        found[f"layers.{number}.\u00e9"[: draw.randint(8, 12)]] = tensor
    others = [1, -(2**40), 2.5, "text", None, True, [1, [2]], (1, 2, (3, 4), ()), {"deep": pool[0]}, torch.Size([2]),
              torch.float16, torch.device("cpu"), 1j, {1, 2}, OrderedDict(a=1)]  # fmt: skip
    for number in range(draw.randint(0, 3)):
        found[f"other{number}"] = draw.choice(others)
    if isinstance(found, OrderedDict):
        found._metadata = OrderedDict(version=1)  # type: ignore[attr-defined]  # as `state_dict` leaves it
    return found


def saved(value: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def content(checkpoint: Checkpoint) -> Iterator[tuple[str, bytes | None]]:
    """Name and bytes of every tensor, by the reader that comparisons use."""
    for name in checkpoint.names():
        tensor = checkpoint.tensor(name)
        assert tensor is not None
        try:
            with opened_members(checkpoint, [tensor]) as (span,):
                yield name, span.read(0, tensor.nbytes) if tensor.nbytes else b""
        except spans.OpaqueError:
            yield name, None


def raw(tensor: torch.Tensor) -> bytes:
    values = tensor.detach().resolve_conj().resolve_neg()
    plain = torch.empty(tensor.shape, dtype=tensor.dtype).copy_(values)
    return bytes(plain.reshape(-1).view(torch.uint8).tolist()) if plain.numel() else b""


def hold_against_torch(path: Path) -> None:
    """The reader gives what `torch.load` gives, or refuses what it refuses."""
    try:
        loaded = torch.load(path, weights_only=True)
    except Exception:  # noqa: BLE001  # it raises whatever it comes upon
        with pytest.raises(TargetError):
            read_checkpoint(str(path))
        return
    tensors = {k: v for k, v in loaded.items() if isinstance(v, torch.Tensor)}
    checkpoint = read_checkpoint(str(path))
    assert checkpoint is not None
    assert list(checkpoint.names()) == list(tensors)
    for name, tensor in tensors.items():
        found = checkpoint.tensor(name)
        assert found is not None
        assert (found.shape, f"torch.{found.dtype}") == (tuple(tensor.shape), str(tensor.dtype)), name
        assert found.nbytes == tensor.numel() * tensor.element_size()
    for name, data in content(checkpoint):
        tensor = tensors[name]
        if data is None:
            assert tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes()
        else:
            assert data == raw(tensor), name
    slots = checkpoint.slots
    for one in slots:
        assert (slots[one].offset, slots[one].stride) == (tensors[one].storage_offset(), tensors[one].stride())
        for other in slots:
            shares = tensors[one].untyped_storage().data_ptr() == tensors[other].untyped_storage().data_ptr()
            assert (slots[one].storage == slots[other].storage) is shares


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("strip", [16, 1 << 22], ids=["small-strips", "strips"])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "older"])
def test_drawn_state_dicts_are_read_as_torch_reads_them(tmp_path: Path, monkeypatch, zipped: bool, strip: int) -> None:
    monkeypatch.setattr(spans, "STRIP", strip)
    path = tmp_path / "pytorch_model.bin"
    for seed in range(150):
        draw = random.Random(seed)
        value = drawn_dict(draw, DTYPES if zipped else OLD)
        protocol = draw.choice([2, 2, 2, 3, 4, 5])  # torch refuses most of what 4 and 5 write
        try:
            path.write_bytes(saved(value, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol))
        except RuntimeError:  # one memory as two types, which torch does not save
            continue
        hold_against_torch(path)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "older"])
def test_a_file_cut_anywhere_is_one_sentence(tmp_path: Path, zipped: bool) -> None:
    whole = saved({"a": torch.ones(5, 7), "b": torch.ones(3)}, _use_new_zipfile_serialization=zipped)
    path = tmp_path / "pytorch_model.bin"
    for count in range(0, len(whole), 13):
        path.write_bytes(whole[:count])
        with pytest.raises(TargetError, match=r"pytorch_model\.bin"):
            read_checkpoint(str(path))


def rewritten(path: Path, change: Callable[[str, bytes], bytes | None], compress: int = zipfile.ZIP_STORED) -> None:
    """The zip archive of a state dict with entries changed or left out."""
    source = zipfile.ZipFile(io.BytesIO(saved({"a": torch.arange(8.0), "b": torch.arange(8.0)})))
    with zipfile.ZipFile(path, "w", compress) as target:
        for name in source.namelist():
            data = change(name, source.read(name))
            if data is not None:
                target.writestr(name, data)


@pytest.mark.parametrize(
    ("entry", "data", "says"),
    [
        ("data/0", bytes(16), r"has 32 bytes by its pickle, and 16 are there \(truncated\)"),
        ("data/0", bytes(48), "has 32 bytes by its pickle, and 48 are there$"),
        ("data/1", None, "lacks the bytes of storage '1'"),
        ("byteorder", b"big", "was saved on a big-endian machine"),
        ("byteorder", b"middle", "names an order of bytes that is not known"),
        ("data.pkl", None, "none of torch.save's"),
        ("version", None, "none of torch.save's"),
    ],
)
def test_archive_that_does_not_hold_what_its_pickle_says(
    tmp_path: Path, entry: str, data: bytes | None, says: str
) -> None:
    path = tmp_path / "pytorch_model.bin"
    rewritten(path, lambda name, old: data if name == f"archive/{entry}" else old)
    with pytest.raises(TargetError, match=says):
        read_checkpoint(str(path))


def test_compressed_storages_have_headers_and_no_bytes(tmp_path: Path) -> None:
    rewritten(tmp_path / "pytorch_model.bin", lambda _, old: old, zipfile.ZIP_DEFLATED)
    checkpoint = read_checkpoint(str(tmp_path))
    assert checkpoint is not None
    tensor = checkpoint.tensor("a")
    assert tensor is not None
    assert tensor.shape == (8,)
    with pytest.raises(spans.OpaqueError, match="compressed"), opened_members(checkpoint, [tensor]):
        pass


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "older"])
def test_a_file_that_shrinks_while_it_is_read_says_so(tmp_path: Path, monkeypatch, zipped: bool) -> None:
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(saved({"a": torch.ones(500, 7)}, _use_new_zipfile_serialization=zipped))
    read_pickle = archive.read_pickle

    def shrinking(*args: Any, **options: Any) -> Any:
        os.truncate(path, 100)
        return read_pickle(*args, **options)

    monkeypatch.setattr(archive, "read_pickle", shrinking)
    with pytest.raises(TargetError, match="changed while it was read"):
        read_checkpoint(str(path))


def test_a_file_that_grows_shorter_than_a_tensor_before_it_is_compared(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(saved({"a": torch.ones(500, 7), "b": torch.ones(7, 500).t()}))
    checkpoint = read_checkpoint(str(path))
    assert checkpoint is not None
    os.truncate(path, 2000)
    found = compare_bytes(checkpoint, tuple(t for t in map(checkpoint.tensor, "ab") if t is not None))
    assert "was it changed meanwhile" in getattr(found, "reason", "")


def test_names_that_torch_allows_are_those_of_the_installed_one() -> None:
    assert set(_get_allowed_globals()) == ALLOWED


ARGUMENTS = {"none": b")", "number": b"K\x05\x85", "text": b"X\x01\0\0\0x\x85", "two": b"K\x05X\x01\0\0\0x\x86"}
ARGUMENTS |= {
    "list": b"]\x85",
    "tuple": b")\x85",
    "dict": b"}\x85",
    "nothing": b"N\x85",
    "many": b"(" + b"N" * 9 + b"t",
}
OF_WORDS = {"torch.device", "torch.serialization._get_layout", "torch._utils._rebuild_sparse_tensor"}
"""Which of their words are right is not told."""


@pytest.mark.parametrize("call", [b"R", b"\x81"], ids=["called", "made"])
@pytest.mark.parametrize("arguments", ARGUMENTS)
def test_a_call_that_torch_cannot_make_is_refused(arguments: str, call: bytes) -> None:
    from torch import _weights_only_unpickler

    accepted = []
    for name in sorted(ALLOWED - OF_WORDS):
        module, _, last = name.rpartition(".")
        raw = b"\x80\x02}K\x01c%s\n%s\n%s%ss." % (module.encode(), last.encode(), ARGUMENTS[arguments], call)
        try:
            _weights_only_unpickler.load(io.BytesIO(raw))
        except Exception:  # noqa: BLE001  # whatever it raises
            with contextlib.suppress(UnreadablePickleError):
                read_pickle(io.BytesIO(raw), safe=True)
                accepted.append(name)
    assert accepted == []


def test_sizes_of_elements_are_torchs() -> None:
    for word, size in ITEMSIZES.items():
        assert getattr(torch, word).itemsize == size, word


def test_reading_weights_imports_no_torch(tmp_path: Path) -> None:
    import subprocess

    (tmp_path / "pytorch_model.bin").write_bytes(saved({"a": torch.ones(2, 3), "b": torch.ones(3, 2).t()}))
    program = (
        "import sys; sys.modules['torch'] = sys.modules['numpy'] = None\n"
        "from tiecheck.files.checkpoint import read_checkpoint\n"
        "from tiecheck.files.compare.equality import compare_bytes\n"
        f"c = read_checkpoint({str(tmp_path)!r}); print(compare_bytes(c, (c.tensor('a'), c.tensor('b'))).equal)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


def test_a_pickle_of_too_many_operations_is_not_followed(monkeypatch) -> None:
    monkeypatch.setattr(machine, "OPERATIONS", Limit(50, "operations in its pickles"))
    assert read_pickle(io.BytesIO(pickle.dumps(list(range(20)), 2)), safe=True) == list(range(20))
    with pytest.raises(TargetError, match="a pickle is not read: with it the target has more than 50 operations"):
        read_pickle(io.BytesIO(pickle.dumps(list(range(100)), 2)))


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"\x80\x02cposix\nsystem\n.", "asks for posix.system"),
        (b"\x80\x02c__builtin__\neval\n.", "asks for eval"),
        (b"\x80\x04\x8c\x01a.", "Unsupported operand 140"),
        (b"\x80\x02]]b.", "Can only build"),
        (b"\x80\x02})NR.", "unrecognized function"),
        (b"\x80\x02]K\x01K\x02s.", "Can only set the items of a dict"),
        (b"\x80\x02}K\x01a.", "Can only append to lists"),
        (b"\x80\x02K\x01Q.", "Only persistent_load of storage"),
        (b"\x80\x02K\x01(0.", "Unsupported operand 48"),
        (b"\x80\x02(K\x01\x86.", "no whole pickle"),
        (
            b"\x80\x02ctorch._utils\n_rebuild_tensor\n(NK\x00\x8a\x0a" + b"\xff" * 9 + b"\x01\x85)tR.",
            "more than 64 bits",
        ),
    ],
)
def test_what_torch_refuses_is_refused(raw: bytes, says: str) -> None:
    with pytest.raises(UnreadablePickleError, match=says):
        read_pickle(io.BytesIO(raw), safe=True)
    from torch import _weights_only_unpickler

    with pytest.raises(Exception):  # noqa: B017  # whatever it raises
        _weights_only_unpickler.load(io.BytesIO(raw))


def test_a_storage_that_is_a_view_of_another_is_not_read() -> None:
    plain = ("storage", Global("torch", "FloatStorage"), "7", "cuda:0", 5)
    assert persistent_storage(plain) == Storage("7", "float32", 20)
    assert persistent_storage((*plain, None)) == Storage("7", "float32", 20, old=True)
    assert persistent_storage((*plain, ("view", 0, 2))) is None


def test_many_members_are_compared_in_one_pass(tmp_path: Path, monkeypatch) -> None:
    value = torch.arange(600_000.0)
    torch.save({str(i): value.clone() for i in range(4)}, tmp_path / "pytorch_model.bin")
    checkpoint = read_checkpoint(str(tmp_path))
    assert checkpoint is not None
    read: list[int] = []
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, count, at: read.append(count) or pread(fd, count, at))
    found = compare_bytes(checkpoint, tuple(t for t in map(checkpoint.tensor, "0123") if t is not None))
    assert isinstance(found, Comparison)
    assert found.equal
    assert sum(read) < 1.1 * 4 * value.nbytes
