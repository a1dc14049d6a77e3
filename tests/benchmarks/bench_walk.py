"""Prints what the live walk costs beside torch's own walk and beside accelerate (run it as a script).

Every line is a ratio of medians of CPU time, taken side by side in one run; absolute times differ from machine to
machine. All of it runs on one thread.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from timing import note
from torch import nn

from tiecheck import count_parameters
from tiecheck.live.live_facts import collect_live, find_live_ties


class Layer(nn.Module):
    """The modules of a Llama decoder layer: ten parameters, the last one there to be tied."""

    def __init__(self) -> None:
        super().__init__()
        self.self_attn = nn.Module()
        self.mlp = nn.Module()
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            setattr(self.self_attn, name, nn.Linear(2, 2, bias=False))
        for name in ("gate_proj", "up_proj", "down_proj"):
            setattr(self.mlp, name, nn.Linear(2, 2, bias=False))
        self.input_layernorm = nn.RMSNorm(2)
        self.post_attention_layernorm = nn.RMSNorm(2)
        self.adapter = nn.Linear(2, 2, bias=False)


def build(parameters: int, ties: int, device: str = "cpu") -> nn.Module:
    """A model with some parameters, of which pairs are tied in neighbouring layers, two a layer at most."""
    model = nn.Module()
    with torch.device(device):
        layers = [Layer() for _ in range(parameters // 10)]
    half = len(layers) // 2
    for i in range(ties):
        one, other = layers[2 * (i % half)], layers[2 * (i % half) + 1]
        if i < half:
            one.adapter.weight = other.adapter.weight
        else:
            one.self_attn.o_proj.weight = other.self_attn.o_proj.weight
    model.model = nn.Module()
    model.model.layers = nn.ModuleList(layers)
    return model


def doubled(depth: int) -> nn.Module:
    """A chain in which each module registers the next one twice: 2**depth names."""
    module: nn.Module = nn.Linear(2, 2)
    for _ in range(depth):
        above = nn.Module()
        above.a = module
        above.b = module
        module = above
    return module


def torch_walk(model: nn.Module) -> object:
    """One pass of torch's own walk, its names kept."""
    return list(model.named_parameters(remove_duplicate=False))


def by_id(model: nn.Module) -> object:
    """The shortest way to find parameter-level ties: names grouped by id."""
    groups: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), []).append(name)
    return [names for names in groups.values() if len(names) > 1]


def side_by_side(runs: int, *work: Callable[[], object]) -> list[float]:
    """Median seconds of each piece of work, taken in turns so that a slow moment meets all of them."""
    taken: list[list[float]] = [[] for _ in work]
    for _ in range(runs):
        for i, piece in enumerate(work):
            start = time.process_time()
            piece()
            taken[i].append(time.process_time() - start)
    return [statistics.median(times) for times in taken]


def line(what: str, ratio: float, goal: str, *, held: bool) -> None:
    """Print one ratio and its goal."""
    print(f"{what:68} {ratio:10.2f}x   goal {goal:10} {'held' if held else 'MISSED'}")
    note(what, f"{ratio:.2f}x", goal, held=held)


def against_torch(runs: int) -> None:
    """The walk beside torch's, at 100k parameters."""
    for ties, device in ((10_000, "cpu"), (0, "cpu"), (10_000, "meta")):
        model = build(100_000, ties, device)
        assert len(find_live_ties(model)) == ties
        ours, walk, grouped = side_by_side(
            runs, lambda m=model: find_live_ties(m), lambda m=model: torch_walk(m), lambda m=model: by_id(m)
        )
        what = f"find_ties, 100k parameters, {ties} ties, {device}, over "
        line(what + "named_parameters", ours / walk, "<= 1.4x", held=ours <= 1.4 * walk)
        line(what + "grouping by id", ours / grouped, "<= 1.2x", held=ours <= 1.2 * grouped)


def against_accelerate(*, full: bool) -> None:
    """accelerate beside the walk: its cost is quadratic, so that the ratio grows with the model."""
    from accelerate.utils.modeling import find_tied_parameters

    sizes = [(10_000, 1_000, 5), (40_000, 4_000, 20)] + ([(100_000, 10_000, 100)] if full else [])
    for parameters, ties, goal in sizes:
        model = build(parameters, ties)
        find_live_ties(model)
        ours, theirs = side_by_side(1, lambda m=model: find_live_ties(m), lambda m=model: find_tied_parameters(m))
        what = f"accelerate over find_ties, {parameters} parameters, {ties} ties"
        line(what, theirs / ours, f">= {goal}x", held=theirs >= goal * ours)


def doubling(runs: int) -> None:
    """Twice the model beside the model."""
    small, large = build(100_000, 10_000), build(200_000, 20_000)
    once, twice = side_by_side(runs, lambda: find_live_ties(small), lambda: find_live_ties(large))
    line("find_ties, 200k parameters over 100k", twice / once, "<= 2.2x", held=twice <= 2.2 * once)


def counting(runs: int) -> None:
    """The counts beside the sum that people write by hand, and twice the model beside the model."""
    small, large = build(100_000, 10_000), build(200_000, 20_000)
    ours, twice, summed, walk = side_by_side(
        runs,
        lambda: count_parameters(small),
        lambda: count_parameters(large),
        lambda: sum(p.numel() for p in small.parameters()),
        lambda: torch_walk(small),
    )
    what = "count_parameters, 100k parameters, 10000 ties, over "
    line(what + "the sum of numel()", ours / summed, "<= 2x", held=ours <= 2 * summed)
    line(what + "named_parameters", ours / walk, "<= 2x", held=ours <= 2 * walk)
    line("count_parameters, 200k parameters over 100k", twice / ours, "<= 2.2x", held=twice <= 2.2 * ours)


def million() -> None:
    """A million parameters beside torch's walk of them."""
    model = build(1_000_000, 100_000)
    ours, walk = side_by_side(1, lambda: find_live_ties(model), lambda: torch_walk(model))
    line(
        "find_ties, a million parameters, 100k ties, over named_parameters",
        ours / walk,
        "<= 1.4x",
        held=ours <= 1.4 * walk,
    )


def depths() -> None:
    """Aliased chains, in seconds: torch's walk does not end on these."""
    for depth, goal in ((64, 0.01), (100_000, 2.0)):
        model = doubled(depth)
        for what, work in (
            ("find_ties", find_live_ties),
            ("collect_live", lambda m: collect_live(m, origin="given")),
            ("count_parameters", count_parameters),
        ):
            start = time.process_time()
            work(model)
            taken = time.process_time() - start
            held = "held" if taken < goal else "MISSED"
            print(f"{what}, chain of {depth} doublings: {taken * 1000:.1f} ms, goal < {goal * 1000:.0f} ms {held}")
            note(f"{what}, DAG of depth {depth}", f"{taken * 1e3:.1f} ms", f"< {goal * 1e3:.0f} ms", held=taken < goal)
        while model is not None:  # a deep chain is taken apart from the top: freeing it at once recurses
            model = model._modules.pop("a", None)


def main() -> None:
    """Run everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--full", action="store_true", help="accelerate at full size, which takes it a minute")
    parser.add_argument("--million", action="store_true", help="a million parameters, about 3 GiB")
    arguments = parser.parse_args()
    depths()
    against_torch(arguments.runs)
    doubling(arguments.runs)
    counting(arguments.runs)
    against_accelerate(full=arguments.full)
    if arguments.million:
        million()


if __name__ == "__main__":
    main()
