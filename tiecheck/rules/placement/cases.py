"""Facts for the cases of the placement rules: a little Llama under a plan, and what a load makes of its tie."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from tiecheck.records.live import Alias, LiveModel
from tiecheck.records.placement import LoadForm, Placed, PlacedLoad, Placement, Plan, Proposal
from tiecheck.rules.base import Case
from tiecheck.rules.cases import EMBEDDING, HEAD, PAIR, declared_tie, live_head, live_llama, live_tie
from tiecheck.rules.live.applied import NOT_TIED
from tiecheck.rules.placement.plans import NO_MODULE, device_key

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


SHARED = ("model.layers.0.mlp.weight", "model.layers.1.mlp.weight")
SLOTS = ("model.transformer.ff_out.weight", "model.transformer.wte.weight")
PATHS = ("model.transformer.ff_out", "model.transformer.wte")


def _facts(*plans: Plan, of: LiveModel, **changes: Any) -> dict[str, Any]:
    return {"placement": plain_placement(*plans, **changes), "live": of}


def unseen_cases() -> Iterator[Case]:
    """Yield every case, the warnings first."""
    yield from _warnings()
    yield from _hidden()
    yield from _undeclared()
    yield from _keys()


def _warnings() -> Iterator[Case]:
    logs = plain_plan("accelerate", logged=(NOT_TIED,))
    functional = live_llama(
        ties=(), declared=(), heads=(live_head(head=(EMBEDDING,), embedding=(EMBEDDING,), same=True),)
    )
    yield Case("OLMo, MPT: the embedding is the head", _facts(logs, of=functional), finds=("info",))
    module = live_tie(*SLOTS, kind="module")
    alias = Alias(PATHS, 2, "Embedding", siblings=True, names=SLOTS)
    older = _facts(plain_plan("accelerate"), of=live_llama(ties=(module,), aliases=(alias,)), warns=("0.20-0.33",))
    yield Case("an alias that older versions miss", older, finds=("info",))
    apart = live_llama(ties=(), declared=(declared_tie("separate"),), origin="given")
    yield Case("really untied, and nothing ties it", _facts(logs, of=apart), finds=("warning",))
    late = apart._replace(origin="built on meta")
    yield Case("untied until from_pretrained ties it", _facts(plain_plan(), logs, of=late), finds=("info",))
    lone = live_llama(ties=(), declared=(), heads=(live_head(head=(HEAD,), embedding=(EMBEDDING,)),))
    yield Case("a flag that nothing follows", _facts(logs, of=lone), finds=("info",))
    stored = apart._replace(declared=(declared_tie("separate", stored="separate"),))
    yield Case("stored apart and kept apart: no warning", _facts(plain_plan("accelerate"), of=stored))
    yield Case("tied, and nobody warns", _facts(of=live_llama()))
    yield Case("an untied model", _facts(of=live_llama(flag=False, ties=(), declared=(), candidates=())))


def _hidden() -> Iterator[Case]:
    broken = live_llama(ties=(live_tie(*SHARED),), declared=(declared_tie("separate"),))
    yield Case("a broken head behind another tie", _facts(plain_plan("accelerate"), of=broken), finds=("warning",))
    yield Case("which from_pretrained ties", _facts(plain_plan(), plain_plan("accelerate"), of=broken), finds=("info",))
    contract = broken._replace(declared=(declared_tie("separate", by=("tiecheck.toml",)),))
    yield Case("a group of the user's contract, of which no tool hears", _facts(plain_plan("accelerate"), of=contract))
    plain = broken._replace(library=None)
    yield Case("a plain module: accelerate never warns", _facts(plain_plan("accelerate"), of=plain))
    alone = broken._replace(ties=())
    yield Case("no other tie: accelerate warns, by its log", _facts(plain_plan("accelerate"), of=alone))


def _undeclared() -> Iterator[Case]:
    unheard = placed_pair(names=SHARED, declared=False, seen=False)
    of = live_llama(ties=(live_tie(), live_tie(*SHARED)))
    yield Case("together all the same", _facts(plain_plan("transformers", unheard), of=of), finds=("info",))
    large = plain_plan("transformers", unheard, counted={"cuda:0": 30000}, used={"cuda:0": 20000})
    yield Case("and counted apart", _facts(large, of=of), finds=("warning",))
    apart = unheard._replace(devices=("cuda:0", "cuda:1"))
    yield Case("split: TIE501", _facts(plain_plan("transformers", apart), of=of))
    untied = unheard._replace(kind="copy")
    yield Case("no tie at all", _facts(plain_plan("transformers", untied), of=live_llama()))


def _keys() -> Iterator[Case]:
    module = live_llama(aliases=(Alias(PATHS, 2, "Embedding", siblings=True, names=SLOTS),))
    second = plain_plan("given", logged=(f"{NO_MODULE}['{PATHS[0]}']",))
    yield Case("a key for an alias", _facts(second, of=module), finds=("info",))
    typo = plain_plan("given", logged=(f"{NO_MODULE}['model.embed_token']",))
    yield Case("a key that names nothing", _facts(typo, of=live_llama()), finds=("warning",))
    weight = plain_plan("given", logged=(f"{NO_MODULE}['{EMBEDDING}']",))
    yield Case("a key that names a parameter", _facts(weight, of=live_llama()))
