"""What a word, a pasted message or a symptom leads to."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tiecheck.errors import UsageError
from tiecheck.rules.base import Draft
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


def test_everyday_words_lead_somewhere_sensible() -> None:
    """Sentences as people type them, written down before the rules' texts were looked at."""
    for sentence, due in (
        ("my model outputs garbage after merging lora", {"TIE602", "TIE603"}),
        ("loss goes to nan after resizing the embeddings", {"TIE403", "TIE701"}),
        ("gibberish output after converting to gguf", {"TIE621", "TIE623"}),
        ("new tokens I added are never predicted", {"TIE403", "TIE306"}),
        ("lm_head is randomly initialized after loading", {"TIE102", "TIE110"}),
        ("device_map auto puts the head on another gpu", {"TIE501", "TIE502"}),
        ("freezing the embedding also freezes the head", {"TIE312"}),
        ("the reference model changes during dpo training", {"TIE319"}),
        ("onnx file is much larger than the model", {"TIE631"}),
        ("optimizer updates the embedding twice", {"TIE702"}),
    ):
        assert due & set(codes(sentence)[:4]), (sentence, codes(sentence))
    for sentence in ("bananas are yellow", "hello world", "my dog ate the homework"):
        with pytest.raises(UsageError, match="no rule is known"):
            search_rules(sentence)


def test_what_people_wrote_leads_to_a_right_rule_among_the_first_three() -> None:
    """Titles and complaints of threads, written down with the rules that are right before they were asked for."""
    lines = Path(__file__).with_name("complaints.tsv").read_text(encoding="utf-8").splitlines()
    missed = [said for said, due in (line.split("\t") for line in lines) if not set(due.split()) & {*codes(said)[:3]}]
    assert len(missed) <= len(lines) / 4, missed


def own_messages() -> list[tuple[str, str]]:
    found = [(rule, draft) for rule in all_rules() for case in rule.cases() for draft in drafts(rule, case)]
    return [(" ".join(changed(draft.message, random.Random(draft.message))), rule.code) for rule, draft in found]


def drafts(rule, case):
    return [
        one
        for one in rule().check(**{name: case.facts[name] for name in rule.needs if name in case.facts})
        if isinstance(one, Draft)
    ]


def changed(text: str, draw: random.Random) -> Iterator[str]:
    """The words of a finding of ours about another model: other names, other numbers."""
    for word in text.split():
        other = f"{''.join(draw.choices('abcdefgh', k=6))}.{draw.randrange(9)}.weight"
        renamed = re.sub(r"(?<![\w.])[a-z]\w*\.\w[\w.]*\w", other, word)
        yield re.sub(r"(?<![\w.])\d+", str(draw.randrange(99)), renamed)


PARTED = [
    *(
        (text.replace("...", draw.choice(NAMES)), due.split())
        for draw in [random.Random(5)]
        for text, due in MESSAGES
        if due
    ),
    *((text, [code]) for text, code in own_messages()),
]


@pytest.mark.parametrize("part", ["first", "last", "middle"])
def test_any_part_of_a_message_leads_to_its_rule(part: str) -> None:
    """A half, or six words from the middle, as copied out of a terminal: wrapped, indented and coloured."""
    draw = random.Random(part)
    missed = []
    for text, due in PARTED:
        words = text.split()
        half = len(words) // 2
        said = {"first": words[: half + 1], "last": words[half:], "middle": words[max(0, half - 3) : half + 3]}[part]
        if len([word for word in said if word.isalpha()]) < 4:
            continue  # names and numbers
        pasted = "".join(f"\x1b[31m{word}\x1b[0m" + draw.choice((" ", "\n    ")) for word in said)
        try:
            found = codes(pasted)
        except UsageError:
            found = []
        if not set(due) & set(found):
            missed.append((due, " ".join(said), found))
    assert missed == []


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("TIE999", "nearest"),
        ("blub", "lists all"),
        ("xx-yy", "lists all"),
        ("traned-haed-discraded", "did you mean 'trained-head-discarded'"),
    ],
)
def test_what_leads_nowhere_says_so(word: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        search_rules(word)
