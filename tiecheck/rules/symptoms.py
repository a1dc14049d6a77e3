"""The messages that libraries print, and the rules behind it: `tiecheck rule "a pasted warning"`.

`...` stands for what differs from model to model. A code that no rule has yet is passed over. Read in the sources of
transformers 4.57.6 and 5.23, accelerate 1.15, safetensors 0.8, torch 2.13, PEFT 0.21, vLLM 0.33, llama.cpp 0c1e57098
and mlx-lm 0.32.2, or heard from them, and in the threads of the rules.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from tiecheck.records.record import Record


class Symptom(Record):
    """A message that people see."""

    says: str
    """The message; `...` for what varies."""
    codes: str
    """Rules that it may come from, likeliest first, a blank between them."""
    when: str = ""
    """When it is harmless, or what it means where no rule sees it."""


_TIED = "Harmless when the model has no head, or its tie is a module or a function and not a second name (MPT, OLMo)."
_DROPPED = "Harmless when a load ties the name again: the names left out are aliases of one that is there."
_PEFT = "Harmless while the adapter is used unmerged, on the model that it was trained on."
_OPTIMIZER = "Pass model.parameters() once, which lists a tied tensor once; two lists by name hold it twice."

SYMPTOMS = (
    Symptom(
        "The tied weights mapping and config for this model specifies to tie ... to ..., but both are present in the "
        "checkpoints with different values, so we will NOT tie them",
        "TIE101",
        "Harmless when the two were trained apart and tie_word_embeddings is set to false.",
    ),
    Symptom(
        "This checkpoint seem corrupted. The tied weights mapping for this model specifies to tie ... to ..., but both "
        "are absent from the checkpoint",
        "TIE110 TIE206",
    ),
    Symptom(
        "The config for ... says the word embeddings are tied, but the checkpoint contains a different",
        "TIE101 TIE111",
        "Harmless when the stored head is the trained one: vLLM then uses it.",
    ),
    Symptom(
        "Some weights of ... were not initialized from the model checkpoint and are newly initialized",
        "TIE102 TIE105 TIE307 TIE206",
        "Harmless when you train that head anew, as for a classifier on a base model.",
    ),
    Symptom(
        "... not initialized from pretrained model",
        "TIE205 TIE102",
        "Harmless when the names are members of a tie: tying fills them after the load.",
    ),
    Symptom("lm_head.weight | MISSING", "TIE102 TIE105", "Harmless when the head is meant to be trained anew."),
    Symptom(
        "There were missing keys in the checkpoint model loaded",
        "TIE205",
        "Harmless when the names are members of a tie: tying fills them after the load.",
    ),
    Symptom(
        "Some tensors share memory, this will lead to duplicate memory on disk and potential differences when loading "
        "them again",
        "TIE304 TIE302 TIE317",
        "Harmless for a real tie: save with save_pretrained or safetensors' save_model, which keep one name.",
    ),
    Symptom("You are trying to save a non contiguous tensor: ... which is not allowed", "TIE302 TIE317"),
    Symptom(
        "Error while trying to find names to remove to save state dict, but found no suitable name to keep", "TIE317"
    ),
    Symptom("Removed shared tensor ... while saving. This should be OK", "TIE205 TIE404 TIE111", _DROPPED),
    Symptom("Missing key(s) in state_dict", "TIE205 TIE404", _DROPPED),
    Symptom(
        "Unexpected key(s) in state_dict", "TIE205 TIE106", "Harmless when the name is an equal copy of a tied tensor."
    ),
    Symptom(
        "KeyError: 'lm_head.weight'",
        "TIE106 TIE107 TIE511 TIE504",
        "Harmless for the checkpoint when it is tied and stored once: the tool should fall back to the embedding.",
    ),
    Symptom("KeyError: 'model.embed_tokens.weight'", "TIE111 TIE511"),
    Symptom("Missing ... parameters: ... lm_head.weight", "TIE103 TIE107 TIE102"),
    Symptom("Missing 1 parameters: model.embed_tokens.weight", "TIE111"),
    Symptom(
        "Received ... parameters not in model: ... lm_head.weight",
        "TIE106 TIE103",
        "Harmless for the values when the stored head is equal to the embedding.",
    ),
    Symptom("weight ... does not exist", "TIE107 TIE105"),
    Symptom("There is no module or parameter named 'lm_head'", "TIE106 TIE101"),
    Symptom(
        "The model weights are not tied. Please use the `tie_weights` method before using the `infer_auto_device` "
        "function",
        "TIE502 TIE501 TIE303 TIE801",
        _TIED,
    ),
    Symptom(
        "Tied parameters are on different devices: ... Please modify your custom device map",
        "TIE501 TIE511",
        "Harmless when the two spellings name one device (0 and cuda:0): accelerate compares the text.",
    ),
    Symptom("The `device_map` does not contain the module ...", "TIE511 TIE502"),
    Symptom("The device_map provided does not give any device for the following parameters", "TIE511 TIE502"),
    Symptom(
        "The following device_map keys do not match any submodules in the model",
        "TIE502",
        "Harmless for an alias of a module that the map also names.",
    ),
    Symptom(
        "There is an issue with your definition of `tie_weights_keys` for ... We found ... to tie into", "TIE309 TIE310"
    ),
    Symptom(
        "The weights trying to be saved contained shared tensors ... which are not properly defined", "TIE304 TIE309"
    ),
    Symptom(
        "that are mismatching the transformers base configuration. Try saving using `safe_serialization=False`",
        "TIE304 TIE309",
    ),
    Symptom(
        "Model has `tie_word_embeddings=True` and a tied layer is part of the adapter",
        "TIE602 TIE603 TIE313 TIE605",
        _PEFT,
    ),
    Symptom(
        "Model with `tie_word_embeddings=True` and the tied_target_modules=... are part of the adapter",
        "TIE603 TIE313",
        _PEFT,
    ),
    Symptom(
        "You have requested `ensure_weight_tying`, but no tied modules",
        "TIE601 TIE315",
        "Harmless when the base model is not tied.",
    ),
    Symptom(
        "Input and output embeddings are no longer tied after merging",
        "TIE602 TIE603",
        "Harmless when both members were trained: the config is then set to false.",
    ),
    Symptom("but no implementation exists to tie the adapters", "TIE601 TIE602", _PEFT),
    Symptom(
        "but no tied modules were found in the model", "TIE601 TIE315", "Harmless when the base model is not tied."
    ),
    Symptom("Or use save_model(..., force_contiguous=True)", "TIE302 TIE317"),
    Symptom("Unsloth: Extracted keys = ... do not match", "TIE604"),
    Symptom("Module ... is not found, please choose from", "TIE604"),
    Symptom("Parameter ... is shared with a parameter already managed by another FSDP group", "TIE504 TIE301"),
    Symptom("--use-torch-fsdp2 requires --untie-embeddings-and-output-weights", "TIE504 TIE301"),
    Symptom("KeyError: 'state.lm_head.weight.step'", "TIE204"),
    Symptom("'list' object has no attribute 'keys'", "TIE311 TIE803"),
    Symptom("object has no attribute 'all_tied_weights_keys'", "TIE311 TIE814"),
    Symptom("tie_weights() got an unexpected keyword argument", "TIE815 TIE814"),
    Symptom("aten::equal: attempted to run this operator with Meta tensors", "TIE511 TIE108"),
    Symptom(
        "NotImplementedError ... quant_method.tie_weights",
        "TIE611 TIE101",
        "vLLM ties a packed head for some methods of quantisation alone: store the head unquantised.",
    ),
    Symptom("tensor 'output.weight' not found", "TIE621 TIE102"),
    Symptom("missing tensor 'output.weight'", "TIE621 TIE102"),
    Symptom("tensor 'token_embd.weight' not found", "TIE111"),
    Symptom("missing tensor 'token_embd.weight'", "TIE111"),
    Symptom("Can not map tensor 'lm_head.weight'", "TIE622 TIE106"),
    Symptom("functional_call got multiple values for keys ..., which are tied", "TIE401 TIE304"),
    Symptom("functional_call was passed multiple values for tied weights", "TIE401 TIE304"),
    Symptom("some parameters appear in more than one parameter group", "TIE702", _OPTIMIZER),
    Symptom("optimizer contains a parameter group with duplicate parameters", "TIE702", _OPTIMIZER),
    Symptom("occurs multiple times in optimizer.param_groups", "TIE702", _OPTIMIZER),
    Symptom(
        "Expected to mark a variable ready only once",
        "TIE302",
        "DDP with checkpointing reaches a tied tensor twice: use_reentrant=False, or static_graph=True.",
    ),
    Symptom(
        "has been marked as ready twice",
        "TIE302",
        "DDP with checkpointing reaches a tied tensor twice: use_reentrant=False, or static_graph=True.",
    ),
    Symptom(
        "'PPMissingLayer' object has no attribute 'quant_method'",
        "TIE507 TIE107",
        "vLLM's last pipeline stage has no embedding to tie a quantised head to.",
    ),
    Symptom("module with duplicate parameters on distinct devices is not supported", "TIE505 TIE501"),
    Symptom("The tensor has already been materialized", "TIE302 TIE811"),
    Symptom(
        "The model layers do not match after moving to the target device. If your model employs weight sharing on TPU",
        "TIE401 TIE301",
    ),
    Symptom("Found different candidate ONNX initializers (likely duplicate) for the tied weights", "TIE631 TIE302"),
    Symptom(
        "Detected EAGLE model with distinct embed_tokens weights. Keeping separate embedding weights",
        "TIE606 TIE109",
        "Harmless when the draft was trained with an embedding of its own.",
    ),
    Symptom(
        "[refit] WARNING: loaded 0 of ... rollout stays stale",
        "TIE404 TIE401",
        "Harmless when the only names that were not loaded are members of a tie that are loaded by another name.",
    ),
    Symptom("The size of tensor a ... must match the size of tensor b ... at non-singleton dimension", "TIE308 TIE403"),
    Symptom(
        "copying from a non-meta parameter in the checkpoint to a meta parameter in the current model",
        "TIE314 TIE811",
    ),
    Symptom("Tensor on device meta is not on the expected device", "TIE111 TIE314"),
    Symptom("weight is on the meta device, we need a `value`", "TIE511 TIE111"),
    Symptom("repeats the same token", "TIE701 TIE101 TIE102"),
    Symptom("gibberish", "TIE101 TIE102 TIE103"),
    Symptom("loss is nan or far too high at the first step", "TIE701 TIE102"),
)
"""Every message, the more precise of two before the other."""

SHORTEST = 8
"""Characters of a pasted text, or of a piece of a message, that say anything."""


def plain_text(text: str) -> str:
    """Return a text for comparing: lower case, quotes and backticks dropped, blanks and line breaks as one."""
    return " ".join(re.sub(r"[\"'`]", "", text.lower()).split())


def match_message(says: str, pasted: str) -> int:
    """Return how many characters of a message (`...` varies) are in a pasted text, or the reverse; else 0."""
    pieces = [piece.strip() for piece in plain_text(says).split("...")]
    place = 0
    for piece in pieces:
        place = pasted.find(piece, place)
        if place < 0:
            break
        place += len(piece)
    else:
        return sum(map(len, pieces))
    asked = [piece for word in pasted.split("...") if len(piece := word.strip()) >= SHORTEST]
    whole = plain_text(says)
    return sum(map(len, asked)) if asked and all(piece in whole for piece in asked) else 0


def symptoms_of(text: str, more: Iterable[Symptom] = ()) -> tuple[Symptom, ...]:
    """Return the messages, those of rules (`more`) included, that a text holds or is a part of, the best fit first."""
    pasted = plain_text(text)
    if len(pasted) < SHORTEST:
        return ()
    scored = [(match_message(one.says, pasted), i, one) for i, one in enumerate((*SYMPTOMS, *more))]
    best = max((score for score, _, _ in scored), default=0)
    fitting = [one for one in scored if one[0] > 0 and one[0] * 2 >= best]
    fitting.sort(key=lambda one: (one[1] >= len(SYMPTOMS), -one[0], one[1]))
    return tuple(one for _, _, one in fitting)
