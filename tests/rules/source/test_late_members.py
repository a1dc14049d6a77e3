"""Members that a constructor makes behind `post_init()`, and copies by `load_state_dict`."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig

import tiecheck
from tiecheck.config.options import Config
from tiecheck.fix.run import FixOptions
from tiecheck.fix.sources import fix_sources
from tiecheck.targets.parse import parse_target

SMALL = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 24}
MADE = {
    "body": "self.model = LlamaModel(config)",
    "head": "self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)",
    "part": "self.drop = nn.Dropout(0.1)",
}
BASE = """
class Base(PreTrainedModel):
    config_class = LlamaConfig

    def __init__(self, config):
        super().__init__(config)
        self.{name} = nn.Linear(16, 16)
        {end}

"""


def drawn_class(draw: random.Random) -> str:
    """A class with a body, a head and calls of `post_init()` in a drawn order, perhaps upon a base."""
    lines = draw.sample([*MADE.values()], len(MADE))
    for _ in range(draw.choice([1, 1, 1, 2])):
        lines.insert(draw.randint(0, len(lines)), "self.post_init()")
    if draw.random() < 0.3:
        lines.append(draw.choice([MADE["head"], "self.drop = nn.Dropout(0.2)", "self.lm_head = self.lm_head.eval()"]))
    on_base = draw.random() < 0.4
    base = BASE.format(name=draw.choice(["lm_head", "other"]), end=draw.choice(["self.post_init()", "pass"]))
    begin = "super().__init__(config)"
    text = "from torch import nn\nfrom transformers import LlamaConfig, LlamaModel, PreTrainedModel\n"
    text += f"{base if on_base else ''}\nclass Model({'Base' if on_base else 'PreTrainedModel'}):\n"
    text += (
        '    config_class = LlamaConfig\n    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}\n\n'
    )
    return text + "    def __init__(self, config):\n" + "".join(f"        {line}\n" for line in (begin, *lines))


def is_tied(text: str) -> bool:
    space: dict[str, Any] = {}
    exec(text, space)
    try:
        model = space["Model"](LlamaConfig(**SMALL, tie_word_embeddings=True))
    except AttributeError:
        return False
    return model.lm_head.weight is model.model.embed_tokens.weight


def codes(path: Path) -> list[str]:
    return [finding.code for finding in tiecheck.check(path).findings]


@pytest.mark.parametrize("seed", range(40))
def test_a_member_behind_post_init_is_told_where_the_library_does_not_tie_it(seed: int, tmp_path: Path) -> None:
    text = drawn_class(random.Random(seed))
    (tmp_path / "model.py").write_text(text)
    told = codes(tmp_path / "model.py")
    assert told == ([] if is_tied(text) else ["TIE806"]), text
    done = fix_sources(parse_target(str(tmp_path)), Config(), FixOptions(apply=True))
    if done.chosen:
        mended = (tmp_path / "model.py").read_text()
        assert is_tied(mended), mended
        assert codes(tmp_path / "model.py") == []


def test_enough_of_the_drawn_classes_are_broken_whole_and_mended(tmp_path: Path) -> None:
    ends = {"tied": 0, "broken": 0, "fixable": 0}
    for seed in range(40):
        (tmp_path / "model.py").write_text(drawn_class(random.Random(seed)))
        found = tiecheck.check(tmp_path / "model.py").findings
        ends["broken" if found else "tied"] += 1
        ends["fixable"] += any(finding.fixable for finding in found)
    assert min(ends.values()) >= 5, ends


PLAIN = """
from torch import nn

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.wte = nn.Embedding(12, 8)
        self.head = nn.Linear(8, 12, bias=False)
        self.tie_weights()

    def tie_weights(self):
        {body}
"""
LOADS = [
    "{one}.load_state_dict({other}.state_dict())",
    "{one}.load_state_dict({other}.state_dict(), strict=False)",
    "{one}.load_state_dict({other}.state_dict(), assign=True)",
    "state = {other}.state_dict(); {one}.load_state_dict(state)",
    "kept = {one}; kept.load_state_dict({other}.state_dict())",
    "assert {one}.load_state_dict({other}.state_dict())",
    "{one}.weight = {other}.weight",
    "{one}.load_state_dict({other}.state_dict()); {one}.weight = {other}.weight",
]


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("load", LOADS)
def test_a_state_that_is_loaded_is_a_copy(load: str, turned: bool, tmp_path: Path) -> None:
    one, other = ("self.wte", "self.head") if turned else ("self.head", "self.wte")
    text = PLAIN.format(body=load.format(one=one, other=other))
    space: dict[str, Any] = {}
    exec(text, space)
    model = space["Model"]()
    tied = model.head.weight is model.wte.weight
    assert torch.equal(model.head.weight, model.wte.weight)
    path = tmp_path / "model.py"
    path.write_text(text)
    found = [finding for finding in tiecheck.check(path).findings if finding.code == "TIE802"]
    assert bool(found) != tied
    memory = model.head.weight.data_ptr() == model.wte.weight.data_ptr()
    assert all(("memory" in finding.message) == memory for finding in found)
    done = fix_sources(parse_target(str(path)), Config(), FixOptions(unsafe=True, apply=True))
    if done.chosen and not tied:
        exec(path.read_text(), space)
        mended = space["Model"]()
        assert mended.head.weight is mended.wte.weight


def test_a_state_of_something_else_or_where_nothing_says_tie_is_no_copy(tmp_path: Path) -> None:
    path = tmp_path / "model.py"
    own = "self.head.load_state_dict(self.wte.state_dict())"
    path.write_text(PLAIN.format(body=own).replace("tie_weights", "begin"))
    assert codes(path) == []
    path.write_text(PLAIN.format(body="self.head.load_state_dict(torch.load('state.pt'))"))
    assert "TIE802" not in codes(path)
