"""Prints what `tiecheck.guard` costs: a training step and a load inside of a block, beside the same without one.

Goals: at most 1.05 times the step, and 1.02 times the load. The block itself is entered and left outside of the step.
"""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial

import torch
from timing import ratio, report, seconds
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

import tiecheck


def llama(layers: int, width: int = 64, vocabulary: int = 512) -> LlamaForCausalLM:
    """A Llama of many layers, tied."""
    sizes = {"vocab_size": vocabulary, "hidden_size": width, "intermediate_size": 2 * width}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4}
    return LlamaForCausalLM(LlamaConfig(**sizes, **heads, num_hidden_layers=layers, tie_word_embeddings=True))


def cpu_seconds(work: Callable[[], object]) -> float:
    """Seconds of CPU that a call takes: a load waits for the disk, and neighbours for each other."""
    begin = time.process_time()
    work()
    return time.process_time() - begin


def step_of(model: nn.Module) -> float:
    """Seconds of a few steps."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    ids = torch.randint(0, 512, (4, 64))

    def step() -> None:
        for _ in range(3):
            optimizer.zero_grad()
            model(ids, labels=ids).loss.backward()
            optimizer.step()

    return seconds(step)


def main() -> None:
    """Measure both."""
    warnings.simplefilter("ignore")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    model = llama(8)

    def guarded_step() -> float:
        with tiecheck.guard(model):
            return step_of(model)

    report("training step under a guard", ratio(guarded_step, lambda: step_of(model)), 1.05)
    mapped, cast, real = "250 MB, mapped into memory", "500 MB of bfloat16, as float32", "2 GB of bfloat16, as float32"
    sizes = ((mapped, 512, torch.float32, 31), (cast, 1024, torch.bfloat16, 9), (real, 2048, torch.bfloat16, 7))
    for words, width, stored, rounds in sizes:
        with tempfile.TemporaryDirectory() as folder:
            llama(24, width, 16384).to(stored).save_pretrained(folder)
            for held, models in (("guard()", ()), ("guard(another)", (model,))):
                load, guarded = loads_of(folder, *models)
                measured = ratio(partial(cpu_seconds, guarded), partial(cpu_seconds, load), rounds)
                report(f"from_pretrained under {held} ({words}), CPU", measured, 1.02)


def loads_of(folder: str, *models: nn.Module) -> tuple[Callable[[], None], Callable[[], None]]:
    """Return a load, and the same under a guard that remembers some models before and watches what came."""

    def load() -> None:
        LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)

    def guarded_load() -> None:
        with tiecheck.guard(*models) as g:
            g.watch(LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32))

    return load, guarded_load


if __name__ == "__main__":
    main()
