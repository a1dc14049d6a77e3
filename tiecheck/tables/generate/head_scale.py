"""Measures what a class multiplies its logits by, on tiny builds with random weights.

The scale is that of the logits of a hidden state with a root mean square of 1, so that a factor before the head
(T5: d_model**-0.5) and one after it (Cohere: logit_scale) come out alike.
"""

from __future__ import annotations

import copy
import math
import re
from typing import Any

from tiecheck.tables.generate.build import build_on_meta, config_of
from tiecheck.tables.generate.configs import FLAG, config_objects, dict_at_level, shrink_layers

PLANS = (((64, 4), (128, 4)), ((256, 2), (512, 4)))
"""Pairs of widths and heads: a scale that hangs on the width shows; the second has heads of the usual 128."""

TOLERANCE = 0.02
"""Distance by which a measured number may be off; the epsilon of a norm costs less."""

LARGEST = 40_000_000
"""Parameters of the largest build that is worth the time."""

TINY: tuple[tuple[str, str], ...] = (
    (r"^(hidden_size|d_model|n_embd|dim|emb_dim|embed_dim|n_embed|word_embed_proj_dim|embedding_size)$", "d"),
    (r"(intermediate_size|ffn_dim|d_ff|n_inner|ffn_hidden_size|ffn_size|inner_dim)$", "2d"),
    (r"^(attention_)?head_dim$|^d_kv$|^d_head$", "d/h"),
    (r"heads?$", "h"),
    (r"vocab_size$", "160"),
    (r"_token_id$", "1"),
    (r"^(num_experts|num_local_experts|n_routed_experts|moe_num_experts)$", "4"),
    (r"^(num_experts_per_tok|num_experts_per_token|moe_topk|moe_k)$", "2"),
    (r"^(max_position_embeddings|n_positions|n_ctx|max_seq_len|max_seq_length)$", "512"),
)
"""Attributes that make a model large, and what a tiny build has there (`d` is the width, `h` the heads)."""

SCALES = re.compile(r"scal|multiplier")
"""Attributes that may scale the logits; each is changed in turn to see whether it does."""


def head_scale_tag(model: Any, config_class: Any, data: dict[str, Any], tied: set[str]) -> str:
    """The tag of a class's head scale, empty where it is not certain.

    `1`; `d^-0.5`; `config:KEY:DEFAULT` (the value of a key); `1/config:KEY:DEFAULT`. `A|B|KEYS` is A, but B where
    the first of some keys that the config has is false (T5 of transformers 5.23).
    """
    head = head_name(model)
    if head is None or f"{head}.weight" not in tied:
        return ""
    meter = Meter(type(model), config_class, data, head)
    tag = _tag(meter, {})
    if not tag and meter.scale(0, {}) is None:
        meter.plan = PLANS[1]
        tag = _tag(meter, {})
    off = {key: _tag(meter, {key: False}) for key in (*meter.switches, FLAG)} if tag else {}
    switches = [key for key, other in off.items() if other not in ("", tag)]
    others = {off[key] for key in switches}
    return f"{tag}|{others.pop()}|{','.join(switches)}" if len(others) == 1 else "" if others else tag


def head_name(model: Any) -> str | None:
    """The path of the module that `get_output_embeddings` (5.23) returns."""
    try:
        head = model.get_output_embeddings()
    except Exception:  # noqa: BLE001 - a class without a head may raise anything
        return None
    return next((name for name, module in model.named_modules() if module is head), None)


class Meter:
    """Builds a class small and measures its logits against the plain head product."""

    def __init__(self, model_class: Any, config_class: Any, data: dict[str, Any], head: str) -> None:
        self.model_class, self.config_class, self.head = model_class, config_class, head
        self.plan = PLANS[0]
        self.config = config_class.from_dict(copy.deepcopy(data))
        self.switches = [k for k, v in sorted(self.config.to_dict().items()) if SCALES.search(k) and type(v) is bool]
        self.data = {key: value for key, value in data.items() if key not in self.switches}

    def scale(self, size: int, changes: dict[str, Any]) -> float | None:
        """The scale at a size of the plan; None where the class cannot be built small or the scale is no constant."""
        try:
            return self._scale(tiny_config(self.data, self.config, *self.plan[size]) | changes)
        except Exception:  # noqa: BLE001 - a tiny build is a guess, and a wrong one may fail in any way
            return None

    def _scale(self, data: dict[str, Any]) -> float | None:
        import torch

        if sum(p.numel() for p in build_on_meta(self.model_class, self.config_class, data).parameters()) > LARGEST:
            return None
        torch.manual_seed(0)
        model = self.model_class(config_of(self.model_class, self.config_class, data)).float().eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.dim() > 1 and name.endswith("weight"):
                    parameter.normal_(0, parameter.shape[-1] ** -0.5)
            return _measure(model, model.get_submodule(self.head))

    def attributes(self) -> dict[str, float]:
        """The numbers of the top-level config that may scale the logits."""
        items = self.config.to_dict().items()
        return {k: float(v) for k, v in sorted(items) if SCALES.search(k) and type(v) in (int, float)}


def tiny_config(data: dict[str, Any], config: Any, width: int, heads: int) -> dict[str, Any]:
    """A config dict with everything that makes a model large made small, at every level."""
    small = shrink_layers(data, config, 2)
    sizes = {"d": width, "2d": 2 * width, "h": heads, "d/h": width // heads}
    for level, owner in config_objects(config):
        for name, value in owner.to_dict().items():
            word = next((word for pattern, word in TINY if re.search(pattern, name)), None)
            size = sizes.get(word or "", int(word) if word and word.isdigit() else 0)
            if size and type(value) is int and value > size:
                dict_at_level(small, level)[name] = size
    return small


def _measure(model: Any, head: Any) -> float | None:
    """RMS of the head's input times logits over head product, where both are the same everywhere."""
    import torch

    if getattr(head, "bias", None) is not None:
        head.bias.zero_()
    # An untied and small head: a soft cap (Gemma 2) is linear there, and the embedding keeps its size.
    head.weight = torch.nn.Parameter(head.weight * 1e-3)
    seen: list[tuple[Any, Any]] = []
    handle = head.register_forward_hook(lambda _, given, out: seen.append((given[0], out)))
    outputs = model(**_inputs(model)).values()
    handle.remove()
    found = [o for o in outputs if seen and isinstance(o, torch.Tensor) and o.shape == seen[0][1].shape]
    if len(seen) != 1 or len(found) != 1:
        return None
    logits = found[0]
    rms = seen[0][0].pow(2).mean(-1).sqrt()
    weight = seen[0][1].abs() > seen[0][1].abs().mean() * 0.1
    ratio = (logits / seen[0][1])[weight]
    steady = [float(t.std() / t.mean().abs()) < TOLERANCE for t in (rms, ratio)]
    return float(rms.mean() * ratio.mean()) if all(steady) else None


def unread_biases(
    model_class: Any, config_class: Any, data: dict[str, Any], groups: list[tuple[str, ...]]
) -> list[str]:
    """Return those of some groups of biases that no forward pass reads where each is a tensor of its own.

    Such is RoBERTa's first, beside that of its decoder. None is told of a group that the pass does not come to, nor
    where the tiny build fails.
    """
    import torch

    try:
        small = tiny_config(data, config_class.from_dict(copy.deepcopy(data)), *PLANS[0][0])
        model = model_class(config_of(model_class, config_class, small)).float().eval()
        names = [name for members in groups for name in members]
        apart = [torch.nn.Parameter(model.get_parameter(name).detach().clone()) for name in names]
        for name, bias in zip(names, apart, strict=True):
            path, _, last = name.rpartition(".")
            setattr(model.get_submodule(path), last, bias)
        sums = [out.sum() for out in model(**_inputs(model)).values() if isinstance(out, torch.Tensor)]
        reached: tuple[Any, ...] = torch.autograd.grad(torch.stack(sums).sum(), apart, allow_unused=True)
    except Exception:  # noqa: BLE001 - a tiny build is a guess, and a wrong one may fail in any way
        return []
    unread = {name for name, gradient in zip(names, reached, strict=True) if gradient is None}
    return sorted(name for members in groups if not unread.issuperset(members) for name in unread & {*members})


def _inputs(model: Any) -> dict[str, Any]:
    """Random ids; an encoder that wants something else is left out, with its output made up."""
    import torch
    from transformers.modeling_outputs import BaseModelOutput

    ids = torch.randint(3, 100, (2, 12))
    if not model.config.is_encoder_decoder:
        return {"input_ids": ids} | _no_cache(model)
    if model.main_input_name == "input_ids":
        return {"input_ids": ids, "decoder_input_ids": ids.flip(0)}
    made_up = BaseModelOutput(torch.randn(2, 12, model.config.hidden_size))
    return {"encoder_outputs": made_up, "decoder_input_ids": ids}


def _no_cache(model: Any) -> dict[str, Any]:
    return {"use_cache": False} if hasattr(model.config.get_text_config(), "use_cache") else {}


def _tag(meter: Meter, fixed: dict[str, Any]) -> str:
    small, large = (meter.scale(size, fixed) for size in (0, 1))
    if small is None or large is None:
        return ""
    for key, default in meter.attributes().items():
        value = 3.0 if type(meter.config.to_dict()[key]) is float else 3
        changed = meter.scale(0, fixed | {key: value})
        if changed is None:
            return ""
        if not _close(changed, small):
            return _by_key(key, default, small, changed / value, changed * value) if _close(small, large) else ""
    if _close(small, 1) and _close(large, 1):
        return "1"
    roots = [scale * width**0.5 for scale, (width, _) in zip((small, large), meter.plan, strict=True)]
    return "d^-0.5" if all(_close(root, 1) for root in roots) else ""


def _by_key(key: str, default: float, scale: float, proportional: float, inverse: float) -> str:
    """The tag of a scale that a config key makes, where the key alone makes it."""
    if _close(proportional, 1) and _close(scale, default):
        return f"config:{key}:{default:g}"
    if _close(inverse, 1) and _close(scale * default, 1):
        return f"1/config:{key}:{default:g}"
    return ""


def _close(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=2 * TOLERANCE)
