"""TIE112 against both lines of transformers: what 5 refuses is told at the line of the flag, and nothing else is."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import transformers
from older import older_python
from rule_failures import llama, set_flag

import tiecheck
from tiecheck.rules.stored.shapes import InvalidTieFlag


@pytest.mark.parametrize("value", ["false", "true", 0, 1, 2.5, [], {}])
def test_a_flag_of_another_type_is_refused_by_the_library_and_told_at_its_line(value: object, tmp_path: Path) -> None:
    llama().save_pretrained(tmp_path)
    set_flag(tmp_path, value)
    with pytest.raises(Exception, match="tie_word_embeddings"):
        transformers.LlamaForCausalLM.from_pretrained(tmp_path)
    (finding,) = [f for f in tiecheck.check(tmp_path).findings if f.code == InvalidTieFlag.code]
    (place,) = finding.locations
    text = (tmp_path / "config.json").read_text().splitlines()
    assert '"tie_word_embeddings"' in text[place.line - 1][place.column - 1 :]
    assert finding.names == ("lm_head.weight", "model.embed_tokens.weight")


@pytest.mark.parametrize("value", [True, False])
def test_a_truth_value_is_left_alone(value: bool, tmp_path: Path) -> None:
    llama(tied=value).save_pretrained(tmp_path)
    assert tiecheck.check(tmp_path).findings == ()


LOADS = """
import sys, torch, transformers
from safetensors.torch import load_file
for where in sys.argv[1:]:
    held = load_file(where + "/model.safetensors")
    model = transformers.LlamaForCausalLM.from_pretrained(where)
    head, embedding = model.lm_head.weight, model.model.embed_tokens.weight
    own = held.get("lm_head.weight")
    print(torch.equal(head, own) if own is not None else head is embedding)
"""
STATES = [(value, stored) for value in ("false", "true", "", 0, 1, 2.5, [], {}) for stored in (True, False)]


def odd_model(value: object, where: Path, *, stored: bool) -> str:
    """Save a Llama whose own head is stored or not, with a flag of another type."""
    llama(tied=not stored).save_pretrained(where)
    set_flag(where, value)
    return str(where)


@pytest.mark.parametrize(("value", "stored"), STATES)
def test_what_4_57_loses_by_such_a_flag_fails_where_that_line_is_asked_for(
    value: object, stored: bool, tmp_path: Path
) -> None:
    """It goes by whether Python takes the flag for true: a head of its own is thrown away, or one is made at random."""
    where = odd_model(value, tmp_path, stored=stored)
    (report,) = tiecheck.check(where, judge_for=["transformers==4.57"]).targets
    assert (report.status == "fail") is (bool(value) is stored), report.reason
    (finding,) = (f for f in tiecheck.check(where).findings if f.code == InvalidTieFlag.code)
    assert ("transformers 4.57" in (finding.hurts or ())) is (bool(value) is stored)


@pytest.mark.slow
def test_4_57_loses_so(tmp_path: Path) -> None:
    places = [odd_model(value, tmp_path / str(n), stored=stored) for n, (value, stored) in enumerate(STATES)]
    done = subprocess.run([older_python(), "-c", LOADS, *places], capture_output=True, text=True, check=True)
    kept = [line == "True" for line in done.stdout.split()]
    assert kept == [bool(value) is not stored for value, stored in STATES]
