"""Operations of transformers (5.23), accelerate (1.15), peft (0.21) and torchao (0.18)."""

from __future__ import annotations

import copy
import os
from typing import Any

import torch

from tiecheck.guard.operations.registry import NotHereError, Trial, library, operation


@operation("transformers", "model.save_pretrained(folder); type(model).from_pretrained(folder)", saves=True)
def save_pretrained(it: Trial) -> Any:
    model = it.pretrained()
    model.save_pretrained(it.folder)
    return type(model).from_pretrained(it.folder)


@operation("transformers", "model.resize_token_embeddings(vocabulary + 8)")
def resize_token_embeddings(it: Trial) -> Any:
    model = it.pretrained()
    model.resize_token_embeddings(len(model.get_input_embeddings().weight) + 8)
    return model


@operation("transformers", "model.set_input_embeddings(a new one)")
def set_input_embeddings(it: Trial) -> Any:
    model = it.pretrained()
    model.set_input_embeddings(copy.deepcopy(model.get_input_embeddings()))
    return model


@operation("transformers", "model.set_input_embeddings(a new one); model.tie_weights()")
def set_input_embeddings_and_tie(it: Trial) -> Any:
    set_input_embeddings(it)
    it.model.tie_weights()
    return it.model


@operation("transformers", "model.gradient_checkpointing_enable()")
def gradient_checkpointing(it: Trial) -> Any:
    model = it.pretrained()
    model.gradient_checkpointing_enable()
    return model


@operation("accelerate", "with init_empty_weights(): type(model)(...)", by_nature=True)
def init_empty_weights(it: Trial) -> Any:
    with library("accelerate").init_empty_weights():
        return it.built_again()


@operation("torch", "with torch.device('meta'): type(model)(...)", by_nature=True)
def built_on_meta(it: Trial) -> Any:
    with torch.device("meta"):
        return it.built_again()


@operation("accelerate", "built on meta; load_checkpoint_in_model(model, file, device_map={'': 'cpu'})", saves=True)
def checkpoint_in_model(it: Trial) -> Any:
    from safetensors.torch import save_model

    path = os.path.join(it.folder, "model.safetensors")
    save_model(it.model, path, metadata={"format": "pt"})
    model = it.on_meta()
    library("accelerate").load_checkpoint_in_model(model, path, device_map={"": "cpu"})
    return model


def _dispatched(it: Trial, device: str) -> Any:
    names = list(it.model._modules)
    if not names:
        raise NotHereError("it has no modules to dispatch")
    direct = {name for name, _ in [*it.model.named_parameters(recurse=False), *it.model.named_buffers(recurse=False)]}
    plan = dict.fromkeys([*names, *direct], device)
    return library("accelerate").dispatch_model(
        it.model, plan, main_device="cpu", offload_dir=it.folder, force_hooks=True
    )


@operation("accelerate", "dispatch_model(model, every module on the CPU)")
def dispatch_to_cpu(it: Trial) -> Any:
    return _dispatched(it, "cpu")


@operation("accelerate", "dispatch_model(model, every module on disk)")
def dispatch_to_disk(it: Trial) -> Any:
    return _dispatched(it, "disk")


@operation("accelerate", "Accelerator().save_model(model, folder); the file loaded, strict=False", saves=True)
def accelerator_save_model(it: Trial) -> Any:
    from safetensors.torch import load_file

    library("accelerate").Accelerator(cpu=True).save_model(it.model, it.folder)
    model = it.blank()
    model.load_state_dict(load_file(os.path.join(it.folder, "model.safetensors")), strict=False)
    return model


def _peft(it: Trial, **options: Any) -> Any:
    peft, model = library("peft"), it.pretrained()
    return peft.get_peft_model(model, peft.LoraConfig(**options))


def _inner_layers(model: Any) -> list[str]:
    """Return the names of linear layers that are not the head."""
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    found = [n.rpartition(".")[2] for n, m in model.named_modules() if type(m).__name__ in LAYERS and m is not head]
    if not found:
        raise NotHereError("it has no linear layers that an adapter would take")
    return sorted(set(found))


LAYERS = ("Linear", "Conv1D")


@operation("peft", "get_peft_model(model, LoraConfig(inner layers))")
def lora(it: Trial) -> Any:
    return _peft(it, target_modules=_inner_layers(it.pretrained()))


@operation("peft", "the same, then merge_and_unload()")
def lora_merged(it: Trial) -> Any:
    model: Any = lora(it)
    return model.merge_and_unload()


@operation("peft", "get_peft_model(model, LoraConfig(the head)); merge_and_unload()")
def lora_on_head_merged(it: Trial) -> Any:
    return _peft(it, target_modules=[_head(it)]).merge_and_unload()


@operation("peft", "LoraConfig(inner layers, modules_to_save=[the head]); merge_and_unload()", by_nature=True)
def lora_saving_head_merged(it: Trial) -> Any:
    head = _head(it)
    layers = [name for name in _inner_layers(it.pretrained()) if name != head]
    return _peft(it, target_modules=layers, modules_to_save=[head]).merge_and_unload()


def _head(it: Trial) -> str:
    head = it.pretrained().get_output_embeddings()
    name = next((name for name, module in it.model.named_modules() if module is head), None)
    if head is None or name is None:
        raise NotHereError("it has no head")
    return str(name).rpartition(".")[2]


@operation("peft", "LoraConfig(inner layers, layer_replication=[[0, n], [0, 1]])", by_nature=True)
def layer_replication(it: Trial) -> Any:
    layers = getattr(it.pretrained().config, "num_hidden_layers", None)
    if not layers or it.model.config.model_type not in ("llama", "mistral", "falcon", "bert"):
        raise NotHereError("peft replicates layers of Llama, Mistral, Falcon and Bert alone")
    return _peft(it, target_modules=_inner_layers(it.model), layer_replication=[[0, layers], [0, 1]])


@operation("torch", "torchao.quantization.quantize_(model, Int8WeightOnlyConfig())", by_nature=True)
def torchao_quantized(it: Trial) -> Any:
    torchao = library("torchao.quantization")
    torchao.quantize_(it.model, torchao.Int8WeightOnlyConfig())
    return it.model
