"""Facts for the cases of the placement rules: a little Llama under a plan, and what a load makes of its tie."""

from __future__ import annotations

from typing import Any, Literal

from tiecheck.records.live import LiveModel
from tiecheck.records.placement import LoadForm, Placed, PlacedLoad, Placement, Plan, Proposal
from tiecheck.rules.cases import EMBEDDING, PAIR, live_facts
from tiecheck.rules.placement.plans import device_key

MAP: dict[str, int | str] = {"model.embed_tokens": 0, "lm_head": 0, "model.layers": 1, "model.norm": 1}
VERSIONS = {"accelerate": "1.15.0", "transformers": "5.23.0", "given": ""}


def placed_pair(*devices: str | None, **changes: Any) -> Placed:
    """Return the Llama's group: the head's device and the embedding's."""
    plain = Placed(
        names=PAIR, kind="parameter", declared=True, devices=devices or ("cuda:0",) * 2, nbytes=8192, seen=True
    )
    return plain._replace(**changes)


def plain_plan(
    tool: Literal["accelerate", "transformers", "given"] = "transformers", *groups: Placed, **changes: Any
) -> Plan:
    """Return a plan of one tool, with the groups it places."""
    plain = Plan(
        tool=tool,
        version=VERSIONS[tool],
        strategy="map" if tool == "given" else "auto",
        device_map=_homes(groups[0]) if groups and groups[0].names == PAIR else MAP,
        placed=groups or (placed_pair(),),
        used={"cuda:0": 8192, "cuda:1": 14656},
    )
    return plain._replace(**changes)


def _homes(group: Placed) -> dict[str, int | str]:
    """Return the map that puts the Llama's group where it is said to be."""
    at = {
        home: device_key(device)
        for home, device in zip(("lm_head", "model.embed_tokens"), group.devices, strict=True)
        if device
    }
    return {**{key: home for key, home in MAP.items() if key not in ("lm_head", "model.embed_tokens")}, **at}


def plain_placement(*plans: Plan, **changes: Any) -> Placement:
    """Return what was asked for, and the plans, the natural loader's first."""
    plain = Placement(
        strategy=plans[0].strategy if plans else "auto",
        origin="--device-map",
        memory={0: 20000, 1: 20000},
        plans=plans or (plain_plan(), plain_plan("accelerate")),
        proposal=None,
        installed="1.15.0",
    )
    return plain._replace(**changes)


def plain_proposal(**changes: Any) -> Proposal:
    """Return a map that fits."""
    return Proposal(MAP, {"cuda:0": 8192, "cuda:1": 14656}, 0, None)._replace(**changes)


def placed_load(form: LoadForm, **changes: Any) -> PlacedLoad:
    """Return what becomes of the pair in a load, the embedding alone being stored."""
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


def placing_facts(*plans: Plan, of: LiveModel | None = None, **changes: Any) -> dict[str, Any]:
    """Return the facts that the rules on placement ask for: plans, of a Llama in order or another."""
    return {"placement": plain_placement(*plans, **changes), **live_facts(of)}
