"""The change of a class that a finding tells: typed into its source, which is run, built, judged, saved and loaded."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch
from live_failures import config
from mend_runs import judged, paste, survives_a_save, ties_of
from source_edits import edited

import tiecheck
from tiecheck.records.report import Finding

HEAD = "lm_head.weight"
PAIR = frozenset({HEAD, "model.embed_tokens.weight"})

IMPORTS = """
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

"""

LIST = """
class Own(LlamaForCausalLM):
    _tied_weights_keys = [
        "lm_head.weight",  # as 4.x has it
    ]
"""

LIST_AND_METHOD = """
class Own(LlamaForCausalLM):
    _tied_weights_keys = ["lm_head.weight"]

    def tie_weights(self):
        super().tie_weights()
        self.told = True
"""

IDLE_OLD = """
class Own(LlamaForCausalLM):
    def tie_weights(self):
        pass
"""

IDLE = """
class Own(LlamaForCausalLM):
    '''The first thing that one does about the TypeError of the other.'''

    def tie_weights(self, *args, **kw):
        pass
"""

ITSELF = """
class Own(LlamaForCausalLM):
    _tied_weights_keys = {"lm_head.weight": "lm_head.weight"}
"""

NOTHING = """
class Own(LlamaForCausalLM):
    _tied_weights_keys = {"lm_head.weight": "model.embed_token.weight"}
"""

BESIDE = """
class Own(PreTrainedModel):
    config_class = LlamaConfig
    _tied_weights_keys = {"lin": "emb"}

    def __init__(self, config):
        super().__init__(config)
        self.emb = nn.Linear(4, 4, bias=False)
        self.lin = nn.Linear(4, 4, bias=False)
        self.lin2 = nn.Linear(4, 4, bias=False)
        self.post_init()
"""

UNDECLARED = """
class Own(LlamaForCausalLM):
    def __init__(self, config):
        super().__init__(config)
        attention = self.model.layers[0].self_attn
        attention.k_proj.weight = attention.q_proj.weight
"""

IN_A_LIST = """
class Own(PreTrainedModel):
    config_class = LlamaConfig

    def __init__(self, config):
        super().__init__(config)
        self.parts = nn.ModuleList([LlamaForCausalLM(config)])
        self.post_init()
"""

CHAIN = """
class Base(PreTrainedModel):
    config_class = LlamaConfig
    base_model_prefix = "model"


class Decoder(nn.Module):
    def __init__(self, config, embed_tokens):
        super().__init__()
        self.embed_tokens = embed_tokens
        self.mix = nn.Linear(16, 16)
        self.output_projection = nn.Linear(16, 32, bias=False)


class Model(Base):
    def __init__(self, config):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(32, 16)
        self.decoder = Decoder(config, self.embed_tokens)
        self.post_init()


class Own(Base):
    _tied_weights_keys = {
        "model.decoder.embed_tokens.weight": "model.embed_tokens.weight",
        "model.decoder.output_projection.weight": "model.embed_tokens.weight",
        "lm_head.weight": "model.decoder.output_projection.weight",
    }

    def __init__(self, config):
        super().__init__(config)
        self.model = Model(config)
        self.lm_head = self.model.decoder.output_projection

    def get_input_embeddings(self):
        return self.model.embed_tokens

    def tie_weights(self):
        super().tie_weights()
        self.lm_head = self.model.decoder.output_projection
"""
"""A port with keys in a chain, whose head is a module of its decoder, and that calls no post_init()."""

CLASSES = {
    "list": (LIST, "TIE311", {PAIR}),
    "list-and-method": (LIST_AND_METHOD, "TIE311", {PAIR}),
    "idle-of-4": (IDLE_OLD, "TIE311", {PAIR}),
    "idle": (IDLE, "TIE301", {PAIR}),
    "itself": (ITSELF, "TIE309", {PAIR}),
    "nothing": (NOTHING, "TIE309", {PAIR}),
    "beside": (BESIDE, "TIE310", {frozenset({"lin.weight", "emb.weight"})}),
    "undeclared": (
        UNDECLARED,
        "TIE304",
        {PAIR, frozenset(f"model.layers.0.self_attn.{n}_proj.weight" for n in "kq")},
    ),
    "in-a-list": (IN_A_LIST, "TIE304", {frozenset(f"parts.0.{name}" for name in PAIR)}),
    "chain": (
        CHAIN,
        "TIE311",
        {PAIR | {f"model.decoder.{name}.weight" for name in ("embed_tokens", "output_projection")}},
    ),
}


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
