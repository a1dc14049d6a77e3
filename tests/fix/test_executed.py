"""Every alternative of every finding that has edits, carried out and really loaded: the logits are those meant."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from fix_file_subjects import file_subjects
from fix_subjects import Subject, edit_weights, loaded, logits_of, pop2piano, save_small, small_model, subjects
from older import run_older
from safetensors.numpy import load_file, save_file

import tiecheck
from tiecheck.config.options import Config
from tiecheck.fix.run import FixOptions, fix_target
from tiecheck.live.rehearsal import Rehearser, rehearse
from tiecheck.records.edits import edit_words
from tiecheck.rules.base import Case, Draft, Rule
from tiecheck.rules.registry import all_rules

FILE_RULES = [rule for rule in all_rules() if rule.code.startswith(("TIE1", "TIE2", "TIE6"))]


def drafts_of(rule: type[Rule], case: Case) -> list[Draft]:
    """The findings of one of a rule's own cases."""
    answers = rule().check(**{need: case.facts[need] for need in rule.needs})
    return [answer for answer in answers if isinstance(answer, Draft)]


SUBJECTS = [*subjects(), *file_subjects()]


@pytest.mark.parametrize("subject", SUBJECTS, ids=str)
def test_the_model_that_was_meant_comes_back(subject: Subject, tmp_path: Path) -> None:
    meant = subject.write(tmp_path)
    ids = torch.arange(3, 19)[None]
    config, options = Config(select=(subject.code,)), FixOptions(subject.choice, apply=True, rehearse=False)
    outcome = fix_target(str(tmp_path), config, options._replace(**subject.options))
    assert outcome.written, (outcome.left, outcome.undone)
    assert torch.equal(logits_of(loaded(tmp_path))(ids), meant(ids))
    found = tuple(f.code for f in tiecheck.check(tmp_path).findings if f.severity != "info")
    assert found == tuple(finding.code for finding, _ in outcome.left) == subject.remains
    again = fix_target(str(tmp_path), Config(), options)
    assert (again.chosen, again.plan) == ((), None)


def test_a_tie_that_the_library_lost_is_stored(tmp_path: Path) -> None:
    pop2piano(tmp_path)
    assert fix_target(str(tmp_path), Config(), FixOptions(apply=True, rehearse=False)).written
    model = loaded(tmp_path)
    assert torch.equal(model.lm_head.weight, model.shared.weight)


def test_every_alternative_that_a_rule_has_is_executed(models: Path) -> None:
    """Those of the rules' own cases and of the fixtures; files that are to be chosen from are alike."""

    def word(choice: str | None) -> str | None:
        return "FILE" if choice and "." in choice else choice

    drafts = [(r.code, d) for r in FILE_RULES for case in r.cases() for d in drafts_of(r, case)]
    offered = {(code, word(edit.choice)) for code, draft in drafts for edit in draft.edits}
    for case in sorted(models.iterdir()):
        found = [f for f in tiecheck.check(case).findings if not f.code.startswith("TIE8")]  # those: test_sources.py
        offered |= {(f.code, word(e.choice)) for f in found for e in f.edits}
    executed = {(s.code, word(s.choice)) for s in SUBJECTS} | {("TIE102", "stored")}  # below
    sure = {code for code, choice in executed if choice is None}
    assert len(offered) >= 20
    assert {(code, choice) for code, choice in offered if code not in sure} <= executed


STEP = re.compile(r"(?<!not )\b(set|write|delete|remove|drop|rename|store|strip|move) (?!again)", re.IGNORECASE)
"""The beginning of a change of files, as an order to the reader."""


@pytest.mark.parametrize("rule", FILE_RULES, ids=lambda rule: rule.code)
def test_words_name_no_step_that_is_not_in_the_edits(rule: type[Rule]) -> None:
    for case in rule.cases():
        for draft in drafts_of(rule, case):
            assert draft.edits or draft.no_mend, "a finding on files has a mend, or says why not"
            for words in (draft.help, draft.no_mend):
                assert not STEP.search(words), words


def test_what_has_no_mend_says_so(models: Path, tmp_path: Path) -> None:
    (finding,) = tiecheck.check(models / "llama-orphaned-tie").findings
    assert finding.help.startswith("No fix: the values of model.embed_tokens.weight are not in these files")
    outcome = fix_target(str(models / "llama-orphaned-tie"), Config(), FixOptions())
    ((left, why),) = outcome.left
    assert (left, why.lower()) == (finding, finding.help.lower())
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')  # names no class, so that the names tell
    shutil.copy(models / "llama-diverged-head" / "model.safetensors", tmp_path)
    helps = [f.help for f in tiecheck.check(tmp_path).findings]
    assert all("no fix is known" not in text for text in helps)


ASK_OLDER = """
import json, sys, torch, transformers
ids = torch.arange(3, 19)[None]
for line in sys.stdin.read().split():
    try:
        name = json.load(open(line + "/config.json"))["architectures"][0]
        model = getattr(transformers, name).from_pretrained(line, local_files_only=True).eval()
        more = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
        with torch.no_grad():
            torch.save(model(input_ids=ids, **more).logits, line + "/logits.pt")
    except Exception as error:
        print(line, type(error).__name__, str(error)[:200], file=sys.stderr)
"""

NOT_BY_OLDER = {"T5-unscaled", "BertForMaskedLM-TIE101-diverged-untied", "mt5-silent"}
"""Subjects that 4.57 cannot load as they were meant, whatever the files say: it scales the logits of a tied (m)T5, and
ties the bias of an untied BERT."""


@pytest.mark.slow
def test_what_was_fixed_is_loaded_by_4_57_too(tmp_path: Path) -> None:
    meant = {}
    for number, subject in enumerate(SUBJECTS):
        where = tmp_path / str(number)
        meant[where] = subject.write(where)
        options = FixOptions(subject.choice, apply=True, rehearse=False)._replace(**subject.options)
        assert fix_target(str(where), Config(select=(subject.code,)), options).written, subject
    told = run_older("-c", ASK_OLDER, stdin="\n".join(map(str, meant)))
    wrong = set()
    for subject, (where, run) in zip(SUBJECTS, meant.items(), strict=True):
        path = where / "logits.pt"
        right = path.exists() and torch.allclose(torch.load(path), run(torch.arange(3, 19)[None]), atol=1e-5)
        wrong |= set() if right else {str(subject)}
    assert wrong == NOT_BY_OLDER, told.stderr


def rehearsed_here() -> Any:
    """Rehearse in this process: the next test has one of its own, which imports the library anew."""
    return mock.patch.object(Rehearser, "rehearse", lambda _, directory: rehearse(directory))


def test_it_is_rehearsed(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "llama-flag-lost", tmp_path / "model")
    outcome = fix_target(str(tmp_path / "model"), Config(), FixOptions("tied", to=str(tmp_path / "fixed")))
    assert outcome.written
    assert outcome.rehearsed is not None
    assert outcome.rehearsed.startswith("transformers ")


def test_a_fix_that_another_had_hidden_is_told_as_the_next(tmp_path: Path) -> None:
    """Under names of nobody's the files do not tell which flag is right; without the prefix they do."""
    save_small(small_model("LlamaForCausalLM", tie_word_embeddings=True), tmp_path)
    edit_weights(tmp_path, lambda t: [t.update({f"module.{name}": t.pop(name)}) for name in list(t)])
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"tie_word_embeddings": true', '"tie_word_embeddings": {}'))
    outcome = fix_target(str(tmp_path), Config(), FixOptions(apply=True, rehearse=False))
    ((finding, told),) = outcome.left
    assert finding.code == "TIE112"
    assert told == "its fix shows now, and is another step: Set tie_word_embeddings to true."
    with rehearsed_here():
        assert fix_target(str(tmp_path), Config(), FixOptions(apply=True)).left == ()


def test_a_load_that_raises_as_before_is_told(models: Path, tmp_path: Path) -> None:
    """A config that the library refuses for what no rule knows of."""
    shutil.copytree(models / "llama-flag-lost", tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    config.write_text(config.read_text().replace('"default"', '"nobody knows it"'))
    with rehearsed_here():
        outcome = fix_target(str(tmp_path / "model"), Config(), FixOptions("tied", apply=True))
    assert outcome.written
    (told,) = outcome.stays
    assert re.match(r"transformers 5\S+ raises, as before: ", told)


def test_an_untied_bias_leaves_the_embedding_stored_twice(tmp_path: Path) -> None:
    """BERT's one flag unties both: the head that nobody trained apart is a copy, which is no reason against it."""
    model = small_model("BertForMaskedLM", tie_word_embeddings=True)
    save_small(model, tmp_path)
    bias = "cls.predictions.decoder.bias"
    edit_weights(tmp_path, lambda t: t.update({bias: t["cls.predictions.bias"] + 1}))
    outcome = fix_target(str(tmp_path), Config(), FixOptions("untied", apply=True, rehearse=False))
    assert outcome.written
    assert [finding.code for finding, _ in outcome.left] == ["TIE105", "TIE109"]
    apart = loaded(tmp_path)
    assert torch.equal(apart.cls.predictions.decoder.bias, model.cls.predictions.bias + 1)
    assert torch.equal(apart.cls.predictions.decoder.weight, model.cls.predictions.decoder.weight)


@pytest.mark.parametrize("case", [p.name for p in sorted((Path(__file__).parents[2] / "fixtures/models").iterdir())])
def test_nothing_is_offered_for_what_is_right(case: str, models: Path) -> None:
    (target,) = tiecheck.check(models / case).targets
    for finding in target.findings:
        assert finding.help.startswith(edit_words(finding.edits))
        assert finding.fixable == any(edit.safe for edit in finding.edits)
    outcome = fix_target(str(models / case), Config(), FixOptions())
    if target.status == "pass":
        assert (outcome.chosen, outcome.left, outcome.plan) == ((), (), None)


def test_a_level_that_the_config_lacks_is_not_made(models: Path) -> None:
    """A flat config with a new `text_config` of one key would be another model."""
    from tiecheck.records.edits import Edit, fitting_edits, set_flags

    edit = Edit("tied", None, True, set_flags(["text_config.tie_word_embeddings"], value=True))
    assert fitting_edits((edit,), {"tie_word_embeddings": False}) == ()
    assert fitting_edits((edit,), {"text_config": None}) == ()
    assert fitting_edits((edit,), None) == ()
    assert fitting_edits((edit,), {"text_config": {}}) == (edit,)


MEMBERS = ("lm_head.weight", "model.decoder.embed_tokens.weight", "model.encoder.embed_tokens.weight")


@pytest.mark.parametrize("some", [MEMBERS[:1], MEMBERS[1:2], MEMBERS[::2], MEMBERS[1:]])
def test_equal_copies_of_some_members_and_a_false_flag_are_tied(
    some: tuple[str, ...], models: Path, tmp_path: Path
) -> None:
    """Whatever the flag would make at random: the loss is offered the flag, as the equal copies are."""
    shutil.copytree(models / "bart-healthy-tied", tmp_path / "m")
    config = json.loads((tmp_path / "m/config.json").read_text())
    (tmp_path / "m/config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    held = load_file(tmp_path / "m/model.safetensors")
    held |= {name: held["model.shared.weight"].copy() for name in some}
    save_file(held, tmp_path / "m/model.safetensors", {"format": "pt"})
    outcome = fix_target(str(tmp_path / "m"), Config(), FixOptions(choice="tied", apply=True, rehearse=False))
    assert outcome.written
    assert "TIE102" in [finding.code for finding, _ in outcome.chosen]
    (report,) = tiecheck.check(tmp_path / "m").targets
    assert (report.status, [f for f in report.findings if f.severity != "info"]) == ("pass", [])
