"""The words of a placement: memory and devices mean what accelerate and torch take them for, or are refused."""

from __future__ import annotations

import warnings

import pytest
import torch
from accelerate.utils import get_max_memory
from accelerate.utils.modeling import convert_file_size_to_int
from hypothesis import given
from hypothesis import strategies as st

from tiecheck.errors import UsageError
from tiecheck.placement.asked.memory import (
    LAST,
    NUMBERED,
    SINGLE,
    UNITS,
    devices_of,
    normal_device,
    parse_memories,
    parse_memory,
)

SIZES = [
    *("10GiB", "10gib", "10GIb", "10giB", "1.5GiB", "10 GiB", " 10GiB", "10GB", "10Gb", "10gb", "10gB", "10MB", "3Mb"),
    *("1KB", "9Kb", "1e3MiB", "1_000MB", "0GiB", "-0GiB", "0.5KB", "+5GB", "1e-3KB", "-1e-12GiB", "٣GiB", "1e308KB"),
    *("10G", "10 gigs", "-1GB", "-0.5KB", "nan", "nanGiB", "infGiB", "inf", "1e400GiB", "", " ", "10", "10GiB ", "10B"),
    *("10TB", "10TiB", "GiB", "0x10GB", "1,5GiB", "ten GiB", "10GiBGiB", "--1GiB", "1__0GB", "\x00GiB", "10\nGiB"),
    *(0, 1, 7, 10**15, -1),
]


def theirs(size: object) -> int | None:
    """What accelerate makes of a size; None where it raises."""
    try:
        return convert_file_size_to_int(size)
    except (ValueError, OverflowError):
        return None


def ours(size: object) -> int | None:
    """What we make of it; None where we refuse it, in one sentence that says what to write."""
    try:
        return parse_memory(size)
    except UsageError as error:
        said = str(error)
    assert said.startswith("max_memory: ")
    assert "\n" not in said
    assert "; " in said
    return None


@pytest.mark.parametrize("size", SIZES, ids=repr)
def test_a_size_is_what_accelerate_takes_it_for(size: object) -> None:
    assert ours(size) == theirs(size)


numbers = st.one_of(
    st.integers(-5, 10**6).map(str), st.floats(width=32).map(str), st.text("0123456789.eE+-_ ", max_size=6)
)
units = st.sampled_from(
    [*UNITS, *(unit.upper() for unit in UNITS), "Gb", "mB", "GiB", "KIB", "G", "B", "TB", "", " GB"]
)


@given(number=numbers, unit=units)
def test_any_size_is_what_accelerate_takes_it_for(number: str, unit: str) -> None:
    assert ours(number + unit) == theirs(number + unit)


@pytest.mark.parametrize(
    ("size", "says"),
    [
        ("10G", "'10G' is no size; write a number and GiB"),
        ("10 gigs", "write a number and GiB, MiB, KiB, GB, MB or KB, as 10GiB, or bytes"),
        ("10", "'10' is no size"),
        ("2TB", "'2TB' is no size"),
        ("", "'' is no size; write a number and GiB"),
        ("nan", "write a number and GiB"),
        ("infGiB", "'infGiB' is no size"),
        ("-1GB", "'-1GB' is negative"),
        (-1, "-1 is negative"),
        (True, "True is no size"),
        (None, "None is no size"),
        (b"10GiB", "b'10GiB' is no size"),
        (float("nan"), "nan is no size"),
        (float("inf"), "inf is no size"),
        ("1\x1b[31m", r"'1\x1b[31m' is no size"),
        ("9" * 500, "..."),
    ],
)
def test_a_size_that_is_none_is_told_with_what_to_write(size: object, says: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse_memory(size, "max_memory")
    assert says in str(raised.value)
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 200


def test_numbers_of_any_kind_are_bytes() -> None:
    assert [parse_memory(size) for size in (3, 3.0, torch.tensor(3).numpy()[()], 1.5e9)] == [3, 3, 3, 1_500_000_000]


@pytest.mark.parametrize(
    "memory",
    [
        {0: "1GiB", "cpu": 10},
        {"cpu": "30GiB", 1: "10GB", 0: 5},
        {"disk": 10, "mps": "1KB"},
        {0: 0},
        {0: 1e9},
        {"0": 10},
        {"cuda:0": 10},
        {"gpu0": 1},
        {"meta": 10},
        {"xpu": 10},
        {"CPU": 5},
        {0.5: 5},
        {torch.device("cpu"): 5},
    ],
    ids=repr,
)
def test_devices_of_a_memory_are_those_that_accelerate_takes(memory: dict) -> None:
    try:
        real = get_max_memory(dict(memory))
    except ValueError:
        with pytest.raises(UsageError, match="no device that takes memory"):
            parse_memories(memory, "max_memory=")
    else:
        assert parse_memories(memory, "max_memory=") == real
        assert list(parse_memories(memory, "max_memory=")) == list(memory), "in the order given"


def test_a_memory_is_read_from_texts() -> None:
    assert parse_memories(("cpu=30GiB", "0=10GiB", "12=1KB")) == {"cpu": 30 * 2**30, 0: 10 * 2**30, 12: 1000}
    assert list(parse_memories(("cpu=30GiB", "0=10GiB"))) == ["cpu", 0]


@pytest.mark.parametrize(
    ("given_", "says"),
    [
        (
            ("cuda:0=10GiB",),
            "'cuda:0' is no device that takes memory; there are a GPU's number, mps, cpu and disk, as 0=10GiB",
        ),
        (("CPU=2GiB",), "'CPU' is no device that takes memory"),
        (("-1=10GiB",), "'-1' is no device that takes memory"),
        (("meta=10GiB",), "'meta' is no device that takes memory; there are a GPU's number, mps, cpu and disk"),
        (("1000=10GiB",), "1000 is no device that takes memory"),
        (("=10GiB",), "'' is no device that takes memory"),
        (("10GiB",), "'10GiB' is not DEVICE=SIZE; write it as 0=10GiB"),
        (("0=10GiB,cpu=1GiB",), "names several devices; give --max-memory once for each"),
        (("0=",), "--max-memory 0: '' is no size"),
        (("0=10G",), "--max-memory 0: '10G' is no size"),
        (("0=1GiB", "0=1GiB"), "0 is given memory twice"),
        ((), "gives no device any memory"),
        ((7,), "7 is not DEVICE=SIZE"),
        ({}, "gives no device any memory"),
        ("0=10GiB", "must give each device its memory"),
        (5, "must give each device its memory"),
        ({True: 5}, "True is no device"),
        ({-1: 5}, "-1 is no device"),
        ({"cuda:1": "5GiB"}, "'cuda:1' is no device that takes memory"),
        ({(0,): 5}, "is no device that takes memory"),
    ],
    ids=repr,
)
def test_a_memory_that_is_none_is_told(given_: object, says: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse_memories(given_)
    assert says in str(raised.value)
    assert str(raised.value).isprintable()


@pytest.mark.parametrize(
    ("device", "word"),
    [
        (0, "cuda:0"),
        (7, "cuda:7"),
        ("cuda", "cuda:0"),
        ("cuda:1", "cuda:1"),
        ("cpu", "cpu"),
        ("cpu:0", "cpu"),
        ("disk", "disk"),
        ("meta", "meta"),
        ("meta:0", "meta"),
        ("mps", "mps"),
        ("mps:0", "mps"),
        ("xpu:1", "xpu:1"),
        ("npu:0", "npu:0"),
        ("npu", "npu:0"),
        ("hpu", "hpu"),
        ("hpu:0", "hpu"),
        (torch.device("cuda", 1), "cuda:1"),
        (torch.device("cuda"), "cuda:0"),
        (torch.device("cpu"), "cpu"),
    ],
    ids=repr,
)
def test_a_device_has_one_word(device: object, word: str) -> None:
    assert normal_device(device) == word
    assert normal_device(word) == word


@pytest.mark.parametrize(
    "device",
    [
        *("0", "1", "", "CPU", "Cuda:0", "gpu0", "gpu", "cuda:", "cuda:01", "cuda:-1", "cuda: 1", "cuda:x", "cpu:x"),
        *(" cpu", "disk:0", "tpu", "auto", "foo\x1b", "cuda:128", "cuda:1000", b"cpu"),
        *(-1, LAST + 1, True, None, 1.0, [0], ("cuda", 0)),
    ],
    ids=repr,
)
def test_a_word_that_is_no_device_is_refused_as_by_torch(device: object) -> None:
    with pytest.raises(UsageError) as raised:
        normal_device(device, "map.json, 'lm_head'")
    assert str(raised.value).startswith("map.json, 'lm_head': ")
    assert "; " in str(raised.value), "it says what there is"
    assert str(raised.value).isprintable()
    if isinstance(device, str):
        try:
            made = str(torch.device(device))
        except RuntimeError:
            return
        assert made != device, "torch 2.13 makes cuda:-24 of cuda:1000"


def test_every_kind_that_torch_parses_is_known() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.device("no_such_kind")
    known = set(str(raised.value).partition("Expected one of ")[2].partition(" device type")[0].split(", "))
    unused = {"mkldnn", "opengl", "opencl", "ideep", "lazy", "vulkan"}  # no place for a model's weights
    assert known - unused == {*NUMBERED, *SINGLE} - {"npu", "mlu", "sdaa", "musa"}


def test_a_number_is_the_accelerator_that_the_map_names() -> None:
    assert devices_of({"a": 0, "b": "cuda:0", "c": "cpu"}) == {"a": "cuda:0", "b": "cuda:0", "c": "cpu"}
    assert devices_of({"a": 0, "b": "xpu:1", "c": "disk"}) == {"a": "xpu:0", "b": "xpu:1", "c": "disk"}
    assert devices_of({"a": 0, "b": "xpu:1", "c": "cuda"}) == {"a": "cuda:0", "b": "xpu:1", "c": "cuda:0"}
    with pytest.raises(UsageError, match="device_map, 'b': 'gpu' is no device"):
        devices_of({"a": 0, "b": "gpu"})


def test_no_warning_is_given() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parse_memories({0: "1GiB"})
