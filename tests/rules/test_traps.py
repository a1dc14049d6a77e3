"""Models that look broken and are not: no rule says more than a note."""

from __future__ import annotations

import copy

import pytest
import torch
import transformers
from rule_failures import codes, llama
from torch import nn


class SharedBlocks(nn.Module):
    """One block used three times: a looped transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(4, 4)] * 3)


class WithTeacher(nn.Module):
    """A student and its frozen, equal teacher."""

    def __init__(self) -> None:
        super().__init__()
        self.student = nn.Linear(4, 4)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)


class SharedBuffer(nn.Module):
    """A rotary cache that two layers hold."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Module(), nn.Module()
        cache = torch.arange(4.0)
        self.first.register_buffer("cache", cache)
        self.second.register_buffer("cache", cache)


class Flattened(nn.Module):
    """Two parameters that are disjoint slices of one buffer, as FSDP, ZeRO and flattened RNNs keep them."""

    def __init__(self) -> None:
        super().__init__()
        flat = torch.randn(32)
        self.a = nn.Parameter(flat[:16].view(4, 4))
        self.b = nn.Parameter(flat[16:].view(4, 4))


class Functional(nn.Module):
    """A head that is a product with the embedding's weight, and no second parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Embedding(32, 4)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(self.emb(ids), self.emb.weight)


def masked_bert() -> nn.Module:
    """BERT with its head's bias beside the tied weight."""
    sizes = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return transformers.BertForMaskedLM(transformers.BertConfig(**sizes, intermediate_size=32))


def albert() -> nn.Module:
    """ALBERT, whose layers are one module called many times."""
    sizes = {"vocab_size": 64, "hidden_size": 16, "embedding_size": 8, "num_hidden_layers": 3}
    return transformers.AlbertForMaskedLM(
        transformers.AlbertConfig(**sizes, num_attention_heads=2, intermediate_size=32)
    )


@pytest.mark.parametrize(
    "make",
    [
        SharedBlocks,
        WithTeacher,
        SharedBuffer,
        Flattened,
        Functional,
        masked_bert,
        albert,
        lambda: llama(tied=False),
        lambda: copy.deepcopy(llama()),
        lambda: llama().half(),
        lambda: llama().requires_grad_(False),
        lambda: nn.LSTM(4, 4, 2),
        lambda: nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)),
        lambda: nn.DataParallel(llama()),
        lambda: torch.optim.swa_utils.AveragedModel(llama()),
    ],
    ids=[
        "shared-blocks",
        "teacher",
        "shared-buffer",
        "disjoint-views",
        "functional-head",
        "bert",
        "albert",
        "untied",
        "deepcopy",
        "half",
        "frozen",
        "lstm",
        "plain",
        "data-parallel",
        "averaged",
    ],
)
def test_traps_get_no_error_and_no_warning(make) -> None:
    assert [found for found in codes(make()) if not found.endswith("info")] == []
