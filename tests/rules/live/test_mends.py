"""The Python that a finding tells to run: pasted where `model` is the model, and then looked at what is really tied."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from breaks import BREAKS, Group, NotHereError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from live_failures import bert, gpt, small_llama
from mend_runs import APART, carry_out, is_whole, judged, paste, survives_a_save
from mend_subjects import CONTRACT, SUBJECTS, Subject
from tiny_models import SMALL, built, groups_of
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from tiecheck.records.edits import NO_MEND
from tiecheck.records.hops import Hop
from tiecheck.records.live import Alias
from tiecheck.records.mending import Mending
from tiecheck.rules.live.mends import model_path, own_tensors

GARBAGE = ("to-empty",)
"""Ways after which no value means anything."""

UNSAVED = ("transposed-copy", "half-of-one-module", "overwritten-on-conversion")
"""Ways after which transformers itself does not write the model down as it is: strides, two types."""


def fresh(name: str) -> Any:
    """A model that does not look untrained."""
    torch.manual_seed(0)
    model = bert() if name == "BertForMaskedLM" else built(name)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    return model


def run_alternatives(name: str, way: str, last: bool) -> int:
    """Carry out every alternative of what is said of one broken model, and return their number."""
    done = 0
    for names in sorted(groups_of(fresh(name))):

        def broken(names: tuple[str, ...] = names) -> nn.Module:
            torch.manual_seed(1)
            return BREAKS[way].do(fresh(name), Group(names, names[-last]))[0]

        try:
            findings = judged(broken())
        except NotHereError:
            continue
        for finding in findings:
            assert finding.edits or finding.help.startswith(NO_MEND)
            for edit in finding.edits:
                _, model = carry_out(broken, finding.code, edit.choice)
                done += 1
                computed = any(n.endswith("_orig") or "parametrizations" in n for n, _ in model.named_parameters())
                if way not in UNSAVED and not computed and is_whole(model):
                    survives_a_save(model)
    return done


WAYS = sorted(BREAKS.keys() - set(GARBAGE))


@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(sorted([*SMALL, "BertForMaskedLM"])), st.sampled_from(WAYS), st.booleans())
def test_drawn_breaks_are_mended_by_what_is_told(name: str, way: str, last: bool) -> None:
    run_alternatives(name, way, last)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted([*SMALL, "BertForMaskedLM"]))
def test_every_break_is_mended_by_what_is_told(name: str) -> None:
    assert sum(run_alternatives(name, way, last) for way in WAYS for last in (False, True)) > 20


@pytest.mark.parametrize("subject", SUBJECTS, ids=str)
def test_each_alternative_does_what_it_says(subject: Subject) -> None:
    def build() -> nn.Module:
        torch.manual_seed(0)
        return subject.build()

    findings = judged(build(), **subject.options)
    assert {f.code: {edit.choice for edit in f.edits} for f in findings} == subject.alternatives
    for finding in findings:
        assert finding.edits or finding.help.startswith(NO_MEND)
        for edit in finding.edits:
            if any(step.kind == "edit-source" for step in edit.steps):
                continue  # in test_source_mends.py
            _, model = carry_out(build, finding.code, edit.choice, **subject.options)
            if hasattr(model, "save_pretrained") and is_whole(model):
                survives_a_save(model)


def test_the_order_in_which_a_contract_lists_its_names_decides_nothing() -> None:
    model = gpt(tied=False)
    ways = [judged(model, ties=[list(names)])[0].edits for names in (CONTRACT["ties"][0], CONTRACT["ties"][0][::-1])]
    assert ways[0] == ways[1]
    model.lm_head.weight = nn.Parameter(model.wte.weight.detach().clone())
    ways = [judged(model, ties=[list(names)])[0].edits for names in (CONTRACT["ties"][0], CONTRACT["ties"][0][::-1])]
    assert ways[0] == ways[1]


@pytest.mark.parametrize("wrap", [nn.DataParallel, AveragedModel, torch.compile], ids=lambda one: one.__name__)
def test_it_is_run_on_what_was_checked(wrap: Any) -> None:
    def build() -> nn.Module:
        model = small_llama()
        model.lm_head.weight = nn.Parameter(torch.ones(32, 16))
        return wrap(model)

    for choice in ("tied", "lm_head.weight", "untied"):
        carry_out(build, "TIE301", choice)


@pytest.fixture
def one_process() -> Iterator[None]:
    """A process group of one, on the CPU."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def step(model: Any) -> None:
    """Train on eight tokens."""
    ids = torch.arange(8)[None]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(ids, labels=ids).loss.backward()
    optimizer.step()


@pytest.mark.usefixtures("one_process")
def test_fsdp2_wants_both_in_one_call() -> None:
    """Sharded apart they are two, and the first forward pass raises, also after tie_weights()."""
    model = small_llama()
    fully_shard(model.model.embed_tokens)
    fully_shard(model.lm_head)
    fully_shard(model)
    (finding,) = judged(model)
    assert "tie_weights" not in finding.help
    model.tie_weights()
    with pytest.raises(ValueError, match="another FSDP group"):
        step(model)
    (edit,) = finding.edits
    again = small_llama()
    paste(edit, again)
    fully_shard(again)
    assert judged(again) == []
    step(again)
    assert again.lm_head.weight is again.model.embed_tokens.weight


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("choice", ["tied", "lm_head.weight", "untied"])
def test_ddp_wants_it_before_it_is_made(choice: str) -> None:
    model = small_llama()
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach() + 1)
    (finding,) = judged(DistributedDataParallel(copy.deepcopy(model)))
    edit = next(edit for edit in finding.edits if edit.choice == choice)
    assert "not wrapped by DistributedDataParallel yet" in (edit.when or "")
    paste(edit, model)
    wrapped = DistributedDataParallel(model)
    assert judged(wrapped) == []
    step(wrapped)
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == (choice not in APART)


@pytest.mark.parametrize(
    ("hops", "path", "indexed"),
    [
        ((), "model.lm_head.weight", "model[0].weight"),
        ((Hop("", "module", "DDP", False, False, ()),), "model.module.lm_head.weight", "model.module[0].weight"),
        ((Hop("", "inner", "compiled", True, False, ()),), "model.lm_head.weight", "model.inner[0].weight"),
        ((Hop("lm_head", "inner", "compiled", True, False, ()),), "model.lm_head.inner.weight", "model[0].weight"),
        ((Hop("lm_head", "inner", "beside", True, False, ("weight",)),), "model.lm_head.weight", "model[0].weight"),
    ],
)
def test_a_name_is_reached_as_the_user_reaches_it(hops: tuple[Hop, ...], path: str, indexed: str) -> None:
    mending = Mending("Model", (), None, (), (), (), (), hops=hops)
    assert model_path(mending, "lm_head.weight") == path
    assert model_path(mending, "0.weight") == indexed
    assert model_path(mending, "heads.0.weight").endswith("heads[0].weight")


def test_an_aliased_module_is_copied_whole() -> None:
    alias = Alias(("a", "b"), 2, "Linear", True, ("a.bias", "a.weight", "b.bias", "b.weight"))
    mending = Mending("Model", (), None, (), (alias,), (), ())
    assert own_tensors(mending, ["b.weight", "b.bias", "c.weight"]) == (
        "import copy",
        "model.b = copy.deepcopy(model.b)",
        "model.c.weight = copy.deepcopy(model.c.weight)",
    )
