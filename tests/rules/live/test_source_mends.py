"""The change of a class that a finding tells: typed into its source, which is run, built, judged, saved and loaded."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch
from class_subjects import CLASSES, IDLE, IMPORTS, LIST, LIST_AND_METHOD, PAIR
from live_failures import config
from mend_runs import judged, paste, survives_a_save, ties_of
from source_edits import edited

import tiecheck
from tiecheck.records.report import Finding


def made(text: str, *, flag: bool = True) -> Any:
    """A model of the class that a source defines."""
    scope: dict[str, Any] = {"__name__": "own_model"}
    exec(compile(text, "own_model.py", "exec"), scope)
    torch.manual_seed(0)
    return scope["Own"](config(tie_word_embeddings=flag))


def looked_at(text: str) -> Any:
    """A model of it, also where the class keeps it from being built: with the flag false, or by a class put on."""
    with contextlib.suppress(AttributeError, TypeError):
        return made(text)
    try:
        model = made(text, flag=False)
    except TypeError:
        scope: dict[str, Any] = {"__name__": "own_model"}
        exec(compile(text, "own_model.py", "exec"), scope)
        model = scope["LlamaForCausalLM"](config())
        model.__class__ = scope["Own"]
    model.config.tie_word_embeddings = True
    return model


def source_edit(findings: list[Finding], code: str) -> Any:
    finding = next(f for f in findings if f.code == code)
    return next(edit for edit in finding.edits if any(step.kind == "edit-source" for step in edit.steps))


@pytest.mark.parametrize("name", CLASSES)
def test_the_class_as_it_is_told_to_read_is_right(name: str) -> None:
    text, code, ties = CLASSES[name]
    text = IMPORTS + text
    edit = source_edit(judged(looked_at(text)), code)
    model = made(edited(text, edit.steps))
    assert [f.code for f in judged(model) if f.severity != "info"] == []
    assert ties_of(model) == ties
    survives_a_save(model)


def test_the_rest_of_the_class_stays_as_it_is() -> None:
    text = IMPORTS + LIST_AND_METHOD
    edit = source_edit(judged(looked_at(text)), "TIE311")
    new = edited(text, edit.steps)
    assert "self.told = True" in new
    assert made(new).told


def test_a_class_that_cannot_be_built_is_told_how_to_read(tmp_path: Path) -> None:
    """A directory with its own code: the class is built with the flag false to see what its list means."""
    from live_failures import small_llama

    small_llama().save_pretrained(tmp_path)
    (tmp_path / "modeling_own.py").write_text(IMPORTS + LIST)
    text = (tmp_path / "config.json").read_text().replace('"LlamaForCausalLM"', '"Own"')
    text = text.replace("{", '{\n  "auto_map": {"AutoModelForCausalLM": "modeling_own.Own"},', 1)
    (tmp_path / "config.json").write_text(text)
    report = tiecheck.check(tmp_path, trust_remote_code=True)
    edit = source_edit(list(report.findings), "TIE311")
    assert ties_of(made(edited(IMPORTS + LIST, edit.steps))) == {PAIR}


def test_a_loaded_model_whose_tie_weights_does_nothing(tmp_path: Path) -> None:
    """Its head stays on meta: no call of the method ties it, the assignment does; the class without it loads right."""
    from live_failures import small_llama

    source = small_llama()
    source.save_pretrained(tmp_path)
    scope: dict[str, Any] = {"__name__": "own_model"}
    exec(IMPORTS + IDLE, scope)
    model = scope["Own"].from_pretrained(tmp_path)
    (finding,) = judged(model)
    assert finding.code in ("TIE301", "TIE314")
    assert "Own.tie_weights does nothing" in finding.help
    model.tie_weights()
    assert [f.code for f in judged(model)] == [finding.code]
    paste(finding.edits[0], model)
    assert judged(model) == []
    assert torch.equal(model.lm_head.weight, source.lm_head.weight)
    scope = {"__name__": "own_model"}
    exec(edited(IMPORTS + IDLE, source_edit([finding], finding.code).steps), scope)
    again = scope["Own"].from_pretrained(tmp_path)
    assert again.lm_head.weight is again.model.embed_tokens.weight
