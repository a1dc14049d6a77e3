"""What a word, a pasted message or a symptom leads to."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tiecheck.errors import UsageError
from tiecheck.rules.registry import INDEX, all_rules
from tiecheck.rules.search import SHORTEST, match_message, plain_text, search_rules, symptoms_of
from tiecheck.tables.symptoms import read_symptoms

MESSAGES = [
    line.split("\t") for line in (Path(__file__).with_name("messages.tsv")).read_text(encoding="utf-8").splitlines()
]
NAMES = ("lm_head.weight", "model.embed_tokens.weight", "{'a', 'b'}", "LlamaForCausalLM", "7")


def codes(text: str) -> list[str]:
    return [rule.code for rule in search_rules(text).rules]


@pytest.mark.parametrize("number", range(len(MESSAGES)))
def test_a_message_that_people_met_leads_to_its_rules(number: int) -> None:
    """Of the list behind the rules and of what the libraries say in their own words."""
    message, due = MESSAGES[number]
    found = search_rules(message)
    assert found.symptom is not None
    assert set(due.split()) <= {rule.code for rule in found.rules}


@pytest.mark.parametrize("number", range(len(read_symptoms())))
def test_a_message_is_known_among_the_lines_around_it(number: int) -> None:
    symptom = read_symptoms()[number]
    draw = random.Random(symptom.says)
    text = symptom.says.replace("...", draw.choice(NAMES))
    words = text.split(" ")
    broken = "".join(word + draw.choice((" ", " ", "\n")) for word in words)
    pasted = f'  File "x.py", line 3\nRuntimeError: {broken.upper() if draw.random() < 0.2 else broken}\nthen more'
    assert symptom in symptoms_of(pasted)
    assert any(code in INDEX for code in symptom.codes.split()) or symptom.when, "a rule, or a word on what to do"


def test_a_part_of_a_message_is_enough_and_a_blank_is_not() -> None:
    assert codes("so we will NOT tie them")[0] == "TIE101"
    assert match_message("a message ... of two pieces", plain_text("message of two")) == 0
    assert symptoms_of("   ") == ()
    assert symptoms_of("x" * (SHORTEST - 1)) == ()
    assert symptoms_of("nothing of the sort at all") == ()


@pytest.mark.parametrize("rule", all_rules(), ids=lambda rule: rule.code)
def test_a_rule_is_found_by_code_name_and_each_of_its_messages(rule) -> None:
    assert codes(rule.code.lower()) == [rule.code]
    assert codes(rule.name) == codes(rule.name.replace("-", " ").upper()) == [rule.code]
    assert all(rule.code in codes(message) for message in rule.messages)


def test_a_family_and_a_symptom_in_words() -> None:
    assert codes("TIE2") == [code for code in INDEX if code.startswith("TIE2")]
    assert "TIE102" in codes("random head")
    assert codes("the model repeats the same token")[0] == "TIE701"


@pytest.mark.parametrize(("word", "says"), [("TIE999", "nearest"), ("blub", "lists all"), ("xx-yy", "there are")])
def test_what_leads_nowhere_says_so(word: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        search_rules(word)
