"""What TIE502 says of accelerate's "not tied", true and false, with the installed libraries; and whom it hurts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch.nn.functional as F
from plans_by_hand import facts_for, given, live_of, placement, planned, run_mend
from split_models import BIG, EMBEDDING, HEAD, Net, Olmo, Sharing, config
from torch import nn
from transformers import LlamaForCausalLM, PreTrainedModel

import tiecheck
from tiecheck.engine.findings import finding_of
from tiecheck.records.placement import Double, Placement, Plan
from tiecheck.records.report import Finding
from tiecheck.rules.base import Draft
from tiecheck.rules.live.applied import NOT_TIED
from tiecheck.rules.placement.counts import TiedMemoryCountedTwice
from tiecheck.rules.placement.unseen import TieInvisibleToLoader
from tiecheck.targets.parse import Target


def said(model: nn.Module, facts: Placement, **changes: Any) -> list[Draft]:
    return list(TieInvisibleToLoader().check(**facts_for(TieInvisibleToLoader, facts, live_of(model, **changes))))


def one(drafts: list[Draft]) -> Draft:
    (draft,) = drafts
    return draft


def both(model: nn.Module) -> tuple[Plan, Plan]:
    """transformers' plan and accelerate's."""
    return planned("transformers", model, BIG), planned("accelerate", model, BIG)


def untied(by: float = 0) -> Any:
    """A Llama whose head left the embedding, by a value or as a copy, under a flag that says tied."""
    model = LlamaForCausalLM(config())
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach() + by)
    return model


@pytest.mark.parametrize("by", [0, 1])
def test_a_true_warning_where_nothing_ties_the_head(by: int) -> None:
    model = untied(by)
    plan = planned("accelerate", model, BIG)
    assert plan.logged == (NOT_TIED,)
    draft = one(said(model, placement(plan)))
    assert draft.severity is None
    assert draft.names == (HEAD, EMBEDDING)
    assert "lm_head.weight and model.embed_tokens.weight are declared as one tensor and are two" in draft.message
    assert "They take 2 KiB more than tied" in draft.message
    assert [edit.choice for edit in draft.edits] == ["tied", *[HEAD] * by, "untied"]
    for edit in draft.edits:
        model = untied(by)
        run_mend(draft._replace(edits=(edit,)), model=model)
        again = planned("accelerate", model, BIG)
        assert again.logged == ()
        assert said(model, placement(again)) == []


def test_a_true_warning_that_from_pretrained_makes_harmless(tmp_path: Path) -> None:
    LlamaForCausalLM(config()).save_pretrained(tmp_path)
    loaded = LlamaForCausalLM.from_pretrained(tmp_path, device_map={"": "cpu"})
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    model = untied()
    draft = one(said(model, placement(*both(model)), origin="built on meta"))
    assert draft.severity == "info"
    assert draft.hurts is None
    assert "which is harmless: from_pretrained ties them while it loads" in draft.message


def test_a_broken_group_behind_another_tie_is_not_warned_of() -> None:
    model = untied()
    attention = [layer.self_attn for layer in model.model.layers]
    attention[0].k_proj.weight = attention[0].q_proj.weight
    plan = planned("accelerate", model, BIG)
    assert plan.logged == ()
    draft = one(said(model, placement(plan)))
    assert draft.severity is None
    assert draft.names == (HEAD, EMBEDDING)
    assert "warns of nothing, since it finds model.layers.0.self_attn.k_proj.weight" in draft.message
    model.tie_weights()
    assert said(model, placement(planned("accelerate", model, BIG))) == []


class Functional(PreTrainedModel):
    """OLMo and MPT: the embedding's own weight makes the logits; there is no head."""

    config_class = type(config())
    _no_split_modules = ()

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.wte = nn.Embedding(32, 16)
        self.body = nn.Linear(16, 16, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> Any:
        return self.wte

    def get_output_embeddings(self) -> Any:
        return self.wte

    def forward(self, ids: Any) -> Any:
        return F.linear(self.body(self.wte(ids)), self.wte.weight)


def test_a_functional_tie_is_warned_of_for_nothing() -> None:
    model = Functional(config())
    plan = planned("accelerate", model, BIG)
    assert plan.logged == (NOT_TIED,)
    draft = one(said(model, placement(plan)))
    assert draft.severity == "info"
    assert draft.hurts is None
    assert "It is harmless: get_output_embeddings() of Functional gives the embedding itself" in draft.message
    model.tie_weights()
    assert planned("accelerate", model, BIG).logged == (NOT_TIED,)  # the mend says that it does not go away
    assert "does not make it go away" in draft.no_mend


def test_a_module_alias_is_warned_of_by_versions_that_miss_it() -> None:
    model = Olmo()
    facts = placement(planned("accelerate", model, BIG, "sibling"), warns=("0.20-0.33",))
    draft = one(said(model, facts))
    assert draft.severity == "info"
    assert "accelerate 0.20-0.33 (versions) logs" in draft.message
    assert "ff_out and wte are one module, which accelerate before 0.34 does not see" in draft.message


@pytest.mark.parametrize("model", [LlamaForCausalLM(config()), LlamaForCausalLM(config(tie_word_embeddings=False))])
def test_models_in_order_say_nothing(model: nn.Module) -> None:
    assert said(model, placement(*both(model))) == []


def test_a_plain_untied_module_says_nothing() -> None:
    model = Net(tied=False)
    assert said(model, placement(planned("accelerate", model, BIG))) == []


def test_an_undeclared_tie_that_stays_together_is_a_note() -> None:
    model = Sharing(config())
    draft = one(said(model, placement(*both(model))))
    assert draft.severity == "info"
    kept = type("Own", (Sharing,), {"_tied_weights_keys": None})(config())
    run_mend(draft, model=kept)
    first, second = "model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight"
    assert type(kept)._tied_weights_keys == {first: second}
    assert "knows only what is declared, and not a tie that the module has" in draft.message
    assert "from_pretrained too ties only what is declared: it makes parameters apart" in draft.message


def test_keys_of_a_map_that_match_no_submodule() -> None:
    alias = given(Olmo(), {"wte": 0, "body": 0, "ff_out": 0})
    assert said(Olmo(), placement(alias)) == [], "the placement says that accelerate warns of it and wants it"
    typo = given(Net(), {"": 0, "bodyy": 1})
    draft = one(said(Net(), placement(typo)))
    assert draft.severity is None
    assert "The key 'bodyy' of the map matches no submodule of Net, and places nothing" in draft.message
    right = run_mend(draft, {"": 0, "bodyy": 1})["device_map"]
    assert said(Net(), placement(given(Net(), right))) == []
    assert said(Net(), placement(given(Net(), {"": 0, "body": 1}))) == []
    assert said(Net(), placement(given(Net(), {"": 0, "body.weight": 1}))) == []


# whom it hurts


def judged(draft: Draft, *loaders: tuple[str, str]) -> Finding:
    target = Target("model", "module", "model", None)
    return finding_of(TiedMemoryCountedTwice, draft, target, frozenset(loaders) or None)


def test_for_a_loader_raises_and_lowers_what_is_said() -> None:
    double = Double("block", "cuda:0", ("a.weight", "b.weight"), 8192, 6144)
    followed = planned("transformers", LlamaForCausalLM(config()), BIG)
    bad = planned("accelerate", Net(), BIG)._replace(doubles=(double,), moved={"tail": ("cpu", "cuda:0")})
    draft = one(list(TiedMemoryCountedTwice().check(placement(followed, bad))))  # type: ignore[arg-type]
    assert judged(draft).severity == "info"
    assert judged(draft, ("accelerate", "0.34-")).severity == "warning"
    assert judged(draft, ("transformers", "5")).severity == "info"
    own = one(list(TiedMemoryCountedTwice().check(placement(bad))))  # type: ignore[arg-type]
    assert judged(own).severity == "warning"
    assert judged(own, ("transformers", "5")).severity == "info"


def test_a_traced_pass_says_that_one_parameter_is_used_twice() -> None:
    room = {0: "1GiB", "cpu": "1GiB"}
    report = tiecheck.check(Functional(config()), device_map="auto", max_memory=room, uses=True, select=["TIE502"])
    (finding,) = report.findings
    assert finding.severity == "info"
    assert "one parameter, used twice, as embedding and as head" in finding.message
