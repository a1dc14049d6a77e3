"""`tiecheck fix` on sources: the fixed class is really built, its ties are those meant, and a second run is silent."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from source_subjects import SUBJECTS, theirs

import tiecheck
from tiecheck.cli.main import cli


def fix(*words: object, code: int = 0) -> str:
    result = CliRunner().invoke(cli, ["fix", *map(str, words), "--isolated"])
    assert result.exit_code == code, result.output
    return re.sub(r"\n  (?=\S)", " ", result.output)  # as it was before it was wrapped


def codes(path: Path) -> tuple[str, ...]:
    return tuple(finding.code for finding in tiecheck.check(path).findings)


@pytest.mark.parametrize("name", SUBJECTS)
def test_the_fixed_class_builds_with_the_tie_that_was_meant(name: str, tmp_path: Path) -> None:
    subject = SUBJECTS[name]
    path = tmp_path / "model.py"
    path.write_text(subject.text)
    assert codes(path) == subject.codes
    assert not subject.is_right(subject.text)
    shown = fix(path, *subject.options, code=1)
    assert path.read_text() == subject.text, "nothing is written without --apply"
    assert "--- a/model.py" in shown
    fix(path, *subject.options, "--apply")
    fixed = path.read_text()
    assert codes(path) == ()
    assert subject.is_right(fixed)
    kept = {line.partition("#")[2] for line in subject.text.splitlines()}
    assert kept == {line.partition("#")[2] for line in fixed.splitlines()}, "comments stay"
    if "removed" not in subject.options:
        assert not re.search(r"^ +pass$", fixed, re.MULTILINE), "a new statement takes its place"
    assert fix(path, *subject.options, "--apply").endswith("nothing to fix\n")
    assert path.read_text() == fixed
    assert os.listdir(tmp_path) == ["model.py"]


def test_lines_that_are_not_fixed_stay_to_the_byte(tmp_path: Path) -> None:
    text = SUBJECTS["data"].text.replace("\n", "\r\n") + "x = ( 1,2 , )\r\n\r\n\r\n# é\t \r\n"
    path = tmp_path / "model.py"
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    path.chmod(0o640)
    fix(path, "--apply")
    old, new = (b"self.head.weight.data = self.wte.weight.data", b"self.head.weight = self.wte.weight")
    assert path.read_bytes() == b"\xef\xbb\xbf" + text.encode().replace(old, new)
    assert path.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    ("held", "made"),
    [
        ("[nn.Linear(8, 8)] * n", 3),
        ("n * [nn.Linear(8, 8)]", 3),
        ("(  # three\n        [nn.Linear(\n            8, 8,  # square\n        )] * n)", 3),
    ],
)
def test_one_module_many_times_becomes_many_where_the_user_lets_it(held: str, made: int, tmp_path: Path) -> None:
    path = tmp_path / "model.py"
    path.write_text(f"from torch import nn\n\ndef build(n):\n    return nn.ModuleList({held})  # layers\n")
    before = path.read_text()
    assert "changes the model; --unsafe allows that" in fix(path, code=1)
    fix(path, "--unsafe", "--apply")
    space: dict[str, Any] = {}
    exec(path.read_text(), space)
    assert len({id(layer) for layer in space["build"](made)}) == made
    assert before.count("#") == path.read_text().count("#")
    assert fix(path, "--unsafe") == "nothing to fix\n"


OLMO = """
class Wrapper(nn.Module):
    def tie_weights(self):
        if self.config.weight_tying:
            self.model.transformer.ff_out = self.model.transformer.wte
"""


def test_what_only_the_user_knows_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "olmo.py"
    path.write_text(OLMO)
    told = fix(path, code=1)
    assert "TIE801 module-alias-assignment (olmo.py:5): left, the decision is yours: --choose weight: If " in told
    fix(path, "--choose", "removed", "--apply")  # what the maintainers did
    assert path.read_text() == OLMO.replace("self.model.transformer.ff_out = self.model.transformer.wte", "pass")
    path.write_text(OLMO)
    fix(path, "--choose", "weight", "--apply")
    assert "self.model.transformer.ff_out.weight = self.model.transformer.wte.weight" in path.read_text()


def test_a_misspelt_flag_is_renamed_where_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "run.py"
    path.write_text("config = Config(\n    tie_word_embedding=True,  # tied\n)\nconfig.tied_word_embeddings = False\n")
    fix(path, "--apply")
    assert path.read_text() == (
        "config = Config(\n    tie_word_embeddings=True,  # tied\n)\nconfig.tie_word_embeddings = False\n"
    )


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ('["lm_head.weight", "model.norm.weight"]', "nothing tells what is tied to model.norm.weight"),
        ('[*OTHER, "lm_head.weight"]', "not all names are there"),
        ('["lm_head.*weight"]', "a pattern"),
    ],
)
def test_a_source_that_cannot_be_proved_is_left_to_the_user(keys: str, why: str, tmp_path: Path) -> None:
    path = tmp_path / "model.py"
    path.write_text(theirs(f"_tied_weights_keys = {keys}"))
    told = fix(path, code=1)
    assert "left, no fix: what lm_head." in told, why
    assert "is tied to is not told in the file, and a mapping has to name it" in told


def test_several_files_are_written_together_or_not_at_all(tmp_path: Path) -> None:
    for name in ("a.py", "b.py"):
        (tmp_path / name).write_text(SUBJECTS["data"].text)
    (tmp_path / "b.py").chmod(0o444)
    told = fix(tmp_path, "--apply", code=2)
    assert told.startswith("error: ")
    assert told.count("\n") == 1
    assert {path.read_text() for path in tmp_path.iterdir()} == {SUBJECTS["data"].text}
    (tmp_path / "b.py").chmod(0o644)
    fix(tmp_path, "--apply", "--backup")
    assert sorted(os.listdir(tmp_path)) == ["a.py", "a.py.orig", "b.py", "b.py.orig"]
    assert (tmp_path / "a.py.orig").read_text() == SUBJECTS["data"].text


@pytest.mark.parametrize(
    "data",
    [
        b"print 'nn.Linear, self.head.weight = self.emb.weight'\n",
        b"self.head.weight = self.emb.weight # nn.Linear\0\n",
        b"self.head.weight = nn.Parameter" + b"(" * 5_000,
        b"# coding: no\nself.head.weight = self.emb.weight  # nn.Linear\n",
    ],
)
def test_a_file_that_does_not_parse_is_one_sentence_and_nothing_is_written(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(SUBJECTS["data"].text)
    (tmp_path / "b.py").write_bytes(data)
    told = fix(tmp_path, "--apply", code=2)
    assert told.startswith("error: b.py ")
    assert told.count("\n") == 1
    assert (tmp_path / "a.py").read_text() == SUBJECTS["data"].text


def test_a_link_is_left(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "real.txt").write_text(SUBJECTS["data"].text)
    (tmp_path / "src" / "model.py").symlink_to("real.txt")
    assert "model.py is a link" in fix(tmp_path / "src", "--apply", code=1)


def test_a_link_in_the_place_of_the_new_file_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("kept")
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "model.py").write_text(SUBJECTS["data"].text)
    (tmp_path / "src" / ".model.py.tiecheck").symlink_to(tmp_path / "mine")
    fix(tmp_path / "src", "--apply")
    assert (tmp_path / "mine").read_text() == "kept"
    assert not (tmp_path / "src" / "model.py").is_symlink()
    assert "self.head.weight = self.wte.weight" in (tmp_path / "src" / "model.py").read_text()


def notebook(tmp_path: Path, indent: int, **more: Any) -> Path:
    cells = [
        {"cell_type": "markdown", "metadata": {}, "source": ["é # self.head.weight.data = self.wte.weight.data"]},
        {"cell_type": "code", "metadata": {}, "source": ["%matplotlib inline\n", "!ls\n", "x = 1"], "outputs": []},
        {"cell_type": "code", "metadata": {}, "source": SUBJECTS["data"].text.splitlines(keepends=True)},
        {"cell_type": "code", "metadata": {}, "source": f"%time\n{OLMO}"},
    ]
    path = tmp_path / "model.ipynb"
    path.write_text(json.dumps({"cells": cells, **more}, indent=indent, ensure_ascii=False) + "\n")
    return path


def test_a_notebook_is_fixed_in_its_cells(tmp_path: Path) -> None:
    path = notebook(tmp_path, 1)
    before = path.read_text()
    fix(path, "--apply", "--choose", "weight")
    lines = {
        "self.head.weight.data = self.wte.weight.data\\n": "self.head.weight = self.wte.weight\\n",
        "ff_out = self.model.transformer.wte\\n": "ff_out.weight = self.model.transformer.wte.weight\\n",
    }
    for old, new in lines.items():
        before = before.replace(old, new)
    assert path.read_text() == before
    assert codes(path) == ()


def test_a_notebook_of_another_layout_is_left_with_the_reason(tmp_path: Path) -> None:
    path = notebook(tmp_path, 3)
    before = path.read_text()
    assert "is not laid out as Jupyter writes it" in fix(path, "--apply", "--choose", "weight", code=1)
    assert path.read_text() == before


def test_without_libcst_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.py").write_text(SUBJECTS["data"].text)
    monkeypatch.setattr("tiecheck.fix.sources.find_spec", lambda _: None)
    assert fix(tmp_path, code=2) == "error: a fix of sources needs libcst: pip install 'tiecheck[fix]'\n"


def test_the_page_shows_what_is_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs" / "source.md").read_text()
    (check, checked), (_, fixed) = re.findall(r"^\$ tiecheck (.*?)\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert check == "model.py"
    removed = re.findall(r"^[ -](        .*)$", fixed, re.MULTILINE)
    head = (
        "from torch import nn\n\n\nclass Model(nn.Module):\n    def __init__(self, v, d):\n        super().__init__()\n"
    )
    (tmp_path / "model.py").write_text(head + "\n".join(removed) + "\n")
    monkeypatch.chdir(tmp_path)
    assert fix("model.py", code=1) == fixed
    told = CliRunner().invoke(cli, ["model.py"]).output
    assert re.sub(r"[\d.]+ s$", "", told, flags=re.MULTILINE) == re.sub(r"[\d.]+ s$", "", checked, flags=re.MULTILINE)


GPT2_THREAD = """
class GPT2(nn.Module):
    def __init__(self, config, **kwargs):
        super().__init__(**kwargs)
        self.model = nn.ModuleDict(dict(
            tok_embedding=nn.Embedding(config.vocab_size, config.d_model, **kwargs),
            pos_embedding=nn.Embedding(config.max_seq_len, config.d_model, **kwargs),
            final_norm=nn.LayerNorm(config.d_model, **kwargs),
        ))
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, **kwargs, bias=False)  # as in gpt2
        # Version A (produces degenerate outputs):
        self.lm_head.weight = self.model.tok_embedding.weight
"""


def test_the_listing_of_the_gpt2_thread_is_turned_round(tmp_path: Path) -> None:
    path = tmp_path / "gpt2.py"
    path.write_text(f"from types import SimpleNamespace\nfrom torch import nn\n{GPT2_THREAD}")
    assert "(gpt2.py:14): drawn" in fix(path, "--apply")
    assert path.read_text().endswith("        self.model.tok_embedding.weight = self.lm_head.weight\n")
    space: dict[str, Any] = {}
    exec(path.read_text(), space)
    model = space["GPT2"](space["SimpleNamespace"](vocab_size=900, d_model=64, max_seq_len=8))
    assert model.lm_head.weight is model.model.tok_embedding.weight
    assert model.lm_head.weight.std().item() < 0.1


def test_a_word_that_one_file_had_is_no_error_for_what_another_shows_later(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(SUBJECTS["OLMo's, by its weight"].text)
    (tmp_path / "b.py").write_text(SUBJECTS["a tie that asks nobody"].text)
    told = fix(tmp_path, "--choose", "weight", code=1)
    assert "TIE801 module-alias-assignment (a.py:18): weight" in told
    assert "TIE808 unguarded-tie (b.py:18): left, it has no fix called weight; the decision is yours" in told
    assert "--choose removed is" not in fix(tmp_path / "b.py", "--choose", "declared", code=1)
    assert "--choose weight is not on offer here" in fix(tmp_path / "b.py", "--choose", "weight", code=2)
