"""TIE112 against both lines of transformers: what 5 refuses is told at the line of the flag, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import pytest
import transformers
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
