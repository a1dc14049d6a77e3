"""What transformers refuses in a directory before it builds anything: a dtype, a quantisation, an index.

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
from tiecheck.stored.config_refusals import open_problem
from tiecheck.stored.config_values import told_problem
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
    if "quantization" in model.data or any((shard.notes or {}).get("format") == "mlx" for shard in checkpoint.shards):
        return
    yield from _dtypes(model)
    yield from _quantisations(model)
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
    there = sorted(key for key in TEXTS if model.data.get(key) is not None)
    found = class_structure(model.class_name or "", model.model_type) if there else None
    known = (config_structure(found[0]) if found else None) or {"s": TEXTS}
    for key in (k for k in there if k not in known.get("s", ())):
        why = f"{model.path}:{key} is no section of this config class, and is taken for the config of its text"
        words = known.get("m", {})
        if model.class_name in (words.get("*c"), words.get("*s")) and model.class_name != words.get("*"):
            message, mend = "AttributeError: it has no attribute 'to_dict'", f"take {key} out."
            yield told_problem("field", BOTH, "crash", message, why, model.path, mend, (key,))
        else:  # a class that generates asks for it, and most others do not
            yield from (open_problem(why, line, model.path, key) for line in BOTH)


def _dtypes(model: ModelConfig) -> Iterator[LoadProblem]:
    key = "dtype" if model.data.get("dtype") is not None else "torch_dtype"
    dtype: Any = model.data.get(key)
    listed, named = isinstance(dtype, list), isinstance(dtype, str)
    if isinstance(dtype, dict) or (named and dtype in FLOATS) or not (dtype or listed or named):
        return
    said, mend = shown(repr(dtype)), f"write the name of a float type of torch, as float16, or take {key} out."
    # 4.57 looks the name up in torch, and makes nothing of what it finds: a number it never looks up.
    known = DTYPE.fullmatch(dtype) is not None if named else True
    nowhere = listed or (named and not dtype.isidentifier())
    why = f"{model.path}:{key} is {said}, which is no float type of torch"
    lines = BOTH if nowhere else ("5",)
    yield told_problem("field", lines, "crash", "an error of torch", why, model.path, mend, (key,))
    if not known and not nowhere:
        yield open_problem(f"{why}, and may be something else of torch, which 4.57 takes", "4.57", model.path, key)


def _quantisations(model: ModelConfig) -> Iterator[LoadProblem]:
    key = "quantization_config"
    held, mend = model.data.get(key, ...), f"take {key} out, where the weights are not quantised."
    if held is ...:
        return
    why = f"{model.path}:{key} is {shown(repr(held))[:60]}"
    told = ("crash", "an error of the quantiser", why, model.path, mend, (key,))
    if held is None:
        told = (*told[:2], f"{model.path}:{key} is null", *told[3:])
        yield told_problem("field", ("4.57",), *told)
    elif not isinstance(held, dict):
        yield told_problem("field", BOTH, *told)
    elif held.get("quant_method") is None and not (held.get("load_in_8bit") or held.get("load_in_4bit")):
        told = (*told[:2], f"{model.path}:{key} has no `quant_method`", *told[3:])
        found = class_structure(model.class_name or "", model.model_type)
        whole = held or not (config_structure(found[0] if found else "") or {"s": 1}).get("s")
        yield told_problem("field", BOTH if whole else ("4.57",), *told)
        if not whole:  # 5 asks the config of the text then
            yield open_problem(f"{model.path}:{key} is empty", "5", model.path, key)
