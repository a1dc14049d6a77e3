"""Operations of transformers (5.23), accelerate (1.15), peft (0.21) and torchao (0.18)."""

from __future__ import annotations

import copy
import os
from typing import Any

import torch

from tiecheck.guard.operations.registry import NotHereError, Operation, Trial, library

LAYERS = ("Linear", "Conv1D")
"""Classes of layers that an adapter takes."""


def _saved_pretrained(it: Trial) -> Any:
    model = it.pretrained()
    model.save_pretrained(it.folder)
    return type(model).from_pretrained(it.folder)


def _resized(it: Trial) -> Any:
    model = it.pretrained()
    model.resize_token_embeddings(len(model.get_input_embeddings().weight) + 8)
    return model


def _embedding_set(it: Trial, *, tie: bool = True) -> Any:
    model = it.pretrained()
    model.set_input_embeddings(copy.deepcopy(model.get_input_embeddings()))
    if tie:
        model.tie_weights()
    return model


def _checkpointing(it: Trial) -> Any:
    it.pretrained().gradient_checkpointing_enable()
    return it.model


def _empty(it: Trial) -> Any:
    with library("accelerate").init_empty_weights():
        return it.built_again()


def _on_meta(it: Trial) -> Any:
    with torch.device("meta"):
        return it.built_again()


def _checkpoint_in_model(it: Trial) -> Any:
    from safetensors.torch import save_model

    path = os.path.join(it.folder, "model.safetensors")
    save_model(it.model, path, metadata={"format": "pt"})
    model = it.on_meta()
    library("accelerate").load_checkpoint_in_model(model, path, device_map={"": "cpu"})
    return model


def _dispatched(it: Trial, device: str = "cpu") -> Any:
    accelerate, names = library("accelerate"), list(it.model._modules)
    if not names:
        raise NotHereError("it has no modules to dispatch")
    direct = {name for name, _ in [*it.model.named_parameters(recurse=False), *it.model.named_buffers(recurse=False)]}
    plan = dict.fromkeys([*names, *direct], device)
    return accelerate.dispatch_model(it.model, plan, main_device="cpu", offload_dir=it.folder, force_hooks=True)


def _dispatched_to_disk(it: Trial) -> Any:
    return _dispatched(it, "disk")


def _accelerator_saved(it: Trial) -> Any:
    from safetensors.torch import load_file

    library("accelerate").Accelerator(cpu=True).save_model(it.model, it.folder)
    model = it.blank()
    model.load_state_dict(load_file(os.path.join(it.folder, "model.safetensors")), strict=False)
    return model


def _lora(it: Trial, layers: list[str] | None = None, **options: Any) -> Any:
    peft, model = library("peft"), it.pretrained()
    return peft.get_peft_model(model, peft.LoraConfig(target_modules=layers or _inner_layers(it), **options))


def _inner_layers(it: Trial) -> list[str]:
    """Return the names of linear layers that are not the head."""
    model = it.pretrained()
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    found = [n.rpartition(".")[2] for n, m in model.named_modules() if type(m).__name__ in LAYERS and m is not head]
    if not found:
        raise NotHereError("it has no linear layers that an adapter would take")
    return sorted(set(found))


def _head(it: Trial) -> str:
    head = it.pretrained().get_output_embeddings()
    name = next((name for name, module in it.model.named_modules() if module is head), None)
    if head is None or name is None:
        raise NotHereError("it has no head")
    return str(name).rpartition(".")[2]


def _head_saved(it: Trial) -> Any:
    head = _head(it)
    layers = [name for name in _inner_layers(it) if name != head]
    return _lora(it, layers, modules_to_save=[head]).merge_and_unload()


def _replicated(it: Trial) -> Any:
    layers = getattr(it.pretrained().config, "num_hidden_layers", None)
    if not layers or it.model.config.model_type not in ("llama", "mistral", "falcon", "bert"):
        raise NotHereError("peft replicates layers of Llama, Mistral, Falcon and Bert alone")
    return _lora(it, layer_replication=[[0, layers], [0, 1]])


def _quantised(it: Trial) -> Any:
    torchao = library("torchao.quantization")
    torchao.quantize_(it.model, torchao.Int8WeightOnlyConfig())
    return it.model


_SET = "model.set_input_embeddings(a new one)"
_SAVE = "model.save_pretrained(folder); type(model).from_pretrained(folder)"
_IN = "built on meta; load_checkpoint_in_model(model, file, device_map={'': 'cpu'})"
_OUT = "Accelerator().save_model(model, folder); the file loaded, strict=False"
_HEAD = "get_peft_model(model, LoraConfig(the head)); merge_and_unload()"
_SAVING = "LoraConfig(inner layers, modules_to_save=[the head]); merge_and_unload()"
_TWICE = "LoraConfig(inner layers, layer_replication=[[0, n], [0, 1]])"

OPERATIONS = (
    Operation("save-pretrained", _SAVE, "transformers", _saved_pretrained, saves=True),
    Operation("resize-token-embeddings", "model.resize_token_embeddings(vocabulary + 8)", "transformers", _resized),
    Operation("set-input-embeddings", _SET, "transformers", lambda it: _embedding_set(it, tie=False)),
    Operation("set-input-embeddings-and-tie", f"{_SET}; model.tie_weights()", "transformers", _embedding_set),
    Operation("gradient-checkpointing", "model.gradient_checkpointing_enable()", "transformers", _checkpointing),
    Operation("init-empty-weights", "init_empty_weights(): type(model)(...)", "accelerate", _empty, by_nature=True),
    Operation("built-on-meta", "with torch.device('meta'): type(model)(...)", "torch", _on_meta, by_nature=True),
    Operation("checkpoint-in-model", _IN, "accelerate", _checkpoint_in_model, saves=True),
    Operation("dispatch-to-cpu", "dispatch_model(model, all on the CPU)", "accelerate", _dispatched),
    Operation("dispatch-to-disk", "dispatch_model(model, all on disk)", "accelerate", _dispatched_to_disk),
    Operation("accelerator-save-model", _OUT, "accelerate", _accelerator_saved, saves=True),
    Operation("lora", "get_peft_model(model, LoraConfig(inner layers))", "peft", _lora),
    Operation("lora-merged", "the same, then merge_and_unload()", "peft", lambda it: _lora(it).merge_and_unload()),
    Operation("lora-on-head-merged", _HEAD, "peft", lambda it: _lora(it, [_head(it)]).merge_and_unload()),
    Operation("lora-saving-head-merged", _SAVING, "peft", _head_saved, by_nature=True),
    Operation("layer-replication", _TWICE, "peft", _replicated, by_nature=True),
    Operation("torchao-quantized", "quantize_(model, Int8WeightOnlyConfig())", "torch", _quantised, by_nature=True),
)
