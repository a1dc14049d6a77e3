"""Names and indexes as tools leave them, over classes of every way of naming, held against both lines of transformers.

4.57 takes or adds a prefix for a whole file, and reads the names of an index alone; 5 asks name by name.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.cases import untouched
from harness.collect import Bench
from harness.draft import Mutator
from harness.files import Layout
from harness.members import Unprefixed, Wrapped
from harness.oracle import Oracle
from harness.saves import saved
from older import older_python

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("quiet")]

CLASSES = [
    ("BartModel", "bart"),
    ("BertForMaskedLM", "bert"),
    ("BertModel", "bert"),
    ("DeepseekV3ForCausalLM", "deepseek_v3"),
    ("DebertaV2ForMaskedLM", "deberta-v2"),
    ("GPT2LMHeadModel", "gpt2"),
    ("LlamaForCausalLM", "llama"),
    ("MixtralForCausalLM", "mixtral"),
    ("MobileBertForPreTraining", "mobilebert"),
    ("ModernBertForMaskedLM", "modernbert"),
    ("PhiForCausalLM", "phi"),
    ("T5ForConditionalGeneration", "t5"),
]
LAYOUTS = ("shards", "member unindexed", "member in another shard", "phantom members")


@pytest.fixture(scope="module")
def oracle() -> Iterator[Oracle]:
    found = Oracle(older_python())
    yield found
    found.close()


def changes(prefix: str) -> Iterator[tuple[Mutator, ...]]:
    for layout in LAYOUTS:
        yield (Layout(layout),)
        yield (Unprefixed(rest=False), Layout(layout))
    yield (Unprefixed(rest=True),)
    for start in ("module.", "model.", f"{prefix}."):
        yield (Wrapped(start),)


@pytest.mark.parametrize(("name", "model_type"), CLASSES)
@pytest.mark.parametrize("line", ["as it is", "saved by"])
def test_names_are_read_as_both_lines_read_them(
    name: str, model_type: str, line: str, oracle: Oracle, tmp_path: Path
) -> None:
    save = saved(name, model_type, (("saved by", "4.57"),) if line == "saved by" else ())
    bench = Bench(oracle, tmp_path / "model", random.Random(0), share=0.0)
    for some in changes(save.prefix):
        judged = bench.judge(untouched(save)._replace(mutations=some))
        assert judged.wrong == [], judged.case
