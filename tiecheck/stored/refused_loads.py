"""Directories that transformers refuses before it builds anything: for a dtype, a quantisation, an index.

Each was run with 5.23 and 4.57.6: `PreTrainedConfig.from_dict`, `local_torch_dtype`, `get_hf_quantizer`,
`get_checkpoint_shard_files`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from tiecheck.errors import shown
from tiecheck.files.checkpoint import STANDARD_NAMES
from tiecheck.files.local import read_bytes
from tiecheck.records.declared import ModelConfig
from tiecheck.records.stored import Checkpoint
from tiecheck.stored.config_refusals import made_sections, open_problem
from tiecheck.stored.config_values import Section, own_section, told_problem
from tiecheck.tables.structure import class_structure, config_structure

if TYPE_CHECKING:
    from tiecheck.records.files import LoadProblem

BOTH = ("4.57", "5")

FLOATS = frozenset({"bfloat16", "double", "float", "float16", "float32", "float64", "half"})
"""Names of the dtypes that torch takes for its default, as transformers 5 makes it that of the config."""

DTYPE = re.compile(r"(b?float|double|half|c?half|cfloat|cdouble|complex|q?u?int|short|long|bool|bit)[0-9a-z_]*")
"""Names of torch's dtypes, later ones with those of today."""

TEXTS = frozenset({"decoder", "generator", "text_config"})
"""Keys under which `get_text_config(decoder=True)` of both lines looks for the config of a text."""


def refused_loads(model: ModelConfig, checkpoint: Checkpoint, folder: str) -> Iterator[LoadProblem]:
    """Yield what ends every load of a directory that is meant for transformers; what mlx-lm wrote is for mlx-lm."""
    if "quantization" in model.data or checkpoint.by_mlx:
        return
    for section in made_sections(model):
        yield from _dtypes(section, model.path)
        yield from _quantisations(section, model)
    yield from _foreign_sections(model)
    file = checkpoint.index_file
    if file in STANDARD_NAMES:
        place = os.path.join(folder, file)
        if re.search(rb'"metadata"\s*:\s*\{', read_bytes(place, place)) is None:
            why = f"{file} has no object `metadata` beside its `weight_map`"
            mend = "write an empty object as `metadata` into it."
            yield told_problem("format", BOTH, "crash", "KeyError: 'metadata'", why, file, mend, ())


def _foreign_sections(model: ModelConfig) -> Iterator[LoadProblem]:
    """Yield a section that the config class does not have, which the library takes for the config of the text."""
    found = class_structure(model.class_name or "", model.model_type)
    data = own_section(model, found[0]).data if found else model.data
    there = sorted(key for key in TEXTS if data.get(key) is not None)
    known = (config_structure(found[0]) if found else None) or {"s": TEXTS}
    older = (
        (config_structure(found[0], "4.57") or {}).get("s", {}) if found else {}
    )  # FSMT's decoder, which 5 takes too
    for key in (k for k in there if k not in known.get("s", ()) and k not in older):
        why = f"{model.path}:{key} is no section of this config class, and is taken for the config of its text"
        words = known.get("m", {})
        if model.class_name in (words.get("*c"), words.get("*s")) and model.class_name != words.get("*"):
            message, mend = "AttributeError: it has no attribute 'to_dict'", f"take {key} out."
            yield told_problem("field", BOTH, "crash", message, why, model.path, mend, (key,))
        else:  # a class that generates asks for it, and most others do not
            yield from (open_problem(why, line, model.path, key) for line in BOTH)


def _dtypes(section: Section, path: str) -> Iterator[LoadProblem]:
    """Yield a dtype that is none: of a section too torch is asked for the name, and 5 takes no other for the whole."""
    key = "dtype" if section.data.get("dtype") is not None else "torch_dtype"
    dtype: Any = section.data.get(key)
    listed, named, inner = isinstance(dtype, list), isinstance(dtype, str), bool(section.level)
    if isinstance(dtype, dict) or (named and dtype in FLOATS) or not (dtype or listed or named):
        return
    said, mend = shown(repr(dtype)), f"write the name of a float type of torch, as float16, or take {key} out."
    # 4.57 looks the name up in torch, and makes nothing of what it finds: a number it never looks up. Of a section
    # most classes make nothing either, and some the model inside (RAG).
    known = DTYPE.fullmatch(dtype) is not None if named else True
    nowhere = listed or (named and not dtype.isidentifier())
    dotted = ".".join((*section.level, key))
    why = f"{path}:{dotted} is {said}, which is no float type of torch"
    lines = BOTH if nowhere else () if inner else ("5",)
    if lines:
        yield told_problem("field", lines, "crash", "an error of torch", why, path, mend, (dotted,))
    if (not known or (inner and named)) and not nowhere:
        rest = "what the class makes of that was not asked" if known else "may be something else of torch"
        yield from (open_problem(f"{why}, and {rest}", line, path, dotted) for line in BOTH if line not in lines)


def _quantisations(section: Section, model: ModelConfig) -> Iterator[LoadProblem]:
    """Yield a quantisation that no load can be made with.

    5 asks the section of the text too, and no line another; some classes of 4.57 have that of the text for their own
    (Qwen2.5-VL). A null ends every load of 4.57.
    """
    key = "quantization_config"
    held = section.data.get(key, ...)
    place = ".".join((*section.level, key))
    text, where = section.level[-1:] in {(word,) for word in TEXTS}, f"{model.path}:{place}"
    if held is ... or (section.level and isinstance(held, dict) and not text):
        return
    lines = ("5",) if section.level and isinstance(held, dict) else BOTH
    mend = f"take {place} out, where the weights are not quantised."

    def told(why: str, *lines: str) -> LoadProblem:
        return told_problem("field", lines, "crash", "an error of the quantiser", why, model.path, mend, (place,))

    if held is None:
        yield told(f"{where} is null", "4.57")
    elif not isinstance(held, dict):
        yield told(f"{where} is {shown(repr(held))[:60]}", *lines)
    elif held.get("quant_method") == "gptq":
        if "bits" not in held:
            why = f"{where} is of gptq, and has no `bits`"
            yield told(why, *lines)
            yield from (open_problem(why, line, model.path, place) for line in BOTH if line not in lines)
    elif held.get("quant_method") is None and not (held.get("load_in_8bit") or held.get("load_in_4bit")):
        texts = (config_structure(section.kind) or {"s": 1}).get("s") or TEXTS & section.data.keys()
        whole = held or section.level or not texts
        sure = lines if whole else ("4.57",)  # 5 asks the config of the text then
        why = f"{where} has no `quant_method`"
        yield told(why, *sure)
        yield from (open_problem(why, line, model.path, place) for line in BOTH if line not in sure)
