"""What stands between a tied parameter and the weight in use, and members that do not fit or were meant to differ."""

from __future__ import annotations

import pytest
import torch
from accelerate import cpu_offload
from torch import nn
from torch.nn.utils import prune
from torch.nn.utils.parametrizations import spectral_norm

from tiecheck.live.derived_weights import effects_of
from tiecheck.live.mismatches import freezes_of, logits_misfits, misfits_of, parted_biases, unloaded_members
from tiecheck.live.registrations import Registrations
from tiecheck.live.ties import ties_of
from tiecheck.records.live import Candidate


def model() -> nn.ModuleDict:
    made = nn.ModuleDict({"emb": nn.Embedding(8, 4), "head": nn.Linear(4, 8)})
    made["head"].weight = made["emb"].weight
    return made


def places(module: nn.Module) -> Registrations:
    return Registrations(module, buffers=False)


def test_a_sound_tie_has_nothing_to_tell() -> None:
    (tie,) = ties_of(places(model()), 32)
    assert (tie.names, tie.kind) == (("emb.weight", "head.weight"), "parameter")
    assert effects_of(places(model())) == misfits_of(places(model())) == freezes_of(places(model())) == ()


def test_pruning_changes_what_one_side_uses() -> None:
    pruned = model()
    prune.l1_unstructured(pruned["head"], "weight", amount=0.5)
    (effect,) = effects_of(places(pruned))
    assert (effect.name, effect.form) == ("head.weight_orig", "changes")


def test_a_bias_of_another_length_does_not_fit_its_tied_weight() -> None:
    short = model()
    short["head"].bias = nn.Parameter(torch.zeros(5))
    (misfit,) = misfits_of(places(short))
    assert misfit[0] == "head.bias"
    assert misfit[2:] == (8, 5)


def test_the_logits_bias_of_a_model_is_held_against_its_head() -> None:
    class Bart(nn.Module):
        def __init__(self, rows: int) -> None:
            super().__init__()
            self.head = nn.Linear(4, 8, bias=False)
            self.register_buffer("final_logits_bias", torch.zeros(1, rows))

        def get_output_embeddings(self) -> nn.Module:
            return self.head

    assert logits_misfits([("", Bart(8))]) == ()
    (misfit,) = logits_misfits([("m.", Bart(6))])
    assert misfit[:2] == ("m.final_logits_bias", "m.head.weight")


@pytest.mark.parametrize("flag", [True, False])
@pytest.mark.parametrize("lengths", [(8, 8), (8, 5), (5, 8)])
def test_biases_of_one_class_have_one_length_whatever_the_flag_says(flag: bool, lengths: tuple[int, int]) -> None:
    made = nn.ModuleDict({one: nn.Linear(4, n) for one, n in zip("ab", lengths, strict=True)})
    group = Candidate(("a.bias", "b.bias"), "b.bias", (), flag=flag)
    weights = Candidate(("a.weight", "b.weight"), "b.weight", (), flag=flag)
    found = [(one.size, one.rows) for one in parted_biases(made, (group, weights))]
    assert found == ([(5, 8)] if not flag and len(set(lengths)) > 1 else [])


def test_a_tie_on_meta_is_told_where_the_rest_has_data_and_no_hook_holds_it() -> None:
    with torch.device("meta"):
        whole = model()
    assert told(whole) == () == told(model())
    whole.add_module("norm", nn.LayerNorm(4))
    assert told(whole)[0].startswith("emb.weight and head.weight: on the meta device")
    whole["emb"].weight = None
    spectral_norm(whole["head"])
    assert told(whole)[0].startswith("head.weight: on the meta device")
    alias = model()
    alias["head"] = alias["emb"]
    offloaded = nn.Sequential(cpu_offload(alias), nn.LayerNorm(4))
    assert places(offloaded).objects[0].is_meta
    assert told(offloaded) == ()


def told(module: nn.Module) -> tuple[str, ...]:
    prefix = "0." if isinstance(module, nn.Sequential) else ""
    return unloaded_members(module, places(module), [(f"{prefix}emb.weight", f"{prefix}head.weight")])
