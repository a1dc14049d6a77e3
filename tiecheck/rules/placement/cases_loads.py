"""Facts for the cases of the placement rules: a tied pair under a device map, and what a load makes of it."""

from __future__ import annotations

from typing import Any

from tiecheck.records.placement import LoadForm, Placed, PlacedLoad, Placement, Plan
from tiecheck.rules.cases import EMBEDDING, PAIR


def placed(**changes: Any) -> Placed:
    """The pair on one device.

    Args:
        changes: Fields of the Placed.
    """
    plain = Placed(names=PAIR, kind="parameter", declared=True, devices=("cuda:0", "cuda:0"), nbytes=8_192, seen=True)
    return plain._replace(**changes)


def plan(**changes: Any) -> Plan:
    """A plan of accelerate that keeps the pair together.

    Args:
        changes: Fields of the Plan.
    """
    plain = Plan(
        tool="accelerate",
        version="1.15.0",
        strategy="auto",
        device_map={"model": 0, "lm_head": 0},
        memory={0: 1_000_000, "cpu": 1_000_000},
        counted={"cuda:0": 100_000},
        placed=(placed(),),
        used={"cuda:0": 100_000},
    )
    return plain._replace(**changes)


def placed_load(form: LoadForm, **changes: Any) -> PlacedLoad:
    """What becomes of the pair in a load, the embedding alone being stored.

    Args:
        form: What happens.
        changes: Fields of the PlacedLoad.
    """
    ours = form != "overwrites"
    plain = PlacedLoad(
        tool="transformers" if ours else "accelerate",
        function="from_pretrained" if ours else "load_checkpoint_in_model",
        form=form,
        names=PAIR,
        devices=("cpu", "cpu"),
        stored=(EMBEDDING,),
        message=None,
        harmless=False,
        versions="5.23.0" if ours else "1.15.0",
    )
    return plain._replace(**changes)


def placement(*plans: Plan, **changes: Any) -> Placement:
    """A placement of some plans, or of one that is in order.

    Args:
        plans: The plans.
        changes: Fields of the Placement.
    """
    plain = Placement(
        strategy="auto",
        origin="--device-map",
        memory={0: 1_000_000, "cpu": 1_000_000},
        plans=plans or (plan(),),
        proposal=None,
        installed="1.15.0",
    )
    return plain._replace(**changes)
