"""Maps and reading tell the same of two members, and a file that is truncated under a map ends in a sentence."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tiecheck.files.checkpoint import read_checkpoint
from tiecheck.files.compare import mapped
from tiecheck.files.compare.chunks import Piece
from tiecheck.files.compare.equality import Span, compare
from tiecheck.files.compare.mapped import Alike, leased
from tiecheck.records.stored import Comparison
from tiecheck.records.words import Unknown

ROWS, WIDTH = 2048, 1024
SIZE = ROWS * WIDTH
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has leases")


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors of two megabytes are mapped too, in windows of a few pages."""
    monkeypatch.setattr(mapped, "MAPPED_FROM", 0)
    monkeypatch.setattr(mapped, "WINDOW", 512 * 1024)


def write(root: Path, second_at: int = 0, flipped: tuple[int, ...] = ()) -> Path:
    """Two members of random bytes, the second some bytes after the first and with some bytes flipped."""
    first = random.Random(0).randbytes(SIZE)
    second = bytearray(first)
    for place in flipped:
        second[place] ^= 1
    pad = {"pad": {"dtype": "U8", "shape": [second_at], "data_offsets": [SIZE, SIZE + second_at]}}
    header = {
        "a": {"dtype": "U8", "shape": [ROWS, WIDTH], "data_offsets": [0, SIZE]},
        **(pad if second_at else {}),
        "b": {"dtype": "U8", "shape": [ROWS, WIDTH], "data_offsets": [SIZE + second_at, 2 * SIZE + second_at]},
    }
    text = json.dumps(header).encode()
    path = root / "model.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + first + bytes(second_at) + second)
    return path


def compared(root: Path) -> Comparison | Unknown:
    checkpoint = read_checkpoint(str(root))
    assert checkpoint is not None
    return compare(checkpoint, tuple(t for t in map(checkpoint.tensor, "ab") if t is not None))


@pytest.mark.parametrize("second_at", [0, 1, 4096, 5000])
@pytest.mark.parametrize("flipped", [(), (0,), (SIZE - 1,), (300_000, 300_001, 1_500_000)])
def test_a_map_tells_what_reading_tells(tmp_path: Path, monkeypatch, second_at: int, flipped: tuple[int, ...]) -> None:
    write(tmp_path, second_at, flipped)
    by_map = compared(tmp_path)
    monkeypatch.setattr(mapped, "MAPPED_FROM", sys.maxsize)
    assert by_map == compared(tmp_path)
    assert isinstance(by_map, Comparison)
    assert by_map.equal is not bool(flipped)
    assert by_map.rows_differ == len({place // WIDTH for place in flipped})


@pytest.mark.parametrize("mapped", [False, True])
def test_each_piece_is_told_by_itself(tmp_path: Path, mapped: bool) -> None:
    places = (10, 700_000, 700_001, SIZE - 5)
    path = write(tmp_path, 3, places)
    start = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    fd = os.open(path, os.O_RDONLY)
    try:
        with leased([fd]) as held:
            asks = Alike([Span(fd, start, SIZE), Span(fd, start + SIZE + 3, SIZE)], mapped=mapped and held)
            for row in range(0, ROWS, 64):
                offset = row * WIDTH
                piece = Piece(row, 64, offset, 64 * WIDTH)
                assert asks(piece) is not any(offset <= place < offset + 64 * WIDTH for place in places)
    finally:
        os.close(fd)


@LINUX
def test_a_file_truncated_under_the_map_waits_for_us(tmp_path: Path, monkeypatch) -> None:
    path = write(tmp_path)
    began: list[subprocess.Popen[bytes]] = []
    looked = mapped._Windows._agree

    def truncated(self, maps, count) -> bool:
        if not began:
            began.append(subprocess.Popen([sys.executable, "-c", f"import os; os.truncate({str(path)!r}, 5000)"]))
            time.sleep(1)
            assert began[0].poll() is None, "it was truncated under the map"
        return looked(self, maps, count)

    monkeypatch.setattr(mapped._Windows, "_agree", truncated)
    begin = time.monotonic()
    result = compared(tmp_path)
    if not began:  # a file is then read and never mapped, so that there is no map to truncate it under
        pytest.skip("this file system gives no leases")
    assert began[0].wait(20) == 0
    assert time.monotonic() - begin < 20  # not the 45 seconds after which the system takes a lease away
    assert path.stat().st_size == 5000
    assert result == Unknown("the bytes of a cannot be read: the file ends too early; was it changed meanwhile?") or (
        isinstance(result, Comparison) and result.equal  # the last window was compared before it could begin
    )


@LINUX
def test_a_file_that_somebody_writes_is_read(tmp_path: Path, monkeypatch) -> None:
    path = write(tmp_path)
    monkeypatch.setattr(mapped._Windows, "_agree", lambda *_: pytest.fail("it was mapped"))
    with path.open("r+b"):
        result = compared(tmp_path)
    assert isinstance(result, Comparison)
    assert result.equal


@LINUX
def test_a_lease_is_given_back(tmp_path: Path) -> None:
    path = write(tmp_path)
    assert isinstance(compared(tmp_path), Comparison)
    begin = time.monotonic()
    os.truncate(path, 10)
    assert time.monotonic() - begin < 5
