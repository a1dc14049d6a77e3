"""Prints what planning costs: each installed planner, as it is and watched, and all that a plan gets beside.

Every line is taken side by side in one run on one thread: medians of CPU time, and the peak of what Python allocates.
`beside` is the placement layer with the planners' runs taken out of it. No weight is in memory: models are on meta.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import logging
import math
import statistics
import time
import tracemalloc
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from bench_proposal import LLAMA_70B
from planner_runs import given, total_bytes
from timing import note
from torch import nn
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM, LlamaForCausalLM

from tiecheck.config.options import Config
from tiecheck.facts.opening import module_facts
from tiecheck.placement.collect import collect_placement
from tiecheck.placement.load_outcomes import Source
from tiecheck.placement.planners import plans
from tiecheck.placement.planners.plans import plan_under_seeds, plans_and_groups
from tiecheck.placement.planners.running import PlannerCase, is_pretrained, run_planner
from tiecheck.records.placement import Ask

LONG = 5
"""Seconds of a run that is not run again to trace its memory, which takes it many times as long."""


def llama_70b(*, tied: bool) -> nn.Module:
    """Llama 3 70B: 80 layers; tied for the purpose."""
    config = copy.deepcopy(LLAMA_70B)
    config.tie_word_embeddings = tied
    return on_meta(LlamaForCausalLM, config)


def deepseek_v3() -> nn.Module:
    """DeepSeek-V3 with all its 61 layers; transformers 5 holds the experts of a layer in two parameters."""
    return on_meta(DeepseekV3ForCausalLM, DeepseekV3Config())


def on_meta(model_class: Any, config: Any) -> nn.Module:
    """A model in bfloat16 without weights."""
    config.dtype = torch.bfloat16
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("meta"):
            model: nn.Module = model_class(config)
            return model
    finally:
        torch.set_default_dtype(before)


class Expert(nn.Module):
    """Three projections."""

    def __init__(self) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = (nn.Linear(64, 64, bias=False) for _ in range(3))


class Layer(nn.Module):
    """A layer with its experts as modules, as DeepSeek's own code has them."""

    def __init__(self, experts: int) -> None:
        super().__init__()
        self.q_proj, self.o_proj, self.norm = nn.Linear(64, 64), nn.Linear(64, 64), nn.LayerNorm(64)
        self.experts = nn.ModuleList([Expert() for _ in range(experts)])


def of_experts(layers: int) -> nn.Module:
    """Layers of 256 experts."""
    with torch.device("meta"):
        model = nn.Module()
        model.embed = nn.Embedding(1000, 64)
        model.layers = nn.ModuleList([Layer(256) for _ in range(layers)])
        model._no_split_modules = ["Layer"]  # type: ignore[assignment]  # as a class of transformers says it
    return model


def of_ties(modules: int, ties: int) -> nn.Module:
    """One module whose parameters are tied into as many others, and no class that stays whole.

    Where little fits, each of the others is split for it, one after the other, and accelerate looks through the whole
    rest of the model each time.
    """
    with torch.device("meta"):
        model = nn.Module()
        model.first = nn.Module()
        for number in range(ties):
            model.first.register_parameter(f"w{number}", nn.Parameter(torch.empty(8, 8)))
        for number in range(ties):
            part = nn.Module()
            part.own = nn.Linear(8, 8, bias=False)
            part.rest = nn.ModuleList([nn.Linear(8, 8) for _ in range(modules // ties - 3)])
            part.own.weight = model.first._parameters[f"w{number}"]
            model.add_module(f"part{number}x", part)
    return model


def ask_of(model: nn.Module) -> Ask:
    """Two GPUs and the host, of which a third of the model goes to each."""
    total = total_bytes(model)
    return Ask("auto", {0: total // 3, 1: total // 3, "cpu": total})


def ask_little(model: nn.Module) -> Ask:
    """One GPU that a quarter of the model fits on."""
    total = total_bytes(model)
    return Ask("sequential", {0: total // 4, "cpu": 2 * total})


def median(work: Callable[[], object], runs: int) -> float:
    """Median seconds of CPU time."""
    taken = []
    for _ in range(runs):
        begin = time.process_time()
        work()
        taken.append(time.process_time() - begin)
    return statistics.median(taken)


def peak(work: Callable[[], object]) -> float:
    """Peak mebibytes of Python's allocations."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()


def measure(title: str, model: nn.Module, runs: int, ask: Ask) -> None:
    """Every line of one model."""
    tools: list[Any] = ["accelerate", *(["transformers"] if is_pretrained(model) else [])]
    ran = {tool: run_planner(PlannerCase(model, tool, ask)) for tool in tools}
    count = len(list(model.modules()))
    print(f"\n{title}: {count} modules, {len(list(model.parameters()))} parameters")
    once: dict[Any, float] = {}
    for tool in tools:
        theirs = once[tool] = median(lambda t=tool: given(t, model, ask), runs)
        ours = median(lambda t=tool: run_planner(PlannerCase(model, t, ask)), runs)
        traced = peak(lambda t=tool: given(t, model, ask)) if theirs < LONG else math.nan
        print(
            f"  {tool:<13} {theirs * 1e3:9.1f} ms {traced:6.1f} MiB   watched {ours * 1e3:8.1f} ms {ours / theirs:.2f}x"
        )
    layer = placement_of(model, ask)
    with mock.patch.object(plans, "run_planner", lambda case: ran[case.tool]):
        beside, mib_beside = median(layer, runs), peak(layer)
    share = beside / sum(once.values())
    note(f"{title}: beside the planners that run", f"{share:.1%}", "<= 10 %", held=share <= 0.1)
    held = "held" if share <= 0.1 else "MISSED"
    print(
        f"  {'beside':<13} {beside * 1e3:9.1f} ms {mib_beside:6.1f} MiB   {share:5.3f} of the runs, <= 0.1 {held}"
        f" ({beside / max(once.values()):.3f} of the longest)"
    )


def placement_of(model: nn.Module, ask: Ask) -> Callable[[], object]:
    """The whole placement layer of a live module, whose live facts are there."""
    config = Config(device_map=ask.strategy, max_memory=ask.memory, device_map_from="--device-map")
    facts = module_facts(model, config)
    facts.get("live")
    return lambda: collect_placement(facts.get("built"), facts.get("live"), Source(), config)


def seeds_cost(model: nn.Module, ask: Ask) -> None:
    """What eight hash seeds cost, each of which is a process, and a run where the order is another."""
    case = PlannerCase(model, "accelerate", ask)
    ran = run_planner(case)
    begin = time.perf_counter()
    told = plan_under_seeds(case, ran, ran.watch.groups, 8)
    print(
        f"  8 hash seeds  {(time.perf_counter() - begin) * 1e3:9.1f} ms wall, {told.maps} maps, {told.crashes} crashes"
    )


def main() -> None:
    """Run everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--modules", type=int, default=8239, help="of the model with many ties")
    parser.add_argument("--layers", type=int, default=58, help="of 256 experts")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    with contextlib.suppress(Exception):
        plans_and_groups(nn.Linear(2, 2), Ask("auto", {0: 100}))  # imports
    models: list[tuple[str, Callable[[], nn.Module], int]] = [
        ("Llama 70B, tied", lambda: llama_70b(tied=True), arguments.runs),
        ("Llama 70B, untied", lambda: llama_70b(tied=False), arguments.runs),
        ("DeepSeek-V3 of transformers", deepseek_v3, arguments.runs),
        (f"256 experts in {arguments.layers} layers", lambda: of_experts(arguments.layers), 3),
    ]
    for title, build, runs in models:
        model = build()
        measure(title, model, runs, ask_of(model))
    many = of_ties(arguments.modules, 1000)
    measure("1,000 ties, nothing kept whole", many, 1, ask_little(many))
    few = of_ties(arguments.modules // 16, 60)
    seeds_cost(few, ask_little(few))


if __name__ == "__main__":
    main()
