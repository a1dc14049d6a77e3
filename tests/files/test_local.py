"""Reading a target's files: nothing outside the directory, nothing that makes us wait, one sentence for each cause."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tiecheck.errors import TargetError
from tiecheck.files.local import open_regular, parse_json, path_inside, read_bytes

NOBODY = 65534


@contextmanager
def without_rights() -> Iterator[None]:
    """Run as somebody who may not read everything, where the tests run as root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that everybody may enter; pytest's own may be entered by its owner alone."""
    path = Path(tempfile.mkdtemp(prefix="tiecheck-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


class TestInside:
    def test_plain_name_is_joined(self, tmp_path: Path) -> None:
        assert path_inside(str(tmp_path), "sub/model.bin") == str(tmp_path / "sub/model.bin")

    def test_name_that_begins_with_two_dots_is_a_name(self, tmp_path: Path) -> None:
        assert path_inside(str(tmp_path), "..model.bin") == str(tmp_path / "..model.bin")

    @pytest.mark.parametrize("name", ["../x", "..", "a/../../x", "/etc/passwd", "a/../.."])
    def test_path_that_leaves_is_refused(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(TargetError, match="outside the target directory, and is not read"):
            path_inside(str(tmp_path), name)

    def test_link_that_leaves_is_refused_and_both_ends_are_named(self, tmp_path: Path) -> None:
        (tmp_path / "secret").write_text("x")
        model = tmp_path / "model"
        model.mkdir()
        (model / "config.json").symlink_to(tmp_path / "secret")
        with pytest.raises(TargetError, match=r"model/config\.json is a link to .*secret, outside"):
            path_inside(str(model), "config.json")

    def test_folder_that_is_a_link_and_leaves_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "w.safetensors").write_bytes(b"")
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "sub").symlink_to(tmp_path / "other")
        with pytest.raises(TargetError, match="is a link to"):
            path_inside(str(tmp_path / "model"), "sub/w.safetensors")

    def test_link_that_stays_is_followed(self, tmp_path: Path) -> None:
        (tmp_path / "real").write_text("x")
        (tmp_path / "link").symlink_to("real")
        assert path_inside(str(tmp_path), "link")

    def test_directory_that_is_a_link_itself_is_entered(self, tmp_path: Path) -> None:
        (tmp_path / "real").mkdir()
        (tmp_path / "real" / "config.json").write_text("{}")
        (tmp_path / "link").symlink_to("real")
        assert path_inside(str(tmp_path / "link"), "config.json")

    def test_links_of_the_hub_cache_are_followed(self, tmp_path: Path) -> None:
        snapshot = tmp_path / "models--a--b" / "snapshots" / "0123"
        (tmp_path / "models--a--b" / "blobs").mkdir(parents=True)
        snapshot.mkdir(parents=True)
        (tmp_path / "models--a--b" / "blobs" / "feed").write_text("{}")
        (snapshot / "config.json").symlink_to("../../blobs/feed")
        assert read_bytes(path_inside(str(snapshot), "config.json"), "it") == b"{}"

    def test_link_from_a_snapshot_to_another_repository_is_refused(self, tmp_path: Path) -> None:
        snapshot = tmp_path / "models--a--b" / "snapshots" / "0123"
        snapshot.mkdir(parents=True)
        (tmp_path / "models--c--d" / "blobs").mkdir(parents=True)
        (tmp_path / "models--c--d" / "blobs" / "feed").write_text("{}")
        (snapshot / "config.json").symlink_to("../../../models--c--d/blobs/feed")
        with pytest.raises(TargetError, match="is a link to"):
            path_inside(str(snapshot), "config.json")

    def test_root_directory_holds_everything(self) -> None:
        assert path_inside("/", "tmp") == "/tmp"


class TestOpen:
    def test_pipe_is_refused_at_once(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "config.json")
        with pytest.raises(TargetError, match=r"config\.json is a pipe or a device"):
            read_bytes(str(tmp_path / "config.json"), "config.json")

    def test_device_is_refused(self) -> None:
        with pytest.raises(TargetError, match="a pipe or a device"):
            open_regular("/dev/zero", "/dev/zero")

    def test_folder_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(TargetError, match="it is a folder"):
            read_bytes(str(tmp_path), "it")

    def test_loop_of_links_is_told(self, tmp_path: Path) -> None:
        (tmp_path / "a").symlink_to("b")
        (tmp_path / "b").symlink_to("a")
        with pytest.raises(TargetError, match="a cannot be read: Too many levels of symbolic links"):
            read_bytes(str(tmp_path / "a"), "a")

    def test_missing_file_is_told(self, tmp_path: Path) -> None:
        with pytest.raises(TargetError, match="it cannot be read: No such file"):
            read_bytes(str(tmp_path / "none"), "it")

    def test_name_with_a_nul_is_told(self) -> None:
        with pytest.raises(TargetError, match="it cannot be read"):
            read_bytes("a\0b", "it")

    def test_file_without_permission_is_told(self, open_folder: Path) -> None:
        file = open_folder / "config.json"
        file.write_text("{}")
        file.chmod(0)
        with without_rights(), pytest.raises(TargetError, match=r"config\.json cannot be read: Permission"):
            read_bytes(str(file), "config.json")

    def test_large_file_is_not_read(self, tmp_path: Path) -> None:
        with (tmp_path / "big").open("wb") as file:
            file.truncate(300 * 1024 * 1024)
        with pytest.raises(TargetError, match=r"it has 314,572,800 bytes, more than the 201,326,592"):
            read_bytes(str(tmp_path / "big"), "it")

    def test_no_descriptor_stays_open(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(3):
            with pytest.raises(TargetError):
                read_bytes(str(tmp_path / "pipe"), "it")
        assert len(os.listdir("/proc/self/fd")) == before


class TestJson:
    @pytest.mark.parametrize(
        ("raw", "says"),
        [
            (b"", "is not valid JSON: Expecting value at line 1, column 1"),
            (b'{"a": 1,}', "is not valid JSON: .* at line 1, column"),
            (b'{"a\nb": 1}', "is not valid JSON: Invalid control character at line 1, column 4"),
            (b'{"a": "\xff"}', "is not UTF-8 text: byte 7 cannot be decoded"),
            (b"\xef\xbb\xbf{}", "begins with a byte order mark"),
            ('{"a": 1}'.encode("utf-16"), "is not UTF-8 text: byte 0"),
            ('{"a": 1}'.encode("utf-16-le"), "is not valid JSON"),
            ('{"a": 1}'.encode("utf-32"), "is not UTF-8 text"),
            (b"[" * 100_000, "is nested too deeply"),
            (b'{"a":' * 100_000, "is nested too deeply"),
            (b'{"a": ' + b"9" * 5000 + b"}", "holds a number that cannot be read"),
            (rb'{"a": "\ud800"}', "holds half of a surrogate pair"),
            (rb'{"\uDC00": 1}', "holds half of a surrogate pair"),
        ],
    )
    def test_bad_text_ends_in_one_sentence(self, raw: bytes, says: str) -> None:
        with pytest.raises(TargetError, match=f"^it {says}") as caught:
            parse_json(raw, "it", "path")
        assert "\n" not in str(caught.value)
        assert caught.value.path == "path"

    def test_whole_pair_of_surrogates_is_a_character(self) -> None:
        assert parse_json(rb'{"\ud83d\ude00": "\\ud800"}', "it", "path") == {"\U0001f600": "\\ud800"}

    def test_pythons_own_constants_pass_as_they_do_in_the_loaders(self) -> None:
        assert parse_json(b'{"a": Infinity}', "it", "path") == {"a": float("inf")}

    def test_collector_is_left_as_it_was(self) -> None:
        import gc

        assert gc.isenabled()
        parse_json(b"{}", "it", "path")
        with pytest.raises(TargetError):
            parse_json(b"{", "it", "path")
        assert gc.isenabled()
        gc.disable()
        try:
            parse_json(b"{}", "it", "path")
            assert not gc.isenabled()
        finally:
            gc.enable()
