"""Changes of the config: keys at every level, sections, and what names the class."""

from __future__ import annotations

import copy
import functools
import re
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st
from subjects import mapped
from transformers import CONFIG_MAPPING
from transformers.models.auto.configuration_auto import model_type_to_module_name

from harness.draft import Draft, Drawn, Mutator
from harness.saves import Save, all_classes
from tiecheck.tables.generate.classes import model_packages, unmapped_classes
from tiecheck.tables.generate.ropes import rope_keys, rope_types

ODD = (..., None, "false", "true", 0, 1, True, False, [], {})
"""Values for a config key; the ellipsis takes it away."""


@dataclass(frozen=True)
class SetKey(Mutator):
    """A config key gets another value, or goes."""

    path: str
    value: Any

    def apply(self, draft: Draft) -> None:
        *path, key = self.path.split(".")
        inner: Any = draft.config
        for part in path:
            inner = inner.get(part) if isinstance(inner, dict) else None
        if not isinstance(inner, dict):
            return
        if self.value is ...:
            inner.pop(key, None)
        else:
            inner[key] = copy.deepcopy(self.value)

    @classmethod
    def drawn(cls, save: Save) -> Drawn:
        flags = [".".join((*level, "tie_word_embeddings")) for level in save.levels]
        flags += [path for path, _ in walk(save.config) if "tie" in path.split(".")[-1] or "share" in path]
        switches = [path for path, value in walk(save.config) if isinstance(value, bool)]
        odd = st.tuples(st.sampled_from(sorted(set(flags))), st.sampled_from(ODD))
        parts = [path for path, value in walk(save.config) if isinstance(value, dict) and path in SECTIONS]
        ended = [*REFUSED, *((key, {"model_type": "llama"}) for key in sorted(SECTIONS - save.config.keys()))]
        ended += [(f"{part}.{key}", value) for part in parts for key, value in REFUSED]
        labels = [("id2label", {str(number): "l" for number in range(count)}) for count in (1, 3)]
        kinds = [odd, odd, odd, st.sampled_from([*ended, *labels, *_pointers(save.config)])]
        holders = [f"{part}{key}" for part in ("", *(f"{p}." for p in parts)) for key in ROPES]
        kinds.append(st.tuples(st.sampled_from(holders), ropes()))
        words = [path for path, value in walk(save.config) if isinstance(value, str) and not OF_WHAT.search(path)]
        if words:
            kinds.append(st.tuples(st.sampled_from(words), st.sampled_from(("no_such_word", "relu", "linear"))))
        if switches:
            kinds.append(st.tuples(st.sampled_from(switches), st.sampled_from((True, False))))
        if parts:
            kinds.append(st.tuples(st.sampled_from(parts), st.sampled_from((..., None, {}))))
            types = [f"{part}.model_type" for part in parts]
            kinds.append(st.tuples(st.sampled_from(types), st.sampled_from((..., None, "llama"))))
        sizes = [(p, v) for p, v in walk(save.config) if p.split(".")[-1] in SIZES and type(v) is int]
        if sizes:
            steps = st.tuples(st.sampled_from(sizes), st.sampled_from((1, -1)))
            kinds.append(steps.map(lambda drawn: (drawn[0][0], drawn[0][1] + drawn[1])))
        return st.one_of(kinds).map(lambda pair: cls(*pair))


OF_WHAT = re.compile(r"(model_type|architectures|dtype|version)$")
"""Keys whose words say what a config is of; others do that."""

REFUSED = (
    ("quantization_config", {"quant_method": "gptq"}),
    *(("dtype", value) for value in ("torch.float16", "auto", "fp16", "float", "int8", "bit", "nn", None)),
    *(("quantization_config", value) for value in ({}, None, {"bits": 4}, {"quant_method": None}, "none")),
)
"""Keys that decide whether a load is made at all."""


ROPES = ("rope_scaling", "rope_parameters")


def ropes() -> st.SearchStrategy[dict[str, Any]]:
    """Draw a rope type under one of its names, with some of the keys that it may want beside it."""
    named = st.tuples(st.sampled_from(("rope_type", "type")), st.sampled_from(("default", "no_such", *rope_types())))
    beside = {key: st.just([2.0] if key in ("short_factor", "long_factor") else 2.0) for key in rope_keys()}
    return st.builds(lambda pair, keys: dict([pair]) | keys, named, st.fixed_dictionaries({}, optional=beside))


def _pointers(config: dict[str, Any]) -> list[tuple[str, Any]]:
    """Return padding at either end of the words, and beyond it."""
    words = [(path.removesuffix("vocab_size"), size) for path, size in walk(config) if path.endswith("vocab_size")]
    ends = [(level, end) for level, size in words if type(size) is int for end in (size, size - 1, -size, -size - 1)]
    return [(f"{level}pad_token_id", end) for level, end in ends if level in ("", *(f"{s}." for s in SECTIONS))]


SIZES = ("vocab_size", "d_model", "hidden_size")
"""Keys of the shape of an embedding."""

SECTIONS = {"text_config", "vision_config", "audio_config", "encoder", "decoder", "generator", "text_encoder"}


def walk(config: Any, path: str = "") -> list[tuple[str, Any]]:
    """Every key of a config, dotted."""
    found = []
    for key, value in config.items():
        found.append((path + key, value))
        if isinstance(value, dict):
            found += walk(value, f"{path}{key}.")
    return found


@dataclass(frozen=True)
class Flatten(Mutator):
    """A section's keys stand at the top, as older publishers wrote them."""

    section: str

    def apply(self, draft: Draft) -> None:
        section = draft.config.pop(self.section, None)
        for key, value in (section if isinstance(section, dict) else {}).items():
            draft.config.setdefault(key, value)

    @classmethod
    def drawn(cls, save: Save) -> Drawn:
        sections = [key for key, value in save.config.items() if isinstance(value, dict) and "model_type" in value]
        return st.sampled_from(sections).map(cls) if sections else st.nothing()


@dataclass(frozen=True)
class OlderKeys(Mutator):
    """The config is one that transformers 4.40 wrote."""

    def apply(self, draft: Draft) -> None:
        draft.config["transformers_version"] = "4.40.0"
        if "dtype" in draft.config:
            draft.config["torch_dtype"] = draft.config.pop("dtype")

    @classmethod
    def drawn(cls, save: Save) -> Drawn:
        return st.just(cls())


@functools.cache
def siblings(model_type: str) -> list[str]:
    """Return the classes of a model type; where it has no package of its own, all models are imported for it."""
    package = model_type_to_module_name(model_type)
    if package not in model_packages():
        return sorted({candidate.class_name for candidate in all_classes() if candidate.model_type == model_type})
    mine = {one.class_name for one in mapped() if one.model_type == model_type}
    others = unmapped_classes({one.class_name for one in mapped()}, [package])
    return sorted(mine | {name for kind, name, _ in others if kind == model_type})


@dataclass(frozen=True)
class Classes(Mutator):
    """`architectures` says something else."""

    value: Any

    def apply(self, draft: Draft) -> None:
        SetKey("architectures", list(self.value) if isinstance(self.value, tuple) else self.value).apply(draft)

    @classmethod
    def drawn(cls, save: Save) -> Drawn:
        own = save.class_name
        kin = [(name,) for name in siblings(save.model_type) if name != own]
        inner = {v.get("model_type") for v in save.config.values() if isinstance(v, dict)} - {None, ""}
        kin += [(name,) for kind in sorted(inner.intersection(CONFIG_MAPPING.keys())) for name in siblings(kind)]
        older = [(own.replace("Llama", "LLaMA"),), (own.replace("ForConditionalGeneration", "ForCausalLM"),)]
        words = [..., None, (), own, ("AutoModel",), ("AutoModelForCausalLM",), (own, "LlamaForCausalLM")]
        return st.sampled_from([*words, ("LlamaForCausalLM", own), (own.lower(),), *older, *kin]).map(cls)
