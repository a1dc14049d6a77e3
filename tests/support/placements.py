"""Sample placements: what the gate has to say of five models, as the collectors would make them."""

from __future__ import annotations

from tiecheck.records.placement import Crash, Double, Placed, PlacedLoad, Placement, Plan, Proposal, Seeds

GIB = 2**30
MIB = 2**20
MEMORY = {0: 10 * GIB, "cpu": 30 * GIB}
EVIL = "lm\x1b[31m\u202e_head\n"


def placed(*pairs: tuple[str, str | None], **fields: object) -> Placed:
    """A declared group of parameters."""
    known = {"kind": "parameter", "declared": True, "nbytes": 250 * MIB, "seen": True} | fields
    return Placed(names=tuple(n for n, _ in pairs), devices=tuple(d for _, d in pairs), **known)


SPLIT = placed(("lm_head.weight", "cpu"), ("model.embed_tokens.weight", "cuda:0"))
LLAMA = Placement(
    strategy="auto",
    origin="--device-map",
    memory=MEMORY,
    plans=(
        Plan(
            tool="transformers",
            version="5.23.0",
            strategy="auto",
            device_map={"model.embed_tokens": 0, "model.layers": 0, "model.norm": "cpu", "lm_head": "cpu"},
            memory={0: 9 * GIB, "cpu": 30 * GIB},
            counted={"cuda:0": 8 * GIB, "cpu": 260 * MIB},
            used={"cuda:0": 8 * GIB, "cpu": 250 * MIB},
            placed=(SPLIT,),
        ),
        Plan(
            tool="accelerate",
            version="1.15.0",
            strategy="auto",
            device_map={"model.embed_tokens": 0, "model.layers": 0, "model.norm": "cpu", "lm_head": "cpu"},
            logged=("The model weights are not tied. Please use the `tie_weights` method before using it.",),
            memory={0: 9 * GIB, "cpu": 30 * GIB},
            counted={"cuda:0": 8 * GIB, "cpu": 250 * MIB},
            used={"cuda:0": 8 * GIB, "cpu": 250 * MIB},
            doubles=(Double("model.embed_tokens", "cuda:0", ("lm_head.weight",), 8240, 4200),),
            moved={"model.norm": ("cpu", "cuda:0")},
            placed=(SPLIT,),
            seeds=Seeds(tried=8, maps=3, moving=("model.norm", "lm_head"), splits=2, crashes=1),
        ),
    ),
    proposal=Proposal(
        device_map={"model.embed_tokens": 0, "lm_head": 0, "model.layers": 0, "model.norm": "cpu"},
        used={"cuda:0": 8 * GIB, "cpu": 8192},
        lacks=0,
        reason=None,
    ),
    loads=(
        PlacedLoad(
            tool="transformers",
            function="from_pretrained",
            form="raises",
            names=SPLIT.names,
            devices=("cpu", "cuda:0"),
            stored=("model.embed_tokens.weight",),
            message="KeyError: 'lm_head.weight'",
            harmless=False,
            versions="5.23.0",
        ),
    ),
)
OLMO_NAMES = ("model.transformer.ff_out.weight", "model.transformer.wte.weight")
OLMO = Placement(
    strategy="auto",
    origin="--device-map",
    memory=MEMORY,
    plans=(
        Plan(
            tool="accelerate",
            version="1.15.0",
            strategy="auto",
            device_map={"": 0},
            memory=MEMORY,
            used={"cuda:0": 2 * GIB},
            placed=(placed(*((name, "cuda:0") for name in OLMO_NAMES), kind="module", seen=False),),
        ),
    ),
    proposal=None,
    warns=("0.20-0.33",),
    installed="1.15.0",
)
THREE = Placement(
    strategy="map",
    origin="maps/t5.json",
    memory=None,
    plans=(
        Plan(
            tool="given",
            version="",
            strategy="map",
            device_map={"shared": 0, "encoder": 0, "decoder": 1, "head": "disk"},
            used={"cuda:0": 3 * GIB, "cuda:1": 3 * GIB, "disk": 96},
            placed=(
                placed(("a.weight", "cpu"), ("b.weight", "cpu"), declared=False),
                placed(("k.weight", "cpu"), ("q.weight", "cpu"), kind="copy"),
                placed(
                    ("decoder.embed_tokens.weight", "cuda:1"),
                    ("encoder.embed_tokens.weight", "cuda:0"),
                    ("head.weight", "disk"),
                    nbytes=96,
                ),
                placed(("x.bias", None), ("y.bias", None), nbytes=None),
                placed(("x.weight", "cpu"), ("y.weight", None)),
                placed(*((f"layers.{i}.weight", "cpu") for i in range(6)), seen=False),
            ),
        ),
    ),
    proposal=Proposal(device_map={}, used={}, lacks=3 * MIB, reason="every group has to lie on cuda:0"),
)
CRASH = Placement(
    strategy="balanced",
    origin="device_map=",
    memory=MEMORY,
    plans=(
        Plan(
            tool="accelerate",
            version="1.15.0",
            strategy="balanced",
            device_map={},
            crash=Crash("IndexError: list index out of range", "substring", "head", ("lm_head.weight",)),
        ),
    ),
    proposal=Proposal({EVIL: 0, "モデル😀": "cpu", 'a"b\\': "disk"}, {"cuda:0": 96}, 0, "it is not balanced"),
)
NONE = Placement(
    strategy="map",
    origin="--device-map",
    memory=None,
    plans=(Plan(tool="given", version="", strategy="map", device_map={"": "cpu"}, used={"cpu": 96}),),
    proposal=None,
)
EVIL_GROUP = Placement(
    strategy="map",
    origin=f"{EVIL}.json",
    memory=None,
    plans=(
        Plan(
            tool="given",
            version="",
            strategy="map",
            device_map={EVIL: 0},
            logged=(f"says {EVIL}",),
            placed=(placed((f"{EVIL}.weight", "cuda:0"), (f"{'long.' * 14}weight", "cpu")),),
        ),
    ),
    proposal=None,
)
SAMPLES = {"llama": LLAMA, "olmo": OLMO, "three": THREE, "crash": CRASH, "none": NONE, "evil": EVIL_GROUP}
