"""`tiecheck compare`: its exit status, and what its text has of the records that it shows."""

from __future__ import annotations

import io
import random
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from tiecheck.cli.compare import command
from tiecheck.config.options import Config
from tiecheck.engine.compare import compare_targets
from tiecheck.errors import TiecheckError
from tiecheck.records.fleet import TieComparison
from tiecheck.render.compare import LISTS, SHOWN, render
from tiecheck.render.reports import Style

TIED, LOST = "llama-healthy-tied", "llama-flag-lost"


def compared(models: Path, before: str, after: str) -> TieComparison:
    return compare_targets(str(models / before), str(models / after), Config())


def shown(found: TieComparison, *, verbose: bool = False) -> str:
    stream = io.StringIO()
    render(found, Style(verbose=verbose, color="never"), stream)
    return stream.getvalue()


@pytest.mark.parametrize(("after", "status"), [(TIED, 0), (LOST, 1), ("not there", 2)])
def test_the_exit_status_says_equal_different_or_not_told(after: str, status: int, models: Path) -> None:
    done = CliRunner().invoke(command, [str(models / TIED), str(models / after), "--isolated"])
    assert done.exit_code == status, done.output
    if status == 2:
        with pytest.raises(TiecheckError):
            compared(models, TIED, after)


def test_a_comparison_the_other_way_round_makes_what_was_lost(models: Path) -> None:
    there, back = compared(models, TIED, LOST), compared(models, LOST, TIED)
    assert (there.equal, back.equal) == (False, False)
    assert [change.names for change in there.lost] == [change.names for change in back.made]
    assert not there.made
    assert compared(models, TIED, TIED).equal is True


def test_each_list_is_shown_under_its_word_and_cut_with_a_count(models: Path) -> None:
    (change,) = compared(models, TIED, TIED).same
    for word in LISTS:
        empty = TieComparison("a", "b", (), (), (), (), equal=word == "same")
        text = shown(empty._replace(**{word: (change,) * (SHOWN + 3)}))
        assert sum(line.startswith(word) for line in text.splitlines()) == SHOWN
        assert f"and 3 more {word} (-v shows them)" in text
        assert f"{'equal' if word == 'same' else 'different'}: {SHOWN + 3} {word}" in text
        assert "(-v shows" not in shown(empty._replace(**{word: (change,) * (SHOWN + 3)}), verbose=True)
    assert "not known: no tie group in either" in shown(TieComparison("a", "b", (), (), (), (), equal=None))


@pytest.mark.parametrize("seed", range(4))
def test_names_that_one_alone_stores_are_told(seed: int, models: Path, tmp_path: Path) -> None:
    """Of a class without a group, whose ties are equal all the same."""
    draw = random.Random(seed)
    folders = tmp_path / "a", tmp_path / "b"
    for folder in folders:
        shutil.copytree(models / "bert-encoder", folder)
    (file,) = folders[0].glob("*.safetensors")
    tensors = load_file(file)
    more = sorted(draw.sample(["lm_head.weight", "head.bias", "extra.0.weight", "z"], draw.randint(1, 3)))
    tensors |= {name: torch.zeros(draw.randint(1, 4), 2) for name in more}
    save_file(tensors, file, {"format": "pt"})
    there, back = (compare_targets(*map(str, pair), Config()) for pair in (folders, folders[::-1]))
    assert (there.only_before, there.only_after) == (back.only_after, back.only_before) == (tuple(more), ())
    assert f"in the first alone: {more[0]}" in shown(there)
    assert f"in the second alone: {more[0]}" in shown(back)
    assert there.equal is back.equal is True
    same = compare_targets(str(folders[0]), str(folders[0]), Config())
    assert (same.only_before, same.only_after) == ((), ())
    assert " alone: " not in shown(same)
