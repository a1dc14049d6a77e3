"""Real `PreTrainedModel`s, tiny, and everything that can become of what they declare."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PretrainedConfig, PreTrainedModel

from tiecheck.records.report import View


class Config(PretrainedConfig):
    model_type = "views-of-ties"
    tie_word_embeddings = True


class Declared(PreTrainedModel):
    """Declares that its head is tied to its embedding."""

    config_class = Config
    _tied_weights_keys = {"lin.weight": "emb.weight"}  # noqa: RUF012  # as transformers declares it

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.emb = nn.Embedding(8, 4)
        self.lin = nn.Linear(4, 8, bias=False)
        self.sub = nn.Linear(4, 8, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.emb

    def get_output_embeddings(self) -> nn.Module:
        return self.lin


class Undeclared(Declared):
    """Declares nothing."""

    _tied_weights_keys = None


def tied(model: Declared) -> None:
    model.lin.weight = model.emb.weight


def aliased(model: Declared) -> None:
    model.lin = model.emb


def rewrapped(model: Declared) -> None:
    model.lin.weight = nn.Parameter(model.emb.weight)


def data_assigned(model: Declared) -> None:
    model.lin.weight.data = model.emb.weight.data


def transposed(model: Declared) -> None:
    model.lin.weight = nn.Parameter(model.emb.weight.detach().t())


def disjoint(model: Declared) -> None:
    flat = torch.arange(64.0)
    model.emb.weight = nn.Parameter(flat[:32].view(8, 4))
    model.lin.weight = nn.Parameter(flat[32:].view(8, 4))


def overlapping(model: Declared) -> None:
    flat = torch.arange(64.0)
    model.emb.weight = nn.Parameter(flat[:32].view(8, 4))
    model.lin.weight = nn.Parameter(flat[16:48].view(8, 4))


def nested(model: Declared) -> None:
    flat = torch.arange(32.0)
    model.emb.weight = nn.Parameter(flat.view(8, 4))
    model.lin.weight = nn.Parameter(flat[4:8].view(1, 4))
    model.sub.weight = nn.Parameter(flat[16:24].view(2, 4))


def targets_alone(model: Declared) -> None:
    equal(model)
    model._tied_weights_keys = {"lin.weight": "emb.weight", "sub.weight": "emb.weight"}
    model.sub.weight = model.lin.weight


def equal(model: Declared) -> None:
    model.lin.weight = nn.Parameter(model.emb.weight.detach().clone())


def with_a_buffer(model: Declared) -> None:
    equal(model)
    model.sub.register_buffer("w", model.emb.weight)


def with_a_third(model: Declared) -> None:
    tied(model)
    model.sub.weight = model.emb.weight


def with_two_more(model: Declared) -> None:
    with_a_third(model)
    model.more = nn.Linear(4, 8, bias=False)
    model.more.weight = model.emb.weight


def tied_elsewhere(model: Declared) -> None:
    equal(model)
    model.sub.weight = model.emb.weight


def flag_off(model: Declared) -> None:
    tied(model)
    model.config.tie_word_embeddings = False


def on_meta(model: Declared) -> None:
    model.to("meta")
    tied(model)


def ignored(model: Declared) -> None:
    tied(model)
    model._keys_to_ignore_on_save = ["sub.weight"]


def empty(model: Declared) -> None:
    model.emb.weight, model.lin.weight = nn.Parameter(torch.empty(0, 4)), nn.Parameter(torch.empty(0, 4))


EMB_LIN = ("emb.weight", "lin.weight")
REFUSED = "RuntimeError: The weights trying to be saved contained shared tensors "

# What is done to the model; what the declared one drops or how it raises; whether the undeclared one can be saved.
STATES: list[tuple[Callable[[Declared], None], tuple[str, ...] | str, bool]] = [
    (tied, ("lin.weight",), False),
    (aliased, ("lin.weight",), False),
    (rewrapped, ("lin.weight",), False),
    (data_assigned, ("lin.weight",), False),
    (transposed, "RuntimeError: view size is not compatible", False),
    (disjoint, (), True),
    (overlapping, REFUSED, False),
    (nested, REFUSED + "[{'emb.weight', 'lin.weight', 'sub.weight'}]", False),
    (targets_alone, ("lin.weight",), True),
    (equal, (), True),
    (with_a_buffer, REFUSED + "[{'emb.weight', 'sub.w'}]", False),
    (with_a_third, REFUSED + "[{'emb.weight', 'sub.weight'}]", False),
    (with_two_more, REFUSED + "[{'emb.weight', 'more.weight', 'sub.weight'}]", False),
    (tied_elsewhere, REFUSED + "[{'emb.weight', 'sub.weight'}]", False),
    (flag_off, ("lin.weight",), False),
    (on_meta, ("lin.weight",), False),
    (ignored, ("lin.weight", "sub.weight"), False),
    (empty, (), True),
]


def one(views: tuple[View, ...], function: str, *, ran: bool = False) -> View:
    (found,) = [view for view in views if view.function == function and (view.version is not None) == ran]
    return found


def llama(**options: object) -> LlamaForCausalLM:
    small = {
        "vocab_size": 8,
        "hidden_size": 4,
        "intermediate_size": 4,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
    }
    return LlamaForCausalLM(LlamaConfig(**small, **options))
