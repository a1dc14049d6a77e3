"""The configuration file: where it is looked for, what it may say, and what is said of a slip."""

from __future__ import annotations

import os
import pickle
import random
import subprocess
import sys
from pathlib import Path

import pytest
from torch import nn

import tiecheck
from tiecheck.config.file import KEYS
from tiecheck.config.options import Config
from tiecheck.engine.options import find_settings, read_settings
from tiecheck.errors import UsageError
from tiecheck.records.suppressions import Allowance

FULL = """
select = ["TIE1", "TIE301"]
ignore = ["TIE109"]
fail-on = "error"
strict = true
values = "never"
for = ["transformers==5", "vllm"]
offline = true
timeout = 2.5
device-map = "balanced"
dtype = "bfloat16"
no-split = ["Block"]
baseline = "base.json"
hash-seeds = 4

[max-memory]
0 = "10GiB"
cpu = 1000

[ties]
MyGPT = [["lm_head.weight", "wte.weight"], ["a.bias", "b.bias", "c.bias"]]
"my_pkg.model.Other" = [["x.weight", "y.weight"]]

[[allow]]
target = "models/*"
rule = "TIE101"
reason = "known"
"""
FIELDS = {
    "select": ("TIE1", "TIE301"),
    "ignore": ("TIE109",),
    "fail_on": "error",
    "strict": True,
    "values": "never",
    "judge_for": ("transformers==5", "vllm"),
    "offline": True,
    "timeout": 2.5,
    "device_map": "balanced",
    "dtype": "bfloat16",
    "no_split": ("Block",),
    "hash_seeds": 4,
    "baseline": "base.json",
    "allow": (Allowance("models/*", "TIE101", "known", (), "tiecheck.toml"),),
    "max_memory": {0: 10 * 2**30, "cpu": 1000},
    "ties": {
        "MyGPT": (("lm_head.weight", "wte.weight"), ("a.bias", "b.bias", "c.bias")),
        "my_pkg.model.Other": (("x.weight", "y.weight"),),
    },
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, with a folder in it."""
    (tmp_path / "deep" / "deeper").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def as_section(text: str) -> str:
    """The text of a tiecheck.toml as it stands in a pyproject.toml."""
    sections = text.replace("[ties]", "[tool.tiecheck.ties]").replace("[max-memory]", "[tool.tiecheck.max-memory]")
    sections = sections.replace("[[allow]]", "[[tool.tiecheck.allow]]")
    return "[tool.tiecheck]" + sections


def said(text: str, project: Path) -> str:
    """What is said of a tiecheck.toml with this text."""
    (project / "tiecheck.toml").write_text(text)
    with pytest.raises(UsageError) as raised:
        find_settings()
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_every_key_is_read_from_either_file(project: Path) -> None:
    assert {KEYS[key] for key in KEYS} == set(FIELDS)
    (project / "tiecheck.toml").write_text(FULL)
    settings = read_settings("tiecheck.toml")
    assert settings.fields == FIELDS | {"ties_from": "tiecheck.toml [ties]", "device_map_from": "tiecheck.toml"}
    assert list(settings.fields["max_memory"]) == [0, "cpu"]
    (project / "pyproject.toml").write_text('[project]\nname = "x"\n' + as_section(FULL))
    settings = read_settings("pyproject.toml")
    origins = {"ties_from": "pyproject.toml [tool.tiecheck.ties]", "device_map_from": "pyproject.toml [tool.tiecheck]"}
    allowed = {"allow": (FIELDS["allow"][0]._replace(place="pyproject.toml"),)}
    assert settings.fields == FIELDS | origins | allowed
    assert Config(**settings.fields).ties["MyGPT"][0] == ("lm_head.weight", "wte.weight")


def test_the_nearest_file_upwards_is_read(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "tiecheck.toml").write_text("strict = true")
    (project / "pyproject.toml").write_text("[tool.tiecheck]\nstrict = false")
    assert find_settings()[0].path == "tiecheck.toml", "in one folder the file of our own goes first"
    monkeypatch.chdir("deep/deeper")
    assert find_settings()[0].path == str(Path("../../tiecheck.toml"))
    (project / "deep" / "pyproject.toml").write_text('[tool.tiecheck]\nties.M = [["a", "b"]]')
    found, passed = find_settings()
    assert found.fields["ties_from"] == f"{Path('../pyproject.toml')} [tool.tiecheck.ties]"
    assert passed is None


@pytest.mark.parametrize(
    "text",
    [
        "[tool.tiecheck]\nstrict = true",
        '[ tool . "tiecheck" ]\nstrict = true',
        "['tool'.'tiecheck']\nstrict = true",
        "[tool]\ntiecheck = {strict = true}",
        "[tool]\ntiecheck.strict = true",
        "tool.tiecheck.strict = true",
        "tool = {tiecheck = {strict = true}}",
        '["tool"]\n[tool.tiecheck]\nstrict = true',
    ],
)
def test_a_section_is_found_however_it_is_written(project: Path, text: str) -> None:
    (project / "pyproject.toml").write_text(text)
    assert find_settings()[0].fields == {"strict": True}


@pytest.mark.parametrize(
    "text",
    ["[project]\ndependencies = ['tiecheck[live]>=0.1', 'tiecheck']\n", "[tool.ruff]\n# tiecheck\n", "[tool]\n"],
)
def test_a_pyproject_without_the_section_is_walked_past(project: Path, text: str, monkeypatch) -> None:
    (project / "deep" / "pyproject.toml").write_text(text)
    (project / "tiecheck.toml").write_text("strict = true")
    monkeypatch.chdir("deep")
    assert find_settings()[0].fields == {"strict": True}


@pytest.mark.parametrize("name", ["pyproject.toml", "tiecheck.toml"])
def test_a_folder_of_that_name_is_no_file(project: Path, name: str) -> None:
    (project / name).mkdir()
    assert find_settings() == (None, None)


def test_a_working_directory_that_is_gone_has_no_file(tmp_path: Path, monkeypatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert find_settings() == (None, None)


def test_no_file_is_parsed_that_is_not_ours(project: Path) -> None:
    (project / "pyproject.toml").write_text('[project]\nname = "x"\ndependencies = ["tiecheck>=0.1"]\nbroken')
    program = "import sys; from tiecheck.engine.options import find_settings as f; f(); print('tomllib' in sys.modules)"
    root = str(Path(tiecheck.__file__).parents[1])
    environment = {"PYTHONPATH": root}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=project, env=environment
    )
    assert done.stdout.strip() == "False"


def test_a_model_does_not_configure_its_checker(project: Path, make_model, monkeypatch) -> None:
    model = make_model()
    (model / "tiecheck.toml").write_text('ignore = ["TIE"]')
    (model / "model.bin").write_bytes(b"")
    for target in (".", str(model), "model.bin", f"file://{model}"):
        assert find_settings((target,)) == (None, "tiecheck.toml")
    assert find_settings(("my.module:Net", "org/name", "hf://org/name"))[0] is not None
    (model / "tiecheck.toml").write_text("broken")
    assert find_settings((".",)) == (None, "tiecheck.toml")
    (project / "deep" / "tiecheck.toml").write_text("strict = true")
    monkeypatch.chdir("deep")
    assert find_settings((str(model),)) == (None, "tiecheck.toml"), "what lies below the model is the model's"


@pytest.mark.parametrize("seed", range(4))
def test_no_file_within_a_model_is_obeyed_or_read_wherever_one_stands(tmp_path: Path, monkeypatch, seed: int) -> None:
    """Also where it is a pipe, a hole of terabytes or no TOML; the user's own, above the model, is."""
    draw = random.Random(seed)
    (tmp_path / "tiecheck.toml").write_text("strict = true")
    folder = tmp_path / "model"
    folder.mkdir()
    for depth in range(draw.randint(0, 4)):
        folder = folder / str(depth)
        folder.mkdir()
        for name in draw.sample(["tiecheck.toml", "pyproject.toml"], draw.randint(1, 2)):
            kind = draw.choice(("keys", "pipe", "hole", "broken"))
            if kind == "pipe":
                os.mkfifo(folder / name)
            else:
                (folder / name).write_text("[tool.tiecheck]\nignore = ['TIE']" if kind == "keys" else "[tool.tiecheck")
                os.truncate(folder / name, 1 << (40 if kind == "hole" else 5))
    monkeypatch.chdir(folder)
    parents = len(folder.relative_to(tmp_path).parts) - 1
    for target in (str(tmp_path / "model"), "/".join([".", *[".."] * parents]), f"file://{tmp_path}/model"):
        found, passed = find_settings((target,))
        assert found is not None
        assert found.fields == {"strict": True}
        assert passed is None or ".." not in passed or parents


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("selct = []", "tiecheck.toml: there is no key 'selct'; did you mean 'select'?"),
        ("fail_on = 'error'", "tiecheck.toml: there is no key 'fail_on'; did you mean 'fail-on'?"),
        ("live = true", "tiecheck.toml: there is no key 'live'; "),
        ("select = 'TIE1'", "select must be a list of strings, as [\"TIE101\"], not 'TIE1'"),
        ("ignore = [1]", "ignore must be a list of strings"),
        ("select = ['TIE999']", "tiecheck.toml: select: no rule's code begins with 'TIE999'"),
        ("for = ['vlm']", "tiecheck.toml: for: --for vlm: the matrix has "),
        ("for = 'vllm'", 'for must be a list of strings, as ["vllm"]'),
        ("strict = 'yes'", "strict must be true or false, not 'yes'"),
        ("offline = 1", "offline must be true or false, not 1"),
        ("baseline = 3", "baseline must be the path of a file, not 3"),
        ("allow = 3", "allow must be an array of tables"),
        ("[[allow]]\ntarget = 'a'\nrule = 'TIE101'", "allow, entry 1: reason must be a text, and not empty"),
        ("[[allow]]\ntaget = 'a'", "allow, entry 1: there is no key 'taget'; did you mean 'target'?"),
        ("timeout = true", "timeout must be a number of seconds, 0 for no end, not True"),
        ("timeout = -1", "timeout must be a number of seconds, 0 for no end, not -1"),
        ("timeout = nan", "timeout must be a number of seconds"),
        ("fail-on = 'eror'", "fail-on must be one of info, warning, error, not 'eror'; did you mean 'error'?"),
        ("values = 3", "values must be one of auto, never, always, not 3"),
        ("values = []", "values must be one of auto, never, always, not []"),
        ("strict", "tiecheck.toml is no valid TOML: "),
        ("a = " + "[" * 3000, "tiecheck.toml is no valid TOML: "),
        ("ties = []", "ties must give each class its groups of names, not []"),
        ("[ties]\nM = 'a'", "ties.M must be a list of groups"),
        ("[ties]\nM = ['a', 'b']", 'ties.M: a group is a list of names, as ["a.weight", "b.weight"], not \'a\''),
        ("[ties]\nM = [['a']]", "ties.M: a group has two or more different names, not ['a']"),
        ("[ties]\nM = [['a', 'a']]", "ties.M: a group has two or more different names"),
        ("[ties]\nM = [['a', 'b', 'a']]", "ties.M: a group has two or more different names"),
        ("[ties]\nM = [['a', '']]", "ties.M: a group holds names, not ''"),
        ("[ties]\nM = [['a', 1]]", "ties.M: a group holds names, not 1"),
        ("[ties]\nM = [['a', 'b'], ['b', 'c']]", "ties.M: 'b' is in two groups"),
        ("[ties]\n'*' = [['a', 'b']]", "ties: '*' is no class; a contract is one class's"),
        ("[ties]\n'My*' = [['a', 'b']]", "ties: 'My*' is no class"),
        ("[ties]\n'' = [['a', 'b']]", "ties: '' is no class; write its name or its dotted path"),
    ],
)
def test_a_slip_is_one_sentence_with_file_and_key(project: Path, text: str, says: str) -> None:
    assert says in said(text, project)
    assert said(text, project).startswith("tiecheck.toml")


def test_a_slip_in_a_pyproject_names_the_section(project: Path) -> None:
    (project / "pyproject.toml").write_text("[tool.tiecheck]\nselct = []")
    with pytest.raises(UsageError, match=r"^pyproject\.toml \[tool\.tiecheck\]: there is no key 'selct'"):
        find_settings()
    (project / "pyproject.toml").write_text("[tool]\ntiecheck = 3")
    with pytest.raises(UsageError, match=r"^pyproject\.toml: tool\.tiecheck must be a table, not 3"):
        find_settings()


def test_bytes_that_are_no_text(project: Path) -> None:
    (project / "tiecheck.toml").write_bytes(b"strict = true # \xff")
    with pytest.raises(UsageError, match=r"^tiecheck\.toml is no valid TOML"):
        find_settings()


def test_a_dotted_path_without_quotes_is_one_class(project: Path) -> None:
    (project / "tiecheck.toml").write_text('[ties]\nmy_pkg.model.MyGPT = [["a", "b"]]\nmy_pkg.Two = [["c", "d"]]')
    assert find_settings()[0].fields["ties"] == {
        "my_pkg.model.MyGPT": (("a", "b"),),
        "my_pkg.Two": (("c", "d"),),
    }


def test_a_named_file_must_be_there_and_have_something(project: Path) -> None:
    with pytest.raises(UsageError, match=r"^none\.toml cannot be read: No such file"):
        read_settings("none.toml")
    (project / "pyproject.toml").write_text("[tool.ruff]\n")
    with pytest.raises(UsageError, match=r"^pyproject\.toml has no \[tool\.tiecheck\]"):
        read_settings("pyproject.toml")
    (project / "other.toml").write_text("[tool.tiecheck]\nstrict = true")
    assert read_settings("other.toml").fields == {"strict": True}
    (project / "other.toml").write_text("strict = true")
    assert read_settings("other.toml").fields == {"strict": True}
    (project / "other.toml").write_text("")
    assert read_settings("other.toml").fields == {}


class Net(nn.Module):
    """Declares nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(2, 2)
        self.b = nn.Linear(2, 2)


def test_a_contract_is_looked_up_by_name_and_by_path() -> None:
    named = Config(ties={"Net": (("a", "b"),)})
    assert named.ties_of(Net) == (("a", "b"),)
    path = f"{Net.__module__}.Net"
    assert named._replace(ties=named.ties | {path: (("c", "d"),)}).ties_of(Net) == (("c", "d"),)
    assert Config(ties={"other.Net": (("a", "b"),)}).ties_of(Net) == ()
    assert pickle.loads(pickle.dumps(named)) == named


def test_a_contract_is_heard_by_what_fsdp_makes_of_a_class() -> None:
    from torch.distributed.fsdp import FSDPModule

    net = Net()
    net.__class__ = type("FSDPNet", (FSDPModule, Net), {})
    for ties in ({"Net": [["a.weight", "b.weight"]]}, [["a.weight", "b.weight"]]):
        (finding,) = tiecheck.check(net, ties=ties, select="TIE301").findings
        assert finding.names == ("a.weight", "b.weight")


@pytest.fixture
def configs(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """The records that the Python door hands to the engine."""
    from tiecheck.engine import options

    seen: list[Config] = []
    real = options.run
    monkeypatch.setattr(options, "run", lambda targets, config: seen.append(config) or real(targets, config))
    return seen


def test_the_python_door_takes_a_contract(configs: list[Config]) -> None:
    tiecheck.check(Net(), ties=[["a.weight", "b.weight"]])
    tiecheck.check(Net(), ties={"Net": [("a.weight", "b.weight")]})
    assert [config.ties_of(Net) for config in configs] == [(("a.weight", "b.weight"),)] * 2
    assert {config.ties_from for config in configs} == {"the contract given as ties="}
    with pytest.raises(UsageError, match=r"ties: a group has two or more different names"):
        tiecheck.check(Net(), ties=[["a.weight"]])
    with pytest.raises(UsageError, match=r"for a path ties= names the class"):
        tiecheck.check("somewhere", ties=[["a", "b"]])


def test_the_python_door_reads_a_file_only_when_told(project: Path, models: Path, configs: list[Config]) -> None:
    (project / "tiecheck.toml").write_text(FULL)
    (project / "base.json").write_text('{"schema": "tiecheck-baseline/1", "findings": []}')
    target = models / "llama-flag-lost"
    assert tiecheck.check(target).targets[0].status == "fail"
    tiecheck.check(target, config="tiecheck.toml", values="auto", ties={"M": [["p", "q"]]})
    assert configs[0] == Config()
    expected = FIELDS | {"values": "auto", "ties": {"M": (("p", "q"),)}, "ties_from": "the contract given as ties="}
    assert configs[1] == Config(**expected, device_map_from="tiecheck.toml")
    with pytest.raises(UsageError, match="cannot be read"):
        tiecheck.check(target, config=project / "none.toml")


def test_a_map_of_the_file_is_a_table_or_a_path_from_its_folder(project: Path, monkeypatch) -> None:
    (project / "maps").mkdir()
    (project / "maps" / "split.json").write_text('{"model": 0, "lm_head": "cpu"}')
    (project / "tiecheck.toml").write_text('device-map = "maps/split.json"')
    monkeypatch.chdir("deep/deeper")
    fields = find_settings()[0].fields
    assert fields["device_map"] == {"model": 0, "lm_head": "cpu"}
    assert fields["device_map_from"] == str(Path("../../maps/split.json"))
    (project / "tiecheck.toml").write_text('[device-map]\nmodel = 0\nlm_head = "cpu"\n"model.norm" = "disk"')
    fields = find_settings()[0].fields
    assert fields["device_map"] == {"model": 0, "lm_head": "cpu", "model.norm": "disk"}
    assert fields["device_map_from"] == str(Path("../../tiecheck.toml"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('device-map = "autoo"', "tiecheck.toml: device-map: 'autoo' is no strategy"),
        ("device-map = ['cpu']", "tiecheck.toml: device-map: ['cpu'] is no device"),
        ("device-map = true", "device-map: True is no device"),
        ("[device-map]\nmodel.norm = 0", "device-map, 'model': {'norm': 0} is no device"),
        ('[device-map]\nlm_head = "gpu0"', "device-map, 'lm_head': 'gpu0' is no device"),
        ('max-memory = "10GiB"', "max-memory must give each device its memory"),
        ("[max-memory]", "max-memory gives no device any memory"),
        ('[max-memory]\n0 = "10G"', "max-memory 0: '10G' is no size"),
        (
            '[max-memory]\n"cuda:0" = "10GiB"',
            "max-memory: 'cuda:0' is no device that takes memory; there are a GPU's number, mps, cpu and disk",
        ),
        ("[max-memory]\n0 = nan", "max-memory 0: nan is no size"),
        ("dtype = 16", "dtype: 16 is no element type"),
        ("no-split = 5", "no-split must be names of classes"),
        ("hash-seeds = -1", "hash-seeds must be a number of hash seeds from 0 to 256, not -1"),
        ('checkpoint = "."', "there is no key 'checkpoint'"),
    ],
)
def test_a_placement_with_something_wrong_in_it_is_told(project: Path, text: str, says: str) -> None:
    assert says in said(text, project)
