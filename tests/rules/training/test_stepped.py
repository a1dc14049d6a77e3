"""TIE702, 703, 707 and 708: real optimizers of torch, as people make them; each fix is executed."""

from __future__ import annotations

import copy
import random
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from rule_failures import gpt2, llama
from tie_kinds import Data, NewParameter, Pair, Param
from torch import nn

import tiecheck
from tiecheck.config.options import Config
from tiecheck.engine.options import check_beside, life_report
from tiecheck.rules.training.orphans import TiedWeightInNameGroup
from tiecheck.rules.training.stepped import case_slot, places_text, variable_of, without_orphans


def found(model: nn.Module, optimizer: Any) -> dict[str, Any]:
    report = tiecheck.check(model, optimizer=optimizer, select=["TIE7"], ignore=["TIE701"])
    assert not report.errors
    return {finding.code: finding for finding in report.findings}


def mended(model: nn.Module, optimizer: Any, code: str, choice: str | None = None) -> None:
    finding = found(model, optimizer)[code]
    edit = next(edit for edit in finding.edits if choice in (None, edit.choice))
    for step in edit.steps:
        exec(step.code, {"model": model, "optimizer": optimizer})
    assert code not in found(model, optimizer)
    one = optimizer[0] if isinstance(optimizer, list) else optimizer
    one.state_dict()


def stepped(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 2) -> torch.Tensor:
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.arange(6)).square().sum().backward()
        optimizer.step()
    return model.one().detach().clone()


def doubled(model: nn.Module) -> torch.optim.Optimizer:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.optim.SGD([*model.parameters(), model.one()], lr=0.1)


def test_one_tensor_twice_in_a_group_is_stepped_twice() -> None:
    model = Param()
    twice, once = copy.deepcopy(model), copy.deepcopy(model)
    assert not torch.equal(
        stepped(twice, doubled(twice), 1), stepped(once, torch.optim.SGD(once.parameters(), lr=0.1), 1)
    )
    optimizer = doubled(model)
    assert found(model, optimizer)["TIE702"].severity == "error"
    assert "are one tensor, which stands 2 times" in found(model, optimizer)["TIE702"].message
    mended(model, optimizer, "TIE702")


@pytest.mark.parametrize("kind", [NewParameter, Data])
def test_one_memory_under_two_parameters_is_stepped_twice(kind: type[Pair]) -> None:
    model = kind()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    assert found(model, optimizer)["TIE702"].severity == "error"
    shared = kind()
    stepped(shared, torch.optim.AdamW(shared.parameters(), lr=0.1))
    assert torch.equal(shared.one(), shared.other()), "no comparison of values notices"
    mended(model, optimizer, "TIE702")
    assert model.one() is model.other()


def test_masters_in_float32_stand_for_their_half_precision_parameters() -> None:
    model = Param().half()
    masters = [parameter.detach().clone().float().requires_grad_() for parameter in model.parameters()]
    optimizer = torch.optim.AdamW(masters)
    assert not found(model, optimizer)
    model.emb.weight = model.lin.weight = nn.Parameter(torch.ones_like(model.emb.weight))
    assert found(model, optimizer)["TIE707"].names == ("emb.weight", "lin.weight")


@pytest.mark.parametrize("padding", [0, 5])
def test_flat_masters_stand_for_all_that_lies_in_them(padding: int) -> None:
    model = Param()
    model.mlp = nn.Linear(3, 3)
    model = model.half()
    halves = list(model.parameters())
    flat = nn.functional.pad(torch.cat([p.detach().float().flatten() for p in halves]), (0, padding)).requires_grad_()
    optimizer = torch.optim.SGD([flat], lr=1.0)
    assert not found(model, optimizer)
    flat.grad = torch.ones_like(flat)
    optimizer.step()
    assert found(model, optimizer)["TIE707"], "not copied back: what the model has is stepped by nobody"
    begin = 0
    for own in halves:
        own.data.copy_(flat.detach()[begin : begin + own.numel()].view_as(own))
        begin += own.numel()
    assert not found(model, optimizer)


def test_what_replaces_an_orphan_keeps_its_settings() -> None:
    model = Param()
    model.mlp = nn.Linear(3, 3)
    table = {"params": [model.emb.weight], "lr": 0.5, "weight_decay": 0.0}
    optimizer = torch.optim.AdamW([table, {"params": list(model.mlp.parameters())}], lr=1e-3)
    model.emb.weight = model.lin.weight = nn.Parameter(torch.ones(9, 6))
    mended(model, optimizer, "TIE707")
    first, second = optimizer.param_groups
    assert [id(p) for p in first["params"]] == [id(model.emb.weight)]
    assert (first["lr"], len(second["params"])) == (0.5, 2)


@pytest.mark.parametrize("kind", [NewParameter, Data])
def test_one_memory_of_which_one_side_is_stepped_is_told_once(kind: type[Pair]) -> None:
    model = kind()
    optimizer = torch.optim.AdamW([model.emb.weight])
    assert set(found(model, optimizer)) == {"TIE703"}
    mended(model, optimizer, "TIE703")
    assert model.emb.weight is model.lin.weight


def test_two_optimizers_over_one_tensor_are_a_warning() -> None:
    model = Param()
    both = [torch.optim.SGD(model.parameters(), lr=0.1), torch.optim.AdamW(model.parameters())]
    assert found(model, both)["TIE702"].severity == "warning"


def untied_llama() -> Any:
    model = llama()
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    return model


def test_members_that_are_apart_and_trained_by_other_rules() -> None:
    model = untied_llama()
    names = dict(model.named_parameters())
    head = names.pop("lm_head.weight")
    optimizer = torch.optim.AdamW([{"params": list(names.values()), "weight_decay": 0.0}, {"params": [head]}])
    assert found(model, optimizer)["TIE703"].severity == "warning"
    mended(model, optimizer, "TIE703")
    assert model.lm_head.weight is model.model.embed_tokens.weight
    model = untied_llama()
    assert "TIE703" not in found(model, torch.optim.AdamW(model.parameters()))
    model = llama(tied=False)
    assert not found(
        model, torch.optim.AdamW([{"params": [p], "lr": 0.1 / n} for n, p in enumerate(model.parameters(), 1)])
    )


TABLES = {gpt2: "wte", llama: "embed_tokens"}


def replaced(build: Callable[[], Any]) -> tuple[Any, torch.optim.Optimizer]:
    model = build()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    ids = torch.arange(8)[None]
    model(ids, labels=ids).loss.backward()
    optimizer.step()
    model.set_input_embeddings(nn.Embedding(40, 16))
    model.config.vocab_size = 40
    model.tie_weights()
    return model, optimizer


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("build", [gpt2, llama])
def test_an_embedding_replaced_after_the_optimizer_was_made(build: Callable[[], Any]) -> None:
    model, optimizer = replaced(build)
    assert tiecheck.check(model).targets[0].status == "pass", "the tie is whole"
    finding = found(model, optimizer)["TIE707"]
    assert finding.severity == "error"
    assert set(finding.names) == {"lm_head.weight", f"{model.base_model_prefix}.{TABLES[build]}.weight"}
    mended(model, optimizer, "TIE707")
    before = model.lm_head.weight.detach().clone()
    ids = torch.arange(8)[None]
    optimizer.zero_grad()
    model(ids, labels=ids).loss.backward()
    optimizer.step()
    assert not torch.equal(before, model.lm_head.weight)


def test_a_copy_of_the_embedding_that_nothing_steps_is_told_where_all_else_is_stepped() -> None:
    for way in ("replaced after the optimizer was made", "left out by its name"):
        model = Param()
        model.mlp = nn.Linear(3, 3)
        before = torch.optim.SGD(model.parameters(), lr=0.1)
        model.lin.weight = nn.Parameter(model.emb.weight.detach().clone())
        named = [one for name, one in model.named_parameters() if "lin" not in name]
        optimizer = before if way.startswith("replaced") else torch.optim.SGD(named, lr=0.1)
        finding = found(model, optimizer)["TIE707"]
        assert (finding.severity, finding.names) == ("warning", ("emb.weight", "lin.weight"))
        stepped(model, optimizer)
        assert not torch.equal(model.emb.weight, model.lin.weight)
        model.lin.weight = nn.Parameter(model.emb.weight.detach().clone())
        mended(model, optimizer, "TIE707")
        stepped(model, optimizer)
        assert torch.equal(model.emb.weight, model.lin.weight)


def test_a_copy_of_an_embedding_that_was_one_module_under_two_names_is_told_where_nothing_steps_it() -> None:
    model = nn.ModuleDict({"wte": nn.Embedding(12, 8), "wpe": nn.Embedding(6, 8), "ln": nn.LayerNorm(8)})
    model["ff_out"] = model["wte"]
    optimizer = torch.optim.AdamW(model.parameters())
    model["ff_out"] = copy.deepcopy(model["wte"])
    assert found(model, optimizer)["TIE707"].names == ("ff_out.weight", "wte.weight")
    assert not found(model, torch.optim.AdamW(model.parameters()))
    assert not found(model, torch.optim.AdamW([*model.wte.parameters(), *model.ln.parameters()])), "a part is trained"
    mended(model, optimizer, "TIE707")
    assert model.ff_out.weight is model.wte.weight


def loaded_by_assignment(model: Any) -> Any:
    model.load_state_dict({name: tensor.clone() for name, tensor in model.state_dict().items()}, assign=True)
    return model


def averages_swapped_in(model: Any) -> Any:
    for name, tensor in [*model.named_parameters(remove_duplicate=False)]:
        path, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(path), attribute, nn.Parameter(tensor.detach() * 0.9))
    return model


def rounded(model: Any) -> Any:
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.weight = nn.Parameter(module.weight.detach().bfloat16().float())
    return model


def head_replaced(model: Any) -> Any:
    model.lm_head = nn.Linear(model.config.hidden_size, model.config.vocab_size, bias=False)
    return model


LATE = (loaded_by_assignment, averages_swapped_in, rounded, head_replaced, copy.deepcopy, averages_swapped_in)


@pytest.mark.parametrize("seed", range(10))
def test_fixes_done_one_after_another_leave_each_parameter_in_one_place(seed: int) -> None:
    draw = random.Random(seed)
    model: Any = llama()
    parts = [[*model.model.layers.parameters()], [model.lm_head.weight, *model.model.norm.parameters()]]
    groups = draw.choice(([parts[0] + parts[1]], parts, parts[::-1]))
    optimizer = torch.optim.AdamW([{"params": group, "lr": 0.1 / n} for n, group in enumerate(groups, 1)])
    for late in draw.sample(LATE, draw.randint(1, 2)):
        model = late(model)
    report = tiecheck.check(model, optimizer=optimizer, ignore=["TIE701"])
    findings = [finding for finding in report.findings if finding.severity != "info"]
    assert findings
    for finding in findings:
        for step in finding.edits[0].steps:
            exec(step.code, {"model": model, "optimizer": optimizer})
    assert not [one for one in tiecheck.check(model, optimizer=optimizer, ignore=["TIE701"]).findings if one.fixable]
    held = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(held) == sorted(map(id, model.parameters()))
    assert model.lm_head.weight is model.model.embed_tokens.weight
    optimizer.step()


def test_what_is_left_out_on_purpose_is_no_finding() -> None:
    model = Pair()
    model.lin.weight = nn.Parameter(model.emb.weight.detach().clone())
    model.mlp = nn.Linear(3, 3)
    assert found(model, torch.optim.SGD(model.lin.parameters(), lr=0.1)) == {}, "a probe trains the head alone"
    both = [*model.emb.parameters(), *model.lin.parameters()]
    assert found(model, torch.optim.SGD(both, lr=0.1)) == {}
    model.lin.requires_grad_(False)
    assert found(model, torch.optim.SGD([one for one in model.parameters() if one.requires_grad], lr=0.1)) == {}


def test_what_an_optimizer_may_well_do_is_silent() -> None:
    model, criterion = Param(), nn.Linear(2, 2)
    assert not found(model, torch.optim.AdamW([*model.parameters(), *criterion.parameters()]))
    assert not found(model, torch.optim.AdamW(model.parameters(), lr=0.1))
    model.lin.weight.requires_grad_(False)
    assert not found(model, torch.optim.SGD(criterion.parameters()))
    whole = llama()
    assert not found(whole, torch.optim.SGD(whole.model.layers.parameters(), lr=0.1)), "a part is trained"
    head = [whole.lm_head.weight, *criterion.parameters()]
    assert not found(whole, torch.optim.SGD(head, lr=0.1)), "a part is trained, with the weights of a loss"
    storage = NewParameter()
    storage.emb.weight.requires_grad_(False)
    assert not found(storage, torch.optim.SGD([storage.lin.weight], lr=0.1))


def test_a_tied_table_lands_in_the_group_of_the_matrices() -> None:
    model = llama()
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "lm_head" not in n]
    rest = [p for n, p in model.named_parameters() if p.ndim < 2 or "lm_head" in n]
    both = [torch.optim.Muon(matrices, lr=0.1), torch.optim.AdamW(rest)]
    finding = found(model, both)[TiedWeightInNameGroup.code]
    assert finding.severity == "warning"
    mended(model, both, "TIE708")
    assert any(p is model.lm_head.weight for p in both[1].param_groups[0]["params"])
    right = [p for p in matrices if p is not model.lm_head.weight]
    assert not found(model, [torch.optim.Muon(right), torch.optim.AdamW([*rest, model.lm_head.weight])])


def test_what_is_no_optimizer_is_refused() -> None:
    with pytest.raises(tiecheck.TiecheckError, match="optimizer="):
        tiecheck.check(Param(), optimizer=Param())
    with pytest.raises(tiecheck.TiecheckError, match="not with a path"):
        tiecheck.check("somewhere", optimizer=doubled(Param()))
    with pytest.raises(tiecheck.TiecheckError, match="beside="):
        tiecheck.check(Param(), beside=[3])


def test_the_lines_that_drop_orphans_leave_an_optimizer_with_the_models_own() -> None:
    model = Param()
    optimizer = torch.optim.SGD([*model.parameters(), nn.Parameter(torch.ones(2))], lr=0.1)
    exec("\n".join(without_orphans({"optimizer"})), {"model": model, "optimizer": optimizer})
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert held == [id(p) for p in model.parameters()]
    slot = case_slot()
    assert (variable_of(slot), variable_of(slot._replace(optimizers=2, optimizer=1))) == ("optimizer", "optimizer[1]")
    assert places_text(()) == "in no group"
    assert places_text((slot,), settings=True) == "group 0 of AdamW (lr 0.1, weight_decay 0.0)"


def test_a_report_in_company_is_that_of_the_call_and_one_of_nothing_is_empty() -> None:
    model = Param()
    report = check_beside(model, Config(select=("TIE7",), ignore=("TIE701",)), doubled(model))
    assert {one.code for one in report.findings} == set(found(model, doubled(model)))
    assert life_report("model", ()).findings == ()
