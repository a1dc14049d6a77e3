"""Each loader's own module, on a Llama whose head is stored with other values than its embedding."""

from __future__ import annotations

import pytest
from situations import situation

from tiecheck.peers.loaders.accelerate import LOADERS as ACCELERATE
from tiecheck.peers.loaders.llama_cpp import LOADERS as LLAMA_CPP
from tiecheck.peers.loaders.mergekit import LOADERS as MERGEKIT
from tiecheck.peers.loaders.mlx_lm import LOADERS as MLX_LM
from tiecheck.peers.loaders.sglang import LOADERS as SGLANG
from tiecheck.peers.loaders.transformers import LOADERS as TRANSFORMERS
from tiecheck.peers.loaders.vllm import LOADERS as VLLM

TIED = {"model_type": "llama", "tie_word_embeddings": True}
DIFFER = {
    TRANSFORMERS: {"4.57": "head-discarded", "5": "kept-apart"},
    VLLM: {"0.25.1-0.28": "head-discarded", "0.29-0.33": "kept-apart"},
    SGLANG: {"0.5.23": "head-discarded"},
    MLX_LM: {"0.32.2": "head-discarded"},
    LLAMA_CPP: {"0c1e57098": "kept-apart"},
    MERGEKIT: {"0.1.5": "kept-apart"},
}


@pytest.mark.parametrize("loaders", DIFFER, ids=lambda loaders: loaders[0].name)
def test_a_head_that_differs(loaders) -> None:
    asked = situation("LlamaForCausalLM", "differ", TIED)
    asked = asked._replace(older=(asked.group,))
    found = {}
    for loader in loaders:
        decision = loader.decide(asked)
        if decision is not None:
            found[loader.versions] = decision.outcome
    assert found == DIFFER[loaders]


def test_accelerate_is_asked_for_placements_alone() -> None:
    asked = situation("LlamaForCausalLM", "differ", TIED)
    assert [loader.decide(asked) for loader in ACCELERATE] == [None] * len(ACCELERATE)
