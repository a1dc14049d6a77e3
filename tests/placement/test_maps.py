"""What a device map may be written as, and what is said of a file that holds none."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers.integrations.accelerate import check_and_set_device_map

from tiecheck.errors import UsageError
from tiecheck.placement.asked.memory import devices_of
from tiecheck.placement.asked.options import FILE_LIMIT, STRATEGIES, read_map, read_map_file

MAP = {"model.embed_tokens": 0, "model.layers": "cuda:1", "model.norm": "cpu", "lm_head": "disk"}


def said(given: object, **options: object) -> str:
    """What is said of a map that is none."""
    with pytest.raises(UsageError) as raised:
        read_map(given, "--device-map", **options)
    text = str(raised.value)
    assert text.isprintable(), "one line, and no control character"
    assert len(text) < 300
    return text


@pytest.mark.parametrize("given", [*STRATEGIES, "cpu", "cuda:1", "meta", 0, 3, torch.device("cpu")], ids=repr)
def test_a_word_is_what_transformers_takes_it_for(given: object) -> None:
    found, origin = read_map(given)
    real = check_and_set_device_map(given)
    assert origin == "device_map="
    if isinstance(real, dict):
        assert list(found) == list(real) == [""]
        assert str(found[""]) == str(real[""])
        assert isinstance(found[""], int) == isinstance(real[""], int)
    else:
        assert found == real


@pytest.mark.parametrize("given", ["0", "autoo", "AUTO", "auto ", "CPU", "", "disk", "gpu0", -1], ids=repr)
def test_a_word_that_transformers_refuses_is_refused(given: object) -> None:
    with pytest.raises(ValueError):
        check_and_set_device_map(given)
    assert "--device-map: " in said(given)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("autoo", "'autoo' is no strategy, no device and no JSON file that is here; did you mean 'auto'?"),
        ("Balanced", "did you mean 'balanced'?"),
        ("CPU", "'CPU' is no strategy, no device and no JSON file that is here"),
        ("zzz", "there are auto, balanced, balanced_low_0, sequential"),
        ("cuda:x", "'cuda:x' is no device"),
        ("disk", 'write a file that holds {"": "disk"}'),
        ("a\x1b[31m", "is no strategy"),
        ("", "'' is no strategy"),
        (True, "True is no device"),
        (-1, "-1 is no device; a GPU's number is 0 to 127"),
        (None, "None is no device"),
        (["cpu"], "['cpu'] is no device"),
        ({}, "is empty: it gives no module a device"),
        ({0: "cpu"}, "0 is no module's name"),
        ({"lm_head": "gpu0"}, "'lm_head': 'gpu0' is no device; there are numbers of GPUs, cuda:0, cpu"),
        ({"lm_head": "0"}, "'lm_head': '0' is no device; there are numbers of GPUs, cuda:0, cpu"),
        ({"lm_head": None}, "'lm_head': None is no device"),
        ({"lm\x1b_head": "x"}, r"'lm\x1b_head': 'x' is no device"),
        ({"model": {"embed": 0}}, "'model': {'embed': 0} is no device"),
    ],
    ids=repr,
)
def test_what_is_no_map_is_told(given: object, says: str) -> None:
    assert says in said(given)


def test_digits_that_were_typed_are_a_gpu() -> None:
    assert read_map("0", "--device-map", text=True) == ({"": 0}, "--device-map")
    assert read_map("12", "--device-map", text=True)[0] == {"": 12}


def test_a_mapping_keeps_its_order_and_words() -> None:
    found, origin = read_map(MAP | {"x": torch.device("cuda", 1)}, "device_map=")
    assert list(found.items()) == [*MAP.items(), ("x", "cuda:1")]
    assert origin == "device_map="
    assert read_map(found) == (found, "device_map="), "what was read can be read again"


def test_a_file_is_read_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("map.json", "map"):
        Path(name).write_text(json.dumps(MAP))
        assert read_map(name, "--device-map", text=True) == (MAP, name)
        assert read_map(Path(name)) == (MAP, name)
        assert list(read_map(name)[0]) == list(MAP)
    monkeypatch.chdir("/")
    assert read_map("map.json", folder=str(tmp_path)) == (MAP, str(tmp_path / "map.json"))
    assert read_map(str(tmp_path / "map.json"), folder="/nowhere")[0] == MAP


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "is not valid JSON: Expecting value at line 1, column 1"),
        (b'{"a": 0,\n "b" 1}', "is not valid JSON: Expecting ':' delimiter at line 2, column 6"),
        (b'{"a": 0, "b": 1, "a": 2}', "holds the key 'a' twice"),
        (b'{"a": {"b": 1, "b": 2}}', "holds the key 'b' twice"),
        (b"[]", "must map modules to devices"),
        (b"null", "must map modules to devices"),
        (b'"cpu"', "must map modules to devices"),
        (b'"auto"', "must map modules to devices"),
        (b"{}", "is empty: it gives no module a device"),
        (b'{"a": 1.5}', "'a': 1.5 is no device"),
        (b'{"a": true}', "'a': True is no device"),
        (b'{"a": null}', "'a': None is no device"),
        (b'{"a": ["cpu"]}', "'a': ['cpu'] is no device"),
        (b'{"a": "cudaa"}', "'a': 'cudaa' is no device; there are"),
        (b'{"a": NaN}', "'a': nan is no device"),
        (b'{"a": {"b": 0}}', "'a': {'b': 0} is no device"),
        (b'{"a": {}}', "'a': {} is no device"),
        (b'{"a\\u001b[31m": {"\\n": 0}}', r"'a\x1b[31m': {'\n': 0} is no device"),
        (b'{"a":' * 50_000, "is nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "holds a number that cannot be read"),
        (b'{"a": 99999}', "99999 is no device"),
        (b'\xef\xbb\xbf{"a": 0}', "begins with a byte order mark"),
        ('{"a": 0}'.encode("utf-16"), "is not UTF-8 text"),
        (b'{"\\ud800": 0}', "holds half of a surrogate pair"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
    ],
    ids=lambda value: repr(value[:30]),
)
def test_a_file_that_holds_no_map_is_told(tmp_path: Path, monkeypatch, raw: bytes, says: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("map.json").write_bytes(raw)
    text = said("map.json")
    assert text.startswith("map.json")
    assert says in text


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert said("gone.json") == "gone.json cannot be read: No such file or directory"
    Path("folder.json").mkdir()
    assert said("folder.json") == "folder.json is a folder, not a file"
    os.mkfifo("pipe.json")
    assert said("pipe.json") == "pipe.json is a pipe or a device, not a regular file"
    Path("loop.json").symlink_to("loop.json")
    assert "loop.json cannot be read" in said("loop.json")
    with open("large.json", "wb") as stream:
        stream.truncate(FILE_LIMIT + 1)
    assert "more than the 16,777,216 that are read" in said("large.json")
    if os.geteuid():
        Path("closed.json").write_text("{}")
        Path("closed.json").chmod(0)
        assert "closed.json cannot be read: Permission denied" in said("closed.json")


def test_a_strategy_wins_over_a_file_of_that_name(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("auto").write_text(json.dumps(MAP))
    Path("cpu").write_text(json.dumps(MAP))
    assert read_map("auto", text=True)[0] == "auto"
    assert read_map("cpu", text=True)[0] == {"": "cpu"}
    assert read_map_file("auto") == MAP


def test_a_path_is_never_printed_raw(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = "a\x1b[31m\u202e.json"
    assert "cannot be read" in said(name)
    for raw in (b"{", b"[]", b'{"a": 0, "a": 1}', b"version https://git-lfs"):
        Path(name).write_bytes(raw)
        assert r"a\x1b[31m\u202e.json" in said(name)
    assert "no strategy" in said("a\x00b")


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["cpu", "cuda:1", "0"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(value=values)
def test_whatever_json_holds_is_a_map_or_one_sentence(tmp_path: Path, value: object) -> None:
    path = tmp_path / "map.json"
    path.write_text(json.dumps(value))
    try:
        found = read_map_file(str(path))
    except UsageError as error:
        text = str(error)
    else:
        assert found == value
        assert devices_of(found).keys() == found.keys()
        return
    assert text.isprintable()
    assert text.startswith(str(path))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(raw=st.binary(max_size=40))
def test_whatever_bytes_hold_is_a_map_or_one_sentence(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "map.json"
    path.write_bytes(raw)
    with pytest.raises(UsageError):
        raise UsageError(str(read_map_file(str(path))))
