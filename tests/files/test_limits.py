"""Input that asks for much or is odd: one sentence and exit status 2, or the right pass, whatever is in the file."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import pickle
import random
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import LLAMA, safetensors_bytes
from tiecheck.errors import SHOWN, TargetError, shown
from tiecheck.files import limits, local
from tiecheck.files.checkpoint import read_checkpoint
from tiecheck.files.compare import spans
from tiecheck.files.compare.equality import compare_bytes
from tiecheck.files.limits import Account, Limit, OutOfTimeError, current
from tiecheck.files.local import parse_json, path_inside
from tiecheck.files.model_config import parse_config
from tiecheck.files.pickle import archive, machine
from tiecheck.files.pickle.archive import read_torch_file
from tiecheck.files.pickle.machine import UnreadablePickleError
from tiecheck.files.pickle.unpickling import read_pickle
from tiecheck.files.safetensors import header
from tiecheck.files.safetensors.header import shard_of_header
from tiecheck.records.words import Unknown
from tiecheck.scale import initial_draw

EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@pytest.fixture
def account():
    """An account that all readers of a test share, as those of a target do."""
    opened = Account()
    token = current.set(opened)
    yield opened
    current.reset(token)


def zipped(data: bytes, **storages: bytes) -> bytes:
    """A file of `torch.save` in the zip form."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("archive/data.pkl", data)
        made.writestr("archive/version", b"3\n")
        for key, raw in storages.items():
            made.writestr(f"archive/data/{key}", raw)
    return out.getvalue()


def legacy(data: bytes) -> bytes:
    """The same in the form before torch 1.6."""
    head = [pickle.dumps(value, 2) for value in (archive.MAGIC, archive.PROTOCOL, {"little_endian": True})]
    return b"".join(head) + data + pickle.dumps([], 2)


class TestJson:
    DENSE = ("{},", "[],", '{"a":1},', '"ab",', "1,", "[[]],")

    @pytest.mark.parametrize("unit", DENSE)
    @pytest.mark.parametrize("place", ["header", "field of an entry", "index", "config"])
    def test_a_text_of_many_small_values_is_refused_before_it_is_parsed(
        self, tmp_path: Path, monkeypatch, account, unit: str, place: str
    ) -> None:
        monkeypatch.setattr(local, "JSON_BYTES", 1 << 24)
        monkeypatch.setattr(limits, "VALUES", Limit(100_000, "values in its headers and configs"))
        monkeypatch.setattr(json, "loads", lambda *a, **k: pytest.fail("it was parsed"))
        many = "[" + unit * (2_500_000 // len(unit)) + "0]"
        texts = {"config": f'{{"x":{many}}}', "index": f'{{"weight_map":{{"a":"a.safetensors"}},"x":{many}}}'}
        if place in texts:
            with pytest.raises(TargetError, match="values in its headers and configs"):
                parse_json(texts[place].encode(), "it", "it")
            return
        entry = '{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0],"x":%s}}' if place != "header" else '{"a":%s}'
        text = (entry % many).encode()
        (tmp_path / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)
        monkeypatch.setattr("tiecheck.files.safetensors.header._parse_typed", lambda *_: None)
        with pytest.raises(TargetError, match="values in its headers and configs"):
            read_checkpoint(str(tmp_path))

    def test_headers_are_counted_together(self, tmp_path: Path, monkeypatch, account) -> None:
        entries = {f"t{i}": ("U8", [0], b"") for i in range(9000)}
        for name in "ab":
            (tmp_path / f"{name}.safetensors").write_bytes(
                safetensors_bytes({f"{name}{k}": v for k, v in entries.items()})
            )
        index = {"metadata": {}, "weight_map": {"a0": "a.safetensors", "b0": "b.safetensors"}}
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
        assert read_checkpoint(str(tmp_path)) is not None
        for module in (limits, header):  # json, and the typed parser where msgspec is there
            monkeypatch.setattr(module, "VALUES", Limit(40_000, "values"))
        token = current.set(Account())
        with pytest.raises(
            TargetError, match=r"b\.safetensors is not read: with it the target has more than 40,000 values"
        ):
            read_checkpoint(str(tmp_path))
        current.reset(token)

    @given(st.integers(310, 4000), st.sampled_from(["d_model", "init", "logit_scale"]),
           st.lists(st.sampled_from(["text_config", "", "x"]), max_size=3))  # fmt: skip
    def test_a_number_without_end_in_a_config_is_named(self, digits: int, key: str, levels: list[str]) -> None:
        level: dict[str, Any] = {key: 10**digits}
        for name in levels:
            level = {name: level}
        text = json.dumps(LLAMA | level)
        with pytest.raises(TargetError, match=f"gives `{key}` a number of more than 300 digits"):
            parse_config(text.encode(), "config.json")

    @given(
        st.sampled_from(["1e999", "-1e400", "1.5e309", "9" * 309, "-" + "9" * 400, "1e308", "9" * 308, "1.5", "12"]),
        st.sampled_from(["%s", "[%s]", '{"y":%s}']),
    )
    def test_a_number_of_a_header_is_one_that_safetensors_reads(self, number: str, place: str) -> None:
        import safetensors

        text = '{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":%s}}' % (place % number)
        raw = len(text).to_bytes(8, "little") + text.encode() + b"\0"
        with contextlib.nullcontext() if len(number) < 9 and "e" not in number else contextlib.suppress(TargetError):
            shard = shard_of_header(text.encode(), len(raw), "a", "a")
            assert list(shard.entries) == [name for name, _ in safetensors.deserialize(raw)]


class TestNames:
    @pytest.mark.parametrize("form", ["safetensors", "bin"])
    def test_a_shard_under_many_spellings_and_links_is_read_once(self, tmp_path: Path, monkeypatch, form: str) -> None:
        import torch

        tensors = {EMBED: ("F32", [4, 2], bytes(32))}
        if form == "safetensors":
            (tmp_path / "m.safetensors").write_bytes(safetensors_bytes(tensors))
        else:
            torch.save({EMBED: torch.zeros(4, 2)}, tmp_path / "m.bin")
        os.link(tmp_path / f"m.{form}", tmp_path / f"n.{form}")
        os.symlink(f"m.{form}", tmp_path / f"o.{form}")
        spellings = ["./" * i + f"m.{form}" for i in range(400)] + [f"x/../n.{form}", f"o.{form}"]
        index = {
            "metadata": {},
            "weight_map": {f"t{i}": file for i, file in enumerate(spellings)} | {EMBED: f"m.{form}"},
        }
        standard = {"safetensors": "model.safetensors", "bin": "pytorch_model.bin"}[form]
        (tmp_path / f"{standard}.index.json").write_text(json.dumps(index))
        opened: list[str] = []
        real = os.open
        monkeypatch.setattr(os, "open", lambda path, *a, **k: (opened.append(str(path)), real(path, *a, **k))[1])
        checkpoint = read_checkpoint(str(tmp_path))
        assert checkpoint is not None
        assert [shard.path for shard in checkpoint.shards] == [f"m.{form}"]
        assert sum(path.endswith(form) for path in opened) == 1
        assert checkpoint.tensor(EMBED) is not None

    @given(st.text(max_size=8), st.text(max_size=8))
    def test_no_file_has_a_nul_in_its_name(self, before: str, after: str) -> None:
        with pytest.raises(TargetError, match="and is not read"):
            path_inside("/somewhere", f"sub/{before}\0{after}")

    def test_an_index_names_a_file_with_a_nul(self, tmp_path: Path) -> None:
        (tmp_path / "model.safetensors.index.json").write_text(
            json.dumps({"weight_map": {"a": "m.safetensors\0.safetensors"}})
        )
        with pytest.raises(TargetError, match="no weights file by its ending"):
            read_checkpoint(str(tmp_path))

    @given(st.text(max_size=3 * SHOWN) | st.text("ab \x1b\x00\x9b\u202e", max_size=9 * SHOWN))
    def test_a_message_is_short_and_has_no_control_characters(self, text: str) -> None:
        told = str(TargetError(text))
        assert len(told) <= 4 * 10 * SHOWN
        assert not any(ord(c) < 32 and c != "\n" for c in told)
        assert "\x9b" not in told
        assert "\u202e" not in told
        assert told == text or len(text) > SHOWN or not text.isprintable()
        assert shown(told) == told or len(told) > SHOWN


MANY = b"\x80\x02" + b"N0" * 5000 + b"}."


class TestPickles:
    @pytest.mark.parametrize("form", [zipped, legacy])
    def test_the_operations_of_all_files_are_counted_together(self, tmp_path: Path, monkeypatch, account, form) -> None:
        monkeypatch.setattr(machine, "OPERATIONS", Limit(25_000, "operations in its pickles"))
        for name in ("1.bin", "2.bin", "3.bin"):
            (tmp_path / name).write_bytes(form(MANY))
        for name in ("1.bin", "2.bin"):
            assert not isinstance(read_torch_file(str(tmp_path / name)), Unknown)
        third = read_torch_file(str(tmp_path / "3.bin"))
        assert isinstance(third, Unknown)
        assert "3.bin is not read: with it the target has more than 25,000 operations in its pickles" in third.reason

    @pytest.mark.parametrize(
        "unit",
        [b"}", b"]", b")\x85", b"}\x94", b"]q\x01", b"N\x85", b"X\x20\0\0\0" + b"a" * 32, b"}K\x01Ns", b"\x8f"],
    )
    def test_what_a_pickle_makes_is_counted_as_it_is_made(self, monkeypatch, account, unit: bytes) -> None:
        import tracemalloc

        monkeypatch.setattr(machine, "PICKLED", Limit(4_000_000, "bytes"))
        text = io.BytesIO(b"\x80\x02" + unit * 200_000 + b".")
        tracemalloc.start()
        with pytest.raises(TargetError, match="more than 4,000,000 bytes"):
            read_pickle(text)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 12_000_000

    def test_a_hundred_thousand_tensors_are_within_the_limits(self, tmp_path: Path, account) -> None:
        import torch

        names = (f"model.layers.{i // 100}.mlp.experts.{i % 100}.gate_proj.weight" for i in range(2000))
        torch.save({name: torch.zeros(2, 2) for name in names}, tmp_path / "a.bin")
        archive.read_weights_file(str(tmp_path / "a.bin"))
        assert all(50 * account._taken[limit.what] < limit.most for limit in (limits.OPERATIONS, limits.PICKLED))

    def test_a_directory_of_a_zip_that_is_too_large_is_not_read(self, tmp_path: Path, monkeypatch) -> None:
        monkeypatch.setattr(archive, "ZIP_DIRECTORY_BYTES", 1000)
        (tmp_path / "a.bin").write_bytes(zipped(b"\x80\x02}.", **{str(i): b"" for i in range(100)}))
        with pytest.raises(TargetError, match="its zip directory has more than the 1,000 bytes that are read"):
            archive.read_weights_file(str(tmp_path / "a.bin"))

    def test_a_pickle_is_refused_by_its_unpacked_size(self, tmp_path: Path, monkeypatch) -> None:
        monkeypatch.setattr(archive, "PICKLE_BYTES", 1000)
        (tmp_path / "a.bin").write_bytes(zipped(MANY))
        with pytest.raises(TargetError, match="its pickle has more than the 1,000 bytes that are read"):
            archive.read_weights_file(str(tmp_path / "a.bin"))

    @given(st.integers(0, 60), st.sampled_from([b"\x86", b"\x87", b"\x85"]))
    def test_a_key_of_nested_tuples_costs_nothing(self, depth: int, join: bytes) -> None:
        key = b")q\0"
        for i in range(depth):
            more = {b"\x85": b"", b"\x86": b"h" + bytes([i]), b"\x87": b"h" + bytes([i]) + b"h\0"}[join]
            key += more + join + b"q" + bytes([i + 1])
        data = b"\x80\x02}(" + key + b"Nu."
        assert len(read_pickle(io.BytesIO(data))) == 1
        if join == b"\x85" or depth < 9:
            assert len(read_pickle(io.BytesIO(data), safe=True)) == 1
        elif depth > 10:
            with pytest.raises(UnreadablePickleError, match="a key of nested tuples"):
                read_pickle(io.BytesIO(data), safe=True)

    def test_memory_that_a_pickle_asks_for_is_not_taken(self) -> None:
        asks = b"\x80\x02cbuiltins\nbytearray\n(\x8a\x05" + (8 << 30).to_bytes(5, "little") + b"tR."
        with pytest.raises(UnreadablePickleError, match="asks for 8,589,934,592 bytes"):
            read_pickle(io.BytesIO(asks), safe=True)
        read_pickle(io.BytesIO(asks))

    def test_metadata_that_is_no_pickle_is_told_at_once(self, tmp_path: Path) -> None:
        from tiecheck.stored.optimizer_state import read_state

        (tmp_path / ".metadata").write_bytes(b"state." * 1_000_000)
        told = read_state(str(tmp_path), ".metadata", (EMBED, HEAD))
        assert isinstance(told, Unknown)
        assert "it is no pickle" in told.reason


def two_members(path: Path, nbytes: int, data: dict[int, bytes]) -> None:
    """A sparse file of two members, with some bytes at some places of its data."""
    rows = nbytes // 4096
    entries = {
        n: {"dtype": "F32", "shape": [rows, 1024], "data_offsets": [i * nbytes, (i + 1) * nbytes]}
        for i, n in enumerate((HEAD, EMBED))
    }
    text = json.dumps(entries).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for at, raw in data.items():
            file.seek(8 + len(text) + at)
            file.write(raw)
        file.truncate(8 + len(text) + 2 * nbytes)


class TestComparing:
    def answer(self, folder: Path) -> Any:
        checkpoint = read_checkpoint(str(folder / "model.safetensors"))
        assert checkpoint is not None
        return compare_bytes(checkpoint, (checkpoint.tensor(HEAD), checkpoint.tensor(EMBED)))

    def test_holes_of_terabytes_are_skipped(self, tmp_path: Path) -> None:
        two_members(tmp_path / "model.safetensors", 1 << 42, {})
        found = self.answer(tmp_path)
        assert found.equal
        assert found.constant

    @settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
    @given(st.dictionaries(st.integers(0, 2 * 4_194_304 - 8), st.binary(min_size=1, max_size=8), max_size=4))
    def test_holes_change_no_answer(self, tmp_path: Path, data: dict[int, bytes]) -> None:
        two_members(tmp_path / "model.safetensors", 4_194_304, data)
        sparse = self.answer(tmp_path)
        raw = (tmp_path / "model.safetensors").read_bytes()
        (tmp_path / "model.safetensors").unlink()
        (tmp_path / "model.safetensors").write_bytes(raw)
        assert self.answer(tmp_path) == sparse

    def test_past_the_limit_it_is_said_that_a_part_was_not_compared(self, tmp_path: Path, monkeypatch, account) -> None:
        monkeypatch.setattr(spans, "COMPARED", Limit(1 << 20, "bytes"))
        (tmp_path / "model.safetensors").write_bytes(
            safetensors_bytes({name: ("U8", [1024, 2048], bytes(range(256)) * 8192) for name in (HEAD, EMBED)})
        )
        found = self.answer(tmp_path)
        assert isinstance(found, Unknown)
        assert "GiB of the target would be compared; --values always does so" in found.reason

    @settings(deadline=None)
    @given(st.lists(st.lists(st.floats(), min_size=2, max_size=70), min_size=1, max_size=12))
    def test_no_value_is_too_odd_for_the_scale(self, runs: list[list[float]]) -> None:
        assert isinstance(initial_draw.sample_deviation(runs), float)
        initial_draw.no_draw([initial_draw.Sample("a.weight", (8, 8), runs)])


class TestTime:
    def test_a_target_without_time_is_an_error_in_one_sentence(self, tiecheck_cli, make_model) -> None:
        root = make_model({EMBED: ("F32", [4, 2], bytes(32))})
        done = tiecheck_cli("--timeout", "1e-9", "-f", "json", str(root))
        (error,) = json.loads(done.stdout)["targets"][0]["errors"]
        assert done.exit_code == 2
        assert error["message"].endswith("takes more than 1e-09 s (--timeout), and was stopped")
        assert tiecheck_cli("--timeout", "0", str(root)).exit_code == 1

    def test_a_module_has_its_time_too(self) -> None:
        import torch

        import tiecheck

        module = torch.nn.Linear(2, 2)
        (target,) = tiecheck.check(module, timeout=1e-9).targets
        assert target.errors[0].message == "Linear takes more than 1e-09 s (--timeout), and was stopped"
        assert tiecheck.check(module).targets[0].status == "pass"

    def test_a_tree_of_sources_has_its_time_and_its_bounds(self, tmp_path: Path) -> None:
        import tiecheck

        (tmp_path / "outside.py").write_text("self.head.weight = self.embed.weight\n")
        (tmp_path / "tree").mkdir()
        (tmp_path / "tree" / "own.py").write_text("a = 1\n")
        (tmp_path / "tree" / "link.py").symlink_to("../outside.py")
        (tmp_path / "tree" / "inner.py").symlink_to("own.py")
        (target,) = tiecheck.check(tmp_path / "tree").targets
        told = str(target)
        assert "outside the target directory, and is not read" in told
        assert "inner.py" not in told
        (target,) = tiecheck.check(tmp_path / "tree", timeout=1e-9).targets
        assert target.errors[0].message.endswith("takes more than 1e-09 s (--timeout), and was stopped")

    @pytest.mark.parametrize("work", ["build", "forward"])
    def test_foreign_code_is_stopped_where_it_comes_by(self, tmp_path: Path, account, work: str) -> None:
        import torch

        from tiecheck.live.transformers.confined import limited_modules
        from tiecheck.trace.reads import ReadTrace

        weight = torch.zeros(4, 2)
        account._end = -math.inf
        with pytest.raises(OutOfTimeError), limited_modules() if work == "build" else ReadTrace([weight]):
            _ = torch.nn.Sequential(torch.nn.Identity()) if work == "build" else weight @ weight.T

    @pytest.mark.parametrize("work", ["pickle", "compare", "index"])
    def test_long_work_asks_for_the_time(self, tmp_path: Path, account, work: str) -> None:
        two_members(tmp_path / "model.safetensors", 4_194_304, {0: bytes(9_000)})
        checkpoint = read_checkpoint(str(tmp_path / "model.safetensors"))
        assert checkpoint is not None
        (tmp_path / "a.index.json").write_text('{"weight_map":{"a":"model.safetensors"}}')
        account._end = -math.inf
        do = {
            "pickle": lambda: read_pickle(io.BytesIO(MANY)),
            "compare": lambda: compare_bytes(checkpoint, (checkpoint.tensor(HEAD), checkpoint.tensor(EMBED))),
            "index": lambda: read_checkpoint(str(tmp_path / "a.index.json")),
        }[work]
        with pytest.raises(OutOfTimeError):
            do()


def weights_of(folder: Path, form: str) -> Path:
    """A model whose head and embedding differ in their last row, written some time ago."""
    import torch

    (folder / "config.json").write_text(json.dumps(LLAMA | {"tie_word_embeddings": True, "vocab_size": 512}))
    both = {EMBED: torch.ones(512, 2), HEAD: torch.ones(512, 2)}
    both[HEAD][-1] = 2
    if form in {"zip", "legacy"}:
        path = folder / "pytorch_model.bin"
        torch.save(both, path, _use_new_zipfile_serialization=form == "zip")
    else:
        path = folder / ("model.safetensors" if form == "safetensors" else "part.safetensors")
        path.write_bytes(safetensors_bytes({n: ("F32", [512, 2], v.numpy().tobytes()) for n, v in both.items()}))
    if form == "index":
        path = folder / "model.safetensors.index.json"
        path.write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(both, "part.safetensors")}))
    os.utime(path, ns=(1, 1))
    return path


def change_file(path: Path, change: str) -> None:
    if change == "cut":
        os.truncate(path, os.path.getsize(path) // 2)
    elif change == "written":
        with path.open("r+b") as file:
            file.seek(os.path.getsize(path) // 3)
            file.write(b"x")
    elif change == "gone":
        path.unlink()
    else:
        (path.parent / "other").write_bytes(path.read_bytes())
        os.rename(path.parent / "other", path)


class Moments:
    """The calls into C that are made once a file is open, up to the last look at it; something is done at one."""

    def __init__(self, path: Path) -> None:
        self.path, self.seen, self.open = str(path), 0, False

    @contextlib.contextmanager
    def until(self, at: int, do: Any = None) -> Any:
        self.seen, self.open, self.at, self.do = 0, False, at, do
        sys.setprofile(self._see)
        try:
            yield
        finally:
            sys.setprofile(None)

    def _see(self, frame: Any, event: str, _: Any) -> None:
        name = frame.f_code.co_name
        if event == "return" and name == "note_file" and frame.f_locals["path"] == self.path:
            self.open = True
        last = event == "call" and name == "check_files"
        if self.open and (last or event == "c_call"):
            self.seen += 1
            if self.do and (last or self.seen > self.at):
                sys.setprofile(None)
                self.do()
        if last:
            self.open = False


class TestChange:
    @pytest.mark.parametrize("change", ["cut", "written", "replaced", "gone"])
    @pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
    def test_a_file_that_changes_meanwhile_is_no_verdict(self, monkeypatch, make_model, change: str, name: str) -> None:
        import tiecheck
        from tiecheck.engine import run

        root = make_model({EMBED: ("F32", [4, 2], bytes(32)), HEAD: ("F32", [4, 2], bytes(32))})
        path = root / name
        real = run._known

        def meanwhile(*args: Any) -> Any:
            if change == "cut":
                os.truncate(path, 10)
            elif change == "written":
                with path.open("r+b") as file:
                    file.write(b"x")
                os.utime(path, ns=(1, 1))
            else:
                raw = path.read_bytes()
                path.unlink()
                if change == "replaced":
                    (root / "other").write_bytes(raw)
                    os.rename(root / "other", path)
            return real(*args)

        monkeypatch.setattr(run, "_known", meanwhile)
        (target,) = tiecheck.check(str(root)).targets
        assert target.status == "error"
        assert target.errors[0].message == f"{path} changed while it was read"

    @pytest.mark.parametrize("form", ["safetensors", "zip", "legacy", "index"])
    @pytest.mark.parametrize("change", ["cut", "written", "replaced", "gone"])
    def test_no_moment_is_right_for_a_change(self, tmp_path: Path, change: str, form: str) -> None:
        """Whichever call it comes between, from the open to the verdict: never a verdict, nor a word of the half."""
        import tiecheck

        path = weights_of(tmp_path, form)
        moments = Moments(path)
        for _ in range(2):  # the first one imports
            with moments.until(10**9):
                assert tiecheck.check(str(tmp_path)).targets[0].status != "error"
        draw = random.Random(f"{form} {change}")
        for at in [0, 10**9, *(draw.randrange(moments.seen) for _ in range(6))]:
            path = weights_of(tmp_path, form)
            with moments.until(at, lambda path=path: change_file(path, change)):
                (target,) = tiecheck.check(str(tmp_path)).targets
            said = [error.message for error in target.errors]
            assert (target.status, said) == ("error", [f"{path} changed while it was read"]), at

    def test_a_record_that_is_shorter_than_its_tensor_is_no_weight(self, tmp_path: Path) -> None:
        import torch

        whole = tmp_path / "whole.bin"
        torch.save({HEAD: torch.zeros(32), EMBED: torch.zeros(32)}, whole)
        with zipfile.ZipFile(whole) as old, zipfile.ZipFile(tmp_path / "pytorch_model.bin", "w") as new:
            for entry in old.infolist():
                raw = old.read(entry)
                new.writestr(entry.filename, raw[:4] if "/data/1" in entry.filename else raw)
        with pytest.raises(TargetError, match="has 128 bytes by its pickle, and 4 are there"):
            read_checkpoint(str(tmp_path / "pytorch_model.bin"))
