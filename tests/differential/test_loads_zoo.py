"""Classes made small and loaded under device maps: what the gate says of each load, held against the load.

`tests/benchmarks/bench_gate_zoo.py` runs every class under more maps and writes docs/gate-zoo.md.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from placed_zoo import judge, row_of, told
from subjects import ClassCandidate, every
from truth.run import classes
from zoo import animal, by_name, own
from zoo_loads import FAILS, again, load, plain_of
from zoo_stores import Ask, Store, maps_of, on_meta, spread

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("quiet")]

PLAN = {
    "once": ("targets", "sources", "members", "auto"),
    "equal": ("sources",),
    "target": ("sources", "members"),
    "pickle": ("members",),
}

SAMPLE = [
    "BartForConditionalGeneration",
    "EsmForMaskedLM",
    "GPT2LMHeadModel",
    "Qwen2VLForConditionalGeneration",
    *(
        pytest.param(name, marks=pytest.mark.slow)
        for name in (
            "AlbertForMaskedLM",
            "BertForMaskedLM",
            "LlamaForCausalLM",
            "LukeForMaskedLM",
            "MT5EncoderModel",
            "MobileBertForMaskedLM",
            "T5ForConditionalGeneration",
            "T5Gemma2ForConditionalGeneration",
            "WhisperForConditionalGeneration",
        )
    ),
]
"""A class of each shape of ties, and those that the gate has been wrong about; a second of a shape waits."""

UNRUN = ["Qwen2VLForConditionalGeneration"]
"""Those for which no inputs are found that it takes when it is small."""

UNTIED = ["ViTForImageClassification", "LlamaForSequenceClassification"]

WRONG = ("missed", "false alarm", "other map")


def wrong(row: dict[str, Any]) -> list[str]:
    """What was wrongly said of a class, and proposals that do not load."""
    told_of = [cell for cell in row["cells"] if "came" in cell]
    found = [
        f"{c['variant']}, {c['map']}: {c['word']}: {c['codes']}, {c['came']}" for c in told_of if c["word"] in WRONG
    ]
    bad = [c for c in told_of if c["map"] == "proposal" and c["came"] in FAILS and c["word"] != "not the tie"]
    return found + [f"{c['variant']}, in place of {c['instead']}: {c['came']} {c['text']}" for c in bad]


@pytest.mark.parametrize("name", SAMPLE)
def test_what_is_said_of_a_load_is_what_comes(name: str) -> None:
    row = row_of(by_name(name), PLAN)
    assert row["not_built"] is None
    assert row["ran"] or name in UNRUN
    assert wrong(row) == []
    words = Counter(cell["word"] for cell in row["cells"])
    assert words["right"] >= 8  # and not unknown all over
    assert any(cell["codes"] and cell["word"] == "right" for cell in row["cells"])
    assert any(cell["map"] == "proposal" and cell["came"] in ("is the same", "loads") for cell in row["cells"])


@pytest.mark.parametrize("name", UNTIED)
def test_nothing_is_said_of_what_ties_nothing(name: str) -> None:
    row = row_of(by_name(name), {"once": ("half", "auto")})
    assert [(cell["word"], cell["came"], cell["codes"]) for cell in row["cells"]] == [("right", "is the same", ())] * 2
    assert any(cell["disk"] for cell in row["cells"])


def test_a_part_whose_load_is_followed_is_not_held_twice(tmp_path: Path) -> None:
    """Flava ties a bias of four heads to that of their decoders: on the disk by its own key it is read from the CPU."""
    store = Store.of(animal(by_name("FlavaForPreTraining")), tmp_path)
    where = store.directory("once")
    ask = next(ask for ask in maps_of(on_meta(store.one.model_class, where)) if ask.word == "targets")
    assert isinstance(ask.device_map, dict)
    assert {key for key, device in ask.device_map.items() if device == "disk"} == {
        f"{head}.bias" for head in ("mim_head", "mlm_head", "mmm_image_head", "mmm_text_head")
    }
    said = told(where, ask)
    assert (said.codes, said.unknown) == ((), ())
    plain = plain_of(store.one.model_class, where)
    assert load(store.one.model_class, where, ask, plain).word == "is the same"
    both = store.directory("equal")
    assert told(both, ask).codes == ("TIE511",)  # the load compares them, whoever reads them afterwards
    assert load(store.one.model_class, both, ask, plain).word == FAILS[0]


def test_a_source_that_no_pass_reads_is_unknown_and_no_second_copy(tmp_path: Path) -> None:
    store = Store.of(animal(by_name("T5ForConditionalGeneration")), tmp_path)
    where = store.directory("target")
    ask = Ask("sources", spread(on_meta(store.one.model_class, where), {"shared.weight"}))
    said = told(where, ask)
    assert said.codes == ()
    assert "whether a forward pass reads shared.weight is not known" in said.unknown[0]
    plain = plain_of(store.one.model_class, where)
    assert load(store.one.model_class, where, ask, plain).word == "is the same"


def test_the_harness_sees_what_is_wrong(tmp_path: Path) -> None:
    """A load that fails and of which nothing is said is missed; one that is right and of which it is, an alarm."""
    store = Store.of(animal(by_name("LlamaForCausalLM")), tmp_path)
    where = store.directory("once")
    plain = plain_of(store.one.model_class, where)
    asks = {ask.word: ask for ask in maps_of(on_meta(store.one.model_class, where))}
    bad, good = (load(store.one.model_class, where, asks[word], plain) for word in ("targets", "cpu"))
    said, silent = told(where, asks["targets"]), told(where, asks["cpu"])
    assert [judge(a, b, plain)[0] for a, b in ((said, bad), (silent, good), (silent, bad), (said, good))] == [
        *("right", "right"),
        *("missed", "false alarm"),
    ]
    other = store._replace(tensors={n: t + 0.1 for n, t in store.tensors.items()}).directory("equal")
    assert load(store.one.model_class, other, asks["cpu"], plain).word == FAILS[2]
    assert again(store.one.model_class, where, plain.inputs).called == plain.called


@pytest.mark.slow
def test_every_class_that_ties() -> None:
    found: dict[str, list[str]] = {}
    words: Counter[str] = Counter()
    tying = [candidate for candidate, _ in classes()]
    known = {(c.class_name, c.model_type) for c in tying}
    for candidate in tying:
        row = row_of(candidate, {"once": PLAN["once"], "target": ("members",)})
        words.update(cell["word"] for cell in row["cells"])
        if wrong(row):
            found[candidate.class_name] = wrong(row)
    for candidate in [c for c in every() if (c.class_name, c.model_type) not in known and here(c)][::12]:
        if wrong(row_of(candidate, {"once": ("half", "auto")})):
            found[candidate.class_name] = ["untied"]
    assert found == {}
    assert words["right"] > 2000


def here(candidate: ClassCandidate) -> bool:
    """Whether a class is built from its own config, and the packages that it needs are here."""
    try:
        return own(candidate)
    except ImportError:
        return False
