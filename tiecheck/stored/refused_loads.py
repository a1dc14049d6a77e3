"""What transformers 4.57 and 5 refuse in a directory before they build anything: an index, a dtype, a quantisation."""

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
from tiecheck.stored.config_values import told_problem

if TYPE_CHECKING:
    from tiecheck.records.files import LoadProblem

BOTH = ("4.57", "5")

DTYPE = re.compile(r"(b?float|double|half|c?half|cfloat|cdouble|complex|q?u?int|short|long|bool|bits)[0-9a-z_]*")
"""The names of torch's dtypes, later ones with those of today."""


def refused_loads(model: ModelConfig, checkpoint: Checkpoint, folder: str) -> Iterator[LoadProblem]:
    """Yield what ends every load of a directory, whatever the class is."""
    file, data = checkpoint.index_file, model.data
    if file in STANDARD_NAMES:
        place = os.path.join(folder, file)
        if re.search(rb'"metadata"\s*:\s*\{', read_bytes(place, place)) is None:
            why = f"{file} has no object `metadata` beside its `weight_map`"
            mend = "write an empty object as `metadata` into it."
            yield told_problem("format", BOTH, "crash", "KeyError: 'metadata'", why, file, mend, ())
    key = "dtype" if data.get("dtype") is not None else "torch_dtype"
    dtype = data.get(key)
    if isinstance(dtype, str) and DTYPE.fullmatch(dtype) is None:
        why = f"{model.path}:{key} is {shown(repr(dtype))}, which is no name of a dtype in torch"
        message = shown(f"AttributeError: module 'torch' has no attribute {dtype!r}")
        mend = f"write the plain name, as float16, or take {key} out."
        yield told_problem("field", BOTH, "crash", message, why, model.path, mend, (key,))
    if "quantization_config" in data:
        yield from _quantisation(model, data["quantization_config"])


def _quantisation(model: ModelConfig, held: Any) -> Iterator[LoadProblem]:
    key = "quantization_config"
    if isinstance(held, dict):
        if held.get("quant_method") is not None or held.get("load_in_8bit") or held.get("load_in_4bit"):
            return
        what, message = "names no quant_method", "ValueError: The model's quantization config has no `quant_method`"
    else:
        what, message = "is no object", f"AttributeError: {type(held).__name__!r} object has no attribute 'to_dict'"
    lines = BOTH if held is not None else ("4.57",)
    why = f"{model.path}:{key} {what}"
    mend = f"name the method that the weights are quantised by, or take {key} out where they are not."
    yield told_problem("field", lines, "crash", message, why, model.path, mend, (key,))
