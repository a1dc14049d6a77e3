"""What a forward pass reads: each use of a tensor by its role, under the names it is reached by."""

from __future__ import annotations

import copy
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from older import python_with
from torch import nn
from used_models import MODELS, Known

import tiecheck
from tiecheck.records.uses import Use, names_not_taken

SMALL = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
PAIR = ("lm_head.weight", "model.embed_tokens.weight")


def brief(uses: tuple[Use, ...], *names: str) -> list[tuple[Any, ...]]:
    """Role, turned, scale and names that lead to it, of each use of the tensor that has these names."""
    return [
        (u.role, u.transposed, None if u.scale is None else round(u.scale, 6), u.reached)
        for u in uses
        if u.names == tuple(sorted(names))
    ]


def llama(*, meta: bool = False, **more: Any) -> Any:
    config = transformers.LlamaConfig(**SMALL, **more)
    if not meta:
        return transformers.LlamaForCausalLM(config)
    with torch.device("meta"):
        return transformers.LlamaForCausalLM(config)


@pytest.mark.parametrize("meta", [False, True], ids=["real", "meta"])
def test_a_tied_llama_looks_up_and_multiplies(meta: bool) -> None:
    uses = tiecheck.uses(llama(meta=meta, tie_word_embeddings=True))
    assert brief(uses, *PAIR) == [("embedding", False, 1.0, PAIR[1:]), ("linear", False, 1.0, PAIR[:1])]
    assert {use.role for use in uses} == {"embedding", "linear", "other"}


def test_the_model_is_left_as_it_was() -> None:
    model = llama(tie_word_embeddings=True).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    dictionaries = [(id(m._parameters), id(m._modules), set(m.__dict__)) for m in model.modules()]
    state = torch.get_rng_state()
    tiecheck.uses(model)
    assert model.training
    assert torch.equal(state, torch.get_rng_state())
    assert dictionaries == [(id(m._parameters), id(m._modules), set(m.__dict__)) for m in model.modules()]
    assert not any(vars(parameter) for parameter in model.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


class Lambda(nn.Module):
    """A head in a closure, over the weight itself."""

    def __init__(self) -> None:
        super().__init__()
        self.wte = nn.Embedding(8, 4)
        weight = self.wte.weight
        self.head = lambda x: F.linear(x, weight)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.wte(ids) * 2)


def test_a_copy_of_a_closure_reads_a_tensor_of_elsewhere() -> None:
    model = Lambda()
    own = tiecheck.uses(model)
    assert brief(own, "wte.weight") == [
        ("embedding", False, 2.0, ("wte.weight",)),
        ("linear", False, 1.0, ("wte.weight",)),
    ]
    copied = tiecheck.uses(copy.deepcopy(model))
    assert brief(copied, "wte.weight") == [("embedding", False, 2.0, ("wte.weight",))]
    (foreign,) = (use for use in copied if use.held == "nowhere")
    assert (foreign.names, foreign.role, foreign.shape) == ((), "linear", (8, 4))


def test_what_stops_every_pass_is_named() -> None:
    class Stops(nn.Linear):
        def forward(self, x: Any) -> Any:
            return torch.linalg.inv(super().forward(x).reshape(3, -1))

    with pytest.raises(tiecheck.TiecheckError, match=r"stopped in \w*reshape"):
        tiecheck.uses(Stops(4, 4), torch.zeros(2, 4))


def test_a_slot_that_no_pass_takes_is_told() -> None:
    class Slot(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wte = nn.Embedding(8, 4)
            self.ff_out = self.wte

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return F.linear(self.wte(ids), self.wte.weight)

    uses = tiecheck.uses(Slot())
    assert [use.role for use in uses] == ["embedding", "linear"]
    assert names_not_taken(uses) == ("ff_out.weight",)


@pytest.mark.parametrize("known", MODELS, ids=lambda known: known.name)
def test_uses_are_those_written_down(known: Known) -> None:
    model = known.build()
    uses = tiecheck.uses(model, known.inputs)
    assert brief(uses, *known.names) == [(r, t, s if s is None else round(s, 6), by) for r, t, s, by in known.uses]
    assert not any(use.held == "nowhere" for use in uses)


@pytest.mark.parametrize("form", ["module-alias", "parameter-tie", "functional-head"])
def test_olmo_in_its_three_forms(form: str, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    report = tiecheck.inspect(models / f"olmo-{form}", uses=True, trust_remote_code=True)
    (target,) = report.targets
    table, slot = "model.transformer.wte.weight", "model.transformer.ff_out.weight"
    assert target.layers[-1] == "used"
    names = (table,) if form == "functional-head" else (slot, table)
    by_table = [("embedding", False, 1.0, (table,)), ("linear", False, 1.0, (table,))]
    assert brief(target.uses.uses, *names) == by_table
    assert names_not_taken(use for use in target.uses.uses if use.names == names) == names[:-1]


REAL = """
import importlib.util, json, os, sys
import torch, tiecheck
from torch import nn
from x_transformers import Decoder, TransformerWrapper

place = next(path for folder in sys.path if os.path.isfile(path := f"{folder}/torchtune/modules/tied_linear.py"))
spec = importlib.util.spec_from_file_location("tied_linear", place)  # all of torchtune asks for torchao
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.tok = nn.Embedding(8, 4)
        self.output = module.TiedLinear(self.tok)
    def forward(self, ids):
        return self.output(self.tok(ids))

layers = Decoder(dim=32, depth=1, heads=2)
wrapped = TransformerWrapper(num_tokens=64, max_seq_len=32, tie_embedding=True, attn_layers=layers)
found = {}
for model, table in ((Net(), "tok.weight"), (wrapped, "token_emb.emb.weight")):
    found[table] = [u.role for u in tiecheck.uses(model, torch.ones(1, 8, dtype=torch.long)) if table in u.names]
print(json.dumps(found))
"""


@pytest.mark.slow
def test_the_real_tied_heads_of_torchtune_and_x_transformers() -> None:
    packages = (
        "torchtune==0.6.0",
        "x-transformers==2.31.10",
        "einx==0.4.3",
        "einops==0.8.2",
        "loguru",
        "frozendict",
        "torch-einops-utils",
    )
    python = python_with("tied-heads", "--no-deps", *packages)
    env = os.environ | {"PYTHONPATH": str(Path(tiecheck.__file__).parents[1])}
    done = subprocess.run([python, "-c", REAL], check=True, capture_output=True, text=True, env=env)
    both = ["embedding", "linear"]
    assert json.loads(done.stdout.splitlines()[-1]) == {"tok.weight": both, "token_emb.emb.weight": both}
