"""Placement facts for the rules' own cases: a little Llama under a plan that is in order."""

from __future__ import annotations

from typing import Any, Literal

from tiecheck.records.placement import Placed, PlacedLoad, Placement, Plan, Proposal
from tiecheck.rules.cases import EMBEDDING, HEAD, PAIR
from tiecheck.rules.placement.plans import keyed

MAP: dict[str, int | str] = {"model.embed_tokens": 0, "lm_head": 0, "model.layers": 1, "model.norm": 1}
VERSIONS = {"accelerate": "1.15.0", "transformers": "5.23.0", "given": ""}


def placed(*devices: str | None, **changes: Any) -> Placed:
    """The Llama's group: the head's device and the embedding's."""
    plain = Placed(
        names=PAIR, kind="parameter", declared=True, devices=devices or ("cuda:0",) * 2, nbytes=8192, seen=True
    )
    return plain._replace(**changes)


def plan(
    tool: Literal["accelerate", "transformers", "given"] = "transformers", *groups: Placed, **changes: Any
) -> Plan:
    """A plan of one tool, with the groups it places."""
    plain = Plan(
        tool=tool,
        version=VERSIONS[tool],
        strategy="map" if tool == "given" else "auto",
        device_map=_homes(groups[0]) if groups and groups[0].names == PAIR else MAP,
        placed=groups or (placed(),),
        used={"cuda:0": 8192, "cuda:1": 14656},
    )
    return plain._replace(**changes)


def _homes(group: Placed) -> dict[str, int | str]:
    """The map that puts the Llama's group where it is said to be."""
    at = {
        home: keyed(device)
        for home, device in zip(("lm_head", "model.embed_tokens"), group.devices, strict=True)
        if device
    }
    return {**{key: home for key, home in MAP.items() if key not in ("lm_head", "model.embed_tokens")}, **at}


def placement(*plans: Plan, **changes: Any) -> Placement:
    """What was asked for, and the plans, the natural loader's first."""
    plain = Placement(
        strategy=plans[0].strategy if plans else "auto",
        origin="--device-map",
        memory={0: 20000, 1: 20000},
        plans=plans or (plan(), plan("accelerate")),
        proposal=None,
        installed="1.15.0",
    )
    return plain._replace(**changes)


def proposal(**changes: Any) -> Proposal:
    """A map that fits."""
    return Proposal(MAP, {"cuda:0": 8192, "cuda:1": 14656}, 0, None)._replace(**changes)


def raising() -> PlacedLoad:
    """`from_pretrained` that raises on the Llama's group, the embedding on the CPU and the head on disk."""
    return PlacedLoad(
        tool="transformers",
        function="from_pretrained",
        form="raises",
        names=PAIR,
        devices=("disk", "cpu"),
        stored=(EMBEDDING,),
        message=f"KeyError: '{HEAD}'",
        harmless=False,
        versions="5.23.0",
    )
