"""The structure table: classes, config classes, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tiecheck.tables import structure
from tiecheck.tables.generate.witnesses import SHORT
from tiecheck.tables.structure import class_structure, config_structure, fold_sections, known_words, refused_values

FLAG = "tie_word_embeddings"
OLDER = ("architectures-4.57", "structure-4.57")


def test_a_class_has_its_parts_or_its_sizes() -> None:
    found = class_structure("LlamaModel", "llama")
    assert found is not None
    assert found[0] == "llama"
    assert ["embed_tokens.weight", 0, "1", {"vocab_size": 1}] in found[1]["w"]
    kind, row = class_structure("LlamaForCausalLM", "llama") or ("", {})
    assert (kind, row["p"], row["o"]) == ("llama", [["model", "", "*"]], ["lm_head"])
    assert class_structure("NoSuchModel", "llama") is None
    assert class_structure("Llama\tModel", "llama") is None


def test_sections_and_defaults_of_a_config() -> None:
    known = config_structure("llava")
    assert known is not None
    assert known["s"]["text_config"]["typed"] == ["llama"]
    assert config_structure("no such type") is None
    assert config_structure("") is None


def test_refused_types() -> None:
    assert refused_values("llama")["hidden_size"].startswith("11")
    assert refused_values("no such type") == {}


def test_a_flat_config_is_folded_where_its_library_folds_it() -> None:
    flat = {"model_type": "qwen2_vl", FLAG: True, "hidden_size": 64}
    folded, sections = fold_sections(flat, FLAG, "4.57")
    assert sections == {"text_config"}
    assert folded["text_config"] == {FLAG: True, "hidden_size": 64}
    for other in (flat | {"text_config": {}}, flat | {"model_type": "llava"}, {"model_type": 3}, {}):
        assert fold_sections(other, FLAG, "4.57") == (other, frozenset())


@pytest.mark.parametrize("table", [f"{name}.txt" for name in ("architectures", "structure", *OLDER)])
def test_every_line_is_found_by_halving_and_no_other(table: str) -> None:
    lines = (Path(structure.__file__).parent / table).read_text(encoding="utf-8").splitlines()
    assert lines == sorted(lines)
    held: dict[str, list[list[str]]] = {}
    for line in lines:
        word, *rest = line.split("\t")
        held.setdefault(word, []).append(rest)
    for word in (*[*held][::3], lines[0][0], lines[-1].partition("\t")[0], "", "~", "A", "GPT2LMHeadMode"):
        assert structure.sorted_lines(table, word) == held.get(word, [])


@pytest.mark.parametrize("line", ["5", "4.57"])
def test_every_line_reads(line: str) -> None:
    text = (Path(structure.__file__).parent / structure._FILES[line]).read_text(encoding="utf-8")
    for row in text.splitlines()[1:]:
        head, *rest = row.split("\t")
        if head[0] in "@=%":
            json.loads(rest[0])
            assert all("no_such_word" not in words and words for _, words, _ in known_words(head[1:], line))
        else:
            kind, key = rest
            assert config_structure(kind) is not None or kind[0].isupper()
            assert key == "" or structure._value(f"={key}", line) is not None


def test_what_a_size_adds_is_no_width_that_another_field_makes() -> None:
    text = (Path(structure.__file__).parent / structure._FILES["5"]).read_text(encoding="utf-8")
    rows = (json.loads(line.partition("\t")[2]) for line in text.splitlines() if line.startswith("="))
    added = [rule for row in rows for rule in row.get("w", ()) if "+" in rule[2]]
    assert added
    assert [rule for rule in added if abs(int(rule[2].partition("+")[2])) > SHORT] == []
