"""Quantised members of a tie: recognised with their companions, and compared as one thing.

A quantiser writes one matrix as several tensors. The names are those of AutoGPTQ, gptqmodel and AutoAWQ (`qweight`,
`qzeros`, `scales`, `g_idx`), compressed-tensors 0.20 (`weight_packed`, `weight_scale`, ...), bitsandbytes 0.50
(`weight.absmax`, `weight.quant_state...`, `SCB`), fp8 checkpoints (`weight_scale`, `weight_scale_inv`) and MLX 0.32
(`weight` as uint32, `scales`, `biases`).
"""

from __future__ import annotations

from collections.abc import Iterator

from tiecheck.files.compare.equality import compare_bytes
from tiecheck.records.artefacts import QuantisedMember, QuantisedTie
from tiecheck.records.declared import ModelConfig
from tiecheck.records.stored import Checkpoint, Comparison, Group, StoredTensor

MLX = "MLX"


def quantised_ties(
    groups: tuple[Group, ...], checkpoint: Checkpoint, config: ModelConfig | None, head: str | None, *, values: bool
) -> tuple[QuantisedTie, ...]:
    """Return the declared ties that quantisation meets: in stored members, or in a head that a skip list lacks."""
    found = []
    for group in groups:
        if not group.declared:
            continue
        members = tuple(m for name in group.names if (m := _member(checkpoint, name)) is not None)
        skipped = _skipped(config, group)
        lost = head if skipped is not None and head in group.names and head not in skipped else None
        if lost or any(member.form for member in members):
            alike = _alike(checkpoint, members) if values and checkpoint.remote is None else None
            found.append(QuantisedTie(group, members, alike, skipped or (), lost))
    return tuple(found)


def _member(checkpoint: Checkpoint, name: str) -> QuantisedMember | None:
    """Return a member with its parts; None where nothing is stored of it."""
    module = name.removesuffix(".weight")
    below = {n[len(module) + 1 :]: n for n in checkpoint.names() if n.startswith(f"{module}.")}
    parts = {rest: t for rest, n in below.items() if rest != "bias" and (t := checkpoint.tensor(n)) is not None}
    if not name.endswith(".weight") or not parts:
        return None
    form = _form(parts)
    if form is None and "weight" not in parts:
        return None
    kept = parts if form else {"weight": parts["weight"]}
    return QuantisedMember(name, form, tuple(kept[rest] for rest in sorted(kept)))


def _form(parts: dict[str, StoredTensor]) -> str | None:
    """Return the format that the parts of a module are in; None for a plain weight, or what is not known."""
    dtype = parts["weight"].dtype if "weight" in parts else ""
    scaled = "weight_scale" in parts or "weight_scale_inv" in parts
    four = any(rest.startswith("weight.quant_state.") for rest in parts)
    signs = (
        ("GPTQ or AWQ", "qweight" in parts and "scales" in parts),
        ("compressed-tensors", "weight_packed" in parts or (dtype == "int8" and scaled)),
        (MLX, dtype == "uint32" and "scales" in parts),
        ("bitsandbytes 4-bit", "weight.absmax" in parts or four),
        ("bitsandbytes 8-bit", dtype == "int8" and "SCB" in parts),
        ("fp8", dtype.startswith("float8") and scaled),
        ("torchao", "_weight_qdata" in parts),
    )
    return next((form for form, there in signs if there), None)


def _alike(checkpoint: Checkpoint, members: tuple[QuantisedMember, ...]) -> bool | None:
    """Tell whether several members in one form hold the same bytes, all parts taken together."""
    if len(members) < 2 or len({member.form for member in members}) > 1:
        return None
    for parts in zip(*(member.parts for member in members), strict=False):
        if len({(t.dtype, t.shape) for t in parts}) > 1:
            return False
        found = compare_bytes(checkpoint, parts)
        if not isinstance(found, Comparison):
            return None
        if not found.equal:
            return False
    return len({len(member.parts) for member in members}) == 1


def _skipped(config: ModelConfig | None, group: Group) -> tuple[str, ...] | None:
    """Return the members that bitsandbytes' skip list names; None without a list, or one with patterns in it.

    A list that is given takes the place of the default, which has the head (transformers 5.23,
    `get_modules_to_not_convert`); its words are beginnings or ends of paths (`should_convert_module`).
    """
    data = config.data.get("quantization_config") if config is not None else None
    words = data.get("llm_int8_skip_modules") if isinstance(data, dict) else None
    if not isinstance(words, list) or not isinstance(data, dict) or data.get("quant_method") != "bitsandbytes":
        return None
    if not all(isinstance(word, str) and word.replace(".", "").replace("_", "").isalnum() for word in words):
        return None
    return tuple(_named(group.names, words))


def _named(names: tuple[str, ...], words: list[str]) -> Iterator[str]:
    for name in names:
        module = name.removesuffix(".weight")
        if any(module.endswith(word) or f"{module}.".startswith(f"{word}.") for word in words):
            yield name
