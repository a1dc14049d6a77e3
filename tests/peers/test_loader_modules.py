"""Each loader's own module, on a Llama whose head is stored with other values than its embedding."""

from __future__ import annotations

import pytest
from situations import situation

from tiecheck.peers.loaders import accelerate, llama_cpp, mergekit, mlx_lm, sglang, transformers, vllm

TIED = {"model_type": "llama", "tie_word_embeddings": True}
DIFFER = {
    transformers: {"4.57": "head-discarded", "5": "kept-apart"},
    vllm: {"0.25.1-0.28": "head-discarded", "0.29-0.33": "kept-apart"},
    sglang: {"0.5.23": "head-discarded"},
    mlx_lm: {"0.32.2": "head-discarded"},
    llama_cpp: {"0c1e57098": "kept-apart"},
    mergekit: {"0.1.5": "kept-apart"},
}


@pytest.mark.parametrize("module", DIFFER, ids=lambda module: module.__name__.rpartition(".")[2])
def test_a_head_that_differs(module) -> None:
    asked = situation("LlamaForCausalLM", "differ", TIED)
    asked = asked._replace(older=(asked.group,))
    found = {}
    for loader in module.LOADERS:
        decision = loader.decide(asked)
        if decision is not None:
            found[loader.versions] = decision.outcome
    assert found == DIFFER[module]


def test_accelerate_is_asked_for_placements_alone() -> None:
    asked = situation("LlamaForCausalLM", "differ", TIED)
    assert [loader.decide(asked) for loader in accelerate.LOADERS] == [None] * len(accelerate.LOADERS)
