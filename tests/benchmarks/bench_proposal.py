"""Our own plan against the planner it stands beside: `python tests/benchmarks/bench_proposal.py`.

Goal: linear, and under a second or so where the planner needs a minute. The planner is accelerate's
`infer_auto_device_map`; its time with many ties grows with the square, so that it runs on a smaller model than ours.
"""

from __future__ import annotations

import logging
import resource
import warnings

import torch
from accelerate.utils import infer_auto_device_map
from timing import seconds
from torch import nn
from transformers import AutoModelForCausalLM, DeepseekV3Config, LlamaConfig

from tiecheck.placement.model import module_tree
from tiecheck.placement.proposal.propose import propose_map
from tiecheck.records.words import Unknown

GIB = 1 << 30
LLAMA_70B = LlamaConfig(
    num_hidden_layers=80,
    hidden_size=8192,
    intermediate_size=28672,
    vocab_size=128256,
    num_attention_heads=64,
    num_key_value_heads=8,
    tie_word_embeddings=True,
)


def many_ties(ties: int) -> nn.Module:
    """Seven small modules a tie, all on the root and none that must stay whole; the first and the last share a weight.

    With several ties into one list of modules accelerate 1.15 raises IndexError: it places the list with the first
    module that is tied to it, and does not find it again for the second.
    """
    with torch.device("meta"):
        model = nn.Module()
        for number in range(ties * 7):
            model.register_module(f"m{number}", nn.Linear(8, 8))
    modules = list(model.children())
    for number in range(0, len(modules), 7):
        modules[number + 6].weight = modules[number].weight
    return model


def ours(model: nn.Module, memory: dict[int | str, int], no_split: list[str]) -> float:
    """Seconds of the best of three runs, the tree included."""

    def once() -> None:
        tree = module_tree(model)
        assert not isinstance(tree, Unknown)
        assert propose_map(tree, [], memory, no_split).device_map

    return min(seconds(once) for _ in range(3))


def theirs(model: nn.Module, memory: dict[int | str, int], no_split: list[str], runs: int = 3) -> float:
    """Seconds of the best of some runs."""
    return min(
        seconds(lambda: infer_auto_device_map(model, max_memory=dict(memory), no_split_module_classes=no_split))
        for _ in range(runs)
    )


def show(what: str, our: float, their: float | None, note: str = "") -> None:
    """One line."""
    other = f"{their * 1e3:10.1f} ms  {our / their:6.2f}x" if their is not None else f"{'':13}  {'':7}"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(f"{what:<52} {our * 1e3:9.1f} ms {other}  peak {peak} MiB {note}")


def main() -> None:
    """Print the figures."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    print(f"{'':<52} {'ours':>12} {'accelerate':>13}")
    with torch.device("meta"):
        llama = AutoModelForCausalLM.from_config(LLAMA_70B, dtype=torch.bfloat16)
        deepseek = AutoModelForCausalLM.from_config(DeepseekV3Config(tie_word_embeddings=True), dtype=torch.bfloat16)
    four: dict[int | str, int] = dict.fromkeys(range(4), 40 * GIB)
    eight: dict[int | str, int] = dict.fromkeys(range(8), 180 * GIB)
    for name, model, memory in (("Llama 70B class", llama, four), ("DeepSeek-V3 class", deepseek, eight)):
        no_split = list(model._no_split_modules)
        show(f"{name}, {len(memory)} GPUs", ours(model, memory, no_split), theirs(model, memory, no_split))
        part: dict[int | str, int] = {0: memory[0], "cpu": 300 * GIB, "disk": 2000 * GIB}
        show(f"{name}, a GPU, CPU and disk", ours(model, part, no_split), theirs(model, part, no_split))
    for ties in (200, 400, 1000, 2000):
        model = many_ties(ties)
        modules, nbytes = sum(1 for _ in model.modules()), sum(p.nbytes for p in model.parameters())
        room: dict[int | str, int] = dict.fromkeys(range(4), nbytes // 3)
        their = theirs(model, room, [], 1) if ties <= 400 else None
        note = "" if their is not None else "(theirs not run: it grows with more than the square)"
        show(f"{ties} ties over {modules} modules", ours(model, room, []), their, note)


if __name__ == "__main__":
    main()
