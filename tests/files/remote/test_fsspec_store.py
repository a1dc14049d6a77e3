"""A store of fsspec, in its memory: what is put there comes back, and what is secret stays out of messages."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import unquote

import fsspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tiecheck.errors import TargetError
from tiecheck.files.remote.fsspec_store import FsspecStore
from tiecheck.files.remote.store import ByteRange, Start

RESTS = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
NAMES = st.text("ab.", min_size=1, max_size=5).filter(lambda name: name.strip("."))
FILES = st.dictionaries(NAMES, st.binary(max_size=30), min_size=1, max_size=4)


@pytest.fixture
def memory() -> Iterator[fsspec.AbstractFileSystem]:
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    yield fs
    fs.store.clear()


@RESTS
@given(files=FILES, count=st.integers(1, 40), data=st.data())
def test_drawn_files_come_back_by_listing_whole_start_and_range(memory, files, count: int, data) -> None:
    memory.store.clear()
    for name, raw in files.items():
        memory.pipe_file(f"/m/{name}", raw)
    memory.pipe_file("/m/below/other", b"x")
    store = FsspecStore("memory://m/")
    assert sorted(store.names() or ()) == sorted(files)
    before = store.traffic()
    assert {name: store.small(name, 30) for name in files} == files
    wanted = [(name, count) for name in files] + [("not there", count)]
    assert store.starts(wanted) == [Start(raw[:count], len(raw)) for raw in files.values()] + [None]
    spans = []
    for name, raw in files.items():
        if raw:
            offset = data.draw(st.integers(0, len(raw) - 1))
            spans.append(ByteRange(name, offset, data.draw(st.integers(1, len(raw) - offset))))
    got = store.spans(spans)
    assert got == [files[span.name][span.offset : span.offset + span.length] for span in spans]
    moved = sum(len(raw) + min(count, len(raw)) for raw in files.values()) + sum(map(len, got))
    assert store.traffic().bytes - before.bytes == moved


def test_a_file_that_is_not_there_too_large_or_cut(memory) -> None:
    memory.pipe_file("/m/config.json", b"12345")
    store = FsspecStore("memory://m")
    assert store.small("other.json", 9) is None
    with pytest.raises(TargetError, match=r"memory://m/config\.json has 5 bytes, more than the 4"):
        store.small("config.json", 4)
    with pytest.raises(TargetError, match=r"memory://m/config\.json ends too early: 3 bytes came of 9"):
        store.spans([ByteRange("config.json", 2, 9)])
    with pytest.raises(TargetError, match="there is no memory://none, or it is empty"):
        FsspecStore("memory://none").names()


@pytest.mark.parametrize("secret", ["p%40ss", "key=s3cr3t&sig=s3cr3t"])
def test_a_password_or_a_query_is_in_no_message(secret: str, memory, monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"memory://user:{secret}@host/m" if "%" in secret else f"memory://host/m?{secret}"

    def fail(*_: object, **__: object) -> None:
        raise OSError(f"{address} and {unquote(address)} refused")

    store = FsspecStore(address)
    monkeypatch.setattr(type(memory), "ls", fail)
    with pytest.raises(TargetError) as caught:
        store.names()
    told = f"{caught.value} {store.address}"
    assert "refused" in told
    assert not any(word in told for word in (secret, "p@ss", "s3cr3t"))
