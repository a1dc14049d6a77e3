"""The options of the gate before `device_map=`: what they mean, and that a slip ends at once, in one sentence."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from torch import nn

import tiecheck
from tiecheck.config.options import PLACING, Config
from tiecheck.engine.options import make_config
from tiecheck.errors import UsageError
from tiecheck.records.report import TargetReport

GIB = 2**30
MAP = {"model.embed_tokens": 0, "model.layers": "cuda:1", "model.norm": "cpu", "lm_head": 0}
AUTO = ("--device-map", "auto")


@pytest.fixture
def asked(tiecheck_cli, models: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """What the engine is asked for by some options; None where it was not reached, with what was said."""
    monkeypatch.chdir(tmp_path)

    def ask(*options: str) -> tuple[Config | None, str]:
        seen: list[Config] = []

        def run(_targets: object, config: Config) -> tuple[TargetReport, ...]:
            seen.append(config)
            return ()

        monkeypatch.setattr("tiecheck.cli.check.run", run)
        result = tiecheck_cli("check", str(models / "llama-healthy-tied"), *options)
        assert result.exit_code == 2, "nothing was checked, or the options are wrong"
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return (seen[0] if seen else None), result.stderr

    return ask


def placing(config: Config | None) -> dict[str, object]:
    """The fields of a placement that are not as they are by default."""
    assert config is not None
    return {f: getattr(config, f) for f in PLACING if getattr(config, f) != Config._field_defaults[f]}


@pytest.mark.parametrize(
    ("options", "fields"),
    [
        ((), {}),
        (AUTO, {"device_map": "auto", "device_map_from": "--device-map"}),
        (("--device-map", "0"), {"device_map": {"": 0}, "device_map_from": "--device-map"}),
        (("--device-map", "cuda:1"), {"device_map": {"": "cuda:1"}, "device_map_from": "--device-map"}),
        (("--device-map", "map.json"), {"device_map": MAP, "device_map_from": "map.json"}),
        (
            (*AUTO, "--max-memory", "0=10GiB", "--max-memory", "cpu=30GiB"),
            {"max_memory": {0: 10 * GIB, "cpu": 30 * GIB}, "device_map": "auto", "device_map_from": "--device-map"},
        ),
        (
            (*AUTO, "--dtype", "torch.bfloat16", "--no-split", "A", "--no-split", "B", "--hash-seeds", "8"),
            {
                "dtype": "bfloat16",
                "no_split": ("A", "B"),
                "hash_seeds": 8,
                "device_map": "auto",
                "device_map_from": "--device-map",
            },
        ),
        (
            (*AUTO, "--checkpoint", "map.json", "--dtype", "auto"),
            {"checkpoint": "map.json", "device_map": "auto", "device_map_from": "--device-map"},
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_the_options_mean(asked, options: tuple[str, ...], fields: dict) -> None:
    Path("map.json").write_text(json.dumps(MAP))
    config, _ = asked(*options)
    assert placing(config) == fields
    assert config.wants_live == bool(fields)
    if "max_memory" in fields:
        assert list(config.max_memory) == list(fields["max_memory"])


BAD = {
    "a misspelt strategy": (("--device-map", "autoo"), "--device-map: 'autoo' is no strategy", "did you mean 'auto'?"),
    "a file that is not here": (("--device-map", "gone.json"), "gone.json cannot be read: No such file"),
    "broken JSON": (("--device-map", "broken.json"), "broken.json is not valid JSON: ", "at line 2, column 6"),
    "a key twice": (("--device-map", "twice.json"), "twice.json holds the key 'lm_head' twice"),
    "a list": (("--device-map", "list.json"), "list.json must map modules to devices"),
    "an empty map": (("--device-map", "empty.json"), "empty.json is empty"),
    "a nested map": (("--device-map", "nested.json"), "nested.json, 'model': {"),
    "an unknown device in a file": (("--device-map", "device.json"), "device.json, 'lm_head': 'gpu0' is no device"),
    "an unknown device": (("--device-map", "gpu0"), "'gpu0' is no strategy, no device and no JSON file"),
    "a wrong number": (("--device-map", "cuda:x"), "'cuda:x' is no device"),
    "disk for all": (("--device-map", "disk"), "transformers 5.23 takes no 'disk' for the whole model"),
    "nothing": (("--device-map", ""), "'' is no strategy"),
    "no unit": ((*AUTO, "--max-memory", "0=10"), "--max-memory 0: '10' is no size; write a number and GiB"),
    "half a unit": ((*AUTO, "--max-memory", "0=10G"), "--max-memory 0: '10G' is no size; write a number and GiB"),
    "gigs": ((*AUTO, "--max-memory", "0=10 gigs"), "--max-memory 0: '10 gigs' is no size"),
    "negative": ((*AUTO, "--max-memory", "cpu=-1GiB"), "--max-memory cpu: '-1GiB' is negative"),
    "not a number": ((*AUTO, "--max-memory", "0=nanGiB"), "'nanGiB' is no size"),
    "endless": ((*AUTO, "--max-memory", "0=infGiB"), "'infGiB' is no size"),
    "empty size": ((*AUTO, "--max-memory", "0="), "'' is no size"),
    "a device of torch's": (
        (*AUTO, "--max-memory", "cuda:0=10GiB"),
        "'cuda:0' is no device that takes memory",
        "as 0=10GiB",
    ),
    "gpu0": ((*AUTO, "--max-memory", "gpu0=10GiB"), "'gpu0' is no device that takes memory"),
    "meta": ((*AUTO, "--max-memory", "meta=10GiB"), "'meta' is no device that takes memory"),
    "a negative device": ((*AUTO, "--max-memory", "-1=10GiB"), "'-1' is no device that takes memory"),
    "a device twice": ((*AUTO, "--max-memory", "0=1GB", "--max-memory", "0=2GB"), "0 is given memory twice"),
    "no device": ((*AUTO, "--max-memory", "10GiB"), "'10GiB' is not DEVICE=SIZE; write it as 0=10GiB or cpu=30GiB"),
    "with commas": ((*AUTO, "--max-memory", "0=1GB,cpu=2GB"), "give --max-memory once for each"),
    "memory without a map": (("--max-memory", "0=10GiB"), "--max-memory says how to place", "give --device-map too"),
    "a type without a map": (("--dtype", "bfloat16"), "give --device-map too"),
    "classes without a map": (("--no-split", "Block"), "give --device-map too"),
    "seeds without a map": (("--hash-seeds", "2"), "give --device-map too"),
    "a checkpoint without a map": (("--checkpoint", "."), "give --device-map too"),
    "an unknown type": ((*AUTO, "--dtype", "bf16"), "'bf16' is no element type", "did you mean 'bfloat16'?"),
    "a type of no weights": ((*AUTO, "--dtype", "complex64"), "'complex64' is no element type"),
    "a dotted class": ((*AUTO, "--no-split", "my.Block"), "'my.Block' is no name of a class; write Block"),
    "an empty class": ((*AUTO, "--no-split", ""), "'' is no name of a class; write it as LlamaDecoderLayer"),
    "negative seeds": ((*AUTO, "--hash-seeds", "-1"), "--hash-seeds must be a number of hash seeds from 0 to 256"),
    "a seed that is no number": ((*AUTO, "--hash-seeds", "x"), "'x' is not a valid integer"),
    "a million seeds": ((*AUTO, "--hash-seeds", "1000000"), "not 1000000"),
    "no checkpoint": ((*AUTO, "--checkpoint", "gone"), "--checkpoint: there is no 'gone'"),
    "control characters": (("--device-map", "a\x1b[31m\u202e"), r"'a\x1b[31m\u202e' is no strategy"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_slip_ends_at_once_and_in_one_sentence(asked, case: str) -> None:
    Path("broken.json").write_text('{"lm_head": 0,\n "a" 1}')
    Path("twice.json").write_text('{"lm_head": 0, "lm_head": 1}')
    Path("list.json").write_text('["cpu"]')
    Path("empty.json").write_text("{}")
    Path("nested.json").write_text('{"model": {"norm": 0}}')
    Path("device.json").write_text('{"lm_head": "gpu0"}')
    options, *says = BAD[case]
    config, printed = asked(*options)
    assert config is None, "nothing may be built"
    *usage, error = printed.strip().splitlines()
    assert error.startswith("Error: ")
    assert error.isprintable()
    assert all(line.startswith(("Usage: ", "Try ")) or not line for line in usage)
    assert "Traceback" not in printed
    for part in says:
        assert part in error


def test_a_slip_imports_no_torch(models: Path) -> None:
    program = (
        "import sys\n"
        f"sys.argv = ['tiecheck', {str(models / 'llama-healthy-tied')!r}, *'--device-map autoo'.split()]\n"
        "from tiecheck.__main__ import main\n"
        "try: main()\n"
        "except SystemExit as end: print(end.code, 'torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2", "False"]


def test_the_environment_gives_them_too(asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIECHECK_CHECK_DEVICE_MAP", "auto")
    monkeypatch.setenv("TIECHECK_CHECK_MAX_MEMORY", "0=1GiB cpu=2GiB")
    config, _ = asked()
    assert placing(config)["max_memory"] == {0: GIB, "cpu": 2 * GIB}


def test_the_file_gives_them_too_and_the_flags_go_before_it(asked) -> None:
    Path("tiecheck.toml").write_text('device-map = "auto"\nhash-seeds = 4\n[max-memory]\n0 = "1GiB"\n')
    config, _ = asked()
    assert placing(config) == {
        "device_map": "auto",
        "device_map_from": "tiecheck.toml",
        "max_memory": {0: GIB},
        "hash_seeds": 4,
    }
    config, _ = asked("--max-memory", "cpu=2GiB")
    assert (config.device_map, config.max_memory) == ("auto", {"cpu": 2 * GIB}), (
        "a list that is given replaces the file's"
    )
    config, _ = asked("--device-map", "balanced")
    assert (config.device_map, config.device_map_from, config.max_memory) == ("balanced", "--device-map", {0: GIB})
    config, _ = asked("--isolated")
    assert placing(config) == {}


def test_a_file_may_say_how_to_place_whenever_it_is_asked(asked) -> None:
    Path("tiecheck.toml").write_text('dtype = "bfloat16"\n[max-memory]\n0 = "1GiB"\n')
    config, _ = asked()
    assert not config.wants_live, "nobody asked for a placement"
    config, _ = asked(*AUTO)
    assert (config.dtype, config.max_memory) == ("bfloat16", {0: GIB})


def test_inspect_takes_none_of_them(tiecheck_cli, models: Path, tmp_path: Path, monkeypatch) -> None:
    path = str(models / "llama-healthy-tied")
    for name in PLACING[:-1]:
        result = tiecheck_cli("inspect", path, f"--{name.replace('_', '-')}", "1")
        assert (result.exit_code, "No such option" in result.stderr) == (2, True)
        with pytest.raises(TypeError, match="inspect judges no placement"):
            tiecheck.inspect(path, **{name: "auto"})
    (tmp_path / "tiecheck.toml").write_text('device-map = "auto"')
    monkeypatch.chdir(tmp_path)
    for report in (
        json.loads(tiecheck_cli("inspect", path, "-f", "json").stdout)["targets"][0],
        tiecheck.inspect(path, config="tiecheck.toml").targets[0]._asdict(),
    ):
        assert list(report["layers"]) == ["declared", "stored"], "a map of the file builds nothing"


def test_python_takes_them_as_the_libraries_do() -> None:
    import torch

    config = make_config("", device_map={"a": torch.device("cpu"), "b": 0}, max_memory={0: "1GiB", "cpu": 5})
    assert placing(config) == {
        "device_map": {"a": "cpu", "b": 0},
        "device_map_from": "device_map=",
        "max_memory": {0: GIB, "cpu": 5},
    }
    config = make_config("", device_map="auto", dtype=torch.float16, no_split="Block", hash_seeds=2)
    assert (config.dtype, config.no_split, config.hash_seeds) == ("float16", ("Block",), 2)
    assert make_config("", device_map="auto", no_split=[]).no_split == (), "none at all, in spite of the class"
    assert make_config("", device_map=None, max_memory=None).device_map is None


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"device_map": "autoo"}, "device_map=: 'autoo' is no strategy"),
        ({"device_map": "0"}, "device_map=: '0' is no strategy"),
        ({"device_map": {"a": "0"}}, "device_map=, 'a': '0' is no device; there are numbers of GPUs"),
        ({"device_map": {}}, "device_map= is empty"),
        ({"device_map": ["cpu"]}, "device_map=: ['cpu'] is no device"),
        ({"max_memory": {0: 5}}, "max_memory= says how to place a model, and nothing asks for it"),
        ({"device_map": "auto", "max_memory": {"0": 5}}, "'0' is no device that takes memory"),
        ({"device_map": "auto", "max_memory": "10GiB"}, "must give each device its memory"),
        ({"device_map": "auto", "max_memory": {0: "10 gigs"}}, "max_memory=, 0: '10 gigs' is no size"),
        ({"device_map": "auto", "dtype": 16}, "dtype=: 16 is no element type"),
        ({"device_map": "auto", "no_split": 5}, "no_split= must be names of classes"),
        ({"device_map": "auto", "no_split": [nn.Linear]}, "is no name of a class"),
        ({"device_map": "auto", "hash_seeds": True}, "hash_seeds= must be a number"),
        ({"device_map": "auto", "checkpoint": "gone"}, "checkpoint=: there is no 'gone'"),
        ({"device_map": "auto", "checkpoint": 5}, "checkpoint= must be the path of a checkpoint"),
    ],
    ids=str,
)
def test_a_slip_in_python_is_told(options: dict, says: str) -> None:
    with pytest.raises(UsageError) as raised:
        tiecheck.check(nn.Linear(1, 1), **options)
    assert says in str(raised.value)
