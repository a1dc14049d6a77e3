"""Saves tiny models with another transformers than the tests have: run by its path, in that one's interpreter.

A line `{"class_name": ..., "config": {...}, "directory": ...}` on stdin; an empty line or an error's on stdout.
"""

from __future__ import annotations

import json
import logging
import sys
import warnings

import torch
import transformers


def save(class_name: str, config: dict, directory: str) -> str:
    """Build a class from a config and save it; return what went wrong."""
    try:
        model_class = getattr(transformers, class_name)
        torch.manual_seed(0)
        model_class(model_class.config_class.from_dict(config)).save_pretrained(directory)
    except Exception as error:  # noqa: BLE001 - it may lack the class, or refuse a config of today in any way
        return f"{type(error).__name__}: {error}".replace("\n", " ")
    return ""


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    for line in iter(sys.stdin.readline, ""):
        print(save(**json.loads(line)), flush=True)
