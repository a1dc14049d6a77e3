"""Prints what the views cost beside torch's own `state_dict()`, and how they grow (run it as a script).

Every line but the last is a ratio of medians of CPU time, taken side by side in one run on one thread.
"""

from __future__ import annotations

import argparse
import time

import torch
from bench_walk import build, doubled, line, side_by_side

from tiecheck.peers.views.registry import ask_tools


def against_torch(runs: int) -> None:
    """Every reproduction together beside one `state_dict()`, which savers begin with."""
    for ties in (10_000, 0):
        model = build(100_000, ties)
        ours, state = side_by_side(runs, lambda m=model: ask_tools(m), lambda m=model: m.state_dict())
        what = f"views_of, 100k parameters, {ties} ties, over state_dict()"
        line(what, ours / state, "<= 8x", held=ours <= 8 * state)


def doubling(runs: int) -> None:
    """Twice the model beside the model."""
    small, large = build(100_000, 10_000), build(200_000, 20_000)
    once, twice = side_by_side(runs, lambda: ask_tools(small), lambda: ask_tools(large))
    line("views_of, 200k parameters over 100k", twice / once, "<= 2.2x", held=twice <= 2.2 * once)


def against_accelerate() -> None:
    """The installed accelerate's finder alone beside all of the reproductions: it is quadratic."""
    from accelerate.utils.modeling import find_tied_parameters

    model = build(20_000, 2_000)
    ours, theirs = side_by_side(1, lambda: ask_tools(model), lambda: find_tied_parameters(model))
    line("accelerate over views_of, 20000 parameters, 2000 ties", theirs / ours, ">= 2x", held=theirs >= 2 * ours)


def chain() -> None:
    """A chain of doublings, which the tools never come to the end of."""
    model = doubled(64)
    start = time.process_time()
    ask_tools(model)
    taken = time.process_time() - start
    print(
        f"views_of, chain of 64 doublings: {taken * 1000:.1f} ms, goal < 100 ms {'held' if taken < 0.1 else 'MISSED'}"
    )


def main() -> None:
    """Run everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    ask_tools(doubled(2))  # imports
    chain()
    against_torch(arguments.runs)
    doubling(arguments.runs)
    against_accelerate()


if __name__ == "__main__":
    main()
