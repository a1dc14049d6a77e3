"""Sources as they are on disks: encodings, notebooks, what cannot be parsed, and what is left alone."""

from __future__ import annotations

import json
import os
import random
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import tiecheck
from tiecheck.cli.main import cli
from tiecheck.errors import TargetError
from tiecheck.source.reading import cell_code, parse_source, read_source, source_paths

TIED = """
from torch import nn

class Model(nn.Module):
    def __init__(self, v, d):
        super().__init__()
        self.wte = nn.Embedding(v, d)
        self.head = nn.Linear(d, v, bias=False)
        self.head.weight.data = self.wte.weight.data
"""


def codes(path: Path) -> list[str]:
    (target,) = tiecheck.check(str(path)).targets
    return [finding.code for finding in target.findings if finding.suppressed is None]


@pytest.mark.parametrize(
    ("encoding", "declared"),
    [("utf-8", ""), ("utf-8-sig", ""), ("latin-1", "# -*- coding: latin-1 -*-\n"), ("cp1252", "# coding: cp1252\n")],
)
def test_a_file_is_decoded_as_it_declares(tmp_path: Path, encoding: str, declared: str) -> None:
    path = tmp_path / "model.py"
    path.write_bytes(f'{declared}NAME = "é"\n{TIED}'.encode(encoding))
    assert codes(path) == ["TIE802"]


def test_a_notebook_is_read_by_its_code_cells(tmp_path: Path) -> None:
    cells = [
        {"cell_type": "markdown", "source": ["# `self.head.weight.data = self.wte.weight.data`"]},
        {"cell_type": "code", "source": ["%matplotlib inline\n", "!pip install torch\n", "x = 1\n"]},
        {"cell_type": "code", "source": TIED.splitlines(keepends=True)},
    ]
    path = tmp_path / "model.ipynb"
    path.write_text(json.dumps({"cells": cells}))
    assert codes(path) == ["TIE802"]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("old.py", b"print 'tied_weights'\n"),
        ("nul.py", b"x = 1 # tied_weights\0\n"),
        ("code.py", b"# coding: nonsense\n# tied_weights\n"),
        ("undefined.py", b"# coding: undefined\n# tied_weights\n"),
        ("punycode.py", b"# coding: punycode\n# tied_weights\n"),
        ("long.py", b"# a tied_weights\n" * 200_000),
        ("many.py", TIED.encode() + b"        self.head.weight = self.wte.weight\n" * 1_001),
        ("utf.py", b"x = '\xff' # tied_weights\n"),
        ("deep.py", b"tied_weights = " + b"(" * 5_000 + b")" * 5_000),
        ("minus.py", b"tied_weights = " + b"-" * 200_000 + b"1"),
        ("book.ipynb", b'{"cells": "tied_weights"}'),
        ("book2.ipynb", b"[" * 100_000 + b"tied_weights"),
        ("large.py", b"# tied_weights\n" * 1_000_000),
    ],
)
def test_what_cannot_be_parsed_is_one_error_and_the_rest_goes_on(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    (tmp_path / "model.py").write_text(TIED)
    result = CliRunner().invoke(cli, [str(tmp_path), "-f", "json"])
    (target,) = json.loads(result.stdout)["targets"]
    assert result.exit_code == 2
    assert [finding["code"] for finding in target["findings"]] == ["TIE802"]
    (error,) = target["errors"]
    assert error["message"].startswith(name)
    assert "\n" not in error["message"]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("bad.py", b"def f(:\n"),
        ("latin.py", b"x = '\xe9'\n"),
        ("nul.py", b"x = 1\0\n"),
        ("book.ipynb", b"{}"),
        ("big.py", b"x = 1\n" * 700_000),
    ],
)
def test_a_file_that_was_named_is_read_whatever_it_holds(tmp_path: Path, name: str, data: bytes) -> None:
    """In a folder one that has nothing to do with ties is searched alone."""
    path = tmp_path / name
    path.write_bytes(data)
    for command in ((), ("inspect",), ("fix",), ("baseline",), ("compare", str(path))):
        result = CliRunner().invoke(cli, [*command, str(path)])
        said = (result.stdout + result.stderr).strip().replace("\n", " ")
        assert (result.exit_code, f"{name} " in said, "Traceback" in said) == (2, True, False), said
    assert CliRunner().invoke(cli, [str(tmp_path)]).exit_code == 0


def test_the_ties_that_a_source_makes_are_told(tmp_path: Path) -> None:
    path = tmp_path / "model.py"
    path.write_text(TIED.replace("self.head.weight.data = self.wte.weight.data", "self.wte.weight = self.head.weight"))
    (target,) = tiecheck.check(str(path)).targets
    assert [(tie.names, tie.declared_by) for tie in target.ties] == [
        (("Model.head.weight", "Model.wte.weight"), (f"model.py:{TIED.count(chr(10))}",))
    ]
    shown = CliRunner().invoke(cli, [str(path)]).stdout
    assert "no tie is broken in it: Model.head.weight = Model.wte.weight" in " ".join(shown.split())
    assert "Model.head.weight = Model.wte.weight" in CliRunner().invoke(cli, ["inspect", str(path)]).stdout
    keys = '{"a.weight": "b.weight", "c.weight": "b.weight", "(d|e)": "b"}'
    path.write_text(f"class Model(PreTrainedModel):\n    _tied_weights_keys = {keys}\n")
    shown = CliRunner().invoke(cli, [str(path)]).stdout
    assert "no tie is broken in it: Model.a.weight = Model.b.weight and 1 more" in " ".join(shown.split())


def test_links_and_special_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(TIED)
    (tmp_path / "again").symlink_to(tmp_path, target_is_directory=True)
    os.mkfifo(tmp_path / "pipe.py")
    (target,) = tiecheck.check(str(tmp_path)).targets
    assert [finding.code for finding in target.findings] == ["TIE802"]
    assert [error.message for error in target.errors] == ["pipe.py is no plain file"]


def test_nothing_is_imported_or_run(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(f"{TIED}\nimport side_effect\nraise SystemExit\n")
    (tmp_path / "side_effect.py").write_text("open('ran', 'w')  # tied_weights\n")
    assert codes(tmp_path) == ["TIE802"]
    assert "side_effect" not in sys.modules
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("comment", "left"),
    [
        ("# tiecheck: ignore[TIE802] on purpose", []),
        ("# tiecheck: ignore", []),
        ("# tiecheck: ignore[TIE801]", ["TIE802", "TIE901"]),
    ],
)
def test_a_comment_takes_a_finding_back(tmp_path: Path, comment: str, left: list[str]) -> None:
    path = tmp_path / "model.py"
    path.write_text(f"{TIED.rstrip()}  {comment}\n")
    assert codes(path) == left
    result = CliRunner().invoke(cli, [str(path)])
    assert result.exit_code == bool(left)


def test_a_comment_takes_a_whole_file_back(tmp_path: Path) -> None:
    path = tmp_path / "model.py"
    path.write_text(f"# tiecheck: ignore-file[TIE8]\n{TIED}")
    assert codes(path) == []


def test_the_code_of_a_models_directory_is_a_note(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["Model"], "auto_map": {"AutoModel": "model.Model"}}')
    (tmp_path / "model.py").write_text(TIED)
    (target,) = tiecheck.check(str(tmp_path)).targets
    assert [(f.code, f.severity) for f in target.findings if f.code[3] == "8"] == [("TIE802", "info")]


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_edit_of_a_source_is_read_or_refused(data: st.DataObject) -> None:
    text = TIED
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(start, min(len(text), start + 30)))
        new = data.draw(
            st.sampled_from(["", "self", ".weight", "(", "]", "lambda: ", "*[", "\n", " if x else ", "\0", "é"])
        )
        text = text[:start] + new + text[end:]
    try:
        file = parse_source(text.encode(), "model.py")
    except TargetError as error:
        assert str(error).startswith("model.py")  # noqa: PT017
    else:
        assert file is None or all(owner.line >= 1 for owner in file.classes)


def test_every_source_of_the_tests_and_of_torch_is_read() -> None:
    import torch

    paths = [*source_paths(str(Path(__file__).parents[1])), *source_paths(os.path.join(torch.__path__[0], "nn"))]
    assert len(paths) > 300
    for path in paths:
        read_source(path, path)


def test_a_look_at_the_code_is_no_look_at_the_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.py").write_text(TIED)
    (target,) = tiecheck.check(str(tmp_path)).targets
    assert target.status == "unknown"
    assert target.rules_run == ()


LISTED = """
from transformers import PreTrainedModel

class Model(PreTrainedModel):
    {above}
    _tied_weights_keys = ["lm_head.weight"]{beside}
"""


@pytest.mark.parametrize(
    ("above", "beside", "left"),
    [
        ("# trf-ignore: TRF048", "", []),
        ("", "  # trf-ignore: TRF048 (4.x only)", []),
        ("x = 1  # trf-ignore: TRF048", "", ["TIE803"]),
        ("# trf-ignore: TRF004", "", ["TIE803"]),
        ("", "", ["TIE803"]),
    ],
)
def test_the_other_linters_comment_counts_where_the_rule_is_the_same(
    tmp_path: Path, above: str, beside: str, left: list[str]
) -> None:
    (tmp_path / "model.py").write_text(LISTED.format(above=above, beside=beside))
    assert codes(tmp_path / "model.py") == left


HOSTILE = {
    "wide.py": b"torch = [" + b"f(self.a.weight)," * 100_000 + b"]\n",
    "long.py": b"# tied_weights\nx = '" + b"a" * 3_500_000 + b"'\n",
    "classes.py": b"# tied_weights\n" + b"class A(A):\n    w = 1\n" * 20_000,
    "nested.py": b"# tied_weights\n" + b"".join(b" " * i + b"if x:\n" for i in range(90)) + b" " * 90 + b"pass\n",
    "chain.py": b"torch = self" + b".weight" * 900 + b"\n",
    "calls.py": b"import copy\nclass A(nn.Module):\n    def __init__(self):\n"
    + b"".join(b"        self.m%d = self.m%d\n" % (i + 1, i) for i in range(20_000))
    + b"        self.tie()\n",
    "mutual.py": b"".join(
        b"class %s(%s):\n    def __init__(self):\n        super().__init__()\n        self.x = %s()\n"
        % (one, other, other)
        for one, other in ((b"A", b"B"), (b"B", b"A"))
    )
    + b"# Embedding(\n",
    "fan.py": b"# Embedding(\n"
    + b"".join(
        b"class C%d(nn.Module):\n    def __init__(self):\n        nn.Embedding(1, 1)\n" % i
        + b"".join(b"        self.x%d = C%d()\n" % (j, i + 1) for j in range(60))
        for i in range(30)
    ),
    "circle.py": b"# Embedding(\nclass A(nn.Module):\n"
    + b"".join(
        b"    def m%d(self):\n        self.head.weight = self.wte.weight\n" % i
        + b"".join(b"        self.m%d()\n" % j for j in range(25))
        for i in range(25)
    ),
    "names.py": b"# Embedding(\nclass A(nn.Module):\n    def __init__(self):\n"
    + b"".join(
        b"        n%d = f(%s)\n" % (i, b", ".join(b"n%d" % (j % 40) for j in range(i, i + 6))) for i in range(40)
    )
    + b"        self.head = f(n0)\n" * 40,
    "utf16.py": "# tied_weights\nx = 1\n".encode("utf-16"),
    "ten.py": b"# tied_weights\n" * 1_700_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_bounded(tmp_path: Path, name: str) -> None:
    import resource
    import time

    (tmp_path / name).write_bytes(HOSTILE[name])
    began, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (target,) = tiecheck.check(str(tmp_path)).targets
    assert all("\n" not in error.message for error in target.errors)
    assert time.process_time() - began < 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_500_000, "KiB"
    assert target.errors or name != "ten.py"


def test_a_long_method_of_plain_attributes_is_judged(tmp_path: Path) -> None:
    more = "".join(f"        self.x{i} = given({i})\n" for i in range(3000))
    (tmp_path / "long.py").write_text(f"{TIED}\n{more}")
    (target,) = tiecheck.check(str(tmp_path)).targets
    assert (target.errors, [finding.code for finding in target.findings]) == ((), ["TIE802"])


def test_loops_of_links_end(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "loop.py").symlink_to(tmp_path / "loop.py")
    (tmp_path / "a" / "model.py").write_text(TIED)
    (target,) = tiecheck.check(str(tmp_path)).targets
    assert [finding.code for finding in target.findings] == ["TIE802"]
    assert len(target.errors) == 1
    assert target.errors[0].message.startswith("loop.py")


def test_lines_of_a_cell_are_looked_at_once() -> None:
    """White space before a magic does not reach over lines, which took the square of their number."""
    begin = time.process_time()
    assert cell_code("\n" * 300_000 + "  %time x\n").endswith("\n  pass  # %time x\n")
    assert time.process_time() - begin < 2


def test_a_package_without_ties_costs_the_filter_and_nothing_is_parsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(60):
        (tmp_path / f"part_{number}.py").write_text("def area(width, height):\n    return width * height\n" * 200)
    parsed = []
    monkeypatch.setattr("tiecheck.source.reading.read_tree", lambda *given: parsed.append(given))
    (target,) = tiecheck.check(str(tmp_path)).targets
    assert (target.findings, target.errors, parsed) == ((), (), [])


def test_what_has_nothing_to_do_with_ties_is_searched_and_not_parsed(tmp_path: Path) -> None:
    """Neither its syntax nor its size is told; words of ties alone are not enough, where nothing builds a module."""
    draw = random.Random(5)
    words = (
        "properties",
        "storage_tier",
        "entities",
        "deepcopy(self.rules)",
        "[row(x)] * 3",
        "tie",
        "untie(",
        "x * [f(y)]",
    )
    for number in range(20):
        (tmp_path / f"m{number}.py").write_text(" ".join(draw.choices(words, k=9)) + " = (\n")
    (tmp_path / "data.py").write_text("POLICIES = '''" + "x" * 5_000_000)
    (target,) = tiecheck.check(tmp_path).targets
    assert (target.status, target.errors) == ("pass", ())
    (tmp_path / "told.py").write_text("import torch\n[Row(x)] * 3 = (\n")
    assert [error.message.partition(" ")[0] for error in tiecheck.check(tmp_path).errors] == ["told.py"]
