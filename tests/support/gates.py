"""Gates, reports and placements made by hand, and maps that split a model over two devices."""

from __future__ import annotations

from tiny_models import groups_of
from torch import nn

from tiecheck.guard.gate import Gate
from tiecheck.placement.map_lookup import by_accelerate as device_of
from tiecheck.placement.model import module_tree
from tiecheck.placement.proposal.propose import propose_map
from tiecheck.records.placement import Placed, Placement, Plan, Proposal
from tiecheck.records.report import Finding, Report, TargetReport
from tiecheck.records.words import Unknown


def placed(model: nn.Module, names: tuple[str, ...], device_map) -> Placed:
    devices = tuple(device_of(device_map, name) for name in names)
    nbytes = dict(model.named_parameters(remove_duplicate=False))[names[0]].nbytes
    return Placed(names, "parameter", True, devices, nbytes, True)


def placement_of(model: nn.Module, device_map, *, proposal: Proposal | None = None, groups=None) -> Placement:
    """A placement as for a map that somebody gave."""
    rows = tuple(placed(model, names, device_map) for names in (groups or groups_of(model)))
    plan = Plan("given", "", "map", device_map, placed=rows)
    return Placement("map", "device_map=", None, (plan,), proposal)


def report_of(placement: Placement | None, *findings: Finding, kind: str = "checkpoint", **more) -> Report:
    target = TargetReport(
        target="model",
        type=kind,
        status="pass",
        architecture="Model",
        model_type=None,
        judged_for=None,
        layers=("live",),
        ties=more.pop("ties", ()),
        aliases=(),
        views=(),
        loaders=(),
        findings=findings,
        skips=more.pop("skips", ()),
        errors=(),
        rules_run=(),
        placement=placement,
    )
    return Report("0", (target,), 0.0)


def gate_of(model: nn.Module, device_map, **options) -> Gate:
    groups = options.pop("groups", None)
    return Gate(report_of(placement_of(model, device_map, groups=groups)), **options)


def on_two(model: nn.Module, first: str, second: str) -> dict[str, int | str]:
    """A proposal that keeps the ties on one device and puts a part of the model on another."""
    tree = module_tree(model)
    assert not isinstance(tree, Unknown)
    total, biggest = sum(tree.sizes), max(tree.sizes)
    memory = {first: biggest * 2 + total // 4, second: total}
    found = propose_map(tree, [], memory, getattr(model, "_no_split_modules", None) or ())
    assert set(found.device_map.values()) == {first, second}
    return dict(found.device_map)
